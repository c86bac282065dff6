//! The integration tests, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authority;
mod batching;
#[cfg(feature = "cli")]
mod cli;
mod close;
mod config;
mod connections;
mod corpus;
mod differential;
mod doubt;
mod endpoints;
mod errors;
mod fallback;
mod faults;
mod fixtures;
mod http_faults;
mod options;
mod outcomes;
mod publisher;
mod raw;
mod real_process;
mod recorded;
mod replay;
mod retries;
mod runtime;
mod scripted;
mod servers;
mod soak;
mod split;
mod standin;
mod streams;
mod suite;
mod tls;
