//! Clients of the stand-in, which make it call the handlers of a backend.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::methods::Serve as _;
use super::node::Node;
use crate::api::message as api;
use crate::api::payload::Payload;
use crate::error::ApiError;
use crate::proxy::{self, Method, message as proxied};
use crate::wire::json::decode_base64;

/// Why a client did not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// The client got this error.
    Error(ApiError),
    /// The client was disconnected.
    Disconnected(api::Disconnect),
    /// The client was unsubscribed from the channel, with this code: 2501 when the subscription has expired.
    Unsubscribed(u32),
    /// The handler failed or gave no answer. The client got error 100, "internal server error"; this is why, as in the log of the
    /// server.
    Failed(String),
}

impl ClientError {
    /// The code that the client got.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Error(error) => error.code,
            Self::Disconnected(disconnect) => disconnect.code,
            Self::Unsubscribed(code) => *code,
            Self::Failed(_) => ApiError::INTERNAL,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Disconnected(disconnect) => write!(f, "disconnected: {} ({})", disconnect.code, disconnect.reason),
            Self::Unsubscribed(code) => write!(f, "unsubscribed: {code}"),
            Self::Failed(why) => write!(f, "error 100 (internal server error): {why}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A client that is about to connect: see [`Server::client`](super::Server::client).
#[must_use = "it does nothing until it connects"]
pub struct Connecting {
    node: Arc<Node>,
    headers: HeaderMap,
    request: proxied::ConnectRequest,
}

impl Connecting {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        let request = proxied::ConnectRequest::default().client(super::hub::uuid());
        Self { node: Arc::clone(node), headers: HeaderMap::new(), request }
    }

    /// Adds a header of the connection that the server passes on to the backend. One that no header can be is left out.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
        self
    }

    /// Sends data when connecting.
    pub fn data(mut self, data: impl Into<Payload>) -> Self {
        self.request = self.request.data(data);
        self
    }

    /// Sets the name of the client.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.request = self.request.name(name);
        self
    }

    /// Connects: the server calls the handler `connect`.
    ///
    /// # Errors
    ///
    /// What the client is told instead.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let id = self.request.client.clone();
        let mut client = Client::new(self.node, id, String::new());
        client.headers = self.headers;
        let mut request = self.request.transport("websocket").protocol("json").encoding(client.encoding());
        client.encode(&mut request.data, &mut request.b64data);
        let result: proxied::ConnectResult = client.ask(Method::Connect, &request).await?;
        client.user = result.user;
        client.expire_at = result.expire_at;
        client.info = either(result.info, &result.b64info)?;
        client.data = either(result.data, &result.b64data)?;
        client.meta = result.meta;
        let named = result.channels.into_iter().map(|channel| (channel, proxied::SubscribeOptions::default()));
        for (channel, options) in named.chain(result.subs) {
            client.join(channel, either(options.info, &options.b64info)?);
        }
        client.connected = true;
        Ok(client)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").field("request", &self.request).finish_non_exhaustive()
    }
}

/// A client that is connected to the stand-in. It leaves all channels when it is dropped.
///
/// What it does, the server asks the backend about, as if every proxy were enabled: once, and without a retry.
pub struct Client {
    node: Arc<Node>,
    id: String,
    user: String,
    headers: HeaderMap,
    info: Bytes,
    data: Bytes,
    meta: Bytes,
    expire_at: i64,
    connected: bool,
    channels: BTreeSet<String>,
}

/// The fields that the requests of all clients begin with.
macro_rules! request {
    ($self:ident, $request:ident) => {{
        let mut request = proxied::$request::default()
            .client($self.id.as_str())
            .transport("websocket")
            .protocol("json")
            .encoding($self.encoding())
            .user($self.user.as_str());
        if $self.node.handlers.as_ref().is_some_and(|handlers| handlers.include_meta) {
            request = request.meta($self.meta.clone());
        }
        request
    }};
}

impl Client {
    pub(super) fn new(node: Arc<Node>, id: String, user: String) -> Self {
        Self {
            node,
            id,
            user,
            headers: HeaderMap::new(),
            info: Bytes::new(),
            data: Bytes::new(),
            meta: Bytes::new(),
            expire_at: 0,
            connected: true,
            channels: BTreeSet::new(),
        }
    }

    /// The client's ID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ID of the user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The data that the backend gave the client when it connected.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// When the connection expires, in seconds since 1970; 0 means never.
    #[must_use]
    pub fn expire_at(&self) -> i64 {
        self.expire_at
    }

    /// Whether the client was not disconnected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// The channels that the client is subscribed to.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(String::as_str)
    }

    /// Subscribes to a channel: the server calls the handler `subscribe`. Returns the data of the subscription.
    ///
    /// # Errors
    ///
    /// What the client is told instead.
    pub async fn subscribe(&mut self, channel: &str, data: impl Into<Payload>) -> Result<Bytes, ClientError> {
        let mut request = request!(self, SubscribeRequest).channel(channel).data(data);
        self.encode(&mut request.data, &mut request.b64data);
        let result: proxied::SubscribeResult = self.ask(Method::Subscribe, &request).await?;
        self.join(channel.to_owned(), either(result.info, &result.b64info)?);
        either(result.data, &result.b64data)
    }

    /// Leaves a channel. The backend does not learn of that.
    pub fn unsubscribe(&mut self, channel: &str) {
        if self.channels.remove(channel) {
            self.node.api.hub().leave(channel, &self.id);
        }
    }

    /// Publishes into a channel: the server calls the handler `publish`, and then publishes what that returned.
    ///
    /// # Errors
    ///
    /// What the client is told instead.
    pub async fn publish(&mut self, channel: &str, data: impl Into<Payload>) -> Result<(), ClientError> {
        let data = Bytes::from(data.into());
        let mut request = request!(self, PublishRequest).channel(channel).data(data.clone());
        self.encode(&mut request.data, &mut request.b64data);
        let result: proxied::PublishResult = self.ask(Method::Publish, &request).await?;
        let changed = either(result.data, &result.b64data)?;
        let publish = api::PublishRequest::new(channel, if changed.is_empty() { data } else { changed })
            .skip_history(result.skip_history)
            .tags(result.tags)
            .idempotency_key(result.idempotency_key)
            .version(result.version)
            .version_epoch(result.version_epoch);
        publish.serve(&self.node.api).map(drop).map_err(ClientError::Error)
    }

    /// Calls a method of the backend: the server calls the handler `rpc`. Returns the data of the response.
    ///
    /// # Errors
    ///
    /// What the client is told instead.
    pub async fn rpc(&mut self, method: &str, data: impl Into<Payload>) -> Result<Bytes, ClientError> {
        let mut request = request!(self, RpcRequest).method(method).data(data);
        self.encode(&mut request.data, &mut request.b64data);
        let result: proxied::RpcResult = self.ask(Method::Rpc, &request).await?;
        either(result.data, &result.b64data)
    }

    /// Publishes into a map: the server calls the handler `map_publish`, and then publishes what that returned.
    ///
    /// # Errors
    ///
    /// What the client is told instead. (A server of v6.9.1 tells it 107 even when it has published.)
    pub async fn map_publish(&mut self, channel: &str, key: &str, data: impl Into<Payload>) -> Result<(), ClientError> {
        let data = Bytes::from(data.into());
        let mut request = request!(self, MapPublishRequest).channel(channel).key(key).data(data.clone());
        self.encode(&mut request.data, &mut request.b64data);
        let result: proxied::MapPublishResult = self.ask(Method::MapPublish, &request).await?;
        let changed = either(result.data, &result.b64data)?;
        let key = if result.key.is_empty() { key.to_owned() } else { result.key };
        let publish = api::MapPublishRequest::new(channel, key)
            .data(if changed.is_empty() { data } else { changed })
            .tags(result.tags)
            .key_mode(result.key_mode)
            .idempotency_key(result.idempotency_key)
            .version(result.version)
            .version_epoch(result.version_epoch);
        publish.serve(&self.node.api).map(drop).map_err(ClientError::Error)
    }

    /// Removes a key from a map: the server calls the handler `map_remove`, and then removes the key.
    ///
    /// # Errors
    ///
    /// What the client is told instead.
    pub async fn map_remove(&mut self, channel: &str, key: &str) -> Result<(), ClientError> {
        let request = request!(self, MapRemoveRequest).channel(channel).key(key);
        let result: proxied::MapRemoveResult = self.ask(Method::MapRemove, &request).await?;
        let key = if result.key.is_empty() { key.to_owned() } else { result.key };
        let remove = api::MapRemoveRequest::new(channel, key).idempotency_key(result.idempotency_key);
        remove.serve(&self.node.api).map(drop).map_err(ClientError::Error)
    }

    /// Does what the server does when the connection is about to expire: calls the handler `refresh`. If that fails, the connection
    /// goes on for 60 s.
    ///
    /// # Errors
    ///
    /// Disconnect 3005, if the connection is to end, for which the server also takes any error.
    pub async fn refresh(&mut self) -> Result<(), ClientError> {
        let request = request!(self, RefreshRequest);
        match self.ask_once::<_, proxied::RefreshResult>(Method::Refresh, &request).await {
            Err(_) => self.expire_at = in_a_minute(),
            Ok(proxy::Answer { result: Some(result), .. }) if !result.expired => {
                self.expire_at = result.expire_at;
                self.info = either(result.info, &result.b64info)?;
                if !result.meta.is_empty() {
                    self.meta = result.meta;
                }
            }
            Ok(_) => {
                self.disconnect();
                return Err(ClientError::Disconnected(api::Disconnect::new(3005, "connection expired")));
            }
        }
        Ok(())
    }

    /// Does what the server does when a subscription is about to expire: calls the handler `sub_refresh`. If that fails, the
    /// subscription goes on for 60 s.
    ///
    /// # Errors
    ///
    /// [`Unsubscribed`](ClientError::Unsubscribed), if the subscription is to end, for which the server also takes any error.
    pub async fn sub_refresh(&mut self, channel: &str) -> Result<(), ClientError> {
        let request = request!(self, SubRefreshRequest).channel(channel);
        match self.ask_once::<_, proxied::SubRefreshResult>(Method::SubRefresh, &request).await {
            Ok(proxy::Answer { result: Some(result), .. }) if !result.expired => Ok(()),
            Err(_) => Ok(()),
            Ok(_) => {
                self.unsubscribe(channel);
                Err(ClientError::Unsubscribed(2501))
            }
        }
    }

    /// Disconnects: the client leaves all channels. The backend does not learn of that.
    pub fn disconnect(&mut self) {
        self.connected = false;
        for channel in std::mem::take(&mut self.channels) {
            self.node.api.hub().leave(&channel, &self.id);
        }
    }

    fn encoding(&self) -> &'static str {
        if self.is_binary() { "binary" } else { "json" }
    }

    fn is_binary(&self) -> bool {
        self.node.handlers.as_ref().is_some_and(|handlers| handlers.binary)
    }

    /// Moves data into the field for base64, if that is used.
    fn encode(&self, data: &mut Bytes, b64data: &mut String) {
        if self.is_binary() {
            *b64data = STANDARD.encode(std::mem::take(data));
        }
    }

    fn join(&mut self, channel: String, chan_info: Bytes) {
        let info = api::ClientInfo::default()
            .user(self.user.as_str())
            .client(self.id.as_str())
            .conn_info(self.info.clone())
            .chan_info(chan_info);
        self.node.api.hub().join(channel.clone(), self.id.clone(), info);
        self.channels.insert(channel);
    }

    async fn ask_once<R, T>(&self, method: Method, request: &R) -> Result<proxy::Answer<T>, String>
    where
        R: prost::Message + Serialize,
        T: prost::Message + Default + fmt::Debug + Serialize + DeserializeOwned,
    {
        let handlers = self.node.handlers.as_ref().ok_or("the stand-in was given no handlers to call")?;
        handlers.call(method, request, &self.headers).await
    }

    /// Calls a handler whose errors the client learns.
    async fn ask<R, T>(&mut self, method: Method, request: &R) -> Result<T, ClientError>
    where
        R: prost::Message + Serialize,
        T: prost::Message + Default + fmt::Debug + Serialize + DeserializeOwned,
    {
        let answer = self.ask_once(method, request).await.map_err(ClientError::Failed)?;
        if let Some(disconnect) = answer.disconnect {
            self.disconnect();
            return Err(ClientError::Disconnected(disconnect));
        }
        match answer.error {
            Some(error) => Err(ClientError::Error(error)),
            None => Ok(answer.result.unwrap_or_default()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Calls the handler of shared polls, as the server does on its own.
pub(super) async fn shared_poll_refresh(
    node: &Node,
    request: &proxied::SharedPollRefreshRequest,
) -> Result<proxied::SharedPollRefreshResult, ClientError> {
    let handlers = node.handlers.as_ref();
    let handlers = handlers.ok_or_else(|| ClientError::Failed("the stand-in was given no handlers to call".into()))?;
    let answer = handlers.call(Method::SharedPollRefresh, request, &HeaderMap::new()).await;
    let answer: proxy::Answer<proxied::SharedPollRefreshResult> = answer.map_err(ClientError::Failed)?;
    match answer.error {
        Some(error) => Err(ClientError::Error(error)),
        None => Ok(answer.result.unwrap_or_default()),
    }
}

/// The bytes, or those in base64 if there are any. What is not base64 is an internal error of the server.
fn either(bytes: Bytes, base64: &str) -> Result<Bytes, ClientError> {
    if base64.is_empty() {
        return Ok(bytes);
    }
    decode_base64(base64).ok_or_else(|| ClientError::Failed("the answer holds base64 that is none".to_owned()))
}

fn in_a_minute() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX).saturating_add(60)
}
