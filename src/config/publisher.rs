//! How a publisher works: the settings.

use crate::config::batching::{Batching, Order};
use crate::error::Error;

/// How a [`Publisher`](crate::Publisher) works.
///
/// ```
/// use centrifugo_api::config::Order;
/// use centrifugo_api::{Batching, PublisherConfig};
///
/// let config = PublisherConfig::new()
///     .max_messages(50_000)
///     .order(Order::Sequential)
///     .batching(Batching::new().in_flight(4));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PublisherConfig {
    pub(crate) batching: Batching,
    pub(crate) order: Order,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) keys: Option<bool>,
}

impl PublisherConfig {
    /// Up to 10,000 messages and 16 MiB, in order per channel, with the client's setting for idempotency keys.
    pub fn new() -> Self {
        Self {
            batching: Batching::new(),
            order: Order::PerChannel,
            max_messages: 10_000,
            max_bytes: 16 * 1024 * 1024,
            keys: None,
        }
    }

    /// How many requests are in flight at once, and the limits of each.
    pub fn batching(mut self, batching: Batching) -> Self {
        self.batching = batching;
        self
    }

    /// Which messages are ordered. [`Order::PerChannel`] unless set.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// How many messages it holds at most, from when they are accepted until their results are there. 10,000 unless set.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// How many bytes it holds at most: the requests in protobuf, and 64 more for each. 16 MiB unless set, less than 4 GiB.
    ///
    /// The memory used may be two or three times that, for requests in flight and the transport's buffers.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets whether a `publish` or `broadcast` without an idempotency key is given one, so that it may be repeated after an
    /// attempt without a response. As the client's [`Retry`](crate::Retry) says unless set: on, unless it is off there.
    ///
    /// The server keeps each key for 5 minutes; at 50,000 messages a second these are 15 million. Turn them off at such rates,
    /// where a lost message or a duplicate is harmless.
    pub fn idempotency_keys(mut self, keys: bool) -> Self {
        self.keys = Some(keys);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.batching.check()?;
        if self.max_messages == 0 {
            return Err(Error::invalid("`max_messages` of the publisher is 0, so that it could hold none"));
        }
        if self.max_bytes == 0 || u32::try_from(self.max_bytes).is_err() {
            return Err(Error::invalid("`max_bytes` of the publisher is 0, or 4 GiB and more"));
        }
        Ok(())
    }
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self::new()
    }
}
