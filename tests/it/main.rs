//! The tests that need a server.

#[cfg(feature = "cli")]
mod cli;
