//! When the breaker opens and closes, and what watchers and the log show.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use centrifugo_api::testing::{Fault, Transport as Front};
use centrifugo_api::transport::BreakerState as State;
use centrifugo_api::{Client, Config, ErrorKind};

use super::{absent, becomes, calls, client, state, watched};
use crate::support::{SECOND, advance, publish, request, soon, start, within};

#[tokio::test]
async fn calls_use_http_while_grpc_is_down_and_grpc_when_it_is_back() {
    let server = start().await;
    let proxy = absent(&server).await;
    let client = client(proxy.url(), &server);
    assert_eq!(state(&client), State::Closed);
    for published in 1..=5 {
        within(SECOND, client.publish(request())).await.unwrap();
        assert_eq!((server.applied("news"), state(&client)), (published, State::Open));
    }
    assert_eq!(calls(&server), (0, 5));
    let endpoints = client.endpoints();
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.available).collect::<Vec<_>>(), [false, true]);

    proxy.accept();
    // Not before the cool-down is over: a second, a fifth more or less.
    advance(SECOND / 2).await;
    publish(&client).await.unwrap();
    assert_eq!((state(&client), calls(&server)), (State::Open, (0, 6)));
    advance(SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    server.clear_calls();
    publish(&client).await.unwrap();
    assert_eq!((server.applied("news"), calls(&server)), (8, (1, 0)));
}

#[tokio::test]
async fn a_watcher_sees_every_state_of_the_breaker_once() {
    let server = start().await;
    let proxy = absent(&server).await;
    let client = client(proxy.url(), &server);
    let (seen, watching) = watched(&client);
    let settle = || async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    for _ in 0..10 {
        publish(&client).await.unwrap();
        settle().await;
    }
    advance(7 * SECOND).await;
    for _ in 0..3 {
        publish(&client).await.unwrap();
        settle().await;
    }
    becomes(&client, State::Open).await;
    proxy.accept();
    advance(13 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    publish(&client).await.unwrap();
    settle().await;
    assert_eq!(*seen.lock().unwrap(), [State::Open, State::HalfOpen, State::Open, State::HalfOpen, State::Closed]);
    // And that the client is gone.
    drop(client);
    soon(watching).await.unwrap();
}

#[tokio::test]
async fn every_state_of_the_breaker_is_logged_once() {
    let server = start().await;
    let proxy = absent(&server).await;
    let log = Arc::<Log>::default();
    let _guard = tracing::subscriber::set_default(Arc::clone(&log));
    let client = client(proxy.url(), &server);
    for _ in 0..10 {
        publish(&client).await.unwrap();
    }
    proxy.accept();
    advance(7 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    for _ in 0..10 {
        publish(&client).await.unwrap();
    }
    drop(client);
    let count = |events: &AtomicUsize| events.load(Ordering::SeqCst);
    assert_eq!((count(&log.opened), count(&log.tried), count(&log.closed)), (1, 1, 1));
}

/// Counts what the breaker says.
#[derive(Default)]
struct Log {
    opened: AtomicUsize,
    tried: AtomicUsize,
    closed: AtomicUsize,
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("centrifugo_api")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if *event.metadata().level() > tracing::Level::INFO {
            return;
        }
        if message.0.ends_with("calls go over HTTP") {
            self.opened.fetch_add(1, Ordering::SeqCst);
        }
        if message.0 == "probing gRPC" {
            self.tried.fetch_add(1, Ordering::SeqCst);
        }
        if message.0.ends_with("calls go over gRPC") {
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn timeouts_open_the_breaker() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND);
    for _ in 0..5 {
        publish(&client).await.unwrap_err();
    }
    assert_eq!(state(&client), State::Open);
    publish(&client).await.unwrap();
    assert_eq!((calls(&server), server.applied("news")), ((5, 1), 1));
}

#[tokio::test]
async fn short_deadlines_of_callers_keep_the_breaker_closed() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND / 50);
    for _ in 0..20 {
        assert_eq!(publish(&client).await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
    assert!(client.endpoints().iter().all(|endpoint| endpoint.available));
}

#[tokio::test]
async fn failures_between_successes_keep_the_breaker_closed() {
    let server = start().await;
    let client = client(server.grpc_url(), &server);
    for _ in 0..5 {
        for _ in 0..2 {
            server.fault(Fault::grpc_status(14, "later"));
            publish(&client).await.unwrap_err();
        }
        publish(&client).await.unwrap();
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}

#[tokio::test]
async fn a_client_without_a_fallback_has_no_breaker() {
    let server = start().await;
    for config in crate::support::both(Config::grpc(server.grpc_url()), Config::http(server.http_url())) {
        assert!(Client::new(config).unwrap().watch_breaker().is_none());
    }
}
