//! Faults over HTTP: which error they are, how often the call was applied, and how soon it ends.

mod connecting;
mod lost;
mod responses;

use centrifugo_api::Retry;

use crate::support::quick_retry;

/// Without keys, so that nothing is retried that may have been applied.
fn without_keys() -> Retry {
    quick_retry().idempotency_keys(false)
}
