//! How many messages per second do sequential broadcasts to 1 to 10,000 channels publish?

use centrifugo_api::{BroadcastRequest, Client};
use criterion::{BenchmarkId, Criterion, Throughput};

use super::{Clients, PAYLOAD, channels, group};

pub(super) fn bench(criterion: &mut Criterion, Clients { runtime, clients }: &Clients) {
    let mut group = group(criterion, "broadcast, by channels");
    for size in [1, 10, 100, 1_000, 10_000] {
        let channels = channels(size);
        group.throughput(Throughput::Elements(size as u64));
        for (transport, client) in clients {
            group.bench_function(BenchmarkId::new(*transport, size), |b| {
                b.to_async(runtime).iter(|| publish(client, &channels));
            });
        }
    }
    group.finish();
}

async fn publish(client: &Client, channels: &[String]) {
    let result = client.broadcast(BroadcastRequest::new(channels, PAYLOAD)).await.expect("the broadcast succeeds");
    assert!(result.responses.len() == channels.len() && result.failed().next().is_none());
}
