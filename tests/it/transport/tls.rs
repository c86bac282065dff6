//! TLS and mutual TLS, with certificates made here.

use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome, PublishRequest};
use rcgen::date_time_ymd;
use serde_json::json;

use crate::support::authority::{Authority, Identity};

async fn serve(identity: &Identity) -> Server {
    Server::builder().tls(identity.certificate.clone(), identity.key.clone()).start().await.unwrap()
}

/// Publishes over both transports and gives both outcomes.
async fn publish(server: &Server, tls: Tls) -> [Result<(), Error>; 2] {
    assert!(server.grpc_url().starts_with("https://") && server.http_url().starts_with("https://"));
    let mut outcomes = Vec::new();
    for config in crate::support::both(Config::grpc(server.grpc_url()), Config::http(server.http_url())) {
        let client = Client::new(config.tls(tls.clone())).unwrap();
        outcomes.push(client.publish(PublishRequest::new("news", json!({}))).await.map(drop));
    }
    outcomes.try_into().unwrap()
}

/// Both outcomes must be refusals to connect, with this among the causes.
#[track_caller]
fn refused(outcomes: [Result<(), Error>; 2], cause: &str) {
    for outcome in outcomes {
        let error = outcome.expect_err("it went through");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent), "{error:?}");
        // A retry would end the same way.
        assert!(!error.is_transient() && error.attempts() == 1, "{error:?}");
        assert!(error.message().contains(cause), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_trusted() {
    let authority = Authority::new();
    let server = serve(&authority.issue("127.0.0.1")).await;
    for outcome in publish(&server, Tls::new().ca_certificates(authority.pem())).await {
        outcome.unwrap();
    }
    assert_eq!(server.applied("news"), 2);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let server = serve(&Authority::new().issue("127.0.0.1")).await;
    refused(publish(&server, Tls::new().ca_certificates(Authority::new().pem())).await, "UnknownIssuer");
    assert_eq!(server.applied("news"), 0);
}

#[tokio::test]
async fn the_roots_of_the_system_are_the_default() {
    let server = serve(&Authority::new().issue("127.0.0.1")).await;
    match Client::new(Config::grpc(server.grpc_url())) {
        Ok(_) => refused(publish(&server, Tls::new()).await, "UnknownIssuer"),
        // A machine without any roots.
        Err(error) => assert!(error.to_string().contains("the operating system's roots"), "{error}"),
    }
    assert_eq!(server.applied("news"), 0);
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let server = serve(&authority.issue("example.com")).await;
    refused(publish(&server, Tls::new().ca_certificates(authority.pem())).await, "not valid for name");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let server = serve(&authority.issue_with("127.0.0.1", |params| params.not_after = date_time_ymd(2000, 1, 1))).await;
    refused(publish(&server, Tls::new().ca_certificates(authority.pem())).await, "expired");
}

#[tokio::test]
async fn any_certificate_is_accepted_without_verification() {
    let server = serve(&Authority::new().issue("example.com")).await;
    for outcome in publish(&server, Tls::new().danger_skip_verification()).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_client_certificate_is_sent_to_a_server_that_requires_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (identity, own) = (authority.issue("127.0.0.1"), clients.issue("backend"));
    let server =
        Server::builder().tls(identity.certificate, identity.key).client_ca(clients.pem()).start().await.unwrap();

    let trust = Tls::new().ca_certificates(authority.pem());
    for outcome in publish(&server, trust.clone().client_certificate(own.certificate, own.key)).await {
        outcome.unwrap();
    }
    // With TLS 1.3 the server refuses after the client's handshake is done: as the connection is made, or a little later.
    let stranger = authority.issue("stranger");
    for tls in [trust.clone(), trust.client_certificate(stranger.certificate, stranger.key)] {
        for outcome in publish(&server, tls).await {
            let kind = outcome.expect_err("it went through").kind();
            assert!(matches!(kind, ErrorKind::Connect | ErrorKind::Lost), "{kind:?}");
        }
    }
    assert_eq!(server.applied("news"), 2);
}

#[tokio::test]
async fn a_grpc_endpoint_without_http2_is_explained() {
    let authority = Authority::new();
    let server = serve(&authority.issue("127.0.0.1")).await;
    let http_port = format!("https://{}", server.http_addr());
    let client = Client::new(Config::grpc(http_port).tls(Tls::new().ca_certificates(authority.pem()))).unwrap();
    let error = client.publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.message().contains("is this the port of its gRPC API?"), "{error:?}");
}

#[tokio::test]
async fn a_hanging_handshake_ends_at_the_connect_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let (bound, tls) = (Duration::from_millis(50), Tls::new().ca_certificates(Authority::new().pem()));
    for config in crate::support::both(Config::grpc(url.clone()), Config::http(format!("{url}/api"))) {
        let client = Client::new(config.tls(tls.clone()).connect_timeout(bound)).unwrap();
        let error = client.publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
        assert!(!error.may_have_run());
    }
}

#[test]
fn an_invalid_certificate_is_refused_by_name() {
    let own = Authority::new().issue("backend");
    for (tls, named) in [
        (Tls::new().ca_certificates("no PEM"), "`ca_certificates`"),
        (Tls::new().client_certificate("no PEM", own.key.clone()), "`client_certificate`"),
        (Tls::new().client_certificate(own.certificate, "no PEM"), "`client_certificate`"),
    ] {
        for config in crate::support::both(Config::grpc("https://localhost"), Config::http("https://localhost/api")) {
            let error = Client::new(config.tls(tls.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
