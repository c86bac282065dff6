//! Who is compared: each peer does the same work in the way its own documentation shows.
//!
//! Every peer makes its requests from the same borrowed channels and payload, so that copies it needs are its own, and
//! looks at every answer.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::Options;

pub type Failure = Box<dyn Error + Send + Sync>;

/// A clone is what one caller holds.
pub trait Peer: Clone + Send + 'static {
    fn publish(&mut self, channel: &str, payload: &str) -> impl Future<Output = Result<(), Failure>> + Send;
    /// One request with a publish into each channel.
    fn batch(&mut self, channels: &[String], payload: &str) -> impl Future<Output = Result<(), Failure>> + Send;
    fn broadcast(&mut self, channels: &[String], payload: &str) -> impl Future<Output = Result<(), Failure>> + Send;
}

fn check(right: bool) -> Result<(), Failure> {
    if right { Ok(()) } else { Err("the answer is not the expected one".into()) }
}

/// This crate, over either transport.
#[derive(Clone)]
pub struct This(centrifugo_api::Client);

/// Retries, as by default; the others send no idempotency keys, so they are sent only when asked for.
fn retry(options: &Options) -> centrifugo_api::Retry {
    centrifugo_api::Retry::new().idempotency_keys(options.keys)
}

impl This {
    pub fn grpc(options: &Options) -> Result<Self, Failure> {
        let config = centrifugo_api::Config::grpc(&options.grpc).api_key(&options.api_key);
        Ok(Self(centrifugo_api::Client::new(config.connections(options.connections).retry(retry(options)))?))
    }

    pub fn http(options: &Options) -> Result<Self, Failure> {
        let config = centrifugo_api::Config::http(&options.http).api_key(&options.api_key);
        Ok(Self(centrifugo_api::Client::new(config.retry(retry(options)))?))
    }
}

impl Peer for This {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        let request = centrifugo_api::PublishRequest::new(channel, payload.as_bytes().to_vec());
        self.0.publish(request).await?;
        Ok(())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let mut batch = centrifugo_api::Batch::new();
        let mut handles = Vec::with_capacity(channels.len());
        for channel in channels {
            handles
                .push(batch.push(centrifugo_api::PublishRequest::new(channel.as_str(), payload.as_bytes().to_vec())));
        }
        let replies = self.0.batch(&batch).await?;
        for handle in handles {
            replies.get(handle)?;
        }
        Ok(())
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let channels_ = channels.iter().map(String::as_str);
        let request = centrifugo_api::BroadcastRequest::new(channels_, payload.as_bytes().to_vec());
        let result = self.0.broadcast(request).await?;
        check(result.responses.len() == channels.len())?;
        check(result.responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}

#[allow(dead_code, reason = "generated for the whole schema")]
mod api {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("centrifugal.centrifugo.api");
}

use api::centrifugo_api_client::CentrifugoApiClient;

/// tonic's generated client, each caller with a clone of its own.
pub struct Tonic {
    clients: Vec<CentrifugoApiClient<InterceptedService<Channel, Auth>>>,
    turn: usize,
    start: Arc<AtomicUsize>,
    deadline: Option<Duration>,
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
        Self { clients: self.clients.clone(), turn, start: Arc::clone(&self.start), deadline: self.deadline }
    }
}

impl Tonic {
    pub async fn connect(options: &Options, deadline: Option<Duration>) -> Result<Self, Failure> {
        let auth = Auth(format!("apikey {}", options.api_key).parse()?);
        let mut clients = Vec::new();
        for _ in 0..options.connections {
            let channel = Channel::from_shared(options.grpc.clone())?.connect().await?;
            clients.push(CentrifugoApiClient::with_interceptor(channel, auth.clone()));
        }
        Ok(Self { clients, turn: 0, start: Arc::default(), deadline })
    }

    fn client(&mut self) -> &mut CentrifugoApiClient<InterceptedService<Channel, Auth>> {
        self.turn += 1;
        let turn = self.turn % self.clients.len();
        &mut self.clients[turn]
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }
}

impl Peer for Tonic {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        let request = self.request(api::PublishRequest {
            channel: channel.to_owned(),
            data: payload.as_bytes().to_vec(),
            ..Default::default()
        });
        let reply = self.client().publish(request).await?.into_inner();
        check(reply.error.is_none() && reply.result.is_some())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let commands = channels.iter().map(|channel| api::Command {
            publish: Some(api::PublishRequest {
                channel: channel.clone(),
                data: payload.as_bytes().to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let request = self.request(api::BatchRequest { commands: commands.collect(), parallel: false });
        let replies = self.client().batch(request).await?.into_inner().replies;
        check(replies.len() == channels.len())?;
        check(replies.iter().all(|reply| reply.error.is_none() && reply.publish.is_some()))
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let request = self.request(api::BroadcastRequest {
            channels: channels.to_vec(),
            data: payload.as_bytes().to_vec(),
            ..Default::default()
        });
        let reply = self.client().broadcast(request).await?.into_inner();
        let responses = reply.result.map(|result| result.responses).unwrap_or_default();
        check(reply.error.is_none() && responses.len() == channels.len())?;
        check(responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}

/// The official client over HTTP.
#[derive(Clone)]
pub struct Cent(cent::Client);

impl Cent {
    pub fn new(options: &Options) -> Result<Self, Failure> {
        Ok(Self(cent::Client::new(cent::Config::new(&options.http).api_key(&options.api_key))?))
    }
}

fn raw(payload: &str) -> Result<Box<RawValue>, Failure> {
    Ok(RawValue::from_string(payload.to_owned())?)
}

impl Peer for Cent {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        self.0.publish(cent::PublishRequest::new(channel).data(raw(payload)?)).await?;
        Ok(())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let mut batch = self.0.new_batch(cent::BatchOptions::default());
        let mut pending = Vec::with_capacity(channels.len());
        for channel in channels {
            pending.push(batch.publish(cent::PublishRequest::new(channel.as_str()).data(raw(payload)?)));
        }
        batch.send().await?;
        for pending in pending {
            pending.result()?;
        }
        Ok(())
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let request = cent::BroadcastRequest::new(channels.iter().map(String::as_str)).data(raw(payload)?);
        let result = self.0.broadcast(request).await?;
        check(result.channels.len() == channels.len() && result.failed().is_empty())
    }
}

/// reqwest and serde with nothing between.
#[derive(Clone)]
pub struct Reqwest {
    client: reqwest::Client,
    base: Arc<str>,
    key: Arc<str>,
}

#[derive(Serialize)]
struct Publish<'a> {
    channel: &'a str,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Broadcast<'a> {
    channels: &'a [String],
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Batch<'a> {
    commands: Vec<Command<'a>>,
}

#[derive(Serialize)]
struct Command<'a> {
    publish: Publish<'a>,
}

#[derive(Deserialize)]
struct Reply<T> {
    error: Option<serde_json::Value>,
    result: Option<T>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "read to be as thorough as the others")]
struct Position {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
struct Responses {
    responses: Vec<Reply<Position>>,
}

#[derive(Deserialize)]
struct Replies {
    replies: Vec<BatchReply>,
}

#[derive(Deserialize)]
struct BatchReply {
    error: Option<serde_json::Value>,
    publish: Option<Position>,
}

impl Reqwest {
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { client, base: options.http.as_str().into(), key: options.api_key.as_str().into() })
    }

    async fn call<T: for<'de> Deserialize<'de>>(&self, method: &str, body: &impl Serialize) -> Result<T, Failure> {
        let request = self.client.post(format!("{}/{method}", self.base)).header("X-API-Key", &*self.key).json(body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}

impl Peer for Reqwest {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        let body = Publish { channel, data: serde_json::from_str(payload)? };
        let reply: Reply<Position> = self.call("publish", &body).await?;
        check(reply.error.is_none() && reply.result.is_some())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let data: &RawValue = serde_json::from_str(payload)?;
        let commands = channels.iter().map(|channel| Command { publish: Publish { channel, data } }).collect();
        let replies = self.call::<Replies>("batch", &Batch { commands }).await?.replies;
        check(replies.len() == channels.len())?;
        check(replies.iter().all(|reply| reply.error.is_none() && reply.publish.is_some()))
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let body = Broadcast { channels, data: serde_json::from_str(payload)? };
        let reply: Reply<Responses> = self.call("broadcast", &body).await?;
        let responses = reply.result.map(|result| result.responses).unwrap_or_default();
        check(reply.error.is_none() && responses.len() == channels.len())?;
        check(responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}
