//! The requests and results of handlers, as `proto/proxy.proto` describes them.
//!
//! A request is read by its fields; a result is made with `default` and setters. Every `bytes` field is [`Bytes`] in a request
//! and a [`Payload`] in a result.

#![allow(
    clippy::pedantic,
    clippy::double_must_use,
    clippy::match_single_binding,
    reason = "generated code, and names that the server gave"
)]

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Deserializer, MapAccess};
use serde::ser::{SerializeMap, Serializer};

pub use crate::api::message::Disconnect;
use crate::api::payload::{self, Payload};
use crate::error::Error;
use crate::wire::json::{self, Fields};

include!(concat!(env!("OUT_DIR"), "/centrifugal.centrifugo.proxy.rs"));

impl From<bool> for BoolValue {
    fn from(value: bool) -> Self {
        Self { value }
    }
}

impl SharedPollRefreshResultItem {
    /// The data of a key, in this version.
    pub fn new(key: impl Into<String>, version: u64, data: impl Into<Payload>) -> Self {
        Self::default().key(key).version(version).data(data)
    }
}

include!(concat!(env!("OUT_DIR"), "/proxy_messages.rs"));

/// A request as it comes from the wire.
pub(crate) trait Incoming: prost::Message + DeserializeOwned + Default {
    /// Moves data in base64 into the field for bytes. Fails if it is not base64.
    fn settle(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
}

macro_rules! requests {
    (with data: $($with:ident)*; without: $($without:ident)*) => {
        $( impl Incoming for $with {
            fn settle(&mut self) -> Result<(), &'static str> {
                if !self.b64data.is_empty() {
                    let text = std::mem::take(&mut self.b64data);
                    self.data = json::decode_base64(&text).ok_or("`b64data` is not base64")?;
                }
                Ok(())
            }
        } )*
        $( impl Incoming for $without {} )*
    };
}
requests! {
    with data: ConnectRequest SubscribeRequest PublishRequest MapPublishRequest RpcRequest;
    without: RefreshRequest SubRefreshRequest MapRemoveRequest NotifyCacheEmptyRequest NotifyChannelStateRequest
        SharedPollRefreshRequest
}
