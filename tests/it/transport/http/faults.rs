//! Faults over HTTP: which error they are, how often the call was applied, and how soon it ends.

mod connecting;
mod lost;
mod responses;

use centrifugo_api::Retry;

use crate::support::quick_retry;

/// The same without keys, so that nothing is repeated that may have been carried out.
fn without_keys() -> Retry {
    quick_retry().idempotency_keys(false)
}
