//! The server that the bench loads: one that was given, or the stand-in in a process of its own.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use centrifugo_api::Config;
use serde::{Deserialize, Serialize};

use crate::connection::{Connection, Transport};
use crate::failure::Failure;

/// The stand-in requires a key as a server does, so that sending one is measured too.
const KEY: &str = "bench";

pub(super) enum Server {
    Given,
    StandIn { process: Process, urls: Urls },
}

/// What `serve` prints.
#[derive(Deserialize)]
pub(super) struct Urls {
    grpc: String,
    http: String,
}

/// A child process, killed when this is dropped.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended. Otherwise it ends at the end of its standard input.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server, for the reader of the numbers.
#[derive(Clone, Serialize)]
pub(super) struct Described {
    /// `given` or `stand-in`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
}

impl Described {
    /// In one line of text.
    pub(super) fn text(&self) -> String {
        let urls = [&self.grpc, &self.http].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" and ");
        let version = self.version.as_ref().map(|version| format!(" (version {version})")).unwrap_or_default();
        match self.process {
            Some(process) => format!("the stand-in, started by this command as process {process}, at {urls}"),
            None => format!("{urls}{version}"),
        }
    }

    /// The server without its address.
    pub(super) fn name(&self) -> String {
        match (&self.version, self.process) {
            (_, Some(_)) => "the stand-in".into(),
            (Some(version), None) => format!("Centrifugo {version}"),
            (None, None) => "Centrifugo".into(),
        }
    }

    pub(super) fn has_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    pub(super) fn is_stand_in(&self) -> bool {
        self.process.is_some()
    }
}

impl Server {
    /// The server that was given, or else a stand-in.
    pub(super) fn new(connection: &Connection) -> Result<Self, Failure> {
        if connection.names_a_server() {
            return Ok(Self::Given);
        }
        let (process, urls) = start().map_err(|error| Failure::io("the stand-in cannot be started", error))?;
        Ok(Self::StandIn { process, urls })
    }

    /// The configuration of a client that keeps so many connections over gRPC.
    pub(super) fn config(
        &self,
        connection: &Connection,
        transport: Transport,
        connections: usize,
    ) -> Result<Config, Failure> {
        let config: Config = match (self, transport) {
            (Self::Given, Transport::Grpc) => {
                connection.server(transport, Config::grpc)?.connections(connections).pro(connection.pro).into()
            }
            (Self::Given, Transport::Http) => connection.server(transport, Config::http)?.pro(connection.pro).into(),
            (Self::StandIn { urls, .. }, Transport::Grpc) => {
                Config::grpc(&urls.grpc).connections(connections).api_key(KEY).into()
            }
            (Self::StandIn { urls, .. }, Transport::Http) => Config::http(&urls.http).api_key(KEY).into(),
        };
        Ok(config.timeout(connection.timeout))
    }

    pub(super) fn described(&self, connection: &Connection, version: Option<String>) -> Described {
        let url = |transport: Transport| {
            let used = connection.transports().contains(&transport);
            let url = match (self, transport) {
                (Self::Given, _) => connection.address(transport),
                (Self::StandIn { urls, .. }, Transport::Grpc) => &urls.grpc,
                (Self::StandIn { urls, .. }, Transport::Http) => &urls.http,
            };
            used.then(|| url.replace(',', ", "))
        };
        let (kind, process) = match self {
            Self::Given => ("given", None),
            Self::StandIn { process, .. } => ("stand-in", Some(process.0.id())),
        };
        Described { kind, process, version, grpc: url(Transport::Grpc), http: url(Transport::Http) }
    }
}

/// Starts the stand-in, and waits until it prints its addresses.
fn start() -> io::Result<(Process, Urls)> {
    let mut process = Command::new(env::current_exe()?)
        .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--stop-with-stdin"])
        .env("CENTRIFUGO_API_KEY", KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Process)?;
    let mut line = String::new();
    if let Some(stdout) = process.0.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let urls = serde_json::from_str(&line).map_err(|_| io::Error::other("it did not print its addresses"))?;
    Ok((process, urls))
}
