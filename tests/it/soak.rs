//! Random faults between publishers and a server for a given time, and then a check that the outcome of every publication
//! is what the server applied.
//!
//! Ignored unless asked for:
//!
//! ```text
//! CENTRIFUGO_SOAK_SECONDS=600 CENTRIFUGO_SOAK_SEED=1 \
//!     cargo test --release --all-features --test it -- --ignored soak --nocapture
//! ```
//!
//! 60 s and a random seed unless set. The seed decides the faults and the calls; the scheduler still decides when.
//!
//! In each round, publishers publish numbered messages and keep a ledger of the outcomes; at its end all faults are removed,
//! all connections cut, and the ledger is compared with the server's history. A confirmed message must be there once, and in
//! order if it was published after another; one that was not sent or was refused must not be there; one of unknown outcome
//! may be there once.

#![allow(clippy::print_stdout, reason = "the report is for people")]

mod check;
mod faults;
mod harness;
mod publishers;
mod report;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use centrifugo_api::testing::{Namespace, Server};
use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

pub(crate) use harness::Addresses;
use harness::{Harness, Shape, Told};
use report::{count, print_table};

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(12);
/// The deadline of most calls, and the slack that an overloaded machine gets.
const DEADLINE: Duration = Duration::from_secs(4);
const SLACK: Duration = Duration::from_secs(1);
/// Calls that run when a client is closed.
const LAST_CALLS: u64 = 32;

#[test]
#[ignore = "a minute or more of random faults"]
fn soak() {
    let (time, seed) = asked_for();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Memory allocated at first use is not a leak.
        run(Duration::from_secs(1), seed).await;
        let before = Resources::now();
        run(time, seed).await;
        let after = Resources::settled(&before).await;
        println!("before: {before:?}\nafter:  {after:?}");
        assert!(after.tasks <= before.tasks, "tasks were left behind");
        assert!(after.files <= before.files, "open files were left behind");
    });
}

/// How long it is to take, and with which seed.
fn asked_for() -> (Duration, u64) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seconds = number("CENTRIFUGO_SOAK_SECONDS").unwrap_or(60);
    let seed = number("CENTRIFUGO_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("CENTRIFUGO_SOAK_SECONDS={seconds} CENTRIFUGO_SOAK_SEED={seed}");
    (Duration::from_secs(seconds), seed)
}

/// Every client on a stand-in of its own.
async fn run(time: Duration, seed: u64) {
    let history = Namespace::new("").history(1_000_000, Duration::from_secs(3600));
    let standin = Server::builder().without_namespace(history).without_records();
    let mut harnesses = Vec::new();
    for (shape, keys) in Shape::all() {
        let server = standin.clone().start().await.unwrap();
        let addresses = Addresses { grpc: server.grpc_addr(), http: server.http_addr(), key: None };
        harnesses.push(Harness::new(shape, keys, &addresses, Some(server)));
    }
    rounds(harnesses, time, seed).await;
}

/// Every client on one real server.
pub(crate) async fn run_on(addresses: &Addresses) {
    let (time, seed) = asked_for();
    rounds(Shape::all().map(|(shape, keys)| Harness::new(shape, keys, addresses, None)).collect(), time, seed).await;
}

async fn rounds(harnesses: Vec<Arc<Harness>>, time: Duration, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let until = end.min(Instant::now() + ROUND);
        join(harnesses.iter().map(|harness| Arc::clone(harness).round(until, rng.fork()))).await;
        join(harnesses.iter().map(|harness| Arc::clone(harness).check())).await;
        let wrong: Vec<_> = harnesses.iter().flat_map(|harness| harness.wrong()).collect();
        let rss = Resources::now().rss / 1024;
        println!("round {round}: {} publications, {rss} MiB resident", count(&harnesses));
        if !wrong.is_empty() {
            print_table(&harnesses);
            panic!("{} wrong, seed {seed}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
        }
    }
    join(harnesses.iter().map(|harness| Arc::clone(harness).close(rng.fork()))).await;
    join(harnesses.iter().map(|harness| Arc::clone(harness).check())).await;
    print_table(&harnesses);
    let wrong: Vec<_> = harnesses.iter().flat_map(|harness| harness.wrong()).collect();
    assert!(wrong.is_empty(), "{} wrong at the close, seed {seed}:\n{}", wrong.len(), wrong.join("\n"));
    // Without confirmed messages the round proves nothing.
    for harness in &harnesses {
        let confirmed = harness.counts.lock().unwrap().iter().filter(|((_, told), _)| *told == Told::Ok).count();
        assert!(confirmed > 0, "{}: nothing was confirmed, seed {seed}", harness.name());
    }
    for harness in harnesses {
        let harness = Arc::into_inner(harness).unwrap();
        drop((harness.client, harness.direct, harness.proxies));
        if let Some(standin) = harness.standin {
            standin.shutdown().await;
        }
    }
}

async fn join<F: Future<Output = ()> + Send + 'static>(tasks: impl Iterator<Item = F>) {
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// What the process holds.
#[derive(Debug)]
struct Resources {
    tasks: usize,
    files: usize,
    /// In KiB.
    rss: usize,
}

impl Resources {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            rss: rss.unwrap_or(0),
        }
    }

    /// What is left after all tasks and connections have ended.
    async fn settled(before: &Self) -> Self {
        for _ in 0..100 {
            let now = Self::now();
            if now.tasks <= before.tasks && now.files <= before.files {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Self::now()
    }
}
