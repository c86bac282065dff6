//! Tests over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod raw;
mod replay;
mod standin;
