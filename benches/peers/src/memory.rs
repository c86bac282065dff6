//! How much memory does a queue of publications take when the server is slow? (Linux)
//!
//! The server is the crate's stand-in, in a process of its own, which responds to every request 100 ms late.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use centrifugo_api::testing::{Fault, Server};

use crate::Options;
use crate::contests::Contest;
use crate::peers::Failure;

const DELAY: Duration = Duration::from_millis(100);
pub const MESSAGES: usize = 1_000_000;
/// The memory allowed besides queued publications: connections, requests and responses in flight, the allocator's overhead.
const BESIDE: u64 = 32 << 20;

/// The peak of the memory that this process had, against what it had before.
pub struct Growth {
    pub messages: usize,
    pub seconds: f64,
    pub before: u64,
    pub peak: u64,
    /// How much it may grow, where that is promised.
    pub target: Option<u64>,
}

impl Growth {
    pub fn grown(&self) -> u64 {
        self.peak.saturating_sub(self.before)
    }

    pub fn is_kept(&self) -> bool {
        self.target.is_none_or(|target| self.grown() <= target)
    }
}

pub async fn measure(contest: &Contest<'_>, messages: usize) -> Result<Growth, Failure> {
    // Resets the peak.
    fs::write("/proc/self/clear_refs", "5")?;
    let (before, start) = (resident("VmRSS")?, Instant::now());
    contest.subject.run(contest.way, messages).await?;
    let target = target(contest.subject.name);
    Ok(Growth { messages, seconds: start.elapsed().as_secs_f64(), before, peak: resident("VmHWM")?, target })
}

fn target(peer: &str) -> Option<u64> {
    peer.starts_with("publisher").then_some(crate::peers::publisher::BYTE_BOUND as u64 + BESIDE)
}

fn resident(field: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")).ok_or("this system does not tell the memory")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

/// A child process, killed when this is dropped.
pub struct Slow(Child);

impl Drop for Slow {
    fn drop(&mut self) {
        // Fails if it has ended. Otherwise it ends at the end of its standard input.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the slow server, and sets its addresses in the options.
pub fn start(options: &mut Options) -> Result<Slow, Failure> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg("--slow-server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Slow)?;
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().ok_or("it has no output")?).read_line(&mut line)?;
    let (grpc, http) = line.trim().split_once(' ').ok_or("the slow server did not say where it is")?;
    (options.grpc, options.http) = (grpc.to_owned(), http.to_owned());
    Ok(process)
}

/// Runs the slow server until standard input ends.
pub async fn serve() -> Result<(), Failure> {
    let server = Server::builder().without_records().start().await?;
    server.fault(Fault::delay(DELAY).always());
    println!("{} {}", server.grpc_url(), server.http_url());
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await??;
    Ok(())
}
