//! What does it cost to fill a batch of 1 to 10,000 commands?
//!
//! A command is encoded when it is pushed, so this is the cost of a batch before it is sent.

use centrifugo_api::{Batch, PublishRequest};
use criterion::{BenchmarkId, Criterion, Throughput};

use super::PAYLOAD;

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fill a batch");
    for size in [1_usize, 10, 100, 1_000, 10_000] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let mut batch = Batch::new();
                for _ in 0..size {
                    batch.push(PublishRequest::new("news:everybody", PAYLOAD));
                }
                batch
            });
        });
    }
    group.finish();
}
