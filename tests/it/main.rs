//! Tests over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "cli")]
mod cli;
mod raw;
mod replay;
mod standin;
