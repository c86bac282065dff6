//! The `centrifugo-api` command: makes calls of the server API, publishes, measures, and stands in for a server.
//!
//! Results are JSON on standard output. Errors are on standard error, with an exit code for each kind: text on a terminal,
//! JSON elsewhere.

use std::process::ExitCode;

use args::{Cli, Command, Runtime};
use failure::{Failure, Shown};

mod args;
mod bench;
mod call;
mod connection;
mod failure;
mod layout;
mod output;
mod publish;
mod serve;
mod token;

fn main() -> ExitCode {
    let cli = args::parse();
    let shown = Shown { json: cli.json, without_key: !cli.connection.has_key() };
    failure::finish(&run(cli), shown)
}

fn run(Cli { json, connection, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Call(call) => runtime(Runtime::Current)?.block_on(call::run(&connection, call)),
        Command::Publish(publish) => runtime(Runtime::Current)?.block_on(publish::publish(&connection, publish)),
        Command::Broadcast(broadcast) => {
            runtime(Runtime::Current)?.block_on(publish::broadcast(&connection, broadcast))
        }
        Command::Bench(bench) => bench::run(connection, &bench, json),
        Command::Token(token) => token::run(token),
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
