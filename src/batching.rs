//! Many calls in few requests, without a batch made by hand.
//!
//! `queue.rs` decides what may leave together, `engine.rs` sends it, `outgoing.rs` is the batch that is sent, `capacity.rs` says how
//! much may wait.

pub(crate) mod batcher;
mod capacity;
mod engine;
mod outgoing;
mod pace;
pub(crate) mod publisher;
mod queue;
