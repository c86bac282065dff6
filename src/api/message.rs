//! The messages of the API, as `proto/api.proto` describes them.
//!
//! A request is made with `new`, from what the server requires, and with setters for the rest; a result is read by its
//! fields. Every `bytes` field is a [`Payload`] on the way in and [`Bytes`] on the way out.

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

pub use crate::api::broadcast::BroadcastResult;
use crate::api::payload::{self, Payload};
pub use crate::api::request::{IntoRequest, Request};
use crate::error::{ApiError, Error};
pub use crate::wire::body::Message;
use crate::wire::json::{self, Fields};

include!(concat!(env!("OUT_DIR"), "/centrifugal.centrifugo.api.rs"));

impl From<bool> for BoolValue {
    fn from(value: bool) -> Self {
        Self { value }
    }
}

impl HistoryRequest {
    /// The limit that returns all publications.
    pub const NO_LIMIT: i32 = -1;
}

impl StreamPosition {
    /// The position of the publication with this offset, in the stream of this epoch. An empty epoch matches any.
    pub fn new(offset: u64, epoch: impl Into<String>) -> Self {
        Self { offset, epoch: epoch.into() }
    }
}

impl Disconnect {
    /// The code and the reason that the client gets. Codes from 3000 on let it reconnect, from 3500 on they do not.
    pub fn new(code: u32, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_debug_shows_neither_payload_nor_token() {
        let publish = PublishRequest::new("news", serde_json::json!("sesame")).b64data("c2VzYW1l");
        let device = DeviceRegisterRequest::new("fcm", "sesame", "ios");
        for text in [format!("{publish:?}"), format!("{device:?}")] {
            assert!(!text.contains("sesame") && !text.contains("c2VzYW1l"), "{text}");
        }
        assert_eq!(
            format!("{publish:?}"),
            r#"PublishRequest { channel: "news", data: [redacted, size 8], b64data: [redacted, size 1] }"#
        );
    }

    #[test]
    fn a_debug_shows_every_field_of_a_result() {
        assert_eq!(
            format!("{:?}", PresenceStatsResult::default()),
            "PresenceStatsResult { num_clients: 0, num_users: 0 }"
        );
        assert_eq!(format!("{:?}", PublishResult::default()), r#"PublishResult { offset: 0, epoch: "" }"#);
    }

    #[test]
    fn a_fake_makes_a_result_and_its_bytes_are_decoded() {
        let info = ClientInfo::default().user("42").conn_info(serde_json::json!({"name": "Ann"}));
        let presence = PresenceResult::default().presence([("client", info)]);
        let name: serde_json::Value = presence.presence["client"].conn_info_json().unwrap();
        assert_eq!(name["name"], "Ann");
        let error = presence.presence["client"].chan_info_json::<u64>().unwrap_err();
        assert!(error.message().starts_with("`chan_info` of `ClientInfo` (0 bytes) is not JSON"), "{error}");
    }

    #[test]
    fn a_whole_double_is_written_without_a_point_and_a_64_bit_integer_as_a_number() {
        let metrics = Metrics { interval: 60.0, items: [("a".to_owned(), 0.5)].into() };
        assert_eq!(serde_json::to_string(&metrics).unwrap(), r#"{"interval":60,"items":{"a":0.5}}"#);
        let request = PublishRequest::new("a", Payload::default()).version(u64::MAX);
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"channel":"a","version":18446744073709551615}"#);
    }

    #[test]
    fn null_is_unset_except_in_a_payload() {
        let request: PublishRequest =
            serde_json::from_str(r#"{"channel":null,"tags":null,"version":null,"data":null}"#).unwrap();
        assert_eq!(request, PublishRequest::default().data(Payload::raw_json("null").unwrap()));
    }

    #[test]
    fn names_match_in_any_case_and_the_last_of_two_wins() {
        let request: HistoryRequest = serde_json::from_str(r#"{"Channel":"a","channel":"b","other":{}}"#).unwrap();
        assert_eq!(request.channel, "b");
    }

    #[test]
    fn bytes_that_are_not_json_go_through_the_twin() {
        let request = PublishRequest::new("a", Payload::binary(vec![0xff, 0x00]));
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"channel":"a","b64data":"/wA="}"#);
        let spaced = PublishRequest::new("a", Payload::raw_json(" 1").unwrap());
        assert_eq!(serde_json::to_string(&spaced).unwrap(), r#"{"channel":"a","b64data":"IDE="}"#);
    }

    #[test]
    fn bytes_without_a_twin_must_be_json() {
        let request = RpcRequest::new("echo").params(Payload::binary(vec![0xff]));
        let error = serde_json::to_string(&request).unwrap_err().to_string();
        assert!(error.contains("`params` holds 1 bytes that are not JSON"), "{error}");
    }

    #[test]
    fn the_last_value_of_a_protobuf_field_wins() {
        let bytes = [&PublishResult { offset: 1, epoch: "a".into() }.encode_to_vec()[..], &[0x08, 2]].concat();
        assert_eq!(PublishResult::decode(&bytes[..]).unwrap().offset, 2);
    }
}
