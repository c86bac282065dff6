//! Combines many calls into few requests.
//!
//! `queue.rs` decides which commands share a batch, `engine.rs` and `delivery.rs` send it, `outgoing.rs` is the batch that is
//! sent, `capacity.rs` bounds what waits.

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
mod response_times;
