//! What a client is made of. Checked once, in [`Client::new`](crate::Client::new).

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::error::BoxError;
use crate::transport::Transport;
use crate::transport::balancer::{Balancer, LoadBalancing};
use crate::transport::fallback::Route;
use crate::transport::names::Lookup;
use crate::{BoxFuture, Error, Retry};

/// Every call, waits included. The same as pycent 5's and cent's.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Name resolution, TCP and TLS together. The server answers within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server's own default for messages over gRPC, and so what it accepts.
#[cfg(feature = "grpc")]
const MAX_REQUEST_SIZE: usize = 4 * 1024 * 1024;
/// The server limits no reply. Enough for long histories, and a bound on memory.
const MAX_REPLY_SIZE: usize = 64 * 1024 * 1024;
/// The server ends a connection at the 4th ping without a response in between (its minimum is 5 minutes), and pings are
/// sent only while calls are open and nothing arrives, so calls of up to a minute and a half never reach that.
#[cfg(feature = "grpc")]
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The server closes an idle connection after 30 s; a request sent at that moment would be lost.
#[cfg(feature = "http")]
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the server is and how to talk to it.
///
/// `Config::grpc` and `Config::http` begin one; every setting has a default that suits a backend next to its server.
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
#[derive(Clone)]
#[must_use]
pub struct Config {
    pub(crate) endpoints: Vec<String>,
    pub(crate) balance: LoadBalancing,
    pub(crate) fallback: Option<Box<Config>>,
    clear_text_fallback: bool,
    retry: Option<Retry>,
    pub(crate) lookup: Option<Lookup>,
    pub(crate) transport: Chosen,
    pub(crate) api_key: Option<String>,
    pub(crate) token: Option<TokenSource>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) user_agent: String,
    timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_request_size: Option<usize>,
    pub(crate) max_reply_size: usize,
    pub(crate) pro: bool,
    pub(crate) batching: Option<crate::Batching>,
    #[cfg(feature = "tls")]
    pub(crate) tls: crate::Tls,
}

/// The transport, with the settings that only it has.
#[derive(Clone)]
pub(crate) enum Chosen {
    #[cfg(feature = "grpc")]
    Grpc(GrpcSettings),
    #[cfg(feature = "http")]
    Http(HttpSettings),
}

/// What only gRPC can be told.
#[cfg(feature = "grpc")]
#[derive(Clone)]
pub(crate) struct GrpcSettings {
    pub(crate) connections: usize,
    pub(crate) gzip: bool,
    pub(crate) keepalive: Option<Duration>,
}

/// What only HTTP can be told.
#[cfg(feature = "http")]
#[derive(Clone)]
pub(crate) struct HttpSettings {
    pub(crate) idle_timeout: Duration,
    pub(crate) client: Option<reqwest::Client>,
}

/// Asks the application for a bearer token.
pub(crate) type TokenSource = Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>;

impl Config {
    /// Calls over gRPC, to an address like `http://localhost:10000`, or `https://…` for TLS.
    ///
    /// The server's gRPC API is off by default: `grpc_api.enabled` turns it on.
    #[cfg(feature = "grpc")]
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        let settings = GrpcSettings { connections: 1, gzip: false, keepalive: Some(KEEPALIVE) };
        Self::new(endpoint.into(), Chosen::Grpc(settings), Some(MAX_REQUEST_SIZE))
    }

    /// Calls over HTTP, to the API's base URL as the server documents it: `http://localhost:8000/api`.
    #[cfg(feature = "http")]
    pub fn http(endpoint: impl Into<String>) -> Self {
        let settings = HttpSettings { idle_timeout: IDLE_TIMEOUT, client: None };
        Self::new(endpoint.into(), Chosen::Http(settings), None)
    }

    #[cfg(any(feature = "grpc", feature = "http"))]
    fn new(endpoint: String, transport: Chosen, max_request_size: Option<usize>) -> Self {
        Self {
            endpoints: vec![endpoint],
            balance: LoadBalancing::default(),
            fallback: None,
            clear_text_fallback: false,
            retry: None,
            lookup: None,
            transport,
            api_key: None,
            token: None,
            headers: Vec::new(),
            user_agent: concat!("centrifugo-api/", env!("CARGO_PKG_VERSION")).into(),
            timeout: None,
            connect_timeout: CONNECT_TIMEOUT,
            max_request_size,
            max_reply_size: MAX_REPLY_SIZE,
            pro: false,
            batching: None,
            #[cfg(feature = "tls")]
            tls: crate::Tls::default(),
        }
    }

    /// Adds another endpoint of the same server: a node of the same cluster, which has the same key.
    ///
    /// Calls are spread over the endpoints, as [`balance`](Self::balance) says. One that cannot be reached, or does not
    /// answer, is left out for a time; a call that certainly did not reach it goes to another.
    ///
    /// The nodes must share a broker (Redis, NATS, `PostgreSQL`): nodes with the memory engine are islands, and what is
    /// published on one reaches nobody on the others.
    ///
    /// ```
    /// use centrifugo_api::{LoadBalancing, Client, Config};
    ///
    /// let config = Config::grpc("http://node-1:10000").endpoint("http://node-2:10000").api_key("my key");
    /// let client = Client::new(config.balance(LoadBalancing::Priority))?;
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Which of several endpoints gets a call. The less busy of two unless set.
    pub fn balance(mut self, balance: LoadBalancing) -> Self {
        self.balance = balance;
        self
    }

    /// Makes calls over HTTP while gRPC is not there or does not answer, and over gRPC again as soon as it does.
    ///
    /// The fallback has endpoints, a key, TLS and sizes of its own. Timeouts of calls and retries are those of this
    /// configuration. [`Client::watch_breaker`](crate::Client::watch_breaker) tells which of the two carries the calls.
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
    #[cfg(all(feature = "grpc", feature = "http"))]
    pub fn fallback(mut self, http: Config) -> Self {
        self.fallback = Some(Box::new(http));
        self
    }

    /// Allows a fallback in clear text, beyond this machine, for gRPC over TLS. Off unless set: nobody should be able to have
    /// calls sent in the clear by keeping gRPC from working.
    #[cfg(all(feature = "grpc", feature = "http"))]
    pub fn allow_clear_text_fallback(mut self, allow: bool) -> Self {
        self.clear_text_fallback = allow;
        self
    }

    /// When and how often failed calls are repeated: see [`Retry`]. At most 3 attempts unless set.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Finds the addresses of the endpoints' hosts, in the place of the operating system.
    ///
    /// It is asked for every connection that is made, and every 30 s while there are calls; when an address has gone, the
    /// connections are made anew.
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
        self.lookup = Some(Arc::new(move |host| Box::pin(lookup(host))));
        self
    }

    /// The API key: `http_api.key` or `grpc_api.key` of the server.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Where to get a bearer token for each call, for a server or a proxy that takes JWTs.
    ///
    /// It is asked before every call and within the call's deadline, so it should remember a token for as long as that
    /// is good. An error of it is the call's [`ErrorKind::Unauthenticated`](crate::ErrorKind::Unauthenticated).
    ///
    /// ```
    /// # use centrifugo_api::Config;
    /// let config = Config::http("https://example.com/api").bearer_token(|| async { Ok("a token".to_owned()) });
    /// ```
    pub fn bearer_token<F, R>(mut self, source: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.token = Some(Arc::new(move || Box::pin(source())));
        self
    }

    /// Adds a header to every call (over gRPC: metadata), for a proxy on the way.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// What to call oneself. `centrifugo-api/` and the version unless set.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Bounds every call, connecting and all repeats included. 10 s unless set; [`Client::with_timeout`](crate::Client::with_timeout)
    /// sets it for some calls.
    ///
    /// A call whose deadline passes after it was sent has an unknown fate: the server may still carry it out.
    ///
    /// Over HTTP an attempt ends after 9 s at the latest, as the server answers nothing after 10 s. Over either transport one
    /// that may be followed by another ends after 3 s: see [`Retry::attempt_timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Bounds name resolution, TCP and TLS together. 2 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Refuses a request with a longer body, in bytes, before it is sent. A batch or a broadcast goes in several requests
    /// then.
    ///
    /// Over gRPC 4 MiB unless set, which is what a server accepts unless its `grpc_api.max_receive_message_size` says
    /// otherwise. Over HTTP there is no limit unless set: the server has none, though proxies do.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = Some(bytes);
        self
    }

    /// Gives up on a reply with a longer body, in bytes. 64 MiB unless set; the server has no limit.
    ///
    /// The call may have been carried out by then: the outcome of the error is `Unknown`.
    pub fn max_reply_size(mut self, bytes: usize) -> Self {
        self.max_reply_size = bytes;
        self
    }

    /// Lets calls share requests when there are many: see [`Client::with_batching`](crate::Client::with_batching). Off unless
    /// set.
    pub fn batching(mut self, batching: crate::Batching) -> Self {
        self.batching = Some(batching);
        self
    }

    /// The longest request that may go over gRPC, if any may.
    pub(crate) fn max_grpc_request_size(&self) -> Option<usize> {
        match &self.transport {
            #[cfg(feature = "grpc")]
            Chosen::Grpc(_) => self.max_request_size,
            #[cfg(feature = "http")]
            Chosen::Http(_) => None,
        }
    }

    /// Says that the server is Centrifugo PRO.
    ///
    /// Until then requests with `label_filter` or `all_users` are refused before they are sent: the open-source server
    /// ignores both, so that a filtered `disconnect` would close every connection of the user.
    pub fn pro(mut self, pro: bool) -> Self {
        self.pro = pro;
        self
    }

    /// How to check the server's certificate, and which one to show it.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.tls = tls;
        self
    }

    /// How many connections to keep to the server at most, over gRPC. 1 unless set. Another is used when those before it have
    /// 16 open calls each.
    ///
    /// One connection carries tens of thousands of calls a second. More help when hundreds of tasks publish at once.
    /// Over HTTP the pool grows and shrinks by itself, and this changes nothing.
    #[cfg(feature = "grpc")]
    pub fn connections(mut self, connections: usize) -> Self {
        self.for_grpc(|settings| settings.connections = connections);
        self
    }

    /// Compresses requests over gRPC with gzip, and accepts compressed replies. Off unless set.
    ///
    /// Over HTTP the server supports no compression, and this changes nothing.
    #[cfg(feature = "grpc")]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.for_grpc(|settings| settings.gzip = gzip);
        self
    }

    /// After how long without any data, while calls are open, the server is asked for a sign of life, over gRPC. 30 s
    /// unless set; `None` never asks. The server ends a connection at the fourth time without an answer to a call in between.
    #[cfg(feature = "grpc")]
    pub fn keepalive(mut self, interval: Option<Duration>) -> Self {
        self.for_grpc(|settings| settings.keepalive = interval);
        self
    }

    /// When to close an idle connection, over HTTP. 20 s unless set; the server closes it after 30 s.
    #[cfg(feature = "http")]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.for_http(|settings| settings.idle_timeout = timeout);
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
    #[cfg(feature = "http")]
    pub fn reqwest_client(mut self, client: reqwest::Client) -> Self {
        self.for_http(|settings| settings.client = Some(client));
        self
    }

    #[cfg(feature = "grpc")]
    fn for_grpc(&mut self, set: impl FnOnce(&mut GrpcSettings)) {
        #[allow(irrefutable_let_patterns, reason = "gRPC may be the only transport there is")]
        if let Chosen::Grpc(settings) = &mut self.transport {
            set(settings);
        }
    }

    #[cfg(feature = "http")]
    fn for_http(&mut self, set: impl FnOnce(&mut HttpSettings)) {
        #[allow(irrefutable_let_patterns, reason = "HTTP may be the only transport there is")]
        if let Chosen::Http(settings) = &mut self.transport {
            set(settings);
        }
    }
}

/// Shows that there is a key, and not which.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoints", &self.endpoints.iter().map(|endpoint| redact_user(endpoint)).collect::<Vec<_>>())
            .field("api_key", &self.api_key.as_ref().map(|_| "[redacted]"))
            .field("bearer_token", &self.token.as_ref().map(|_| "[redacted]"))
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("timeout", &self.call_timeout())
            .field("connect_timeout", &self.connect_timeout)
            .field("retry", &self.retry)
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

/// The address without what may be a password.
fn redact_user(endpoint: &str) -> &str {
    if endpoint.contains(['@', '?', '#']) { "[redacted]" } else { endpoint }
}

/// What becomes of a configuration.
impl Config {
    pub(crate) fn call_timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    pub(crate) fn retries(self) -> Retry {
        self.retry.unwrap_or_default()
    }

    /// The way that calls take.
    pub(crate) fn route(&self) -> Result<Arc<Route>, Error> {
        let first = self.balancer()?;
        let fallback = match &self.fallback {
            Some(fallback) => {
                self.check_fallback(fallback)?;
                Some(fallback.balancer()?)
            }
            None => None,
        };
        Ok(Route::new(first, fallback))
    }

    fn balancer(&self) -> Result<Balancer, Error> {
        let mut transports: Vec<Box<dyn Transport>> = Vec::new();
        for url in self.check()? {
            transports.push(match &self.transport {
                #[cfg(feature = "grpc")]
                Chosen::Grpc(settings) => Box::new(crate::transport::grpc::Grpc::new(self, settings, &url)?),
                #[cfg(feature = "http")]
                Chosen::Http(settings) => Box::new(crate::transport::http::Http::new(self, settings, &url)?),
            });
        }
        Ok(Balancer::new(transports, self.balance))
    }

    /// The checks that both transports need.
    fn check(&self) -> Result<Vec<Url>, Error> {
        if self.call_timeout().is_zero() {
            return Err(Error::invalid("`timeout` is zero, so that no call could succeed"));
        }
        if self.connect_timeout.is_zero() {
            return Err(Error::invalid("`connect_timeout` is zero, so that no connection could be made"));
        }
        if self.api_key.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid("`api_key` is empty; leave it out for a server without one"));
        }
        let urls =
            self.endpoints.iter().map(|endpoint| self.check_endpoint(endpoint)).collect::<Result<Vec<_>, _>>()?;
        if let Some((index, _)) = urls.iter().enumerate().find(|(index, url)| urls[..*index].contains(url)) {
            return Err(Error::invalid(format!("endpoint {} is given twice", index + 1)));
        }
        if urls.iter().any(|url| url.scheme() != urls[0].scheme()) {
            return Err(Error::invalid(
                "some endpoints are https:// and some http://; what one encrypts another would show",
            ));
        }
        Ok(urls)
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<Url, Error> {
        let example = match &self.transport {
            #[cfg(feature = "grpc")]
            Chosen::Grpc(_) => "http://localhost:10000",
            #[cfg(feature = "http")]
            Chosen::Http(_) => "http://localhost:8000/api",
        };
        let url = Url::parse(endpoint)
            .map_err(|error| Error::invalid(format!("the endpoint is no URL like `{example}`: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(Error::invalid(format!(
                "the endpoint must begin with http:// or https:// and name a host, like `{example}`"
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid("the endpoint holds a user or a password; the API takes an `api_key`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Error::invalid("the endpoint has a `?` or a `#`; give the key with `api_key`"));
        }
        if url.scheme() == "https" && !cfg!(feature = "tls") {
            return Err(Error::invalid("the endpoint is https://, and the crate was built without its feature `tls`"));
        }
        Ok(url)
    }

    /// What a fallback must and must not have.
    fn check_fallback(&self, fallback: &Self) -> Result<(), Error> {
        let settings = [
            (fallback.timeout.is_some(), "timeout"),
            (fallback.retry.is_some(), "retry"),
            (fallback.pro, "pro"),
            (fallback.fallback.is_some(), "fallback"),
            (fallback.clear_text_fallback, "allow_clear_text_fallback"),
        ];
        if let Some((_, setting)) = settings.iter().find(|(given, _)| *given) {
            return Err(Error::invalid(format!("`{setting}` is set on the fallback; set it on what falls back to it")));
        }
        let is_http = |config: &Self| match &config.transport {
            #[cfg(feature = "grpc")]
            Chosen::Grpc(_) => false,
            #[cfg(feature = "http")]
            Chosen::Http(_) => true,
        };
        if is_http(self) || !is_http(fallback) {
            return Err(Error::invalid("only gRPC has a fallback, and only HTTP is one"));
        }
        let beyond = |url: &Url| match url.host() {
            Some(url::Host::Domain(name)) => name != "localhost",
            Some(url::Host::Ipv4(address)) => !address.is_loopback(),
            Some(url::Host::Ipv6(address)) => !address.is_loopback(),
            None => true,
        };
        let encrypted = self.check()?.iter().any(|url| url.scheme() == "https");
        let in_clear = fallback.check()?.iter().any(|url| url.scheme() == "http" && beyond(url));
        if encrypted && in_clear && !self.clear_text_fallback {
            return Err(Error::invalid(
                "gRPC is https:// and its fallback http://, so that whoever keeps gRPC from working could read the calls; \
                 if that is meant, say so with `allow_clear_text_fallback`",
            ));
        }
        Ok(())
    }
}

/// The headers of every call, checked, with secrets marked as such.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn headers(config: &Config) -> Result<http::HeaderMap, Error> {
    use http::header::{HeaderName, HeaderValue, USER_AGENT};

    let secret = |what: &str, text: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Error::invalid(format!("`{what}` holds a character that a header cannot carry")))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in &config.headers {
        let name: HeaderName =
            name.parse().map_err(|_| Error::invalid("the name of a `header` is not one that HTTP allows"))?;
        let ours = [
            "authorization",
            "x-api-key",
            "user-agent",
            "content-type",
            "content-length",
            "host",
            "te",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ];
        if ours.contains(&name.as_str()) || name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin") {
            return Err(Error::invalid(format!("the `header` {name} is the transport's own")));
        }
        headers.append(&name, secret(name.as_str(), value)?);
    }
    let user_agent = HeaderValue::from_str(&config.user_agent)
        .map_err(|_| Error::invalid("`user_agent` holds a character that a header cannot carry"))?;
    headers.insert(USER_AGENT, user_agent);
    match (&config.transport, &config.api_key) {
        (_, None) => {}
        #[cfg(feature = "grpc")]
        (Chosen::Grpc(_), Some(_)) if config.token.is_some() => {
            return Err(Error::invalid(
                "`api_key` and `bearer_token` both need the header `authorization` over gRPC; give one",
            ));
        }
        #[cfg(feature = "grpc")]
        (Chosen::Grpc(_), Some(key)) => {
            headers.insert(http::header::AUTHORIZATION, secret("api_key", &format!("apikey {key}"))?);
        }
        #[cfg(feature = "http")]
        (Chosen::Http(_), Some(key)) => {
            headers.insert(HeaderName::from_static("x-api-key"), secret("api_key", key)?);
        }
    }
    Ok(headers)
}

/// The header of a bearer token, asked for now.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) async fn bearer(source: &TokenSource) -> Result<http::HeaderValue, Error> {
    use crate::{ErrorKind, Outcome};

    let failed = |what: &'static str| Error::new(ErrorKind::Unauthenticated, what).with_outcome(Outcome::NotSent);
    let token =
        source().await.map_err(|error| failed("no token could be had from `bearer_token`").with_source(error))?;
    let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| failed("the token of `bearer_token` holds a character that a header cannot carry"))?;
    value.set_sensitive(true);
    Ok(value)
}
