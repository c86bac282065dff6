//! Retries: which calls, how often, when, and with which idempotency key.

mod attempts;
mod backoff;
mod batches;
mod broadcasts;
mod budget;
mod keys;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{ErrorKind, Retry};
use serde_json::Value;

use crate::support::Over;

/// A transient failure after which the call may have been applied.
fn unavailable(over: Over) -> Fault {
    match over {
        Over::Grpc => Fault::grpc_status(14, "later"),
        Over::Http => Fault::http_status(503),
    }
}

/// The keys of the publications that a server was asked for.
fn keys(server: &Server) -> Vec<String> {
    let key = |request: &Value| request["idempotency_key"].as_str().unwrap_or_default().to_owned();
    server.calls().iter().map(|call| key(&call.request)).collect()
}

/// The retries that a client made: the attempt that failed, why, and how long until the next.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u32, ErrorKind, Duration)>>>);

impl Seen {
    fn by(&self, retry: Retry) -> Retry {
        let seen = self.clone();
        retry.observe(move |retry| {
            seen.0.lock().unwrap().push((retry.attempt, retry.error.kind(), retry.wait));
        })
    }

    fn attempts(&self) -> Vec<u32> {
        self.0.lock().unwrap().iter().map(|(attempt, ..)| *attempt).collect()
    }

    fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().iter().map(|(.., wait)| *wait).collect()
    }
}
