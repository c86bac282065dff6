//! The report for people, in lines of at most 80 columns.

use std::fmt::Write as _;
use std::iter;

use super::numbers::{count, rounded, short, time, whole};
use super::report::{Machine, Report, Row, Spread};

const COLUMNS: usize = 80;

impl Report {
    /// What will be measured, and how: known before it is.
    pub(super) fn head(&self) -> String {
        let lines = [self.title(), format!("server: {}", self.server.text()), self.client(), self.machine()];
        lines.iter().map(|line| wrapped(line)).collect()
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

    fn client(&self) -> String {
        let cores = self.machine.cores;
        let connections = match count(self.grpc_connections, "connection") {
            connections if self.server.has_grpc() => format!(", {connections} over gRPC"),
            _ => String::new(),
        };
        let threads = match self.runtimes[..] {
            ["multi"] => format!("a runtime with {}", count(cores, "thread")),
            ["current"] => "a runtime with 1 thread".into(),
            _ => format!("the runtimes multi ({}) and current (1 thread)", count(cores, "thread")),
        };
        let build = if cfg!(debug_assertions) { " (built without optimization)" } else { "" };
        format!("client: centrifugo-api {}{build}, {threads}{connections}; {}", self.version, self.medians())
    }

    /// Of how many rounds the figures are.
    pub(super) fn medians(&self) -> String {
        match self.rounds {
            1 => "1 round".into(),
            rounds => format!("medians of {rounds} rounds"),
        }
    }

    fn machine(&self) -> String {
        let Machine { os, arch, cores, load } = self.machine;
        let shared = if self.server.is_stand_in() { ", which the server shares" } else { "" };
        let busy = match load {
            Some(load) if self.machine.is_busy() => format!("; busy before this began (load {load})"),
            _ => String::new(),
        };
        format!("machine: {os} {arch}, {}{shared}{busy}", count(cores, "core"))
    }

    /// The figures.
    pub(super) fn table(&self) -> String {
        let ranges = self.rounds > 1;
        let mut lines = vec![["way", "over", "msgs/s", "range", "p50", "p99", "CPU/msg"].map(String::from)];
        lines.extend(self.ways.iter().map(|row| self.line(row)));
        let lines: Vec<Vec<String>> = lines
            .into_iter()
            .map(|line| {
                let cells = line.into_iter().enumerate();
                cells.filter(|(column, _)| ranges || *column != 3).map(|(_, cell)| cell).collect()
            })
            .collect();
        let mut text = laid_out(&lines);
        text.push('\n');
        text.push_str(&wrapped(
            "p50 and p99 are of requests, from having the data to having checked every reply; of less than 100 \
             requests, p99 is the slowest. CPU is this process's, user and system, without the server's.",
        ));
        text.truncate(text.trim_end().len());
        text
    }

    fn line(&self, row: &Row) -> [String; 7] {
        let Spread { median, min, max } = row.messages_per_second;
        let over = if self.compares_runtimes() {
            format!("{} {}", row.transport, row.runtime)
        } else {
            row.transport.to_owned()
        };
        [
            row.name.clone(),
            over,
            rounded(median),
            format!("{}..{}", short(min), short(max)),
            time(row.p50_us.median),
            time(row.p99_us.median),
            row.cpu_us_per_message.map_or("unknown".into(), |cpu| time(cpu.median)),
        ]
    }
}

/// Aligns cells in columns: two of words, then numbers. The first column is shortened if the line is too wide.
fn laid_out(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..columns).map(width).collect();
    let mut gap = 2;
    if widths.iter().sum::<usize>() + gap * (columns - 1) > COLUMNS {
        gap = 1;
    }
    let others = widths[1..].iter().sum::<usize>() + gap * (columns - 1);
    widths[0] = widths[0].min(COLUMNS.saturating_sub(others));
    let mut text = String::new();
    for line in lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let cell = shortened(cell, width);
            // Writing to a string does not fail.
            let _ = if column < 2 { write!(text, "{cell:<width$}") } else { write!(text, "{cell:>width$}") };
            text.extend(iter::repeat_n(' ', gap));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Text in lines that fit, of which all but the first are indented.
pub(super) fn wrapped(text: &str) -> String {
    let (mut lines, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > COLUMNS {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        // A word that is longer than a line, like a URL, is broken where the line ends.
        for character in word.chars() {
            if width == COLUMNS {
                lines.push_str("\n  ");
                width = 2;
            }
            lines.push(character);
            width += 1;
        }
    }
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or_default()
    }

    #[test]
    fn a_table_of_the_widest_numbers_has_80_columns_and_keeps_every_number() {
        let broadcast = format!("broadcast to {}", whole(usize::MAX));
        let numbers = [rounded(123_456_789.0), format!("{}..{}", short(123e6), short(124e6)), time(99.9), time(999e6)];
        let mut line = vec![broadcast, "grpc current".into()];
        line.extend(numbers.iter().cloned());
        line.push("10,000 s".into());
        let text = laid_out(&[line]);
        assert_eq!(widest(&text), 80, "{text}");
        assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
        assert!(text.starts_with("broadcast to 18"), "{text}");
    }

    #[test]
    fn a_table_that_fits_is_not_shortened() {
        let cells = |cells: [&str; 4]| cells.map(String::from).to_vec();
        let text = laid_out(&[cells(["way", "over", "msgs/s", "p50"]), cells(["1 caller", "grpc", "6,480", "144 µs"])]);
        assert_eq!(text, "way       over  msgs/s     p50\n1 caller  grpc   6,480  144 µs\n");
    }

    #[test]
    fn text_is_wrapped_at_80_columns_and_keeps_its_characters() {
        let words = "word ".repeat(50);
        let url = format!("server: http://{}", "host".repeat(60));
        for text in [words, url] {
            let lines = wrapped(&text);
            assert!(widest(&lines) <= 80 && lines.lines().count() > 2, "{lines}");
            let characters = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(characters(&lines), characters(&text));
        }
    }
}
