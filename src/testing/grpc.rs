//! The API over gRPC: frames, compression, statuses.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::call::Call;
use super::fault::{Kind, Transport};
use super::listen::{Connection, Io};
use super::node::{Node, Outcome};
use super::protobuf::{self, Protobuf, Refused};
use crate::api::method::Method;
use crate::error::ApiError;

const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";

/// The length of a message's prefix: a flag for compression, and the message's length.
const PREFIX: usize = 5;

mod code {
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Serves a connection.
pub(super) async fn serve(node: Arc<Node>, io: Io, connection: Connection) {
    let service = service_fn(|request| {
        let (node, connection) = (Arc::clone(&node), connection.clone());
        async move {
            let content_type = content_type(request.headers());
            let mut response = match respond(&node, request, &connection).await {
                Ok((message, gzip)) => message_response(message, gzip),
                Err(status) => status.response(),
            };
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http2::Builder::new(connection.clone())
        // No limit on streams, headers or resets that a client would reach.
        .max_concurrent_streams(None)
        .max_header_list_size(16 << 20)
        // h2 bounds unread short requests by half of it.
        .initial_connection_window_size(64 << 20)
        .max_pending_accept_reset_streams(1 << 20)
        .max_local_error_reset_streams(None)
        .serve_connection(TokioIo::new(io), service);
    let mut served = pin!(served);
    tokio::select! {
        // The client sees a broken connection by itself.
        _ = served.as_mut() => return,
        () = connection.drained() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// Returns the message of the response, and whether to compress it.
async fn respond(node: &Node, request: Request<Incoming>, connection: &Connection) -> Result<(Bytes, bool), Status> {
    let (head, body) = request.into_parts();
    check_head(&head)?;
    let method = find_method(head.uri.path())?;
    let message = read_message(body, &head.headers, node.max_grpc_message).await?;
    let call = Call::read(&Protobuf, method, &message)
        .map_err(|Refused(why)| Status::new(code::INTERNAL, format!("grpc: error unmarshalling request: {why}")))?;
    if let Some(key) = node.keys.grpc.as_ref().filter(|key| !key.is_empty()) {
        let given = head.headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"apikey "));
        if given != Some(key.as_bytes()) {
            return Err(Status::new(code::UNAUTHENTICATED, "unauthenticated"));
        }
    }
    let reply = match node.execute(&call, Transport::Grpc, &head.headers, connection).await {
        Outcome::Reply(reply) => reply,
        Outcome::Unsupported => {
            let name = method.grpc_path().rsplit('/').next().unwrap_or_default();
            return Err(Status::new(code::UNIMPLEMENTED, format!("method {name} not implemented")));
        }
        Outcome::Raw(bytes) => return Ok((bytes, false)),
        Outcome::Status(Kind::GrpcStatus { code, message, details, metadata }) => {
            return Err(Status { details, metadata, ..Status::new(code, message) });
        }
        Outcome::Status(_) => return Err(Status::new(code::INTERNAL, "")),
    };
    let mode = head.headers.get("x-centrifugo-error-mode");
    match reply.error() {
        Some(error) if node.transport_errors || mode.is_some_and(|mode| mode == "transport") => Err(Status::of(error)),
        _ => Ok((reply.protobuf().into(), asks_for_gzip(&head.headers))),
    }
}

/// The suffix of a content type `application/grpc`: `+proto`, or nothing.
fn subtype(headers: &HeaderMap) -> Result<&str, &str> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let rest = content_type.strip_prefix("application/grpc").ok_or(content_type)?;
    if rest.is_empty() || rest.starts_with(['+', ';']) { Ok(rest) } else { Err(content_type) }
}

/// The content type of the response, which is that of the request.
fn content_type(headers: &HeaderMap) -> HeaderValue {
    let subtype = subtype(headers).ok().and_then(|subtype| subtype.get(1..)).filter(|subtype| !subtype.is_empty());
    let content_type = subtype.and_then(|subtype| format!("application/grpc+{subtype}").parse().ok());
    content_type.unwrap_or(HeaderValue::from_static("application/grpc"))
}

/// Checks what comes before the path: content type, HTTP method, timeout.
fn check_head(head: &http::request::Parts) -> Result<(), Status> {
    if let Err(content_type) = subtype(&head.headers) {
        let status = Status::new(code::INVALID_ARGUMENT, format!("invalid gRPC request content-type {content_type:?}"));
        return Err(Status { http: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..status });
    }
    if head.method != http::Method::POST {
        let method = head.method.as_str();
        let message = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(Status { http: StatusCode::METHOD_NOT_ALLOWED, ..Status::new(code::INTERNAL, message) });
    }
    let timeout = head.headers.get("grpc-timeout").and_then(|timeout| timeout.to_str().ok());
    match timeout.map(parse_timeout) {
        Some(Ok(0)) => Err(Status::new(code::DEADLINE_EXCEEDED, "context deadline exceeded")),
        Some(Err(why)) => {
            let status = Status::new(code::INTERNAL, format!("malformed grpc-timeout: {why}"));
            Err(Status { http: StatusCode::BAD_REQUEST, ..status })
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

/// The number in a timeout, whatever its unit.
fn parse_timeout(timeout: &str) -> Result<u64, String> {
    /// Eight digits and a unit.
    const LONGEST: usize = 9;
    match timeout.len() {
        ..2 => return Err(format!("transport: timeout string is too short: {timeout:?}")),
        2..=LONGEST => {}
        _ => return Err(format!("transport: timeout string is too long: {timeout:?}")),
    }
    let number = timeout.strip_suffix(['H', 'M', 'S', 'm', 'u', 'n']);
    let number = number.ok_or_else(|| format!("transport: timeout unit is not recognized: {timeout:?}"))?;
    number.parse().map_err(|_| format!("strconv.ParseUint: parsing {number:?}: invalid syntax"))
}

fn find_method(path: &str) -> Result<Method, Status> {
    let unimplemented = |message| Status::new(code::UNIMPLEMENTED, message);
    let Some((service, name)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return Err(unimplemented(format!("malformed method name: {path:?}")));
    };
    if service != SERVICE {
        return Err(unimplemented(format!("unknown service {service}")));
    }
    let found = Method::ALL.iter().find(|method| method.grpc_path().ends_with(&format!("/{name}")));
    found.copied().ok_or_else(|| unimplemented(format!("unknown method {name} for service {service}")))
}

fn asks_for_gzip(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip")
}

/// Reads the message of a request.
async fn read_message(mut body: Incoming, headers: &HeaderMap, max: usize) -> Result<Bytes, Status> {
    let encoding = headers.get("grpc-encoding").and_then(|value| value.to_str().ok()).unwrap_or("identity");
    if !matches!(encoding, "" | "identity" | "gzip") {
        let message = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        return Err(Status::new(code::UNIMPLEMENTED, message));
    }
    let internal = |message: String| Status::new(code::INTERNAL, message);
    let mut received = BytesMut::new();
    let length = loop {
        let length = received.get(1..PREFIX).map(|mut length| length.get_u32() as usize);
        match length {
            Some(length) if length > max => {
                let message = format!("grpc: received message larger than max ({length} vs. {max})");
                return Err(Status::new(code::RESOURCE_EXHAUSTED, message));
            }
            Some(length) if received.len() >= PREFIX + length => break length,
            _ => {}
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    received.extend_from_slice(&data);
                }
            }
            Some(Err(_)) | None if length.is_some() => return Err(Status::new(code::UNKNOWN, "unexpected EOF")),
            Some(Err(_)) | None => return Err(Status::new(code::UNKNOWN, "EOF")),
        }
    };
    let compressed = received[0];
    let message = received.freeze().slice(PREFIX..PREFIX + length);
    match (compressed, encoding) {
        (0, _) => Ok(message),
        (1, "gzip") => {
            let mut whole = Vec::new();
            let limit = max as u64 + 1;
            flate2::read::GzDecoder::new(&message[..]).take(limit).read_to_end(&mut whole).map_err(|error| {
                let why = match error.kind() {
                    _ if message.is_empty() => "EOF".to_owned(),
                    std::io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
                    _ => format!("gzip: {error}"),
                };
                internal(format!("grpc: failed to decompress the message: {why}"))
            })?;
            if whole.len() > max {
                let message = format!("grpc: received message after decompression larger than max {max}");
                return Err(Status::new(code::RESOURCE_EXHAUSTED, message));
            }
            Ok(whole.into())
        }
        (1, _) => Err(internal("grpc: compressed flag set with identity or empty encoding".into())),
        (other, _) => Err(internal(format!("grpc: received unexpected payload format {other}"))),
    }
}

/// Why there is no message.
struct Status {
    http: StatusCode,
    code: i32,
    message: String,
    details: Bytes,
    metadata: Vec<(String, String)>,
}

impl Status {
    fn new(code: i32, message: impl Into<String>) -> Self {
        let (details, metadata) = (Bytes::new(), Vec::new());
        Self { http: StatusCode::OK, code, message: message.into(), details, metadata }
    }

    /// An error of the API as a status, with the error in its details.
    fn of(error: &ApiError) -> Self {
        let code = match error.code {
            ApiError::UNKNOWN_CHANNEL | ApiError::NOT_FOUND => code::NOT_FOUND,
            ApiError::BAD_REQUEST | ApiError::NOT_AVAILABLE => code::INVALID_ARGUMENT,
            ApiError::UNRECOVERABLE_POSITION => code::OUT_OF_RANGE,
            ApiError::CONFLICT => code::ALREADY_EXISTS,
            _ => code::INTERNAL,
        };
        // A google.rpc.Status: its code, its message, and one google.protobuf.Any.
        let any = [
            protobuf::field(1, b"type.googleapis.com/centrifugal.centrifugo.api.Error"),
            protobuf::field(2, &prost::Message::encode_to_vec(error)),
        ];
        let mut details = vec![0x08];
        prost::encoding::encode_varint(u64::from(code.unsigned_abs()), &mut details);
        details.extend(protobuf::field(2, error.message.as_bytes()));
        details.extend(protobuf::field(3, &any.concat()));
        Self { details: details.into(), ..Self::new(code, error.message.clone()) }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", self.code.into());
        if let Ok(message) = percent_encode(&self.message).parse() {
            headers.insert("grpc-message", message);
        }
        if !self.details.is_empty()
            && let Ok(details) = STANDARD_NO_PAD.encode(&self.details).parse()
        {
            headers.insert("grpc-status-details-bin", details);
        }
        for (name, value) in &self.metadata {
            if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// A response of headers only.
    fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = self.http;
        response.headers_mut().extend(self.headers());
        response
    }
}

fn message_response(message: Bytes, gzip: bool) -> Response<Body> {
    // The server does not compress an empty message.
    let packed = Some(&message).filter(|message| gzip && !message.is_empty()).and_then(|message| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(message).and_then(|()| encoder.finish()).ok()
    });
    let compressed = u8::from(packed.is_some());
    let message = packed.map_or(message, Bytes::from);
    let mut data = BytesMut::with_capacity(PREFIX + message.len());
    data.extend_from_slice(&[compressed]);
    data.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend_from_slice(&message);
    let mut response = Response::new(Body { data: Some(data.freeze()), trailers: Some(Status::new(0, "").headers()) });
    if gzip {
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

/// Percent-encodes a status message.
fn percent_encode(message: &str) -> String {
    message.bytes().fold(String::with_capacity(message.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// A body of one message and trailers, or of nothing.
#[derive(Default)]
struct Body {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_message_is_printable() {
        assert_eq!(percent_encode("a b%\n\u{e9}~"), "a b%25%0A%C3%A9~");
    }

    #[test]
    fn a_path_names_a_service_and_a_method() {
        assert_eq!(find_method(Method::Rpc.grpc_path()).ok(), Some(Method::Rpc));
        let refused = |path| find_method(path).err().map(|status| status.message);
        assert_eq!(refused("/x").as_deref(), Some("malformed method name: \"/x\""));
        assert_eq!(refused("/a.B/Publish").as_deref(), Some("unknown service a.B"));
        assert_eq!(
            refused("/centrifugal.centrifugo.api.CentrifugoApi/publish").as_deref(),
            Some("unknown method publish for service centrifugal.centrifugo.api.CentrifugoApi")
        );
    }
}
