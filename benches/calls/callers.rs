//! How many messages per second do 1 to 2,048 concurrent callers publish, each waiting for its result before the next?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use centrifugo_api::{Client, PublishRequest};
use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::task::JoinSet;

use super::{Clients, PAYLOAD, channels, group};

/// The least number of messages, so that few callers give a measurement.
const MESSAGES: usize = 512;

pub(super) fn bench(criterion: &mut Criterion, Clients { runtime, clients }: &Clients) {
    let mut group = group(criterion, "publish, by callers");
    let channels: Arc<[String]> = channels(1_000).into();
    for callers in [1, 16, 64, 512, 2_048] {
        let messages = callers.max(MESSAGES);
        group.throughput(Throughput::Elements(messages as u64));
        for (transport, client) in clients {
            group.bench_function(BenchmarkId::new(*transport, callers), |b| {
                b.to_async(runtime).iter(|| publish(client, &channels, callers, messages));
            });
        }
    }
    group.finish();
}

/// Every caller takes the next message until none is left.
async fn publish(client: &Client, channels: &Arc<[String]>, callers: usize, messages: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (client, channels, next) = (client.clone(), Arc::clone(channels), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let message = next.fetch_add(1, Ordering::Relaxed);
                if message >= messages {
                    break;
                }
                let channel = &channels[message % channels.len()];
                client.publish(PublishRequest::new(channel, PAYLOAD)).await.expect("it is published");
            }
        });
    }
    tasks.join_all().await;
}
