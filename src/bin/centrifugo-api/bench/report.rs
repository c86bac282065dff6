//! The figures of all runs, and how they were measured.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::server::Described;
use super::ways::{Plan, Run, Way};
use crate::args::{Bench, Runtime};
use crate::connection::Transport;
use crate::failure::Failure;

/// All that was measured, and how.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) server: Described,
    /// The version of this command.
    pub(super) version: &'static str,
    pub(super) machine: Machine,
    pub(super) messages: usize,
    pub(super) channels: usize,
    pub(super) payload_bytes: usize,
    pub(super) rounds: usize,
    pub(super) runtimes: Vec<&'static str>,
    pub(super) grpc_connections: usize,
    pub(super) ways: Vec<Row>,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Machine {
    pub(super) os: &'static str,
    pub(super) arch: &'static str,
    pub(super) cores: usize,
    /// The load average of the minute before, on Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) load: Option<f64>,
}

impl Machine {
    /// Read before the measurement, or it would include the bench itself.
    pub(super) fn new() -> Self {
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            os: OS,
            arch: ARCH,
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// Whether other load on the machine distorts the numbers.
    pub(super) fn is_busy(&self) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 cores")]
        self.load.is_some_and(|load| load > self.cores as f64 / 4.0)
    }
}

/// One way over one transport, on one runtime.
#[derive(Serialize)]
pub(super) struct Row {
    way: &'static str,
    #[serde(skip)]
    pub(super) name: String,
    pub(super) transport: &'static str,
    pub(super) runtime: &'static str,
    callers: usize,
    messages_per_request: usize,
    requests: usize,
    pub(super) messages_per_second: Spread,
    /// Of requests.
    pub(super) p50_us: Spread,
    pub(super) p99_us: Spread,
    pub(super) cpu_us_per_message: Option<Spread>,
}

/// A number of every round.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` if there are none, or if some are not known.
    fn of(numbers: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
        numbers.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median =
            if numbers.len() % 2 == 1 { numbers[middle] } else { f64::midpoint(numbers[middle - 1], numbers[middle]) };
        // Finer than the clock's resolution.
        let rounded = |number: f64| (number * 1e3).round() / 1e3;
        Some(Self { median: rounded(median), min: rounded(min), max: rounded(max) })
    }
}

/// The latency that so many percent of requests did not exceed; the latencies are sorted.
fn percentile(latencies: &[Duration], percent: usize) -> Option<f64> {
    let rank = (latencies.len() * percent).div_ceil(100).max(1);
    latencies.get(rank - 1).map(|latency| micros(*latency))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Row {
    pub(super) fn new(way: Way, transport: Transport, runtime: Runtime, plan: &Plan, runs: &[Run]) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 messages")]
        let messages = plan.messages as f64;
        // There is always a round, and in it a request.
        let spread = |number: &dyn Fn(&Run) -> Option<f64>| {
            Spread::of(runs.iter().map(number)).unwrap_or(Spread { median: f64::NAN, min: f64::NAN, max: f64::NAN })
        };
        Self {
            way: way.id(),
            name: way.name(plan),
            transport: transport.name(),
            runtime: runtime.name(),
            callers: way.callers(),
            messages_per_request: way.size(plan),
            requests: plan.messages.div_ceil(way.size(plan)),
            messages_per_second: spread(&|run| Some(messages / run.elapsed.as_secs_f64())),
            p50_us: spread(&|run| percentile(&run.latencies, 50)),
            p99_us: spread(&|run| percentile(&run.latencies, 99)),
            cpu_us_per_message: Spread::of(runs.iter().map(|run| run.cpu.map(|cpu| micros(cpu) / messages))),
        }
    }
}

impl Report {
    /// The report of a bench that has not begun.
    pub(super) fn new(bench: &Bench, machine: Machine, server: Described) -> Self {
        Self {
            server,
            version: env!("CARGO_PKG_VERSION"),
            machine,
            messages: bench.messages,
            channels: bench.channels,
            payload_bytes: bench.payload,
            rounds: bench.rounds,
            runtimes: bench.runtime.each().iter().map(|runtime| runtime.name()).collect(),
            grpc_connections: bench.connections,
            ways: Vec::new(),
        }
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::io("the numbers have no JSON form", error.into()))
    }

    /// Whether rows differ by their runtime.
    pub(super) fn compares_runtimes(&self) -> bool {
        self.runtimes.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_percentiles_are_numbers_that_occurred() {
        let spread = Spread::of([3.0, 1.0, 2.0].map(Some).into_iter());
        assert_eq!(spread.map(|spread| (spread.median, spread.min, spread.max)), Some((2.0, 1.0, 3.0)));
        assert!(Spread::of([Some(1.0), None].into_iter()).is_none());
        let latencies: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&latencies, 50).map(f64::round), Some(100.0));
        assert_eq!(percentile(&latencies, 99).map(f64::round), Some(198.0));
        assert_eq!(percentile(&latencies[..1], 99).map(f64::round), Some(1.0));
    }
}
