//! Random harm between publishers and a server for as long as wanted, and then the question whether every client told the
//! truth about every publication.
//!
//! Ignored unless asked for:
//!
//! ```text
//! CENTRIFUGO_SOAK_SECONDS=600 CENTRIFUGO_SOAK_SEED=1 \
//!     cargo test --release --all-features --test it -- --ignored soak --nocapture
//! ```
//!
//! 60 s and a seed by lot unless set. The seed decides what goes wrong and what is called; the scheduler still decides when.
//!
//! It goes in rounds. In each, publishers publish what has a number of its own, and keep a ledger of what they were told;
//! at its end all is healed and cut, and the ledger is compared with the server's history. What was confirmed must be there
//! once, and in order where one was published after the other; what was not sent or refused must not be there; and what
//! nobody knows may be there once.

#![allow(clippy::print_stdout, reason = "the report is for people")]

mod check;
mod harm;
mod publishers;
mod report;
mod world;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use centrifugo_api::testing::{Namespace, Server};
use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use report::{count, print_table};
pub(crate) use world::Place;
use world::{Shape, Told, World};

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(12);
/// The deadline of most calls, and what may be added to it: a machine with more to do than it can must not fail the test.
const DEADLINE: Duration = Duration::from_secs(4);
const SLACK: Duration = Duration::from_secs(1);
/// Calls that run when a client is closed.
const LAST_CALLS: u64 = 32;

#[test]
#[ignore = "a minute or more of random harm"]
fn soak() {
    let (time, seed) = asked_for();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // What a first use leaves behind is no leak.
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
    let mut worlds = Vec::new();
    for (shape, keys) in Shape::all() {
        let server = standin.clone().start().await.unwrap();
        let place = Place { grpc: server.grpc_addr(), http: server.http_addr(), key: None };
        worlds.push(World::new(shape, keys, &place, Some(server)));
    }
    rounds(worlds, time, seed).await;
}

/// Every client on one real server.
pub(crate) async fn run_on(place: &Place) {
    let (time, seed) = asked_for();
    rounds(Shape::all().map(|(shape, keys)| World::new(shape, keys, place, None)).collect(), time, seed).await;
}

async fn rounds(worlds: Vec<Arc<World>>, time: Duration, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let until = end.min(Instant::now() + ROUND);
        join(worlds.iter().map(|world| Arc::clone(world).round(until, rng.fork()))).await;
        join(worlds.iter().map(|world| Arc::clone(world).check())).await;
        let wrong: Vec<_> = worlds.iter().flat_map(|world| world.wrong()).collect();
        let rss = Resources::now().rss / 1024;
        println!("round {round}: {} publications, {rss} MiB resident", count(&worlds));
        if !wrong.is_empty() {
            print_table(&worlds);
            panic!("{} wrong, seed {seed}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
        }
    }
    join(worlds.iter().map(|world| Arc::clone(world).close(rng.fork()))).await;
    join(worlds.iter().map(|world| Arc::clone(world).check())).await;
    print_table(&worlds);
    let wrong: Vec<_> = worlds.iter().flat_map(|world| world.wrong()).collect();
    assert!(wrong.is_empty(), "{} wrong at the close, seed {seed}:\n{}", wrong.len(), wrong.join("\n"));
    // Where nothing was confirmed, nothing was proven.
    for world in &worlds {
        let confirmed = world.counts.lock().unwrap().iter().filter(|((_, told), _)| *told == Told::Ok).count();
        assert!(confirmed > 0, "{}: nothing was confirmed, seed {seed}", world.name());
    }
    for world in worlds {
        let world = Arc::into_inner(world).unwrap();
        drop((world.client, world.direct, world.proxies));
        if let Some(standin) = world.standin {
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

    /// What is left when all that ends has ended.
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
