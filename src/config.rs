//! [`Config`] and what its settings are made of.
//!
//! Data, and whether it can work: nothing is built here.

pub(crate) mod batching;
mod check;
pub(crate) mod endpoint;
mod env;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "http")]
mod http;
pub(crate) mod publisher;
pub(crate) mod retry;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::batching::{Batching, Order};
use crate::config::endpoint::BasicAuth;
#[cfg(feature = "grpc")]
pub use crate::config::grpc::Grpc;
#[cfg(feature = "http")]
pub use crate::config::http::Http;
pub use crate::config::publisher::PublisherConfig;
pub use crate::config::retry::{Retry, RetryEvent};
#[cfg(feature = "tls")]
pub use crate::config::tls::Tls;
use crate::error::BoxError;
use crate::sync::BoxFuture;

/// Every call, waits included. The same as pycent 5's and cent's.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Name resolution, TCP and TLS together. It takes a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server limits no reply. Enough for long histories, and a bound on memory.
const MAX_REPLY_SIZE: usize = 64 * 1024 * 1024;
/// What longer durations become, so that none overflows a clock: 30 years, which is what tokio takes for far in the future.
pub(crate) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Where the server is and how to talk to it.
///
/// `Config::grpc` and `Config::http` begin one; every setting has a default that suits a backend next to its server.
/// Settings that only one transport has exist only for it. What can be turned off is turned off with `None`.
///
/// ```
/// use std::time::Duration;
/// use centrifugo_api::{Client, Config};
///
/// let client = Client::new(
///     Config::grpc("http://localhost:10000").api_key("my key").timeout(Duration::from_millis(500)).connections(4),
/// )?;
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
///
/// `Config` without a parameter is over either transport, as [`Config::from_env`] returns it; `Config<Grpc>` and
/// `Config<Http>` turn into it.
#[derive(Clone)]
#[must_use]
pub struct Config<T = Any> {
    pub(crate) common: Common,
    pub(crate) transport: T,
}

/// The settings of whichever transport a [`Config`] has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Any {
    /// gRPC.
    #[cfg(feature = "grpc")]
    Grpc(Grpc),
    /// HTTP.
    #[cfg(feature = "http")]
    Http(Http),
}

/// The settings that both transports have.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) protocol: Protocol,
    pub(crate) endpoints: Vec<String>,
    pub(crate) load_balancing: LoadBalancing,
    pub(crate) fallback: Option<Box<Config>>,
    pub(crate) allow_clear_text_fallback: bool,
    pub(crate) retry: Setting<Retry>,
    pub(crate) timeout: Setting<Duration>,
    pub(crate) batching: Option<Batching>,
    pub(crate) resolver: Option<Resolver>,
    pub(crate) api_key: Option<String>,
    pub(crate) bearer_token: Option<TokenSource>,
    pub(crate) basic_auth: Option<BasicAuth>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) user_agent: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_request_size: Option<usize>,
    pub(crate) max_reply_size: usize,
    pub(crate) pro: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Tls,
}

/// A setting with a default, which may be turned off. A fallback must leave it unset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting<T> {
    Unset,
    Set(Option<T>),
}

impl<T> Setting<T> {
    fn is_set(&self) -> bool {
        matches!(self, Self::Set(_))
    }
}

/// What a configuration's endpoints speak.
#[cfg_attr(not(all(feature = "grpc", feature = "http")), allow(dead_code, reason = "each feature speaks one"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    /// An endpoint as it should look.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Self::Grpc => "http://localhost:10000",
            Self::Http => "http://localhost:8000/api",
        }
    }
}

/// Which of several endpoints gets a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadBalancing {
    /// The one with fewer calls in flight, of two picked at random. For endpoints that are equal.
    #[default]
    LeastBusy,
    /// The first, in the order given, that can be reached. For endpoints of which the later ones stand by.
    Priority,
}

/// Asks the application for a bearer token.
pub(crate) type TokenSource = Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>;

/// Finds the addresses of a name.
pub(crate) type Resolver =
    Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<std::net::IpAddr>>> + Send + Sync>;

impl Common {
    fn new(protocol: Protocol, endpoint: String, max_request_size: Option<usize>) -> Self {
        Self {
            protocol,
            endpoints: vec![endpoint],
            load_balancing: LoadBalancing::default(),
            fallback: None,
            allow_clear_text_fallback: false,
            retry: Setting::Unset,
            timeout: Setting::Unset,
            batching: None,
            resolver: None,
            api_key: None,
            bearer_token: None,
            basic_auth: None,
            headers: Vec::new(),
            user_agent: concat!("centrifugo-api/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: CONNECT_TIMEOUT,
            max_request_size,
            max_reply_size: MAX_REPLY_SIZE,
            pro: false,
            #[cfg(feature = "tls")]
            tls: Tls::default(),
        }
    }

    /// How long a call may take.
    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        match self.timeout {
            Setting::Unset => Some(TIMEOUT),
            Setting::Set(timeout) => timeout,
        }
    }

    /// The longest request in protobuf, if any is sent.
    pub(crate) fn max_protobuf_size(&self) -> Option<usize> {
        self.max_request_size.filter(|_| self.protocol == Protocol::Grpc)
    }

    pub(crate) fn retries(&self) -> Retry {
        match &self.retry {
            Setting::Unset => Retry::new(),
            Setting::Set(None) => Retry::none(),
            Setting::Set(Some(retry)) => retry.clone(),
        }
    }
}

/// Settings of both transports.
impl<T> Config<T> {
    /// Adds another endpoint of the same server: a node of the same cluster, which has the same key.
    ///
    /// Calls are spread over the endpoints, as [`load_balancing`](Self::load_balancing) says. One that cannot be reached, or does not
    /// respond, is left out for a time; a call that certainly did not reach it goes to another.
    ///
    /// The nodes must share a broker (Redis, NATS, `PostgreSQL`): with the memory engine, what is published on one node reaches no
    /// subscriber of the others.
    ///
    /// ```
    /// use centrifugo_api::config::LoadBalancing;
    /// use centrifugo_api::{Client, Config};
    ///
    /// let config = Config::grpc("http://node-1:10000").endpoint("http://node-2:10000").api_key("my key");
    /// let client = Client::new(config.load_balancing(LoadBalancing::Priority))?;
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.common.endpoints.push(endpoint.into());
        self
    }

    /// Sets which of several endpoints gets a call. The less busy of two unless set.
    pub fn load_balancing(mut self, load_balancing: LoadBalancing) -> Self {
        self.common.load_balancing = load_balancing;
        self
    }

    /// Sets when and how often failed calls are repeated: see [`Retry`]. At most 3 attempts unless set.
    pub fn retry(mut self, retry: impl Into<Option<Retry>>) -> Self {
        self.common.retry = Setting::Set(retry.into());
        self
    }

    /// Resolves the endpoints' hosts with this function in place of the operating system's resolver.
    ///
    /// It is called for every new connection, and every 30 s while there are calls; when an address is gone, its connections are
    /// replaced.
    ///
    /// ```
    /// # use centrifugo_api::Config;
    /// let config = Config::grpc("http://centrifugo:10000").resolver(|_host| async { Ok(vec![[127, 0, 0, 1].into()]) });
    /// ```
    pub fn resolver<F, R>(mut self, lookup: F) -> Self
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = std::io::Result<Vec<std::net::IpAddr>>> + Send + 'static,
    {
        self.common.resolver = Some(Arc::new(move |host| Box::pin(lookup(host))));
        self
    }

    /// Sets the API key: `http_api.key` or `grpc_api.key` of the server.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.common.api_key = Some(key.into());
        self
    }

    /// Gets a bearer token for each call, for a server or a proxy that takes JWTs.
    ///
    /// It is called before every attempt, within the call's deadline, so it should cache a token for as long as that is valid. If
    /// it fails, the call fails with [`ErrorKind::Unauthenticated`](crate::ErrorKind::Unauthenticated).
    ///
    /// ```
    /// # use centrifugo_api::Config;
    /// let config = Config::http("https://example.com/api").bearer_token(|| async { Ok("a token".to_owned()) });
    /// ```
    pub fn bearer_token<F, R>(mut self, source: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        self.common.bearer_token = Some(Arc::new(move || Box::pin(source())));
        self
    }

    /// Authenticates with this user and password, for a proxy in front of the API. A user and a password in the endpoint,
    /// as in `https://user:password@example.com/api`, are the same.
    ///
    /// Over HTTP it goes together with an API key. Over gRPC the key is in the header `authorization` too, so that only one can be
    /// sent.
    ///
    /// ```
    /// # use centrifugo_api::Config;
    /// let config = Config::http("https://example.com/api").basic_auth("me", "my password").api_key("my key");
    /// ```
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.common.basic_auth = Some(BasicAuth { user: user.into(), password: password.into() });
        self
    }

    /// Adds a header to every call (over gRPC: metadata), for a proxy on the way. It may be `authorization`, if nothing else needs
    /// that header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.common.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the `User-Agent`. `centrifugo-api/` and the version unless set.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.common.user_agent = user_agent.into();
        self
    }

    /// Bounds every call, connecting and all repeats included. 10 s unless set; [`Client::with_timeout`](crate::Client::with_timeout)
    /// sets it for some calls.
    ///
    /// The outcome of a call whose deadline passes after it was sent is unknown: it may still take effect.
    ///
    /// Over HTTP an attempt ends after 9 s at the latest, as the server sends no response after 10 s. Over either transport one
    /// that may be followed by another may be given up before: see [`Retry::attempt_timeout`].
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.common.timeout = Setting::Set(timeout.into());
        self
    }

    /// Bounds name resolution, TCP and TLS together. 2 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.common.connect_timeout = timeout.min(FOREVER);
        self
    }

    /// Refuses a request with a longer body, in bytes, before it is sent. A batch or a broadcast goes in several requests
    /// then.
    ///
    /// Over gRPC 4 MiB unless set, which is what a server accepts unless its `grpc_api.max_receive_message_size` says
    /// otherwise. Over HTTP there is no limit unless set: the server has none, though proxies do.
    pub fn max_request_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.common.max_request_size = bytes.into();
        self
    }

    /// Gives up on a reply with a longer body, in bytes. 64 MiB unless set; the server has no limit. All replies that are read at the
    /// same time may have four times that together.
    ///
    /// The call may have taken effect by then: the outcome of the error is `Unknown`.
    pub fn max_reply_size(mut self, bytes: usize) -> Self {
        self.common.max_reply_size = bytes;
        self
    }

    /// Lets calls share requests when there are many: see [`Client::with_batching`](crate::Client::with_batching). Off unless
    /// set.
    pub fn batching(mut self, batching: impl Into<Option<Batching>>) -> Self {
        self.common.batching = batching.into();
        self
    }

    /// States that the server is Centrifugo PRO.
    ///
    /// Until then requests with `label_filter` or `all_users` are refused before they are sent: the open-source server
    /// ignores both, so that a filtered `disconnect` would close every connection of the user.
    pub fn pro(mut self, pro: bool) -> Self {
        self.common.pro = pro;
        self
    }

    /// Sets how to check the server's certificate, and which one to show it.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.common.tls = tls;
        self
    }
}

/// Shows that there is a key, and not which.
impl<T: fmt::Debug> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let common = &self.common;
        f.debug_struct("Config")
            .field("endpoints", &common.endpoints.iter().map(|given| endpoint::shown(given)).collect::<Vec<_>>())
            .field("api_key", &common.api_key.as_ref().map(|_| "[redacted]"))
            .field("bearer_token", &common.bearer_token.as_ref().map(|_| "[redacted]"))
            .field("basic_auth", &common.basic_auth)
            .field("headers", &common.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("timeout", &common.call_timeout())
            .field("connect_timeout", &common.connect_timeout)
            .field("retry", &common.retries())
            .field("transport", &self.transport)
            .field("fallback", &common.fallback)
            .finish_non_exhaustive()
    }
}
