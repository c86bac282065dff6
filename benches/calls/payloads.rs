//! How long does a publish of 64 bytes to 1 MiB take, one call at a time?

use centrifugo_api::{Payload, PublishRequest};
use criterion::{BenchmarkId, Criterion, Throughput};

use super::{Clients, group};

pub(super) fn bench(criterion: &mut Criterion, Clients { runtime, clients }: &Clients) {
    let mut group = group(criterion, "publish, by size");
    for size in [64, 1 << 10, 16 << 10, 256 << 10, 1 << 20] {
        let payload = Payload::json(&"x".repeat(size - 2)).expect("a string is JSON");
        group.throughput(Throughput::Bytes(size as u64));
        for (transport, client) in clients {
            group.bench_function(BenchmarkId::new(*transport, size), |b| {
                b.to_async(runtime).iter(async || {
                    client.publish(PublishRequest::new("plain:0", payload.clone())).await.expect("it is published");
                });
            });
        }
    }
    group.finish();
}
