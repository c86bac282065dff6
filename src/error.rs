//! What can go wrong, the same over every transport.
//!
//! The rules that turn a gRPC status or an HTTP status into an [`ErrorKind`] are a table in `docs/errors.md`, and one function
//! for each transport.

mod api;
mod context;
mod display;
mod failures;
mod kind;
mod outcome;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use crate::error::api::ApiError;
pub use crate::error::failures::Failure;
pub use crate::error::kind::ErrorKind;
pub use crate::error::outcome::Outcome;

/// Any error that can be a cause.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The causes of an error, the nearest first.
pub(crate) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    /// An I/O error has the causes of what it was made of as its own, and leaves out that itself.
    fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.map(|inner| inner as _).or_else(|| error.source())
    }
    std::iter::successors(cause(error), |&error| cause(error))
}

/// Why a call failed: what happened, where, whether it may have taken effect, and what to do about it.
///
/// The text (`Display`) says all of that in one line; the cause, where there is one, is in
/// [`source`](StdError::source) only. Neither ever holds a key, a token or a payload. The first words of a proxy's page may be
/// in the text, see [`page`](Self::page).
///
/// ```
/// use centrifugo_api::{Error, ErrorKind, Outcome};
///
/// fn report(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Api if error.code() == Some(centrifugo_api::ApiError::UNKNOWN_CHANNEL) => "no such namespace",
///         ErrorKind::Connect => "the server cannot be reached",
///         _ => match error.outcome() {
///             Outcome::NotSent | Outcome::Refused => "it did not take effect",
///             Outcome::Unknown => "it may have taken effect",
///             Outcome::Done => "it took effect, but its result cannot be read",
///         },
///     }
/// }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    outcome: Outcome,
    verdict: Verdict,
    retry_after: Option<RetryAfter>,
    ready_at: Option<Instant>,
    excess: Option<Excess>,
    attempts: u32,
    idempotency_key: Option<Box<str>>,
    api: Option<ApiError>,
    method: Option<Cow<'static, str>>,
    transport: Option<&'static str>,
    endpoint: Option<Arc<str>>,
    http_status: Option<u16>,
    page: Option<Box<str>>,
    failures: Vec<Failure>,
    source: Option<BoxError>,
}

/// What else is known of a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    #[default]
    None,
    /// The server or a proxy is overloaded.
    Overload,
    /// A certificate is not trusted; neither time nor another transport changes that.
    Untrusted,
    /// There is no gRPC at this address.
    NoGrpc,
    /// The port speaks TLS, and the endpoint is `http://`, or the other way round.
    WrongScheme,
    /// Something in front of the server refused the call.
    Intercepted,
    /// Something in front of the server wants a client certificate.
    NoClientCertificate,
    /// The cause is on this side, which says nothing about the server.
    Local,
    /// The cause is gone: the next response has a higher limit.
    Remedied,
}

/// When the server allows a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// Not before this time has passed.
    Wait(Duration),
    /// Not at all.
    Never,
}

/// The two forms of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

/// By how much a request is over a limit of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    /// The form in which it has the length.
    pub(crate) form: Form,
    pub(crate) bytes: usize,
    pub(crate) limit: usize,
}

impl Error {
    /// An error of this kind; `message` is what happened, and must hold no secret.
    ///
    /// For implementations of [`Transport`](crate::transport::Transport). The client adds the method, the transport and the
    /// endpoint. The [outcome](Self::outcome) is the usual one of the kind unless set with [`with_outcome`](Self::with_outcome).
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            outcome: kind.outcome(),
            verdict: Verdict::None,
            retry_after: None,
            ready_at: None,
            excess: None,
            attempts: 1,
            idempotency_key: None,
            api: None,
            method: None,
            transport: None,
            endpoint: None,
            http_status: None,
            page: None,
            failures: Vec::new(),
            source: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn protocol(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Sets whether the call took effect.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Sets how long the server asks to wait before a repeat.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(RetryAfter::Wait(wait));
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status of the response, when that is what failed the call.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }

    /// The text of the page that came with the [status](Self::http_status), at most 200 characters: the server's, or that of a proxy or
    /// firewall in front of it. Keys, tokens and passwords of the client are not in it.
    #[must_use]
    pub fn page(&self) -> Option<&str> {
        self.0.page.as_deref()
    }

    /// The channels of a broadcast or the commands of a batch that failed, when this is their error:
    /// [`BroadcastResult::all_ok`](crate::BroadcastResult::all_ok), [`BatchReplies::all_ok`](crate::BatchReplies::all_ok).
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.0.failures
    }

    /// What happened, without where, whether it may have taken effect, and what to do. For
    /// [`ErrorKind::Api`] it is the server's own text.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.0.api {
            Some(api) if self.0.kind == ErrorKind::Api => &api.message,
            _ => &self.0.message,
        }
    }

    /// The server's own error, for [`ErrorKind::Api`] and for methods a batch finds [unsupported](ErrorKind::Unsupported).
    #[must_use]
    pub fn api(&self) -> Option<&ApiError> {
        self.0.api.as_ref()
    }

    /// The code of the server's own error: one of the constants of [`ApiError`].
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.api().map(|api| api.code)
    }

    /// The method that was called, as `"publish"`.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.0.method.as_deref()
    }

    /// The transport that sent the call: `"grpc"`, `"http"`, or the [name](crate::transport::Transport::name) of your own.
    #[must_use]
    pub fn transport(&self) -> Option<&'static str> {
        self.0.transport
    }

    /// The address that was called.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// Whether the call took effect. Over all attempts, if there were several.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether the call may have taken effect: its [outcome](Self::outcome) is `Unknown` or `Done`.
    ///
    /// `false` is a promise: a repeat cannot take effect twice. `true` means that the client cannot tell: repeat a read freely,
    /// and a publish only with an idempotency key.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        matches!(self.0.outcome, Outcome::Unknown | Outcome::Done)
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            _ if matches!(self.0.verdict, Verdict::Untrusted | Verdict::NoGrpc | Verdict::WrongScheme) => false,
            _ if self.0.outcome == Outcome::Done => false,
            _ if self.0.verdict == Verdict::Remedied => true,
            ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Full => {
                true
            }
            ErrorKind::Api => self.api().is_some_and(ApiError::is_transient),
            _ => false,
        }
    }

    /// How long the server asks to wait before a repeat, if it does: `Retry-After` over HTTP, `grpc-retry-pushback-ms` or
    /// a `google.rpc.RetryInfo` over gRPC.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.retry_after {
            Some(RetryAfter::Wait(wait)) => Some(wait),
            Some(RetryAfter::Never) | None => None,
        }
    }

    /// The idempotency key that the client [made](crate::Retry) for a publish or broadcast that had none.
    ///
    /// Within 5 minutes the call can be made again with it, even if its outcome is unknown: if the call took effect, the server
    /// knows the key.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// How many attempts were made: more than 1 after [retries](crate::Retry).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
}

macro_rules! predicates {
    ($($name:ident $kind:ident: $doc:literal)*) => {
        /// # The kinds
        impl Error {
            $(
                #[doc = concat!("Whether ", $doc, ": [`ErrorKind::", stringify!($kind), "`].")]
                #[must_use]
                pub fn $name(&self) -> bool {
                    self.kind() == ErrorKind::$kind
                }
            )*
        }
    };
}

predicates! {
    is_api Api: "the server refused the request, or failed; its [code](Self::code) says why"
    is_unauthenticated Unauthenticated: "the key or the token was not accepted"
    is_unsupported Unsupported: "the server has no such method"
    is_connect Connect: "no connection could be made"
    is_lost Lost: "the connection ended without a response"
    is_timeout Timeout: "the deadline passed"
    is_unavailable Unavailable: "a proxy, a limiter or a server that is going away refused to serve the call now"
    is_too_large TooLarge: "a size limit was exceeded"
    is_protocol Protocol: "the response is not what the API describes"
    is_invalid Invalid: "the request or the configuration is wrong"
    is_closed Closed: "the client or the publisher was closed"
    is_full Full: "the publisher's capacity is used up"
    is_partial Partial: "some channels of a broadcast or commands of a batch failed"
}

impl From<ApiError> for Error {
    fn from(api: ApiError) -> Self {
        let mut error = Self::new(ErrorKind::Api, "");
        error.0.outcome = if api.is_refusal() { Outcome::Refused } else { Outcome::Unknown };
        error.0.api = Some(api);
        error
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_happened_and_nothing_else() {
        let error =
            Error::new(ErrorKind::Invalid, "it is wrong").with_context("publish".into(), "grpc", Some("here".into()));
        assert_eq!(error.message(), "it is wrong");
        assert!(error.to_string().starts_with("publish over grpc to here: it is wrong; "));
        assert_eq!(Error::from(ApiError::new(102, "unknown channel")).message(), "unknown channel");
    }

    #[test]
    fn a_debug_is_the_line_and_then_the_details() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Connect, "no connection could be made").with_source(cause);
        let error = error.with_context("publish".into(), "grpc", Some("here".into())).after_attempts(3);
        let text = format!("{error:?}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], error.to_string());
        assert_eq!(
            lines[1..],
            ["", "kind: Connect, outcome: NotSent, attempts: 3", "", "Caused by:", "    0: connection refused",]
        );
    }
}
