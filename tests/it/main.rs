//! Tests over real sockets.

#[cfg(feature = "cli")]
mod cli;
mod raw;
mod replay;
mod standin;
