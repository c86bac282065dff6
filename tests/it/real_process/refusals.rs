//! Wrong ports, wrong keys, missing methods and long messages.

use std::time::Duration;

use centrifugo_api::message::{GetUserStatusRequest, InfoRequest};
use centrifugo_api::transport::BreakerState;
use centrifugo_api::{Client, Config, ErrorKind, HistoryRequest, Outcome, PublishRequest};
use prost::Message as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{KEY, Process};
use crate::support::proxy::Proxy;
use crate::support::{Over, servers::ClosedPort, soon};

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn a_url_with_the_port_of_the_other_api_is_explained() {
    let server = Process::start().await;
    let started = Instant::now();
    let client = Client::new(Config::grpc(format!("http://{}", server.http)).api_key(KEY)).unwrap();
    let error = client.info(InfoRequest::new()).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent));
    assert!(error.to_string().contains("is this the port of its gRPC API?"));

    let client = Client::new(Config::http(format!("http://{}/api", server.grpc)).api_key(KEY)).unwrap();
    let error = client.info(InfoRequest::new()).await.unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains("is this the port of the server's HTTP API"));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn calls_stay_on_the_fallback_when_the_port_does_not_speak_grpc() {
    let server = Process::start().await;
    let wrong = Proxy::to(server.http);
    let config = Config::grpc(wrong.url()).api_key(KEY).fallback(server.http());
    let client = Client::new(config).unwrap();
    client.info(InfoRequest::new()).await.unwrap();
    assert_eq!(*client.watch_breaker().unwrap().borrow(), BreakerState::Open);
    // After an outage gRPC would be tried after 6 s at the latest.
    for _ in 0..35 {
        client.info(InfoRequest::new()).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(wrong.dials(), 1);

    // The other way round: the fallback is no HTTP API, and gRPC does not need it.
    let wrong = Config::http(format!("http://{}/api", server.grpc)).api_key(KEY);
    let client = Client::new(server.grpc().fallback(wrong.clone())).unwrap();
    client.info(InfoRequest::new()).await.unwrap();
    // Neither does it help when gRPC is not there.
    let closed = ClosedPort::new();
    let client = Client::new(Config::grpc(closed.url()).api_key(KEY).fallback(wrong)).unwrap();
    let error = soon(client.info(InfoRequest::new())).await.unwrap_err();
    println!("{error}");
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn neither_a_wrong_key_nor_a_method_of_pro_leads_to_http() {
    let server = Process::start().await;
    let http = Proxy::to(server.http);
    let fallback = || Config::http(format!("{}/api", http.url())).api_key(KEY);

    let client = Client::new(Config::grpc(server.grpc_url()).api_key("wrong").fallback(fallback())).unwrap();
    for _ in 0..10 {
        let error = client.publish(PublishRequest::new("news", json!(1))).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome(), error.attempts()),
            (ErrorKind::Unauthenticated, Outcome::Refused, 1)
        );
    }
    assert_eq!((http.dials(), *client.watch_breaker().unwrap().borrow()), (0, BreakerState::Closed));

    let client = Client::new(server.grpc().fallback(fallback())).unwrap();
    for _ in 0..10 {
        let error = client.get_user_status(GetUserStatusRequest::new(["alice"])).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Unsupported, Outcome::Refused, 1));
    }
    assert_eq!((http.dials(), *client.watch_breaker().unwrap().borrow()), (0, BreakerState::Closed));
    client.info(InfoRequest::new()).await.unwrap();
    let client = Client::new(server.config(Over::Http)).unwrap();
    let error = client.get_user_status(GetUserStatusRequest::new(["alice"])).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Refused));
}

/// A publish whose protobuf form has this many bytes.
fn publish_of(length: usize) -> PublishRequest {
    let request =
        |text: usize| PublishRequest::new("news", json!("x".repeat(text))).idempotency_key(format!("key-{length}"));
    let rest = request(length - 100).encoded_len() - (length - 100);
    let request = request(length - rest);
    assert_eq!(request.encoded_len(), length);
    request
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn messages_of_4_mib_are_accepted_and_longer_ones_over_http_only() {
    const LIMIT: usize = 4 << 20;
    let server = Process::start().await;
    let http = Proxy::to(server.http);
    let fallback = Config::http(format!("{}/api", http.url())).api_key(KEY);
    let grpc = Client::new(server.grpc().fallback(fallback)).unwrap();
    let raised = Client::new(server.config(Over::Grpc).max_request_size(2 * LIMIT)).unwrap();
    let over_http = Client::new(server.config(Over::Http)).unwrap();
    for length in [LIMIT - 1, LIMIT] {
        grpc.publish(publish_of(length)).await.unwrap();
        raised.publish(publish_of(length)).await.unwrap();
        over_http.publish(publish_of(length)).await.unwrap();
    }
    let error = grpc.publish(publish_of(LIMIT + 1)).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent));
    let error = raised.publish(publish_of(LIMIT + 1)).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Refused));
    assert_eq!(http.dials(), 0, "a size leads to no fallback");
    over_http.publish(publish_of(LIMIT + 1)).await.unwrap();

    // What grows by a third over HTTP still goes there when gRPC is not there.
    let closed = ClosedPort::new();
    let fallback = server.http();
    let fallen = Client::new(Config::grpc(closed.url()).api_key(KEY).fallback(fallback)).unwrap();
    let binary = vec![0xff; LIMIT - 100];
    fallen.publish(PublishRequest::new("news", binary.clone())).await.unwrap();
    let last = over_http.history(HistoryRequest::new("news").limit(1).reverse(true)).await.unwrap_err();
    println!("{last}");
    let last = grpc.history(HistoryRequest::new("news").limit(1).reverse(true)).await.unwrap();
    assert_eq!(last.publications[0].data, binary);
    let history = raised.history(HistoryRequest::new("news").limit(HistoryRequest::NO_LIMIT)).await.unwrap();
    assert_eq!(history.publications.len(), 4, "one for each key, and one without");
}
