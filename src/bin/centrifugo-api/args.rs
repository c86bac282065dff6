//! The arguments of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use centrifugo_api::Method;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::connection::{Connection, OF_CLIENTS, OF_KEYS};
use crate::failure;
use crate::serve::Namespace;
use crate::token;

/// Calls the server API of Centrifugo, over gRPC or over HTTP.
///
/// Results are JSON on standard output, one line each. Errors are two lines of text on a terminal, and JSON elsewhere.
#[derive(Parser)]
#[command(
    name = "centrifugo-api",
    bin_name = "centrifugo-api",
    version,
    max_term_width = 100,
    after_help = failure::exit_codes()
)]
pub(crate) struct Cli {
    /// Prints errors as JSON on a terminal too; with `bench`, prints the figures as JSON
    #[arg(long, global = true, display_order = 1000)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Calls any method, with its parameters in JSON
    #[command(after_help = methods())]
    Call(Call),
    /// Publishes data into a channel
    #[command(override_usage = "\
        centrifugo-api publish [OPTIONS] <CHANNEL> <DATA>\n       \
        centrifugo-api publish [OPTIONS] <CHANNEL> --file <FILE>")]
    Publish(Publish),
    /// Publishes the same data into many channels
    ///
    /// Prints the server's result for every channel, in their order. If some channel failed, the command also fails,
    /// with an error of kind `partial`.
    #[command(override_usage = "\
        centrifugo-api broadcast [OPTIONS] <CHANNEL>... <DATA>\n       \
        centrifugo-api broadcast [OPTIONS] <CHANNEL>... --file <FILE>\n       \
        centrifugo-api broadcast [OPTIONS] --channels-from <FILE> <DATA>")]
    Broadcast(Broadcast),
    /// Measures publishing one by one, in batches and as broadcast, over both transports
    ///
    /// Sends the same publications in every way, over each transport in turn, and prints messages per second, the
    /// latency of requests, and this process's CPU time per message. Publications have no idempotency keys.
    ///
    /// Loads the server of `--grpc`, `--http` or both. Without either it starts the stand-in as a process of its own and
    /// loads that, even if `CENTRIFUGO_GRPC` or `CENTRIFUGO_HTTP` is set: `--server-from-env` loads the server that they name.
    Bench(Bench),
    /// Reads and checks the tokens of clients
    #[command(subcommand)]
    Token(token::Command),
    /// Runs the stand-in: a server in memory that responds as Centrifugo does
    ///
    /// Prints the addresses as a line of JSON and runs until it is interrupted or terminated. With an API key it
    /// requires that; without one it is open to everyone. It has no subscribers, and keeps nothing when it ends.
    Serve(Serve),
}

#[derive(Args)]
pub(crate) struct Call {
    /// The method's name, as `presence_stats`
    pub(crate) method: String,
    /// Its parameters, a JSON object; `-` reads them from standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(crate) params: String,
    /// Prints the result over many lines
    #[arg(long)]
    pub(crate) pretty: bool,
}

#[derive(Args)]
pub(crate) struct Publish {
    /// The channel
    pub(crate) channel: String,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) publication: Publication,
}

#[derive(Args)]
pub(crate) struct Broadcast {
    /// The channels, then the data as JSON, or `-` to read the data from standard input. With --file all are channels
    #[arg(value_name = "CHANNEL... DATA", required_unless_present = "channels_from", allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    /// Adds the channels in this file, one a line; `-` reads them from standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) channels_from: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) publication: Publication,
}

#[derive(Args, Default)]
pub(crate) struct Publication {
    /// A tag for the publication, as `lang=en`; may be given again
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// The idempotency key: repeating it within 5 minutes publishes nothing and prints the first result
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Keeps the publication out of the channel's history
    #[arg(long)]
    pub(crate) skip_history: bool,
    /// Sends subscribers the difference to the publication before, where they negotiated that
    #[arg(long)]
    pub(crate) delta: bool,
    /// The version of the channel's state: the server ignores the publication unless it is newer
    #[arg(long = "version", id = "publication_version", value_name = "N")]
    pub(crate) version: Option<u64>,
    /// What the version belongs to; versions of different epochs are not compared
    #[arg(long, value_name = "EPOCH")]
    pub(crate) version_epoch: Option<String>,
}

/// What to publish.
#[derive(Args)]
pub(crate) struct Data {
    /// The data, in JSON; `-` reads it from standard input
    #[arg(
        value_name = "DATA",
        required_unless_present = "file",
        conflicts_with = "file",
        allow_negative_numbers = true
    )]
    pub(crate) given: Option<String>,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Where the data comes from, and how to take it.
#[derive(Args)]
pub(crate) struct Source {
    /// Reads the data from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Takes the data as text, and publishes it as a JSON string
    #[arg(long, conflicts_with = "binary")]
    pub(crate) text: bool,
    /// Publishes the bytes as they are; the server disconnects subscribers that speak JSON when they are not JSON
    #[arg(long)]
    pub(crate) binary: bool,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// The number of publications, in every way and round
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one)]
    pub(crate) messages: usize,
    /// The number of channels they go to
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one)]
    pub(crate) channels: usize,
    /// The prefix of the channels' names; put a namespace here
    #[arg(long, value_name = "TEXT", default_value = "bench_")]
    pub(crate) channel_prefix: String,
    /// The size of a publication's data; it is a JSON string, with its quotes
    #[arg(long, value_name = "BYTES", default_value = "26")]
    pub(crate) payload: usize,
    /// The number of tasks that publish concurrently
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    pub(crate) callers: usize,
    /// The number of publications in a batch, and of channels in a broadcast
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// The number of rounds; the table has the medians
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// The number of connections over gRPC
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) connections: usize,
    /// Which of tokio's runtimes the client runs on; `both` compares them
    #[arg(long, default_value = "multi")]
    pub(crate) runtime: Runtimes,
    /// Draws the figures into an SVG file as well
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) chart: Option<PathBuf>,
    /// Loads the server that `CENTRIFUGO_GRPC` or `CENTRIFUGO_HTTP` names
    #[arg(long)]
    pub(crate) server_from_env: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Multi,
    Current,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Runtimes {
    /// A thread for every core
    Multi,
    /// One thread
    Current,
    /// Each of them, side by side
    Both,
}

#[derive(Args)]
pub(crate) struct Serve {
    /// Where to listen for gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10000")]
    pub(crate) grpc_addr: SocketAddr,
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub(crate) http_addr: SocketAddr,
    /// Adds a namespace, as `chat`, `chat:history=100,presence` or `scores:map`; may be given again
    #[arg(long = "namespace", value_name = "NAME[:OPTION,…]")]
    pub(crate) namespaces: Vec<Namespace>,
    /// Ends when standard input does, as it does when the process at its other end is gone
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// Reads the command line. Errors of its form end the process here, as clap does it.
pub(crate) fn parse() -> Cli {
    let mut command = command();
    let matches = command.get_matches_mut();
    if let Some((name, of_command)) = matches.subcommand() {
        // Global options come with every command, and some have no client.
        let of_command = of_command.subcommand().map_or(of_command, |(_, inner)| inner);
        let on_the_line = |id: &&str| of_command.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(id) = refused(name).find(on_the_line) {
            let message = format!("`{name}` calls no server, and so has no use for --{}", id.replace('_', "-"));
            command.error(ErrorKind::ArgumentConflict, message).exit();
        }
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The ids of the global options that a command refuses.
fn refused(command: &str) -> impl Iterator<Item = &'static str> + use<> {
    let (clients, keys): (&[_], &[_]) = match command {
        "serve" => (&OF_CLIENTS, &[]),
        "token" => (&OF_CLIENTS, &OF_KEYS),
        _ => (&[], &[]),
    };
    clients.iter().chain(keys).copied()
}

/// The command, whose subcommands show none of the options that they refuse.
fn command() -> clap::Command {
    let mut command = Cli::command();
    // Global options reach the subcommands only now.
    command.build();
    for name in ["serve", "token"] {
        command = command.mut_subcommand(name, |command| without_refused(command, name));
    }
    command
}

fn without_refused(command: clap::Command, of: &'static str) -> clap::Command {
    let hidden = command.mut_args(|option| {
        let is_refused = refused(of).any(|id| option.get_id() == id);
        if is_refused { option.hide(true) } else { option }
    });
    hidden.mut_subcommands(|inner| without_refused(inner, of))
}

impl Runtimes {
    pub(crate) fn each(self) -> &'static [Runtime] {
        match self {
            Self::Multi => &[Runtime::Multi],
            Self::Current => &[Runtime::Current],
            Self::Both => &[Runtime::Multi, Runtime::Current],
        }
    }
}

impl Runtime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Current => "current",
        }
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// The names that `call` takes, for its help.
fn methods() -> String {
    let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    let lines = names.chunks(5).map(|line| format!("  {}", line.join(", ")));
    format!(
        "Methods, of which an open-source server has about half:\n{}\n\n\
         Over HTTP any other name is sent as well, and left to the server to know.",
        lines.collect::<Vec<_>>().join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        command().debug_assert();
    }
}
