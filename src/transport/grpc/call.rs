//! One call on a connection, sent and read by the caller's own task.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body::{Body as _, Frame};
use tonic::body::Body;
use tower_service::Service;

use crate::error::BoxError;
use crate::sync::BoxFuture;
use crate::transport::grpc::connection::Connection;
use crate::transport::grpc::not_grpc::{NotGrpc, is_not_grpc};
use crate::transport::net::memory::{Held, ReplyMemory};

/// Longer bodies always wait for stream capacity, which costs little compared with sending them.
const LONG: usize = 16 << 10;

/// An open call on a connection: the service that tonic's client calls once.
#[derive(Debug)]
pub(super) struct OpenCall<'a> {
    connection: &'a Connection,
    memory: &'a ReplyMemory,
    /// Whether its body is handed over only when the stream has capacity.
    ///
    /// A new stream has none until the connection's task has polled it. Waiting for that costs two wake-ups and a write, so a
    /// short body is sent with its headers if the server allows as many streams as calls are open.
    waits: bool,
    ended: AtomicBool,
}

impl<'a> OpenCall<'a> {
    /// Opens a call with a body of this length.
    pub(super) fn new(connection: &'a Connection, len: usize, memory: &'a ReplyMemory) -> Self {
        let waits = connection.record().begin() > connection.sender().current_max_send_streams() || len > LONG;
        Self { connection, memory, waits, ended: AtomicBool::new(false) }
    }

    /// Records that the call was not dropped.
    pub(super) fn ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.connection.record().end();
        if !*self.ended.get_mut() {
            self.connection.record().dropped_call();
        }
    }
}

impl Service<Request<Body>> for &OpenCall<'_> {
    type Response = Response<Checked>;
    type Error = BoxError;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        let (head, body) = request.into_parts();
        // A clone, because each sender has at most one pending stream.
        let sent = self.connection.sender().clone().send_request(Request::from_parts(head, ()), false);
        let calling = sent.map(|(response, mut stream)| {
            if self.waits {
                stream.reserve_capacity(1);
            }
            (response, Some(Sending { stream, body, waits: self.waits, part: None }))
        });
        Calling(calling, Some(self.memory.hold()), None)
    }
}

/// A call that waits for the headers of its response, and for the page if that is not gRPC.
pub(super) struct Calling(
    Result<(ResponseFuture, Option<Sending>), h2::Error>,
    Option<Held>,
    Option<BoxFuture<'static, NotGrpc>>,
);

impl Future for Calling {
    type Output = Result<Response<Checked>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(reading) = &mut self.2 {
            return reading.as_mut().poll(cx).map(|not_grpc| Err(not_grpc.into()));
        }
        let (response, sending) = match &mut self.0 {
            Ok(calling) => calling,
            // Returned once; the placeholder is never read.
            Err(error) => return Poll::Ready(Err(mem::replace(error, Reason::CANCEL.into()).into())),
        };
        poll_sending(sending, cx);
        let mut response = ready!(Pin::new(response).poll(cx))?;
        if is_not_grpc(&response) {
            let mut reading: BoxFuture<'static, NotGrpc> = Box::pin(NotGrpc::read(response));
            let polled = reading.as_mut().poll(cx);
            self.2 = Some(reading);
            return polled.map(|not_grpc| Err(not_grpc.into()));
        }
        let has_status = sanitize(response.headers_mut());
        let (sending, held) = (sending.take(), self.1.take());
        Poll::Ready(Ok(response.map(|body| Checked { sending, body, has_status, held })))
    }
}

/// The body of a request that is being sent.
struct Sending {
    stream: SendStream<Bytes>,
    body: Body,
    waits: bool,
    /// Held back until the next part, so that the last one ends the stream.
    part: Option<Bytes>,
}

/// Sends what can be sent now. A failure shows in the response.
fn poll_sending(sending: &mut Option<Sending>, cx: &mut Context<'_>) {
    if sending.as_mut().is_some_and(|sending| sending.poll(cx).is_ready()) {
        *sending = None;
    }
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits {
            let Some(Ok(_)) = ready!(self.stream.poll_capacity(cx)) else { return Poll::Ready(()) };
            self.waits = false;
        }
        // h2 buffers what exceeds the capacity.
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let before = frame.into_data().ok().and_then(|data| self.part.replace(data));
                    if before.is_some_and(|part| self.stream.send_data(part, false).is_err()) {
                        return Poll::Ready(());
                    }
                }
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                None => {
                    let last = self.part.take().unwrap_or_default();
                    // Fails if the stream has ended.
                    let _ = self.stream.send_data(last, true);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// The response ended after its headers and before its status, so the server has received the call.
#[derive(Debug, thiserror::Error)]
#[error("the response ended early")]
pub(crate) struct Truncated(#[source] pub(super) Option<h2::Error>);

/// The names of gRPC's headers and trailers.
pub(super) static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Marks statuses from the server, as opposed to those that tonic makes for a response that it cannot decode.
static FROM_SERVER: HeaderName = HeaderName::from_static("x-from-server");

/// Whether the status was sent by the server, not made by tonic.
pub(crate) fn is_from_server(status: &tonic::Status) -> bool {
    status.metadata().contains_key(FROM_SERVER.as_str())
}

/// Base64 with optional padding, as tonic decodes it.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Prepares headers or trailers for tonic: marks those with a status, and drops details that are not base64, on which tonic
/// panics. Whether they have a status.
fn sanitize(headers: &mut HeaderMap) -> bool {
    let has_status = headers.contains_key(&STATUS);
    if has_status {
        headers.insert(&FROM_SERVER, header::HeaderValue::from_static("1"));
    } else {
        headers.remove(&FROM_SERVER);
    }
    if headers.get(&DETAILS).is_some_and(|details| ANY_PADDING.decode(details).is_err()) {
        headers.remove(&DETAILS);
    }
    has_status
}

/// A response's body with sanitized trailers. It fails if there is no status.
pub(super) struct Checked {
    /// The rest of the request, if the server responds before it has read all.
    sending: Option<Sending>,
    body: RecvStream,
    has_status: bool,
    held: Option<Held>,
}

impl http_body::Body for Checked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        poll_sending(&mut this.sending, cx);
        if let Some(data) = ready!(this.body.poll_data(cx)) {
            let data = data.map_err(|error| BoxError::from(Truncated(Some(error)))).and_then(|data| {
                // Opens the window again. Fails if the stream has ended, which needs none.
                let _ = this.body.flow_control().release_capacity(data.len());
                this.held.as_mut().map_or(Ok(()), |held| held.grow(data.len()))?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(Some(data));
        }
        Poll::Ready(match ready!(this.body.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                this.has_status |= sanitize(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Err(error) => Some(Err(Truncated(Some(error)).into())),
            Ok(None) if this.has_status => None,
            Ok(None) => {
                // Returned once.
                this.has_status = true;
                Some(Err(Truncated(None).into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_status && self.body.is_end_stream()
    }
}
