//! Benchmarks of calls over both transports: a file for each question.
//!
//! The server is the crate's stand-in, on a thread of this process with a runtime of its own, without history. It shares
//! the machine, and with few cores it is the bottleneck: compare these figures from run to run only. `benches/peers`
//! measures against a real server, and reports CPU time.
//!
//! `cargo bench --all-features --bench calls`

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use centrifugo_api::testing::{Namespace, Server};
use centrifugo_api::{Client, Config, Retry};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, measurement::WallTime};
use tokio::runtime::{Builder, Runtime};

mod batches;
mod broadcasts;
mod callers;
mod payloads;

const KEY: &str = "bench";
/// JSON of 26 bytes.
const PAYLOAD: &[u8] = br#"{"text":"hello everybody"}"#;

/// The clients, by the names of their transports, and their runtime.
struct Clients {
    runtime: Runtime,
    clients: [(&'static str, Client); 2],
}

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300)).sample_size(10);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    let clients = Clients::new();
    payloads::bench(&mut criterion, &clients);
    callers::bench(&mut criterion, &clients);
    batches::bench(&mut criterion, &clients);
    broadcasts::bench(&mut criterion, &clients);
    criterion.final_summary();
}

impl Clients {
    fn new() -> Self {
        let (grpc, http) = serve();
        // Idempotency keys would only fill the server's memory.
        let client = |config: Config| {
            let config = config.api_key(KEY).retry(Retry::new().idempotency_keys(false));
            Client::new(config).expect("the addresses are right")
        };
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
        Self {
            runtime,
            clients: [("grpc", client(Config::grpc(grpc).into())), ("http", client(Config::http(http).into()))],
        }
    }
}

/// Starts the stand-in, which runs until the process ends.
fn serve() -> (String, String) {
    let (started, urls) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let server = Server::builder().api_key(KEY).namespace(Namespace::new("plain")).without_records();
            let server = server.start().await.expect("there are free ports");
            started.send((server.grpc_url(), server.http_url())).expect("the receiver waits");
            std::future::pending::<()>().await;
        });
    });
    urls.recv().expect("the server starts")
}

/// Names of channels without history.
fn channels(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("plain:{number}")).collect()
}

/// A group whose iterations are long.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}
