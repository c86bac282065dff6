//! Why a handler does not return a result.

use std::error::Error as StdError;
use std::fmt;

use crate::api::message::Disconnect;
use crate::error::{ApiError, BoxError, Error};

/// The longest reason in a WebSocket close frame, in bytes: RFC 6455, section 5.5, less the two of the code. The server cuts
/// nothing: a longer reason ends the connection without a close frame.
const MAX_REASON: usize = 123;

/// Why a handler does not return a result: an error or a disconnect for the client, or a failure of the backend.
///
/// Any error of a program becomes an internal one with `?`: it is logged here with its cause, and the client learns only that
/// something failed (error 100, "internal server error").
///
/// ```
/// use centrifugo_api::proxy::{Caller, Proxy, Rejection, SubscribeRequest, SubscribeResult};
/// # struct Backend;
/// # impl Backend { async fn may_read(&self, _: &str, _: &str) -> Result<bool, std::io::Error> { Ok(true) } }
///
/// impl Proxy for Backend {
///     async fn subscribe(&self, request: SubscribeRequest, _: &Caller) -> Result<SubscribeResult, Rejection> {
///         if self.may_read(&request.user, &request.channel).await? {
///             Ok(SubscribeResult::default())
///         } else {
///             Err(Rejection::error(403, "not your channel")?)
///         }
///     }
/// }
/// ```
pub struct Rejection(pub(crate) Kind);

pub(crate) enum Kind {
    Error(ApiError),
    Disconnect(Disconnect),
    NotEnabled,
    Internal(Option<BoxError>),
}

impl Rejection {
    /// Refuses what the client asked for; its SDK gets the code and the message.
    ///
    /// Codes from 400 to 1999 are an application's own. Those from 100 to 399 are the
    /// [server's](https://centrifugal.dev/docs/server/codes), as 103 for "permission denied", and may be used with their meaning.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the code is outside 100 to 1999, or when the message is longer
    /// than 123 bytes or not ASCII. `?` in a handler makes an internal failure of it, which is logged.
    pub fn error(code: u32, message: impl Into<String>) -> Result<Self, Error> {
        let message = message.into();
        if !(100..=1999).contains(&code) {
            return Err(Error::invalid(format!(
                "an error for a client has a code from 400 to 1999, or one of the server's from 100 to 399, not {code}"
            )));
        }
        check_text("message of an error", &message)?;
        Ok(Self(Kind::Error(ApiError::new(code, message))))
    }

    /// The same as an error that the client's SDK may retry: it tries to subscribe again later.
    ///
    /// # Errors
    ///
    /// As for [`error`](Self::error).
    pub fn temporary_error(code: u32, message: impl Into<String>) -> Result<Self, Error> {
        let mut rejection = Self::error(code, message)?;
        if let Kind::Error(error) = &mut rejection.0 {
            error.temporary = true;
        }
        Ok(rejection)
    }

    /// Ends the connection of the client, which learns the code and the reason.
    ///
    /// After a code from 4000 to 4499 the client connects again, after one from 4500 to 4999 it does not. Those from 3000 to 3999
    /// are the [server's](https://centrifugal.dev/docs/server/codes#client-disconnect-codes), with the limit at 3500.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the code is outside 3000 to 4999, which a WebSocket cannot carry,
    /// or when the reason is longer than 123 bytes or not ASCII.
    pub fn disconnect(code: u32, reason: impl Into<String>) -> Result<Self, Error> {
        let reason = reason.into();
        if !(3000..=4999).contains(&code) {
            return Err(Error::invalid(format!(
                "a disconnect has a code from 4000 to 4999, or one of the server's from 3000 to 3999, not {code}"
            )));
        }
        check_text("reason of a disconnect", &reason)?;
        Ok(Self(Kind::Disconnect(Disconnect::new(code, reason))))
    }

    /// Error 103, "permission denied".
    #[must_use]
    pub fn permission_denied() -> Self {
        Self(Kind::Error(ApiError::new(103, "permission denied")))
    }

    /// A failure of the backend: HTTP status 500 or gRPC status `INTERNAL`. The client gets error 100, "internal server error".
    ///
    /// [`refresh`](crate::proxy::Proxy::refresh) and [`sub_refresh`](crate::proxy::Proxy::sub_refresh) then let the connection
    /// or the subscription go on for 60 s.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Kind::Internal(Some(cause.into())))
    }

    pub(crate) fn not_enabled() -> Self {
        Self(Kind::NotEnabled)
    }
}

/// Texts go into the close frame of a WebSocket, or into a header.
fn check_text(what: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_REASON {
        return Err(Error::invalid(format!("the {what} has {} bytes, more than {MAX_REASON}", text.len())));
    }
    if !text.is_ascii() || text.contains(|c: char| c.is_ascii_control()) {
        return Err(Error::invalid(format!("the {what} is not printable ASCII")));
    }
    Ok(())
}

impl<E: StdError + Send + Sync + 'static> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self::internal(error)
    }
}

/// Shows no cause: that is only logged.
impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Error(error) => f.debug_tuple("Error").field(error).finish(),
            Kind::Disconnect(disconnect) => f.debug_tuple("Disconnect").field(disconnect).finish(),
            Kind::NotEnabled => f.write_str("NotEnabled"),
            Kind::Internal(_) => f.write_str("Internal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn codes_and_texts_outside_of_what_a_client_can_be_told_are_refused() {
        for code in [0, 99, 2000, u32::MAX] {
            let error = Rejection::error(code, "no").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(&code.to_string()), "{error}");
        }
        for code in [0, 1000, 2999, 5000] {
            assert!(Rejection::disconnect(code, "no").is_err());
        }
        for text in ["ä", "a\nb", &"x".repeat(124)] {
            assert!(Rejection::error(400, text).is_err() && Rejection::disconnect(4000, text).is_err());
        }
        assert!(Rejection::error(100, "x".repeat(123)).is_ok() && Rejection::error(1999, "").is_ok());
        assert!(Rejection::disconnect(3000, "").is_ok() && Rejection::disconnect(4999, "x".repeat(123)).is_ok());
    }

    #[test]
    fn a_debug_shows_no_cause() {
        let rejection = Rejection::from(std::io::Error::other("sesame"));
        assert_eq!(format!("{rejection:?}"), "Internal");
    }
}
