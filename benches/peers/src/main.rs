//! How does this crate compare with the other ways to call the server API: in messages a second, in CPU time a message,
//! in allocations, in memory?
//!
//! Every peer sends the same messages to the same server in the same run. Peers in the same way alternate within every round, so
//! that other load on the machine affects all of them. Compare figures of one run only. The CPU time is this process's; the server
//! runs in another one, and on a small machine competes for the same cores.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- \
//!     --grpc http://localhost:10000 --http http://localhost:8000/api --api-key KEY
//! ```

mod allocations;
mod contests;
mod measure;
mod memory;
mod peers;
mod report;

use std::sync::Arc;

use centrifugo_api::message::InfoRequest;
use centrifugo_api::{Client, Config};
use clap::{Parser, ValueEnum};

use self::contests::Contest;
use self::measure::{CHANNELS, Usage};
use self::peers::Failure;
use self::report::Origin;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

#[derive(Parser)]
pub struct Options {
    /// Address of the server's gRPC API
    #[arg(long, default_value = "http://127.0.0.1:10000")]
    grpc: String,
    /// Address of the server's HTTP API
    #[arg(long, default_value = "http://127.0.0.1:8000/api")]
    http: String,
    /// Key of both APIs
    #[arg(long, default_value = "api_key")]
    api_key: String,
    /// Messages in a round (default: 10,000 for one caller, 20,000 for more, 100,000 where they share requests)
    #[arg(long)]
    messages: Option<usize>,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The tokio runtime of the peers: `multi` has two workers
    #[arg(long, value_enum, default_value = "multi")]
    runtime: Runtime,
    /// Runs only what has all of these words in `TRANSPORT PEER WAY`, as in the table, and none of those after a `-`
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Runs what shows the engine behind the server: one by one, batches with 4 in flight, and queues
    #[arg(long)]
    redis: bool,
    /// Connections over gRPC, of each peer
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Begins the names of the channels; a namespace without history leaves the server less to do
    #[arg(long, default_value = "peers-")]
    channels: String,
    /// The server's process, if it runs here: then its CPU time is told as well (Linux)
    #[arg(long, value_name = "PID")]
    server: Option<u32>,
    /// Counts allocations instead of time
    #[arg(long)]
    allocations: bool,
    /// Tells the peak of the memory of a million messages through a queue, against a slow server that it starts (Linux);
    /// one thing at a time is told best, with `--only`
    #[arg(long)]
    memory: bool,
    /// Has this crate give every publish and broadcast an idempotency key, as it does by default
    #[arg(long)]
    keys: bool,
    /// Prints JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Is the slow server
    #[arg(long, hide = true)]
    slow_server: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    Multi,
    Current,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Current => "current",
        }
    }
}

/// The parts of a round. The parts of the peers alternate, so that a disturbance of a second affects all.
const TURNS: usize = 5;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let mut builder = match options.runtime {
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread(),
        Runtime::Current => tokio::runtime::Builder::new_current_thread(),
    };
    builder.worker_threads(2).enable_all().build()?.block_on(run(options))
}

async fn run(mut options: Options) -> Result<(), Failure> {
    if options.slow_server {
        return memory::serve().await;
    }
    let _slow = options.memory.then(|| memory::start(&mut options)).transpose()?;
    if options.memory && options.only.is_none() {
        options.only = Some("publisher enqueue".into());
    }
    let options = &options;
    let channels: Arc<[String]> = (0..CHANNELS).map(|n| format!("{}{n}", options.channels)).collect();
    let subjects = peers::all(options, &channels).await?;
    let mut contests = contests::chosen(options, &subjects);
    if contests.is_empty() {
        return Err("no peer goes such a way".into());
    }
    if options.memory {
        // Without a warm-up, whose memory would raise the baseline of the peak.
        let mut grown = Vec::new();
        for contest in &contests {
            grown.push(memory::measure(contest, options.messages.unwrap_or(memory::MESSAGES)).await?);
        }
        let server = "the stand-in, 100 ms a request".into();
        report::memory(&Origin { options, server }, &contests, &grown);
        return Ok(());
    }

    let origin = Origin { options, server: server(options).await };
    // A fifth of a round makes the connections and fills the caches.
    for contest in &contests {
        contest.subject.run(contest.way, contest.messages(options) / 5).await?;
    }
    if options.allocations {
        let mut counted = Vec::new();
        for contest in &contests {
            allocations::start();
            contest.subject.run(contest.way, contest.messages(options)).await?;
            counted.push(allocations::stop());
        }
        report::allocations(&origin, &contests, &counted);
    } else {
        for round in 0..options.rounds {
            measure(options, round, &mut contests).await?;
        }
        report::rounds(&origin, &contests);
    }
    Ok(())
}

/// One round of all contests. Peers in the same way alternate within it, with the order reversed every other time.
async fn measure(options: &Options, round: usize, contests: &mut [Contest<'_>]) -> Result<(), Failure> {
    for group in contests.chunk_by_mut(|a, b| a.way == b.way) {
        let mut totals = vec![Usage::default(); group.len()];
        for turn in 0..TURNS {
            for index in 0..group.len() {
                let index = if (round + turn).is_multiple_of(2) { index } else { group.len() - 1 - index };
                let Contest { subject, way, .. } = group[index];
                let messages = group[index].messages(options) / TURNS;
                totals[index] += subject.measure(way, messages, options.server).await?;
            }
        }
        for (contest, total) in group.iter_mut().zip(totals) {
            contest.samples.push(total.sample(contest.messages(options) / TURNS * TURNS));
        }
    }
    Ok(())
}

/// The server's version, from `info`.
async fn server(options: &Options) -> String {
    let client = Client::new(Config::http(&options.http).api_key(&options.api_key));
    let info = match client {
        Ok(client) => client.info(InfoRequest::new()).await.ok(),
        Err(_) => None,
    };
    let node = info.and_then(|info| info.nodes.into_iter().next());
    format!("version {} at {} and {}", node.map_or_else(|| "?".into(), |node| node.version), options.grpc, options.http)
}
