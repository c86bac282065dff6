//! What several tests use: a server and its client over either transport, checks of an error, a clock, and servers that
//! misbehave.
//!
//! A scripted server follows an async function on each connection. It asserts as any test does: a script that panics fails
//! the test when its server is dropped. An error of the script (the client is gone) ends the script.

#![allow(dead_code, reason = "a toolbox: not every tool is needed at all times")]

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use centrifugo_api::testing::Server;
use centrifugo_api::transport::{Call, Reply, from_fn};
use centrifugo_api::{Client, CloseSummary, Config, Error, ErrorKind, Outcome, PublishRequest, PublishResult, Retry};
use serde_json::json;
use tally::Tally;
use tokio::task::JoinHandle;

pub(crate) mod authority;
pub(crate) mod backlog;
pub(crate) mod fake;
pub(crate) mod h1script;
pub(crate) mod h2script;
pub(crate) mod port;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod recorded;
pub(crate) mod scripted;
pub(crate) mod servers;
pub(crate) mod tally;
pub(crate) mod tls_peers;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// More than anything takes that waits for nothing, even on a busy machine.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);
pub(crate) const BOTH: [Over; 2] = [Over::Grpc, Over::Http];

/// Two configurations, in one list.
pub(crate) fn both(grpc: impl Into<Config>, http: impl Into<Config>) -> [Config; 2] {
    [grpc.into(), http.into()]
}

/// One attempt, and no idempotency key but the caller's: a start for retries that have one setting more.
pub(crate) fn once() -> Retry {
    Retry::new().attempts(1).attempt_timeout(None).idempotency_keys(false)
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Grpc,
    Http,
}

impl Over {
    /// The name that errors give it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }

    /// The endpoint of `server`.
    pub(crate) fn url(self, server: &Server) -> String {
        match self {
            Self::Grpc => server.grpc_url(),
            Self::Http => server.http_url(),
        }
    }

    /// The configuration of a client of `server`.
    pub(crate) fn config(self, server: &Server) -> Config {
        match self {
            Self::Grpc => Config::grpc(server.grpc_url()).into(),
            Self::Http => Config::http(server.http_url()).into(),
        }
    }

    /// The configuration of a client of what listens at `http://HOST:PORT`.
    pub(crate) fn config_at(self, url: &str) -> Config {
        match self {
            Self::Grpc => Config::grpc(url).into(),
            Self::Http => Config::http(format!("{url}/api")).into(),
        }
    }

    /// A client of `server`.
    pub(crate) fn client(self, server: &Server) -> Client {
        Client::new(self.config(server)).unwrap()
    }

    /// A client of `server` with this retry policy.
    pub(crate) fn client_with(self, server: &Server, retry: Retry) -> Client {
        Client::new(self.config(server).retry(retry)).unwrap()
    }
}

pub(crate) async fn start() -> Server {
    Server::start().await.unwrap()
}

/// A publication of `{"n": 1}` in the channel `news`.
pub(crate) fn request() -> PublishRequest {
    PublishRequest::new("news", json!({"n": 1}))
}

/// Publishes it, which must end within 5 s.
pub(crate) async fn publish(client: &Client) -> Result<PublishResult, Error> {
    within(AT_ONCE, client.publish(request())).await
}

/// A publication of `number` in the channel `news`.
pub(crate) fn numbered(number: usize) -> PublishRequest {
    PublishRequest::new("news", json!(number))
}

pub(crate) async fn publish_number(client: &Client, number: usize) -> Result<(), Error> {
    client.publish(numbered(number)).await.map(drop)
}

pub(crate) fn spawn_publish(client: &Client, number: usize) -> JoinHandle<Result<(), Error>> {
    let client = client.clone();
    tokio::spawn(async move { publish_number(&client, number).await })
}

/// The default number of attempts with next to no backoff.
pub(crate) fn quick_retry() -> Retry {
    let bound = Duration::from_millis(1);
    Retry::new().backoff(bound, bound)
}

/// A client whose transport responds to each call with what this function returns.
pub(crate) fn client_responding(
    response: impl Fn(&Call<'_>) -> Result<Reply, Error> + Send + Sync + 'static,
) -> Client {
    Client::with_transport(from_fn("fake", move |call| std::future::ready(response(call))))
}

/// A client whose transport responds to each call with `reply`.
pub(crate) fn client_replying(reply: Reply) -> Client {
    client_responding(move |_| Ok(reply.clone()))
}

/// Asserts what a call failed with, and returns its error.
#[track_caller]
pub(crate) fn assert_fails<T>(result: Result<T, Error>, kind: ErrorKind, outcome: Outcome) -> Error {
    let error = result.err().expect("it should fail");
    assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{error:?}");
    error
}

/// Asserts what an error says, and after how many attempts.
#[track_caller]
pub(crate) fn assert_error(error: &Error, kind: ErrorKind, outcome: Outcome, attempts: u32) {
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (kind, outcome, attempts), "{error:?}");
}

/// Done, refused, not sent, unknown.
pub(crate) fn counts(summary: CloseSummary) -> [u64; 4] {
    [summary.done, summary.refused, summary.not_sent, summary.unknown]
}

/// How many requests scripted servers applied, and how many different ones.
pub(crate) fn applied(tallies: &[&Tally]) -> (usize, usize) {
    let applied: Vec<_> = tallies.iter().flat_map(|tally| tally.applied()).collect();
    (applied.len(), applied.iter().map(|operation| &operation.message).collect::<HashSet<_>>().len())
}

/// Runs a future in a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Polls a future once. It must be pending.
#[track_caller]
pub(crate) fn poll_once<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    future
}

/// Lets other tasks go on as far as they can without the clock.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Advances the clock, which is not paused before or after.
pub(crate) async fn advance(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits until a condition holds, for 20 s at most. Not for a paused clock.
#[track_caller]
pub(crate) fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Bounds a future that is about to end by 20 s, so that a test that would hang fails. Not for a paused clock.
#[track_caller]
pub(crate) fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    within(Duration::from_secs(20), future)
}

/// Bounds a future that must end in this time. Not for a paused clock, unless the future waits for that clock only.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(limit, future).await;
        outcome.unwrap_or_else(|_| panic!("it has not ended within {limit:?}: {at}"))
    }
}
