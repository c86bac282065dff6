//! How many messages per second do sequential batches of 1 to 10,000 publish?

use centrifugo_api::{Batch, Client, PublishRequest};
use criterion::{BenchmarkId, Criterion, Throughput};

use super::{Clients, PAYLOAD, channels, group};

pub(super) fn bench(criterion: &mut Criterion, Clients { runtime, clients }: &Clients) {
    let mut group = group(criterion, "batch, by size");
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

/// Fills a batch, sends it, and checks every reply.
async fn publish(client: &Client, channels: &[String]) {
    let mut batch = Batch::new();
    let push = |channel| batch.push(PublishRequest::new(channel, PAYLOAD));
    let handles: Vec<_> = channels.iter().map(push).collect();
    let replies = client.batch(&batch).await.expect("the batch succeeds");
    for handle in handles {
        replies.get(handle).expect("it is published");
    }
}
