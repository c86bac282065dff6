//! Connections to one endpoint: dialled when first needed, shared by all calls, replaced when they end.
//!
//! A dial succeeds when the server has sent its first frame. So a server that accepts and stays silent, or does not speak HTTP/2,
//! fails the dial and not a call.

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{self, Common};
use crate::error::{BoxError, Error, ErrorKind};
use crate::sync::Mutex;
use crate::sync::per_runtime::PerRuntime;
use crate::transport::grpc::driver::{self, Record};
use crate::transport::grpc::greeting::{self, Greeted, NoGreeting, NoHttp2};
use crate::transport::net::dial::Dial;
use crate::transport::net::names::Names;
use crate::transport::page::Secrets;
use crate::transport::{backoff, http_status};

/// The calls in flight from which another connection is used. Fewer are faster on one, as they share wake-ups and writes. Servers
/// allow more streams than that by default.
const BUSY: usize = 16;
/// The longest keepalive interval, however often a server asks for fewer pings.
const MAX_KEEPALIVE: Duration = Duration::from_secs(600);

/// The connections of an endpoint. Each is dialled and used when those before it are busy.
#[derive(Debug)]
pub(crate) struct Connections {
    dialer: Arc<Dialer>,
    slots: usize,
    by_runtime: PerRuntime<Slots>,
}

/// The slots for the connections of one runtime.
type Slots = Arc<[Slot]>;

/// A slot for one connection.
#[derive(Debug, Default)]
struct Slot(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// One task dials for all waiting calls, with a timeout. It ends with its runtime.
    Dialing(Waiting),
    Ready(Connection),
    /// This many dials in a row have failed. While other slots have connections, the next dial waits for the backoff.
    Failed {
        dials: u32,
        until: Instant,
    },
}

type Dialed = Result<Connection, DialError>;

/// A dial: its number since the last success, and its outcome once it has ended.
#[derive(Debug)]
struct Dialing {
    dials: u32,
    outcome: Option<Dialed>,
}

type Waiting = watch::Receiver<Dialing>;

impl Connections {
    pub(crate) fn new(origin: &Uri, names: Names, config: &Common, settings: &config::Grpc) -> Result<Self, Error> {
        let dialer = Arc::new(Dialer::new(origin, names, config, settings)?);
        Ok(Self { dialer, slots: settings.connections, by_runtime: PerRuntime::new() })
    }

    /// The first connection that is not busy, or else the least busy one; dials if there is none. The dial goes on if this future is
    /// dropped.
    pub(crate) async fn get(&self) -> Result<Connection, Error> {
        let empty = || (0..self.slots).map(|_| Slot::default()).collect();
        let slots: Slots = self.by_runtime.get(|_| true, || Ok::<_, Error>(empty()))?;
        let generation = self.dialer.names.generation();
        let (mut least_busy, mut waiting) = (None::<Connection>, None);
        for slot in &*slots {
            // At most one dial at a time; meanwhile present connections are used.
            let connection = if waiting.is_some() {
                slot.ready(generation)
            } else {
                match slot.look(&self.dialer, generation) {
                    Look::Ready(connection) => Some(connection),
                    Look::Dialing(dialing) => {
                        waiting = Some(dialing);
                        None
                    }
                    Look::Failed => None,
                }
            };
            if let Some(connection) = connection {
                let open = connection.record().open();
                if open < BUSY {
                    return Ok(connection);
                }
                if least_busy.as_ref().is_none_or(|least| open < least.record().open()) {
                    least_busy = Some(connection);
                }
            }
        }
        if let Some(connection) = least_busy {
            return Ok(connection);
        }
        let mut waiting = waiting.unwrap_or_else(|| slots[0].dial(&self.dialer, generation));
        match waiting.wait_for(|dialing| dialing.outcome.is_some()).await.map(|dialing| dialing.outcome.clone()) {
            Ok(Some(Ok(connection))) => Ok(connection),
            Ok(Some(Err(error))) => Err(error.into()),
            Ok(None) | Err(_) => {
                Err(Error::new(ErrorKind::Connect, "the runtime ended before a connection was made").local())
            }
        }
    }

    /// Retires all connections, because they do not respond, and dials their addresses last. Whether the name has others.
    pub(crate) fn fail_over(&self) -> bool {
        let slots = self.by_runtime.all();
        let connections = slots.iter().flat_map(|slots| slots.iter()).filter_map(Slot::present);
        connections.for_each(|connection| self.dialer.names.suspect(connection.0.address));
        self.disconnect();
        self.dialer.names.has_unsuspected()
    }

    /// Retires all connections: calls in flight go on, later ones use new connections.
    pub(crate) fn disconnect(&self) {
        self.dialer.names.next_generation();
        self.by_runtime.clear();
    }
}

/// The contents of a slot.
enum Look {
    Ready(Connection),
    Dialing(Waiting),
    /// The last dial failed, and its backoff is not over.
    Failed,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// The connection of this slot, if there is one.
    fn ready(&self, generation: u64) -> Option<Connection> {
        self.present().filter(|connection| connection.is_open(generation))
    }

    /// The connection of this slot, retired or not.
    fn present(&self) -> Option<Connection> {
        match &*self.state() {
            State::Ready(connection) => Some(connection.clone()),
            State::Dialing(dialing) => dialing.borrow().outcome.as_ref()?.as_ref().ok().cloned(),
            State::Idle | State::Failed { .. } => None,
        }
    }

    /// The connection of this slot, or its dial, started now unless the backoff of the last one is not over.
    fn look(&self, dialer: &Arc<Dialer>, generation: u64) -> Look {
        let mut state = self.state();
        state.settle();
        match &*state {
            State::Ready(connection) if connection.is_open(generation) => Look::Ready(connection.clone()),
            State::Dialing(waiting) => Look::Dialing(waiting.clone()),
            State::Failed { until, .. } if Instant::now() < *until => Look::Failed,
            State::Idle | State::Ready(_) | State::Failed { .. } => Look::Dialing(state.dial(dialer, generation)),
        }
    }

    /// Dials, or joins the dial in progress.
    fn dial(&self, dialer: &Arc<Dialer>, generation: u64) -> Waiting {
        let mut state = self.state();
        match &*state {
            State::Dialing(waiting) => waiting.clone(),
            _ => state.dial(dialer, generation),
        }
    }
}

impl State {
    /// Records the outcome of a dial that has ended.
    fn settle(&mut self) {
        let Self::Dialing(waiting) = self else { return };
        let gone = waiting.has_changed().is_err();
        let dialing = waiting.borrow();
        let settled = match &dialing.outcome {
            Some(Ok(connection)) => Self::Ready(connection.clone()),
            Some(Err(_)) => Self::Failed { dials: dialing.dials, until: Instant::now() + backoff::dial(dialing.dials) },
            // The runtime has ended.
            None if gone => Self::Idle,
            None => return,
        };
        drop(dialing);
        *self = settled;
    }

    fn dial(&mut self, dialer: &Arc<Dialer>, generation: u64) -> Waiting {
        let dials = if let Self::Failed { dials, .. } = self { dials.saturating_add(1) } else { 1 };
        let (done, waiting) = watch::channel(Dialing { dials, outcome: None });
        let dialer = Arc::clone(dialer);
        tokio::spawn(async move {
            let outcome = dialer.dial(generation).await;
            done.send_modify(|dialing| dialing.outcome = Some(outcome));
        });
        *self = Self::Dialing(waiting.clone());
        waiting
    }
}

/// Makes connections.
struct Dialer {
    origin: Uri,
    names: Names,
    dial: Dial,
    /// The keepalive interval, doubled when the server sends `ENHANCE_YOUR_CALM`.
    keepalive: Mutex<Option<Duration>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("origin", &self.origin).field("dial", &self.dial).finish_non_exhaustive()
    }
}

impl Dialer {
    fn new(origin: &Uri, names: Names, config: &Common, settings: &config::Grpc) -> Result<Self, Error> {
        // grpc-go refuses a connection that does not offer `h2`.
        let dial = Dial::new(origin, names.clone(), config, &[b"h2"])?;
        Ok(Self { origin: origin.clone(), names, dial, keepalive: Mutex::new(settings.keepalive) })
    }

    async fn dial(self: &Arc<Self>, generation: u64) -> Dialed {
        let dialer = Arc::clone(self);
        let connect = move |address| {
            let dialer = Arc::clone(&dialer);
            async move { dialer.connect(address, generation).await }
        };
        match self.dial.in_time(self.dial.race(connect)).await {
            Ok(Ok(connection)) => {
                tracing::debug!(endpoint = %self.origin, "connected over gRPC");
                Ok(connection)
            }
            Ok(Err(error)) => Err(DialError { what: "no connection could be made".into(), source: Some(error.into()) }),
            Err(timeout) => Err(DialError { what: timeout.to_string(), source: None }),
        }
    }

    async fn connect(self: &Arc<Self>, address: IpAddr, generation: u64) -> Result<Connection, BoxError> {
        let tcp = self.dial.tcp(address).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = self.dial.tls() {
            let stream = tls.connect(tcp).await.map_err(handshake_error)?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(NoHttp2::NotOffered.into());
            }
            return self.handshake(stream, address, generation).await;
        }
        self.handshake(tcp, address, generation).await
    }

    async fn handshake<I>(self: &Arc<Self>, io: I, address: IpAddr, generation: u64) -> Result<Connection, BoxError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let keepalive = *self.keepalive();
        let record = Arc::new(Record::new());
        let (greeted, greeting) = Greeted::new(io, Arc::clone(&record));
        let (sender, connection) = driver::greet(greeted).await?;
        let (dialer, driven) = (Arc::clone(self), Arc::clone(&record));
        tokio::spawn(async move {
            let endpoint = &dialer.origin;
            match driver::drive(connection, driven, keepalive).await {
                Ok(()) => tracing::debug!(%endpoint, "connection closed"),
                Err(ended) if ended.is_too_many_pings() => dialer.slow_keepalive(keepalive),
                Err(error) => tracing::debug!(%endpoint, %error, "connection lost"),
            }
        });
        greeting::wait(greeting).await?;
        Ok(Connection(Arc::new(Shared { generation, address, sender, record })))
    }

    fn keepalive(&self) -> MutexGuard<'_, Option<Duration>> {
        self.keepalive.lock()
    }

    /// Doubles the keepalive interval of a connection that the server ended for too many pings.
    fn slow_keepalive(&self, had: Option<Duration>) {
        let slower = had.map(|interval| interval.saturating_mul(2).min(MAX_KEEPALIVE).max(interval));
        let mut keepalive = self.keepalive();
        *keepalive = (*keepalive).max(slower);
        tracing::warn!(endpoint = %self.origin, keepalive = ?*keepalive, "server sent ENHANCE_YOUR_CALM; keepalive interval doubled");
    }
}

/// The error of a failed TLS handshake. A server without HTTP/2 is not a failure of trust.
#[cfg(feature = "tls")]
fn handshake_error(error: std::io::Error) -> BoxError {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    let no_http2 =
        error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).is_some_and(|tls| *tls == alert);
    if no_http2 { NoHttp2::NotOffered.into() } else { error.into() }
}

/// Why a dial failed, for every call that waited for it.
#[derive(Clone, Debug)]
struct DialError {
    what: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl From<DialError> for Error {
    fn from(error: DialError) -> Self {
        /// A shared cause.
        #[derive(Debug)]
        struct Shared(Arc<dyn StdError + Send + Sync>);

        impl fmt::Display for Shared {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl StdError for Shared {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.0.source()
            }
        }

        let connect = Error::new(ErrorKind::Connect, error.what);
        let Some(source) = error.source else { return connect };
        if let Some(no_http2) = source.downcast_ref::<NoHttp2>() {
            // No call was sent, so what the server sent repeats no secret.
            return no_http2.error(&Secrets::default());
        }
        if source.is::<NoGreeting>() {
            return Error::new(ErrorKind::Connect, source.to_string());
        }
        http_status::judge_connect(connect, &*source).with_source(Shared(source))
    }
}

/// A connection that calls share. It is cheap to clone, and ends with its runtime.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The generation of the [`Names`] when it was dialled.
    generation: u64,
    address: IpAddr,
    sender: SendRequest<Bytes>,
    record: Arc<Record>,
}

impl Connection {
    /// Gives it no more calls. A call may see the end of a connection before its task records it.
    pub(super) fn retire(&self) {
        self.0.record.retire();
    }

    pub(super) fn sender(&self) -> &SendRequest<Bytes> {
        &self.0.sender
    }

    pub(super) fn record(&self) -> &Record {
        &self.0.record
    }

    fn is_open(&self, generation: u64) -> bool {
        self.0.generation >= generation && !self.0.record.is_retired()
    }
}
