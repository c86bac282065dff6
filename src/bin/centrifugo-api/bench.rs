//! `bench`: the same publications in every way, over both transports, on one of tokio's runtimes or on both.
//!
//! What is measured is the client as a program uses it: from having the data to knowing that every message was
//! published. The stand-in runs as a process of its own, so that its CPU time is not counted as the client's.

use std::rc::Rc;
use std::time::Duration;

use centrifugo_api::message::InfoRequest;
use centrifugo_api::{Client, Payload};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Bench, Runtime};
use crate::connection::{Connection, Transport};
use crate::failure::Failure;
use crate::output;
use report::{Machine, Report, Row};
use server::Server;
use ways::{Plan, Run, Way};

mod chart;
mod cpu;
mod numbers;
mod report;
mod server;
mod table;
mod ways;

/// The messages of a run before the first round, which opens connections and warms caches.
const WARM_UP: usize = 1000;

/// One way to publish over one transport, on one runtime.
struct Contest<'a> {
    way: Way,
    side: &'a Side,
    runs: Vec<Run>,
}

/// A client, and the runtime that it is used on.
struct Side {
    transport: Transport,
    flavour: Runtime,
    runtime: Rc<tokio::runtime::Runtime>,
    client: Client,
}

/// Measures, and prints a table, or JSON.
pub(crate) fn run(mut connection: Connection, bench: &Bench, json: bool) -> Result<(), Failure> {
    let ignored = if bench.server_from_env { Vec::new() } else { connection.ignore_addresses_of_environment() };
    let connection = &connection;
    let plan = plan(bench)?;
    // A file that cannot be written is refused before anything is measured.
    let mut chart = bench.chart.as_deref().map(chart::create).transpose()?;
    let machine = Machine::new();
    let server = Server::new(connection)?;
    let sides = sides(connection, bench, &server)?;
    // The stand-in reports the version that it stands in for.
    let real = sides.first().filter(|_| connection.names_a_server());
    let version = real.and_then(|side| side.runtime.block_on(version(&side.client)));
    let mut report = Report::new(bench, machine, server.described(connection, version));
    if !json {
        let mut head = report.head();
        if !ignored.is_empty() && !connection.names_a_server() {
            let names = ignored.join(" and ");
            head.push_str(&table::wrapped(&format!(
                "{names}: not used; --server-from-env loads the server named there"
            )));
        }
        output::print(&head)?;
    }
    report.ways = measure(&sides, bench, &plan)?;
    // Drawn first, because printing ends the command if the reader is gone.
    let drawn = chart.as_mut().map_or(Ok(()), |file| chart::draw(&report, file));
    output::print(&if json { report.json()? } else { report.table() })?;
    drawn
}

/// A client for each transport on each runtime.
fn sides(connection: &Connection, bench: &Bench, server: &Server) -> Result<Vec<Side>, Failure> {
    let mut runtimes = Vec::new();
    for flavour in bench.runtime.each() {
        runtimes.push((*flavour, Rc::new(crate::runtime(*flavour)?)));
    }
    let mut sides = Vec::new();
    for transport in connection.transports() {
        for (flavour, runtime) in &runtimes {
            let config = server.config(connection, transport, bench.connections)?;
            // The keys would cost the server, and only in the ways that publish one by one and broadcast.
            let config = config.retry(connection.retry().map(|retry| retry.idempotency_keys(false)));
            let client = connection.client_of(config, transport)?;
            sides.push(Side { transport, flavour: *flavour, runtime: Rc::clone(runtime), client });
        }
    }
    Ok(sides)
}

/// Runs every way over every side, once to warm up and then in rounds.
fn measure(sides: &[Side], bench: &Bench, plan: &Plan) -> Result<Vec<Row>, Failure> {
    let mut contests = Vec::new();
    for way in Way::all(bench.callers) {
        contests.extend(sides.iter().map(|side| Contest { way, side, runs: Vec::new() }));
    }
    let progress = progress(contests.len() * (bench.rounds + 1));
    for contest in &contests {
        progress.set_message(format!("warm-up: {}", contest.name(plan)));
        contest.run(&plan.at_most(WARM_UP))?;
        progress.inc(1);
    }
    for round in 0..bench.rounds {
        // Every round runs all of them, so that other load on the machine affects all alike; every other round runs backwards, so
        // that none always follows the same one.
        let order: Vec<usize> = match round % 2 {
            0 => (0..contests.len()).collect(),
            _ => (0..contests.len()).rev().collect(),
        };
        for index in order {
            let contest = &mut contests[index];
            progress.set_message(format!("round {} of {}: {}", round + 1, bench.rounds, contest.name(plan)));
            contest.runs.push(contest.run(plan)?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let row = |contest: &Contest<'_>| {
        let Side { transport, flavour, .. } = contest.side;
        Row::new(contest.way, *transport, *flavour, plan, &contest.runs)
    };
    Ok(contests.iter().map(row).collect())
}

impl Contest<'_> {
    fn name(&self, plan: &Plan) -> String {
        format!("{} over {}", self.way.name(plan), self.side.transport.name())
    }

    fn run(&self, plan: &Plan) -> Result<Run, Failure> {
        let Side { runtime, client, .. } = self.side;
        runtime.block_on(ways::run(client, self.way, plan))
    }
}

fn plan(bench: &Bench) -> Result<Plan, Failure> {
    // A JSON string, and text that compresses no better than text does.
    let Some(letters) = bench.payload.checked_sub(2) else {
        return Err(Failure::invalid("--payload is less than 2 bytes, which is what the quotes of a JSON string take"));
    };
    let text: String = ('a'..='z').cycle().take(letters).collect();
    let width = (bench.channels - 1).to_string().len();
    let name = |number| format!("{}{number:0width$}", bench.channel_prefix);
    Ok(Plan {
        messages: bench.messages,
        channels: (0..bench.channels).map(name).collect::<Vec<_>>().into(),
        payload: Payload::json(&text)?,
        batch: bench.batch,
    })
}

/// The version that the server reports, if it does.
async fn version(client: &Client) -> Option<String> {
    let info = client.with_timeout(Duration::from_secs(1)).info(InfoRequest::new()).await.ok()?;
    info.nodes.into_iter().next().map(|node| node.version).filter(|version| !version.is_empty())
}

/// A progress bar on a terminal. It is updated only between runs, so that it does not affect the measurement.
fn progress(runs: usize) -> ProgressBar {
    let progress = ProgressBar::new(runs as u64);
    match ProgressStyle::with_template("{bar:12} {pos} of {len} with warm-up  {wide_msg}") {
        Ok(style) => progress.with_style(style),
        Err(_) => progress,
    }
}
