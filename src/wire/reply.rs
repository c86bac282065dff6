//! The server's response to a call.

use std::fmt;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::error::{ApiError, Error, Outcome};
use crate::wire;
use crate::wire::body::Message;

/// The server's response to one call, as a transport returns it.
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

    /// Reads a result.
    pub(crate) fn read_result<T: Message>(self) -> Result<T, Error> {
        let read = match self {
            Self::Json(result) => wire::from_json(&result),
            Self::Protobuf(result) => wire::message_from_protobuf(result),
        };
        // The server returned a result, so the call has taken effect.
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
    /// A response in protobuf: the bytes of the method's response message, which holds an `error` or a `result`.
    pub fn protobuf(response: impl Into<Bytes>) -> Self {
        Self(ReplyBody::Protobuf(response.into()))
    }

    /// A response in JSON: `{"result": …}` or `{"error": …}`; for a batch `{"replies": […]}`.
    pub fn json(response: impl Into<Bytes>) -> Self {
        Self(ReplyBody::Json(response.into()))
    }

    /// The response of a server to a call that succeeded.
    pub fn result<T: Message>(result: &T) -> Self {
        let mut response = Vec::new();
        prost::encoding::message::encode(2, result, &mut response);
        Self::protobuf(response)
    }

    /// The response of a server that refused the call.
    #[must_use]
    pub fn error(error: &ApiError) -> Self {
        let mut response = Vec::new();
        prost::encoding::message::encode(1, error, &mut response);
        Self::protobuf(response)
    }

    /// The response as it came, in JSON or in protobuf.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        match &self.0 {
            ReplyBody::Protobuf(body) | ReplyBody::Json(body) => body,
        }
    }

    /// Whether the response is in JSON; otherwise it is in protobuf.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.0, ReplyBody::Json(_))
    }

    /// Decodes the response of a method with this result, as a recorder reads it. Not for batches.
    ///
    /// ```
    /// use centrifugo_api::transport::Reply;
    /// use centrifugo_api::PublishResult;
    ///
    /// let reply = Reply::json(r#"{"result":{"offset":7}}"#);
    /// assert_eq!(reply.decode::<PublishResult>()?.offset, 7);
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Api`](crate::ErrorKind::Api) when it is an error of the server, [`ErrorKind::Protocol`](crate::ErrorKind::Protocol)
    /// when it is not a response with such a result.
    pub fn decode<T: Message>(&self) -> Result<T, Error> {
        self.clone().read()
    }

    pub(crate) fn body(self) -> ReplyBody {
        self.0
    }

    /// The result in the response, as the server wrote it.
    pub(crate) fn result_body(self) -> Result<ReplyBody, Error> {
        match self.0 {
            ReplyBody::Json(body) => {
                Ok(ReplyBody::raw_json(wire::response_from_json::<Box<RawValue>>(&body).map_err(Error::protocol)??))
            }
            ReplyBody::Protobuf(body) => {
                Ok(ReplyBody::Protobuf(wire::response_from_protobuf(&body).map_err(Error::protocol)??))
            }
        }
    }

    /// Reads the response to a method whose result is a `T`.
    pub(crate) fn read<T: Message>(self) -> Result<T, Error> {
        let unreadable = |malformed, was_done| {
            let error = Error::protocol(malformed);
            if was_done { error.with_outcome(Outcome::Done) } else { error }
        };
        let response = match self.0 {
            ReplyBody::Json(body) => wire::response_from_json(&body).map_err(|malformed| {
                // The server returned a result, so the call has taken effect.
                let was_done = matches!(wire::response_from_json::<Box<RawValue>>(&body), Ok(Ok(_)));
                unreadable(malformed, was_done)
            }),
            ReplyBody::Protobuf(body) => match wire::response_from_protobuf(&body) {
                Ok(Ok(result)) => {
                    wire::message_from_protobuf(result).map(Ok).map_err(|malformed| unreadable(malformed, true))
                }
                Ok(Err(error)) => Ok(Err(error)),
                Err(malformed) => Err(unreadable(malformed, false)),
            },
        };
        Ok(response??)
    }
}

/// Shows the form and the length only.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply{:?}", self.0)
    }
}
