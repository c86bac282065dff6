//! What does it cost to encode and to decode a message, in protobuf and in JSON?
//!
//! The messages alone, without the envelope of a result.

use std::hint::black_box;

use bytes::Bytes;
use centrifugo_api::message::Message;
use centrifugo_api::{HistoryResult, Publication, PublishRequest, PublishResult};
use criterion::{Criterion, Throughput};

use super::PAYLOAD;

pub(super) fn bench(criterion: &mut Criterion) {
    one(criterion, "publish", &PublishRequest::new("news:everybody", PAYLOAD));

    let mut position = PublishResult::default();
    (position.offset, position.epoch) = (4_711, "YWxz".into());
    one(criterion, "publish result", &position);

    let mut history = HistoryResult::default();
    (history.offset, history.epoch) = (100, "YWxz".into());
    history.publications = (1..=100).map(publication).collect();
    one(criterion, "history of 100", &history);
}

fn publication(offset: u64) -> Publication {
    let mut publication = Publication::default();
    (publication.offset, publication.data) = (offset, Bytes::from_static(PAYLOAD));
    publication
}

fn one<T: Message>(criterion: &mut Criterion, name: &str, message: &T) {
    let protobuf = Bytes::from(message.encode_to_vec());
    let json = serde_json::to_vec(message).expect("the payloads are JSON");

    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(protobuf.len() as u64));
    group.bench_function("protobuf/encode", |b| b.iter(|| black_box(message).encode_to_vec()));
    group.bench_function("protobuf/decode", |b| {
        b.iter(|| T::decode(protobuf.clone()).expect("it decodes what was encoded"));
    });
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("json/encode", |b| {
        b.iter(|| serde_json::to_vec(black_box(message)).expect("the payloads are JSON"));
    });
    group.bench_function("json/decode", |b| {
        b.iter(|| serde_json::from_slice::<T>(black_box(&json)).expect("it decodes what was encoded"));
    });
    group.finish();
}
