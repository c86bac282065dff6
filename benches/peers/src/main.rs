//! How does this crate compare with the other ways to call the server API: in messages a second, in CPU time a message,
//! in allocations?
//!
//! Every peer sends the same messages to the same server in the same run, and the peers of a transport take turns in
//! every round, in alternating order, so that what else the machine does meets all of them. Compare figures of one run
//! only. The CPU time is this process's; the server runs elsewhere, and on a small machine competes for the same cores.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- \
//!     --grpc http://localhost:10000 --http http://localhost:8000/api --api-key KEY
//! ```

mod allocations;
mod measure;
mod peers;

use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;

use self::measure::{CHANNELS, Sample, Subject, Usage, Way};
use self::peers::{Cent, Failure, Reqwest, This, Tonic};

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
    /// Messages in a round (default: 3,000 for one caller, 20,000 for more, 100,000 for batch and broadcast)
    #[arg(long)]
    messages: Option<usize>,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The tokio runtime of the peers: `multi` has two workers
    #[arg(long, value_enum, default_value = "multi")]
    runtime: Runtime,
    /// Runs only what has all of these words in `TRANSPORT PEER WAY`, as in the table
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
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
    /// Has this crate give every publish and broadcast an idempotency key, as it does by default
    #[arg(long)]
    keys: bool,
    /// Also runs tonic with a deadline on every call, and bare reqwest
    #[arg(long)]
    all: bool,
    /// Prints JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    Multi,
    Current,
}

/// What the project promises: a quantity of this crate over the same of a peer.
struct Promise {
    transport: &'static str,
    peer: &'static str,
    way: Way,
    quantity: Quantity,
    target: f64,
}

#[derive(Clone, Copy)]
enum Quantity {
    Rate,
    Cpu,
    Server,
}

impl Promise {
    fn all() -> Vec<Self> {
        let promise = |transport, peer, way, quantity, target| Self { transport, peer, way, quantity, target };
        let publish = [1, 64, 512].map(Way::Publish);
        let mut all = Vec::new();
        all.extend(publish.map(|way| promise("grpc", "tonic", way, Quantity::Rate, 0.95)));
        all.extend(publish.map(|way| promise("grpc", "tonic", way, Quantity::Cpu, 1.10)));
        // The same call, since this crate's have a deadline, of which the server is told.
        all.extend(publish.map(|way| promise("grpc", "tonic+deadline", way, Quantity::Rate, 0.95)));
        all.extend(publish.map(|way| promise("grpc", "tonic+deadline", way, Quantity::Cpu, 1.10)));
        all.push(promise("grpc", "tonic", Way::Batch, Quantity::Cpu, 0.5));
        all.extend(Way::ALL.map(|way| promise("http", "cent", way, Quantity::Rate, 0.95)));
        all
    }

    fn is_kept(&self, ratio: f64) -> bool {
        match self.quantity {
            Quantity::Rate => ratio >= self.target,
            Quantity::Cpu | Quantity::Server => ratio <= self.target,
        }
    }
}

impl Quantity {
    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Rate => sample.rate,
            Self::Cpu => sample.cpu_us,
            Self::Server => sample.server_us,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Cpu => "cpu",
            Self::Server => "server cpu",
        }
    }
}

/// The median and the extremes.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }

    fn json(&self) -> serde_json::Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

/// A peer, a way, and its samples, one for each round.
struct Series<'a> {
    subject: &'a Subject,
    way: Way,
    samples: Vec<Sample>,
}

/// Into how many parts a round is cut. The parts of the peers alternate, so that a disturbance of a second meets all.
const TURNS: usize = 5;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let mut builder = match options.runtime {
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread(),
        Runtime::Current => tokio::runtime::Builder::new_current_thread(),
    };
    builder.worker_threads(2).enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<(), Failure> {
    let channels: Arc<[String]> = (0..CHANNELS).map(|n| format!("{}{n}", options.channels)).collect();
    let mut subjects = vec![
        Subject::new("grpc", "tonic", Tonic::connect(options, None).await?, &channels),
        Subject::new("grpc", "this", This::grpc(options)?, &channels),
        Subject::new("http", "cent", Cent::new(options)?, &channels),
        Subject::new("http", "this", This::http(options)?, &channels),
    ];
    if options.all {
        let deadline = Some(Duration::from_secs(10));
        subjects.insert(1, Subject::new("grpc", "tonic+deadline", Tonic::connect(options, deadline).await?, &channels));
        subjects.insert(3, Subject::new("http", "reqwest", Reqwest::new(options)?, &channels));
    }
    let mut series = Vec::new();
    for transport in ["grpc", "http"] {
        for way in Way::ALL {
            for subject in subjects.iter().filter(|subject| subject.transport == transport) {
                let name = format!("{transport} {} {way}", subject.name);
                let wanted = options.only.as_deref().unwrap_or_default();
                if wanted.split_whitespace().all(|word| name.contains(word)) {
                    series.push(Series { subject, way, samples: Vec::new() });
                }
            }
        }
    }
    // A fifth of a round makes the connections and fills the caches.
    let messages = |way: Way| options.messages.unwrap_or(way.messages());
    for Series { subject, way, .. } in &series {
        subject.run(*way, messages(*way) / 5).await?;
    }
    if options.allocations {
        return count_allocations(options, &series, messages).await;
    }
    for round in 0..options.rounds {
        // The peers of one way take turns within the round, and every other turn the other way around.
        for group in series.chunk_by_mut(|a, b| (a.subject.transport, a.way) == (b.subject.transport, b.way)) {
            let messages = messages(group[0].way);
            let mut totals = vec![Usage::default(); group.len()];
            for turn in 0..TURNS {
                for index in 0..group.len() {
                    let index = if (round + turn) % 2 == 0 { index } else { group.len() - 1 - index };
                    totals[index] +=
                        group[index].subject.measure(group[index].way, messages / TURNS, options.server).await?;
                }
            }
            for (series, total) in group.iter_mut().zip(totals) {
                series.samples.push(total.sample(messages / TURNS * TURNS));
            }
        }
    }
    report(options, &series);
    Ok(())
}

async fn count_allocations(
    options: &Options,
    series: &[Series<'_>],
    messages: impl Fn(Way) -> usize,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for Series { subject, way, .. } in series {
        let messages = messages(*way);
        allocations::start();
        subject.run(*way, messages).await?;
        let counted = allocations::stop();
        let each = |total: u64| total as f64 / messages as f64;
        rows.push((subject, way, each(counted.count), each(counted.bytes)));
    }
    if options.json {
        let rows = rows.iter().map(|(subject, way, count, bytes)| {
            json!({"transport": subject.transport, "peer": subject.name, "way": way.to_string(),
                "allocations": count, "bytes": bytes})
        });
        println!("{}", json!({"allocations": rows.collect::<Vec<_>>()}));
        return Ok(());
    }
    println!("{:<6}{:<16}{:<16}{:>22}{:>16}", "", "peer", "way", "allocations/message", "bytes/message");
    for (subject, way, count, bytes) in rows {
        println!("{:<6}{:<16}{:<16}{count:>22.2}{bytes:>16.0}", subject.transport, subject.name, way.to_string());
    }
    Ok(())
}

fn report(options: &Options, series: &[Series<'_>]) {
    let spread = |series: &Series<'_>, quantity: Quantity| Spread::of(series.samples.iter().map(|s| quantity.of(s)));
    let find = |transport: &str, peer: &str, way: Way| {
        series.iter().find(|s| (s.subject.transport, s.subject.name, s.way) == (transport, peer, way))
    };
    // Rounds are compared one by one, because those of a pair ran next to each other.
    let promises: Vec<(Promise, Spread)> = Promise::all()
        .into_iter()
        .filter_map(|promise| {
            let this = find(promise.transport, "this", promise.way)?;
            let peer = find(promise.transport, promise.peer, promise.way)?;
            let quantity = promise.quantity;
            let pairs = this.samples.iter().zip(&peer.samples);
            let ratios = Spread::of(pairs.map(|(this, peer)| quantity.of(this) / quantity.of(peer)));
            Some((promise, ratios))
        })
        .collect();

    if options.json {
        let series = series.iter().map(|s| {
            json!({"transport": s.subject.transport, "peer": s.subject.name, "way": s.way.to_string(),
                "rate": spread(s, Quantity::Rate).json(), "cpu_us": spread(s, Quantity::Cpu).json(),
                "server_cpu_us": options.server.map(|_| spread(s, Quantity::Server).json())})
        });
        let promises = promises.iter().map(|(promise, ratios)| {
            json!({"transport": promise.transport, "peer": promise.peer, "way": promise.way.to_string(),
                "quantity": promise.quantity.name(), "ratio": ratios.json(), "target": promise.target,
                "kept": promise.is_kept(ratios.median)})
        });
        let (series, promises): (Vec<_>, Vec<_>) = (series.collect(), promises.collect());
        println!(
            "{}",
            json!({"rounds": options.rounds, "connections": options.connections,
            "results": series, "ratios": promises})
        );
        return;
    }

    let server = if options.server.is_some() { "server's CPU us/message" } else { "" };
    println!(
        "{:<6}{:<16}{:<16}{:>30}{:>30}{server:>30}",
        "", "peer", "way", "messages/s (min..max)", "CPU us/message (min..max)"
    );
    for s in series {
        let (rate, cpu) = (spread(s, Quantity::Rate), spread(s, Quantity::Cpu));
        let server = spread(s, Quantity::Server);
        println!(
            "{:<6}{:<16}{:<16}{:>30}{:>30}{:>30}",
            s.subject.transport,
            s.subject.name,
            s.way.to_string(),
            format!("{:.0} ({:.0}..{:.0})", rate.median, rate.min, rate.max),
            format!("{:.2} ({:.2}..{:.2})", cpu.median, cpu.min, cpu.max),
            options
                .server
                .map_or_else(String::new, |_| format!("{:.2} ({:.2}..{:.2})", server.median, server.min, server.max)),
        );
    }
    println!("\nthis crate over the peer: median of the rounds' ratios (min..max)");
    for (promise, ratios) in promises {
        let sign = if matches!(promise.quantity, Quantity::Rate) { ">=" } else { "<=" };
        println!(
            "{:<6}{:<16}{:<16}{:<6}{:>24}   {sign} {:.2} {}",
            promise.transport,
            promise.peer,
            promise.way.to_string(),
            promise.quantity.name(),
            format!("{:.3} ({:.2}..{:.2})", ratios.median, ratios.min, ratios.max),
            promise.target,
            if promise.is_kept(ratios.median) { "kept" } else { "MISSED" },
        );
    }
}
