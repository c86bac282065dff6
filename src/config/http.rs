//! Settings that only HTTP has.

use std::fmt;
use std::time::Duration;

use crate::config::{Any, Common, Config, FOREVER, Protocol};

/// The server closes an idle connection after 30 s; a request sent at that moment would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The settings that only HTTP has: see [`Config<Http>`](Config).
#[derive(Clone)]
pub struct Http {
    pub(crate) idle_timeout: Duration,
    pub(crate) client: Option<reqwest::Client>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("idle_timeout", &self.idle_timeout)
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
        Self { common, transport: Http { idle_timeout: IDLE_TIMEOUT, client: None } }
    }

    /// Closes a connection that was idle for this long. 20 s unless set; the server closes it after 30 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.transport.idle_timeout = timeout.min(FOREVER);
        self
    }

    /// Sends calls over HTTP with a client of your own: its connections, TLS and proxies.
    ///
    /// It must not follow redirects, and it must close idle connections before the server does, after 30 s. This
    /// configuration's connect and idle timeouts and its TLS settings are not used then. Its connections belong to the
    /// runtime that opened them, so give each runtime a client of its own.
    ///
    /// With the feature `tls` of this crate, reqwest is built with rustls and without a provider of cryptography. A
    /// program that makes clients of reqwest itself, and has chosen no provider, must install one before the first:
    /// `rustls::crypto::ring::default_provider().install_default()`.
    pub fn reqwest_client(mut self, client: reqwest::Client) -> Self {
        self.transport.client = Some(client);
        self
    }
}
