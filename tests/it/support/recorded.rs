//! The recorded exchanges, and how the client reads them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use centrifugo_api::message::Request;
use centrifugo_api::transport::Reply;
use centrifugo_api::{Batch, BatchReplies, Client, Config, Error, ErrorKind, Method};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::support::{block_on, client_replying, scripted};

/// The recorded exchanges, a line of JSON each.
pub(crate) const HTTP: &str = include_str!("../../fixtures/http.ndjson");
pub(crate) const GRPC: &str = include_str!("../../fixtures/grpc.ndjson");

/// A line of `http.ndjson`.
#[derive(Deserialize)]
pub(crate) struct HttpLine {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) method_path: String,
    pub(crate) request_body: String,
    pub(crate) status: u16,
    pub(crate) response_headers: BTreeMap<String, String>,
    pub(crate) response_body: String,
}

/// A line of `grpc.ndjson`.
#[derive(Deserialize)]
pub(crate) struct GrpcLine {
    pub(crate) name: String,
    pub(crate) rpc: String,
    pub(crate) request_hex: String,
    pub(crate) request_json: Option<Value>,
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) status_details_hex: Option<String>,
    pub(crate) response_hex: Option<String>,
    pub(crate) response_json: Option<Value>,
}

pub(crate) fn http_lines() -> Vec<HttpLine> {
    lines(HTTP)
}

pub(crate) fn grpc_lines() -> Vec<GrpcLine> {
    lines(GRPC)
}

fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl HttpLine {
    /// The method called, if the call is one that a client makes: POST to the method's own path.
    pub(crate) fn called(&self) -> Option<Method> {
        let name = self.method_path.strip_prefix("/api/").filter(|_| self.method == "POST")?;
        Method::from_name(name)
    }

    /// What the client makes of the response.
    pub(crate) fn outcome(&self, method: Method) -> Outcome {
        if self.status == 200 {
            let reply = Reply::json(self.response_body.clone());
            return outcome_of(method, &reply, &parsed(&self.request_body), &parsed(&self.response_body));
        }
        let headers: Vec<_> = self.response_headers.clone().into_iter().collect();
        failure(method, async || {
            Config::http(scripted::http(self.status, &headers, self.response_body.as_bytes()).await).into()
        })
    }
}

impl GrpcLine {
    /// The method called, if it is one of the API.
    pub(crate) fn called(&self) -> Option<Method> {
        let path = format!("/{}", self.rpc);
        Method::ALL.iter().copied().find(|method| method.grpc_path() == path)
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        from_hex(&self.request_hex)
    }

    /// The response, if it is one of the method and not of the transport.
    pub(crate) fn response(&self) -> Option<Reply> {
        self.response_hex.as_deref().map(|hex| Reply::protobuf(from_hex(hex)))
    }

    pub(crate) fn details(&self) -> Option<Vec<u8>> {
        self.status_details_hex.as_deref().map(from_hex)
    }

    /// What the client makes of the response.
    pub(crate) fn outcome(&self, method: Method) -> Outcome {
        if let (Some(response), Some(json)) = (self.response(), &self.response_json) {
            let request = self.request_json.as_ref().unwrap_or(&Value::Null);
            return outcome_of(method, &response, request, json);
        }
        let details = self.details();
        failure(method, async || {
            Config::grpc(scripted::grpc(self.code, &self.message, details.as_deref()).await).into()
        })
    }
}

/// Hexadecimal digits as bytes.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// A result: as protobuf, and as JSON if it can be written so.
    Done { protobuf: Vec<u8>, json: Option<String> },
    /// An error of the API.
    Refused { code: u32, message: String },
    /// Any other error, and whether the call may have been applied.
    Failed { kind: ErrorKind, may_have_run: bool },
    /// The replies of a batch.
    Replies(Vec<Outcome>),
}

impl Outcome {
    fn of(error: &Error) -> Self {
        match error.api() {
            Some(api) if error.kind() == ErrorKind::Api => {
                Self::Refused { code: api.code, message: api.message.clone() }
            }
            _ => Self::Failed { kind: error.kind(), may_have_run: error.may_have_run() },
        }
    }
}

/// JSON, or null for what is none.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What the client makes of a response, called with the method's own types.
fn outcome_of(method: Method, reply: &Reply, request: &Value, response: &Value) -> Outcome {
    let client = client_replying(reply.clone());
    if method != Method::Batch {
        return with_request(method, CallLike(&client, request));
    }
    let mut batch = Batch::new();
    let replies = response["replies"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |object: &Value| object.as_object().and_then(|object| Method::from_name(object.keys().next()?));
    let handles: Vec<_> = replies
        .iter()
        .enumerate()
        .map(|(at, reply)| {
            let command = &request["commands"][at];
            // A command without a method cannot be pushed; any other that the server refuses with the same error will do.
            let method = named(reply).or_else(|| named(command)).unwrap_or(Method::Publish);
            with_request(method, PushLike(&mut batch, &command[method.name()]))
        })
        .collect();
    match block_on(client.batch(&batch)) {
        Ok(replies) => Outcome::Replies(handles.iter().map(|read| read(&replies)).collect()),
        Err(error) => Outcome::of(&error),
    }
}

/// A request that the recorded response can be one to: with as many channels, and nothing else that matters.
fn request_like<R: Request>(recorded: &Value) -> R {
    serde_json::from_value(serde_json::json!({ "channels": recorded["channels"] })).unwrap()
}

/// What the client makes of a scripted server's response.
fn failure(method: Method, config: impl AsyncFnOnce() -> Config) -> Outcome {
    block_on(async {
        let client = Client::new(config().await).unwrap();
        let called = match method {
            Method::Batch => client.batch(&Batch::new()).await.map(drop),
            // The scripted servers do not look at the request.
            _ => client.call_json::<Value>(method.name(), Map::new()).await.map(drop),
        };
        Outcome::of(&called.expect_err("the recorded call failed"))
    })
}

/// What to do with the request type of a method that is known by name only.
pub(crate) trait Visitor {
    type Out;
    fn visit<R: Request>(self) -> Self::Out;
}

macro_rules! requests {
    ($($method:ident $request:ident,)*) => {
        /// Hands the method's request type to the visitor.
        pub(crate) fn with_request<V: Visitor>(method: Method, visitor: V) -> V::Out {
            match method {
                $(Method::$method => visitor.visit::<centrifugo_api::message::$request>(),)*
                other => panic!("{other} has no request of its own, or the list of them lacks it"),
            }
        }
    };
}

requests! {
    Publish PublishRequest, Broadcast BroadcastRequest, Subscribe SubscribeRequest, Unsubscribe UnsubscribeRequest,
    Disconnect DisconnectRequest, Refresh RefreshRequest, Connections ConnectionsRequest, Presence PresenceRequest,
    PresenceStats PresenceStatsRequest, History HistoryRequest, HistoryRemove HistoryRemoveRequest, Info InfoRequest,
    Channels ChannelsRequest, Rpc RpcRequest, MapPublish MapPublishRequest, MapRemove MapRemoveRequest,
    MapReadState MapReadStateRequest, MapReadStream MapReadStreamRequest, MapStats MapStatsRequest,
    MapClear MapClearRequest, SharedPollPublish SharedPollPublishRequest, UpdateUserStatus UpdateUserStatusRequest,
    GetUserStatus GetUserStatusRequest, DeleteUserStatus DeleteUserStatusRequest, BlockUser BlockUserRequest,
    UnblockUser UnblockUserRequest, RevokeToken RevokeTokenRequest, InvalidateUserTokens InvalidateUserTokensRequest,
    DeviceRegister DeviceRegisterRequest, DeviceUpdate DeviceUpdateRequest, DeviceRemove DeviceRemoveRequest,
    DeviceList DeviceListRequest, DeviceTopicList DeviceTopicListRequest, DeviceTopicUpdate DeviceTopicUpdateRequest,
    UserTopicList UserTopicListRequest, UserTopicUpdate UserTopicUpdateRequest,
    SendPushNotification SendPushNotificationRequest, UpdatePushStatus UpdatePushStatusRequest,
    CancelPush CancelPushRequest,
}

/// Calls with a request like the recorded one.
struct CallLike<'a>(&'a Client, &'a Value);

impl Visitor for CallLike<'_> {
    type Out = Outcome;

    fn visit<R: Request>(self) -> Outcome {
        match block_on(self.0.call(request_like::<R>(self.1))) {
            Ok(result) => done(&result),
            Err(error) => Outcome::of(&error),
        }
    }
}

fn done<T: centrifugo_api::message::Message>(result: &T) -> Outcome {
    Outcome::Done { protobuf: result.encode_to_vec(), json: serde_json::to_string(result).ok() }
}

/// Pushes a request like the recorded one, and returns how to read the reply.
struct PushLike<'a>(&'a mut Batch, &'a Value);

impl Visitor for PushLike<'_> {
    type Out = Box<dyn Fn(&BatchReplies) -> Outcome>;

    fn visit<R: Request>(self) -> Self::Out {
        let handle = self.0.push(request_like::<R>(self.1));
        Box::new(move |replies| match replies.get(handle) {
            Ok(result) => done(&result),
            Err(error) => Outcome::of(&error),
        })
    }
}

/// The schema that the crate was built from.
pub(crate) static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"))[..]).unwrap());

/// The message of this name in the schema.
pub(crate) fn schema(message: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("centrifugal.centrifugo.api.{message}")).unwrap()
}

/// The schema of a method's request.
pub(crate) fn request_schema(method: Method) -> MessageDescriptor {
    schema(&format!("{}Request", rpc(method)))
}

/// The schema of a method's result.
pub(crate) fn result_schema(method: Method) -> MessageDescriptor {
    schema(&format!("{}Result", rpc(method)))
}

fn rpc(method: Method) -> &'static str {
    method.grpc_path().rsplit('/').next().unwrap()
}

/// Protobuf as its canonical JSON, with the schema's names, as the recording wrote it.
pub(crate) fn canonical(message: &MessageDescriptor, protobuf: &[u8]) -> Value {
    let message = DynamicMessage::decode(message.clone(), protobuf).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
}
