//! Many calls in few requests, without a batch made by hand.
//!
//! [`Batching`] is the setting, for the plain calls of a client and for a [`Publisher`](crate::Publisher). `queue.rs` decides
//! what may leave together, `engine.rs` sends it, `parcel.rs` is what travels, `room.rs` how much may wait.

pub(crate) mod engine;
mod pace;
mod parcel;
mod queue;
pub(crate) mod room;

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::engine::{Accepted, Engine};
use crate::attempts::Attempts;
use crate::client::Client;
use crate::idempotency::Key;
use crate::transport::per_runtime::PerRuntime;
use crate::{Error, ErrorKind, Message, Method, Outcome, Request};

/// How calls share requests: a setting of a [`Publisher`](crate::Publisher), and with
/// [`Client::with_batching`] or `Config::batching` of the plain calls of a client.
///
/// While fewer requests are under way than [`in_flight`](Self::in_flight), a call is sent at once and by itself. Those that
/// come while all of them are under way gather, and leave together in a [batch](crate::Batch) as soon as one of them is
/// answered. So nothing waits for a timer, and the busier the client is, the more calls share a request.
///
/// ```
/// use centrifugo_api::{Batching, Client, Config};
///
/// let client = Client::new(Config::grpc("http://localhost:10000").batching(Batching::new()))?;
/// // From here on the calls of many tasks share requests.
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Batching {
    in_flight: usize,
    max_commands: usize,
    max_bytes: usize,
    linger: Option<Duration>,
}

impl Batching {
    /// At most 2 requests at once, each with up to 1,000 commands and 512 KiB.
    pub fn new() -> Self {
        Self { in_flight: 2, max_commands: 1000, max_bytes: 512 * 1024, linger: None }
    }

    /// How many requests may be under way at once. 2 unless set.
    ///
    /// With more, fewer calls share a request. More pay where the server is far away, or waits for its broker.
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests;
        self
    }

    /// The most commands that share a request. 1,000 unless set; the server carries out up to 1,024 at the same time.
    pub fn max_commands(mut self, commands: usize) -> Self {
        self.max_commands = commands;
        self
    }

    /// The longest request that commands share, in bytes of its protobuf form. 512 KiB unless set. A longer command travels by
    /// itself.
    ///
    /// A request that the server or a proxy finds too long is sent anew in two halves.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Lets every request wait for this long for more commands, or until it is full. Unless set it does not wait.
    ///
    /// It costs every call that time, and makes requests fuller when few calls come at once.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let zero = |what| Err(Error::invalid(format!("`{what}` of the batching is 0, so that nothing could be sent")));
        match self {
            Self { in_flight: 0, .. } => zero("in_flight"),
            Self { max_commands: 0, .. } => zero("max_commands"),
            Self { max_bytes: 0, .. } => zero("max_bytes"),
            _ => Ok(()),
        }
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self::new()
    }
}

/// What is ordered, of what a [`Publisher`](crate::Publisher) sends.
///
/// Ordered commands are carried out by the server one after the other, in the order in which they were given to the publisher:
/// a command is sent only when all those before it in its channel are over, or behind them in the same request. A repeat keeps
/// its turn. One that ended without an answer is over, too: a server that is only slow may carry it out after the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// The commands of a channel are, and those of different channels run in parallel on the server.
    ///
    /// A broadcast counts for each of its channels, and every other command for the channel that it names. Commands that name
    /// no channel (`info`, `disconnect`) are ordered with nothing. Where many commands of few channels wait, and
    /// where the server is found to be faster so (the memory engine is), the commands of a request run one after the other.
    #[default]
    PerChannel,
    /// The same, with requests whose commands run one after the other on the server.
    ///
    /// What [`PerChannel`](Self::PerChannel) finds out to be faster with the memory engine. Much slower with Redis.
    Sequential,
    /// Nothing is.
    None,
}

/// Lets the plain calls of a client share requests.
pub(crate) struct Batcher {
    batching: Batching,
    engines: PerRuntime<Kept>,
}

/// An engine, which a task of its runtime keeps: so it ends with the runtime, whose files it would keep open otherwise.
#[derive(Clone)]
struct Kept {
    engine: Weak<Engine>,
    /// Dropped with the client, which ends the task.
    _client: Arc<oneshot::Sender<Infallible>>,
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.batching.fmt(f)
    }
}

impl Batcher {
    pub(crate) fn new(batching: Batching) -> Arc<Self> {
        Arc::new(Self { batching, engines: PerRuntime::new() })
    }

    /// The same for calls that do not share requests with these.
    pub(crate) fn apart(&self) -> Arc<Self> {
        Self::new(self.batching)
    }

    /// The engine of this runtime.
    fn engine(&self, client: &Client) -> Arc<Engine> {
        loop {
            let mut new = None;
            let make = || {
                let runtime = Handle::current();
                let engine = Engine::new(client.without_batching(), &self.batching, Order::None, None, runtime);
                let (of_client, gone) = oneshot::channel();
                let kept = Kept { engine: Arc::downgrade(&engine), _client: Arc::new(of_client) };
                // For this call, if the runtime is ending.
                new = Some(Arc::clone(&engine));
                tokio::spawn(async move {
                    let _ = gone.await;
                    drop(engine);
                });
                Ok::<_, Infallible>(kept)
            };
            let Ok(kept) = self.engines.get(|kept| kept.engine.strong_count() > 0, make);
            // It may have gone just now.
            if let Some(engine) = kept.engine.upgrade() {
                drop(new);
                return engine;
            }
        }
    }

    /// Makes a call, in its own request if there is a slot, and with others if not.
    pub(crate) async fn call<R: Request>(
        &self,
        client: &Client,
        request: &R,
        key: Option<Key>,
        attempts: &mut Attempts<'_>,
    ) -> Result<R::Reply, Error> {
        let engine = self.engine(client);
        let deadline = attempts.deadline();
        let carried = match engine.accept(request, key, deadline, true) {
            Ok(accepted) => Awaited::new(accepted).answer(R::METHOD, Request::answers(request)).await,
            Err(error) => Err(error),
        };
        attempts.carried(carried)
    }
}

/// A command that somebody waits for. Dropped before it has left, it is withdrawn; after that it goes on.
pub(crate) struct Awaited {
    accepted: Accepted,
    done: bool,
}

impl Awaited {
    pub(crate) fn new(accepted: Accepted) -> Self {
        Self { accepted, done: false }
    }

    /// What becomes of it.
    pub(crate) async fn answer<T: Message>(mut self, method: Method, answers: usize) -> Result<T, Error> {
        if let Some(errand) = &self.accepted.errand {
            poll_fn(|cx| errand.poll(cx)).await;
        }
        let settled = (&mut self.accepted.settled).await;
        self.done = true;
        self.accepted.read(settled.unwrap_or_else(|_| Err(forgotten())), method, answers)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        match &self.accepted.errand {
            _ if self.done => {}
            Some(errand) => errand.hand_over(),
            None => {
                self.accepted.withdraw();
            }
        }
    }
}

/// What cannot be: each command ends with an answer or an error.
pub(crate) fn forgotten() -> Error {
    Error::new(ErrorKind::Closed, "the call was forgotten").with_outcome(Outcome::Unknown)
}
