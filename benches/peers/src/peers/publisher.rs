//! This crate's `Publisher`, and its client with batching switched on.

use std::sync::Arc;

use centrifugo_api::config::Order;
use centrifugo_api::{Batching, Client, Publisher, PublisherConfig};

use super::this::{self, request};
use super::{Failure, Peer, check};
use crate::Options;
use crate::measure::Subject;

/// The publisher's default capacity in bytes.
pub const BYTE_BOUND: usize = 16 << 20;

pub fn all(options: &Options, channels: &Arc<[String]>) -> Result<Vec<Subject>, Failure> {
    let mut all = Vec::new();
    for (transport, client) in [("grpc", this::grpc(options, options.connections)?), ("http", this::http(options)?)] {
        for (name, order) in
            [("publisher", Order::PerChannel), ("publisher seq", Order::Sequential), ("publisher none", Order::None)]
        {
            all.push(Subject::new(transport, name, Queue::new(&client, order)?, channels).that_shares());
        }
        let batching = Batched(client.with_batching(Batching::new())?);
        all.push(Subject::new(transport, "batching", batching, channels).that_shares());
    }
    Ok(all)
}

#[derive(Clone)]
struct Queue(Publisher);

impl Queue {
    fn new(client: &Client, order: Order) -> Result<Self, Failure> {
        Ok(Self(Publisher::new(client, PublisherConfig::new().order(order))?))
    }
}

impl Peer for Queue {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.0.publish(request(channel, payload)).await?;
        Ok(())
    }

    async fn enqueue(&mut self, channels: &[String], payload: &str, messages: usize) -> Result<(), Failure> {
        for message in 0..messages {
            // The ticket is dropped: the flush counts failures.
            drop(self.0.enqueue(request(&channels[message % channels.len()], payload)).await?);
        }
        let ended = self.0.flush().await;
        check(ended.refused + ended.not_sent + ended.unknown == 0)
    }
}

#[derive(Clone)]
struct Batched(Client);

impl Peer for Batched {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.0.publish(request(channel, payload)).await?;
        Ok(())
    }
}
