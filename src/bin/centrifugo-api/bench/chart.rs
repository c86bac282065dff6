//! The numbers as a picture: bars from zero, one panel for throughput and one for the client's CPU time.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Report, Row, Spread, digits, rounded};
use crate::output::Failure;

const WIDTH: u32 = 1080;
/// Above the panels: title, server, legend.
const HEAD: u32 = 128;
/// Below them: how it was measured.
const FOOT: u32 = 60;
/// Where the bars begin in a panel, below its title.
const BARS: i32 = 50;
/// A bar and the space to the next; a group of bars has the same space once more.
const BAR: i32 = 22;
const STEP: i32 = 27;
const MARGIN: i32 = 28;
/// Where the names of the ways stand.
const NAMES: i32 = 190;
/// To the right of the longest bar, for its number.
const NUMBER: i32 = 96;
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0x5c, 0x67, 0x75);
const GRID: RGBColor = RGBColor(0xe1, 0xe5, 0xea);

/// Colours that stay apart for people who see red and green alike, and in grey. The runtime with one thread is paler.
fn colour(transport: &str, runtime: &str) -> RGBColor {
    match (transport, runtime) {
        ("grpc", "multi") => RGBColor(0x1f, 0x5f, 0xa8),
        ("grpc", _) => RGBColor(0x8f, 0xb6, 0xdf),
        (_, "multi") => RGBColor(0xf0, 0x9a, 0x3e),
        _ => RGBColor(0xf9, 0xd2, 0xa3),
    }
}

/// Makes the file of the picture.
pub(super) fn create(file: &Path) -> Result<File, Failure> {
    if file.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("svg")) {
        return Err(Failure::invalid(format!("--chart {}: the picture is SVG; name the file so", file.display())));
    }
    File::create(file).map_err(|error| Failure::io(format!("--chart {} cannot be written", file.display()), error))
}

pub(super) fn draw(report: &Report, file: &mut File) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("the picture of --chart cannot be written", error);
    let mut svg = String::new();
    picture(report, &mut svg).map_err(|error| failed(io::Error::other(error.to_string())))?;
    file.write_all(svg.as_bytes()).map_err(failed)
}

fn picture(report: &Report, svg: &mut String) -> Result<(), Box<dyn StdError>> {
    let rows = lines(report);
    let panel = rows.last().map_or(0, |(y, _)| y + STEP).unsigned_abs() + 74;
    let area = SVGBackend::with_string(svg, (WIDTH, HEAD + panel + FOOT)).into_drawing_area();
    area.fill(&WHITE)?;
    write(&area, &report.title(), (MARGIN, 34), 22, INK, HPos::Left)?;
    write(&area, &format!("server: {}", report.server.text()), (MARGIN, 62), 14, FAINT, HPos::Left)?;
    let mut left = MARGIN;
    for row in report.ways.iter().take_while(|row| row.name == report.ways[0].name) {
        let over = if row.transport == "grpc" { "over gRPC" } else { "over HTTP" };
        let (name, width) = match (report.compares_runtimes(), row.runtime) {
            (false, _) => (over.to_owned(), 120),
            (true, "multi") => (format!("{over}, multi-thread"), 200),
            (true, _) => (format!("{over}, one thread"), 190),
        };
        area.draw(&Rectangle::new([(left, 84), (left + 14, 98)], colour(row.transport, row.runtime).filled()))?;
        write(&area, &name, (left + 22, 91), 14, INK, HPos::Left)?;
        left += width;
    }
    if report.rounds > 1 {
        write(&area, "thin line: lowest to highest round", (left, 91), 14, FAINT, HPos::Left)?;
    }
    let (_, below) = area.split_vertically(HEAD);
    let (panels, foot) = below.split_vertically(panel);
    let (throughput, cpu) = panels.split_horizontally(i32::try_from(WIDTH)? / 2 + NAMES / 2);
    draw_panel(&throughput, "messages per second (more is better)", NAMES + MARGIN, &rows, |row| {
        Some((row.messages_per_second, rounded(row.messages_per_second.median)))
    })?;
    for way in rows.chunk_by(|(_, row), (_, next)| row.name == next.name) {
        if let (Some((first, row)), Some((last, _))) = (way.first(), way.last()) {
            write(&throughput, &row.name, (MARGIN, BARS + i32::midpoint(*first, last + BAR)), 14, INK, HPos::Left)?;
        }
    }
    draw_panel(&cpu, "client CPU, µs per message (less is better)", MARGIN, &rows, |row| {
        row.cpu_us_per_message.map(|cpu| (cpu, digits(cpu.median)))
    })?;
    for (y, line) in [14, 34].into_iter().zip(report.conditions()) {
        write(&foot, &line, (MARGIN, y), 13, FAINT, HPos::Left)?;
    }
    area.present()?;
    Ok(())
}

/// Where each bar begins, from the top of the bars.
fn lines(report: &Report) -> Vec<(i32, &Row)> {
    let mut lines: Vec<(i32, &Row)> = Vec::new();
    for row in &report.ways {
        let y = match lines.last() {
            None => 0,
            Some((y, before)) if before.name == row.name => y + STEP,
            Some((y, _)) => y + STEP + STEP / 2,
        };
        lines.push((y, row));
    }
    lines
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the bars of one number, with an axis that begins at zero.
fn draw_panel(
    area: &Area<'_>,
    title: &str,
    left: i32,
    rows: &[(i32, &Row)],
    number: impl Fn(&Row) -> Option<(Spread, String)>,
) -> Result<(), Box<dyn StdError>> {
    let (width, height) = area.dim_in_pixel();
    let length = f64::from(i32::try_from(width)? - left - NUMBER);
    let bottom = i32::try_from(height)? - 22;
    let most = rows.iter().filter_map(|(_, row)| number(row)).map(|(spread, _)| spread.max).fold(0.0, f64::max);
    if most <= 0.0 {
        return write(area, "not known on this system", (left, 60), 14, FAINT, HPos::Left);
    }
    let step = tick(most);
    #[allow(clippy::cast_possible_truncation, reason = "a place in the picture")]
    let x = |value: f64| left + (value / most * length).round() as i32;
    write(area, title, (left, 14), 15, INK, HPos::Left)?;
    for value in std::iter::successors(Some(0.0), |value| Some(value + step)).take_while(|value| *value <= most) {
        let style = if value == 0.0 { INK } else { GRID };
        area.draw(&PathElement::new([(x(value), BARS - 8), (x(value), bottom)], style))?;
        let text = if step < 1.0 { format!("{value:.1}") } else { rounded(value) };
        write(area, &text, (x(value), bottom + 12), 12, FAINT, HPos::Center)?;
    }
    for (y, row) in rows {
        let Some((spread, text)) = number(row) else { continue };
        let (top, middle) = (BARS + y, BARS + y + BAR / 2);
        let colour = colour(row.transport, row.runtime);
        area.draw(&Rectangle::new([(left, top), (x(spread.median), top + BAR)], colour.filled()))?;
        let (low, high) = (x(spread.min), x(spread.max));
        if high > low {
            area.draw(&PathElement::new([(low, middle), (high, middle)], INK))?;
            for end in [low, high] {
                area.draw(&PathElement::new([(end, middle - 4), (end, middle + 4)], INK))?;
            }
        }
        write(area, &text, (high.max(x(spread.median)) + 7, middle), 13, INK, HPos::Left)?;
    }
    Ok(())
}

/// The distance of the axis's numbers: 1, 2 or 5 of some power of ten, so that there are 3 to 6 of them.
fn tick(most: f64) -> f64 {
    let power = 10_f64.powf((most / 3.0).log10().floor());
    [5.0, 2.0].into_iter().map(|times| times * power).find(|step| most / step >= 3.0).unwrap_or(power)
}

/// Writes text whose middle is at this height.
fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    anchor: HPos,
) -> Result<(), Box<dyn StdError>> {
    let style = TextStyle::from((FONT, size).into_font()).color(&colour).pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
