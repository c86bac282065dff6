//! Settings take effect: they reach the server, or bound what it may do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::Reply;
use centrifugo_api::{
    ApiError, Batch, Batching, BroadcastRequest, Client, Config, Error, ErrorKind, HistoryRequest, Payload,
    PublishRequest, Publisher, PublisherConfig, Retry,
};
use serde_json::json;

use crate::support::{client_replying, h1script, h2script, request, until};

fn both(server: &Server) -> [Config; 2] {
    crate::support::both(Config::grpc(server.grpc_url()), Config::http(server.http_url()))
}

#[tokio::test]
async fn a_bearer_token_is_fetched_for_every_call_and_sent() {
    let server = Server::start().await.unwrap();
    for config in both(&server) {
        let asked = Arc::new(AtomicUsize::new(0));
        let source = Arc::clone(&asked);
        let client = Client::new(config.bearer_token(move || {
            let number = source.fetch_add(1, Ordering::Relaxed);
            async move { Ok(format!("token-{number}")) }
        }));
        let client = client.unwrap();
        for _ in 0..2 {
            server.clear_calls();
            client.publish(request()).await.unwrap();
            assert_eq!(server.calls()[0].header("authorization"), Some("[redacted]"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn basic_auth_is_sent_with_a_key_over_http_and_not_shown() {
    const BASIC: &str = "Basic bWU6cEBzcy93b3Jk";
    let grpc = h2script::replying(|request| match request.headers.get("authorization") {
        Some(value) if value == BASIC => h2script::Reply::result(),
        _ => h2script::Reply::status(16, "who?"),
    });
    let http = h1script::replying(|request| match [request.header("authorization"), request.header("x-api-key")] {
        [Some(BASIC), Some("my key")] => h1script::Reply::result(),
        _ => h1script::Reply::json(401, "{}"),
    });
    let with_user = |url: String| url.replace("http://", "http://me:p%40ss%2Fword@");
    let configs = crate::support::both(
        Config::grpc(with_user(grpc.url())),
        Config::http(with_user(http.api_url())).api_key("my key"),
    );
    let set = crate::support::both(
        Config::grpc(grpc.url()).basic_auth("me", "p@ss/word"),
        Config::http(http.api_url()).api_key("my key").basic_auth("me", "p@ss/word"),
    );
    for config in configs.into_iter().chain(set) {
        let client = Client::new(config.retry(None)).unwrap();
        client.publish(request()).await.unwrap();
        let shown = format!("{client:?} {:?}", client.endpoints());
        assert!(!shown.contains("word") && !shown.contains('@'), "{shown}");
    }
    for wrong in [
        Config::http(http.api_url().replace("http://", "http://you:sesame@")).into(),
        Config::grpc(grpc.url().replace("http://", "http://you:sesame@")).into(),
    ] {
        let wrong: Config = wrong;
        let error = Client::new(wrong.retry(None)).unwrap().publish(request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        let shown = format!("{error:?}");
        assert!(!shown.contains("sesame") && !shown.contains("you") && !shown.contains('@'), "{shown}");
    }
}

#[tokio::test]
async fn headers_and_the_user_agent_are_sent() {
    let server = Server::start().await.unwrap();
    for config in both(&server) {
        server.clear_calls();
        Client::new(config.clone()).unwrap().publish(request()).await.unwrap();
        let own = config.header("x-tenant", "blue").user_agent("shop/7");
        Client::new(own).unwrap().publish(request()).await.unwrap();
        let calls = server.calls();
        assert_eq!(calls[0].header("user-agent"), Some(concat!("centrifugo-api/", env!("CARGO_PKG_VERSION"))));
        assert_eq!(calls[0].header("x-tenant"), None);
        assert_eq!((calls[1].header("user-agent"), calls[1].header("x-tenant")), (Some("shop/7"), Some("blue")));
    }
}

#[tokio::test]
async fn requests_and_responses_are_compressed_only_with_gzip() {
    let server = Server::start().await.unwrap();
    let text = "hello ".repeat(1000);
    let long = PublishRequest::new("news", Payload::json(&text).unwrap());
    let config = Config::grpc(server.grpc_url());
    for (config, encoding) in [(config.clone(), None), (config.gzip(true), Some("gzip"))] {
        server.clear_calls();
        let client = Client::new(config).unwrap();
        client.publish(&long).await.unwrap();
        let history = client.history(HistoryRequest::new("news").limit(1).reverse(true)).await.unwrap();
        assert_eq!(history.publications[0].json::<String>().unwrap(), text);
        for call in server.calls() {
            assert_eq!(call.header("grpc-encoding"), encoding);
        }
    }
}

#[tokio::test]
async fn replies_over_4_mib_are_accepted() {
    let server = Server::start().await.unwrap();
    let [_, http] = both(&server);
    let mebibyte = "x".repeat(1 << 20);
    let large = PublishRequest::new("news", Payload::json(&mebibyte).unwrap());
    let http = Client::new(http).unwrap();
    for _ in 0..5 {
        http.publish(&large).await.unwrap();
    }
    for config in both(&server) {
        let client = Client::new(config).unwrap();
        let history = client.history(HistoryRequest::new("news").limit(HistoryRequest::NO_LIMIT)).await.unwrap();
        assert_eq!(history.publications.len(), 5);
        assert_eq!(history.publications[4].json::<String>().unwrap().len(), 1 << 20);
    }
}

#[tokio::test]
async fn a_broadcast_with_too_few_results_is_an_error() {
    let [one, empty] = [&b"\x12\x04\x0a\x02\x12\x00"[..], &b"\x12\x04\x0a\x00\x0a\x00"[..]];
    let [one_json, empty_json] =
        [r#"{"result":{"responses":[{"result":{}}]}}"#, r#"{"result":{"responses":[{},{"result":{}}]}}"#];
    let request = BroadcastRequest::new(["a", "b"], json!(1));
    for reply in [Reply::protobuf(one), Reply::protobuf(empty), Reply::json(one_json), Reply::json(empty_json)] {
        let client = client_replying(reply);
        let error = client.broadcast(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Protocol, true), "{error:?}");
    }
    let in_batch = r#"{"replies":[{"broadcast":{"responses":[{"result":{}}]}}]}"#;
    let client = client_replying(Reply::json(in_batch));
    let mut batch = Batch::new();
    let broadcast = batch.push(&request);
    let error = client.batch(&batch).await.unwrap().get(broadcast).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
}

#[tokio::test]
async fn only_errors_that_may_pass_are_transient() {
    let server = Server::start().await.unwrap();
    let mut transient = BTreeSet::new();
    for code in [100, 102, 104, 107, 108, 111, 112, 113] {
        for config in both(&server) {
            server.fault(Fault::api_error(ApiError::new(code, "said the server")));
            let error = Client::new(config.retry(None)).unwrap().publish(request()).await.unwrap_err();
            if error.is_transient() {
                transient.insert(code);
            }
        }
    }
    assert_eq!(transient, BTreeSet::from([100, 111]));

    let mut temporary = ApiError::new(113, "later");
    temporary.temporary = true;
    for config in both(&server) {
        server.fault(Fault::api_error(temporary.clone()));
        let error = Client::new(config.retry(None)).unwrap().publish(request()).await.unwrap_err();
        assert!(error.api().unwrap().temporary && error.is_transient(), "{error:?}");
    }

    let kinds = ErrorKind::ALL.iter().copied().filter(|kind| Error::new(*kind, "").is_transient());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [ErrorKind::Connect, ErrorKind::Lost, ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::Full]
    );
}

#[tokio::test]
async fn the_default_deadline_is_10_s() {
    let server = Server::start().await.unwrap();
    for config in both(&server).map(|config| config.retry(None)) {
        // Over HTTP the server itself sends nothing after 10 s.
        let longest = if format!("{config:?}").contains("/api") { 9 } else { 10 };
        for (client, seconds) in [
            (Client::new(config.clone()).unwrap(), longest),
            (Client::new(config.clone().timeout(Duration::from_secs(3))).unwrap(), 3),
            (Client::new(config).unwrap().with_timeout(Duration::from_secs(4)), 4),
        ] {
            server.clear_calls();
            server.fault(Fault::hang_before());
            let call = tokio::spawn(async move { client.publish(request()).await });
            until(|| !server.calls().is_empty()).await;
            let error = {
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(seconds)).await;
                call.await.unwrap().unwrap_err()
            };
            tokio::time::resume();
            let text = match seconds {
                9 => "no response in the time that the transport allows".to_owned(),
                _ => format!("no response within {seconds}s"),
            };
            assert_eq!(error.message(), text);
        }
    }
}

#[tokio::test]
async fn a_duration_without_end_means_no_limit_and_never_panics() {
    const MAX: Duration = Duration::MAX;
    let server = Server::start().await.unwrap();
    let retry = Retry::new().attempt_timeout(MAX).backoff(MAX, MAX);
    let grpc = Config::grpc(server.grpc_url()).keepalive(MAX);
    let http = Config::http(server.http_url()).idle_timeout(MAX);
    for config in crate::support::both(grpc, http) {
        let config = config.timeout(MAX).connect_timeout(MAX).retry(retry.clone());
        let client = Client::new(config).unwrap();
        // On the second call the connection has been idle.
        for _ in 0..3 {
            client.publish(request()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server.fault(Fault::api_error(ApiError::new(111, "too many requests")));
        let error = client.publish(request()).await.unwrap_err();
        assert_eq!((error.code(), error.attempts()), (Some(111), 1), "a wait without end is none");
        let batching = Batching::new().linger(MAX).max_commands(1);
        client.with_batching(batching).unwrap().with_timeout(MAX).publish(request()).await.unwrap();
        let publisher = Publisher::new(&client, PublisherConfig::new().batching(batching)).unwrap();
        publisher.publish(request()).await.unwrap();
        assert_eq!(publisher.close(MAX).await.done, 1);
        assert_eq!(client.close(MAX).await.done, 5);
    }
}
