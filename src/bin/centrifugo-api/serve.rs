//! `serve`: the stand-in, as a process.

use std::io;
use std::thread;
use std::time::Duration;

use centrifugo_api::testing::{self, Server};
use serde_json::json;
use tokio::sync::oneshot;

use crate::args::Serve;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(connection: &Connection, serve: Serve) -> Result<(), Failure> {
    // From the beginning, so that no signal is missed.
    let stopped = stopped(serve.stop_with_stdin).map_err(|error| Failure::io("signals cannot be waited for", error))?;
    let mut builder = Server::builder().grpc_addr(serve.grpc_addr).http_addr(serve.http_addr).without_records();
    if let Some(key) = connection.key()? {
        builder = builder.api_key(key);
    }
    for namespace in serve.namespaces {
        builder = builder.namespace(namespace.0);
    }
    let started = builder.start().await;
    let server = started.map_err(|error| Failure::io("the stand-in cannot be started", error))?;
    let urls = json!({ "grpc": server.grpc_url(), "http": server.http_url() });
    output::print(&urls.to_string())?;
    stopped.await;
    server.shutdown().await;
    Ok(())
}

/// Waits until the process is asked to end.
fn stopped(with_stdin: bool) -> io::Result<impl Future<Output = ()>> {
    let signalled = signalled()?;
    let (ended, stdin_ended) = oneshot::channel();
    if with_stdin {
        // A thread that the runtime does not know, as nothing ends a read of standard input.
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = ended.send(());
        });
    }
    Ok(async move {
        tokio::select! {
            () = signalled => {}
            // Without `--stop-with-stdin` the sender is gone, and that is no reason to end.
            Ok(()) = stdin_ended => {}
        }
    })
}

#[cfg(unix)]
fn signalled() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same as on other systems")]
fn signalled() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// A namespace as the command line gives it: `NAME`, or `NAME:history=SIZE,presence,map`.
#[derive(Clone)]
pub(crate) struct Namespace(testing::Namespace);

impl std::str::FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// As long as the stand-in keeps it in channels without a namespace.
        const TTL: Duration = Duration::from_secs(300);
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if name.is_empty() {
            return Err("the name is empty".into());
        }
        let mut namespace = testing::Namespace::new(name);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            namespace = match option.split_once('=') {
                Some(("history", size)) => namespace.history(size.parse().map_err(|_| "history needs a number")?, TTL),
                None if option == "presence" => namespace.presence(true),
                None if option == "map" => namespace.map(testing::MapMode::Persistent),
                _ => return Err(format!("`{option}` is none of history=SIZE, presence and map")),
            };
        }
        Ok(Self(namespace))
    }
}
