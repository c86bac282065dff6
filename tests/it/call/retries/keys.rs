//! Idempotency keys: what is sent again, and with which key.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::message::{HistoryRemoveRequest, MapClearRequest, MapPublishRequest, RpcRequest};
use centrifugo_api::testing::{Fault, Transport as Front};
use centrifugo_api::transport::{Reply, from_fn};
use centrifugo_api::{
    ApiError, BroadcastRequest, Client, Config, DisconnectRequest, Error, ErrorKind, HistoryRequest, Outcome,
    PublishRequest, PublishResult, Retry, SubscribeRequest,
};
use serde_json::json;
use tokio::time::Instant;

use super::{keys, unavailable};
use crate::support::{
    BOTH, Over, assert_error, client_responding, publish, quick_retry, request, servers::ClosedPort, soon, start,
};

#[tokio::test]
async fn every_attempt_on_every_endpoint_and_transport_has_the_same_key() {
    let (one, other) = (start().await, start().await);
    for server in [&one, &other] {
        server.fault(Fault::cut_after().transport(Front::Grpc).always());
        server.fault(Fault::cut_after().transport(Front::Http));
    }
    let http = Config::http(one.http_url()).endpoint(other.http_url());
    let grpc = Config::grpc(one.grpc_url()).endpoint(other.grpc_url());
    let client = Client::new(grpc.fallback(http).retry(quick_retry().attempts(20))).unwrap();
    publish(&client).await.unwrap();
    let mut keys = [keys(&one), keys(&other)].concat();
    assert!(keys.len() > 4, "{keys:?}");
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0].len() == 32 && keys[0].bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{keys:?}");
    for server in [&one, &other] {
        assert!(server.applied("news") <= 1);
        assert!(server.calls().iter().any(|call| call.transport == Front::Grpc));
    }
    let over_http = [one.calls(), other.calls()].concat().iter().any(|call| call.transport == Front::Http);
    assert!(over_http);

    // And each call has another one.
    one.clear_calls();
    other.clear_calls();
    publish(&client).await.unwrap();
    let next = [self::keys(&one), self::keys(&other)].concat();
    assert_ne!(next[0], keys[0]);
}

#[tokio::test]
async fn a_key_of_the_caller_is_kept() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::cut_after().times(2));
        let client = over.client_with(&server, quick_retry());
        soon(client.publish(request().idempotency_key("my own"))).await.unwrap();
        assert_eq!(keys(&server), ["my own"; 3]);
        assert_eq!(server.applied("news"), 1);
        server.clear_calls();
        soon(client.broadcast(BroadcastRequest::new(["news"], json!(1)).idempotency_key("mine")))
            .await
            .unwrap()
            .all_ok()
            .unwrap();
        assert_eq!(keys(&server), ["mine"]);
    }
}

/// The ways to have no keys, of which only the second retries anything.
fn keyless() -> [(Retry, u32); 2] {
    [(crate::support::once(), 1), (quick_retry().idempotency_keys(false), 3)]
}

#[tokio::test]
async fn without_keys_a_publish_that_may_have_run_is_not_retried() {
    for over in BOTH {
        for (retry, _) in keyless() {
            for fault in [Fault::cut_after(), unavailable(over), Fault::api_error(ApiError::new(100, "broker"))] {
                let server = start().await;
                server.fault(fault);
                let error = publish(&over.client_with(&server, retry.clone())).await.unwrap_err();
                assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{error:?}");
                assert_eq!(keys(&server), [""]);
                assert!(server.applied("news") <= 1);
            }
        }
    }
}

#[tokio::test]
async fn without_keys_a_publish_that_was_not_applied_is_retried() {
    for over in BOTH {
        for (retry, attempts) in keyless() {
            // Refused for overload, by the API.
            let server = start().await;
            server.fault(Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")).always());
            let error = publish(&over.client_with(&server, retry.clone())).await.unwrap_err();
            assert_error(&error, ErrorKind::Api, Outcome::Refused, attempts);
            assert_eq!((keys(&server), server.applied("news")), (vec![String::new(); attempts as usize], 0));

            // Not sent, as the connection is refused.
            let closed = ClosedPort::new();
            let config = over.config_at(&closed.url());
            let error = publish(&Client::new(config.retry(retry)).unwrap()).await.unwrap_err();
            assert_error(&error, ErrorKind::Connect, Outcome::NotSent, attempts);
        }
    }
    // And by a proxy over HTTP.
    let server = start().await;
    server.fault(Fault::http_status(429).times(2));
    publish(&Over::Http.client_with(&server, quick_retry().idempotency_keys(false))).await.unwrap();
    assert_eq!((keys(&server), server.applied("news")), (vec![String::new(); 3], 1));
}

#[tokio::test]
async fn a_read_is_retried() {
    for over in BOTH {
        let server = start().await;
        for (retry, attempts) in keyless() {
            server.fault(Fault::cut_after().times(2));
            let client = over.client_with(&server, retry);
            let well = soon(client.history(HistoryRequest::new("news"))).await;
            assert_eq!(well.is_ok(), attempts == 3, "{well:?}");
            server.clear_faults();
        }
    }
}

#[tokio::test]
async fn a_method_that_is_not_idempotent_is_not_retried_after_it_may_have_run() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        server.fault(Fault::cut_after().always());
        let errors = [
            soon(client.subscribe(SubscribeRequest::new("news", "me"))).await.map(drop),
            soon(client.disconnect(DisconnectRequest::new("me"))).await.map(drop),
            soon(client.history_remove(HistoryRemoveRequest::new("news"))).await.map(drop),
            soon(client.rpc(RpcRequest::new("pay"))).await.map(drop),
            soon(client.map_clear(MapClearRequest::new("map:a"))).await.map(drop),
            // It takes a key, and is not given one.
            soon(client.map_publish(MapPublishRequest::new("map:a", "key"))).await.map(drop),
        ];
        for error in errors {
            assert_error(&error.unwrap_err(), ErrorKind::Lost, Outcome::Unknown, 1);
        }
        assert_eq!(server.calls().len(), 6);

        // But it is after it certainly did not.
        server.clear_faults();
        server.clear_calls();
        server.fault(Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")).times(2));
        soon(client.disconnect(DisconnectRequest::new("me"))).await.unwrap();
        assert_eq!(server.calls().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_retried_when_the_server_may_have_forgotten_the_key() {
    let minute = Duration::from_secs(60);
    let started = Instant::now();
    let last = Arc::new(Mutex::new(Duration::ZERO));
    let begun = Arc::clone(&last);
    let client = client_responding(move |_| {
        *begun.lock().unwrap() = started.elapsed();
        Err(Error::new(ErrorKind::Lost, "no response"))
    });
    let retry = Retry::new().attempts(1000).backoff(minute, minute);
    let client = client.with_retry(retry).with_timeout(60 * minute);
    let error = client.publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error:?}");
    assert!(error.attempts() > 3 && !error.message().contains("too many"), "{error:?}");
    let last = *last.lock().unwrap();
    assert!(last < 4 * minute && started.elapsed() < 4 * minute, "{last:?}");
}

#[tokio::test]
async fn the_key_of_a_publish_that_may_have_run_is_in_its_error() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::cut_after().times(3));
        let client = over.client_with(&server, quick_retry());
        let error = publish(&client).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 3);
        let key = error.idempotency_key().unwrap().to_owned();
        client.publish(request().idempotency_key(key)).await.unwrap();
        assert_eq!((server.applied("news"), server.calls().len()), (1, 4));
        let error =
            client.publish(PublishRequest::new("nowhere:a", json!(1)).idempotency_key("mine")).await.unwrap_err();
        assert_eq!(error.idempotency_key(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_retry_ends_before_the_server_has_forgotten_the_key() {
    let started = Instant::now();
    let retry = Retry::new().attempts(2).attempt_timeout(None);
    let attempts = AtomicUsize::new(0);
    // The first attempt fails after a while, and the next ones never end.
    let stuck = from_fn("stuck", move |_| {
        let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(200)).await;
            Err(Error::new(ErrorKind::Lost, "no response"))
        }
    });
    let client = Client::with_transport(stuck).with_retry(retry).with_timeout(Duration::from_secs(3600));
    let error = client.publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    assert!((200..300).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_sent_is_retried_however_late() {
    let minute = Duration::from_secs(60);
    let started = Instant::now();
    let client = client_responding(move |_| match started.elapsed() {
        early if early < 10 * minute => Err(Error::new(ErrorKind::Connect, "connection refused")),
        _ => Ok(Reply::result(&PublishResult::default())),
    });
    let retry = crate::support::once().wait_for_ready(true).backoff(minute, minute);
    let client = client.with_retry(retry).with_timeout(60 * minute);
    client.publish(request()).await.unwrap();
    assert!(started.elapsed() < 12 * minute);
}
