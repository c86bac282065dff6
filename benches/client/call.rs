//! What does the client itself cost a call?
//!
//! The request is built and encoded, the response is decoded and checked, and there is no network in between: the
//! transport is a closure that returns a prepared response. Whatever more a real call takes is spent by the transport
//! and the server.

use std::future::ready;
use std::hint::black_box;

use bytes::Bytes;
use centrifugo_api::transport::{Call, Reply, from_fn};
use centrifugo_api::{Batch, Client, PublishRequest, PublishResult, Retry};
use criterion::{Criterion, Throughput};
use prost::encoding;

use super::PAYLOAD;

const BATCH: usize = 1_000;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut position = PublishResult::default();
    (position.offset, position.epoch) = (4_711, "YWxz".into());
    let clients = [("protobuf", protobuf(&position)), ("json", json(&position))];

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let mut group = criterion.benchmark_group("call without a network");
    for (form, client) in clients {
        group.throughput(Throughput::Elements(1));
        for (name, retry) in [("publish", None), ("publish with a key", Some(Retry::new()))] {
            let client = client.with_retry(retry);
            group.bench_function(format!("{name}/{form}"), |b| {
                b.to_async(&runtime).iter(|| client.publish(PublishRequest::new("news:everybody", PAYLOAD)));
            });
        }
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("batch of {BATCH}/{form}"), |b| {
            b.to_async(&runtime).iter(|| publish_all(&client));
        });
    }
    group.finish();
}

/// A client whose calls are encoded in protobuf and get their response at once.
fn protobuf(position: &PublishResult) -> Client {
    // The fields of `PublishResponse`, `Reply` and `BatchResponse`.
    const RESULT: u32 = 2;
    const PUBLISH: u32 = 4;
    const REPLIES: u32 = 1;
    let (mut publish, mut reply, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    encoding::message::encode(RESULT, position, &mut publish);
    encoding::message::encode(PUBLISH, position, &mut reply);
    encoding::bytes::encode_repeated(REPLIES, &vec![reply; BATCH], &mut batch);
    let (publish, batch) = (Bytes::from(publish), Bytes::from(batch));
    let reply = move |call: &Call<'_>| {
        black_box(call.to_protobuf()?);
        Ok(Reply::protobuf(if call.method() == "batch" { batch.clone() } else { publish.clone() }))
    };
    Client::with_transport(from_fn("none", move |call| ready(reply(call))))
}

/// The same in JSON.
fn json(position: &PublishResult) -> Client {
    let position = serde_json::to_string(position).expect("it has a JSON form");
    let publish = Bytes::from(format!(r#"{{"result":{position}}}"#));
    let replies = vec![format!(r#"{{"publish":{position}}}"#); BATCH].join(",");
    let batch = Bytes::from(format!(r#"{{"replies":[{replies}]}}"#));
    let reply = move |call: &Call<'_>| {
        black_box(call.to_json()?);
        Ok(Reply::json(if call.method() == "batch" { batch.clone() } else { publish.clone() }))
    };
    Client::with_transport(from_fn("none", move |call| ready(reply(call))))
}

async fn publish_all(client: &Client) {
    let mut batch = Batch::new();
    let push = |_| batch.push(PublishRequest::new("news:everybody", PAYLOAD));
    let handles: Vec<_> = (0..BATCH).map(push).collect();
    let replies = client.batch(&batch).await.expect("the batch succeeds");
    for handle in handles {
        replies.get(handle).expect("every command succeeds");
    }
}
