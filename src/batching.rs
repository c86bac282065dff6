//! Many calls in few requests, without a batch made by hand.
//!
//! `queue.rs` decides what may leave together, `engine.rs` and `delivery.rs` send it, `outgoing.rs` is the batch that is sent,
//! `capacity.rs` says how much may wait.

mod accepted;
pub(crate) mod batcher;
mod capacity;
mod command;
mod deadlines;
mod delivery;
mod engine;
mod inline;
mod outgoing;
mod pace;
pub(crate) mod publisher;
mod queue;
