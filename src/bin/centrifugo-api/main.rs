//! The `centrifugo-api` command: makes calls of the server API, publishes, measures, and stands in for a server.
//!
//! Results are JSON on standard output. Errors are JSON on standard error, with an exit code for each kind.

use std::process::ExitCode;

use args::{Cli, Command};
use output::Failure;

mod args;
mod bench;
mod call;
mod output;
mod publish;

fn main() -> ExitCode {
    output::finish(&run(args::parse()))
}

fn run(Cli { connection, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Call(call) => small_runtime()?.block_on(call::run(&connection, call)),
        Command::Publish(publish) => small_runtime()?.block_on(publish::publish(&connection, publish)),
        Command::Broadcast(broadcast) => small_runtime()?.block_on(publish::broadcast(&connection, broadcast)),
        Command::Bench(bench) => bench::run(&connection, &bench),
    }
}

/// For one call a single thread starts sooner than a pool.
fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::io("the runtime cannot be started", error))
}
