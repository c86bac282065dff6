//! The other side, when it misbehaves: servers that follow a script, a proxy that does harm, ports that do not answer.
//!
//! A script is an async function over one connection. It asserts as any test does: a script that panics fails the test,
//! when its server is dropped. An error of the script (the client is gone) just ends it.

#![allow(dead_code, reason = "a toolbox: not every tool is needed at all times")]

use std::future::Future;
use std::time::Duration;

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

/// Waits for what is about to happen, so that a test that would hang fails. Not for a paused clock.
#[track_caller]
pub(crate) fn soon<T>(happens: impl Future<Output = T>) -> impl Future<Output = T> {
    within(Duration::from_secs(20), happens)
}

/// Waits for what must happen in this time. Not for a paused clock.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, happens: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(limit, happens).await;
        outcome.unwrap_or_else(|_| panic!("it has not happened within {limit:?}: {at}"))
    }
}
