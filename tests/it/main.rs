//! Tests over real sockets.

mod raw;
mod replay;
mod standin;
