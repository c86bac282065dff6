//! A client, its server, the proxies between them, and the ledger of outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, Error, Outcome, Retry};

use super::DEADLINE;
use super::report::reason;
use crate::support::proxy::Proxy;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Grpc,
    GrpcTwo,
    /// A name with three addresses.
    GrpcName,
    Http,
    HttpTwo,
    Fallback,
}

impl Shape {
    /// All of them, with keys and without.
    pub(super) fn all() -> impl Iterator<Item = (Self, bool)> {
        [Self::Grpc, Self::GrpcTwo, Self::GrpcName, Self::Http, Self::HttpTwo, Self::Fallback]
            .into_iter()
            .flat_map(|shape| [(shape, true), (shape, false)])
    }
}

/// Where a server is, whose channels without a namespace keep all that is published in a round.
pub(crate) struct Addresses {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) key: Option<String>,
}

/// A client, the server, and what stands between them.
pub(super) struct Harness {
    pub(super) shape: Shape,
    pub(super) keys: bool,
    /// Unless it is a real server.
    pub(super) standin: Option<Server>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) client: Client,
    /// Around the proxies.
    pub(super) direct: Client,
    /// Calls that were begun.
    pub(super) calls: AtomicU64,
    pub(super) repeats: Arc<AtomicU64>,
    pub(super) next: AtomicU64,
    pub(super) ledger: Mutex<Vec<Entry>>,
    pub(super) counts: Mutex<BTreeMap<(Kind, Told), u64>>,
    pub(super) reasons: Mutex<BTreeMap<(Told, String), u64>>,
    pub(super) slowest: Mutex<Duration>,
    pub(super) wrong: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Publish,
    Broadcast,
    Batch,
}

/// The result of a publication as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    Ok,
    Done,
    Refused,
    NotSent,
    Unknown,
    /// Nothing: it did not wait.
    Dropped,
}

impl Told {
    pub(super) const ALL: [Self; 6] =
        [Self::Ok, Self::Done, Self::Refused, Self::NotSent, Self::Unknown, Self::Dropped];

    pub(super) fn by(error: &Error) -> Self {
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
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) channel: String,
    pub(super) told: Told,
    /// Whether its publisher waited for those before it.
    pub(super) ordered: bool,
    /// The text of its error.
    pub(super) why: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, channel, told, why, .. } = self;
        write!(f, "{id} in {channel}, told {told:?} ({why})")
    }
}

/// What goes over the wire: its length follows from the number.
pub(super) fn payload(id: u64) -> String {
    let length = match id % 64 {
        0 => 40_000,
        1..=4 => 3_000,
        rest => usize::try_from(rest).unwrap() * 3,
    };
    format!(r#"{{"id":{id},"text":"{}"}}"#, "x".repeat(length))
}

/// The number in it, if it is whole.
pub(super) fn id_of(data: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    let id = text.strip_prefix(r#"{"id":"#)?.split(',').next()?.parse().ok()?;
    (payload(id) == text).then_some(id)
}

impl Harness {
    pub(super) fn new(shape: Shape, keys: bool, addresses: &Addresses, standin: Option<Server>) -> Arc<Self> {
        let Addresses { grpc, http, ref key } = *addresses;
        let proxies: Vec<_> = match shape {
            Shape::Grpc => vec![Proxy::to(grpc)],
            Shape::GrpcTwo => vec![Proxy::to(grpc), Proxy::to(grpc)],
            Shape::GrpcName => {
                let first = Proxy::to(grpc);
                let at = |address: &str| SocketAddr::new(address.parse().unwrap(), first.address().port());
                let (second, third) = (Proxy::at(at("127.0.0.2"), grpc), Proxy::at(at("127.0.0.3"), grpc));
                vec![first, second, third]
            }
            Shape::Http => vec![Proxy::to(http)],
            Shape::HttpTwo => vec![Proxy::to(http), Proxy::to(http)],
            Shape::Fallback => vec![Proxy::to(grpc), Proxy::to(http)],
        };
        let over_http = |proxy: &Proxy| {
            with_key(Config::http(format!("{}/api", proxy.url())), key.as_deref())
                .connect_timeout(Duration::from_millis(500))
        };
        let config: Config = match shape {
            Shape::Grpc => Config::grpc(proxies[0].url()).into(),
            Shape::GrpcTwo => Config::grpc(proxies[0].url()).endpoint(proxies[1].url()).connections(2).into(),
            Shape::GrpcName => {
                let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address().ip()).collect();
                let resolver = move |_| std::future::ready(Ok(addresses.clone()));
                let url = format!("http://centrifugo.test:{}", proxies[0].address().port());
                Config::grpc(url).resolver(resolver).connections(2).into()
            }
            Shape::Http => over_http(&proxies[0]).into(),
            Shape::HttpTwo => over_http(&proxies[0]).endpoint(format!("{}/api", proxies[1].url())).into(),
            Shape::Fallback => Config::grpc(proxies[0].url()).fallback(over_http(&proxies[1])).into(),
        };
        let repeats = Arc::new(AtomicU64::new(0));
        let config = with_key(config, key.as_deref())
            .timeout(DEADLINE)
            .connect_timeout(Duration::from_millis(500))
            .retry(retry(Retry::new().idempotency_keys(keys), &repeats));
        let direct = with_key(Config::grpc(format!("http://{grpc}")), key.as_deref()).timeout(Duration::from_secs(30));
        Arc::new(Self {
            shape,
            keys,
            client: Client::new(config).unwrap(),
            direct: Client::new(direct).unwrap(),
            standin,
            proxies,
            calls: AtomicU64::new(0),
            repeats,
            next: AtomicU64::new(0),
            ledger: Mutex::default(),
            counts: Mutex::default(),
            reasons: Mutex::default(),
            slowest: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> String {
        format!("{:?}, {}", self.shape, if self.keys { "keys" } else { "no keys" })
    }

    /// A channel of this harness alone.
    pub(super) fn channel(&self, name: &str) -> String {
        format!("{:?}-{}-{name}", self.shape, self.keys)
    }

    pub(super) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_wrong(&self, what: &str) {
        self.wrong.lock().unwrap().push(format!("{}: {what}", self.name()));
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub(super) fn note(&self, kind: Kind, entry: Entry) {
        *self.counts.lock().unwrap().entry((kind, entry.told)).or_default() += 1;
        self.ledger.lock().unwrap().push(entry);
    }

    pub(super) fn note_all<T>(
        &self,
        kind: Kind,
        id: u64,
        channel: &str,
        ordered: bool,
        result: Option<&Result<T, Error>>,
    ) {
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
}

pub(super) fn retry(retry: Retry, repeats: &Arc<AtomicU64>) -> Retry {
    let repeats = Arc::clone(repeats);
    retry.attempt_timeout(Some(Duration::from_millis(800))).observe(move |_| {
        repeats.fetch_add(1, Ordering::Relaxed);
    })
}

pub(super) fn raw(json: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json.to_owned()).unwrap()
}

fn with_key<T>(config: Config<T>, key: Option<&str>) -> Config<T> {
    match key {
        Some(key) => config.api_key(key),
        None => config,
    }
}
