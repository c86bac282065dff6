//! What can go wrong, the same over every transport.
//!
//! The rules that turn a gRPC status or an HTTP status into an [`ErrorKind`] stand in [`ErrorKind`]'s documentation,
//! as a table, and in one function for each transport.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Any error that can be a cause.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The causes of an error, the nearest first.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn causes(error: &dyn StdError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// Why a call failed: what happened, where, whether it may have been carried out, and what to do about it.
///
/// The text (`Display`) says all of that in one line; the cause, where there is one, is in
/// [`source`](StdError::source) only. Neither ever holds a key, a token or a payload.
///
/// ```
/// use centrifugo_api::{Error, ErrorKind};
///
/// fn report(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Api if error.code() == Some(centrifugo_api::ApiError::UNKNOWN_CHANNEL) => "no such namespace",
///         ErrorKind::Connect => "the server cannot be reached",
///         _ if error.may_have_run() => "nobody knows whether it was carried out",
///         _ => "it was not carried out",
///     }
/// }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    may_have_run: bool,
    api: Option<ApiError>,
    method: Option<Cow<'static, str>>,
    transport: Option<&'static str>,
    endpoint: Option<Arc<str>>,
    source: Option<BoxError>,
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
    /// No connection could be made, so nothing was sent.
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
    /// The request or the configuration is wrong. Nothing was carried out.
    Invalid,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 10] = [
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
        }
    }

    /// What is true of the kind unless the place that made the error knows better.
    fn may_have_run(self) -> bool {
        matches!(self, Self::Lost | Self::Timeout | Self::Unavailable | Self::Protocol)
    }
}

impl Error {
    /// An error of `kind`; `message` says what happened and must hold no secret.
    ///
    /// For implementations of [`Transport`](crate::Transport). The client adds the method, the transport and the
    /// endpoint. Whether the call [may have run](Self::may_have_run) follows from the kind until
    /// [`not_carried_out`](Self::not_carried_out) or [`carried_out`](Self::carried_out) says it.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            may_have_run: kind.may_have_run(),
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

    /// States that the server certainly did not carry the call out.
    #[must_use]
    pub fn not_carried_out(mut self) -> Self {
        self.0.may_have_run = false;
        self
    }

    /// States that the server did, or may well have, carried the call out.
    #[must_use]
    pub fn carried_out(mut self) -> Self {
        self.0.may_have_run = true;
        self
    }

    /// Says where it happened, in the places that are still open.
    pub(crate) fn at(mut self, method: Cow<'static, str>, transport: &'static str, endpoint: Option<Arc<str>>) -> Self {
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

    /// Whether the server may have carried the call out all the same.
    ///
    /// `false` is a promise: repeating the call cannot do it twice. `true` means nobody on this side knows: repeat a
    /// read freely, and a publish only with an idempotency key.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.0.may_have_run
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Timeout | ErrorKind::Unavailable => true,
            ErrorKind::Api => self.api().is_some_and(ApiError::is_transient),
            _ => false,
        }
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
            ErrorKind::Connect => "check the address, that the server's API is enabled there, and TLS",
            ErrorKind::Lost if !self.0.may_have_run => "it is safe to repeat",
            ErrorKind::Lost | ErrorKind::Timeout => {
                "repeat a read as it is, and a publish only with the idempotency key of the first attempt"
            }
            ErrorKind::Unavailable => "try again later",
            ErrorKind::TooLarge => "send less at once, or raise the limit on the side that has it",
            ErrorKind::Protocol => {
                "check that the URL names a Centrifugo server API and that nothing in between rewrites answers"
            }
            ErrorKind::Invalid => "correct the request or the configuration",
        }
    }
}

impl From<ApiError> for Error {
    fn from(api: ApiError) -> Self {
        let mut error = Self::new(ErrorKind::Api, "");
        error.0.may_have_run = !api.is_refusal();
        error.0.api = Some(api);
        error
    }
}

impl Error {
    /// What 104 means in a batch, for any command but `rpc`: the server has no such method.
    pub(crate) fn unsupported_command(api: ApiError) -> Self {
        let mut error = Self::new(ErrorKind::Unsupported, "the server does not know this command");
        error.0.api = Some(api);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, may_have_run, api, method, transport, endpoint, .. } = &*self.0;
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
            Some(api) if *kind == ErrorKind::Api => write!(f, "{api}")?,
            _ => f.write_str(message)?,
        }
        let fate = if *may_have_run { "it may have been carried out" } else { "it was not carried out" };
        match method {
            Some(_) => write!(f, "; {fate}; {}", self.advice()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, may_have_run, api, method, transport, endpoint, source, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("message", &self.message())
            .field("may_have_run", may_have_run)
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

crate::wire::json::message! { ApiError {
    code "code" always shown plain;
    message "message" always shown plain;
    temporary "temporary" set shown plain;
} }

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
    fn is_refusal(&self) -> bool {
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
    #[cfg(any(feature = "grpc", feature = "http"))]
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
        let error = Error::new(ErrorKind::Invalid, "it is wrong").at("publish".into(), "grpc", Some("here".into()));
        assert_eq!(error.message(), "it is wrong");
        assert!(error.to_string().starts_with("publish over grpc to here: it is wrong; "));
        assert_eq!(Error::from(ApiError::new(102, "unknown channel")).message(), "unknown channel");
    }
}
