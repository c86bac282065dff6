//! Settings that only gRPC has.

use std::time::Duration;

use crate::config::{Any, Common, Config, FOREVER, Protocol};

/// The server's own default for messages over gRPC, and so what it accepts.
const MAX_REQUEST_SIZE: usize = 4 * 1024 * 1024;
/// The server ends a connection at the 4th ping without a response in between (its minimum is 5 minutes), and pings are
/// sent only while calls are in flight and nothing arrives, so calls of up to a minute and a half never reach that.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The settings that only gRPC has: see [`Config<Grpc>`](Config).
#[derive(Clone, Debug)]
pub struct Grpc {
    pub(crate) connections: usize,
    pub(crate) gzip: bool,
    pub(crate) keepalive: Option<Duration>,
}

impl From<Config<Grpc>> for Config {
    fn from(config: Config<Grpc>) -> Self {
        Self { common: config.common, transport: Any::Grpc(config.transport) }
    }
}

/// gRPC only.
impl Config<Grpc> {
    /// Calls over gRPC, to an address like `http://localhost:10000`, or `https://…` for TLS.
    ///
    /// The server's gRPC API is off by default: `grpc_api.enabled` turns it on.
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        let common = Common::new(Protocol::Grpc, endpoint.into(), Some(MAX_REQUEST_SIZE));
        Self { common, transport: Grpc { connections: 1, gzip: false, keepalive: Some(KEEPALIVE) } }
    }

    /// Sets how many connections to keep to each endpoint at most. 1 unless set. Another is used when those before it have
    /// 16 calls in flight each.
    ///
    /// One connection is enough for tens of thousands of calls a second. More help when hundreds of tasks publish at once.
    pub fn connections(mut self, connections: usize) -> Self {
        self.transport.connections = connections;
        self
    }

    /// Compresses requests with gzip, and accepts compressed replies. Off unless set.
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.transport.gzip = gzip;
        self
    }

    /// Sends a keepalive ping when nothing has arrived for this long while calls are in flight. 30 s unless set; `None`
    /// sends none.
    ///
    /// The server ends a connection at the fourth ping without a response to a call in between.
    pub fn keepalive(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.transport.keepalive = interval.into().map(|interval| interval.min(FOREVER));
        self
    }

    /// Makes calls over HTTP while gRPC is not there or does not respond, and over gRPC again as soon as it does.
    ///
    /// The fallback has endpoints, a key, TLS and sizes of its own. Timeouts of calls and retries are those of this
    /// configuration. [`Client::watch_breaker`](crate::Client::watch_breaker) tells which of the two is used.
    ///
    /// No error of the API, of the key, of a certificate, of a size or of overload leads to HTTP.
    ///
    /// ```
    /// use centrifugo_api::{Client, Config};
    ///
    /// let http = Config::http("http://localhost:8000/api").api_key("my key");
    /// let client = Client::new(Config::grpc("http://localhost:10000").api_key("my key").fallback(http))?;
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    #[cfg(feature = "http")]
    pub fn fallback(mut self, http: Config<crate::config::Http>) -> Self {
        self.common.fallback = Some(Box::new(http.into()));
        self
    }

    /// Allows a fallback in clear text, beyond this machine, for gRPC over TLS. Off unless set: otherwise whoever keeps gRPC
    /// from working could read the calls.
    #[cfg(feature = "http")]
    pub fn allow_clear_text_fallback(mut self, allow: bool) -> Self {
        self.common.allow_clear_text_fallback = allow;
        self
    }
}
