//! Random harm between publishers and a server for as long as wanted, and then the question whether every client told the
//! truth about every publication.
//!
//! Ignored unless asked for:
//!
//! ```text
//! CENTRIFUGO_SOAK_SECONDS=600 CENTRIFUGO_SOAK_SEED=1 \
//!     cargo test --release --all-features --test it -- --ignored soak --nocapture
//! ```
//!
//! 60 s and a seed by lot unless set. The seed decides what goes wrong and what is called; the scheduler still decides when.
//!
//! It goes in rounds. In each, publishers publish what has a number of its own, and keep a ledger of what they were told;
//! at its end all is healed and cut, and the ledger is compared with the server's history. What was confirmed must be there
//! once, and in order where one was published after the other; what was not sent or refused must not be there; and what
//! nobody knows may be there once.

#![allow(clippy::print_stdout, reason = "the report is for people")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Namespace, Server, Transport};
use centrifugo_api::{
    ApiError, Batch, BroadcastRequest, BroadcastResult, Client, Config, Error, ErrorKind, HistoryRemoveRequest,
    HistoryRequest, Method, Outcome, PublishRequest, PublishResponse, PublishResult, Retry,
};
use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::proxy::{End, Lane, Proxy};

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(12);
/// The deadline of most calls, and what may be added to it: a machine with more to do than it can must not fail the test.
const DEADLINE: Duration = Duration::from_secs(4);
const SLACK: Duration = Duration::from_secs(1);
/// Calls that run when a client is closed.
const LAST_CALLS: u64 = 32;

#[test]
#[ignore = "a minute or more of random harm"]
fn soak() {
    let (time, seed) = asked_for();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // What a first use leaves behind is no leak.
        run(Duration::from_secs(1), seed).await;
        let before = Resources::now();
        run(time, seed).await;
        let after = Resources::settled(&before).await;
        println!("before: {before:?}\nafter:  {after:?}");
        assert!(after.tasks <= before.tasks, "tasks were left behind");
        assert!(after.files <= before.files, "open files were left behind");
    });
}

/// How long it is to take, and with which seed.
fn asked_for() -> (Duration, u64) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seconds = number("CENTRIFUGO_SOAK_SECONDS").unwrap_or(60);
    let seed = number("CENTRIFUGO_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("CENTRIFUGO_SOAK_SECONDS={seconds} CENTRIFUGO_SOAK_SEED={seed}");
    (Duration::from_secs(seconds), seed)
}

/// Every client on a stand-in of its own.
async fn run(time: Duration, seed: u64) {
    let history = Namespace::new("").history(1_000_000, Duration::from_secs(3600));
    let standin = Server::builder().without_namespace(history).without_records();
    let mut worlds = Vec::new();
    for (shape, keys) in Shape::all() {
        let server = standin.clone().start().await.unwrap();
        let place = Place { grpc: server.grpc_addr(), http: server.http_addr(), key: None };
        worlds.push(World::new(shape, keys, &place, Some(server)));
    }
    rounds(worlds, time, seed).await;
}

/// Every client on one real server.
pub(crate) async fn run_on(place: &Place) {
    let (time, seed) = asked_for();
    rounds(Shape::all().map(|(shape, keys)| World::new(shape, keys, place, None)).collect(), time, seed).await;
}

async fn rounds(worlds: Vec<Arc<World>>, time: Duration, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let until = end.min(Instant::now() + ROUND);
        join(worlds.iter().map(|world| Arc::clone(world).round(until, rng.fork()))).await;
        join(worlds.iter().map(|world| Arc::clone(world).check())).await;
        let wrong: Vec<_> = worlds.iter().flat_map(|world| world.wrong()).collect();
        let rss = Resources::now().rss / 1024;
        println!("round {round}: {} publications, {rss} MiB resident", count(&worlds));
        if !wrong.is_empty() {
            print_table(&worlds);
            panic!("{} wrong, seed {seed}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
        }
    }
    join(worlds.iter().map(|world| Arc::clone(world).close(rng.fork()))).await;
    join(worlds.iter().map(|world| Arc::clone(world).check())).await;
    print_table(&worlds);
    let wrong: Vec<_> = worlds.iter().flat_map(|world| world.wrong()).collect();
    assert!(wrong.is_empty(), "{} wrong at the close, seed {seed}:\n{}", wrong.len(), wrong.join("\n"));
    // Where nothing was confirmed, nothing was proven.
    for world in &worlds {
        let confirmed = world.counts.lock().unwrap().iter().filter(|((_, told), _)| *told == Told::Ok).count();
        assert!(confirmed > 0, "{}: nothing was confirmed, seed {seed}", world.name());
    }
    for world in worlds {
        let world = Arc::into_inner(world).unwrap();
        drop((world.client, world.direct, world.proxies));
        if let Some(standin) = world.standin {
            standin.shutdown().await;
        }
    }
}

async fn join<F: Future<Output = ()> + Send + 'static>(tasks: impl Iterator<Item = F>) {
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// What the process holds.
#[derive(Debug)]
struct Resources {
    tasks: usize,
    files: usize,
    /// In KiB.
    rss: usize,
}

impl Resources {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            rss: rss.unwrap_or(0),
        }
    }

    /// What is left when all that ends has ended.
    async fn settled(before: &Self) -> Self {
        for _ in 0..100 {
            let now = Self::now();
            if now.tasks <= before.tasks && now.files <= before.files {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Self::now()
    }
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Grpc,
    GrpcTwo,
    Http,
    Fallback,
}

impl Shape {
    /// All of them, with keys and without.
    fn all() -> impl Iterator<Item = (Self, bool)> {
        [Self::Grpc, Self::GrpcTwo, Self::Http, Self::Fallback]
            .into_iter()
            .flat_map(|shape| [(shape, true), (shape, false)])
    }
}

/// Where a server is, whose channels without a namespace keep all that is published in a round.
pub(crate) struct Place {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) key: Option<String>,
}

/// A client, the server, and what stands between them.
struct World {
    shape: Shape,
    keys: bool,
    /// To be told what goes wrong, if it is not a real server.
    standin: Option<Server>,
    proxies: Vec<Proxy>,
    client: Client,
    /// Around the proxies.
    direct: Client,
    repeats: Arc<AtomicU64>,
    next: AtomicU64,
    ledger: Mutex<Vec<Entry>>,
    counts: Mutex<BTreeMap<(Kind, Told), u64>>,
    reasons: Mutex<BTreeMap<(Told, String), u64>>,
    slowest: Mutex<Duration>,
    wrong: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Publish,
    Broadcast,
    Batch,
}

/// What a caller was told of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Ok,
    Done,
    Refused,
    NotSent,
    Unknown,
    /// Nothing: it did not wait.
    Dropped,
}

impl Told {
    const ALL: [Self; 6] = [Self::Ok, Self::Done, Self::Refused, Self::NotSent, Self::Unknown, Self::Dropped];

    fn by(error: &Error) -> Self {
        match error.outcome() {
            Outcome::NotSent => Self::NotSent,
            Outcome::Refused => Self::Refused,
            Outcome::Unknown => Self::Unknown,
            Outcome::Done => Self::Done,
        }
    }
}

/// A publication in one channel.
#[derive(Debug)]
struct Entry {
    id: u64,
    channel: String,
    told: Told,
    /// Whether its publisher waited for those before it.
    ordered: bool,
    /// What else it was told.
    why: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, channel, told, why, .. } = self;
        write!(f, "{id} in {channel}, told {told:?} ({why})")
    }
}

/// What goes over the wire: its length follows from the number.
fn payload(id: u64) -> String {
    let length = match id % 64 {
        0 => 40_000,
        1..=4 => 3_000,
        rest => usize::try_from(rest).unwrap() * 3,
    };
    format!(r#"{{"id":{id},"text":"{}"}}"#, "x".repeat(length))
}

/// The number in it, if it is whole.
fn id_of(data: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    let id = text.strip_prefix(r#"{"id":"#)?.split(',').next()?.parse().ok()?;
    (payload(id) == text).then_some(id)
}

impl World {
    fn new(shape: Shape, keys: bool, place: &Place, standin: Option<Server>) -> Arc<Self> {
        let Place { grpc, http, ref key } = *place;
        let proxies: Vec<_> = match shape {
            Shape::Grpc => vec![Proxy::to(grpc)],
            Shape::GrpcTwo => vec![Proxy::to(grpc), Proxy::to(grpc)],
            Shape::Http => vec![Proxy::to(http)],
            Shape::Fallback => vec![Proxy::to(grpc), Proxy::to(http)],
        };
        let with_key = |config: Config| match key {
            Some(key) => config.api_key(key),
            None => config,
        };
        let over_http = |proxy: &Proxy| {
            with_key(Config::http(format!("{}/api", proxy.url()))).connect_timeout(Duration::from_millis(500))
        };
        let config = match shape {
            Shape::Grpc => Config::grpc(proxies[0].url()),
            Shape::GrpcTwo => Config::grpc(proxies[0].url()).endpoint(proxies[1].url()).connections(2),
            Shape::Http => over_http(&proxies[0]),
            Shape::Fallback => Config::grpc(proxies[0].url()).fallback(over_http(&proxies[1])),
        };
        let repeats = Arc::new(AtomicU64::new(0));
        let config = with_key(config)
            .timeout(DEADLINE)
            .connect_timeout(Duration::from_millis(500))
            .retry(retry(Retry::new().idempotency_keys(keys), &repeats));
        let direct = with_key(Config::grpc(format!("http://{grpc}"))).timeout(Duration::from_secs(30));
        Arc::new(Self {
            shape,
            keys,
            client: Client::new(config).unwrap(),
            direct: Client::new(direct).unwrap(),
            standin,
            proxies,
            repeats,
            next: AtomicU64::new(0),
            ledger: Mutex::default(),
            counts: Mutex::default(),
            reasons: Mutex::default(),
            slowest: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    fn name(&self) -> String {
        format!("{:?}, {}", self.shape, if self.keys { "keys" } else { "no keys" })
    }

    /// A channel of this world alone.
    fn channel(&self, name: &str) -> String {
        format!("{:?}-{}-{name}", self.shape, self.keys)
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn is_wrong(&self, what: &str) {
        self.wrong.lock().unwrap().push(format!("{}: {what}", self.name()));
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Publishers, and harm between them and the server, until then.
    async fn round(self: Arc<Self>, until: Instant, mut rng: Rng) {
        let mut publishers = Vec::new();
        for number in 0..4 {
            publishers.push(tokio::spawn(Arc::clone(&self).publish_in_turn(
                self.channel(&format!("turn-{number}")),
                until,
                rng.fork(),
            )));
        }
        publishers.push(tokio::spawn(Arc::clone(&self).publish_at_once(self.channel("at-once"), until, rng.fork())));
        publishers.push(tokio::spawn(Arc::clone(&self).broadcast(until, rng.fork())));
        publishers.push(tokio::spawn(Arc::clone(&self).batch(until, rng.fork())));
        let mut harm = Vec::new();
        for proxy in 0..self.proxies.len() {
            harm.push(tokio::spawn(Arc::clone(&self).harm(proxy, until, rng.fork())));
        }
        if self.standin.is_some() {
            harm.push(tokio::spawn(Arc::clone(&self).fail(until, rng.fork())));
        }
        for publisher in publishers {
            publisher.await.unwrap();
        }
        for harm in harm {
            harm.await.unwrap();
        }
    }

    /// Waits for a call, perhaps not to its end, and looks at the clock.
    async fn call<T>(
        &self,
        rng: &mut Rng,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        let started = Instant::now();
        let result = if rng.u8(..100) < 8 {
            timeout(Duration::from_micros(rng.u64(..40_000)), call).await.ok()
        } else {
            Some(call.await)
        };
        let over = started.elapsed().saturating_sub(deadline);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = over.max(*slowest);
        drop(slowest);
        if over > SLACK {
            self.is_wrong(&format!("a call took {over:?} longer than its deadline of {deadline:?}"));
        }
        result
    }

    /// The client for one call, and its deadline.
    fn client(&self, rng: &mut Rng) -> (Client, Duration) {
        let (client, deadline) = match rng.u8(..100) {
            0..15 => {
                let deadline = Duration::from_millis(rng.u64(1..200));
                (self.client.with_timeout(deadline), deadline)
            }
            _ => (self.client.clone(), DEADLINE),
        };
        let retries = Retry::new().idempotency_keys(self.keys);
        let client = match rng.u8(..100) {
            0..5 => client.with_retry(Retry::off()),
            5..12 => client.with_retry(retry(retries.wait_for_ready(true), &self.repeats)),
            12..20 => client.with_retry(retry(retries.attempts(8), &self.repeats).attempt_timeout(None)),
            _ => client,
        };
        (client, deadline)
    }

    fn note(&self, kind: Kind, entry: Entry) {
        *self.counts.lock().unwrap().entry((kind, entry.told)).or_default() += 1;
        self.ledger.lock().unwrap().push(entry);
    }

    fn note_all<T>(&self, kind: Kind, id: u64, channel: &str, ordered: bool, result: Option<&Result<T, Error>>) {
        let (told, why) = match result {
            Some(Ok(_)) => (Told::Ok, String::new()),
            Some(Err(error)) => {
                *self.reasons.lock().unwrap().entry((Told::by(error), reason(error))).or_default() += 1;
                (Told::by(error), error.to_string())
            }
            None => (Told::Dropped, String::new()),
        };
        self.note(kind, Entry { id, channel: channel.to_owned(), told, ordered, why });
    }

    /// One publication after the other.
    async fn publish_in_turn(self: Arc<Self>, channel: String, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let id = self.next();
            let request = PublishRequest::new(&channel, raw(&payload(id)));
            if rng.u8(..100) < 10 {
                self.publish_stubbornly(id, &channel, request, &mut rng).await;
                continue;
            }
            let (client, deadline) = self.client(&mut rng);
            let result = self.call(&mut rng, deadline, client.publish(&request)).await;
            self.note_all(Kind::Publish, id, &channel, true, result.as_ref());
        }
    }

    /// With a key of its own, until it is confirmed.
    async fn publish_stubbornly(&self, id: u64, channel: &str, request: PublishRequest, rng: &mut Rng) {
        let request = request.idempotency_key(format!("own-{id}"));
        let mut maybe = false;
        for _ in 0..4 {
            let (client, deadline) = self.client(rng);
            let result = self.call(rng, deadline, client.publish(&request)).await;
            if matches!(result, Some(Ok(_))) {
                return self.note_all(Kind::Publish, id, channel, true, result.as_ref());
            }
            maybe |= result.is_none_or(|result| result.is_err_and(|error| error.may_have_run()));
        }
        let told = if maybe { Told::Unknown } else { Told::NotSent };
        let why = "stubborn".to_owned();
        self.note(Kind::Publish, Entry { id, channel: channel.to_owned(), told, ordered: true, why });
    }

    /// Many at the same time.
    async fn publish_at_once(self: Arc<Self>, channel: String, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(..800))).await;
            let calls = (0..rng.usize(2..40)).map(|_| {
                let (world, channel, mut rng) = (Arc::clone(&self), channel.clone(), rng.fork());
                async move {
                    let id = world.next();
                    let (client, deadline) = world.client(&mut rng);
                    let request = PublishRequest::new(&channel, raw(&payload(id)));
                    let result = world.call(&mut rng, deadline, client.publish(request)).await;
                    world.note_all(Kind::Publish, id, &channel, false, result.as_ref());
                }
            });
            join(calls).await;
        }
    }

    async fn broadcast(self: Arc<Self>, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let id = self.next();
            // Now and then one of the channels is of a namespace that the server does not have.
            let second = if rng.u8(..100) < 20 { "nowhere:cast".into() } else { self.channel("cast-1") };
            let channels = [self.channel("cast-0"), second, self.channel("cast-2")];
            let (client, deadline) = self.client(&mut rng);
            let request = BroadcastRequest::new(&channels, raw(&payload(id)));
            let result = self.call(&mut rng, deadline, client.broadcast(&request)).await;
            match &result {
                Some(Ok(result)) => {
                    for (channel, response) in channels.iter().zip(&result.responses) {
                        let result = match &response.error {
                            None => Ok(()),
                            Some(error) => Err(Error::from(error.clone())),
                        };
                        self.note_all(Kind::Broadcast, id, channel, true, Some(&result));
                    }
                }
                _ => channels
                    .iter()
                    .for_each(|channel| self.note_all(Kind::Broadcast, id, channel, true, result.as_ref())),
            }
        }
    }

    async fn batch(self: Arc<Self>, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let parallel = rng.u8(..100) < 25;
            let with_keys = rng.bool();
            let mut batch = Batch::new().parallel(parallel).idempotency_keys(with_keys);
            let commands: Vec<_> = (0..rng.usize(1..8))
                .map(|_| {
                    let id = self.next();
                    let channel = match (parallel, rng.u8(..100)) {
                        (_, 0..5) => "nowhere:batch".into(),
                        (true, _) => self.channel("batch-parallel"),
                        (false, 5..50) => self.channel("batch-0"),
                        (false, _) => self.channel("batch-1"),
                    };
                    let publish = batch.push(PublishRequest::new(&channel, raw(&payload(id))));
                    (id, channel, publish)
                })
                .collect();
            let (client, deadline) = self.client(&mut rng);
            let result = self.call(&mut rng, deadline, client.batch(&batch)).await;
            for (id, channel, handle) in commands {
                match &result {
                    Some(Ok(replies)) => {
                        self.note_all(Kind::Batch, id, &channel, !parallel, Some(&replies.get(handle)));
                    }
                    Some(Err(_)) | None => self.note_all(Kind::Batch, id, &channel, !parallel, result.as_ref()),
                }
            }
        }
    }

    /// Does harm to the connections through one proxy, and stops.
    async fn harm(self: Arc<Self>, proxy: usize, until: Instant, mut rng: Rng) {
        let proxy = &self.proxies[proxy];
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(20..700))).await;
            let end = [End::Fin, End::Rst, End::HalfClose][rng.usize(..3)];
            let mut hold = rng.u64(20..900);
            match rng.u8(..12) {
                0 => {
                    let latency = Duration::from_millis(rng.u64(1..250));
                    either(proxy, &mut rng, |lane| lane.latency = latency);
                }
                1 => {
                    let rate = rng.u32(1_000..300_000);
                    either(proxy, &mut rng, |lane| lane.rate = Some(rate));
                }
                2 => {
                    let slice = rng.usize(1..60);
                    either(proxy, &mut rng, |lane| lane.slice = Some(slice));
                }
                3..6 => {
                    let bytes = if rng.bool() { rng.usize(..400) } else { rng.usize(..60_000) };
                    either(proxy, &mut rng, |lane| lane.limit = Some((bytes, end)));
                }
                6..8 => {
                    if rng.u8(..100) < 20 {
                        hold = 3_000;
                    }
                    either(proxy, &mut rng, |lane| lane.stalled = true);
                }
                8 => proxy.refuse().await,
                9 => {
                    proxy.refuse().await;
                    proxy.cut(if rng.bool() { End::Fin } else { End::Rst });
                }
                10 => {
                    let (latency, bytes) = (Duration::from_millis(rng.u64(1..40)), rng.usize(..20_000));
                    let slice = rng.usize(1..200);
                    either(proxy, &mut rng, |lane| {
                        *lane = Lane { latency, slice: Some(slice), limit: Some((bytes, end)), ..Lane::default() };
                    });
                }
                _ => {
                    for _ in 0..rng.u8(1..4) {
                        proxy.cut(if rng.bool() { End::Fin } else { End::Rst });
                        sleep(Duration::from_millis(rng.u64(..30))).await;
                    }
                    hold = 0;
                }
            }
            sleep(Duration::from_millis(hold)).await;
            proxy.heal();
            proxy.accept();
        }
    }

    /// Lets the server fail.
    async fn fail(self: Arc<Self>, until: Instant, mut rng: Rng) {
        let Some(standin) = &self.standin else { return };
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(10..250))).await;
            // Those that met no call are not to pile up.
            standin.clear_faults();
            let over_http = match self.shape {
                Shape::Grpc | Shape::GrpcTwo => false,
                Shape::Http => true,
                Shape::Fallback => rng.bool(),
            };
            let fault = match rng.u8(..16) {
                0 | 1 => Fault::api_error(ApiError::new(ApiError::INTERNAL, "internal server error")),
                2 | 3 => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many requests")),
                4 | 5 if over_http => Fault::http_status([502, 503, 504][rng.usize(..3)]),
                6 | 7 if over_http && rng.bool() => Fault::http_status(429).header("retry-after", "1"),
                6 | 7 if over_http => Fault::http_status(429),
                4..8 => Fault::grpc_status([14, 14, 4, 8][rng.usize(..4)], "not now"),
                8 => Fault::cut_before(),
                9 => Fault::cut_after(),
                10 => Fault::hang_before(),
                11 => Fault::hang_after(),
                12 => Fault::delay(Duration::from_millis(rng.u64(1..1_500))),
                13 => Fault::raw_reply(&b"<html>"[..]),
                14 if over_http => Fault::raw_reply(&br#"{"result":{"offset":"many"}}"#[..]).method(Method::Publish),
                14 => Fault::raw_reply(&[0x12, 1, 8][..]).method(Method::Publish),
                _ => Fault::raw_reply(one_failed(over_http)).method(Method::Broadcast),
            };
            // A reply in the one form is none in the other.
            let over = if over_http { Transport::Http } else { Transport::Grpc };
            standin.fault(fault.transport(over).times(rng.u64(1..5)));
        }
        standin.clear_faults();
    }

    /// Compares the ledger with the history, and begins both anew.
    async fn check(self: Arc<Self>) {
        for proxy in &self.proxies {
            proxy.heal();
            proxy.accept();
        }
        // What is still on its way arrives, and then nothing does any more.
        sleep(Duration::from_millis(500)).await;
        self.proxies.iter().for_each(|proxy| proxy.cut(End::Rst));
        sleep(Duration::from_millis(200)).await;
        let mut by_channel: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in std::mem::take(&mut *self.ledger.lock().unwrap()) {
            by_channel.entry(entry.channel.clone()).or_default().push(entry);
        }
        for (channel, entries) in by_channel {
            if channel.starts_with("nowhere:") {
                for entry in entries.iter().filter(|entry| matches!(entry.told, Told::Ok | Told::Done)) {
                    self.is_wrong(&format!("{entry} was confirmed where nothing can be"));
                }
                continue;
            }
            let history = HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT);
            let history = self.direct.history(history).await.unwrap();
            self.direct.history_remove(HistoryRemoveRequest::new(&channel)).await.unwrap();
            let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
            for publication in &history.publications {
                match id_of(&publication.data) {
                    Some(id) => places.entry(id).or_default().push(publication.offset),
                    None => self.is_wrong(&format!("{channel}: what was published is not whole")),
                }
            }
            let mut last = 0;
            for entry in entries {
                let places = places.remove(&entry.id).unwrap_or_default();
                let right = match entry.told {
                    Told::Ok | Told::Done => places.len() == 1,
                    Told::Refused | Told::NotSent => places.is_empty(),
                    Told::Unknown | Told::Dropped => places.len() <= 1,
                };
                if !right {
                    self.is_wrong(&format!("{} times there: {entry}", places.len()));
                }
                if let (true, Told::Ok | Told::Done, [place]) = (entry.ordered, entry.told, &places[..]) {
                    if *place <= last {
                        self.is_wrong(&format!("at {place}, after one at {last}: {entry}"));
                    }
                    last = *place;
                }
            }
            for (id, places) in places {
                self.is_wrong(&format!("{channel}: {id} is there {} times, out of nowhere", places.len()));
            }
        }
    }

    /// Closes the client while calls hang.
    async fn close(self: Arc<Self>, mut rng: Rng) {
        for proxy in &self.proxies {
            either(proxy, &mut rng, |lane| lane.stalled = true);
        }
        let ended = Arc::new(AtomicU64::new(0));
        let calls: Vec<_> = (0..LAST_CALLS)
            .map(|_| {
                let (world, ended) = (Arc::clone(&self), Arc::clone(&ended));
                tokio::spawn(async move {
                    let id = world.next();
                    let result =
                        world.client.publish(PublishRequest::new(world.channel("last"), raw(&payload(id)))).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                    world.note_all(Kind::Publish, id, &world.channel("last"), false, Some(&result));
                })
            })
            .collect();
        sleep(Duration::from_millis(rng.u64(..400))).await;
        let (started, before) = (Instant::now(), ended.load(Ordering::SeqCst));
        let closed = self.client.close(Duration::from_millis(100)).await;
        let took = started.elapsed();
        for call in calls {
            call.await.unwrap();
        }
        let counted = closed.done + closed.refused + closed.not_sent + closed.unknown;
        if counted > LAST_CALLS - before {
            self.is_wrong(&format!("{closed:?}, when {before} of {LAST_CALLS} had ended before"));
        }
        if took > Duration::from_millis(100) + SLACK {
            self.is_wrong(&format!("to close took {took:?}"));
        }
    }
}

/// The answer to a broadcast to three channels that says that in the second it may not have been carried out, though it was.
fn one_failed(over_http: bool) -> Vec<u8> {
    let (mut well, mut failed) = (PublishResponse::default(), PublishResponse::default());
    well.result = Some(PublishResult::default());
    failed.error = Some(ApiError::new(ApiError::INTERNAL, "internal server error"));
    let mut result = BroadcastResult::default();
    result.responses = vec![well.clone(), failed, well];
    if over_http {
        return format!(r#"{{"result":{}}}"#, serde_json::to_string(&result).unwrap()).into_bytes();
    }
    let mut response = Vec::new();
    prost::encoding::message::encode(2, &result, &mut response);
    response
}

fn retry(retry: Retry, repeats: &Arc<AtomicU64>) -> Retry {
    let repeats = Arc::clone(repeats);
    retry.attempt_timeout(Some(Duration::from_millis(800))).observe(move |_| {
        repeats.fetch_add(1, Ordering::Relaxed);
    })
}

fn raw(json: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json.to_owned()).unwrap()
}

async fn pause(rng: &mut Rng) {
    sleep(Duration::from_micros(rng.u64(..40_000))).await;
}

/// Changes one lane, or both.
fn either(proxy: &Proxy, rng: &mut Rng, change: impl Fn(&mut Lane)) {
    match rng.u8(..3) {
        0 => proxy.up(change),
        1 => proxy.down(change),
        _ => proxy.both(change),
    }
}

fn count(worlds: &[Arc<World>]) -> u64 {
    worlds.iter().map(|world| world.counts.lock().unwrap().values().sum::<u64>()).sum()
}

fn print_table(worlds: &[Arc<World>]) {
    let mut table = String::from("\n| client | call | ok | done | refused | not sent | unknown | dropped | all |\n");
    table.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --: |\n");
    for world in worlds {
        let counts = world.counts.lock().unwrap();
        for kind in [Kind::Publish, Kind::Broadcast, Kind::Batch] {
            let row = Told::ALL.map(|told| counts.get(&(kind, told)).copied().unwrap_or_default());
            write!(table, "| {} | {kind:?} |", world.name()).unwrap();
            write_cells(&mut table, row.iter());
            writeln!(table, " {} |", row.iter().sum::<u64>()).unwrap();
        }
    }
    table.push_str("\n| client | repeats | latest after its deadline |\n| --- | --: | --: |\n");
    for world in worlds {
        let (repeats, slowest) = (world.repeats.load(Ordering::Relaxed), *world.slowest.lock().unwrap());
        writeln!(table, "| {} | {repeats} | {slowest:.1?} |", world.name()).unwrap();
    }
    let mut reasons: BTreeMap<(Told, String), Vec<u64>> = BTreeMap::new();
    for (column, world) in worlds.iter().enumerate() {
        for ((told, kind), number) in &*world.reasons.lock().unwrap() {
            reasons.entry((*told, kind.clone())).or_insert_with(|| vec![0; worlds.len()])[column] = *number;
        }
    }
    write!(table, "\n| told |").unwrap();
    write_cells(&mut table, worlds.iter().map(|world| world.name()));
    writeln!(table, "\n| --- |{}", " --: |".repeat(worlds.len())).unwrap();
    for ((told, kind), row) in reasons {
        write!(table, "| {told:?}: {kind} |").unwrap();
        write_cells(&mut table, row.iter());
        table.push('\n');
    }
    println!("{table}");
}

fn write_cells(table: &mut String, cells: impl Iterator<Item = impl fmt::Display>) {
    for cell in cells {
        write!(table, " {cell} |").unwrap();
    }
}

/// The kind, and for those that say little the first words as well.
fn reason(error: &Error) -> String {
    let kind = error.kind().name();
    match error.kind() {
        ErrorKind::Protocol | ErrorKind::Invalid => {
            format!("{kind}, {}", error.message().chars().take(60).collect::<String>().replace('\n', " "))
        }
        _ => kind.to_owned(),
    }
}
