//! How calls share requests, and in which order: the settings.

use std::time::Duration;

use crate::error::Error;

/// How calls share requests: a setting of a [`Publisher`](crate::Publisher), and with
/// [`Client::with_batching`](crate::Client::with_batching) or [`Config::batching`](crate::Config::batching) of the plain calls of a client.
///
/// While fewer than [`in_flight`](Self::in_flight) requests are in flight, a call is sent at once and alone. Otherwise calls are
/// queued, and sent together in a [batch](crate::Batch) when one of the requests gets its response. So nothing waits for a
/// timer, and the busier the client is, the more calls share a request.
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
    pub(crate) in_flight: usize,
    pub(crate) max_commands: usize,
    pub(crate) max_bytes: usize,
    pub(crate) linger: Option<Duration>,
}

impl Batching {
    /// At most 2 requests at once, each with up to 1,000 commands and 512 KiB.
    pub fn new() -> Self {
        Self { in_flight: 2, max_commands: 1000, max_bytes: 512 * 1024, linger: None }
    }

    /// How many requests may be in flight at once. 2 unless set.
    ///
    /// With more, fewer calls share a request. Raise it if the server is far away, or waits for its broker.
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests;
        self
    }

    /// The most commands that share a request. 1,000 unless set; the server executes up to 1,024 at the same time.
    pub fn max_commands(mut self, commands: usize) -> Self {
        self.max_commands = commands;
        self
    }

    /// The longest request that commands share, in bytes of its protobuf form. 512 KiB unless set. A longer command is sent
    /// alone.
    ///
    /// A request that the server or a proxy finds too long is sent again in two halves.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Lets every request wait for this long for more commands, or until it is full. Unless set it does not wait.
    ///
    /// It costs every call that time, and makes requests fuller when few calls come at once.
    pub fn linger(mut self, linger: impl Into<Option<Duration>>) -> Self {
        self.linger = linger.into();
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

/// Which commands of a [`Publisher`](crate::Publisher) are ordered.
///
/// Ordered commands are executed by the server one after the other, in the order in which they were given to the publisher:
/// a command is sent only when all those before it in its channel have ended, or behind them in the same request. A repeat keeps
/// its place in the order. A command that timed out has ended: a slow server may still execute it, after the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// The commands of each channel. Those of different channels run in parallel on the server.
    ///
    /// A broadcast counts for each of its channels, and every other command for the channel that it names. Commands that name
    /// no channel (`info`, `disconnect`) are not ordered. The commands of a request run one after the other where that is measured to be
    /// faster (with the memory engine it is), or where many commands of few channels are queued.
    #[default]
    PerChannel,
    /// The commands of each channel, and those of a request run one after the other on the server.
    ///
    /// For the memory engine, where it saves the measurements of [`PerChannel`](Self::PerChannel). Much slower with Redis.
    Sequential,
    /// None.
    None,
}
