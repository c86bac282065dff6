//! The official client over HTTP, plain and with its automatic batching.

use cent::{AutoBatch, BatchOptions, BroadcastRequest, Client, Config, PublishRequest};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;

use super::{Failure, Peer, check};
use crate::Options;

/// The concurrent calls where none waits for another: the fastest value of 512 to 10,000.
const OPEN: usize = 1_000;

#[derive(Clone)]
pub struct Cent(Client);

fn config(options: &Options) -> Config {
    Config::new(&options.http).api_key(&options.api_key)
}

impl Cent {
    pub fn new(options: &Options) -> Result<Self, Failure> {
        Ok(Self(Client::new(config(options))?))
    }

    pub fn auto_batch(options: &Options) -> Result<Self, Failure> {
        Ok(Self(Client::new(config(options).auto_batch(AutoBatch::new(2)))?))
    }
}

fn request(channel: &str, payload: &str) -> Result<PublishRequest, Failure> {
    Ok(PublishRequest::new(channel).data(RawValue::from_string(payload.to_owned())?))
}

impl Peer for Cent {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.0.publish(request(channel, payload)?).await?;
        Ok(())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let mut batch = self.0.new_batch(BatchOptions::default());
        let mut pending = Vec::with_capacity(channels.len());
        for channel in channels {
            pending.push(batch.publish(request(channel, payload)?));
        }
        batch.send().await?;
        for pending in pending {
            pending.result()?;
        }
        Ok(())
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let data = RawValue::from_string(payload.to_owned())?;
        let request = BroadcastRequest::new(channels.iter().map(String::as_str)).data(data);
        let result = self.0.broadcast(request).await?;
        check(result.channels.len() == channels.len() && result.failed().is_empty())
    }

    async fn enqueue(&mut self, channels: &[String], payload: &str, messages: usize) -> Result<(), Failure> {
        let client = &self.0;
        let mut open = FuturesUnordered::new();
        for message in 0..messages {
            let request = request(&channels[message % channels.len()], payload)?;
            open.push(async move { client.publish(request).await });
            if open.len() == OPEN {
                open.next().await.transpose()?;
            }
        }
        while let Some(result) = open.next().await {
            result?;
        }
        Ok(())
    }
}
