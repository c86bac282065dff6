//! Sizes and deadlines.

use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::message::InfoRequest;
use centrifugo_api::testing::Fault;
use centrifugo_api::{Client, Config, ErrorKind, HistoryRequest, Method, Payload, PublishRequest};
use serde_json::json;

use super::suite::{assert_kind, offsets, publish, suite};
use crate::support::{Over, servers::Setup};

/// A request for a channel without history that has exactly this many bytes in protobuf.
fn request_of(size: usize, setup: &Setup) -> PublishRequest {
    use prost::Message as _;

    let channel = setup.channel("plain");
    let with = |length: usize| {
        PublishRequest::new(&channel, Payload::from(format!("\"{}\"", "x".repeat(length)).into_bytes()))
    };
    // The fields' numbers and lengths have the same size for all large payloads.
    let extra = with(size).encoded_len() - size;
    let request = with(size - extra);
    assert_eq!(request.encoded_len(), size);
    request
}

/// What the server accepts over gRPC.
const MAX: usize = 4 * 1024 * 1024;

async fn a_request_may_have_4_mib_over_grpc_and_more_over_http(client: &Client, setup: &Setup) {
    // An idempotency key would change the size of the request.
    let client = client.with_retry(None);
    client.publish(request_of(MAX, setup)).await.unwrap();
    let over = request_of(MAX + 1, setup);
    match setup.over {
        Over::Http => drop(client.publish(over).await.unwrap()),
        Over::Grpc => {
            let error = assert_kind(client.publish(over).await, ErrorKind::TooLarge, false);
            assert!(error.to_string().contains("over the limit of 4194304"), "it is refused here: {error}");
        }
    }
}

async fn a_limit_of_the_server_is_the_same_error_as_one_of_the_client(_: &Client, setup: &Setup) {
    let client = Client::new(setup.config().max_request_size(2 * MAX)).unwrap();
    let published = client.publish(request_of(MAX + 1, setup)).await;
    match setup.over {
        Over::Http => drop(published.unwrap()),
        Over::Grpc => {
            let error = assert_kind(published, ErrorKind::TooLarge, false);
            assert!(error.to_string().contains("larger than max"), "the server says so: {error}");
        }
    }
    client.publish(request_of(1000, setup)).await.unwrap();
}

async fn max_request_size_holds_over_both_transports(_: &Client, setup: &Setup) {
    let client = Client::new(setup.config().max_request_size(1000)).unwrap();
    assert_kind(client.publish(request_of(1001, setup)).await, ErrorKind::TooLarge, false);
    client.publish(PublishRequest::new(setup.channel("plain"), json!(1))).await.unwrap();
}

async fn a_reply_over_max_reply_size_is_an_error(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    for _ in 0..10 {
        publish(client, &channel, json!("x".repeat(10_000))).await;
    }
    let history = HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT);
    let short = Client::new(setup.config().max_reply_size(50_000)).unwrap();
    assert_kind(short.history(&history).await, ErrorKind::TooLarge, true);
    assert_eq!(offsets(&short.history(history.clone().limit(4)).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(client.history(&history).await.unwrap().publications.len(), 10);
}

async fn with_timeout_leaves_the_original_client_as_it_was(client: &Client, setup: &Setup) {
    setup.server().fault(Fault::hang_before().method(Method::Publish));
    let copy = client.with_timeout(Duration::from_millis(50));
    let published = copy.publish(PublishRequest::new(setup.channel(""), json!(1))).await;
    let error = assert_kind(published, ErrorKind::Timeout, true);
    assert!(error.is_transient());
    assert!(error.to_string().contains("50ms"), "{error}");
    // The original keeps its own deadline: this response comes after the deadline of the copy.
    setup.server().fault(Fault::delay(Duration::from_millis(200)).method(Method::Publish));
    client.publish(PublishRequest::new(setup.channel(""), json!(1))).await.unwrap();
    // A deadline beyond what the clock can say is none.
    client.with_timeout(Duration::MAX).info(InfoRequest::new()).await.unwrap();
}

/// The settings of clients, over both transports, whose connection is never ready: the server accepts it and says nothing,
/// so that TLS is never agreed on.
async fn never_connected() -> ([Config; 2], tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let tls = Tls::new().danger_skip_verification();
    (crate::support::both(Config::grpc(&url).tls(tls.clone()), Config::http(&url).tls(tls)), listener)
}

#[tokio::test]
async fn a_call_whose_deadline_passes_while_connecting_was_not_sent() {
    let (configs, _listener) = never_connected().await;
    for config in configs {
        let client = Client::new(config.timeout(Duration::from_millis(50))).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Timeout, false);
    }
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_a_connect_error() {
    let (configs, _listener) = never_connected().await;
    for config in configs {
        let client = Client::new(config.connect_timeout(Duration::from_millis(50))).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Connect, false);
    }
}

#[tokio::test]
async fn a_call_whose_deadline_passes_before_it_has_its_token_was_not_sent() {
    for config in crate::support::both(Config::grpc("http://127.0.0.1:1"), Config::http("http://127.0.0.1:1")) {
        let config = config.bearer_token(std::future::pending).timeout(Duration::from_millis(50));
        let client = Client::new(config).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Timeout, false);
    }
}

suite! {
    everywhere {
        a_request_may_have_4_mib_over_grpc_and_more_over_http
        a_limit_of_the_server_is_the_same_error_as_one_of_the_client
        max_request_size_holds_over_both_transports
        a_reply_over_max_reply_size_is_an_error
    }
    standin {
        with_timeout_leaves_the_original_client_as_it_was
    }
}
