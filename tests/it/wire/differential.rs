//! One request, over either transport: the server sees the same.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use centrifugo_api::message::PublishResponse;
use centrifugo_api::testing::Server;
use centrifugo_api::transport::Reply;
use centrifugo_api::{
    BroadcastRequest, BroadcastResult, Client, Config, Error, Payload, PublishRequest, PublishResult, Retry,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config as Cases, RngAlgorithm, RngSeed, TestRng, TestRunner};
use serde::de::DeserializeOwned;

use crate::support::{block_on, client_responding};

/// The same cases every time.
fn cases() -> Cases {
    Cases { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Cases::with_cases(128) }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z:#.]{1,12}", 1 => ".{1,12}", 1 => Just("\0\"\\\u{2028}😀".to_owned())]
}

/// JSON of any form, bytes of any sort, or nothing.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no others", |number| number.is_finite())
            .prop_map(|number| number.to_string()),
        text().prop_map(|text| serde_json::json!({"text": text}).to_string()),
        (text(), any::<i64>()).prop_map(|(text, number)| serde_json::json!([text, number, null, true]).to_string()),
        Just(r#"{ "a" : 1.10, "a": 18446744073709551616, "b":"\u0000\/" }"#.to_owned()),
    ];
    prop_oneof![
        4 => json.prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 1..40),
        1 => Just(Vec::new()),
    ]
}

prop_compose! {
    fn publications()(
        channel in text(),
        data in data(),
        in_base64 in prop::bool::weighted(0.2),
        skip_history: bool,
        tags in prop::collection::hash_map(text(), ".{0,5}", 0..3),
        key in prop::option::weighted(0.3, text()),
        delta: bool,
        version in prop_oneof![Just(0), any::<u64>()],
        version_epoch in prop_oneof![Just(String::new()), text()],
    ) -> PublishRequest {
        let mut request = PublishRequest::new(channel, Payload::binary(data));
        if in_base64 {
            request.b64data = base64::engine::general_purpose::STANDARD.encode(&request.data);
        }
        request.skip_history = skip_history;
        request.tags = tags.into_iter().collect();
        request.idempotency_key = key.unwrap_or_default();
        request.delta = delta;
        request.version = version;
        request.version_epoch = version_epoch;
        request
    }
}

prop_compose! {
    fn broadcasts()(publication in publications(), channels in prop::collection::vec(text(), 1..4)) -> BroadcastRequest {
        let mut request = BroadcastRequest::new(channels, Payload::binary(publication.data));
        request.b64data = publication.b64data;
        request.skip_history = publication.skip_history;
        request.tags = publication.tags;
        request.idempotency_key = publication.idempotency_key;
        request.delta = publication.delta;
        request.version = publication.version;
        request.version_epoch = publication.version_epoch;
        request
    }
}

/// What either request has.
trait Publishing: std::fmt::Debug + prost::Message + DeserializeOwned + Default + Clone + PartialEq {
    fn parts(&mut self) -> (&mut Bytes, &mut String, &mut String);

    /// The data as the server takes it: what is in base64 wins.
    fn settled(mut self) -> Self {
        let (data, b64data, _) = self.parts();
        if !b64data.is_empty() {
            *data = base64::engine::general_purpose::STANDARD.decode(std::mem::take(b64data)).unwrap().into();
        }
        self
    }
}

impl Publishing for PublishRequest {
    fn parts(&mut self) -> (&mut Bytes, &mut String, &mut String) {
        (&mut self.data, &mut self.b64data, &mut self.idempotency_key)
    }
}

impl Publishing for BroadcastRequest {
    fn parts(&mut self) -> (&mut Bytes, &mut String, &mut String) {
        (&mut self.data, &mut self.b64data, &mut self.idempotency_key)
    }
}

/// Both forms of a call's request.
type Seen = Arc<Mutex<Vec<(Bytes, Bytes)>>>;

/// A client whose calls are seen in both forms, with this response.
fn observed(response: impl Fn() -> Reply + Send + Sync + 'static, retry: Retry) -> (Client, Seen) {
    let seen = Seen::default();
    let see = Arc::clone(&seen);
    let client = client_responding(move |call| {
        see.lock().unwrap().push((call.to_protobuf()?, call.to_json()?));
        Ok(response())
    });
    (client.with_retry(retry), seen)
}

/// Compares the two forms of what was sent with what was to be sent, but for a key of the client's own.
fn compare<R: Publishing>(request: &R, seen: &Seen, makes_keys: bool) -> Result<(), TestCaseError> {
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    prop_assert_eq!(seen.len(), 1);
    let (protobuf, json) = &seen[0];
    let over_grpc = R::decode(protobuf.clone()).unwrap().settled();
    let over_http = serde_json::from_slice::<R>(json).unwrap().settled();
    prop_assert_eq!(&over_grpc, &over_http);
    let mut expected = request.clone().settled();
    let mut sent = over_grpc;
    if makes_keys && expected.parts().2.is_empty() {
        let key = sent.parts().2.clone();
        prop_assert!(key.len() == 32 && key.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{}", key);
        *expected.parts().2 = key;
    }
    prop_assert_eq!(sent, expected);
    Ok(())
}

fn broadcast_result(channels: usize) -> BroadcastResult {
    let mut response = PublishResponse::default();
    response.result = Some(PublishResult::default());
    let mut result = BroadcastResult::default();
    result.responses = vec![response; channels];
    result
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_publish_is_the_same_in_both_forms(request in publications(), keys: bool) {
        let retry = Retry::new().idempotency_keys(keys);
        let (client, seen) = observed(|| Reply::result(&PublishResult::default()), retry);
        block_on(client.publish(&request)).unwrap();
        compare(&request, &seen, keys)?;
    }

    #[test]
    fn a_broadcast_is_the_same_in_both_forms(request in broadcasts(), keys: bool) {
        let retry = Retry::new().idempotency_keys(keys);
        let channels = request.channels.len();
        let (client, seen) = observed(move || Reply::result(&broadcast_result(channels)), retry);
        block_on(client.broadcast(&request)).unwrap().all_ok().unwrap();
        // The server would publish once into a channel that is named twice.
        let names_each_once = request.channels.iter().collect::<HashSet<_>>().len() == channels;
        compare(&request, &seen, keys && names_each_once)?;
    }
}

/// How a call ended, as far as it does not depend on the server that was called.
fn ending<T>(ended: &Result<T, Error>, position: impl Fn(&T) -> Vec<u64>) -> Result<Vec<u64>, (String, Option<u32>)> {
    match ended {
        Ok(result) => Ok(position(result)),
        Err(error) => Err((error.kind().name().to_owned(), error.code())),
    }
}

#[tokio::test]
async fn a_server_does_the_same_over_both_transports() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(cases(), rng);
    let (one, other) = (Server::start().await.unwrap(), Server::start().await.unwrap());
    let grpc = Client::new(Config::grpc(one.grpc_url())).unwrap();
    let http = Client::new(Config::http(other.http_url())).unwrap();
    for _ in 0..100 {
        let mut publish = publications().new_tree(&mut runner).unwrap().current();
        let broadcast = broadcasts().new_tree(&mut runner).unwrap().current();
        // Often into the same channels, so that keys and versions have something to say.
        publish.channel.truncate(
            publish.channel.char_indices().nth(1).map_or(usize::MAX, |(end, _)| end).min(publish.channel.len()),
        );
        // Twice, with the same key if it has one.
        for _ in 0..2 {
            let (over_grpc, over_http) = tokio::join!(grpc.publish(&publish), http.publish(&publish));
            let offset = |result: &PublishResult| vec![result.offset];
            assert_eq!(ending(&over_grpc, offset), ending(&over_http, offset), "{publish:?}");
            let (over_grpc, over_http) = tokio::join!(grpc.broadcast(&broadcast), http.broadcast(&broadcast));
            let offsets = |result: &BroadcastResult| {
                let offset = |response: &PublishResponse| response.result.as_ref().map_or(0, |result| result.offset);
                result.responses.iter().map(offset).collect()
            };
            assert_eq!(ending(&over_grpc, offsets), ending(&over_http, offsets), "{broadcast:?}");
        }
        for channel in broadcast.channels.iter().chain([&publish.channel]) {
            assert_eq!(one.applied(channel), other.applied(channel), "{channel:?}");
        }
    }
    // What they were asked, but for the keys that the clients made.
    let calls = |server: &Server| {
        let calls = server.calls().into_iter().map(|mut call| {
            let key = call.request.get_mut("idempotency_key");
            if let Some(key) = key.filter(|key| key.as_str().is_some_and(|key| key.len() == 32)) {
                *key = "made".into();
            }
            (call.method, call.request)
        });
        calls.collect::<Vec<_>>()
    };
    let (over_grpc, over_http) = (calls(&one), calls(&other));
    assert!(over_grpc.iter().any(|(_, request)| request["idempotency_key"] == "made"));
    assert_eq!(over_grpc, over_http);
}
