//! What a call is answered with: the envelope around a result, in either form.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::message::Disconnect;
use crate::error::ApiError;
use crate::proxy::message::Incoming;
use crate::proxy::method::Method;
use crate::proxy::rejection::{Kind, Rejection};

/// The forms that calls have: JSON over HTTP, protobuf over gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    #[cfg_attr(not(feature = "proxy-grpc"), allow(dead_code, reason = "only gRPC has it"))]
    Protobuf,
}

/// The `…Response` of the schema.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(bound = "T: Serialize + serde::de::DeserializeOwned")]
pub(crate) struct Answer<T: prost::Message + Default + fmt::Debug> {
    #[prost(message, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<T>,
    #[prost(message, optional, tag = "2")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ApiError>,
    #[prost(message, optional, tag = "3")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disconnect: Option<Disconnect>,
}

/// How a call ends that is not answered with an envelope.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The request cannot be read.
    Unreadable(String),
    /// There is no such handler.
    NotEnabled,
    /// The handler failed; why was logged.
    Internal,
}

/// Reads a request.
pub(crate) fn read<R: Incoming>(form: Form, body: &[u8]) -> Result<R, Failed> {
    let mut request = match form {
        // Texts of serde quote values, so only the place is told.
        Form::Json => serde_json::from_slice::<R>(body)
            .map_err(|error| format!("not JSON of this request (line {}, column {})", error.line(), error.column())),
        Form::Protobuf => R::decode(body).map_err(|_| "not protobuf of this request".to_owned()),
    }
    .map_err(Failed::Unreadable)?;
    request.settle().map_err(|why| Failed::Unreadable(why.to_owned()))?;
    Ok(request)
}

/// Writes the answer.
pub(crate) fn write<T>(form: Form, method: Method, outcome: Result<T, Rejection>) -> Result<Bytes, Failed>
where
    T: prost::Message + Default + fmt::Debug + Serialize + serde::de::DeserializeOwned,
{
    let mut answer = Answer { result: None, error: None, disconnect: None };
    match outcome {
        Ok(result) => answer.result = Some(result),
        Err(Rejection(Kind::Error(error))) => answer.error = Some(error),
        Err(Rejection(Kind::Disconnect(disconnect))) => answer.disconnect = Some(disconnect),
        // What the server itself says of a handler that is not configured.
        Err(Rejection(Kind::NotEnabled)) if method.tells_client() => {
            answer.error = Some(ApiError::new(ApiError::NOT_AVAILABLE, "not available"));
        }
        Err(Rejection(Kind::NotEnabled)) => return Err(Failed::NotEnabled),
        Err(Rejection(Kind::Internal(cause))) => {
            let cause = cause.as_ref().map(|cause| crate::proxy::dispatch::chain(&**cause)).unwrap_or_default();
            tracing::error!(method = method.name(), cause, "a handler that Centrifugo called failed");
            return Err(Failed::Internal);
        }
    }
    match form {
        Form::Protobuf => Ok(prost::Message::encode_to_vec(&answer).into()),
        Form::Json => {
            let mut json = Vec::with_capacity(128);
            match serde_json::to_writer(&mut json, &answer) {
                Ok(()) => Ok(json.into()),
                Err(error) => {
                    // The text names the field, and quotes nothing.
                    tracing::error!(method = method.name(), %error, "a handler's result cannot be sent over HTTP");
                    Err(Failed::Internal)
                }
            }
        }
    }
}
