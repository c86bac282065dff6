//! An in-memory server that stands in for Centrifugo in tests, in this process, over real sockets.
//!
//! [`Server`] serves Centrifugo's server API over gRPC and over HTTP, on free ports, and responds as Centrifugo v6.9.1
//! (open source, memory engine) does, byte for byte in the exchanges recorded from one. It keeps history, idempotency
//! keys, versions, maps and presence, [records](Server::calls) the calls, and can [inject faults](Fault). It has no
//! subscribers but the clients of a test (with the feature `proxy`), for which it calls the handlers of a backend: a test sets the
//! presence, and `subscribe`, `unsubscribe`, `disconnect` and `refresh` succeed without
//! effect.
//!
//! ```
//! use centrifugo_api::testing::{Fault, Server};
//! use centrifugo_api::{ApiError, Method};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let server = Server::start().await?;
//! let (grpc, http) = (server.grpc_url(), server.http_url()); // give one of them, or both, to the code under test
//! # assert!(grpc.starts_with("http://127.0.0.1:") && http.ends_with("/api"));
//!
//! server.fault(Fault::cut_after().method(Method::Publish)); // the response to the next publish is lost
//! // … run the code under test …
//! assert_eq!(server.applied("news"), 0); // the number of publications in that channel
//! for call in server.calls() {
//!     println!("{} over {}: {}", call.method, call.transport, call.request);
//! }
//! server.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! The clock is tokio's, so a test need not wait for history or idempotency keys to expire: `tokio::time::pause()`,
//! `advance(…).await` and `resume()` move it. Do not leave the clock paused while something waits for a socket: tokio
//! then skips to the next timeout.
//!
//! # Where it differs
//!
//! - Connections have no time limit, gRPC pings are not counted, and only [`Server::drain_connections`] ends them with a GOAWAY.
//! - Its own clients are in presence and channels, whatever a handler overrides, and get no publications.
//! - `info` has one of the server's hundred or so counters.
//! - Over HTTP, invalid UTF-8 in a request (which Centrifugo keeps in payloads) is replaced by U+FFFD everywhere; `-0` is
//!   not an integer; filters nest up to about 60 levels only.

mod call;
#[cfg(feature = "proxy")]
mod client;
mod fault;
mod glob;
mod grpc;
#[cfg(feature = "proxy")]
mod handlers;
mod http;
mod hub;
mod json;
mod legacy;
mod listen;
mod map;
mod methods;
mod namespace;
mod node;
mod payloads;
mod protobuf;
mod record;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "proxy")]
pub use client::{Client, ClientError, Connecting};
pub use fault::{Fault, Transport};
#[cfg(feature = "proxy")]
pub use handlers::Handlers;
pub use namespace::{DataFormat, MapMode, Namespace};
pub use record::Recorded;

use crate::api::message::ClientInfo;
use crate::sync::Mutex;
use listen::{Handshake, Plain, Stop};
use methods::Api;
use node::{Keys, Node};

/// The version that `info` reports.
const VERSION: &str = "6.9.1 OSS";

/// A running server. Dropping it stops it.
///
/// See the [module](self) for an example.
pub struct Server {
    node: Arc<Node>,
    grpc: SocketAddr,
    http: SocketAddr,
    secure: bool,
    stop: Stop,
}

impl Server {
    /// Starts a server that requires no API key, keeps history (100 publications, 300 s) and presence, and has no namespaces.
    ///
    /// # Errors
    ///
    /// Fails when the loopback interface has no free ports.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// Begins a server with other settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The address of the API over gRPC: `http://127.0.0.1:PORT`, or `https://…` with TLS.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.grpc)
    }

    /// The address of the API over HTTP: `http://127.0.0.1:PORT/api`, or `https://…` with TLS.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("{}://{}/api", self.scheme(), self.http)
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The address that listens for gRPC.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// The address that listens for HTTP.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Injects a fault.
    pub fn fault(&self, fault: Fault) {
        self.node.fault(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.node.faults.clear();
    }

    /// Returns the calls so far, in order of arrival: those that could be decoded and had the right API key.
    #[must_use]
    pub fn calls(&self) -> Vec<Recorded> {
        let calls = self.node.calls.as_ref();
        calls.map(|calls| calls.lock().clone()).unwrap_or_default()
    }

    /// Removes the recorded calls.
    pub fn clear_calls(&self) {
        if let Some(calls) = &self.node.calls {
            calls.lock().clear();
        }
    }

    /// Returns the number of publications applied to a channel, with or without history. Those suppressed by their
    /// idempotency key or their version do not count.
    #[must_use]
    pub fn applied(&self, channel: &str) -> u64 {
        self.node.api.hub().applied(channel)
    }

    /// Adds a client to the presence of a channel, which `presence`, `presence_stats`, `channels` and `info` report.
    ///
    /// ```
    /// use centrifugo_api::ClientInfo;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let server = centrifugo_api::testing::Server::start().await?;
    /// let mut info = ClientInfo::default();
    /// info.user = "alice".into();
    /// info.conn_info = r#"{"name":"Alice"}"#.into();
    /// server.set_presence("lobby", "client-1", info);
    /// server.remove_presence("lobby", "client-1");
    /// # Ok(()) }
    /// ```
    ///
    /// An empty `info.client` is filled in.
    pub fn set_presence(&self, channel: impl Into<String>, client: impl Into<String>, mut info: ClientInfo) {
        let client = client.into();
        if info.client.is_empty() {
            info.client.clone_from(&client);
        }
        self.node.api.hub().join(channel.into(), client, info);
    }

    /// Removes a client from the presence of a channel, if it is there.
    pub fn remove_presence(&self, channel: &str, client: &str) {
        self.node.api.hub().leave(channel, client);
    }

    /// Ends the present connections, each after the responses in flight, as a proxy does that is reloaded or has served
    /// [`keepalive_requests`](https://nginx.org/en/docs/http/ngx_http_core_module.html#keepalive_requests): with a GOAWAY over gRPC, and
    /// with `connection: close` over HTTP. The server goes on: new connections are accepted.
    pub fn drain_connections(&self) {
        self.stop.drain();
    }

    /// Begins a client that connects as one without a token: the server calls the handler `connect` of the
    /// [backend](Builder::handlers).
    ///
    /// ```no_run
    /// use centrifugo_api::testing::{Handlers, Server};
    /// use serde_json::json;
    ///
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let handlers = Handlers::http("http://127.0.0.1:3000/centrifugo").header("x-proxy-key", "key");
    /// let server = Server::builder().handlers(handlers).start().await?;
    /// let mut ann = server.client().header("cookie", "session=1").connect().await?;
    /// ann.subscribe("news", json!({})).await?;
    /// let error = ann.publish("news", json!({"text": "spam"})).await.unwrap_err();
    /// assert_eq!(error.code(), 103);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "proxy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
    pub fn client(&self) -> Connecting {
        Connecting::new(&self.node)
    }

    /// Returns a client that is connected as this user, as one with a token is: the backend is not asked.
    #[cfg(feature = "proxy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
    #[must_use]
    pub fn connect_client(&self, user: impl Into<String>) -> Client {
        Client::new(Arc::clone(&self.node), hub::uuid(), user.into())
    }

    /// Calls the handler `shared_poll_refresh` of the backend, as the server does on its own while clients watch keys.
    ///
    /// # Errors
    ///
    /// What the server logs instead.
    #[cfg(feature = "proxy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
    pub async fn shared_poll_refresh(
        &self,
        request: crate::proxy::SharedPollRefreshRequest,
    ) -> Result<crate::proxy::SharedPollRefreshResult, ClientError> {
        client::shared_poll_refresh(&self.node, &request).await
    }

    /// Stops the server: frees the ports and closes every connection, whatever is in flight.
    pub async fn shutdown(self) {
        self.stop.all().await;
    }
}

/// Shows the addresses only.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("grpc", &self.grpc_url()).field("http", &self.http_url()).finish_non_exhaustive()
    }
}

/// The settings of a [`Server`].
///
/// ```
/// # use std::time::Duration;
/// use centrifugo_api::testing::{Namespace, Server};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let server = Server::builder()
///     .api_key("sesame")
///     .namespace(Namespace::new("chat").history(10, Duration::from_secs(60)).presence(true))
///     .start()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    grpc_key: Option<String>,
    http_key: Option<String>,
    without_namespace: Namespace,
    namespaces: Vec<Namespace>,
    transport_errors: bool,
    max_grpc_message: usize,
    max_http_body: usize,
    node_name: String,
    record: bool,
    #[cfg(feature = "proxy")]
    handlers: Option<Handlers>,
    #[cfg(feature = "tls")]
    tls: tls::Tls,
}

impl Builder {
    fn new() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            grpc_addr: free,
            http_addr: free,
            grpc_key: None,
            http_key: None,
            without_namespace: Namespace::new("").history(100, Duration::from_secs(300)).presence(true),
            namespaces: Vec::new(),
            transport_errors: false,
            // The default of grpc-go, which the server keeps.
            max_grpc_message: 4 << 20,
            max_http_body: usize::MAX,
            node_name: "stand-in".into(),
            record: true,
            #[cfg(feature = "proxy")]
            handlers: None,
            #[cfg(feature = "tls")]
            tls: tls::Tls::default(),
        }
    }

    /// Sets the address that listens for gRPC. A free port on the loopback interface unless set.
    pub fn grpc_addr(mut self, address: SocketAddr) -> Self {
        self.grpc_addr = address;
        self
    }

    /// Sets the address that listens for HTTP. A free port on the loopback interface unless set.
    pub fn http_addr(mut self, address: SocketAddr) -> Self {
        self.http_addr = address;
        self
    }

    /// Requires this API key for every call, over both transports.
    pub fn api_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.grpc_api_key(key.clone()).http_api_key(key)
    }

    /// Requires this API key over gRPC. An empty key means none, as for the real server.
    pub fn grpc_api_key(mut self, key: impl Into<String>) -> Self {
        self.grpc_key = Some(key.into());
        self
    }

    /// Requires this API key over HTTP. With an empty key every call is refused, as by a real server that has none.
    pub fn http_api_key(mut self, key: impl Into<String>) -> Self {
        self.http_key = Some(key.into());
        self
    }

    /// Requires no API key (the default).
    pub fn insecure(mut self) -> Self {
        self.grpc_key = None;
        self.http_key = None;
        self
    }

    /// Adds a namespace. Of two with the same name the first wins.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Sets the behaviour of channels without a namespace.
    pub fn without_namespace(mut self, settings: Namespace) -> Self {
        self.without_namespace = settings;
        self
    }

    /// Returns every API error as an error of the transport (`error_mode: transport`), not only to clients that ask for
    /// it.
    pub fn error_mode_transport(mut self) -> Self {
        self.transport_errors = true;
        self
    }

    /// Sets the largest request accepted over gRPC, in bytes. 4 MiB unless set.
    pub fn max_grpc_message(mut self, bytes: usize) -> Self {
        self.max_grpc_message = bytes;
        self
    }

    /// Sets the largest body accepted over HTTP, in bytes, as a proxy in front of the server would: longer ones get status
    /// 413. The server itself accepts any.
    pub fn max_http_body(mut self, bytes: usize) -> Self {
        self.max_http_body = bytes;
        self
    }

    /// Sets the name of the node in `info`.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = name.into();
        self
    }

    /// Records no calls: for a server that runs for long, whose memory would grow with every call.
    pub fn without_records(mut self) -> Self {
        self.record = false;
        self
    }

    /// Has the server call the handlers of a backend for its [clients](Server::client).
    #[cfg(feature = "proxy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
    pub fn handlers(mut self, handlers: impl Into<Option<Handlers>>) -> Self {
        self.handlers = handlers.into();
        self
    }

    /// Serves TLS on both ports, with this certificate chain and this private key, both in PEM.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.certificate = Some((certificates.into(), key.into()));
        self
    }

    /// Requires client certificates of one of these authorities, in PEM. Needs [`tls`](Self::tls).
    #[cfg(feature = "tls")]
    pub fn client_ca(mut self, certificates: impl Into<Vec<u8>>) -> Self {
        self.tls.client_ca = Some(certificates.into());
        self
    }

    /// Starts the server on the current tokio runtime, in the background.
    ///
    /// # Errors
    ///
    /// Fails when an address cannot be listened at (the text names it), or when certificates or key are not valid PEM.
    pub async fn start(self) -> io::Result<Server> {
        let grpc_handshake = self.handshake("h2")?;
        let http_handshake = self.handshake("http/1.1")?;
        let secure = grpc_handshake.is_some();
        let node = Arc::new(Node {
            api: Api::new(self.without_namespace, self.namespaces, self.node_name),
            faults: fault::Faults::default(),
            calls: self.record.then(Mutex::default),
            keys: Keys { http: self.http_key, grpc: self.grpc_key },
            transport_errors: self.transport_errors,
            max_grpc_message: self.max_grpc_message,
            max_http_body: self.max_http_body,
            #[cfg(feature = "proxy")]
            handlers: self.handlers,
        });
        let stop = Stop::new();
        let plain = || Arc::new(Plain) as Arc<dyn Handshake>;
        let serve = Arc::clone(&node);
        let grpc = stop
            .listen(self.grpc_addr, grpc_handshake.unwrap_or_else(plain), move |io, connection| {
                grpc::serve(Arc::clone(&serve), io, connection)
            })
            .await?;
        let serve = Arc::clone(&node);
        let http = stop
            .listen(self.http_addr, http_handshake.unwrap_or_else(plain), move |io, connection| {
                http::serve(Arc::clone(&serve), io, connection)
            })
            .await?;
        Ok(Server { node, grpc, http, secure, stop })
    }

    #[cfg(feature = "tls")]
    fn handshake(&self, protocol: &str) -> io::Result<Option<Arc<dyn Handshake>>> {
        self.tls.handshake(protocol)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "the same as with TLS")]
    fn handshake(&self, _: &str) -> io::Result<Option<Arc<dyn Handshake>>> {
        Ok(None)
    }
}

/// Shows no key.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("grpc_addr", &self.grpc_addr)
            .field("http_addr", &self.http_addr)
            .field("without_namespace", &self.without_namespace)
            .field("namespaces", &self.namespaces)
            .field("transport_errors", &self.transport_errors)
            .field("max_grpc_message", &self.max_grpc_message)
            .field("max_http_body", &self.max_http_body)
            .field("node_name", &self.node_name)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}
