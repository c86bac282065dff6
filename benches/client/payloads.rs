//! What does it cost to validate a JSON payload of 64 bytes to 1 MiB?

use bytes::Bytes;
use centrifugo_api::Payload;
use criterion::{BenchmarkId, Criterion, Throughput};

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("validate a JSON payload");
    for size in [64, 1 << 10, 16 << 10, 256 << 10, 1 << 20] {
        let text = json(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| Payload::raw_json(text.clone()).expect("it is JSON"));
        });
    }
    group.finish();
}

/// An array of small objects, of exactly so many bytes.
fn json(size: usize) -> Bytes {
    let object = r#"{"id":4711,"text":"hello"},"#;
    let objects = object.repeat((size - "[0]".len()) / object.len());
    let spaces = " ".repeat(size - objects.len() - "[0]".len());
    Bytes::from(format!("[{objects}{spaces}0]"))
}
