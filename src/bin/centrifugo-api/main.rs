//! The `centrifugo-api` command: makes calls of the server API, publishes, measures, and stands in for a server.
//!
//! Results are JSON on standard output. Errors are JSON on standard error, with an exit code for each kind.

use std::process::ExitCode;

use args::{Cli, Command, Runtime};
use output::Failure;

mod args;
mod bench;
mod call;
mod output;
mod publish;
mod serve;

fn main() -> ExitCode {
    output::finish(&run(args::parse()))
}

fn run(Cli { connection, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Call(call) => runtime(Runtime::Current)?.block_on(call::run(&connection, call)),
        Command::Publish(publish) => runtime(Runtime::Current)?.block_on(publish::publish(&connection, publish)),
        Command::Broadcast(broadcast) => {
            runtime(Runtime::Current)?.block_on(publish::broadcast(&connection, broadcast))
        }
        Command::Bench(bench) => bench::run(&connection, &bench),
        Command::Serve(serve) => runtime(Runtime::Multi)?.block_on(serve::run(&connection, serve)),
    }
}

/// For one call a single thread starts sooner than a pool.
fn runtime(threads: Runtime) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match threads {
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread(),
        Runtime::Current => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build().map_err(|error| Failure::io("the runtime cannot be started", error))
}
