//! The outcome of a call over gRPC, whatever happens to its connection: applied once, or an error with the true outcome.

mod flow_control;
mod lost;
mod refused;
mod responses;

use centrifugo_api::{Client, Config, Retry};

fn client(url: String, retry: Retry) -> Client {
    Client::new(Config::grpc(url).retry(retry)).unwrap()
}

/// Retries only what was not applied.
fn without_keys() -> Retry {
    Retry::new().idempotency_keys(false)
}
