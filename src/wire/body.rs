//! The traits of messages and of the bodies of calls.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// A message of the API: it has a protobuf form and a JSON form.
pub trait Message: prost::Message + Serialize + DeserializeOwned + Default + Clone + sealed::Sealed + 'static {}

impl<T: prost::Message + Serialize + DeserializeOwned + Default + Clone + sealed::Sealed + 'static> Message for T {}

pub(crate) mod sealed {
    pub trait Sealed {
        /// How many results it holds: one for each channel of a broadcast. `None` if one of them is empty.
        fn results(&self) -> Option<usize> {
            Some(1)
        }

        /// Makes the outcome of refusals in it unknown: an earlier attempt, which got no response, may have taken effect.
        fn withdraw_refusals(&mut self) {}

        /// Gives the failed channels of a broadcast their names, which the server does not repeat.
        fn name_failed(&mut self, _channels: &[String]) {}
    }
}

/// The body of a call, in either form.
pub(crate) trait Body: Send + Sync {
    fn to_protobuf(&self) -> Result<Bytes, Error>;
    fn to_json(&self) -> Result<Bytes, Error>;

    fn size(&self) -> BodySize;
}

/// About how large a request is: its bytes in protobuf, and the channels or commands that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BodySize {
    pub(crate) bytes: usize,
    pub(crate) channels: usize,
}

/// The JSON form of a message.
pub(crate) fn message_to_json<T: Message>(message: &T) -> Result<Vec<u8>, Error> {
    // Most requests are their protobuf form plus the names of a few fields.
    let mut json = Vec::with_capacity(message.encoded_len() + 64);
    serde_json::to_writer(&mut json, message).map_err(not_json)?;
    Ok(json)
}

/// The error of a request that has no JSON form. (`Serialize` of a message fails for no other reason.)
pub(crate) fn not_json(error: impl fmt::Display) -> Error {
    Error::invalid(format!("the request cannot be sent over HTTP: {error}"))
}
