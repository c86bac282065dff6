//! Tests through the real `nginx` and `haproxy`, with their defaults and with hostile settings.
//!
//! Ignored unless asked for; they need the programs `nginx` and `haproxy`, and start them on free ports:
//!
//! ```text
//! cargo test --all-features --test it -- --ignored real_proxies
//! ```

mod haproxy;
mod nginx;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, Error};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::authority::Authority;
use crate::support::{Over, numbered, soon, within};

/// A proxy in a process of its own, in front of a stand-in. It is ended when this is dropped.
struct Gateway {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
    authority: Authority,
    server: Server,
}

/// What a configuration is made of.
struct Setting<'a> {
    address: SocketAddr,
    directory: &'a Path,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Gateway {
    /// Starts a program with these arguments, `{}` being the path of its configuration, on a free port.
    async fn start(program: &str, arguments: &[&str], configuration: impl Fn(&Setting<'_>) -> String) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("centrifugo-api-{program}-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (server, authority) = (Server::start().await.unwrap(), Authority::new());
        let identity = authority.issue("localhost");
        fs::write(directory.join("cert.pem"), format!("{}{}", identity.certificate, identity.key)).unwrap();
        let setting = Setting { address, directory: &directory, grpc: server.grpc_addr(), http: server.http_addr() };
        let path = directory.join("config");
        fs::write(&path, configuration(&setting)).unwrap();
        let arguments = arguments.iter().map(|argument| argument.replace("{}", path.to_str().unwrap()));
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        let mut gateway = Self { child, directory, address, authority, server };
        soon(async {
            while TcpStream::connect(address).await.is_err() {
                let ended = gateway.child.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(gateway.directory.join("log")).unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        gateway
    }

    /// In clear text.
    fn config(&self, over: Over) -> Config {
        over.config_at(&format!("http://{}", self.address))
    }

    /// Over TLS.
    fn https(&self, over: Over) -> Config {
        let url = format!("https://localhost:{}", self.address.port());
        over.config_at(&url).tls(Tls::new().ca_certificates(self.authority.pem()))
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.signal("TERM");
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// So many callers make so many calls together. The errors of those that failed.
async fn call(client: &Client, callers: usize, calls: usize) -> Vec<Error> {
    let mut all = JoinSet::new();
    for caller in 0..callers {
        let client = client.clone();
        all.spawn(async move {
            let mut errors = Vec::new();
            for number in 0..calls / callers {
                errors.extend(client.publish(numbered(caller * calls + number)).await.err());
            }
            errors
        });
    }
    within(Duration::from_secs(60), all.join_all()).await.into_iter().flatten().collect()
}

/// Publishes with so many callers while something happens. The errors, and how many calls succeeded.
async fn call_while(client: &Client, callers: usize, happens: impl Future<Output = ()>) -> (Vec<Error>, u64) {
    let (stop, mut all) = (Arc::<AtomicBool>::default(), JoinSet::new());
    for _ in 0..callers {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        all.spawn(async move {
            let (mut errors, mut done) = (Vec::new(), 0);
            while !stop.load(Ordering::SeqCst) {
                match client.publish(numbered(0)).await {
                    Ok(_) => done += 1,
                    Err(error) => errors.push(error),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (errors, done)
        });
    }
    happens.await;
    stop.store(true, Ordering::SeqCst);
    let ended = soon(all.join_all()).await;
    ended.into_iter().fold((Vec::new(), 0), |(mut errors, done), (others, more)| {
        errors.extend(others);
        (errors, done + more)
    })
}

#[track_caller]
fn assert_none_failed(errors: &[Error]) {
    assert!(errors.is_empty(), "{} failed: {:?}", errors.len(), errors.first());
}
