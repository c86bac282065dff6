//! Settings that only HTTP has.

use std::fmt;
use std::time::Duration;

use crate::config::{Any, Common, Config, FOREVER, Protocol};

/// The server closes an idle connection after 30 s; a request sent at that moment would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// As many as the official client has. Enough for any rate that one process reaches over HTTP, and a quarter of the usual limit of open
/// files.
const MAX_CONNECTIONS: usize = 256;

/// The settings that only HTTP has: see [`Config<Http>`](Config).
#[derive(Clone)]
pub struct Http {
    pub(crate) idle_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) client: Option<reqwest::Client>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("idle_timeout", &self.idle_timeout)
            .field("max_connections", &self.max_connections)
            .field("reqwest_client", &self.client.is_some())
            .finish()
    }
}

impl From<Config<Http>> for Config {
    fn from(config: Config<Http>) -> Self {
        Self { common: config.common, transport: Any::Http(config.transport) }
    }
}

/// HTTP only.
impl Config<Http> {
    /// Calls over HTTP, to the API's base URL as the server documents it: `http://localhost:8000/api`.
    pub fn http(endpoint: impl Into<String>) -> Self {
        let common = Common::new(Protocol::Http, endpoint.into(), None);
        Self { common, transport: Http { idle_timeout: IDLE_TIMEOUT, max_connections: MAX_CONNECTIONS, client: None } }
    }

    /// Closes a connection that was idle for this long. 20 s unless set; the server closes it after 30 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.transport.idle_timeout = timeout.min(FOREVER);
        self
    }

    /// Bounds how many requests are in flight to each endpoint at once, and so its connections. 256 unless set. The other calls wait,
    /// in order and within their deadlines.
    ///
    /// While the process has no file descriptors or ports for so many, fewer are used.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.transport.max_connections = connections;
        self
    }

    /// Sends calls over HTTP with a client of your own: its connections, TLS and proxies.
    ///
    /// It must not follow redirects, and it must close idle connections before the server does, after 30 s. This
    /// configuration's connect and idle timeouts and its TLS settings are not used then. Its connections belong to the
    /// runtime that opened them, so give each runtime a client of its own.
    ///
    /// For an `https://` endpoint it needs TLS of its own: a feature of reqwest that the program turns on. This crate builds reqwest
    /// without features.
    pub fn reqwest_client(mut self, client: reqwest::Client) -> Self {
        self.transport.client = Some(client);
        self
    }
}
