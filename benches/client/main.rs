//! Benchmarks without a server: a file for each question.
//!
//! `cargo bench --bench client`

use std::time::Duration;

use criterion::Criterion;

mod batches;
mod call;
mod formats;
mod payloads;

/// JSON of 26 bytes.
const PAYLOAD: &[u8] = br#"{"text":"hello everybody"}"#;

fn main() {
    // Pure computation, so a short time is enough.
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300)).sample_size(50);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    formats::bench(&mut criterion);
    call::bench(&mut criterion);
    batches::bench(&mut criterion);
    payloads::bench(&mut criterion);
    criterion.final_summary();
}
