//! The publisher.

mod cancel;
mod capacity;
mod close;
mod order;
mod overload;
mod random;
mod requests;
mod results;

use centrifugo_api::config::Order;
use centrifugo_api::{ApiError, Batching, PublishRequest, PublishResult, Publisher, PublisherConfig, Ticket};
use serde_json::Value;

const ORDERS: [Order; 3] = [Order::PerChannel, Order::Sequential, Order::None];

fn message(channel: &str, data: impl Into<Value>) -> PublishRequest {
    PublishRequest::new(channel, data.into())
}

/// One request at a time.
fn one_by_one() -> PublisherConfig {
    PublisherConfig::new().batching(Batching::new().in_flight(1))
}

/// A refusal that passes.
fn later() -> ApiError {
    ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many requests")
}

fn enqueue(publisher: &Publisher, channel: &str, data: impl Into<Value>) -> Ticket<PublishResult> {
    publisher.try_enqueue(message(channel, data)).unwrap()
}
