//! The server API: its methods, their messages, and what can be done with many of them at once.

pub(crate) mod batch;
pub(crate) mod broadcast;
mod finite;
pub(crate) mod idempotency;
pub(crate) mod method;
pub(crate) mod methods;
pub(crate) mod payload;
pub(crate) mod raw;
pub(crate) mod replies;
pub(crate) mod request;
pub(crate) mod split;

// Behind `request`, so that the documentation of a request begins with `new`.
pub mod message;
