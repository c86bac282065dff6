//! Tests with processes of a real server: ended, killed, stopped, started anew.
//!
//! Ignored unless asked for; they need the server's binary, and start it themselves on free ports:
//!
//! ```text
//! CENTRIFUGO_TEST_BINARY=centrifugo cargo test --all-features --test it -- --ignored real_process --nocapture
//! ```

#![allow(clippy::print_stdout, reason = "what the server did is for people to read")]

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use centrifugo_api::{
    BreakerState, Client, Config, Error, ErrorKind, GetUserStatusRequest, HistoryRequest, InfoRequest, Outcome,
    PublishRequest, PublishResult, Retry,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::soak::{self, Place};
use crate::support::proxy::Proxy;
use crate::support::soon;
use crate::support::{BOTH, Over, servers::Nobody};

const KEY: &str = "api_key";

/// A server in a process of its own. It is killed when this is dropped.
struct Process {
    child: Child,
    directory: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Process {
    async fn start() -> Self {
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
        fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let mut process = Self { child: spawn(&directory), directory, grpc, http };
        process.until_ready().await;
        process
    }

    /// Starts it again, at the same ports. Returns when it first answered over gRPC.
    async fn start_again(&mut self) -> Instant {
        self.child.wait().unwrap();
        self.child = spawn(&self.directory);
        self.until_ready().await
    }

    /// Waits until it answers over both transports.
    async fn until_ready(&mut self) -> Instant {
        let once =
            |config: Config| Client::new(config.retry(Retry::off()).timeout(Duration::from_millis(200))).unwrap();
        let started = Instant::now();
        let mut first = None;
        for over in BOTH {
            // A client for each try, so that none waits for longer after each.
            while once(self.config(over)).info(InfoRequest::new()).await.is_err() {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(self.directory.join("log")).unwrap());
                assert!(started.elapsed() < Duration::from_secs(20), "the server does not answer");
                sleep(Duration::from_millis(5)).await;
            }
            first.get_or_insert_with(Instant::now);
        }
        first.unwrap()
    }

    fn config(&self, over: Over) -> Config {
        match over {
            Over::Grpc => Config::grpc(self.grpc_url()),
            Over::Http => Config::http(self.http_url()),
        }
        .api_key(KEY)
    }

    fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    fn http_url(&self) -> String {
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

/// Publishers that go on until they are told to stop.
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

/// Counts repeats.
fn counted(retry: Retry, repeats: &Arc<AtomicU64>) -> Retry {
    let count = Arc::clone(repeats);
    retry.observe(move |_| _ = count.fetch_add(1, Ordering::Relaxed))
}

const PUBLISHERS: usize = 16;

/// Ends one of two nodes under load, with this much time on the way to each.
async fn end_one_of_two(over: Over, retry: Retry, latency: Duration) -> Vec<Sent> {
    let (mut ends, stays) = (Process::start().await, Process::start().await);
    let addresses = [&ends, &stays].map(|node| if over == Over::Grpc { node.grpc } else { node.http });
    let proxies = (!latency.is_zero()).then(|| {
        addresses.map(|address| {
            let proxy = Proxy::to(address);
            proxy.both(|lane| lane.latency = latency);
            proxy
        })
    });
    let addresses = proxies.as_ref().map_or(addresses, |proxies| proxies.each_ref().map(|proxy| proxy.address()));
    let [one, other] = addresses.map(|address| format!("http://{address}"));
    let (what, repeats) = (format!("{over:?}, {latency:?} on the way, {retry:?}"), Arc::new(AtomicU64::new(0)));
    let retry = counted(retry, &repeats);
    let config = match over {
        Over::Grpc => Config::grpc(one).endpoint(other).connections(2),
        Over::Http => Config::http(format!("{one}/api")).endpoint(format!("{other}/api")),
    };
    let client = Client::new(config.api_key(KEY).retry(retry)).unwrap();
    let load = Load::start(&client, PUBLISHERS);
    sleep(Duration::from_secs(1)).await;
    ends.signal("TERM");
    let asked = Instant::now();
    let status = soon(ends.ended()).await;
    let took = asked.elapsed();
    sleep(Duration::from_secs(1)).await;
    let all = load.stop().await;
    let repeats = repeats.load(Ordering::Relaxed);
    print_counts(&format!("SIGTERM of one of two over {what}: {status} after {took:.1?}, {repeats} repeats"), &all);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_node_that_is_told_to_end_fails_no_call_over_grpc() {
    for latency in [Duration::ZERO, Duration::from_millis(20)] {
        for retry in [Retry::new(), Retry::off()] {
            assert_eq!(failed(&end_one_of_two(Over::Grpc, retry, latency).await), [""; 0]);
        }
    }
}

/// Over HTTP the server closes idle connections without a warning, and a call may be on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_node_that_is_told_to_end_fails_no_call_with_a_key_over_http() {
    for latency in [Duration::ZERO, Duration::from_millis(20)] {
        assert_eq!(failed(&end_one_of_two(Over::Http, Retry::new(), latency).await), [""; 0]);
        for sent in end_one_of_two(Over::Http, Retry::new().idempotency_keys(false), latency).await {
            if let Err(error) = sent.result {
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn the_only_node_may_be_started_anew_while_calls_wait_for_it() {
    for signal in ["TERM", "KILL"] {
        let mut server = Process::start().await;
        let repeats = Arc::new(AtomicU64::new(0));
        let retry = counted(Retry::new().wait_for_ready(true), &repeats);
        let client = Client::new(server.config(Over::Grpc).retry(retry)).unwrap();
        let load = Load::start(&client, PUBLISHERS);
        sleep(Duration::from_millis(500)).await;
        server.signal(signal);
        soon(server.ended()).await;
        sleep(Duration::from_millis(500)).await;
        let answers = server.start_again().await;
        sleep(Duration::from_secs(3)).await;
        let all = load.stop().await;
        print_counts(
            &format!("SIG{signal} and a new start, waiting, {} repeats", repeats.load(Ordering::Relaxed)),
            &all,
        );
        assert_eq!(failed(&all), [""; 0]);
        let first = all.iter().map(|sent| sent.ended).filter(|ended| *ended > answers).min().unwrap();
        println!("the first success {:.1?} after the server answered", first - answers);
        assert!(first - answers < Duration::from_secs(2));
    }
}

/// What the server does with a connection and with a call on it, when it is told to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_call_that_is_half_sent_when_the_server_is_told_to_end_is_answered() {
    let mut server = Process::start().await;
    let stream = tokio::net::TcpStream::connect(server.grpc).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        http::Request::post(format!("{}/centrifugal.centrifugo.api.CentrifugoApi/Publish", server.grpc_url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("apikey {KEY}"))
            .body(())
            .unwrap()
    };
    let message = PublishRequest::new("news", json!(1)).encode_to_vec();
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let (first, last) = frame.split_at(8);
    let (answer, mut body) = sender.send_request(request(), false).unwrap();
    body.send_data(Bytes::copy_from_slice(first), false).unwrap();
    sleep(Duration::from_millis(200)).await;
    server.signal("TERM");
    sleep(Duration::from_millis(200)).await;
    let asked = Instant::now();
    let next = match soon(sender.clone().ready()).await {
        Ok(mut ready) => match ready.send_request(request(), false) {
            Ok((answer, _)) => match soon(answer).await {
                Ok(answer) => format!("is answered {}", answer.status()),
                Err(error) => format!("fails: {error}, GOAWAY: {}", error.is_go_away()),
            },
            Err(error) => format!("cannot be sent: {error}, GOAWAY: {}", error.is_go_away()),
        },
        Err(error) => format!("finds the connection ended: {error}, GOAWAY: {}", error.is_go_away()),
    };
    println!("after SIGTERM the next call {next}");
    println!(
        "a new connection: {:?}",
        tokio::net::TcpStream::connect(server.grpc).await.map(drop).map_err(|error| error.kind())
    );
    println!("still running: {}", server.child.try_wait().unwrap().is_none());
    body.send_data(Bytes::copy_from_slice(last), true).unwrap();
    let answer = soon(answer).await;
    let status = match answer {
        Ok(answer) => {
            let mut body = answer.into_body();
            while let Some(data) = soon(body.data()).await {
                println!("the call that was half sent is answered {:?}", data.unwrap());
            }
            soon(body.trailers()).await.unwrap().and_then(|trailers| trailers.get("grpc-status").cloned())
        }
        Err(error) => panic!("the call that was half sent fails: {error}"),
    };
    println!("its status is {status:?}; the connection ended with {:?}", soon(connection).await.unwrap());
    println!("the server ended with {} after {:.1?}", soon(server.ended()).await, asked.elapsed());
    println!("{}", server.log());
    assert_eq!(status.unwrap(), "0");
}

/// The same over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_post_that_is_half_sent_when_the_server_is_told_to_end_is_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut server = Process::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let mut idle = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let post = |body: &str| {
        let length = body.len();
        let head = format!("POST /api/publish HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n");
        format!("{head}content-length: {length}\r\n\r\n{body}")
    };
    let body = r#"{"channel":"news","data":1}"#;
    idle.write_all(post(body).as_bytes()).await.unwrap();
    assert!(soon(idle.read(&mut [0; 4096])).await.unwrap() > 0);
    let request = post(body);
    let (first, last) = request.split_at(request.len() - 5);
    stream.write_all(first.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    server.signal("TERM");
    let asked = Instant::now();
    assert_eq!(soon(idle.read(&mut [0; 4096])).await.unwrap(), 0);
    println!("after SIGTERM an idle connection is closed within {:.1?}", asked.elapsed());
    sleep(Duration::from_millis(200)).await;
    println!("still running: {}", server.child.try_wait().unwrap().is_none());
    stream.write_all(last.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    println!("the POST that was half sent is answered {answer:?}");
    println!("the server ended with {} after {:.1?}", soon(server.ended()).await, asked.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_server_that_is_killed_leaves_no_call_in_the_dark_and_is_found_again() {
    for over in BOTH {
        for keys in [true, false] {
            let mut server = Process::start().await;
            let repeats = Arc::new(AtomicU64::new(0));
            let retry = counted(Retry::new().idempotency_keys(keys), &repeats);
            let client = Client::new(server.config(over).retry(retry)).unwrap();
            let load = Load::start(&client, PUBLISHERS);
            sleep(Duration::from_secs(1)).await;
            server.signal("KILL");
            soon(server.ended()).await;
            sleep(Duration::from_secs(1)).await;
            let answers = server.start_again().await;
            sleep(Duration::from_secs(3)).await;
            let all = load.stop().await;
            let repeats = repeats.load(Ordering::Relaxed);
            print_counts(&format!("SIGKILL and a new start over {over:?}, keys {keys}, {repeats} repeats"), &all);
            for error in all.iter().filter_map(|sent| sent.result.as_ref().err()) {
                assert!(matches!(error.outcome(), Outcome::NotSent | Outcome::Unknown), "{error}");
            }
            let found = all.iter().filter(|sent| sent.result.is_ok() && sent.ended > answers).map(|sent| sent.ended);
            let found = found.min().unwrap() - answers;
            println!("the first success {found:.1?} after the server answered");
            assert!(found < Duration::from_secs(2));
            // Its history began anew, so only what began after that can be compared.
            let mut history = history(&server, PUBLISHERS).await;
            for sent in all.iter().filter(|sent| sent.started > answers) {
                let times = history.remove(&sent.id).unwrap_or_default();
                match sent.result.as_ref().map_err(Error::outcome) {
                    Ok(_) => assert_eq!(times, 1),
                    Err(Outcome::NotSent | Outcome::Refused) => assert_eq!(times, 0),
                    Err(Outcome::Unknown | Outcome::Done) => assert!(times <= 1),
                }
            }
            assert!(history.values().all(|times| *times == 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn calls_leave_a_node_that_is_stopped_and_return_to_it() {
    let (stopped, goes_on) = (Process::start().await, Process::start().await);
    let repeats = Arc::new(AtomicU64::new(0));
    let retry = counted(Retry::new(), &repeats);
    let config = stopped.config(Over::Grpc).endpoint(goes_on.grpc_url()).retry(retry);
    let client = Client::new(config).unwrap();
    let load = Load::start(&client, PUBLISHERS);
    sleep(Duration::from_secs(1)).await;
    stopped.signal("STOP");
    let stopped_at = Instant::now();
    sleep(Duration::from_secs(12)).await;
    assert!(!client.endpoints()[0].available);
    stopped.signal("CONT");
    let goes_on_at = Instant::now();
    while !client.endpoints()[0].available {
        assert!(goes_on_at.elapsed() < Duration::from_secs(15));
        sleep(Duration::from_millis(5)).await;
    }
    println!("the node is back {:.1?} after SIGCONT", goes_on_at.elapsed());
    sleep(Duration::from_secs(1)).await;
    let all = load.stop().await;
    print_counts(&format!("SIGSTOP of one of two, {} repeats", repeats.load(Ordering::Relaxed)), &all);
    let slow = all.iter().filter(|sent| sent.took() > Duration::from_secs(1));
    let (at_first, later): (Vec<_>, Vec<_>) =
        slow.partition(|sent| sent.started < stopped_at + Duration::from_millis(3_500));
    println!("over 1 s: {} at first, {} later", at_first.len(), later.len());
    assert_eq!(failed(&all), [""; 0]);
    // One at a time tries the node that is stopped.
    assert!(later.len() < 12, "{}", later.len());
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn a_url_with_the_port_of_the_other_api_is_told_so() {
    let server = Process::start().await;
    let started = Instant::now();
    let client = Client::new(Config::grpc(format!("http://{}", server.http)).api_key(KEY)).unwrap();
    let error = client.info(InfoRequest::new()).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent));
    assert!(error.to_string().contains("is this the port of its gRPC API?"));

    let client = Client::new(Config::http(format!("http://{}/api", server.grpc)).api_key(KEY)).unwrap();
    let error = client.info(InfoRequest::new()).await.unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains("is this the port of the server's HTTP API?"));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn a_fallback_stays_when_there_is_no_grpc_at_the_port() {
    let server = Process::start().await;
    let wrong = Proxy::to(server.http);
    let config = Config::grpc(wrong.url()).api_key(KEY).fallback(server.config(Over::Http));
    let client = Client::new(config).unwrap();
    client.info(InfoRequest::new()).await.unwrap();
    assert_eq!(*client.watch_breaker().unwrap().borrow(), BreakerState::Open);
    // After an outage gRPC would be tried after 6 s at the latest.
    for _ in 0..35 {
        client.info(InfoRequest::new()).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(wrong.dials(), 1);

    // The other way round: the fallback is no HTTP API, and gRPC does not need it.
    let wrong = Config::http(format!("http://{}/api", server.grpc)).api_key(KEY);
    let client = Client::new(server.config(Over::Grpc).fallback(wrong.clone())).unwrap();
    client.info(InfoRequest::new()).await.unwrap();
    // Neither does it help when gRPC is not there.
    let nobody = Nobody::new();
    let client = Client::new(Config::grpc(nobody.url()).api_key(KEY).fallback(wrong)).unwrap();
    let error = soon(client.info(InfoRequest::new())).await.unwrap_err();
    println!("{error}");
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn neither_a_wrong_key_nor_a_method_of_pro_leads_to_http() {
    let server = Process::start().await;
    let http = Proxy::to(server.http);
    let fallback = || Config::http(format!("{}/api", http.url())).api_key(KEY);

    let client = Client::new(Config::grpc(server.grpc_url()).api_key("wrong").fallback(fallback())).unwrap();
    for _ in 0..10 {
        let error = client.publish(PublishRequest::new("news", json!(1))).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome(), error.attempts()),
            (ErrorKind::Unauthenticated, Outcome::Refused, 1)
        );
    }
    assert_eq!((http.dials(), *client.watch_breaker().unwrap().borrow()), (0, BreakerState::Closed));

    let client = Client::new(server.config(Over::Grpc).fallback(fallback())).unwrap();
    for _ in 0..10 {
        let error = client.get_user_status(GetUserStatusRequest::new(["alice"])).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Unsupported, Outcome::Refused, 1));
    }
    assert_eq!((http.dials(), *client.watch_breaker().unwrap().borrow()), (0, BreakerState::Closed));
    client.info(InfoRequest::new()).await.unwrap();
    let client = Client::new(server.config(Over::Http)).unwrap();
    let error = client.get_user_status(GetUserStatusRequest::new(["alice"])).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Refused));
}

/// A publish whose protobuf form has this many bytes.
fn publish_of(length: usize) -> PublishRequest {
    let request =
        |text: usize| PublishRequest::new("news", json!("x".repeat(text))).idempotency_key(format!("key-{length}"));
    let rest = request(length - 100).encoded_len() - (length - 100);
    let request = request(length - rest);
    assert_eq!(request.encoded_len(), length);
    request
}

#[tokio::test]
#[ignore = "needs the server's binary"]
async fn messages_of_4_mib_are_accepted_and_longer_ones_over_http_only() {
    const LIMIT: usize = 4 << 20;
    let server = Process::start().await;
    let http = Proxy::to(server.http);
    let fallback = Config::http(format!("{}/api", http.url())).api_key(KEY);
    let grpc = Client::new(server.config(Over::Grpc).fallback(fallback)).unwrap();
    let raised = Client::new(server.config(Over::Grpc).max_request_size(2 * LIMIT)).unwrap();
    let over_http = Client::new(server.config(Over::Http)).unwrap();
    for length in [LIMIT - 1, LIMIT] {
        grpc.publish(publish_of(length)).await.unwrap();
        raised.publish(publish_of(length)).await.unwrap();
        over_http.publish(publish_of(length)).await.unwrap();
    }
    let error = grpc.publish(publish_of(LIMIT + 1)).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent));
    let error = raised.publish(publish_of(LIMIT + 1)).await.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Refused));
    assert_eq!(http.dials(), 0, "a size leads to no fallback");
    over_http.publish(publish_of(LIMIT + 1)).await.unwrap();

    // What grows by a third over HTTP still goes there when gRPC is not there.
    let nobody = Nobody::new();
    let fallback = server.config(Over::Http);
    let fallen = Client::new(Config::grpc(nobody.url()).api_key(KEY).fallback(fallback)).unwrap();
    let binary = vec![0xff; LIMIT - 100];
    fallen.publish(PublishRequest::new("news", binary.clone())).await.unwrap();
    let last = over_http.history(HistoryRequest::new("news").limit(1).reverse(true)).await.unwrap_err();
    println!("{last}");
    let last = grpc.history(HistoryRequest::new("news").limit(1).reverse(true)).await.unwrap();
    assert_eq!(last.publications[0].data, binary);
    let history = raised.history(HistoryRequest::new("news").limit(HistoryRequest::NO_LIMIT)).await.unwrap();
    assert_eq!(history.publications.len(), 4, "one for each key, and one without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary, and takes two minutes"]
async fn a_post_after_the_server_closed_the_connection_is_not_lost() {
    const CALLERS: usize = 32;
    let server = Process::start().await;
    let config = server.config(Over::Http).retry(Retry::off());
    let next = AtomicU64::new(0);
    let next = &next;
    // One that closes idle connections in time, and two that do so when the server does, or later.
    let clients = [None, Some(30), Some(60)].map(|idle| match idle {
        None => (idle, Client::new(config.clone()).unwrap()),
        Some(seconds) => (idle, Client::new(config.clone().idle_timeout(Duration::from_secs(seconds))).unwrap()),
    });
    let told = Mutex::new(Vec::new());
    let all = &told;
    for cycle in 0..4 {
        if cycle > 0 {
            // The first of them at the moment when the server closes them: it begins to count when it has answered.
            sleep(Duration::from_millis([0, 29_999, 30_000, 31_000][cycle])).await;
        }
        let calls = clients.iter().flat_map(|(idle, client)| {
            (0..CALLERS).map(move |_| async move {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let started = Instant::now();
                let result = client.publish(PublishRequest::new("load-0", json!({"id": id}))).await;
                all.lock().unwrap().push((*idle, Sent { id, started, ended: Instant::now(), result }));
            })
        });
        join_all(calls).await;
    }
    let history = history(&server, 1).await;
    let all = told.into_inner().unwrap();
    for idle in [None, Some(30), Some(60)] {
        let of: Vec<_> = all.iter().filter(|(of, _)| *of == idle).map(|(_, sent)| sent).collect();
        let count = |outcome: Option<Outcome>| {
            of.iter().filter(|sent| sent.result.as_ref().err().map(Error::outcome) == outcome).count()
        };
        println!(
            "idle_timeout {idle:?}: {} ok, {} not sent, {} unknown",
            count(None),
            count(Some(Outcome::NotSent)),
            count(Some(Outcome::Unknown))
        );
        for sent in of {
            let times = history.get(&sent.id).copied().unwrap_or_default();
            match &sent.result {
                Ok(_) => assert_eq!(times, 1),
                Err(error) => {
                    assert!(idle.is_some(), "{error}");
                    assert!(times <= u64::from(error.may_have_run()), "{times} times: {error}");
                }
            }
        }
    }
}

/// Polls them all at once, in this task.
async fn join_all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary, and takes a minute: see tests/it/soak.rs"]
async fn a_process_under_random_harm_has_what_was_confirmed() {
    let server = Process::start().await;
    let place = Place { grpc: server.grpc, http: server.http, key: Some(KEY.into()) };
    soak::run_on(&place).await;
}
