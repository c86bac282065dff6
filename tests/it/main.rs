//! The integration tests: recorded exchanges, and a suite that runs on every server and over both transports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod config;
mod fixtures;
mod raw;
mod recorded;
mod replay;
mod runtime;
mod scripted;
mod servers;
mod standin;
mod suite;
