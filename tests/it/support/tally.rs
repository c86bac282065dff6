//! Scripted servers: the requests that arrived, and those that were applied.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::port::Port;

/// A scripted server on a free port. It ends when it is dropped.
pub(crate) struct Server {
    port: Port,
    pub(crate) tally: Tally,
}

impl Server {
    /// Serves with this function, which is given the connection, its number from 0, and what counts its requests.
    pub(super) fn start<F>(serve: impl Fn(TcpStream, usize, Tally) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), serve)
    }

    /// The same, at an address of the caller's choice.
    pub(super) fn start_at<F>(
        address: SocketAddr,
        serve: impl Fn(TcpStream, usize, Tally) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let tally = Tally::default();
        let counting = tally.clone();
        Self { port: Port::open_at(address, move |stream, number| serve(stream, number, counting.clone())), tally }
    }

    /// The base URL of its API over HTTP.
    pub(crate) fn api_url(&self) -> String {
        format!("{}/api", self.url())
    }
}

impl Deref for Server {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

/// A request whose whole body arrived.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The number of the connection it arrived on, from 0.
    pub(crate) connection: usize,
    pub(crate) at: Instant,
    /// Where it was published to, if it is a publish.
    pub(crate) channel: String,
    pub(crate) idempotency_key: String,
    /// The message, without what frames it.
    pub(crate) message: Bytes,
}

/// Counts operations. Clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    arrived: watch::Sender<Vec<Operation>>,
    applied: watch::Sender<Vec<Operation>>,
}

impl Tally {
    /// Gives its number, from 0.
    pub(super) fn arrive(&self, operation: Operation) -> usize {
        self.0.arrived.send_modify(|all| all.push(operation));
        self.0.arrived.borrow().len() - 1
    }

    pub(super) fn apply(&self, operation: Operation) {
        self.0.applied.send_modify(|all| all.push(operation));
    }

    /// Every request so far whose whole body arrived.
    pub(crate) fn arrived(&self) -> Vec<Operation> {
        self.0.arrived.borrow().clone()
    }

    /// Those that the script applied.
    pub(crate) fn applied(&self) -> Vec<Operation> {
        self.0.applied.borrow().clone()
    }

    /// How many effects they had on a server that keeps idempotency keys: retries in a channel count once.
    pub(crate) fn effects(&self) -> usize {
        Self::effects_of(&[self])
    }

    /// How many effects there were on several servers that share one broker.
    pub(crate) fn effects_of(tallies: &[&Self]) -> usize {
        let applied = tallies.iter().flat_map(|tally| tally.applied());
        let (keyed, others): (Vec<_>, Vec<_>) = applied.partition(|done| !done.idempotency_key.is_empty());
        let distinct: HashSet<_> = keyed.iter().map(|done| (&done.channel, &done.idempotency_key)).collect();
        distinct.len() + others.len()
    }

    /// Waits until so many requests arrived.
    pub(crate) async fn until_arrived(&self, number: usize) {
        self.0.arrived.subscribe().wait_for(|all| all.len() >= number).await.unwrap();
    }

    /// Waits until so many were applied.
    pub(crate) async fn until_applied(&self, number: usize) {
        self.0.applied.subscribe().wait_for(|all| all.len() >= number).await.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_have_one_effect_if_channel_and_key_are_the_same() {
        let tally = Tally::default();
        for (channel, key) in [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("a", ""), ("a", "")] {
            let (channel, idempotency_key) = (channel.into(), key.into());
            let (connection, at, message) = (0, Instant::now(), Bytes::new());
            tally.apply(Operation { connection, at, channel, idempotency_key, message });
        }
        assert_eq!((tally.applied().len(), tally.effects()), (6, 5));
        assert_eq!(Tally::effects_of(&[&tally, &tally]), 7);
    }
}
