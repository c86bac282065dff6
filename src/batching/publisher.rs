//! Publishing at a high rate: bounded, in order, many messages in few requests.

use std::borrow::Borrow as _;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::api::idempotency::{self, Key, KeySequence};
use crate::api::method::Method;
use crate::api::request::{IntoRequest, Request};
use crate::batching::accepted::Accepted;
use crate::batching::batcher::{self, Awaited};
use crate::batching::capacity::Capacity;
use crate::batching::engine::Engine;
use crate::call::Core;
use crate::call::close::CloseSummary;
use crate::config::publisher::PublisherConfig;
use crate::error::{Error, ErrorKind};
use crate::wire::body::{Message, sealed::Sealed as _};

/// Combines publications from many tasks into few requests, in order, with bounded memory.
///
/// Messages accepted while its requests are in flight are sent together when one of the requests gets its response: see
/// [`Batching`](crate::Batching). Messages of one channel keep their [`Order`](crate::config::Order). Each message has its own
/// result: a failure of one does not affect the others, and is retried as the client's [`Retry`](crate::Retry) says.
///
/// ```
/// use centrifugo_api::{Client, Config, PublishRequest, Publisher, PublisherConfig};
/// use serde_json::json;
/// use std::time::Duration;
///
/// # #[cfg(all(feature = "testing", feature = "grpc"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = centrifugo_api::testing::Server::start().await?;
/// # let config = Config::grpc(server.grpc_url());
/// # if false {
/// let config = Config::grpc("http://localhost:10000").api_key("my key");
/// # }
/// let client = Client::new(config)?;
/// let publisher = Publisher::new(&client, PublisherConfig::new())?;
///
/// // Waiting for each result, from any number of tasks:
/// let position = publisher.publish(PublishRequest::new("news", json!({"text": "hello"}))).await?;
///
/// // Or without waiting for each result:
/// for number in 0..100_000 {
///     publisher.enqueue(PublishRequest::new("numbers", json!(number))).await?;
/// }
/// let closed = publisher.close(Duration::from_secs(10)).await;
/// assert_eq!(closed.done, 100_001, "{closed:?}");
/// # Ok(()) }
/// # #[cfg(not(all(feature = "testing", feature = "grpc")))] fn main() {}
/// ```
///
/// It takes every request but batches, so that other calls can be ordered with publications. A broadcast is one message; the
/// channels that refused it are in its result, and not retried. A clone is the same publisher. Accepted messages are sent even if
/// the publisher is dropped.
///
/// It sends in the runtime in which it was made. When that runtime ends, all its messages end with [`ErrorKind::Closed`].
/// `publish`, `enqueue` and `close` must be awaited in a tokio runtime; it may be another one.
#[derive(Clone)]
pub struct Publisher {
    engine: Arc<Engine>,
    capacity: Arc<Capacity>,
    /// `None` if messages are given no keys.
    keys: Option<Arc<KeySequence>>,
}

impl Publisher {
    #[allow(clippy::needless_pass_by_value, reason = "a configuration is used up, as everywhere")]
    pub(crate) fn over(core: &Core, config: PublisherConfig) -> Result<Self, Error> {
        config.check()?;
        let runtime =
            Handle::try_current().map_err(|_| Error::invalid("the publisher was made outside of a tokio runtime"))?;
        let capacity = Arc::new(Capacity::new(config.max_messages, config.max_bytes));
        let engine = Engine::new(core.clone(), &config.batching, config.order, Some(Arc::clone(&capacity)), runtime);
        let keys = config.keys.unwrap_or(core.retry.makes_keys()).then(Arc::default);
        Ok(Self { engine, capacity, keys })
    }

    /// Publishes a message and waits for its result: for capacity, in the queue, and for the response, all within the client's
    /// timeout.
    ///
    /// Dropping the future withdraws the message if it is still queued; one in flight is not cancelled.
    ///
    /// # Errors
    ///
    /// Those of the same call of the [`Client`](crate::Client), [`ErrorKind::Full`] when there was no capacity in time, and
    /// [`ErrorKind::Closed`] when the publisher or the client was closed.
    pub async fn publish<R: Request>(&self, request: impl IntoRequest<R>) -> Result<R::Result, Error> {
        let request = request.into_request();
        let request: &R = request.borrow();
        let (key, len) = self.check(request)?;
        let core = self.engine.core();
        let deadline = core.deadline(Instant::now());
        let sent = async {
            self.take_capacity(len, deadline).await?;
            let accepted = self.engine.accept(request, key, deadline, &core.retry, true)?;
            let mut result: R::Result = Awaited::new(accepted).result(R::METHOD, request.expected_results()).await?;
            result.name_failed(request.channels());
            Ok(result)
        };
        sent.await.map_err(|error| self.with_context(error, R::METHOD, key.as_ref()))
    }

    /// Waits for capacity and accepts a message, which is sent in the background. The ticket is a future of its result, and may be
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] when there was no capacity within the client's timeout, [`ErrorKind::TooLarge`] and
    /// [`ErrorKind::Invalid`] when the request cannot be sent, [`ErrorKind::Closed`] when the publisher was closed.
    pub async fn enqueue<R: Request>(&self, request: impl IntoRequest<R>) -> Result<Ticket<R::Result>, Error> {
        let request = request.into_request();
        let request: &R = request.borrow();
        let (key, len) = self.check(request)?;
        let deadline = self.engine.core().deadline(Instant::now());
        let taken = self.take_capacity(len, deadline).await;
        self.accept(request, key, deadline, taken)
    }

    /// Accepts a message if there is capacity now, and sends it in the background.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] when there is no capacity, otherwise those of [`enqueue`](Self::enqueue).
    pub fn try_enqueue<R: Request>(&self, request: impl IntoRequest<R>) -> Result<Ticket<R::Result>, Error> {
        let request = request.into_request();
        let request: &R = request.borrow();
        let (key, len) = self.check(request)?;
        let taken = self.capacity.try_take(len);
        self.accept(request, key, self.engine.core().deadline(Instant::now()), taken)
    }

    /// Takes capacity, or waits for it.
    async fn take_capacity(&self, len: usize, deadline: Option<Instant>) -> Result<(), Error> {
        match self.capacity.try_take(len) {
            Err(error) if error.kind() == ErrorKind::Full => {
                let _demand = self.engine.demand_capacity();
                self.capacity.take(len, deadline).await
            }
            taken => taken,
        }
    }

    fn accept<R: Request>(
        &self,
        request: &R,
        key: Option<Key>,
        deadline: Option<Instant>,
        taken: Result<(), Error>,
    ) -> Result<Ticket<R::Result>, Error> {
        let accepted =
            taken.and_then(|()| self.engine.accept(request, key, deadline, &self.engine.core().retry, false));
        let accepted = accepted.map_err(|error| self.with_context(error, R::METHOD, key.as_ref()))?;
        let channels = if R::METHOD == Method::Broadcast { request.channels().into() } else { Box::default() };
        let expected = request.expected_results();
        Ok(Ticket { accepted, method: R::METHOD, expected, channels, key, reply: PhantomData })
    }

    /// Waits until every message accepted before has ended, and returns how all messages of this publisher ended so far.
    pub async fn flush(&self) -> CloseSummary {
        self.engine.flush().await
    }

    /// Accepts no more messages, waits for those it has, and after `timeout` cancels the rest: queued messages are not sent, and
    /// the outcome of those in flight is unknown. Returns how all messages of this publisher ended.
    ///
    /// It may be called more than once, and from several tasks. The client is not closed.
    pub async fn close(&self, timeout: Duration) -> CloseSummary {
        self.engine.close(timeout).await
    }

    /// How much of its capacity is used, by messages that are queued or in flight.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let (messages, bytes) = self.capacity.used();
        Depth { messages, bytes }
    }

    /// Makes the checks of a request. Its key, if it is given one, and its length with that.
    fn check<R: Request>(&self, request: &R) -> Result<(Option<Key>, usize), Error> {
        let core = self.engine.core();
        let key = self.keys.as_ref().filter(|_| request.takes_key()).and_then(|keys| keys.next());
        let len = idempotency::encoded_len(request, key.as_ref());
        let checked = core.check(request).and_then(|()| core.check_len(len));
        checked.map_err(|error| self.with_context(error, R::METHOD, None))?;
        Ok((key, len))
    }

    /// Adds to an error the method, the transport and the key.
    fn with_context(&self, error: Error, method: Method, key: Option<&Key>) -> Error {
        self.engine.core().with_context(error, method.name()).with_key(key.map(Key::as_str))
    }
}

/// Shows how it works, and nothing of what it holds.
impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("core", self.engine.core()).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// How much of a publisher's capacity is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// How many messages are queued or in flight.
    pub messages: usize,
    /// Their encoded bytes, and 64 for each.
    pub bytes: usize,
}

/// A future of the result of an accepted message.
///
/// It always resolves, and may be awaited in any runtime. Dropping it does not withdraw the message.
pub struct Ticket<T> {
    accepted: Accepted,
    method: Method,
    expected: usize,
    /// Of a broadcast.
    channels: Box<[String]>,
    key: Option<Key>,
    reply: PhantomData<fn() -> T>,
}

impl<T> Ticket<T> {
    /// Withdraws the message if it is still queued.
    ///
    /// # Errors
    ///
    /// Returns the ticket if the message is in flight or has ended.
    pub fn cancel(self) -> Result<(), Self> {
        if self.accepted.withdraw() { Ok(()) } else { Err(self) }
    }
}

impl<T: Message> Future for Ticket<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let settled = ready!(Pin::new(&mut self.accepted.settled).poll(cx));
        let settled = settled.unwrap_or_else(|_| Err(batcher::no_result()));
        let read = self.accepted.read(settled, self.method, self.expected).map(|mut result: T| {
            result.name_failed(&self.channels);
            result
        });
        Poll::Ready(read.map_err(|error| {
            self.accepted.with_context(error, self.method).with_key(self.key.as_ref().map(Key::as_str))
        }))
    }
}

/// Shows the method only.
impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("method", &self.method).finish_non_exhaustive()
    }
}
