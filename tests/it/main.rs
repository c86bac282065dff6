//! The integration tests, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authority;
#[cfg(feature = "cli")]
mod cli;
mod config;
mod connections;
mod doubt;
mod errors;
mod faults;
mod fixtures;
mod options;
mod raw;
mod real_process;
mod recorded;
mod replay;
mod runtime;
mod scripted;
mod servers;
mod soak;
mod standin;
mod suite;
mod tls;
