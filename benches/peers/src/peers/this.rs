//! This crate, over either transport.

use centrifugo_api::{Batch, BroadcastRequest, Client, Config, PublishRequest, Retry};

use super::{Failure, Peer, check};
use crate::Options;

#[derive(Clone)]
pub struct This(Client);

/// Retries, as by default; the others send no idempotency keys, so they are sent only when asked for.
fn retry(options: &Options) -> Retry {
    Retry::new().idempotency_keys(options.keys)
}

pub fn grpc(options: &Options, connections: usize) -> Result<Client, Failure> {
    let config = Config::grpc(&options.grpc).api_key(&options.api_key);
    Ok(Client::new(config.connections(connections).retry(retry(options)))?)
}

pub fn http(options: &Options) -> Result<Client, Failure> {
    let config = Config::http(&options.http).api_key(&options.api_key);
    Ok(Client::new(config.retry(retry(options)))?)
}

pub fn request(channel: &str, payload: &str) -> PublishRequest {
    PublishRequest::new(channel, payload.as_bytes().to_vec())
}

impl This {
    pub fn grpc(options: &Options, connections: usize) -> Result<Self, Failure> {
        grpc(options, connections).map(Self)
    }

    pub fn http(options: &Options) -> Result<Self, Failure> {
        http(options).map(Self)
    }
}

impl Peer for This {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.0.publish(request(channel, payload)).await?;
        Ok(())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let mut batch = Batch::new();
        let handles: Vec<_> = channels.iter().map(|channel| batch.push(request(channel, payload))).collect();
        let replies = self.0.batch(&batch).await?;
        for handle in handles {
            replies.get(handle)?;
        }
        Ok(())
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let channels_ = channels.iter().map(String::as_str);
        let result = self.0.broadcast(BroadcastRequest::new(channels_, payload.as_bytes().to_vec())).await?;
        check(result.responses.len() == channels.len())?;
        check(result.responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}
