//! tonic's generated client, each caller with a clone of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::{Failure, Peer, check};
use crate::Options;

#[allow(dead_code, reason = "generated for the whole schema")]
mod api {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("centrifugal.centrifugo.api");
}

use api::centrifugo_api_client::CentrifugoApiClient;

pub struct Tonic {
    clients: Vec<CentrifugoApiClient<InterceptedService<Channel, Auth>>>,
    turn: usize,
    start: Arc<AtomicUsize>,
}

#[derive(Clone)]
pub struct Auth(AsciiMetadataValue);

impl Interceptor for Auth {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Callers begin on different connections.
impl Clone for Tonic {
    fn clone(&self) -> Self {
        let turn = self.start.fetch_add(1, Ordering::Relaxed);
        Self { clients: self.clients.clone(), turn, start: Arc::clone(&self.start) }
    }
}

impl Tonic {
    pub async fn connect(options: &Options) -> Result<Self, Failure> {
        let auth = Auth(format!("apikey {}", options.api_key).parse()?);
        let mut clients = Vec::new();
        for _ in 0..options.connections {
            let channel = Channel::from_shared(options.grpc.clone())?.connect().await?;
            clients.push(CentrifugoApiClient::with_interceptor(channel, auth.clone()));
        }
        Ok(Self { clients, turn: 0, start: Arc::default() })
    }

    fn client(&mut self) -> &mut CentrifugoApiClient<InterceptedService<Channel, Auth>> {
        self.turn += 1;
        let turn = self.turn % self.clients.len();
        &mut self.clients[turn]
    }
}

fn request(channel: &str, payload: &str) -> api::PublishRequest {
    api::PublishRequest { channel: channel.to_owned(), data: payload.as_bytes().to_vec(), ..Default::default() }
}

impl Peer for Tonic {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        let reply = self.client().publish(request(channel, payload)).await?.into_inner();
        check(reply.error.is_none() && reply.result.is_some())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let command = |channel| api::Command { publish: Some(request(channel, payload)), ..Default::default() };
        let commands = channels.iter().map(|channel| command(channel)).collect();
        let request = api::BatchRequest { commands, parallel: false };
        let replies = self.client().batch(request).await?.into_inner().replies;
        check(replies.len() == channels.len())?;
        check(replies.iter().all(|reply| reply.error.is_none() && reply.publish.is_some()))
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let (channels_, data) = (channels.to_vec(), payload.as_bytes().to_vec());
        let request = api::BroadcastRequest { channels: channels_, data, ..Default::default() };
        let reply = self.client().broadcast(request).await?.into_inner();
        let responses = reply.result.map(|result| result.responses).unwrap_or_default();
        check(reply.error.is_none() && responses.len() == channels.len())?;
        check(responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}
