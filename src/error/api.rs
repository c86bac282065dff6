//! The server's own errors.

/// An error that the server returned: it understood the request, and refused it or failed.
///
/// Compare [`code`](Self::code) with the constants; the text is for people and may change.
/// See the server's [list of error codes](https://centrifugal.dev/docs/server/server_api#error-codes).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message, thiserror::Error)]
#[error("error {code} ({message})")]
#[prost(skip_debug)]
#[non_exhaustive]
pub struct ApiError {
    /// What went wrong; never 0 in an error of the server.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the server expects a repeat to succeed. Servers from 6.10 on set it.
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

impl ApiError {
    /// 100: something failed inside the server, its broker for one. The call may have taken effect.
    pub const INTERNAL: u32 = 100;
    /// 102: the channel's namespace is not configured.
    pub const UNKNOWN_CHANNEL: u32 = 102;
    /// 104: no such RPC method; as the reply to a batch command, no such method at all.
    pub const NOT_FOUND: u32 = 104;
    /// 107: a field is missing or malformed, or the namespace is of another kind.
    pub const BAD_REQUEST: u32 = 107;
    /// 108: the namespace has no history, no presence, or does not allow publishing this way.
    pub const NOT_AVAILABLE: u32 = 108;
    /// 111: the server limits the rate of requests. Nothing took effect; try again later.
    pub const TOO_MANY_REQUESTS: u32 = 111;
    /// 112: the position asked for is of another epoch, or has left the stream.
    pub const UNRECOVERABLE_POSITION: u32 = 112;
    /// 113: the change conflicts with the current state.
    pub const CONFLICT: u32 = 113;

    /// An error as a server would return it, for fakes and tests.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), temporary: false }
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.temporary || matches!(self.code, Self::INTERNAL | Self::TOO_MANY_REQUESTS)
    }

    /// Whether the code is known to mean that nothing took effect.
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

    /// The HTTP statuses with which a server in transport error mode returns this error.
    pub(crate) fn http_status(&self) -> &'static [u16] {
        match self.code {
            // A gateway's page has its own status as such a code, or a gRPC status, or no message. The server's codes begin at 100 and
            // end below 400, an application's are above.
            0..100 | 400..=599 => &[],
            _ if self.message.is_empty() => &[],
            Self::UNKNOWN_CHANNEL | Self::NOT_FOUND => &[404],
            Self::BAD_REQUEST | Self::NOT_AVAILABLE => &[400],
            Self::UNRECOVERABLE_POSITION => &[416],
            Self::CONFLICT => &[409],
            // 6.9 does not know the code yet; its rule for such codes, and what the code asks for.
            Self::TOO_MANY_REQUESTS => &[500, 429],
            _ => &[500],
        }
    }

    pub(super) fn advice(&self) -> &'static str {
        match self.code {
            Self::INTERNAL => {
                "look into the server's log; repeat a read as it is, and a publish only with the same idempotency key"
            }
            Self::UNKNOWN_CHANNEL => "configure the channel's namespace on the server, or correct the channel's name",
            Self::NOT_FOUND => "check the name of the RPC method",
            Self::BAD_REQUEST => "check that the required fields are set and that the namespace is of the right kind",
            Self::NOT_AVAILABLE => "enable the feature in the channel's namespace on the server",
            Self::UNRECOVERABLE_POSITION => {
                "read the current state again, from the position that history returns without `since`"
            }
            _ if self.is_transient() => "try again later",
            _ => "see the server's list of error codes",
        }
    }
}
