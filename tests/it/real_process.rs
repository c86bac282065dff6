//! Tests with processes of a real server: terminated, killed, stopped, restarted.
//!
//! Ignored unless asked for; they need the server's binary, and start it themselves on free ports:
//!
//! ```text
//! CENTRIFUGO_TEST_BINARY=centrifugo cargo test --all-features --test it -- --ignored real_process --nocapture
//! ```

#![allow(clippy::print_stdout, reason = "what the server did is for people to read")]

mod outages;
mod refusals;
mod shutdown;

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::config::{Grpc, Http};
use centrifugo_api::message::InfoRequest;
use centrifugo_api::{Client, Config, Error, HistoryRequest, PublishRequest, PublishResult, Retry};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{BOTH, Over};

const KEY: &str = "api_key";

/// A server in a process of its own. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    directory: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Process {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts it with a changed configuration.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Value)) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("centrifugo-api-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        // Both at once, so that they differ.
        let [grpc, http] =
            [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()).map(|free| free.local_addr().unwrap());
        let configs = include_str!("../fixtures/server-configs.json");
        let mut config = serde_json::from_str::<Value>(configs).unwrap()["default"].take();
        config["http_server"]["port"] = http.port().into();
        config["grpc_api"]["port"] = grpc.port().into();
        config["channel"]["without_namespace"]["history_size"] = 1_000_000.into();
        config["channel"]["without_namespace"]["history_ttl"] = "3600s".into();
        change(&mut config);
        fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let mut process = Self { child: spawn(&directory), directory, grpc, http };
        process.until_ready().await;
        process
    }

    /// Starts it again, at the same ports. Returns when it first responded over gRPC.
    async fn start_again(&mut self) -> Instant {
        self.child.wait().unwrap();
        self.child = spawn(&self.directory);
        self.until_ready().await
    }

    /// Waits until it responds over both transports.
    async fn until_ready(&mut self) -> Instant {
        let once = |config: Config| Client::new(config.retry(None).timeout(Duration::from_millis(200))).unwrap();
        let started = Instant::now();
        let mut first = None;
        for over in BOTH {
            // A client for each try, so that none waits for longer after each.
            while once(self.config(over)).info(InfoRequest::new()).await.is_err() {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(self.directory.join("log")).unwrap());
                assert!(started.elapsed() < Duration::from_secs(20), "the server does not respond");
                sleep(Duration::from_millis(5)).await;
            }
            first.get_or_insert_with(Instant::now);
        }
        first.unwrap()
    }

    fn config(&self, over: Over) -> Config {
        match over {
            Over::Grpc => self.grpc().into(),
            Over::Http => self.http().into(),
        }
    }

    pub(crate) fn grpc(&self) -> Config<Grpc> {
        Config::grpc(self.grpc_url()).api_key(KEY)
    }

    pub(crate) fn http(&self) -> Config<Http> {
        Config::http(self.http_url()).api_key(KEY)
    }

    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub(crate) fn http_url(&self) -> String {
        format!("http://{}/api", self.http)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already, and a directory that is gone, are as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path) -> Child {
    let binary = std::env::var_os("CENTRIFUGO_TEST_BINARY");
    let binary = binary.expect("CENTRIFUGO_TEST_BINARY is not set: see tests/it/real_process.rs");
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let mut command = Command::new(binary);
    // The server takes variables of this name for settings.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CENTRIFUGO_")) {
        command.env_remove(name);
    }
    command.arg("--config").arg(directory.join("config.json")).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// A publication, and what became of it.
struct Sent {
    id: u64,
    started: Instant,
    ended: Instant,
    result: Result<PublishResult, Error>,
}

impl Sent {
    fn took(&self) -> Duration {
        self.ended - self.started
    }
}

/// Publishers that run until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Sent>>>,
}

impl Load {
    fn start(client: &Client, publishers: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..publishers).map(|number| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    let request = PublishRequest::new(format!("load-{number}"), json!({"id": id}));
                    let started = Instant::now();
                    let result = client.publish(request).await;
                    all.push(Sent { id, started, ended: Instant::now(), result });
                    sleep(Duration::from_millis(2)).await;
                }
                all
            })
        });
        Self { tasks: tasks.collect(), stop }
    }

    async fn stop(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

fn print_counts(what: &str, all: &[Sent]) {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for sent in all {
        let told = match &sent.result {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{} {}", error.outcome().name(), error.kind().name()),
        };
        *counts.entry(told).or_default() += 1;
    }
    let slowest = all.iter().map(Sent::took).max().unwrap_or_default();
    println!("{what}: {counts:?}, the slowest took {slowest:.1?}");
}

fn failed(all: &[Sent]) -> Vec<String> {
    all.iter().filter_map(|sent| Some(sent.result.as_ref().err()?.to_string())).collect()
}

/// How often each publication of the load is in the server's history.
async fn history(server: &Process, publishers: usize) -> HashMap<u64, u64> {
    let client = Client::new(server.config(Over::Grpc)).unwrap();
    let mut places = HashMap::new();
    for number in 0..publishers {
        let request = HistoryRequest::new(format!("load-{number}")).limit(HistoryRequest::NO_LIMIT);
        for publication in client.history(request).await.unwrap().publications {
            *places.entry(publication.json::<Value>().unwrap()["id"].as_u64().unwrap()).or_default() += 1;
        }
    }
    places
}

/// Counts retries.
fn counted(retry: Retry, repeats: &Arc<AtomicU64>) -> Retry {
    let count = Arc::clone(repeats);
    retry.observe(move |_| _ = count.fetch_add(1, Ordering::Relaxed))
}

const PUBLISHERS: usize = 16;
