//! Calls over gRPC: tonic's client over the crate's own h2 connections.
//!
//! tonic's `Channel` is not used: it is bound to one runtime, puts a queue and a task in front of every connection, and keeps
//! sending calls to a dead one. `connection.rs` replaces it.

mod call;
mod connection;
mod driver;
mod greeting;
mod not_grpc;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, header};
use prost::Message as _;
use tonic::client::Grpc as GrpcClient;
use tonic::codec::{BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use url::Url;

use crate::api::method::Method;
use crate::config::{self, Common, TokenSource};
use crate::error::{ApiError, Error, ErrorKind, Form, Outcome, RetryAfter, causes};
use crate::sync::BoxFuture;
use crate::transport::call::Call;
use crate::transport::grpc::call::{OpenCall, Truncated, is_from_server};
use crate::transport::grpc::connection::{Connection, Connections};
use crate::transport::grpc::driver::MAX_HEADERS;
use crate::transport::grpc::not_grpc::NotGrpc;
use crate::transport::handover::Handover;
use crate::transport::net::headers;
use crate::transport::net::memory::{OutOfMemory, ReplyMemory};
use crate::transport::net::names::Names;
use crate::transport::page::{self, Secrets};
use crate::transport::{Transport, check_len, hint, http_status};
use crate::wire::reply::Reply;

/// The tonic implementation of [`Transport`].
#[derive(Debug)]
pub(crate) struct Grpc {
    endpoint: Arc<str>,
    origin: Uri,
    connections: Connections,
    headers: HeaderMap,
    token: Option<Token>,
    gzip: bool,
    max_request_size: usize,
    max_reply_size: usize,
    memory: ReplyMemory,
}

/// A source of tokens, redacted in `Debug`.
struct Token(TokenSource);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Grpc {
    pub(crate) fn new(config: &Common, settings: &config::Grpc, url: &Url, memory: ReplyMemory) -> Result<Self, Error> {
        if url.path() != "/" {
            return Err(Error::invalid(format!(
                "the endpoint `{url}` of gRPC has a path; give the host and the port only, like `http://localhost:10000`",
            )));
        }
        if settings.connections == 0 {
            return Err(Error::invalid("`connections` is 0, so that no call could be sent"));
        }
        if settings.keepalive.is_some_and(|interval| interval < Duration::from_secs(1)) {
            return Err(Error::invalid(
                "`keepalive` is under a second; the server would close the connection for too many pings",
            ));
        }
        let origin: Uri = url
            .as_str()
            .parse()
            .map_err(|_| Error::invalid(format!("the endpoint `{url}` is not a URI that HTTP/2 allows")))?;
        Ok(Self {
            endpoint: url.as_str().trim_end_matches('/').into(),
            connections: Connections::new(&origin, Names::new(url, config.resolver.clone()), config, settings)?,
            origin,
            headers: headers::headers(config)?,
            token: config.bearer_token.clone().map(Token),
            gzip: settings.gzip,
            max_request_size: config.max_request_size.unwrap_or(usize::MAX),
            max_reply_size: config.max_reply_size,
            memory,
        })
    }

    /// Sends a request on a connection, once.
    async fn send_on(
        &self,
        connection: &Connection,
        handover: Handover,
        method: Method,
        token: Option<&HeaderValue>,
        body: &Bytes,
    ) -> Result<Reply, Status> {
        // No `grpc-timeout`: the server does not stop a call that it has begun, and its timer costs a tenth of the CPU of a
        // publish. The client keeps the deadline, and resets a call that it drops.
        let codec = BytesCodec { len: body.len(), handover };
        let mut headers = self.headers.clone();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        let metadata = MetadataMap::from_headers(headers);
        let request = tonic::Request::from_parts(metadata, http::Extensions::new(), body.clone());
        let call = OpenCall::new(connection, body.len(), &self.memory);
        let mut client =
            GrpcClient::with_origin(&call, self.origin.clone()).max_decoding_message_size(self.max_reply_size);
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        }
        let reply = client.unary(request, PathAndQuery::from_static(method.grpc_path()), codec).await;
        call.ended();
        Ok(Reply::protobuf(reply?.into_inner()))
    }
}

impl Transport for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.endpoint))
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            let handover = call.handover().track();
            let Some(method) = call.known_method() else {
                return Err(Error::invalid(format!(
                    "the schema of this version has no method `{}`, and over gRPC no other can be called; over HTTP it can",
                    call.method()
                )));
            };
            let body = call.to_protobuf()?;
            check_len(Form::Protobuf, body.len(), self.max_request_size)?;
            let token = match &self.token {
                Some(Token(source)) => Some(headers::bearer(source).await?),
                None => None,
            };
            let connection = self.connections.get().await?;
            let sent = self.send_on(&connection, handover.clone(), method, token.as_ref(), &body).await;
            sent.map_err(|status| {
                if is_unprocessed(&status) {
                    handover.undo();
                }
                if connection_ended(&status) {
                    connection.retire();
                }
                let secrets = || Secrets::of(&self.headers, token.as_ref());
                let error = handover.judge(error_of(status, body.len(), secrets));
                if connection.record().has_lost_runtime() { error.local() } else { error }
            })
        })
    }

    fn fail_over(&self) -> bool {
        self.connections.fail_over()
    }

    fn disconnect(&self) {
        self.connections.disconnect();
    }
}

/// Passes encoded messages through, so that one client serves every method.
struct BytesCodec {
    len: usize,
    handover: Handover,
}

struct BytesEncoder {
    len: usize,
    handover: Handover,
}

struct BytesDecoder;

/// The 5 bytes before a message: whether it is compressed, and its length.
const FRAME_HEADER: usize = 5;
/// tonic's default. It has no effect on a unary call, whose only message is always sent at once.
const YIELD_THRESHOLD: usize = 32 * 1024;
/// Enough for the response to a publish; it grows for longer ones.
const REPLY_BUFFER: usize = 256;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = BytesEncoder;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder { len: self.len, handover: self.handover.clone() }
    }

    fn decoder(&mut self) -> BytesDecoder {
        BytesDecoder
    }
}

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Called only when the connection takes the body.
        if !self.handover.take() {
            return Err(Status::cancelled("the call ended before it was sent"));
        }
        buffer.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FRAME_HEADER + self.len, YIELD_THRESHOLD)
    }
}

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(REPLY_BUFFER, YIELD_THRESHOLD)
    }
}

/// The error of a failed call with a request of length `sent`. The rules are the table in `docs/errors.md`.
fn error_of(status: Status, sent: usize, secrets: impl Fn() -> Secrets) -> Error {
    // The response is plain HTTP.
    let not_grpc = causes(&status).find_map(|cause| cause.downcast_ref::<NotGrpc>());
    if let Some(error) = not_grpc.map(|response| response.error(&secrets())) {
        return error.with_source(status);
    }
    let of_h2 = || causes(&status).filter_map(|cause| cause.downcast_ref());
    if of_h2().any(is_malformed) {
        let what = format!("the headers of the response are over the limit of {MAX_HEADERS} bytes, or malformed");
        return Error::protocol(what).with_source(status);
    }
    if let Some(error) = causes(&status).find_map(|cause| cause.downcast_ref::<OutOfMemory>()) {
        return (*error).into();
    }
    // Made by this side: the connection failed. (The client handles timeouts itself.)
    if StdError::source(&status).is_some() {
        let mut error = Error::new(ErrorKind::Lost, "the connection ended without a response");
        if of_h2().any(is_flooded) {
            error = error.and(&format!(
                ": it was closed for too much data, as headers far over the limit of {MAX_HEADERS} bytes"
            ));
        }
        return if is_unprocessed(&status) { error.with_outcome(Outcome::NotSent) } else { error }.with_source(status);
    }
    // Made by tonic, for a response that it cannot decode: the server has processed the call.
    if !is_from_server(&status) {
        return if is_too_large(&status) {
            let what = format!("the reply is over `max_reply_size`: {}", status.message());
            Error::new(ErrorKind::TooLarge, what).with_outcome(Outcome::Unknown)
        } else {
            Error::protocol(format!("the response cannot be read: {}", status.message()))
        };
    }
    // Sent by the server, perhaps with an API error in its details.
    let details = Details::read(status.details());
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let hint = pushback.map(|pushback| hint::of_pushback(pushback.as_bytes())).or(details.retry_after);
    let error = details.api.map_or_else(|| of_status(&status, sent, &secrets()), Error::from);
    error.with_hint(hint)
}

/// Whether h2 rejected the headers of a response. It has one reason for all that may be wrong with them.
fn is_malformed(error: &h2::Error) -> bool {
    error.is_library() && error.is_reset() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR)
}

/// Whether h2 closed the connection because it was sent too much, as headers several times the limit.
fn is_flooded(error: &h2::Error) -> bool {
    let is_too_much = matches!(error.reason(), Some(h2::Reason::COMPRESSION_ERROR | h2::Reason::ENHANCE_YOUR_CALM));
    error.is_library() && error.is_go_away() && is_too_much
}

/// Whether tonic rejected a response for its size. There is no separate code for that.
fn is_too_large(status: &Status) -> bool {
    status.message().contains("decoded message length too large") || status.message().contains("size limit")
}

/// Whether the server rejected a request of this length for its size, with grpc-go's text: `grpc: received message larger than
/// max (N vs. LIMIT)`. A proxy may use the same text for the response, with another length.
fn refuses_length(message: &str, sent: usize) -> bool {
    let received = message.strip_prefix("grpc: received message larger than max (");
    let length = received.and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    // A compressed request is shorter than `sent`.
    length.is_some_and(|length| length <= sent)
}

/// The error of a server's status without an API error.
fn of_status(status: &Status, sent: usize, secrets: &Secrets) -> Error {
    let said = format!("the server returned {:?} ({})", status.code(), page::line_of(status.message(), secrets));
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Error::new(ErrorKind::Unauthenticated, said),
        Code::Unimplemented => {
            let error = Error::new(ErrorKind::Unsupported, said);
            if status.message().starts_with("unknown service") { error.no_grpc() } else { error }
        }
        Code::ResourceExhausted if refuses_length(status.message(), sent) => {
            Error::new(ErrorKind::TooLarge, said).with_outcome(Outcome::Refused)
        }
        Code::ResourceExhausted if status.message().contains("larger than max") => {
            Error::new(ErrorKind::TooLarge, said).with_outcome(Outcome::Unknown)
        }
        Code::Internal if status.message().contains("error unmarshalling request") => {
            Error::invalid(said).with_outcome(Outcome::Refused)
        }
        Code::ResourceExhausted => Error::new(ErrorKind::Unavailable, said).overload(),
        Code::Unavailable => Error::new(ErrorKind::Unavailable, said),
        Code::DeadlineExceeded => Error::new(ErrorKind::Timeout, said),
        Code::Cancelled => Error::new(ErrorKind::Lost, said),
        Code::InvalidArgument => Error::invalid(said).with_outcome(Outcome::Refused),
        _ => Error::protocol(said),
    }
}

/// The contents of `grpc-status-details-bin`: a `google.rpc.Status` with any number of `Any` in it.
#[derive(Debug, Default)]
struct Details {
    /// The API error.
    api: Option<ApiError>,
    /// Of a `google.rpc.RetryInfo`.
    retry_after: Option<RetryAfter>,
}

impl Details {
    fn read(details: &[u8]) -> Self {
        #[derive(Clone, PartialEq, prost::Message)]
        struct RpcStatus {
            #[prost(message, repeated, tag = "3")]
            details: Vec<Any>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        struct Any {
            #[prost(string, tag = "1")]
            type_url: String,
            #[prost(bytes = "bytes", tag = "2")]
            value: Bytes,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        struct RetryInfo {
            #[prost(message, tag = "1")]
            retry_delay: Option<Delay>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        struct Delay {
            #[prost(int64, tag = "1")]
            seconds: i64,
            #[prost(int32, tag = "2")]
            nanos: i32,
        }

        let mut read = Self::default();
        for Any { type_url, value } in RpcStatus::decode(details).map(|status| status.details).unwrap_or_default() {
            if type_url.ends_with("/centrifugal.centrifugo.api.Error") {
                let api = || ApiError::decode(value).ok().filter(|error| error.code != 0);
                read.api = read.api.or_else(api);
            } else if type_url.ends_with("/google.rpc.RetryInfo")
                && let Ok(RetryInfo { retry_delay: Some(Delay { seconds, nanos }) }) = RetryInfo::decode(value)
            {
                let (seconds, nanos) = (seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
                let wait = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos));
                read.retry_after = Some(RetryAfter::Wait(wait));
            }
        }
        read
    }
}

/// Whether the failure proves that the server did not process the call. After the begin of a response nothing proves that.
fn is_unprocessed(status: &Status) -> bool {
    !causes(status).any(<dyn StdError>::is::<Truncated>) && causes(status).any(http_status::never_processed)
}

/// Whether the connection ended, and not only this call.
fn connection_ended(status: &Status) -> bool {
    let of_call = |cause: &(dyn StdError + 'static)| {
        cause.is::<NotGrpc>()
            || cause.is::<OutOfMemory>()
            || cause.downcast_ref::<Truncated>().is_some_and(|truncated| truncated.0.is_none())
            || cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset)
    };
    StdError::source(status).is_some() && !causes(status).any(of_call)
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
