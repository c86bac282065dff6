//! The servers that tests run on: the stand-in, started for each test, and a real one that the environment names.
//!
//! The tests on a real server are ignored unless asked for. It needs the configuration `default` of
//! `tests/fixtures/server-configs.json`:
//!
//! ```text
//! CENTRIFUGO_TEST_GRPC=http://127.0.0.1:18002 \
//! CENTRIFUGO_TEST_HTTP=http://127.0.0.1:18001/api \
//! CENTRIFUGO_TEST_API_KEY=api_key \
//!     cargo test --all-features --test it -- --ignored real_server
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use centrifugo_api::testing::{DataFormat, MapMode, Namespace, Server};
use centrifugo_api::{Client, Config};

use super::Over;

/// A server with the configuration `default` of `tests/fixtures/server-configs.json`, and the channels of one test.
pub(crate) struct Setup {
    pub(crate) over: Over,
    grpc: String,
    http: String,
    key: String,
    /// Tells this test's channels and keys from those of others, and of earlier runs against the same server.
    unique: String,
    standin: Option<Server>,
}

impl Setup {
    /// A stand-in of its own.
    pub(crate) async fn standin(over: Over) -> Self {
        let key = "api_key".to_owned();
        let server = standin(&key).await;
        Self { over, grpc: server.grpc_url(), http: server.http_url(), key, unique: unique(), standin: Some(server) }
    }

    /// The server that the environment names.
    pub(crate) fn real(over: Over) -> Self {
        let set =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see tests/it/support/servers.rs"));
        Self {
            over,
            grpc: set("CENTRIFUGO_TEST_GRPC"),
            http: set("CENTRIFUGO_TEST_HTTP"),
            key: set("CENTRIFUGO_TEST_API_KEY"),
            unique: unique(),
            standin: None,
        }
    }

    /// The stand-in, for what the API cannot bring about.
    pub(crate) fn server(&self) -> &Server {
        self.standin.as_ref().expect("the test runs on the stand-in only")
    }

    /// The settings of a client without a key.
    pub(crate) fn without_key(&self) -> Config {
        match self.over {
            Over::Grpc => Config::grpc(&self.grpc).into(),
            Over::Http => Config::http(&self.http).into(),
        }
    }

    /// The settings of a client.
    pub(crate) fn config(&self) -> Config {
        self.without_key().api_key(&self.key)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.config()).unwrap()
    }

    /// A channel of this test alone, in a namespace: `"map"`, or `""` for none.
    pub(crate) fn channel(&self, namespace: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let colon = if namespace.is_empty() { "" } else { ":" };
        format!("{namespace}{colon}{}-{}", self.unique, NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

fn unique() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("it-{}-{}-{}", since.as_nanos(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Starts a stand-in with the configuration that the exchanges were recorded with.
pub(crate) async fn standin(key: &str) -> Server {
    let long = Duration::from_secs(300);
    let minute = Duration::from_secs(60);
    let formatted = |name: &str, format| Namespace::new(name).history(10, long).data_format(format);
    Server::builder()
        .api_key(key)
        .node_name("node1")
        .without_namespace(Namespace::new("").history(100, long).presence(true))
        .namespace(Namespace::new("plain"))
        .namespace(Namespace::new("small").history(2, long))
        .namespace(formatted("json", DataFormat::Json))
        .namespace(formatted("object", DataFormat::JsonObject))
        .namespace(formatted("binary", DataFormat::Binary))
        .namespace(Namespace::new("presence").presence(true))
        .namespace(Namespace::new("delta").history(10, long))
        .namespace(Namespace::new("map").map(MapMode::Persistent))
        .namespace(Namespace::new("mapttl").map(MapMode::Recoverable { key_ttl: minute }).map_stream(2, minute))
        .namespace(Namespace::new("mapmem").map(MapMode::Ephemeral { key_ttl: minute }))
        .namespace(Namespace::new("poll").shared_poll(true))
        .namespace(Namespace::new("pollro").shared_poll(false))
        .start()
        .await
        .unwrap()
}

/// A reserved address that refuses connections.
pub(crate) struct ClosedPort(tokio::net::TcpSocket);

impl ClosedPort {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}
