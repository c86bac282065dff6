//! The content of `bytes` fields.
//!
//! Over gRPC the bytes go as they are. Over HTTP, bytes that are JSON go inline, unchanged; other bytes go, in base64,
//! through the field's `b64…` twin, and where the server has no such twin the call is refused before it is sent.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::api::finite::{LOSSY, is_lossy};
use crate::error::Error;

/// The bytes with which some programs begin a file in UTF-8. JSON must not begin with them: RFC 8259, section 8.1.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Data for a publication, or for any other field that holds bytes.
///
/// ```
/// use centrifugo_api::{Payload, PublishRequest};
/// use serde_json::json;
///
/// # #[derive(serde::Serialize)] struct Message { text: &'static str }
/// let any_value = Payload::json(&Message { text: "hello" })?;
/// let json_text = Payload::raw_json(r#"{"price": 1.10}"#)?; // kept byte for byte
/// let binary = Payload::binary(vec![0xff, 0x00, 0x01]);
///
/// let request = PublishRequest::new("news", json!({"text": "hello"})); // a `Value` is a payload too
/// # assert_eq!(&request.data[..], br#"{"text":"hello"}"#);
/// # assert_eq!(json_text.as_bytes(), br#"{"price": 1.10}"#);
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
///
/// An empty payload is the same as none. `null` is a payload of four bytes: it publishes the JSON value `null`.
///
/// Subscribers that speak the JSON protocol are disconnected by the server (code 3506) when something that is not JSON
/// is published into their channel, so publish binary data only where all subscribers use the Protobuf protocol.
/// Reading such data back over HTTP does not work either: see [`Client::history`](crate::Client::history).
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Payload(Bytes);

impl Payload {
    /// Serializes any value to JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the value has no JSON form, as a map with keys that are no
    /// strings, NaN and infinities.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        match serde_json::to_string(value) {
            Ok(text) if is_lossy(value, &text) => Err(Error::invalid(format!("the payload {LOSSY}"))),
            Ok(text) => Ok(Self(text.into())),
            Err(_) => Err(Error::invalid("the payload cannot be written as JSON")),
        }
    }

    /// Takes text that is JSON already, and keeps it byte for byte.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the text is not one JSON value.
    pub fn raw_json(text: impl Into<Bytes>) -> Result<Self, Error> {
        let text = text.into();
        match serde_json::from_slice::<&RawValue>(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) if text.starts_with(BYTE_ORDER_MARK) => {
                Err(Error::invalid("the payload is not JSON: it begins with a byte order mark; remove that"))
            }
            Err(error) => Err(Error::invalid(format!(
                "the payload is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ))),
        }
    }

    /// Takes any bytes as they are.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes that will be sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Shows the length only.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl From<Payload> for Bytes {
    fn from(payload: Payload) -> Self {
        payload.0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }
}

impl From<serde_json::Value> for Payload {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<Box<RawValue>> for Payload {
    fn from(value: Box<RawValue>) -> Self {
        Self(Box::<str>::from(value).into_string().into())
    }
}

/// Decodes a `bytes` field of a result.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    // The cause is left out: serde's texts quote the value.
    serde_json::from_slice(bytes).map_err(|error| {
        let place = (error.line(), error.column());
        Error::protocol(format!(
            "{what} ({} bytes) is not JSON of the type asked for (line {}, column {})",
            bytes.len(),
            place.0,
            place.1
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_finite_is_refused() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Payload::json(&[Some(number)]).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
            assert!(error.to_string().contains("NaN"), "{error}");
        }
        assert_eq!(Payload::json(&[None, Some(1.5)]).unwrap().as_bytes(), b"[null,1.5]");
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let error = Payload::raw_json("\u{feff}{}").unwrap_err();
        assert!(error.to_string().contains("byte order mark"), "{error}");
    }

    #[test]
    fn a_value_that_has_no_json_is_refused_without_quoting_it() {
        let keys = std::collections::BTreeMap::from([(vec!["sesame"], 1)]);
        let error = Payload::json(&keys).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
        let error = Payload::raw_json("{sesame").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sesame"));
        let error = decode::<u64>("the data", br#""sesame""#).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sesame"));
    }
}
