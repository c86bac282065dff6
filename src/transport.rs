//! How a call reaches the server: the trait, and what it carries.

pub(crate) mod backoff;
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) mod balancer;
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) mod breaker;
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) mod fallback;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
#[cfg(any(feature = "grpc", feature = "http"))]
mod health;
#[cfg(any(feature = "grpc", feature = "http"))]
mod hint;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) mod names;
pub(crate) mod per_runtime;
#[cfg(all(feature = "tls", any(feature = "grpc", feature = "http")))]
pub(crate) mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

#[cfg(any(feature = "grpc", feature = "http"))]
use crate::ErrorKind;
use crate::error::Excess;
use crate::{ApiError, Error, Message, Method, Outcome, Request, wire};

/// A boxed future, as [`Transport`] returns them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries one call to the server and brings back its reply.
///
/// The crate's own speak gRPC and HTTP. Yours may wrap one of them, to record calls or to inject faults, or stand alone
/// as a fake; [`from_fn`] makes one of a closure.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use centrifugo_api::{BoxFuture, Call, Error, Reply, Transport};
///
/// /// Counts the calls that another transport carries.
/// #[derive(Debug)]
/// struct Counted<T> {
///     inner: T,
///     calls: AtomicUsize,
/// }
///
/// impl<T: Transport> Transport for Counted<T> {
///     fn name(&self) -> &'static str {
///         self.inner.name()
///     }
///
///     fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
///         self.calls.fetch_add(1, Ordering::Relaxed);
///         self.inner.send(call)
///     }
/// }
/// ```
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The name that errors give this transport: `"grpc"`, `"http"`.
    fn name(&self) -> &'static str;

    /// The address that errors name, where there is one.
    fn endpoint(&self) -> Option<Arc<str>> {
        None
    }

    /// Sends `call` once. The deadline is the client's: it drops the future when it passes.
    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>>;

    /// Gives its connections no more calls. Those that run on them go on, and later calls are made on new ones.
    ///
    /// Told when an endpoint stops answering, as its connections may be dead without a sign, and when the client is closed.
    fn disconnect(&self) {}
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        (**self).endpoint()
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        (**self).send(call)
    }

    fn disconnect(&self) {
        (**self).disconnect();
    }
}

/// A transport made of a closure, for tests.
///
/// ```
/// use centrifugo_api::{Client, PublishRequest, PublishResult, Reply, from_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), centrifugo_api::Error> {
/// let client = Client::with_transport(from_fn("fake", |call| {
///     assert_eq!(call.method(), "publish");
///     Ok(Reply::json(r#"{"result":{"offset":7}}"#))
/// }));
/// let result = client.publish(PublishRequest::new("news", serde_json::json!({}))).await?;
/// assert_eq!(result.offset, 7);
/// # Ok(()) }
/// ```
pub fn from_fn<F>(name: &'static str, answer: F) -> impl Transport
where
    F: Fn(&Call<'_>) -> Result<Reply, Error> + Send + Sync + 'static,
{
    struct FromFn<F>(&'static str, F);

    impl<F> fmt::Debug for FromFn<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("FromFn").field(&self.0).finish()
        }
    }

    impl<F: Fn(&Call<'_>) -> Result<Reply, Error> + Send + Sync + 'static> Transport for FromFn<F> {
        fn name(&self) -> &'static str {
            self.0
        }

        fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
            Box::pin(std::future::ready((self.1)(call)))
        }
    }

    FromFn(name, answer)
}

/// A request on its way: which method, and its body in whichever form the transport wants.
#[cfg_attr(not(any(feature = "grpc", feature = "http")), allow(dead_code, reason = "for the balancer"))]
pub struct Call<'a> {
    method: &'a str,
    known: Option<Method>,
    body: &'a dyn Body,
    deadline: Option<Instant>,
    handover: Handover,
    began: Instant,
    /// Whether its deadline is the attempt's own, and not the caller's.
    ends_attempt: bool,
    place: AtomicUsize,
    avoided: usize,
}

/// The place of a call that was given to no endpoint. The endpoints of a client are counted from 1.
pub(crate) const NOWHERE: usize = 0;

impl<'a> Call<'a> {
    /// A call of a method, which the schema may not know.
    pub(crate) fn new(
        method: &'a str,
        known: Option<Method>,
        body: &'a dyn Body,
        began: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        let (handover, place, avoided) = (Handover::default(), AtomicUsize::new(NOWHERE), NOWHERE);
        Self { method, known, body, deadline, handover, began, ends_attempt: false, place, avoided }
    }

    /// The same call, whose deadline may be that of an attempt with another one after it.
    pub(crate) fn that_ends_attempt(self, ends_attempt: bool) -> Self {
        Self { ends_attempt, ..self }
    }

    /// The same call, better not to the endpoint at this place.
    pub(crate) fn avoiding(self, place: usize) -> Self {
        Self { avoided: place, ..self }
    }

    /// Which endpoint it was given to last.
    pub(crate) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
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

    #[cfg(any(feature = "grpc", feature = "http"))]
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    #[cfg(any(feature = "grpc", feature = "http"))]
    pub(crate) fn goes_to(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    #[cfg(any(feature = "grpc", feature = "http"))]
    pub(crate) fn avoided(&self) -> usize {
        self.avoided
    }

    /// Whether it is dropped at its deadline, and that says something about the other side: an attempt's time was over, or a
    /// long one of the caller. How short a deadline is, is the caller's affair.
    #[cfg(any(feature = "grpc", feature = "http"))]
    pub(crate) fn has_waited_in_vain(&self) -> bool {
        const LONG: std::time::Duration = std::time::Duration::from_secs(1);
        let says_something = |deadline| self.ends_attempt || deadline - self.began >= LONG;
        self.deadline.is_some_and(|deadline| says_something(deadline) && deadline <= Instant::now())
    }

    /// How far the request has come, as the crate's own transports record it.
    pub(crate) fn handover(&self) -> &Handover {
        &self.handover
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// What a call sends, in either form.
pub(crate) trait Body: Send + Sync {
    fn to_protobuf(&self) -> Result<Bytes, Error>;
    fn to_json(&self) -> Result<Bytes, Error>;
}

impl<T: Request> Body for T {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let mut request = Vec::with_capacity(self.encoded_len());
        self.write(&mut request);
        Ok(request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        message_to_json(self).map(Bytes::from)
    }
}

/// The JSON form of a message.
pub(crate) fn message_to_json<T: Message>(message: &T) -> Result<Vec<u8>, Error> {
    // Most requests are little more than their protobuf form and the names of their fields.
    let mut json = Vec::with_capacity(message.encoded_len() + 64);
    serde_json::to_writer(&mut json, message).map_err(not_json)?;
    Ok(json)
}

/// The two forms of a request.
#[cfg_attr(not(any(feature = "grpc", feature = "http")), allow(dead_code, reason = "said by transports"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

/// The error of a request that has no JSON form. (`Serialize` of a message fails for no other reason.)
pub(crate) fn not_json(error: impl fmt::Display) -> Error {
    Error::invalid(format!("the request cannot be sent over HTTP: {error}"))
}

/// The server's answer to one call, as a transport brings it back.
#[derive(Clone)]
pub struct Reply(ReplyBody);

#[derive(Clone)]
pub(crate) enum ReplyBody {
    Protobuf(Bytes),
    Json(Bytes),
}

impl ReplyBody {
    /// A result in JSON.
    pub(crate) fn raw_json(result: Box<RawValue>) -> Self {
        Self::Json(Box::<str>::from(result).into_string().into())
    }

    /// Reads a result that stands alone.
    pub(crate) fn read_result<T: Message>(self) -> Result<T, Error> {
        let read = match self {
            Self::Json(result) => wire::from_json(&result),
            Self::Protobuf(result) => wire::message_from_protobuf(result),
        };
        // A result that this side cannot read is a result.
        read.map_err(|malformed| Error::protocol(malformed).with_outcome(Outcome::Done))
    }
}

/// Shows the form and the length only.
impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protobuf(body) => write!(f, "(protobuf, {} bytes)", body.len()),
            Self::Json(body) => write!(f, "(json, {} bytes)", body.len()),
        }
    }
}

impl Reply {
    /// An answer in protobuf: the bytes of the method's response message, which holds an `error` or a `result`.
    pub fn protobuf(response: impl Into<Bytes>) -> Self {
        Self(ReplyBody::Protobuf(response.into()))
    }

    /// An answer in JSON: `{"result": …}` or `{"error": …}`; for a batch `{"replies": […]}`.
    pub fn json(response: impl Into<Bytes>) -> Self {
        Self(ReplyBody::Json(response.into()))
    }

    /// The answer of a server that carried the call out.
    pub fn result<T: Message>(result: &T) -> Self {
        let mut response = Vec::new();
        prost::encoding::message::encode(2, result, &mut response);
        Self::protobuf(response)
    }

    /// The answer of a server that refused the call.
    #[must_use]
    pub fn error(error: &ApiError) -> Self {
        let mut response = Vec::new();
        prost::encoding::message::encode(1, error, &mut response);
        Self::protobuf(response)
    }

    pub(crate) fn body(self) -> ReplyBody {
        self.0
    }

    /// The result in the answer, as the server wrote it.
    pub(crate) fn result_body(self) -> Result<ReplyBody, Error> {
        match self.0 {
            ReplyBody::Json(body) => {
                Ok(ReplyBody::raw_json(wire::answer_from_json::<Box<RawValue>>(&body).map_err(Error::protocol)??))
            }
            ReplyBody::Protobuf(body) => {
                Ok(ReplyBody::Protobuf(wire::answer_from_protobuf(&body).map_err(Error::protocol)??))
            }
        }
    }

    /// Reads the answer to a method whose result is a `T`.
    pub(crate) fn read<T: Message>(self) -> Result<T, Error> {
        let unreadable = |malformed, was_done| {
            let error = Error::protocol(malformed);
            if was_done { error.with_outcome(Outcome::Done) } else { error }
        };
        let answer = match self.0 {
            ReplyBody::Json(body) => wire::answer_from_json(&body).map_err(|malformed| {
                // A result that this side cannot read is a result.
                let was_done = matches!(wire::answer_from_json::<Box<RawValue>>(&body), Ok(Ok(_)));
                unreadable(malformed, was_done)
            }),
            ReplyBody::Protobuf(body) => match wire::answer_from_protobuf(&body) {
                Ok(Ok(result)) => {
                    wire::message_from_protobuf(result).map(Ok).map_err(|malformed| unreadable(malformed, true))
                }
                Ok(Err(error)) => Ok(Err(error)),
                Err(malformed) => Err(unreadable(malformed, false)),
            },
        };
        Ok(answer??)
    }
}

/// Shows the form and the length only.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply{:?}", self.0)
    }
}

/// Refuses a request that is over the limit, before it is sent.
pub(crate) fn check_len(form: Form, bytes: usize, limit: usize) -> Result<(), Error> {
    if bytes <= limit { Ok(()) } else { Err(Error::over_limit(Excess { form, bytes, limit })) }
}

/// What an HTTP status other than 200 means, over either transport. The table in `docs/errors.md` says the same.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn of_http_status(status: ::http::StatusCode, headers: &::http::HeaderMap, page: &[u8]) -> Error {
    // In transport mode the server's own error is the whole body, and its code decides the status. Pages of proxies can
    // look alike.
    if let Ok(api) = serde_json::from_slice::<ApiError>(page)
        && api.http_status().contains(&status.as_u16())
    {
        return Error::from(api).with_hint(hint::of_http(headers));
    }
    let said = |text: &str| format!("the server answered HTTP status {status}{text}");
    let refused = |kind, text| Error::new(kind, said(text)).with_outcome(Outcome::Refused);
    let error = match status.as_u16() {
        401 | 403 => refused(ErrorKind::Unauthenticated, ""),
        400 => refused(ErrorKind::Invalid, ": it could not read the request"),
        404 | 405 => {
            refused(ErrorKind::Unsupported, ": no such method, or the URL is not that of the API, which ends in /api")
        }
        413 => refused(ErrorKind::TooLarge, ""),
        429 => refused(ErrorKind::Unavailable, "").overload(),
        502 | 503 => Error::new(ErrorKind::Unavailable, said("")),
        // Proxies answer 408 also when the server has not answered in time.
        408 | 504 => Error::new(ErrorKind::Timeout, said("")),
        500 => {
            Error::protocol(said(": if this is a read, what it found may hold data that is not JSON; gRPC returns it"))
        }
        300..=399 => refused(ErrorKind::Protocol, ": redirects are not followed; give the URL of the API itself"),
        411 | 415 | 431 => refused(ErrorKind::Protocol, ""),
        _ => Error::protocol(said("")),
    };
    error.with_hint(hint::of_http(headers))
}

/// Whether the cause proves that the server did not process the request: it said so itself, or the request never left.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn never_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    #[cfg(feature = "http")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return error.is_canceled();
    }
    error.downcast_ref::<h2::Error>().is_some_and(|error| {
        // h2 gives a GOAWAY of the server only to streams that it says it did not process.
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// `connect`, with what its cause says of the two sides' trust in each other.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn judge_trust(connect: Error, cause: &(dyn std::error::Error + 'static)) -> Error {
    #[cfg(feature = "tls")]
    if let Some(tls) = std::iter::once(cause)
        .chain(crate::error::causes(cause))
        .find_map(|cause| cause.downcast_ref::<rustls::Error>())
    {
        return connect.and(&format!(": {tls}")).untrusted();
    }
    let _ = cause;
    connect
}

/// Whether any of a request's body was handed to the connection: the proof that a call was or was not sent.
///
/// A transport that keeps it calls [`track`](Self::track) and gives the clone to the body, which asks
/// [`take`](Self::take) before it yields its first byte. When the deadline passes, [`revoke`](Self::revoke) either finds
/// the body taken, or makes sure that it never will be. Before a transport sends a call anew, [`anew`](Self::anew) makes
/// as sure of the first body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover {
    record: Arc<AtomicU32>,
    /// Which of the bodies of one call this is for.
    #[cfg_attr(not(any(test, feature = "grpc", feature = "http")), allow(dead_code, reason = "for transports"))]
    body: u32,
}

/// What the record says, from the lowest bit: how far the body in hand has come, whether an earlier one was handed over,
/// and the number of the body in hand. It starts as 0, which proves nothing.
const STATE: u32 = 0b11;
const PENDING: u32 = 1;
#[cfg(any(test, feature = "grpc", feature = "http"))]
const TAKEN: u32 = 2;
const REVOKED: u32 = 3;
const EARLIER_TAKEN: u32 = 0b100;
#[cfg(any(test, feature = "grpc", feature = "http"))]
const NUMBER: u32 = 3;

/// For transports that keep the record.
#[cfg(any(test, feature = "grpc", feature = "http"))]
impl Handover {
    /// Takes another body of the call in hand; from here on no earlier one can be handed over.
    pub(crate) fn track(&self) -> Self {
        let before = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(Self::next(now)));
        // The update is never refused, so both hold the value before it.
        let (Ok(before) | Err(before)) = before;
        self.of_next(before)
    }

    /// The record with one more body, now in hand.
    fn next(now: u32) -> u32 {
        let earlier = if now & STATE == TAKEN { EARLIER_TAKEN } else { now & EARLIER_TAKEN };
        ((now >> NUMBER) + 1) << NUMBER | earlier | PENDING
    }

    /// For the body that came after this record.
    fn of_next(&self, before: u32) -> Self {
        Self { record: Arc::clone(&self.record), body: (before >> NUMBER) + 1 }
    }

    /// Hands the body over, unless it was revoked or another one is in hand.
    pub(crate) fn take(&self) -> bool {
        let mine = |now: u32| now >> NUMBER == self.body;
        let take = |now: u32| (mine(now) && now & STATE == PENDING).then_some(now & !STATE | TAKEN);
        let taken = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.is_ok() || taken.is_err_and(|now| mine(now) && now & STATE == TAKEN)
    }

    /// Takes note that the server did not process the body: it is as if it had never been handed over.
    pub(crate) fn give_back(&self) {
        let given = |now: u32| now >> NUMBER == self.body && now & STATE == TAKEN;
        let back = |now: u32| given(now).then_some(now & !STATE | PENDING);
        // If it was not handed over, or another one is in hand, there is nothing to take note of.
        let _ = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, back);
    }

    /// Takes another body in hand, if this one was not handed over; now it never will be.
    #[cfg(any(test, feature = "grpc"))]
    pub(crate) fn anew(&self) -> Option<Self> {
        let mine = |now: u32| now >> NUMBER == self.body && now & STATE == PENDING;
        // In one step, so that whoever revokes the body in hand finds either this one or the next.
        let anew = |now: u32| mine(now).then(|| Self::next(now));
        let before = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, anew);
        before.ok().map(|before| self.of_next(before))
    }
}

impl Handover {
    /// Makes sure that the body in hand will not be handed over any more. Whether it is certain that none was.
    pub(crate) fn revoke(&self) -> bool {
        let revoke = |now: u32| (now & STATE == PENDING).then_some(now & !STATE | REVOKED);
        let (Ok(now) | Err(now)) = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, revoke);
        matches!(now & STATE, PENDING | REVOKED) && now & EARLIER_TAKEN == 0
    }

    /// `error`, with what the record proves about it.
    pub(crate) fn judge(&self, error: Error) -> Error {
        if self.revoke() && error.may_have_run() { error.with_outcome(Outcome::NotSent) } else { error }
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
#[cfg(any(feature = "grpc", feature = "http"))]
mod statuses;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_body_is_not_handed_over() {
        let handover = Handover::default().track();
        assert!(handover.revoke());
        assert!(!handover.take());
    }

    #[test]
    fn a_body_handed_over_cannot_be_revoked() {
        let handover = Handover::default().track();
        assert!(handover.take());
        assert!(!handover.revoke());
        assert!(handover.take(), "the later frames of the same body go on");
    }

    #[test]
    fn of_two_bodies_of_a_call_only_the_last_is_handed_over() {
        let call = Handover::default();
        let first = call.track();
        let second = first.anew().unwrap();
        assert!(!first.take());
        assert!(first.anew().is_none());
        assert!(second.take());
        assert!(!call.revoke(), "the call's own record is that of the body in hand");
        assert!(second.anew().is_none(), "it was handed over");
    }

    #[test]
    fn a_body_that_the_server_gave_back_was_not_handed_over() {
        let call = Handover::default();
        let first = call.track();
        assert!(first.take());
        first.give_back();
        let second = first.anew().unwrap();
        assert!(!first.take());
        assert!(second.take());
        first.give_back();
        assert!(!call.revoke(), "the second is not what was given back");
        second.give_back();
        assert!(call.revoke());
    }

    #[test]
    fn a_call_of_which_an_earlier_body_was_handed_over_may_have_run() {
        let call = Handover::default();
        let (first, second) = (call.track(), call.track());
        assert!(!first.take(), "the second is in hand");
        assert!(second.take());
        let third = call.track();
        assert!(!call.revoke());
        assert!(!third.take());
    }

    #[test]
    fn a_transport_that_keeps_no_record_proves_nothing() {
        assert!(!Handover::default().revoke());
    }
}
