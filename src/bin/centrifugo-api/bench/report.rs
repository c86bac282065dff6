//! What the runs add up to: for people a table, for programs JSON.

use std::env::consts::{ARCH, OS};
use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::server::Described;
use super::ways::{Plan, Run, Way};
use crate::args::{Bench, Runtime, Transport};
use crate::output::Failure;

/// All that was measured, and how.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) server: Described,
    /// Of this command.
    version: &'static str,
    machine: Machine,
    pub(super) messages: usize,
    pub(super) channels: usize,
    pub(super) payload_bytes: usize,
    pub(super) rounds: usize,
    runtimes: Vec<&'static str>,
    grpc_connections: usize,
    pub(super) ways: Vec<Row>,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Machine {
    os: &'static str,
    arch: &'static str,
    cores: usize,
    /// How many threads wanted to run in the minute before, on average; Linux says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
}

impl Machine {
    /// Asked before anything is measured, or the bench would see itself.
    pub(super) fn new() -> Self {
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            os: OS,
            arch: ARCH,
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// Whether others had so much of the machine that the numbers are theirs as well.
    fn is_busy(&self) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "no machine has 2^53 cores")]
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
    p50_us: Spread,
    p99_us: Spread,
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
        // Finer than the clocks are.
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
        #[allow(clippy::cast_precision_loss, reason = "nobody sends 2^53 messages")]
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
    pub(super) fn new(bench: &Bench, machine: Machine, server: Described, ways: Vec<Row>) -> Self {
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
            ways,
        }
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::io("the numbers have no JSON form", error.into()))
    }

    /// What was sent.
    pub(super) fn title(&self) -> String {
        format!(
            "{} publications of {} to {}",
            whole(self.messages),
            count(self.payload_bytes, "byte"),
            count(self.channels, "channel")
        )
    }

    /// How it was measured.
    pub(super) fn conditions(&self) -> [String; 2] {
        let Machine { os, arch, cores, load } = self.machine;
        let connections = match count(self.grpc_connections, "connection") {
            connections if self.ways.iter().any(|row| row.transport == "grpc") => format!(", {connections} over gRPC"),
            _ => String::new(),
        };
        let threads = match self.runtimes[..] {
            ["multi"] => format!("a runtime with {}", count(cores, "thread")),
            ["current"] => "a runtime with 1 thread".into(),
            _ => format!("the runtimes multi ({}) and current (1 thread)", count(cores, "thread")),
        };
        let rounds = match self.rounds {
            1 => "1 round".into(),
            rounds => format!("medians of {rounds} rounds"),
        };
        let build = if cfg!(debug_assertions) { " (built without optimization)" } else { "" };
        let shared = if self.server.is_stand_in() { ", which the server shares" } else { "" };
        let busy = match load {
            Some(load) if self.machine.is_busy() => format!("; busy before this began (load {load})"),
            _ => String::new(),
        };
        [
            format!("client: centrifugo-api {}{build}, {threads}{connections}; {rounds}", self.version),
            format!("machine: {os} {arch}, {}{shared}{busy}", count(cores, "core")),
        ]
    }

    /// Whether rows differ by their runtime.
    pub(super) fn compares_runtimes(&self) -> bool {
        self.runtimes.len() > 1
    }

    /// A table of at most 80 columns.
    pub(super) fn table(&self) -> String {
        let head = ["way", "over", "msgs/s", "from..to", "p50", "p99", "CPU/msg"];
        let mut lines = vec![head.map(String::from)];
        for row in &self.ways {
            let Spread { median, min, max } = row.messages_per_second;
            let over = if self.compares_runtimes() {
                format!("{} {}", row.transport, row.runtime)
            } else {
                row.transport.to_owned()
            };
            let range = if self.rounds > 1 { format!("{}..{}", short(min), short(max)) } else { String::new() };
            lines.push([
                row.name.clone(),
                over,
                rounded(median),
                range,
                time(row.p50_us.median),
                time(row.p99_us.median),
                row.cpu_us_per_message.map_or("unknown".into(), |cpu| format!("{} µs", digits(cpu.median))),
            ]);
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
            .collect();
        let [client, machine] = self.conditions();
        let mut text = String::new();
        for line in [self.title(), format!("server: {}", self.server.text()), client, machine] {
            text.push_str(&wrapped(&line));
        }
        text.push('\n');
        for line in lines {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Words on the left, numbers on the right. Writing to a string does not fail.
                let gap = if self.compares_runtimes() { 1 } else { 2 };
                let _ = if column < 2 { write!(text, "{cell:<width$}") } else { write!(text, "{cell:>width$}") };
                text.extend(iter::repeat_n(' ', gap));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&wrapped(
            "p50 and p99 are of requests, from having the data to having checked every reply; of less than 100 requests, \
             p99 is the slowest. CPU is this process's, user and system; the server's is not in it.",
        ));
        text.truncate(text.trim_end().len());
        text
    }
}

/// A number in thousands, where it has some.
fn short(number: f64) -> String {
    if number < 10_000.0 { rounded(number) } else { format!("{}k", rounded(number / 1e3)) }
}

/// Text in lines of at most 80 columns.
fn wrapped(text: &str) -> String {
    let (mut lines, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > 80 {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines + "\n"
}

/// A time in the unit that suits it, with three digits or so.
fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1000.0 => format!("{micros:.0} µs"),
        micros if micros < 10_000.0 => format!("{:.2} ms", micros / 1e3),
        micros if micros < 1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

/// A number with three significant digits, of which two may be after the point.
pub(super) fn digits(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => rounded(number),
    }
}

/// A number with three significant digits and its thousands apart: the fourth would differ the next time.
pub(super) fn rounded(number: f64) -> String {
    let digits = number.abs().max(1.0).log10().floor();
    let unit = 10_f64.powf((digits - 2.0).max(0.0));
    thousands(&format!("{:.0}", (number / unit).round() * unit))
}

pub(super) fn whole(number: usize) -> String {
    thousands(&number.to_string())
}

fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", whole(number), if number == 1 { "" } else { "s" })
}

fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_three_digits() {
        for (number, text) in [(0.4, "0"), (7.0, "7"), (123.4, "123"), (4812.0, "4,810"), (999_999.0, "1,000,000")] {
            assert_eq!(rounded(number), text);
        }
        for (micros, text) in [(98.4, "98 µs"), (1234.0, "1.23 ms"), (12_345.0, "12.3 ms"), (2e6, "2.00 s")] {
            assert_eq!(time(micros), text);
        }
    }

    #[test]
    fn text_is_wrapped_at_80_columns_and_keeps_its_words() {
        let text = "word ".repeat(50);
        let lines = wrapped(&text);
        assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.len() <= 80), "{lines}");
        assert_eq!(lines.split_whitespace().count(), 50);
    }

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
