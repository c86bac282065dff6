//! A call to a server that follows a script, over a transport of the crate, and what must be true whatever the server
//! returns.
//!
//! Server and client run on one thread with a clock that jumps when nothing else is left to do, so that silence costs no
//! time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use centrifugo_api::message::PresenceStatsRequest;
use centrifugo_api::{
    ApiError, Batch, BroadcastRequest, Client, Config, Error, ErrorKind, HistoryRequest, PublishRequest,
};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use super::{Input, grpc, http, is_refusal, show};

/// The method of the second call, which always gets a response, with this number of clients.
pub(super) const SECOND: &str = "presence_stats";
pub(super) const CLIENTS: u32 = 42;
/// Tells the runs apart: a call of an earlier one may still be on its way.
pub(super) const RUN: &str = "x-run";
/// The most that is read of a response.
const MAX_REPLY: usize = 1000;
/// Must not show in an error.
const SECRET: &str = "open-sesame-1001";

/// The statuses that the transports tell apart. The last are for responses without a body, and for no response yet.
const STATUSES: &[u16] = &[
    200, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415, 416, 418, 429, 431, 302, 500, 502, 503, 504, 204, 304, 100,
    103,
];

/// One of those, or any other.
pub(super) fn status(input: &mut Input<'_>) -> u16 {
    let byte = input.byte();
    STATUSES.get(usize::from(byte)).copied().unwrap_or(100 + 3 * u16::from(byte))
}

/// Whether a response with this HTTP status means that the call was not applied.
pub(super) fn is_no(status: u16) -> bool {
    matches!(status, 300..=399 | 400 | 401 | 403 | 404 | 405 | 408 | 411 | 413 | 415 | 429 | 431)
}

/// How to respond to the first call of a run.
pub(super) trait Script: Send + Sync + 'static {
    /// The configuration of the client.
    fn config(&self, address: &str) -> Config;
    /// Whether the response has a status that means that the call was not applied.
    fn says_no(&self) -> bool;
}

/// A run: its script, and which of the two calls the server has read to their end.
pub(super) struct Run<S> {
    number: u64,
    pub(super) script: S,
    pub(super) first: AtomicBool,
    pub(super) second: AtomicBool,
}

/// The run of the moment.
pub(super) struct Now<S>(Arc<Mutex<Option<Arc<Run<S>>>>>);

impl<S> Clone for Now<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Now<S> {
    /// The run that a request belongs to, unless it is over.
    pub(super) fn run(&self, number: &[u8]) -> Option<Arc<Run<S>>> {
        let run = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (run.number.to_string().as_bytes() == number).then_some(run)
    }
}

/// A server on the loopback and the runtime it shares with its clients.
pub(super) struct Server<S> {
    runtime: Runtime,
    address: String,
    now: Now<S>,
}

impl<S: Script> Server<S> {
    pub(super) fn start<F>(serve: impl Fn(TcpStream, Now<S>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let now = Now(Arc::default());
        let runs = now.clone();
        runtime.spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    // The clock does not wait for what the kernel keeps back.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, runs.clone()));
                }
            }
        });
        Self { runtime, address, now }
    }

    /// Makes two calls: the first gets its response from the script, the second as it should be.
    ///
    /// Returns the errors of the first.
    pub(super) fn exchange(&self, call: u8, script: S) -> Vec<Error> {
        let run = {
            let mut now = self.now.0.lock().unwrap_or_else(PoisonError::into_inner);
            let number = now.as_ref().map_or(0, |run| run.number + 1);
            let (first, second) = <(AtomicBool, AtomicBool)>::default();
            Arc::clone(now.insert(Arc::new(Run { number, script, first, second })))
        };
        let config = run.script.config(&self.address).header(RUN, run.number.to_string());
        let config = config.api_key(SECRET).timeout(Duration::from_secs(1)).max_reply_size(MAX_REPLY);
        let client = Client::new(config).expect("a configuration");
        let both = async {
            let first = timeout(Duration::from_secs(60), first(&client, call)).await.expect("the call hangs");
            // Time for the connection to learn of its end.
            sleep(Duration::from_millis(100)).await;
            let second = client.presence_stats(PresenceStatsRequest::new("a"));
            (first, timeout(Duration::from_secs(60), second).await.expect("the second call hangs"))
        };
        let (first, second) = self.runtime.block_on(both);

        let applied = run.first.load(Ordering::Relaxed);
        assert!(applied || !first.is_empty(), "a result of a call that did not arrive");
        for error in &first {
            let refused = error.api().is_some_and(is_refusal) || run.script.says_no();
            assert!(error.may_have_run() || !applied || refused, "it took effect: {error:?}");
            assert!(error.api().is_none_or(|api: &ApiError| api.code != 0), "{error:?}");
            assert!(!show(error).contains(SECRET), "it tells a secret: {error:?}");
        }
        match second {
            Ok(stats) => assert_eq!(stats.num_clients, CLIENTS, "the response to another call"),
            Err(error) => {
                assert!(error.may_have_run() || !run.second.load(Ordering::Relaxed), "it took effect: {error:?}");
                // The clock may have jumped while the kernel had the bytes.
                assert!(error.kind() == ErrorKind::Timeout, "the connection is of no more use: {error:?}");
            }
        }
        first
    }
}

/// One of several calls; the errors that it ended with, or that the commands of the batch did.
fn first(client: &Client, call: u8) -> Pin<Box<dyn Future<Output = Vec<Error>> + '_>> {
    fn errors<T>(result: Result<T, Error>) -> Vec<Error> {
        result.err().into_iter().collect()
    }
    let publish = || PublishRequest::new("a", json!(SECRET));
    Box::pin(async move {
        match call % 5 {
            0 => errors(client.publish(publish()).await),
            1 => errors(client.broadcast(BroadcastRequest::new(["a", "b"], json!(SECRET))).await),
            2 => errors(client.history(HistoryRequest::new("a").limit(HistoryRequest::NO_LIMIT)).await),
            3 => errors(client.call_json::<Box<RawValue>>("rpc", json!({ "method": "a", "params": SECRET })).await),
            _ => {
                let mut batch = Batch::new();
                let (published, history) = (batch.push(publish()), batch.push(HistoryRequest::new("a")));
                match client.batch(&batch).await {
                    Ok(replies) => {
                        [errors(replies.get(published)), errors(replies.get(history))].into_iter().flatten().collect()
                    }
                    Err(error) => vec![error],
                }
            }
        }
    })
}

/// The server's own error in the details of a status, or as an error page.
pub(crate) fn error_details(data: &[u8]) {
    let mut input = Input(data);
    let (over, call) = (input.byte(), input.byte());
    let (errors, expected) =
        if over.is_multiple_of(2) { grpc::with_details(call, &mut input) } else { http::with_page(call, &mut input) };
    for error in errors {
        if let Some(api) = error.api() {
            assert_eq!(Some(api), expected.as_ref());
        }
    }
}
