//! The HTTP clients alone, with serde.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Failure, Peer, check};
use crate::Options;

#[derive(Clone, Copy)]
pub enum Method {
    Publish,
    Batch,
    Broadcast,
}

impl Method {
    const ALL: [Self; 3] = [Self::Publish, Self::Batch, Self::Broadcast];

    fn url(self, options: &Options) -> String {
        let name = match self {
            Self::Publish => "publish",
            Self::Batch => "batch",
            Self::Broadcast => "broadcast",
        };
        format!("{}/{name}", options.http)
    }
}

/// Sends a body and returns that of the response.
pub trait Post: Clone + Send + Sync + 'static {
    fn post(&self, method: Method, body: Vec<u8>) -> impl Future<Output = Result<Bytes, Failure>> + Send;
}

#[derive(Clone)]
pub struct Reqwest {
    client: reqwest::Client,
    urls: Arc<[String; 3]>,
    key: Arc<str>,
}

/// With a deadline for each call, as `cent` and this crate have one, or without.
pub fn reqwest(options: &Options, deadline: Option<Duration>) -> Result<Bare<Reqwest>, Failure> {
    let client = reqwest::Client::builder().no_proxy();
    let client = deadline.into_iter().fold(client, reqwest::ClientBuilder::timeout).build()?;
    let urls = Method::ALL.map(|method| method.url(options));
    Ok(Bare(Reqwest { client, urls: urls.into(), key: options.api_key.as_str().into() }))
}

impl Post for Reqwest {
    async fn post(&self, method: Method, body: Vec<u8>) -> Result<Bytes, Failure> {
        let request = self.client.post(&self.urls[method as usize]).header("X-API-Key", &*self.key);
        let response = request.header(CONTENT_TYPE, "application/json").body(body).send().await?;
        Ok(response.error_for_status()?.bytes().await?)
    }
}

/// hyper's connections in the pool of hyper-util.
#[derive(Clone)]
pub struct Hyper {
    client: Client<HttpConnector, Full<Bytes>>,
    urls: Arc<[Uri]>,
    key: HeaderValue,
}

pub fn hyper(options: &Options) -> Result<Bare<Hyper>, Failure> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let urls = Method::ALL.iter().map(|method| method.url(options).parse()).collect::<Result<_, _>>()?;
    Ok(Bare(Hyper { client, urls, key: options.api_key.parse()? }))
}

impl Post for Hyper {
    async fn post(&self, method: Method, body: Vec<u8>) -> Result<Bytes, Failure> {
        let request = Request::post(self.urls[method as usize].clone())
            .header("x-api-key", self.key.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body)))?;
        let response = self.client.request(request).await?;
        check(response.status().is_success())?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[derive(Clone)]
pub struct Bare<P>(P);

impl<P: Post> Bare<P> {
    async fn call<T: for<'de> Deserialize<'de>>(&self, method: Method, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)?;
        Ok(serde_json::from_slice(&self.0.post(method, body).await?)?)
    }
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

impl<P: Post> Peer for Bare<P> {
    async fn publish(&mut self, channel: &str, payload: &str) -> Result<(), Failure> {
        let body = Publish { channel, data: serde_json::from_str(payload)? };
        let reply: Reply<Position> = self.call(Method::Publish, &body).await?;
        check(reply.error.is_none() && reply.result.is_some())
    }

    async fn batch(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let data: &RawValue = serde_json::from_str(payload)?;
        let commands = channels.iter().map(|channel| Command { publish: Publish { channel, data } }).collect();
        let replies = self.call::<Replies>(Method::Batch, &Batch { commands }).await?.replies;
        check(replies.len() == channels.len())?;
        check(replies.iter().all(|reply| reply.error.is_none() && reply.publish.is_some()))
    }

    async fn broadcast(&mut self, channels: &[String], payload: &str) -> Result<(), Failure> {
        let body = Broadcast { channels, data: serde_json::from_str(payload)? };
        let reply: Reply<Responses> = self.call(Method::Broadcast, &body).await?;
        let responses = reply.result.map(|result| result.responses).unwrap_or_default();
        check(reply.error.is_none() && responses.len() == channels.len())?;
        check(responses.iter().all(|response| response.error.is_none() && response.result.is_some()))
    }
}
