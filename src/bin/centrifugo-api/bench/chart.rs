//! The figures as an SVG: throughput and the client's CPU time, each group of bars on its own scale, so that one caller is as
//! visible as a batch.
//!
//! It is 830 units wide, the width of a README, so that it is shown without scaling. The colours follow the reader's theme.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::numbers::{rounded, time};
use super::report::{Report, Row, Spread};
use crate::failure::Failure;

const WIDTH: f64 = 830.0;
const MARGIN: f64 = 20.0;
/// The first bar, below title, legend and the headings of the columns.
const BARS: f64 = 122.0;
const BAR: f64 = 18.0;
/// From a bar to the next, and from a way to the next.
const STEP: f64 = 23.0;
const GAP: f64 = 20.0;
/// Where the bars of the columns begin, and how long the longest is. To the right of it is room for its number.
const COLUMNS: [f64; 2] = [200.0, 505.0];
const LONGEST: f64 = 210.0;

/// Blue and orange differ for colour-blind readers, and in grey. One thread is paler.
const STYLE: &str = "\
text{font:15px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328;dominant-baseline:central}\
.title{font-size:19px;font-weight:600}.head{font-weight:600}.end{text-anchor:end}\
.faint{font-size:14px;font-weight:400;fill:#59636e}.card{fill:#fff}.axis,.range{stroke:#59636e;fill:none}.range{stroke:#1f2328;stroke-width:1.5}\
.grpc{fill:#2f74c0}.http{fill:#e8912d}.both .current{opacity:.55}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#9198a1}.card{fill:#0d1117}\
.axis{stroke:#9198a1}.range{stroke:#e6edf3}.grpc{fill:#58a6ff}.http{fill:#f0a04b}}";

/// Makes the file of the picture.
pub(super) fn create(file: &Path) -> Result<File, Failure> {
    if file.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("svg")) {
        return Err(Failure::invalid(format!("--chart {}: the picture is SVG; name the file so", file.display())));
    }
    File::create(file).map_err(|error| Failure::io(format!("--chart {} cannot be written", file.display()), error))
}

pub(super) fn draw(report: &Report, file: &mut File) -> Result<(), Failure> {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = picture(report, &mut svg);
    file.write_all(svg.as_bytes())
        .map_err(|error| Failure::io("the picture of --chart cannot be written", error).after_call())
}

fn picture(report: &Report, svg: &mut String) -> fmt::Result {
    let ways: Vec<&[Row]> = report.ways.chunk_by(|row, next| row.name == next.name).collect();
    let foot = ways.iter().fold(BARS, |y, rows| y + height(rows) + GAP) + 6.0;
    let end = foot + 40.0;
    write!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end}" width="{WIDTH}" height="{end}" "#
    )?;
    let class = if report.compares_runtimes() { "both" } else { "" };
    writeln!(svg, r#"class="{class}" role="img" aria-label="{}"><style>{STYLE}</style>"#, escaped(&report.title()))?;
    writeln!(svg, r#"<rect class="card" width="100%" height="100%"/>"#)?;
    text(svg, MARGIN, 30.0, "title", &report.title())?;
    legend(report, svg)?;
    heading(svg, COLUMNS[0], "messages per second", "more is better")?;
    heading(svg, COLUMNS[1], "client CPU per message", "less is better")?;
    let mut top = BARS;
    for rows in ways {
        text(svg, COLUMNS[0] - 14.0, top + height(rows) / 2.0, "end", &rows[0].name)?;
        let rate = |row: &Row| Some(row.messages_per_second);
        bars(svg, COLUMNS[0], top, rows, rate, rounded)?;
        bars(svg, COLUMNS[1], top, rows, |row| row.cpu_us_per_message, time)?;
        top += height(rows) + GAP;
    }
    let range = if report.rounds > 1 { "; thin line: lowest to highest" } else { "" };
    let scale = format!("each group of bars has its own scale; {}{range}", report.medians());
    text(svg, MARGIN, foot, "faint", &scale)?;
    let shared = if report.server.is_stand_in() { "which the server shares" } else { report.machine.os };
    let cores = report.machine.cores;
    let programs = format!("centrifugo-api {}, {}, {cores} cores, {shared}", report.version, report.server.name());
    text(svg, MARGIN, foot + 20.0, "faint", &programs)?;
    writeln!(svg, "</svg>")
}

fn heading(svg: &mut String, x: f64, name: &str, better: &str) -> fmt::Result {
    let y = BARS - 26.0;
    writeln!(svg, r#"<text class="head" x="{x}" y="{y}">{name}<tspan class="faint" dx="8">{better}</tspan></text>"#)
}

fn height(rows: &[Row]) -> f64 {
    rows.iter().fold(BAR - STEP, |height, _| height + STEP)
}

/// A square and a name for each bar of a way.
fn legend(report: &Report, svg: &mut String) -> fmt::Result {
    let first = report.ways.iter().take_while(|row| row.name == report.ways[0].name);
    let mut left = MARGIN;
    for row in first {
        let over = if row.transport == "grpc" { "gRPC" } else { "HTTP" };
        let (name, width) = match (report.compares_runtimes(), row.runtime) {
            (false, _) => (over.to_owned(), 90.0),
            (true, "multi") => (format!("{over}, multi-thread"), 180.0),
            (true, _) => (format!("{over}, one thread"), 165.0),
        };
        rect(svg, row, [left, 52.0, 15.0, 15.0])?;
        text(svg, left + 23.0, 60.0, "", &name)?;
        left += width;
    }
    Ok(())
}

/// The bars of one number of one way, from zero to the largest.
fn bars(
    svg: &mut String,
    left: f64,
    top: f64,
    rows: &[Row],
    number: impl Fn(&Row) -> Option<Spread>,
    written: impl Fn(f64) -> String,
) -> fmt::Result {
    let most = rows.iter().filter_map(&number).map(|spread| spread.max).fold(0.0, f64::max);
    if most <= 0.0 {
        return text(svg, left, top + height(rows) / 2.0, "faint", "not known on this system");
    }
    let length = |value: f64| value / most * LONGEST;
    for (row, y) in rows.iter().zip(std::iter::successors(Some(top), |y| Some(y + STEP))) {
        let Some(spread) = number(row) else { continue };
        let middle = y + BAR / 2.0;
        rect(svg, row, [left, y, length(spread.median), BAR])?;
        let (low, high) = (left + length(spread.min), left + length(spread.max));
        if high > low {
            writeln!(
                svg,
                r#"<path class="range" d="M{low:.1} {middle}H{high:.1}M{low:.1} {}v8M{high:.1} {}v8"/>"#,
                middle - 4.0,
                middle - 4.0
            )?;
        }
        text(svg, high + 8.0, middle, "", &written(spread.median))?;
    }
    writeln!(svg, r#"<path class="axis" d="M{left} {}V{}"/>"#, top - 4.0, top + height(rows) + 4.0)
}

fn rect(svg: &mut String, row: &Row, [x, y, width, height]: [f64; 4]) -> fmt::Result {
    let class = format!("{} {}", row.transport, row.runtime);
    writeln!(svg, r#"<rect class="{class}" x="{x}" y="{y}" width="{width:.1}" height="{height}"/>"#)
}

/// Writes text whose middle is at this height.
fn text(svg: &mut String, x: f64, y: f64, class: &str, text: &str) -> fmt::Result {
    writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y}">{}</text>"#, escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
