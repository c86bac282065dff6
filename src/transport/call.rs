//! One attempt of a call, as a transport gets it.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::api::method::Method;
use crate::api::request::Request;
use crate::error::Error;
use crate::transport::handover::Handover;
use crate::wire::body::Body;

/// One attempt of a call, as a [`Transport`](crate::transport::Transport) gets it: its method, and its body in whichever form the
/// transport wants.
pub struct Call<'a> {
    method: &'a str,
    known: Option<Method>,
    body: &'a dyn Body,
    deadline: Option<Instant>,
    handover: Handover,
    began: Instant,
    /// When a transport's own limit for a response ends, in nanoseconds since it began; 0 for none.
    response_limit: AtomicU64,
    /// Whether its deadline is the attempt's own, and not the caller's.
    ends_attempt: bool,
    endpoint: AtomicUsize,
    avoided: usize,
}

/// The endpoint index of a call that was given to no endpoint. Those of a client are counted from 1.
pub(crate) const NO_ENDPOINT: usize = 0;

impl<'a> Call<'a> {
    /// Makes a call, as the client would, to test a transport with it.
    ///
    /// ```
    /// use centrifugo_api::transport::Call;
    /// use centrifugo_api::PublishRequest;
    ///
    /// let request = PublishRequest::new("news", serde_json::json!({"text": "hello"}));
    /// let call = Call::new(&request);
    /// assert_eq!(call.method(), "publish");
    /// ```
    pub fn new<R: Request>(request: &'a R) -> Self {
        Self::of(R::METHOD.name(), Some(R::METHOD), request, Instant::now(), None)
    }

    /// The same call with a deadline. [`Transport::send`](crate::transport::Transport::send) need not keep it: the client drops its future.
    #[must_use]
    pub fn with_deadline(self, deadline: impl Into<Option<Instant>>) -> Self {
        Self { deadline: deadline.into(), ..self }
    }

    /// Makes a call of a method, which the schema may not know.
    pub(crate) fn of(
        method: &'a str,
        known: Option<Method>,
        body: &'a dyn Body,
        began: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        let (handover, endpoint, avoided) = (Handover::default(), AtomicUsize::new(NO_ENDPOINT), NO_ENDPOINT);
        let response_limit = AtomicU64::new(0);
        Self { method, known, body, deadline, handover, began, response_limit, ends_attempt: false, endpoint, avoided }
    }

    /// The same call; `ends_attempt` says that its deadline ends the attempt and not the call.
    pub(crate) fn that_ends_attempt(self, ends_attempt: bool) -> Self {
        Self { ends_attempt, ..self }
    }

    /// The same call, to an endpoint other than this one if there is one.
    pub(crate) fn avoiding(self, endpoint: usize) -> Self {
        Self { avoided: endpoint, ..self }
    }

    /// Sets how long the transport waits for a response, from when the attempt began. The client ends the attempt then: one
    /// timer for that and for the deadline.
    #[cfg(feature = "http")]
    pub(crate) fn limit_response(&self, limit: Duration) {
        self.response_limit.store(limit.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When the attempt ends: at its deadline, or at the transport's limit for a response.
    pub(crate) fn end(&self) -> Option<Instant> {
        let limit = match self.response_limit.load(Ordering::Relaxed) {
            0 => None,
            nanos => self.began.checked_add(Duration::from_nanos(nanos)),
        };
        self.deadline.into_iter().chain(limit).min()
    }

    /// The index of the endpoint that it was last sent to.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint.load(Ordering::Relaxed)
    }

    /// The method's name: `"publish"`. Over HTTP it is the last part of the path.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// The method, if the schema of this version has it.
    #[must_use]
    pub fn known_method(&self) -> Option<Method> {
        self.known
    }

    /// When this attempt ends: when the caller stops waiting, or before that, if there is to be another attempt.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The request in protobuf.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is raw JSON that the schema has no place for.
    pub fn to_protobuf(&self) -> Result<Bytes, Error> {
        self.body.to_protobuf()
    }

    /// The request in JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it holds bytes that are not JSON, in a field that has no
    /// base64 twin.
    pub fn to_json(&self) -> Result<Bytes, Error> {
        self.body.to_json()
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn set_endpoint(&self, endpoint: usize) {
        self.endpoint.store(endpoint, Ordering::Relaxed);
    }

    pub(crate) fn avoided(&self) -> usize {
        self.avoided
    }

    /// Whether its deadline has passed and counts against the endpoint: it was the attempt's, or at least a second. A shorter one of
    /// the caller says nothing about the server.
    pub(crate) fn has_timed_out(&self) -> bool {
        const LONG: Duration = Duration::from_secs(1);
        let counts = |end| self.ends_attempt || end - self.began >= LONG;
        self.end().is_some_and(|end| counts(end) && end <= Instant::now())
    }

    /// The record that proves whether the request was sent, as the crate's own transports keep it.
    pub(crate) fn handover(&self) -> &Handover {
        &self.handover
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
