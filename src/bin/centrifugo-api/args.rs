//! The arguments: which there are, and the client they describe.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use centrifugo_api::{Client, Config, Error, Method, Retry, Tls};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::output::{self, Failure};
use crate::serve::Namespace;

/// The ports and the path of a server that is configured with neither.
const GRPC: &str = "http://localhost:10000";
const HTTP: &str = "http://localhost:8000/api";

/// Calls the server API of Centrifugo, over gRPC or over HTTP.
///
/// Results are JSON on standard output, one line each. Errors are JSON on standard error.
#[derive(Parser)]
#[command(name = "centrifugo-api", version, max_term_width = 100, after_help = output::exit_codes())]
pub(crate) struct Cli {
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
    Publish(Publish),
    /// Publishes the same data into many channels
    ///
    /// Prints the server's result for every channel, in their order. If some channel failed, that is an error of kind
    /// `partial` as well.
    Broadcast(Broadcast),
    /// Measures publishing one by one, in batches and as broadcast, over both transports
    ///
    /// Sends the same publications in every way, over each transport in turn, and prints messages per second, the
    /// latency of requests, and this process's CPU time per message. Publications have no idempotency keys. Uses the
    /// server given with `--grpc`, `--http` or both; without either it starts the stand-in as a process of its own and
    /// uses that.
    Bench(Bench),
    /// Runs the stand-in: a server in memory that answers as Centrifugo does
    ///
    /// Prints the addresses as a line of JSON and runs until it is interrupted or terminated. With an API key it asks
    /// for that; without one it is open to everyone. It has no subscribers, and forgets everything when it ends.
    Serve(Serve),
}

/// The options that are only for commands that talk to a server.
const OF_CALLERS: [&str; 12] = [
    "grpc",
    "http",
    "transport",
    "fallback",
    "retries",
    "no_idempotency_keys",
    "timeout",
    "pro",
    "ca",
    "client_cert",
    "client_key",
    "insecure_skip_verification",
];

/// Where the server is, for all commands that talk to one.
#[derive(Args)]
#[command(next_help_heading = "Server")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Connection {
    #[arg(long, global = true, value_name = "URL", env = "CENTRIFUGO_GRPC", hide_env_values = true)]
    #[arg(help = format!("The address of the gRPC API, or several, separated by commas [default: {GRPC}]"))]
    grpc: Option<String>,
    #[arg(long, global = true, value_name = "URL", env = "CENTRIFUGO_HTTP", hide_env_values = true)]
    #[arg(help = format!("The address of the HTTP API, or several, separated by commas [default: {HTTP}]"))]
    http: Option<String>,
    /// Calls over HTTP, at the address of --http, while gRPC is not there or does not answer
    #[arg(long, global = true)]
    fallback: bool,
    /// How often a call is repeated at most, where that can help and cannot harm; 0 also keeps publications from being
    /// given idempotency keys
    #[arg(long, global = true, value_name = "N", default_value = "2")]
    retries: u32,
    /// Gives publications no idempotency keys, so that they are repeated only if they certainly were not published: for
    /// brokers that know no keys, like NATS
    #[arg(long, global = true)]
    no_idempotency_keys: bool,
    /// What to call over [default: grpc, unless only --http is given]
    #[arg(long, global = true)]
    transport: Option<Transport>,
    /// The API key; other users of this machine can see it here, so prefer the variable or the file
    #[arg(long, global = true, value_name = "KEY", env = "CENTRIFUGO_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// A file that holds the API key; goes before the other two
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Bounds every call, as `500ms`, `2s` or `1m`
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Trusts the certificate authorities in this PEM file instead of the operating system's
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate to show the server (PEM, with its chain); needs --client-key
    #[arg(long, global = true, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// The key of --client-cert (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Says that the server is Centrifugo PRO: without it, fields that the open-source server would ignore are refused
    #[arg(long, global = true)]
    pub(crate) pro: bool,
    /// DANGEROUS: accepts any certificate, so that anybody on the way can read and change everything
    #[arg(long, global = true)]
    insecure_skip_verification: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Grpc,
    Http,
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
    /// The channels, and last the data, in JSON; `-` reads the data from standard input. With --file all are channels
    #[arg(value_name = "CHANNEL… DATA", required_unless_present = "channels_from", allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    /// Adds the channels in this file, one a line
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
    /// A name for this publication: repeating it within 5 minutes publishes nothing and answers as the first time
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
    /// How many publications to send in every way and round
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one)]
    pub(crate) messages: usize,
    /// How many channels they go to
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one)]
    pub(crate) channels: usize,
    /// What the channels' names begin with; put a namespace here
    #[arg(long, value_name = "TEXT", default_value = "bench_")]
    pub(crate) channel_prefix: String,
    /// The size of a publication's data; it is a JSON string, with its quotes
    #[arg(long, value_name = "BYTES", default_value = "26")]
    pub(crate) payload: usize,
    /// How many tasks publish at the same time where many do
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    pub(crate) callers: usize,
    /// How many publications a batch has, and how many channels a broadcast
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// How often to measure everything; the table has the medians
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// How many connections to keep over gRPC
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) connections: usize,
    /// Which of tokio's runtimes the client runs on; `both` compares them
    #[arg(long, default_value = "multi")]
    pub(crate) runtime: Runtimes,
    /// Prints JSON in place of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Draws the numbers into an SVG file as well
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) chart: Option<PathBuf>,
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
    let matches = Cli::command().get_matches();
    if let Some(("serve", serve)) = matches.subcommand() {
        // They come with every command, and this one calls no server.
        let on_the_line = |id: &&str| serve.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(id) = OF_CALLERS.into_iter().find(on_the_line) {
            let message = format!("`serve` calls no server, and so has no use for --{}", id.replace('_', "-"));
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Cli::command()).exit())
}

impl Connection {
    /// The client that the arguments describe.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        if !self.fallback {
            return Ok(Client::new(self.config(self.transport())?)?);
        }
        if self.transport == Some(Transport::Http) {
            return Err(Failure::invalid("--fallback is for calls over gRPC, and --transport names HTTP"));
        }
        let http = self.server(Transport::Http, Config::http)?;
        let grpc = self.server(Transport::Grpc, Config::grpc)?.fallback(http);
        Ok(Client::new(self.calls(grpc.into()))?)
    }

    fn transport(&self) -> Transport {
        let only_http = self.url(Transport::Http).is_some() && self.url(Transport::Grpc).is_none();
        self.transport.unwrap_or(if only_http { Transport::Http } else { Transport::Grpc })
    }

    /// The transports to compare, which are those asked for: with `--transport`, or by giving an address.
    pub(crate) fn transports(&self) -> Vec<Transport> {
        let all = [Transport::Grpc, Transport::Http];
        let given = |transport: &Transport| self.transport.is_none_or(|only| only == *transport);
        let addressed = |transport: &Transport| !self.names_a_server() || self.url(*transport).is_some();
        match all.into_iter().filter(given).filter(addressed).collect::<Vec<_>>() {
            // `--transport` names the one whose address was left to the default.
            none if none.is_empty() => self.transport.into_iter().collect(),
            some => some,
        }
    }

    /// Whether an address was given.
    pub(crate) fn names_a_server(&self) -> bool {
        self.url(Transport::Grpc).is_some() || self.url(Transport::Http).is_some()
    }

    /// The address given. An empty variable is the same as none.
    fn url(&self, transport: Transport) -> Option<&str> {
        let url = match transport {
            Transport::Grpc => &self.grpc,
            Transport::Http => &self.http,
        };
        url.as_deref().filter(|url| !url.is_empty())
    }

    /// The address given, or the one a server has by default.
    pub(crate) fn address(&self, transport: Transport) -> &str {
        let default = match transport {
            Transport::Grpc => GRPC,
            Transport::Http => HTTP,
        };
        self.url(transport).unwrap_or(default)
    }

    /// The configuration of a client over one transport.
    pub(crate) fn config(&self, transport: Transport) -> Result<Config, Failure> {
        let server = match transport {
            Transport::Grpc => self.server(transport, Config::grpc)?.into(),
            Transport::Http => self.server(transport, Config::http)?.into(),
        };
        Ok(self.calls(server))
    }

    /// The configuration with what is said of calls.
    fn calls(&self, config: Config) -> Config {
        config.timeout(self.timeout).pro(self.pro).retry(self.retry())
    }

    pub(crate) fn retry(&self) -> Option<Retry> {
        let attempts = self.retries.saturating_add(1);
        (attempts > 1).then(|| Retry::new().attempts(attempts).idempotency_keys(!self.no_idempotency_keys))
    }

    /// Where the server is, over one transport, and how to be let in.
    pub(crate) fn server<T>(
        &self,
        transport: Transport,
        begin: impl FnOnce(String) -> Config<T>,
    ) -> Result<Config<T>, Failure> {
        let mut addresses = self.address(transport).split(',').map(str::trim);
        let config = begin(addresses.next().unwrap_or_default().to_owned());
        let config = addresses.fold(config, Config::endpoint);
        let config = match self.key()? {
            Some(key) => config.api_key(key),
            None => config,
        };
        Ok(match self.tls()? {
            Some(tls) => config.tls(tls),
            None => config,
        })
    }

    /// The API key, from wherever it was given.
    pub(crate) fn key(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.api_key_file else {
            return Ok(self.api_key.clone().filter(|key| !key.is_empty()));
        };
        // The text is not quoted, whatever is wrong with it.
        let key = String::from_utf8(read("--api-key-file", file)?)
            .map_err(|_| Failure::invalid("the file of --api-key-file is not text"))?;
        match key.trim() {
            "" => Err(Failure::invalid("the file of --api-key-file is empty")),
            key => Ok(Some(key.to_owned())),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let identity = match (&self.client_cert, &self.client_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((read("--client-cert", chain)?, read("--client-key", key)?)),
            _ => return Err(Failure::invalid("--client-cert and --client-key need each other")),
        };
        if self.ca.is_none() && identity.is_none() && !self.insecure_skip_verification {
            return Ok(None);
        }
        let mut tls = Tls::new();
        if let Some(file) = &self.ca {
            tls = tls.ca_certificates(read("--ca", file)?);
        }
        if let Some((chain, key)) = identity {
            tls = tls.client_certificate(chain, key);
        }
        if self.insecure_skip_verification {
            tls = tls.danger_skip_verification();
        }
        Ok(Some(tls))
    }
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

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// Reads a file that an option names. That it cannot be read is the option's fault.
pub(crate) fn read(option: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    let text = || format!("the file of {option}, {}, cannot be read", file.display());
    Ok(fs::read(file).map_err(|error| Error::new(centrifugo_api::ErrorKind::Invalid, text()).with_source(error))?)
}

/// A number with a unit; without one it is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("use a unit of ms, s or m".into()),
    };
    let number: f64 = number.parse().map_err(|_| "use a number with a unit, as 500ms, 2s or 1m")?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
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
        Cli::command().debug_assert();
    }

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "s", "1h", "-1s", "1e400s", "99999999999999999999s", "1 s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
