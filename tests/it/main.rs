//! The integration tests: recorded exchanges, and a suite that runs on every server and over both transports.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod config;
mod fixtures;
mod recorded;
mod runtime;
mod scripted;
mod servers;
mod suite;
