//! This crate, over either transport.

use centrifugo_api::{Batch, BroadcastRequest, Client, Config, PublishRequest, Retry};

use self::hyper_transport::HyperTransport;
use super::{Failure, Peer, check};
use crate::Options;

#[allow(dead_code, reason = "its `main` is an example")]
#[path = "../../../../examples/hyper_transport.rs"]
mod hyper_transport;

#[derive(Clone)]
pub struct This {
    client: Client,
    keys: bool,
}

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
        grpc(options, connections).map(|client| Self { client, keys: options.keys })
    }

    pub fn http(options: &Options) -> Result<Self, Failure> {
        http(options).map(|client| Self { client, keys: options.keys })
    }

    /// Over the example's transport in the place of reqwest.
    pub fn hyper(options: &Options) -> Result<Self, Failure> {
        let config = Config::http(&options.http).retry(retry(options));
        let client =
            Client::with_transport(HyperTransport::new(&options.http, &options.api_key)?).with_config(&config)?;
        Ok(Self { client, keys: options.keys })
    }
}

impl Peer for This {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.client.publish(request(channel, payload)).await?;
        Ok(())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let mut batch = Batch::new().idempotency_keys(self.keys);
        let handles: Vec<_> = channels.iter().map(|channel| batch.push(request(channel, payload))).collect();
        let replies = self.client.batch(&batch).await?;
        for handle in handles {
            replies.get(handle)?;
        }
        Ok(())
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let channels_ = channels.iter().map(String::as_str);
        let result = self.client.broadcast(BroadcastRequest::new(channels_, payload.as_bytes().to_vec())).await?;
        check(result.responses.len() == channels.len())?;
        check(result.responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}
