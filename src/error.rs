//! What can go wrong, the same over every transport.
//!
//! The rules that turn a gRPC status or an HTTP status into an [`ErrorKind`] stand in [`ErrorKind`]'s documentation,
//! as a table, and in one function for each transport.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Any error that can be a cause.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The causes of an error, the nearest first.
pub(crate) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    /// An I/O error shows the causes of what it was made of, and not that itself.
    fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.map(|inner| inner as _).or_else(|| error.source())
    }
    std::iter::successors(cause(error), |&error| cause(error))
}

/// Why a call failed: what happened, where, whether it may have been carried out, and what to do about it.
///
/// The text (`Display`) says all of that in one line; the cause, where there is one, is in
/// [`source`](StdError::source) only. Neither ever holds a key, a token or a payload.
///
/// ```
/// use centrifugo_api::{Error, ErrorKind, Outcome};
///
/// fn report(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Api if error.code() == Some(centrifugo_api::ApiError::UNKNOWN_CHANNEL) => "no such namespace",
///         ErrorKind::Connect => "the server cannot be reached",
///         _ => match error.outcome() {
///             Outcome::NotSent | Outcome::Refused => "it was not carried out",
///             Outcome::Unknown => "nobody knows whether it was carried out",
///             Outcome::Done => "it was carried out, but its answer cannot be used",
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
    excess: Option<Excess>,
    attempts: u32,
    idempotency_key: Option<Box<str>>,
    api: Option<ApiError>,
    method: Option<Cow<'static, str>>,
    transport: Option<&'static str>,
    endpoint: Option<Arc<str>>,
    source: Option<BoxError>,
}

/// What became of a call that failed: whether the server carried it out.
///
/// It is proven, not guessed: `NotSent` means that nothing of the request's body was handed to a connection, or that the
/// server's side of the connection said that it did not process it; `Refused`, that somebody answered and did not carry it
/// out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It certainly never reached the server. A repeat cannot do it twice.
    NotSent,
    /// It was answered, and certainly not carried out. A repeat cannot do it twice.
    Refused,
    /// Nobody on this side knows. Repeat a read, and a publish with the idempotency key of the first attempt.
    Unknown,
    /// It was carried out, and only its answer cannot be used.
    Done,
}

impl Outcome {
    /// The outcome's name in lower case, as the command line prints it: `"not_sent"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Done => "done",
        }
    }
}

/// What a failure is besides its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    #[default]
    None,
    /// More was asked than somebody allows.
    Overload,
    /// The two sides do not trust each other; neither time nor another transport changes that.
    Untrusted,
    /// There is no gRPC at this address.
    NoGrpc,
}

/// What the server says about a repeat.
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

#[doc = include_str!("../docs/errors.md")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server understood the request and refused it. Match [`Error::code`], never the text.
    Api,
    /// The server did not accept the API key or the token.
    Unauthenticated,
    /// This server has no such method: usually one of Centrifugo PRO, asked of an open-source server.
    Unsupported,
    /// No connection could be made, so nothing was sent, unless by an earlier attempt: the outcome says so.
    Connect,
    /// The request was sent and the connection ended without an answer.
    Lost,
    /// The deadline passed.
    Timeout,
    /// Something on the way (a proxy, a limiter, a server that is going away) answered that it cannot serve the call now.
    Unavailable,
    /// A request or a reply is over a size limit, of this client's or of the server's.
    TooLarge,
    /// The answer is not what the API describes.
    Protocol,
    /// The request or the configuration is wrong: found out before anything was sent, or by the server.
    Invalid,
    /// The client was closed: see [`Client::close`](crate::Client::close). Or the publisher was.
    Closed,
    /// The publisher had no room: see [`Publisher`](crate::Publisher).
    Full,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: &'static [Self] = &[
        Self::Api,
        Self::Unauthenticated,
        Self::Unsupported,
        Self::Connect,
        Self::Lost,
        Self::Timeout,
        Self::Unavailable,
        Self::TooLarge,
        Self::Protocol,
        Self::Invalid,
        Self::Closed,
        Self::Full,
    ];

    /// The kind's name in lower case, as the command line prints it: `"api"`, `"too_large"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Unauthenticated => "unauthenticated",
            Self::Unsupported => "unsupported",
            Self::Connect => "connect",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::TooLarge => "too_large",
            Self::Protocol => "protocol",
            Self::Invalid => "invalid",
            Self::Closed => "closed",
            Self::Full => "full",
        }
    }

    /// What is true of the kind unless the place that made the error knows better.
    fn outcome(self) -> Outcome {
        match self {
            Self::Connect | Self::TooLarge | Self::Invalid | Self::Closed | Self::Full => Outcome::NotSent,
            Self::Unauthenticated | Self::Unsupported => Outcome::Refused,
            Self::Api | Self::Lost | Self::Timeout | Self::Unavailable | Self::Protocol => Outcome::Unknown,
        }
    }
}

impl Error {
    /// An error of `kind`; `message` says what happened and must hold no secret.
    ///
    /// For implementations of [`Transport`](crate::Transport). The client adds the method, the transport and the
    /// endpoint. The [outcome](Self::outcome) follows from the kind until [`with_outcome`](Self::with_outcome) says it.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            outcome: kind.outcome(),
            verdict: Verdict::None,
            retry_after: None,
            excess: None,
            attempts: 1,
            idempotency_key: None,
            api: None,
            method: None,
            transport: None,
            endpoint: None,
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

    pub(crate) fn with_api(mut self, api: ApiError) -> Self {
        self.0.api = Some(api);
        self
    }

    /// States what became of the call.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Says that the two sides do not trust each other, which a repeat will not change.
    #[cfg(feature = "tls")]
    pub(crate) fn untrusted(mut self) -> Self {
        self.0.verdict = Verdict::Untrusted;
        self
    }

    /// Says that there is no gRPC at the address.
    #[cfg(feature = "grpc")]
    pub(crate) fn no_grpc(mut self) -> Self {
        self.0.verdict = Verdict::NoGrpc;
        self
    }

    pub(crate) fn is_no_grpc(&self) -> bool {
        self.0.verdict == Verdict::NoGrpc
    }

    /// Says that more was asked than somebody allows.
    pub(crate) fn overload(mut self) -> Self {
        self.0.verdict = Verdict::Overload;
        self
    }

    /// Whether somebody found that too much was asked: another way to the same server would not help.
    pub(crate) fn is_overload(&self) -> bool {
        self.0.verdict == Verdict::Overload || self.code() == Some(ApiError::TOO_MANY_REQUESTS)
    }

    /// Says how long the server asks to wait before a repeat.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(RetryAfter::Wait(wait));
        self
    }

    pub(crate) fn with_hint(mut self, hint: Option<RetryAfter>) -> Self {
        self.0.retry_after = hint;
        self
    }

    pub(crate) fn hint(&self) -> Option<RetryAfter> {
        self.0.retry_after
    }

    /// What a request over a limit of this client ends with.
    pub(crate) fn over_limit(excess: Excess) -> Self {
        let Excess { bytes, limit, .. } = excess;
        let mut error =
            Self::new(ErrorKind::TooLarge, format!("the request has {bytes} bytes, over the limit of {limit}"));
        error.0.excess = Some(excess);
        error
    }

    /// Whether a smaller request might not have had this error, and this one certainly did nothing.
    pub(crate) fn is_of_size(&self) -> bool {
        self.0.kind == ErrorKind::TooLarge && !self.may_have_run()
    }

    /// By how much the request was over the limit, if the limit is this client's.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.0.excess
    }

    /// Why a part of a call is not sent after another one has failed.
    pub(crate) fn after_failed_part(failed: &Self) -> Self {
        let why = format!("a part of the batch before this one failed: {}", failed.message());
        Self::new(ErrorKind::Unavailable, why).with_outcome(Outcome::NotSent)
    }

    /// The same error for another call: what happened and where, with the first cause in words only.
    pub(crate) fn echo(&self) -> Self {
        let Inner { kind, message, outcome, verdict, transport, endpoint, api, retry_after, attempts, .. } = &*self.0;
        let message = match causes(self).last() {
            Some(first) if !message.contains(&first.to_string()) => format!("{message}: {first}").into(),
            _ => message.clone(),
        };
        let mut echo = Self::new(*kind, message).with_outcome(*outcome);
        (echo.0.verdict, echo.0.retry_after, echo.0.attempts) = (*verdict, *retry_after, *attempts);
        echo.0.api.clone_from(api);
        echo.0.transport = *transport;
        echo.0.endpoint.clone_from(endpoint);
        echo
    }

    /// Adds to what happened.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.0.message = format!("{}{more}", self.0.message).into();
        self
    }

    /// Takes back what the error promises: an earlier attempt may have been carried out.
    pub(crate) fn outcome_unknown(self) -> Self {
        self.and(", and an earlier attempt ended without an answer").with_outcome(Outcome::Unknown)
    }

    /// Says with which key the call was sent, if the client made it one.
    pub(crate) fn with_key(mut self, key: Option<&str>) -> Self {
        if let Some(key) = key {
            self.0.idempotency_key = Some(key.into());
        }
        self
    }

    /// Says how often the call was sent, or tried to be.
    pub(crate) fn after_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Says where it happened, in the places that are still open.
    pub(crate) fn with_context(
        mut self,
        method: Cow<'static, str>,
        transport: &'static str,
        endpoint: Option<Arc<str>>,
    ) -> Self {
        self.0.method.get_or_insert(method);
        self.0.transport.get_or_insert(transport);
        self.0.endpoint = self.0.endpoint.or(endpoint);
        self
    }

    /// Says in which method it happened, if that is still open.
    pub(crate) fn in_method(mut self, method: &str) -> Self {
        self.0.method.get_or_insert_with(|| method.to_owned().into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without where, whether it may have been carried out, and what to do. For
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

    /// The transport that carried the call: `"grpc"`, `"http"`, or the [name](crate::Transport::name) of your own.
    #[must_use]
    pub fn transport(&self) -> Option<&'static str> {
        self.0.transport
    }

    /// The address that was called.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// What became of the call: whether the server carried it out. Over all attempts, if there were several.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether the server may have carried the call out all the same: its [outcome](Self::outcome) is `Unknown` or `Done`.
    ///
    /// `false` is a promise: repeating the call cannot do it twice. `true` means nobody on this side knows: repeat a
    /// read freely, and a publish only with an idempotency key.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        matches!(self.0.outcome, Outcome::Unknown | Outcome::Done)
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            _ if matches!(self.0.verdict, Verdict::Untrusted | Verdict::NoGrpc) => false,
            _ if self.0.outcome == Outcome::Done => false,
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
    /// Within 5 minutes the call can be made again with it, even if its outcome is unknown: the server knows the key if it
    /// has carried the call out.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// How many attempts were made: more than 1 after [retries](crate::Retry).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.0.kind {
            ErrorKind::Api => self.api().map_or("see the server's documentation", ApiError::advice),
            ErrorKind::Unauthenticated => {
                "check the API key or token against the one this API of the server is configured with"
            }
            ErrorKind::Unsupported => {
                "use a server that has the method (many are in Centrifugo PRO only), and check that the URL names its API"
            }
            ErrorKind::Connect if self.0.verdict == Verdict::Untrusted => {
                "check the server's certificate, the authorities that `tls` trusts, and this side's certificate"
            }
            ErrorKind::Connect => "check the address, that the server's API is enabled there, and TLS",
            ErrorKind::Lost | ErrorKind::Timeout if !self.may_have_run() => "it is safe to repeat",
            ErrorKind::Lost | ErrorKind::Timeout => {
                "repeat a read as it is, and a publish only with the idempotency key of the first attempt"
            }
            ErrorKind::Unavailable => "try again later",
            ErrorKind::TooLarge => "send less at once, or raise the limit on the side that has it",
            ErrorKind::Protocol => {
                "check that the URL names a Centrifugo server API and that nothing in between rewrites answers"
            }
            ErrorKind::Invalid => "correct the request or the configuration",
            ErrorKind::Closed => "make another client",
            ErrorKind::Full => "wait until some of what was published is answered, or publish less",
        }
    }
}

impl From<ApiError> for Error {
    fn from(api: ApiError) -> Self {
        let mut error = Self::new(ErrorKind::Api, "");
        error.0.outcome = if api.is_refusal() { Outcome::Refused } else { Outcome::Unknown };
        error.0.api = Some(api);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, outcome, attempts, api, method, transport, endpoint, .. } = &*self.0;
        if let Some(method) = method {
            f.write_str(method)?;
            if let Some(transport) = transport {
                write!(f, " over {transport}")?;
            }
            if let Some(endpoint) = endpoint {
                write!(f, " to {endpoint}")?;
            }
            f.write_str(": ")?;
        }
        match api {
            Some(api) if *kind == ErrorKind::Api => write!(f, "{api}{message}")?,
            _ => f.write_str(message)?,
        }
        if *attempts > 1 {
            write!(f, ", the last of {attempts} attempts")?;
        }
        let fate = match outcome {
            Outcome::NotSent => "it was not sent",
            Outcome::Refused => "it was not carried out",
            Outcome::Unknown => "it may have been carried out",
            Outcome::Done => "it was carried out",
        };
        match method {
            Some(_) => write!(f, "; {fate}; {}", self.advice()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, outcome, attempts, api, method, transport, endpoint, source, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("message", &self.message())
            .field("outcome", outcome)
            .field("attempts", attempts)
            .field("api", api)
            .field("method", method)
            .field("transport", transport)
            .field("endpoint", endpoint)
            .field("source", source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// An error the server itself answered with: the request arrived, was understood, and was refused or failed.
///
/// Compare [`code`](Self::code) with the constants; the text is for people and may change.
/// See the server's [list of error codes](https://centrifugal.dev/docs/server/server_api#error-codes).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message, thiserror::Error)]
#[error("error {code} ({message})")]
#[prost(skip_debug)]
#[non_exhaustive]
pub struct ApiError {
    /// What went wrong; never 0 in an answer.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the server itself says that a repeat may succeed. Servers from 6.10 on set it.
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

impl ApiError {
    /// 100: something failed inside the server, its broker for one. The call may have been carried out.
    pub const INTERNAL: u32 = 100;
    /// 102: the channel's namespace is not configured.
    pub const UNKNOWN_CHANNEL: u32 = 102;
    /// 104: no such RPC method; as the reply to a batch command, no such method at all.
    pub const NOT_FOUND: u32 = 104;
    /// 107: a field is missing or malformed, or the namespace is of another kind.
    pub const BAD_REQUEST: u32 = 107;
    /// 108: the namespace has no history, no presence, or does not allow publishing this way.
    pub const NOT_AVAILABLE: u32 = 108;
    /// 111: the server limits the rate of requests. Nothing was carried out; try again later.
    pub const TOO_MANY_REQUESTS: u32 = 111;
    /// 112: the position asked for is of another epoch, or has left the stream.
    pub const UNRECOVERABLE_POSITION: u32 = 112;
    /// 113: the change conflicts with the current state.
    pub const CONFLICT: u32 = 113;

    /// An error as a server would answer it, for fakes and tests.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), temporary: false }
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.temporary || matches!(self.code, Self::INTERNAL | Self::TOO_MANY_REQUESTS)
    }

    /// Whether the code is known to mean that nothing was carried out.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self.code,
            Self::UNKNOWN_CHANNEL
                | Self::NOT_FOUND
                | Self::BAD_REQUEST
                | Self::NOT_AVAILABLE
                | Self::TOO_MANY_REQUESTS
                | Self::UNRECOVERABLE_POSITION
                | Self::CONFLICT
        )
    }

    /// The statuses with which a server in transport error mode answers this error over HTTP.
    pub(crate) fn http_status(&self) -> &'static [u16] {
        match self.code {
            0 => &[],
            Self::UNKNOWN_CHANNEL | Self::NOT_FOUND => &[404],
            Self::BAD_REQUEST | Self::NOT_AVAILABLE => &[400],
            Self::UNRECOVERABLE_POSITION => &[416],
            Self::CONFLICT => &[409],
            // 6.9 does not know the code yet; its rule for such codes, and what the code asks for.
            Self::TOO_MANY_REQUESTS => &[500, 429],
            _ => &[500],
        }
    }

    fn advice(&self) -> &'static str {
        match self.code {
            Self::INTERNAL => {
                "look into the server's log; repeat a read as it is, and a publish only with the same idempotency key"
            }
            Self::UNKNOWN_CHANNEL => "configure the channel's namespace on the server, or correct the channel's name",
            Self::NOT_FOUND => "check the name of the RPC method",
            Self::BAD_REQUEST => "check that the required fields are set and that the namespace is of the right kind",
            Self::NOT_AVAILABLE => "enable the feature in the channel's namespace on the server",
            Self::UNRECOVERABLE_POSITION => {
                "read the current state anew, from the position that history answers without `since`"
            }
            _ if self.is_transient() => "try again later",
            _ => "see the server's list of error codes",
        }
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
}
