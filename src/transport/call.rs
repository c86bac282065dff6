//! One attempt of a call, as a transport gets it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// After how many nanoseconds without a response its endpoint is unusually slow, if there are others; 0 for none.
    usual_limit: AtomicU64,
    /// Whether the attempt was given up, for another or at its deadline.
    given_up: AtomicBool,
    /// Whether its endpoint was found silent or lost.
    failed: AtomicBool,
    /// Whether its response has begun.
    responding: AtomicBool,
    endpoint: AtomicUsize,
    avoided: Avoided,
}

/// The endpoint that an attempt avoids, if there is another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Avoided {
    /// Its index.
    pub(crate) endpoint: usize,
    /// Whether it did not respond to the attempt before.
    pub(crate) silent: bool,
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
        Self {
            method,
            known,
            body,
            deadline,
            handover: Handover::default(),
            began,
            response_limit: AtomicU64::new(0),
            usual_limit: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            responding: AtomicBool::new(false),
            endpoint: AtomicUsize::new(NO_ENDPOINT),
            avoided: Avoided::default(),
        }
    }

    /// The same call, to another endpoint than this one if there is one.
    pub(crate) fn avoiding(self, avoided: Avoided) -> Self {
        Self { avoided, ..self }
    }

    /// Sets how long the transport waits for a response, from when the attempt began. The client ends the attempt then: one
    /// timer for that and for the deadline.
    #[cfg(feature = "http")]
    pub(crate) fn limit_response(&self, limit: Duration) {
        self.response_limit.store(nanos(limit), Ordering::Relaxed);
    }

    /// Sets after what time without a response its endpoint is unusually slow, from when the attempt began.
    pub(crate) fn limit_usual(&self, limit: Duration) {
        self.usual_limit.store(nanos(limit), Ordering::Relaxed);
    }

    /// When the attempt ends: at its deadline, or at the transport's limit for a response.
    pub(crate) fn end(&self) -> Option<Instant> {
        match (self.deadline, self.at(&self.response_limit)) {
            (Some(deadline), Some(limit)) => Some(deadline.min(limit)),
            (deadline, limit) => deadline.or(limit),
        }
    }

    /// When its endpoint is unusually slow.
    pub(crate) fn unusual(&self) -> Option<Instant> {
        self.at(&self.usual_limit)
    }

    fn at(&self, limit: &AtomicU64) -> Option<Instant> {
        match limit.load(Ordering::Relaxed) {
            0 => None,
            nanos => self.began.checked_add(Duration::from_nanos(nanos)),
        }
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

    /// When the caller stops waiting. The client may give up an attempt before that, for another.
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

    pub(crate) fn avoided(&self) -> Avoided {
        self.avoided
    }

    /// Records that the attempt is given up.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether the attempt was given up, and not dropped by its caller.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Records that its response has begun: it is read to its end, however long that takes.
    #[cfg(feature = "http")]
    pub(crate) fn set_responding(&self) {
        self.responding.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_responding(&self) -> bool {
        self.responding.load(Ordering::Relaxed)
    }

    /// Records that its endpoint did not respond.
    pub(crate) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether its endpoint did not respond.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The record that proves whether the request was sent, as the crate's own transports keep it.
    pub(crate) fn handover(&self) -> &Handover {
        &self.handover
    }
}

/// Nanoseconds, at least 1, as 0 is none.
fn nanos(limit: Duration) -> u64 {
    limit.as_nanos().try_into().unwrap_or(u64::MAX).max(1)
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
