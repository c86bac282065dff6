//! The integration tests, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "cli")]
mod cli;
mod connections;
mod errors;
mod raw;
mod replay;
mod standin;
mod tls;
