//! Faults that a server injects.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::api::method::Method;
use crate::error::ApiError;
use crate::sync::Mutex;

/// The transport that a call came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// gRPC.
    Grpc,
    /// HTTP with JSON.
    Http,
}

impl Transport {
    /// `"grpc"` or `"http"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault to inject with [`Server::fault`](super::Server::fault).
///
/// It applies to the next call, or to several ([`times`](Self::times), [`always`](Self::always)), after a number of calls
/// that succeed ([`after`](Self::after)), and only to calls of one [`method`](Self::method) or over one
/// [`transport`](Self::transport) if these are set. Faults are matched in the order they were given; the first match applies.
///
/// Only calls that the server, or a Centrifugo PRO, would execute are matched: not those with a wrong API key, an unknown
/// path or an invalid body. A batch is one call, of the method `batch`.
///
/// ```
/// # use std::time::Duration;
/// use centrifugo_api::testing::{Fault, Server, Transport};
/// use centrifugo_api::{ApiError, Method};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let server = Server::start().await?;
/// // The first two publications fail as if the broker was down.
/// let error = ApiError::new(ApiError::INTERNAL, "internal server error");
/// server.fault(Fault::api_error(error).method(Method::Publish).times(2));
/// // The response to the second history call over HTTP comes late.
/// let late = Fault::delay(Duration::from_secs(20));
/// server.fault(late.method(Method::History).transport(Transport::Http).after(1));
/// // Every broadcast is executed, and its response is lost.
/// server.fault(Fault::cut_after().method(Method::Broadcast).always());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "it happens only once it is given to a server"]
pub struct Fault {
    pub(super) kind: Kind,
    method: Option<Method>,
    transport: Option<Transport>,
    after: u64,
    times: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Kind {
    Delay(Duration),
    ApiError(ApiError),
    HttpStatus { code: u16, headers: Vec<(String, String)>, body: Bytes },
    GrpcStatus { code: i32, message: String, details: Bytes, metadata: Vec<(String, String)> },
    Cut { applied: bool },
    Hang { applied: bool },
    RawReply(Bytes),
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, method: None, transport: None, after: 0, times: Some(1) }
    }

    /// Executes the call at once and delays the response.
    pub fn delay(delay: Duration) -> Self {
        Self::new(Kind::Delay(delay))
    }

    /// Responds with this API error, in the form that the client asked for, without executing the call. In a batch every
    /// command gets the error.
    pub fn api_error(error: ApiError) -> Self {
        Self::new(Kind::ApiError(error))
    }

    /// Responds with this HTTP status, as a proxy in front of the server might, without executing the call.
    /// [`header`](Self::header) and [`body`](Self::body) add to it. HTTP only.
    pub fn http_status(code: u16) -> Self {
        Self::new(Kind::HttpStatus { code, headers: Vec::new(), body: Bytes::new() }).transport(Transport::Http)
    }

    /// Responds with this gRPC status without executing the call. [`header`](Self::header) adds metadata,
    /// [`body`](Self::body) sets the details, an encoded `google.rpc.Status`. gRPC only.
    pub fn grpc_status(code: i32, message: impl Into<String>) -> Self {
        let (message, details, metadata) = (message.into(), Bytes::new(), Vec::new());
        Self::new(Kind::GrpcStatus { code, message, details, metadata }).transport(Transport::Grpc)
    }

    /// Closes the connection without executing the call. Other calls on the same connection are lost too.
    pub fn cut_before() -> Self {
        Self::new(Kind::Cut { applied: false })
    }

    /// Executes the call, then closes the connection without a response.
    pub fn cut_after() -> Self {
        Self::new(Kind::Cut { applied: true })
    }

    /// Never responds, and does not execute the call.
    pub fn hang_before() -> Self {
        Self::new(Kind::Hang { applied: false })
    }

    /// Executes the call and never responds.
    pub fn hang_after() -> Self {
        Self::new(Kind::Hang { applied: true })
    }

    /// Executes the call and responds with these bytes in place of the result, with the status of a success: in place of
    /// JSON over HTTP, of the protobuf message over gRPC. They need not be valid.
    pub fn raw_reply(bytes: impl Into<Bytes>) -> Self {
        Self::new(Kind::RawReply(bytes.into()))
    }

    /// Adds a header to a status. Other faults ignore it; a header that is not valid is ignored.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Kind::HttpStatus { headers, .. } | Kind::GrpcStatus { metadata: headers, .. } = &mut self.kind {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// Sets the body of an HTTP status, or the details of a gRPC status. Other faults ignore it.
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        if let Kind::HttpStatus { body, .. } | Kind::GrpcStatus { details: body, .. } = &mut self.kind {
            *body = bytes.into();
        }
        self
    }

    /// Applies to calls of this method only.
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Applies to calls over this transport only.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Lets so many matching calls succeed first.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// Applies so many times. Once unless set.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Applies every time, until [`Server::clear_faults`](super::Server::clear_faults).
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    fn matches(&self, method: Method, transport: Transport) -> bool {
        self.method.is_none_or(|only| only == method)
            && self.transport.is_none_or(|only| only == transport)
            && self.times != Some(0)
            // A status belongs to one transport.
            && match self.kind {
                Kind::HttpStatus { .. } => transport == Transport::Http,
                Kind::GrpcStatus { .. } => transport == Transport::Grpc,
                _ => true,
            }
    }
}

/// Shows neither bytes nor texts.
impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Delay(delay) => format!("delay of {delay:?}"),
            Kind::ApiError(error) => format!("API error {}", error.code),
            Kind::HttpStatus { code, .. } => format!("HTTP status {code}"),
            Kind::GrpcStatus { code, .. } => format!("gRPC status {code}"),
            Kind::Cut { applied: false } => "cut before".into(),
            Kind::Cut { applied: true } => "cut after".into(),
            Kind::Hang { applied: false } => "hang before".into(),
            Kind::Hang { applied: true } => "hang after".into(),
            Kind::RawReply(bytes) => format!("reply of {} bytes", bytes.len()),
        };
        f.debug_struct("Fault")
            .field("kind", &kind)
            .field("method", &self.method)
            .field("transport", &self.transport)
            .field("after", &self.after)
            .field("times", &self.times)
            .finish()
    }
}

/// The faults still to apply.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(super) fn add(&self, fault: Fault) {
        self.0.lock().push(fault);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Whether a fault matches such a call.
    pub(super) fn any_matches(&self, method: Method, transport: Transport) -> bool {
        let faults = self.0.lock();
        faults.iter().any(|fault| fault.matches(method, transport))
    }

    /// Takes the fault that applies to such a call.
    pub(super) fn take(&self, method: Method, transport: Transport) -> Option<Kind> {
        let mut faults = self.0.lock();
        for fault in faults.iter_mut().filter(|fault| fault.matches(method, transport)) {
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            return Some(fault.kind.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(faults: &Faults, method: Method, transport: Transport) -> Option<u64> {
        match faults.take(method, transport)? {
            Kind::Delay(delay) => Some(delay.as_secs()),
            _ => None,
        }
    }

    fn fault(seconds: u64) -> Fault {
        Fault::delay(Duration::from_secs(seconds))
    }

    #[test]
    fn a_fault_happens_once_unless_told_otherwise() {
        let faults = Faults::default();
        faults.add(fault(1));
        faults.add(fault(2).times(2).after(1));
        faults.add(fault(3).always().method(Method::Info));
        let taken: Vec<_> = (0..5).map(|_| delay(&faults, Method::Publish, Transport::Http)).collect();
        assert_eq!(taken, [Some(1), None, Some(2), Some(2), None]);
        assert_eq!(delay(&faults, Method::Info, Transport::Grpc), Some(3));
        faults.clear();
        assert_eq!(delay(&faults, Method::Info, Transport::Grpc), None);
    }

    #[test]
    fn a_fault_of_another_transport_is_passed_over_and_kept() {
        let faults = Faults::default();
        faults.add(Fault::http_status(503).transport(Transport::Grpc));
        faults.add(Fault::grpc_status(14, "x"));
        faults.add(fault(1).transport(Transport::Http));
        assert!(matches!(faults.take(Method::Info, Transport::Grpc), Some(Kind::GrpcStatus { .. })));
        assert!(faults.take(Method::Info, Transport::Grpc).is_none());
        assert_eq!(delay(&faults, Method::Info, Transport::Http), Some(1));
    }

    #[test]
    fn a_debug_shows_no_payload() {
        let text = format!("{:?}", Fault::http_status(503).body("sesame").header("x-a", "sesame"));
        assert!(text.contains("503") && !text.contains("sesame"), "{text}");
    }
}
