//! What is measured: the same number of messages, sent in one of several ways.

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
/// How many channels messages are spread over, and how many a batch or a broadcast goes to.
pub const CHANNELS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One by one, by this many tasks at once.
    Publish(usize),
    /// A batch of 1,000 after the other.
    Batch,
    /// A broadcast to 1,000 channels after the other.
    Broadcast,
}

impl Way {
    pub const ALL: [Self; 5] = [Self::Publish(1), Self::Publish(64), Self::Publish(512), Self::Batch, Self::Broadcast];

    /// Enough messages for a round of some tenths of a second.
    pub fn messages(self) -> usize {
        match self {
            Self::Publish(1) => 3_000,
            Self::Publish(_) => 20_000,
            Self::Batch | Self::Broadcast => 100_000,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(callers) => write!(f, "publish/{callers}"),
            Self::Batch => f.write_str("batch/1000"),
            Self::Broadcast => f.write_str("broadcast/1000"),
        }
    }
}

type Round = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A peer whose type is forgotten: only whole rounds are called through it.
pub struct Subject {
    pub transport: &'static str,
    pub name: &'static str,
    round: Box<dyn Fn(Way, usize) -> Round>,
}

impl Subject {
    pub fn new<P: Peer>(transport: &'static str, name: &'static str, peer: P, channels: &Arc<[String]>) -> Self {
        let channels = Arc::clone(channels);
        let round = move |way, messages| -> Round {
            match way {
                Way::Publish(callers) => Box::pin(publish(peer.clone(), Arc::clone(&channels), callers, messages)),
                Way::Batch | Way::Broadcast => {
                    Box::pin(bulk(peer.clone(), Arc::clone(&channels), way, messages.div_ceil(CHANNELS)))
                }
            }
        };
        Self { transport, name, round: Box::new(round) }
    }

    pub async fn run(&self, way: Way, messages: usize) -> Result<(), Failure> {
        (self.round)(way, messages)
            .await
            .map_err(|error| format!("{} {}, {way}: {error}", self.transport, self.name).into())
    }

    /// What it takes to send so many messages.
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

/// The callers take the next message each, so that all end at the same time.
async fn publish<P: Peer>(peer: P, channels: Arc<[String]>, callers: usize, messages: usize) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::with_capacity(callers);
    for _ in 0..callers {
        let (mut peer, channels, next) = (peer.clone(), Arc::clone(&channels), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            loop {
                let message = next.fetch_add(1, Ordering::Relaxed);
                if message >= messages {
                    return Ok::<_, Failure>(());
                }
                peer.publish(&channels[message % CHANNELS], PAYLOAD).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn bulk<P: Peer>(mut peer: P, channels: Arc<[String]>, way: Way, requests: usize) -> Result<(), Failure> {
    let task = tokio::spawn(async move {
        for _ in 0..requests {
            match way {
                Way::Batch => peer.batch(&channels, PAYLOAD).await?,
                _ => peer.broadcast(&channels, PAYLOAD).await?,
            }
        }
        Ok(())
    });
    task.await?
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
