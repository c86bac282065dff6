//! The figures of all rounds, as tables or JSON.

use serde_json::{Value, json};

use crate::Options;
use crate::allocations::Allocations;
use crate::contests::{Contest, Promise, Quantity};
use crate::memory::Growth;

/// The median and the extremes.
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if !values.len().is_multiple_of(2) { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }

    fn text(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
    }
}

/// The machine and the versions behind the figures.
pub struct Origin<'a> {
    pub options: &'a Options,
    pub server: String,
}

impl Origin<'_> {
    fn json(&self) -> Value {
        let versions = VERSIONS_OF.map(|name| (name.to_owned(), Value::from(version(name))));
        json!({"rounds": self.options.rounds, "connections": self.options.connections,
            "channels": self.options.channels, "runtime": self.options.runtime.name(), "cores": cores(),
            "server": self.server, "versions": serde_json::Map::from_iter(versions)})
    }

    fn text(&self) -> String {
        let versions = VERSIONS_OF.map(|name| format!("{name} {}", version(name))).join(", ");
        let Options { rounds, runtime, connections, channels, .. } = self.options;
        format!(
            "{versions}\nserver: {}; channels {channels}N; {} cores; runtime {}; gRPC connections {connections}; {rounds} rounds\n",
            self.server,
            cores(),
            runtime.name(),
        )
    }
}

const VERSIONS_OF: [&str; 7] = ["centrifugo-api", "tonic", "hyper", "hyper-util", "reqwest", "cent", "rucent"];

/// The newest one in the lock file, which is the one that this crate names where there are two.
fn version(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let mut packages = lock.rsplit("[[package]]\n");
    let of_this = packages.find_map(|package| package.strip_prefix(&format!("name = \"{name}\"\nversion = \"")));
    of_this.and_then(|rest| rest.split('"').next()).unwrap_or("?")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The ratios that were promised, of the contests that took place.
fn promises(contests: &[Contest<'_>]) -> Vec<(Promise, Spread)> {
    let find = |(transport, name), way| {
        let is_it = |c: &&Contest<'_>| (c.subject.transport, c.subject.name, c.way) == (transport, name, way);
        contests.iter().find(is_it)
    };
    let kept = Promise::all().into_iter().filter_map(|promise| {
        let (this, peer) = (find(promise.this, promise.way)?, find(promise.peer, promise.way)?);
        let quantity = promise.quantity;
        // Compared round by round, because the two ran alternately within each.
        let pairs = this.samples.iter().zip(&peer.samples);
        let ratios = Spread::of(pairs.map(|(this, peer)| quantity.of(this) / quantity.of(peer)));
        Some((promise, ratios))
    });
    kept.collect()
}

fn spread(contest: &Contest<'_>, quantity: Quantity) -> Spread {
    Spread::of(contest.samples.iter().map(|sample| quantity.of(sample)))
}

pub fn rounds(origin: &Origin<'_>, contests: &[Contest<'_>]) {
    let promises = promises(contests);
    let with_server = origin.options.server.is_some();
    if origin.options.json {
        let results = contests.iter().map(|c| {
            json!({"transport": c.subject.transport, "peer": c.subject.name, "way": c.way.to_string(),
                "rate": spread(c, Quantity::Rate).json(), "cpu_us": spread(c, Quantity::Cpu).json(),
                "server_cpu_us": with_server.then(|| spread(c, Quantity::Server).json())})
        });
        let ratios = promises.iter().map(|(promise, ratios)| {
            json!({"this": [promise.this.0, promise.this.1], "peer": [promise.peer.0, promise.peer.1],
                "way": promise.way.to_string(), "quantity": promise.quantity.name(), "ratio": ratios.json(),
                "target": promise.target, "kept": promise.is_kept(ratios.median)})
        });
        let (results, ratios): (Vec<_>, Vec<_>) = (results.collect(), ratios.collect());
        println!("{}", json!({"origin": origin.json(), "results": results, "ratios": ratios}));
        return;
    }

    println!("{}", origin.text());
    let server = if with_server { "server's CPU us/message" } else { "" };
    let (rate, cpu) = ("messages/s (min..max)", "CPU us/message (min..max)");
    println!("{:<17}{:<6}{:<17}{rate:>30}{cpu:>30}{server:>30}\n", "way", "", "peer");
    for way in contests.chunk_by(|a, b| a.way == b.way) {
        for c in way {
            let server = if with_server { spread(c, Quantity::Server).text(2) } else { String::new() };
            let (rate, cpu) = (spread(c, Quantity::Rate).text(0), spread(c, Quantity::Cpu).text(2));
            let (way, transport, peer) = (c.way.to_string(), c.subject.transport, c.subject.name);
            let line = format!("{way:<17}{transport:<6}{peer:<17}{rate:>30}{cpu:>30}{server:>30}");
            println!("{}", line.trim_end());
        }
        println!();
    }
    if contests.iter().any(|contest| contest.subject.name == "rucent") {
        println!("rucent's futures may not change threads, so all of its callers share one.\n");
    }
    if !promises.is_empty() {
        println!("this crate over the peer: median of the rounds' ratios (min..max)");
    }
    for (promise, ratios) in promises {
        let names = [promise.this, promise.peer].map(|(transport, name)| format!("{transport} {name}"));
        println!(
            "{:<17}{:<22}/ {:<22}{:<6}{:>24}   {} {:.2} {}",
            promise.way.to_string(),
            names[0],
            names[1],
            promise.quantity.name(),
            ratios.text(3),
            if matches!(promise.quantity, Quantity::Rate) { ">=" } else { "<=" },
            promise.target,
            if promise.is_kept(ratios.median) { "kept" } else { "MISSED" },
        );
    }
}

pub fn allocations(origin: &Origin<'_>, contests: &[Contest<'_>], counted: &[Allocations]) {
    let each = |contest: &Contest<'_>, total: u64| total as f64 / contest.messages(origin.options) as f64;
    let rows = contests.iter().zip(counted).map(|(c, a)| (c, each(c, a.count), each(c, a.bytes)));
    if origin.options.json {
        let rows = rows.map(|(c, count, bytes)| {
            json!({"transport": c.subject.transport, "peer": c.subject.name, "way": c.way.to_string(),
                "allocations": count, "bytes": bytes})
        });
        println!("{}", json!({"origin": origin.json(), "allocations": rows.collect::<Vec<_>>()}));
        return;
    }
    println!("{}", origin.text());
    println!("{:<17}{:<6}{:<17}{:>22}{:>16}", "way", "", "peer", "allocations/message", "bytes/message");
    for (c, count, bytes) in rows {
        let (way, transport, peer) = (c.way.to_string(), c.subject.transport, c.subject.name);
        println!("{way:<17}{transport:<6}{peer:<17}{count:>22.2}{bytes:>16.0}");
    }
}

pub fn memory(origin: &Origin<'_>, contests: &[Contest<'_>], grown: &[Growth]) {
    if origin.options.json {
        let rows = contests.iter().zip(grown).map(|(c, g)| {
            json!({"transport": c.subject.transport, "peer": c.subject.name, "way": c.way.to_string(),
                "messages": g.messages, "seconds": g.seconds, "before_bytes": g.before, "peak_bytes": g.peak,
                "grown_bytes": g.grown(), "target_bytes": g.target, "kept": g.is_kept()})
        });
        println!("{}", json!({"origin": origin.json(), "memory": rows.collect::<Vec<_>>()}));
        return;
    }
    println!("{}", origin.text());
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!("{:<17}{:<6}{:<17}{:>10}{:>8}{:>14}{:>14}", "way", "", "peer", "messages", "s", "peak", "grown by");
    for (c, g) in contests.iter().zip(grown) {
        let (way, transport, peer) = (c.way.to_string(), c.subject.transport, c.subject.name);
        let (peak, grown) = (mib(g.peak), mib(g.grown()));
        print!("{way:<17}{transport:<6}{peer:<17}{:>10}{:>8.1}{peak:>14}{grown:>14}", g.messages, g.seconds);
        match g.target {
            Some(target) => println!("   <= {} {}", mib(target), if g.is_kept() { "kept" } else { "MISSED" }),
            None => println!(),
        }
    }
}
