//! Each method of the API on the hub: its checks, in the server's order, and its effect.

use std::sync::MutexGuard;

use bytes::Bytes;
use tokio::time::Instant;

use super::glob::Glob;
use super::hub::{Hub, Position, Publish, Range, ReadError};
use super::namespace::{Kind, Map, Namespace, name_of};
#[allow(clippy::wildcard_imports, reason = "every request and every result")]
use crate::api::message::*;
use crate::api::method::Method;
use crate::api::request::Request;
use crate::error::ApiError;
use crate::sync::Mutex;
use crate::wire::json::decode_base64;

/// The settings and the state of a node.
#[derive(Debug)]
pub(super) struct Api {
    hub: Mutex<Hub>,
    without_namespace: Namespace,
    namespaces: Vec<Namespace>,
    node_name: String,
    node_uid: String,
    started: Instant,
}

/// A request that the server can execute.
pub(super) trait Serve: Request {
    /// Executes the request.
    fn serve(&self, api: &Api) -> Result<Self::Result, ApiError>;
}

impl Api {
    pub(super) fn new(without_namespace: Namespace, namespaces: Vec<Namespace>, node_name: String) -> Self {
        let node_uid = super::hub::uuid();
        let hub = Mutex::default();
        Self { hub, without_namespace, namespaces, node_name, node_uid, started: Instant::now() }
    }

    pub(super) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock()
    }

    /// The settings of a channel.
    fn namespace(&self, channel: &str) -> Result<&Namespace, ApiError> {
        match name_of(channel) {
            None => Ok(&self.without_namespace),
            Some(name) => self.namespaces.iter().find(|namespace| namespace.name == name).ok_or_else(unknown_channel),
        }
    }

    /// The settings of a channel that must be named and be a map.
    fn map(&self, channel: &str) -> Result<&Map, ApiError> {
        given(channel)?;
        match &self.namespace(channel)?.kind {
            Kind::Map(map) => Ok(map),
            _ => Err(bad_request()),
        }
    }

    /// The settings of a channel that must be named and keep history.
    fn with_history(&self, channel: &str) -> Result<&Namespace, ApiError> {
        given(channel)?;
        Some(self.namespace(channel)?).filter(|namespace| namespace.has_history()).ok_or_else(not_available)
    }

    /// The settings of a channel that must be named and have presence.
    fn with_presence(&self, channel: &str) -> Result<(), ApiError> {
        given(channel)?;
        Some(self.namespace(channel)?).filter(|namespace| namespace.presence).ok_or_else(not_available)?;
        Ok(())
    }
}

fn internal() -> ApiError {
    ApiError::new(ApiError::INTERNAL, "internal server error")
}

fn unknown_channel() -> ApiError {
    ApiError::new(ApiError::UNKNOWN_CHANNEL, "unknown channel")
}

pub(super) fn not_found() -> ApiError {
    ApiError::new(ApiError::NOT_FOUND, "not found")
}

pub(super) fn bad_request() -> ApiError {
    ApiError::new(ApiError::BAD_REQUEST, "bad request")
}

fn not_available() -> ApiError {
    ApiError::new(ApiError::NOT_AVAILABLE, "not available")
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Internal => internal(),
            ReadError::Unrecoverable => Self::new(Self::UNRECOVERABLE_POSITION, "unrecoverable position"),
        }
    }
}

fn given(field: &str) -> Result<(), ApiError> {
    if field.is_empty() { Err(bad_request()) } else { Ok(()) }
}

/// The data, or the data decoded from its base64 field if that is set. Line breaks in base64 are ignored.
fn either(raw: &Bytes, base64: &str) -> Result<Bytes, ApiError> {
    if base64.is_empty() {
        return Ok(raw.clone());
    }
    decode_base64(&base64.replace(['\r', '\n'], "")).ok_or_else(bad_request)
}

fn position(since: &StreamPosition) -> Position {
    Position { offset: since.offset, epoch: since.epoch.clone() }
}

impl Serve for PublishRequest {
    fn serve(&self, api: &Api) -> Result<PublishResult, ApiError> {
        given(&self.channel)?;
        let data = either(&self.data, &self.b64data)?;
        let namespace = api.namespace(&self.channel)?;
        if !matches!(namespace.kind, Kind::Stream) || !namespace.accepts(&data) {
            return Err(bad_request());
        }
        let publish = Publish {
            data,
            tags: self.tags.clone(),
            skip_history: self.skip_history,
            idempotency_key: self.idempotency_key.clone(),
            version: self.version,
            version_epoch: self.version_epoch.clone(),
        };
        let Position { offset, epoch } = api.hub().publish(&self.channel, namespace, publish);
        Ok(PublishResult { offset, epoch })
    }
}

impl Serve for BroadcastRequest {
    fn serve(&self, api: &Api) -> Result<BroadcastResult, ApiError> {
        if self.channels.is_empty() {
            return Err(bad_request());
        }
        let data = either(&self.data, &self.b64data)?;
        let one = |channel: &String| {
            given(channel)?;
            let namespace = api.namespace(channel)?;
            // The server does not check the kind of the namespace here.
            if !namespace.accepts(&data) {
                return Err(bad_request());
            }
            let publish = Publish {
                data: data.clone(),
                tags: self.tags.clone(),
                skip_history: self.skip_history,
                idempotency_key: self.idempotency_key.clone(),
                version: self.version,
                version_epoch: self.version_epoch.clone(),
            };
            Ok(api.hub().publish(channel, namespace, publish))
        };
        let responses = self.channels.iter().map(one).map(|published| match published {
            Ok(Position { offset, epoch }) => {
                PublishResponse { error: None, result: Some(PublishResult { offset, epoch }) }
            }
            Err(error) => PublishResponse { error: Some(error), result: None },
        });
        Ok(BroadcastResult::from(responses.collect::<Vec<_>>()))
    }
}

impl Serve for SubscribeRequest {
    fn serve(&self, api: &Api) -> Result<SubscribeResult, ApiError> {
        given(&self.channel)?;
        api.namespace(&self.channel)?;
        either(&self.data, &self.b64data)?;
        either(&self.info, &self.b64info)?;
        Ok(SubscribeResult {})
    }
}

impl Serve for UnsubscribeRequest {
    fn serve(&self, api: &Api) -> Result<UnsubscribeResult, ApiError> {
        if !self.channel.is_empty() {
            api.namespace(&self.channel)?;
        }
        Ok(UnsubscribeResult {})
    }
}

impl Serve for DisconnectRequest {
    fn serve(&self, _: &Api) -> Result<DisconnectResult, ApiError> {
        Ok(DisconnectResult {})
    }
}

impl Serve for RefreshRequest {
    fn serve(&self, _: &Api) -> Result<RefreshResult, ApiError> {
        Ok(RefreshResult {})
    }
}

impl Serve for PresenceRequest {
    fn serve(&self, api: &Api) -> Result<PresenceResult, ApiError> {
        api.with_presence(&self.channel)?;
        Ok(PresenceResult { presence: api.hub().presence(&self.channel) })
    }
}

impl Serve for PresenceStatsRequest {
    fn serve(&self, api: &Api) -> Result<PresenceStatsResult, ApiError> {
        api.with_presence(&self.channel)?;
        let present = api.hub().presence(&self.channel);
        let users: std::collections::BTreeSet<&str> = present.values().map(|info| info.user.as_str()).collect();
        Ok(PresenceStatsResult { num_clients: number(present.len()), num_users: number(users.len()) })
    }
}

impl Serve for HistoryRequest {
    fn serve(&self, api: &Api) -> Result<HistoryResult, ApiError> {
        let namespace = api.with_history(&self.channel)?;
        let range = Range { limit: self.limit, since: self.since.as_ref().map(position), reverse: self.reverse };
        let (publications, Position { offset, epoch }) = api.hub().history(&self.channel, namespace, &range)?;
        Ok(HistoryResult { publications, epoch, offset })
    }
}

impl Serve for HistoryRemoveRequest {
    fn serve(&self, api: &Api) -> Result<HistoryRemoveResult, ApiError> {
        let namespace = api.with_history(&self.channel)?;
        api.hub().history_remove(&self.channel, namespace);
        Ok(HistoryRemoveResult {})
    }
}

impl Serve for InfoRequest {
    fn serve(&self, api: &Api) -> Result<InfoResult, ApiError> {
        let [clients, users, channels, subs] = api.hub().counts();
        let node = NodeResult {
            uid: api.node_uid.clone(),
            name: api.node_name.clone(),
            version: super::VERSION.to_owned(),
            num_clients: number(clients),
            num_users: number(users),
            num_channels: number(channels),
            num_subs: number(subs),
            uptime: u32::try_from(api.started.elapsed().as_secs()).unwrap_or(u32::MAX),
            // The server's interval, and one of its counters, which are doubles.
            metrics: Some(Metrics { interval: 60.0, items: [("centrifugo.node.num_nodes".to_owned(), 1.0)].into() }),
            process: None,
        };
        Ok(InfoResult { nodes: vec![node] })
    }
}

impl Serve for RpcRequest {
    fn serve(&self, _: &Api) -> Result<RpcResult, ApiError> {
        given(&self.method)?;
        Err(not_found())
    }
}

impl Serve for ChannelsRequest {
    fn serve(&self, api: &Api) -> Result<ChannelsResult, ApiError> {
        let glob = match self.pattern.as_str() {
            "" => None,
            pattern => Some(Glob::new(pattern).ok_or_else(internal)?),
        };
        let hub = api.hub();
        let channels = hub
            .channels()
            .filter(|(channel, _)| glob.as_ref().is_none_or(|glob| glob.matches(channel)))
            .map(|(channel, clients)| (channel.to_owned(), ChannelInfo { num_clients: number(clients) }));
        Ok(ChannelsResult { channels: channels.collect() })
    }
}

impl Serve for MapPublishRequest {
    fn serve(&self, api: &Api) -> Result<MapPublishResult, ApiError> {
        given(&self.channel)?;
        given(&self.key)?;
        let map = api.map(&self.channel)?;
        let data = either(&self.data, &self.b64data)?;
        if !matches!(self.key_mode.as_str(), "" | "if_new" | "if_exists") {
            return Err(bad_request());
        }
        if !map.has_stream() && self.version > 0 {
            return Err(internal());
        }
        let mut hub = api.hub();
        let (Position { offset, epoch }, suppressed) = hub.maps.publish(self, data, map);
        if suppressed.is_none() {
            hub.count(&self.channel);
        }
        Ok(MapPublishResult {
            offset,
            epoch,
            suppressed: suppressed.is_some(),
            suppress_reason: suppressed.unwrap_or_default().to_owned(),
        })
    }
}

impl Serve for MapRemoveRequest {
    fn serve(&self, api: &Api) -> Result<MapRemoveResult, ApiError> {
        given(&self.channel)?;
        given(&self.key)?;
        let map = api.map(&self.channel)?;
        let (Position { offset, epoch }, suppressed) =
            api.hub().maps.remove(&self.channel, &self.key, &self.idempotency_key, map);
        Ok(MapRemoveResult {
            offset,
            epoch,
            suppressed: suppressed.is_some(),
            suppress_reason: suppressed.unwrap_or_default().to_owned(),
        })
    }
}

impl Serve for MapReadStateRequest {
    fn serve(&self, api: &Api) -> Result<MapReadStateResult, ApiError> {
        let map = api.map(&self.channel)?;
        let (entries, Position { offset, epoch }, cursor) = api.hub().maps.state(self, map)?;
        Ok(MapReadStateResult { entries, offset, epoch, cursor })
    }
}

impl Serve for MapReadStreamRequest {
    fn serve(&self, api: &Api) -> Result<MapReadStreamResult, ApiError> {
        let map = api.map(&self.channel)?;
        let since = Position { offset: self.since_offset, epoch: self.since_epoch.clone() };
        let range = Range {
            limit: self.limit,
            since: Some(since).filter(|since| *since != Position::default()),
            reverse: self.reverse,
        };
        let (entries, Position { offset, epoch }) = api.hub().maps.stream(&self.channel, &range, map)?;
        Ok(MapReadStreamResult { entries, offset, epoch })
    }
}

impl Serve for MapStatsRequest {
    fn serve(&self, api: &Api) -> Result<MapStatsResult, ApiError> {
        let map = api.map(&self.channel)?;
        let keys = api.hub().maps.len(&self.channel, map);
        Ok(MapStatsResult { num_keys: i32::try_from(keys).unwrap_or(i32::MAX) })
    }
}

impl Serve for MapClearRequest {
    fn serve(&self, api: &Api) -> Result<MapClearResult, ApiError> {
        api.map(&self.channel)?;
        api.hub().maps.clear(&self.channel);
        Ok(MapClearResult {})
    }
}

impl Serve for SharedPollPublishRequest {
    fn serve(&self, api: &Api) -> Result<SharedPollPublishResult, ApiError> {
        given(&self.channel)?;
        given(&self.key)?;
        if self.version == 0 {
            return Err(bad_request());
        }
        match api.namespace(&self.channel)?.kind {
            Kind::SharedPoll { publish_enabled: true } => {}
            Kind::SharedPoll { publish_enabled: false } => return Err(not_available()),
            Kind::Stream | Kind::Map(_) => return Err(bad_request()),
        }
        either(&self.data, &self.b64data)?;
        Ok(SharedPollPublishResult {})
    }
}

/// The methods that only Centrifugo PRO has. A batch does not find them; single calls do not reach this.
macro_rules! pro {
    ($($request:ident)*) => {
        $(impl Serve for $request {
            fn serve(&self, _: &Api) -> Result<Self::Result, ApiError> {
                Err(not_found())
            }
        })*

        /// Whether only Centrifugo PRO has the method.
        pub(super) fn is_pro(method: Method) -> bool {
            [$(<$request as Request>::METHOD),*].contains(&method)
        }
    };
}
pro! {
    ConnectionsRequest UpdateUserStatusRequest GetUserStatusRequest DeleteUserStatusRequest BlockUserRequest
    UnblockUserRequest RevokeTokenRequest InvalidateUserTokensRequest DeviceRegisterRequest DeviceUpdateRequest
    DeviceRemoveRequest DeviceListRequest DeviceTopicListRequest DeviceTopicUpdateRequest UserTopicListRequest
    UserTopicUpdateRequest SendPushNotificationRequest UpdatePushStatusRequest CancelPushRequest
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
