//! Calls over gRPC: tonic's client over connections of our own.
//!
//! tonic's `Channel` is left out on purpose: it belongs to the runtime it was made in, puts a queue and a task in front
//! of every connection, and keeps giving calls to a dead one. `connection.rs` replaces it, on h2.

mod call;
mod connection;
mod driver;
mod greeting;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, StatusCode, header};
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
use crate::transport::grpc::call::{NotGrpc, OpenCall, Truncated, is_from_server};
use crate::transport::grpc::connection::{Connection, Connections};
use crate::transport::handover::Handover;
use crate::transport::net::headers;
use crate::transport::net::names::Names;
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
}

/// A source of tokens, in a form that `Debug` can pass over.
struct Token(TokenSource);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Grpc {
    pub(crate) fn new(config: &Common, settings: &config::Grpc, url: &Url) -> Result<Self, Error> {
        if url.path() != "/" {
            return Err(Error::invalid(format!(
                "the endpoint `{url}` of gRPC has a path; give the host and the port only, like `http://localhost:10000`",
            )));
        }
        if settings.connections == 0 {
            return Err(Error::invalid("`connections` is 0, so that no call could be sent"));
        }
        if settings.keepalive.is_some_and(|interval| interval < Duration::from_secs(1)) {
            return Err(Error::invalid("`keepalive` is under a second, which the server would take for an attack"));
        }
        let origin: Uri = url
            .as_str()
            .parse()
            .map_err(|_| Error::invalid(format!("the endpoint `{url}` is no URI that HTTP/2 allows")))?;
        Ok(Self {
            endpoint: url.as_str().trim_end_matches('/').into(),
            connections: Connections::new(&origin, Names::new(url, config.resolver.clone()), config, settings)?,
            origin,
            headers: headers::headers(config)?,
            token: config.bearer_token.clone().map(Token),
            gzip: settings.gzip,
            max_request_size: config.max_request_size.unwrap_or(usize::MAX),
            max_reply_size: config.max_reply_size,
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
        // No `grpc-timeout`: the server does not stop a call that it has begun, and to keep the time costs it a tenth of
        // the CPU of a publish. The deadline is the client's, and a call dropped then is reset.
        let codec = BytesCodec { len: body.len(), handover };
        let mut headers = self.headers.clone();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        let metadata = MetadataMap::from_headers(headers);
        let request = tonic::Request::from_parts(metadata, http::Extensions::new(), body.clone());
        let call = OpenCall::new(connection, body.len());
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
            // From here on the handover proves whether the body was sent.
            let mut handover = call.handover().track();
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
            // As many as can have ended together, and a new one.
            let mut connections = self.connections.number() + 1;
            loop {
                let connection = self.connections.get().await?;
                let sent = self.send_on(&connection, handover.clone(), method, token.as_ref(), &body).await;
                let status = match sent {
                    Ok(reply) => return Ok(reply),
                    Err(status) => status,
                };
                if is_unprocessed(&status) {
                    handover.give_back();
                }
                if connection_ended(&status) {
                    connection.retire();
                    connections -= 1;
                    // A connection that ended before the body was taken or processed: the call goes on the next one.
                    if let (Some(next), true) = (handover.anew(), connections > 0) {
                        handover = next;
                        continue;
                    }
                }
                return Err(handover.judge(error_of(status, body.len())));
            }
        })
    }

    fn disconnect(&self) {
        self.connections.disconnect();
    }
}

/// Messages that are encoded already, so that one client serves every method.
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
/// A message this long is sent without waiting for more, as every message is that stands alone.
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
        // Called when the connection takes the body, and no earlier.
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

/// What a failed call means. The table in `docs/errors.md` says the same.
///
/// `sent` is the length of the request.
fn error_of(status: Status, sent: usize) -> Error {
    // Not gRPC at all: the response is plain HTTP.
    let not_grpc = causes(&status).find_map(|cause| cause.downcast_ref::<NotGrpc>()).map(|response| {
        let error = match response.status {
            StatusCode::OK => Error::protocol("the response is HTTP and not gRPC"),
            http => http_status::of_http_status(http, &response.headers, b""),
        };
        // How HTTP servers respond where there is no such path, method or content type.
        if matches!(response.status.as_u16(), 404 | 405 | 415) { error.no_grpc() } else { error }
    });
    if let Some(error) = not_grpc {
        return error.with_source(status);
    }
    // Made on this side: the connection failed. (Timeouts are the client's own.)
    if StdError::source(&status).is_some() {
        let error = Error::new(ErrorKind::Lost, "the connection ended without a response");
        return if is_unprocessed(&status) { error.with_outcome(Outcome::NotSent) } else { error }.with_source(status);
    }
    // Made by tonic, of a response that it cannot read: the call has taken effect by then.
    if !is_from_server(&status) {
        return if is_too_large(&status) {
            let what = format!("the reply is over `max_reply_size`: {}", status.message());
            Error::new(ErrorKind::TooLarge, what).with_outcome(Outcome::Unknown)
        } else {
            Error::protocol(format!("the response cannot be read: {}", status.message()))
        };
    }
    // Sent by the server, perhaps with the API's own error in its details.
    let details = Details::read(status.details());
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let hint = pushback.map(|pushback| hint::of_pushback(pushback.as_bytes())).or(details.retry_after);
    let error = details.api.map_or_else(|| of_status(&status, sent), Error::from);
    error.with_hint(hint)
}

/// Whether tonic gave a response up for its size. It has no code of its own for that.
fn is_too_large(status: &Status) -> bool {
    status.message().contains("decoded message length too large") || status.message().contains("size limit")
}

/// Whether the server says that the request of this length was too long for it, in the words of grpc-go: `grpc: received
/// message larger than max (N vs. LIMIT)`. A proxy may say the same of the response, which then has another length.
fn refuses_length(message: &str, sent: usize) -> bool {
    let received = message.strip_prefix("grpc: received message larger than max (");
    let length = received.and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    // Compressed, it is shorter than what was given to be sent.
    length.is_some_and(|length| length <= sent)
}

/// What a status from the server means without an error of the API.
fn of_status(status: &Status, sent: usize) -> Error {
    let said = format!("the server returned {:?} ({})", status.code(), status.message());
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

/// What `grpc-status-details-bin` says: a `google.rpc.Status` with any number of `Any` in it.
#[derive(Debug, Default)]
struct Details {
    /// The API's own error.
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

/// Whether the failure proves that the server did not process the call. One that it has begun to respond to, it has.
fn is_unprocessed(status: &Status) -> bool {
    !causes(status).any(<dyn StdError>::is::<Truncated>) && causes(status).any(http_status::never_processed)
}

/// Whether the whole connection ended, and not only this call on it.
fn connection_ended(status: &Status) -> bool {
    let of_call = |cause: &(dyn StdError + 'static)| {
        cause.is::<NotGrpc>()
            || cause.downcast_ref::<Truncated>().is_some_and(|truncated| truncated.0.is_none())
            || cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset)
    };
    StdError::source(status).is_some() && !causes(status).any(of_call)
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
