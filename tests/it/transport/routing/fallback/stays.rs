//! Failures that do not switch calls to HTTP.

use centrifugo_api::config::Tls;
use centrifugo_api::message::ConnectionsRequest;
use centrifugo_api::testing::{Fault, Server, Transport as Front};
use centrifugo_api::transport::BreakerState as State;
use centrifugo_api::{ApiError, Client, Config, Error, ErrorKind, Outcome};
use serde_json::json;

use super::{calls, client, state};
use crate::support::authority::Authority;
use crate::support::h2script::{self, Reply};
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{SECOND, publish, quick_retry, request, soon, start};

/// What must not lead to HTTP: the error of a publish, ten times over.
async fn assert_stays_on_grpc(server: &Server, client: &Client, kind: ErrorKind) -> Error {
    let mut last = None;
    for _ in 0..10 {
        let error = publish(client).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (kind, Some("grpc")), "{error:?}");
        last = Some(error);
    }
    assert_eq!(state(client), State::Closed);
    assert_eq!((calls(server).1, server.applied("news")), (0, 0));
    last.unwrap()
}

#[tokio::test]
async fn a_wrong_key_over_grpc_does_not_lead_to_http() {
    let server = Server::builder().grpc_api_key("other").start().await.unwrap();
    let config = Config::grpc(server.grpc_url()).api_key("mine").fallback(Config::http(server.http_url()));
    let error =
        assert_stays_on_grpc(&server, &Client::new(config.retry(quick_retry())).unwrap(), ErrorKind::Unauthenticated)
            .await;
    assert_eq!((error.outcome(), error.attempts()), (Outcome::Refused, 1));
}

#[tokio::test]
async fn errors_that_a_server_returns_do_not_lead_to_http() {
    use ErrorKind::{Api, Invalid, Protocol, TooLarge, Unauthenticated, Unavailable};

    let api = |code| (Fault::api_error(ApiError::new(code, "no")).transport(Front::Grpc), Api);
    let grpc = |code, text: &str, kind| (Fault::grpc_status(code, text), kind);
    let faults = [
        api(100),
        api(102),
        api(111),
        api(999),
        grpc(3, "argument", Invalid),
        grpc(5, "not found", Protocol),
        grpc(6, "exists", Protocol),
        grpc(7, "denied", Unauthenticated),
        grpc(8, "grpc: received message larger than max (1 vs. 0)", TooLarge),
        grpc(8, "too many requests", Unavailable),
        grpc(11, "out of range", Protocol),
        grpc(13, "internal", Protocol),
    ];
    for (fault, kind) in faults {
        let server = start().await;
        server.fault(fault.clone().always());
        let client = client(server.grpc_url(), &server);
        assert_stays_on_grpc(&server, &client, kind).await;
    }
    // A limiter in front of gRPC that responds in plain HTTP.
    let server = start().await;
    let limiter = h2script::replying(|_| Reply::default().headers(&[(b":status", b"429")], h2script::END_STREAM));
    assert_stays_on_grpc(&server, &client(limiter.url(), &server), Unavailable).await;
}

#[tokio::test]
async fn a_method_that_the_server_does_not_have_does_not_lead_to_http() {
    let server = start().await;
    let client = client(server.grpc_url(), &server);
    for _ in 0..10 {
        let error = soon(client.connections(ConnectionsRequest::new())).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (ErrorKind::Unsupported, Some("grpc")), "{error:?}");
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}

#[tokio::test]
async fn too_large_and_invalid_requests_do_not_lead_to_http() {
    let server = start().await;
    let http = || Config::http(server.http_url());
    let small = Client::new(Config::grpc(server.grpc_url()).max_request_size(10).fallback(http())).unwrap();
    assert_stays_on_grpc(&server, &small, ErrorKind::TooLarge).await;
    // A method that only HTTP can send, too.
    let client = Client::new(Config::grpc(server.grpc_url()).fallback(http())).unwrap();
    let error = soon(client.call_json::<serde_json::Value>("new_method", json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!((state(&client), calls(&server)), (State::Closed, (0, 0)));
}

#[tokio::test]
async fn an_untrusted_certificate_does_not_lead_to_http_or_clear_text() {
    for flaw in Flaw::FATAL {
        let server = start().await;
        let authority = Authority::new();
        let peer = Peer::with(flaw, &authority);
        let trust = Tls::new().ca_certificates(authority.pem());
        let config = Config::grpc(peer.https_url()).tls(trust).fallback(Config::http(server.http_url()));
        let client = Client::new(config.retry(quick_retry())).unwrap();
        let error = assert_stays_on_grpc(&server, &client, ErrorKind::Connect).await;
        assert_eq!((error.outcome(), error.attempts(), error.is_transient()), (Outcome::NotSent, 1, false), "{flaw:?}");
        assert_eq!((peer.requests(), peer.in_the_clear()), (0, 0), "{flaw:?}");
    }
}

#[tokio::test]
async fn a_deadline_of_the_caller_does_not_lead_to_http() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND / 10);
    // One fewer than would be an outage.
    for _ in 0..4 {
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
    // Nor does a call that is dropped.
    for _ in 0..10 {
        let dropped = tokio::time::timeout(SECOND / 50, client.with_timeout(100 * SECOND).publish(request())).await;
        dropped.unwrap_err();
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}
