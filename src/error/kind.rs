//! The kinds of failure.

use crate::error::outcome::Outcome;

/// What kind of failure an [`Error`](crate::Error) is, the same over every transport.
///
/// Match the kinds that you can do something about. [`Error::is_transient`](crate::Error::is_transient) says whether to try
/// again, [`Error::outcome`](crate::Error::outcome) whether the call took effect. The guide
/// [errors](crate::guide::errors) has a table of which status of which
/// transport becomes which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server understood the request and refused it. Match [`Error::code`](crate::Error::code), never the text.
    Api,
    /// The server did not accept the API key or the token, or something in front of it refused the call.
    Unauthenticated,
    /// This server has no such method: usually one of Centrifugo PRO, asked of an open-source server.
    Unsupported,
    /// No connection could be made, so nothing was sent, unless by an earlier attempt: see the outcome. Or the port speaks TLS and
    /// the endpoint is `http://`.
    Connect,
    /// The request was sent and the connection ended without a response.
    Lost,
    /// The deadline passed.
    Timeout,
    /// A proxy, a limiter, or a server that is shutting down cannot serve the call now.
    Unavailable,
    /// A request or a response is over a size limit, of this client or of the server.
    TooLarge,
    /// The response is not what the API describes.
    Protocol,
    /// The request or the configuration is wrong: found before anything was sent, or by the server.
    Invalid,
    /// The client was closed: see [`Client::close`](crate::Client::close). Or the publisher was.
    Closed,
    /// The publisher's capacity is used up: see [`Publisher`](crate::Publisher).
    Full,
    /// Some channels of a broadcast or some commands of a batch failed: see [`Error::failures`](crate::Error::failures).
    Partial,
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
        Self::Partial,
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
            Self::Partial => "partial",
        }
    }

    /// What is true of the kind unless the place that made the error knows better.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Connect | Self::TooLarge | Self::Invalid | Self::Closed | Self::Full => Outcome::NotSent,
            Self::Unauthenticated | Self::Unsupported => Outcome::Refused,
            Self::Api | Self::Lost | Self::Timeout | Self::Unavailable | Self::Protocol | Self::Partial => {
                Outcome::Unknown
            }
        }
    }
}
