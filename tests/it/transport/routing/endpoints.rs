//! Several endpoints over gRPC.

mod balance;
mod connections;
mod unreachable;

use std::time::Duration;

use centrifugo_api::config::LoadBalancing;
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome};

use crate::support::h2script::{self, Reply};
use crate::support::tally::Server;

/// How long a connection may take to be made, where it is not made at all.
const CONNECT: Duration = Duration::from_millis(250);

fn good() -> Server {
    h2script::replying(|_| Reply::result())
}

/// These endpoints, without retries.
fn client(urls: &[String], balance: LoadBalancing) -> Client {
    Client::new(config(urls).load_balancing(balance)).unwrap()
}

fn config(urls: &[String]) -> Config {
    let first = Config::grpc(&urls[0]).retry(None).connect_timeout(CONNECT);
    urls[1..].iter().fold(first, Config::endpoint).into()
}

#[track_caller]
fn assert_not_sent(error: &Error, kind: ErrorKind) {
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (kind, Outcome::NotSent, 1), "{error:?}");
}
