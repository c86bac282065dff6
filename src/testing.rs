//! A server that stands in for Centrifugo in tests: in memory, in this process, over real sockets.
//!
//! [`Server`] has the two fronts of Centrifugo's server API, gRPC and HTTP, on free ports, and answers as Centrifugo
//! v6.9.1 (open source, memory engine) does, byte for byte in the exchanges recorded from one. It keeps history,
//! idempotency keys, versions, maps and presence; it [records](Server::calls) what it was asked; and it
//! [misbehaves](Fault) as told to. It has no subscribers: presence is what a test says it is, and `subscribe`,
//! `unsubscribe`, `disconnect` and `refresh` succeed and reach nobody.
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
//! server.fault(Fault::cut_after().method(Method::Publish)); // the next answer to a publish is lost
//! // … run the code under test …
//! assert_eq!(server.applied("news"), 0); // how often something was published there
//! for call in server.calls() {
//!     println!("{} over {}: {}", call.method, call.transport, call.request);
//! }
//! server.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! Time is tokio's, so a test need not wait for history or idempotency keys to expire: `tokio::time::pause()`,
//! `advance(…).await` and `resume()` take it there. Do not leave the clock paused while something waits for a socket, as
//! tokio then runs ahead to the next timeout.
//!
//! # Where it differs
//!
//! - No connection has a time limit, gRPC pings are not counted, and the end is abrupt: no GOAWAY.
//! - `info` has one of the server's some hundred counters.
//! - Over HTTP, a request that holds broken UTF-8 anywhere (which Centrifugo keeps in payloads) has it replaced by U+FFFD
//!   everywhere; `-0` is not an integer; filters nest up to some 60 levels only.

mod call;
mod fault;
mod glob;
mod grpc;
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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use fault::{Fault, Transport};
pub use namespace::{DataFormat, MapMode, Namespace};
pub use record::Recorded;

use crate::api::message::ClientInfo;
use listen::{Handshake, Plain, Stop};
use methods::Api;
use node::{Keys, Node};

/// The version that the server says it is.
const VERSION: &str = "6.9.1 OSS";

/// A running server. It ends when it is dropped.
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
    /// Starts a server that needs no key, keeps history (100 publications, 300 s) and presence, and has no namespaces.
    ///
    /// # Errors
    ///
    /// When there are no free ports on the loopback interface.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// A server with other settings.
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

    /// Where gRPC is listened for.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP is listened for.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Lets something go wrong.
    pub fn fault(&self, fault: Fault) {
        self.node.fault(fault);
    }

    /// Lets nothing go wrong from now on.
    pub fn clear_faults(&self) {
        self.node.faults.clear();
    }

    /// The calls so far, in the order they came. Only those that were understood and had the right key.
    #[must_use]
    pub fn calls(&self) -> Vec<Recorded> {
        let calls = self.node.calls.as_ref();
        calls.map(|calls| calls.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        if let Some(calls) = &self.node.calls {
            calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// How much was published into a channel, whether it keeps history or not. What was suppressed, for its idempotency
    /// key or its version, is not counted.
    #[must_use]
    pub fn applied(&self, channel: &str) -> u64 {
        self.node.api.hub().applied(channel)
    }

    /// Lets a client be in a channel, as `presence`, `presence_stats`, `channels` and `info` tell.
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
    /// If the info does not say which client it is of, that is filled in.
    pub fn set_presence(&self, channel: impl Into<String>, client: impl Into<String>, mut info: ClientInfo) {
        let client = client.into();
        if info.client.is_empty() {
            info.client.clone_from(&client);
        }
        self.node.api.hub().join(channel.into(), client, info);
    }

    /// Lets a client leave a channel, if it is there.
    pub fn remove_presence(&self, channel: &str, client: &str) {
        self.node.api.hub().leave(channel, client);
    }

    /// Ends the server: the ports are free again, and every connection is closed, whatever was going on.
    pub async fn shutdown(self) {
        self.stop.all().await;
    }
}

/// Shows where it is, and nothing of what it holds.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("grpc", &self.grpc_url()).field("http", &self.http_url()).finish_non_exhaustive()
    }
}

/// The settings of a [`Server`] to be started.
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
#[must_use = "it does nothing until it is started"]
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
            // grpc-go's default, which the server leaves.
            max_grpc_message: 4 << 20,
            max_http_body: usize::MAX,
            node_name: "stand-in".into(),
            record: true,
            #[cfg(feature = "tls")]
            tls: tls::Tls::default(),
        }
    }

    /// Listens for gRPC here. A free port on the loopback interface unless set.
    pub fn grpc_addr(mut self, address: SocketAddr) -> Self {
        self.grpc_addr = address;
        self
    }

    /// Listens for HTTP here. A free port on the loopback interface unless set.
    pub fn http_addr(mut self, address: SocketAddr) -> Self {
        self.http_addr = address;
        self
    }

    /// Needs this key for every call, over both transports.
    pub fn api_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.grpc_api_key(key.clone()).http_api_key(key)
    }

    /// Needs this key for calls over gRPC. An empty one is none, as for the real server.
    pub fn grpc_api_key(mut self, key: impl Into<String>) -> Self {
        self.grpc_key = Some(key.into());
        self
    }

    /// Needs this key for calls over HTTP. With an empty one nobody may call, as with a real server that is given none.
    pub fn http_api_key(mut self, key: impl Into<String>) -> Self {
        self.http_key = Some(key.into());
        self
    }

    /// Needs no key: the default.
    pub fn insecure(mut self) -> Self {
        self.grpc_key = None;
        self.http_key = None;
        self
    }

    /// Adds a namespace. Of two with the same name the first counts.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Sets how channels without a namespace behave.
    pub fn without_namespace(mut self, settings: Namespace) -> Self {
        self.without_namespace = settings;
        self
    }

    /// Answers every error of the API as an error of the transport (`error_mode: transport`), not only for callers that
    /// ask for it.
    pub fn error_mode_transport(mut self) -> Self {
        self.transport_errors = true;
        self
    }

    /// The largest message that is accepted over gRPC, in bytes. 4 MiB unless set.
    pub fn max_grpc_message(mut self, bytes: usize) -> Self {
        self.max_grpc_message = bytes;
        self
    }

    /// The largest body that is accepted over HTTP, in bytes, as a proxy in front of the server would have it: longer ones
    /// are answered with 413. The server itself accepts any.
    pub fn max_http_body(mut self, bytes: usize) -> Self {
        self.max_http_body = bytes;
        self
    }

    /// The name of the node, as `info` tells it.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = name.into();
        self
    }

    /// Records no calls: for a server that runs for long, which would only remember more and more of them.
    pub fn without_records(mut self) -> Self {
        self.record = false;
        self
    }

    /// Listens with TLS on both ports, with this chain of certificates and this private key, both as PEM.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.certificate = Some((certificates.into(), key.into()));
        self
    }

    /// Accepts only callers with a certificate of one of these authorities, as PEM. It needs [`tls`](Self::tls).
    #[cfg(feature = "tls")]
    pub fn client_ca(mut self, certificates: impl Into<Vec<u8>>) -> Self {
        self.tls.client_ca = Some(certificates.into());
        self
    }

    /// Starts the server, in the background of the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened at, or when the certificates or the key are not what they should be.
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
        });
        let stop = Stop::new();
        let plain = || Arc::new(Plain) as Arc<dyn Handshake>;
        let serve = Arc::clone(&node);
        let grpc = stop
            .listen(self.grpc_addr, grpc_handshake.unwrap_or_else(plain), move |io, line| {
                grpc::serve(Arc::clone(&serve), io, line)
            })
            .await?;
        let serve = Arc::clone(&node);
        let http = stop
            .listen(self.http_addr, http_handshake.unwrap_or_else(plain), move |io, line| {
                http::serve(Arc::clone(&serve), io, line)
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
