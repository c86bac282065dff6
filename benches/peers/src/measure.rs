//! What is measured: a number of messages, sent in one of several ways.

use std::fmt;
use std::future::Future;
use std::ops::AddAssign;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::peers::{Failure, Peer};

/// JSON of 26 bytes.
pub const PAYLOAD: &str = r#"{"text":"hello everybody"}"#;
/// How many channels messages are spread over, and how many a broadcast goes to.
pub const CHANNELS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One by one, by this many tasks at once, each of which waits for its own result.
    Publish(usize),
    /// Batches of `size` that the server runs in order, by `in_flight` tasks at once.
    Batch { size: usize, in_flight: usize },
    /// A broadcast to 1,000 channels after the other.
    Broadcast,
    /// By one task that waits for the results at the end only.
    Enqueue,
}

impl Way {
    /// Enough messages for a round of some tenths of a second.
    pub fn messages(self, share: bool) -> usize {
        match self {
            Self::Publish(1) => 10_000,
            Self::Publish(_) if !share => 20_000,
            _ => 100_000,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(callers) => write!(f, "publish/{callers}"),
            Self::Batch { size, in_flight: 1 } => write!(f, "batch/{size}"),
            Self::Batch { size, in_flight } => write!(f, "batches/{size}x{in_flight}"),
            Self::Broadcast => f.write_str("broadcast/1000"),
            Self::Enqueue => f.write_str("enqueue"),
        }
    }
}

pub type Round = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A peer whose type is forgotten: only whole rounds are called through it.
pub struct Subject {
    pub transport: &'static str,
    pub name: &'static str,
    /// Whether messages of several callers share a request, so that a round needs more of them.
    pub share: bool,
    round: Box<dyn Fn(Way, usize) -> Round>,
}

impl Subject {
    pub fn new<P: Peer>(transport: &'static str, name: &'static str, peer: P, channels: &Arc<[String]>) -> Self {
        let channels = Arc::clone(channels);
        let round = move |way, messages| -> Round {
            let (peer, channels) = (peer.clone(), Arc::clone(&channels));
            match way {
                Way::Publish(callers) => Box::pin(publish(peer, channels, callers, messages)),
                Way::Batch { size, in_flight } => Box::pin(batches(peer, channels, size, in_flight, messages)),
                Way::Broadcast => Box::pin(broadcasts(peer, channels, messages)),
                Way::Enqueue => Box::pin(enqueue(peer, channels, messages)),
            }
        };
        Self::of_rounds(transport, name, round)
    }

    /// A peer that runs rounds of its own.
    pub fn of_rounds(
        transport: &'static str,
        name: &'static str,
        round: impl Fn(Way, usize) -> Round + 'static,
    ) -> Self {
        Self { transport, name, share: false, round: Box::new(round) }
    }

    pub fn that_shares(self) -> Self {
        Self { share: true, ..self }
    }

    pub async fn run(&self, way: Way, messages: usize) -> Result<(), Failure> {
        let named = |error| format!("{} {} {way}: {error}", self.transport, self.name).into();
        (self.round)(way, messages).await.map_err(named)
    }

    pub async fn measure(&self, way: Way, messages: usize, server: Option<u32>) -> Result<Usage, Failure> {
        let (start, cpu, server_cpu) = (Instant::now(), cpu_time(), server.map(cpu_time_of));
        self.run(way, messages).await?;
        let server = server.zip(server_cpu).map(|(server, before)| cpu_time_of(server).saturating_sub(before));
        Ok(Usage { elapsed: start.elapsed(), cpu: cpu_time() - cpu, server: server.unwrap_or_default() })
    }
}

/// Time gone by, and CPU time of this process and of the server, user and system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    elapsed: Duration,
    cpu: Duration,
    server: Duration,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
        self.server += other.server;
    }
}

impl Usage {
    pub fn sample(&self, messages: usize) -> Sample {
        let messages = messages as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / messages;
        Sample { rate: messages / self.elapsed.as_secs_f64(), cpu_us: each(self.cpu), server_us: each(self.server) }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Messages per second.
    pub rate: f64,
    /// CPU microseconds per message.
    pub cpu_us: f64,
    /// The same of the server, if it can be told.
    pub server_us: f64,
}

/// The messages of a round. Each caller takes the next `size`, so that all end at the same time.
#[derive(Clone)]
pub struct Turns {
    next: Arc<AtomicUsize>,
    size: usize,
    messages: usize,
}

impl Turns {
    pub fn new(size: usize, messages: usize) -> Self {
        Self { next: Arc::default(), size, messages }
    }

    /// The number of the next message, of which `size` follow each other.
    pub fn next(&self) -> Option<usize> {
        Some(self.next.fetch_add(self.size, Ordering::Relaxed)).filter(|message| *message < self.messages)
    }
}

async fn publish<P: Peer>(peer: P, channels: Arc<[String]>, callers: usize, messages: usize) -> Result<(), Failure> {
    let turns = Turns::new(1, messages);
    all((0..callers).map(|_| {
        let (mut peer, channels, turns) = (peer.clone(), Arc::clone(&channels), turns.clone());
        async move {
            while let Some(message) = turns.next() {
                peer.publish(&channels[message % CHANNELS], PAYLOAD).await?;
            }
            Ok(())
        }
    }))
    .await
}

async fn batches<P: Peer>(
    peer: P,
    channels: Arc<[String]>,
    size: usize,
    in_flight: usize,
    messages: usize,
) -> Result<(), Failure> {
    let turns = Turns::new(size, messages);
    all((0..in_flight).map(|_| {
        let (mut peer, channels, turns) = (peer.clone(), Arc::clone(&channels), turns.clone());
        async move {
            while let Some(message) = turns.next() {
                let first = message % CHANNELS;
                peer.batch(&channels[first..first + size], PAYLOAD).await?;
            }
            Ok(())
        }
    }))
    .await
}

async fn broadcasts<P: Peer>(mut peer: P, channels: Arc<[String]>, messages: usize) -> Result<(), Failure> {
    let turns = Turns::new(CHANNELS, messages);
    all([async move {
        while turns.next().is_some() {
            peer.broadcast(&channels, PAYLOAD).await?;
        }
        Ok(())
    }])
    .await
}

async fn enqueue<P: Peer>(mut peer: P, channels: Arc<[String]>, messages: usize) -> Result<(), Failure> {
    all([async move { peer.enqueue(&channels, PAYLOAD, messages).await }]).await
}

/// Runs every future as a task of its own.
async fn all<F: Future<Output = Result<(), Failure>> + Send + 'static>(
    futures: impl IntoIterator<Item = F>,
) -> Result<(), Failure> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn cpu_time() -> Duration {
    // SAFETY: all zeros is a valid `rusage`, and the call only writes into it.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// The CPU time of the threads that another process has, from Linux's `/proc`.
fn cpu_time_of(process: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let time = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        time.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    });
    times.sum()
}
