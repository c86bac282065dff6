//! Accepts connections, closes one of them, or stops them all.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::sync::BoxFuture;

/// The byte stream of a connection, after TLS.
pub(super) type Io = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What happens before the first byte: TLS, or nothing.
pub(super) trait Handshake: fmt::Debug + Send + Sync {
    fn shake(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Io>>;
}

/// No handshake.
#[derive(Debug)]
pub(super) struct Plain;

impl Handshake for Plain {
    fn shake(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Io>> {
        Box::pin(async move { Ok(Box::new(stream) as Io) })
    }
}

/// A handle of one connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    state: Arc<watch::Sender<ConnectionState>>,
    /// Changes when the connections of its time are drained.
    draining: watch::Receiver<()>,
    /// Dropped when the connection has ended.
    _alive: mpsc::Sender<()>,
}

/// The streams of a connection end after it is closed: one that ended before would send its own reset.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum ConnectionState {
    Open,
    Cancelled,
    Closed,
}

impl Connection {
    /// Closes the connection, then drops its streams.
    pub(super) fn close(&self) {
        self.state.send_replace(ConnectionState::Cancelled);
    }

    /// Waits until the connection is to end after what is in flight.
    pub(super) async fn drained(&self) {
        if self.draining.clone().changed().await.is_err() {
            // The server was dropped, and `Stop` ends the connection.
            std::future::pending::<()>().await;
        }
    }

    async fn is(&self, state: ConnectionState) {
        // The sender is in `self`, so the channel stays open.
        let _ = self.state.subscribe().wait_for(|now| *now >= state).await;
    }
}

/// Runs the streams of a connection.
impl<F> hyper::rt::Executor<F> for Connection
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let connection = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = connection.is(ConnectionState::Closed) => {}
            }
        });
    }
}

/// Stops listeners and connections, when asked to or when dropped.
#[derive(Debug)]
pub(super) struct Stop {
    stopping: watch::Sender<bool>,
    draining: watch::Sender<()>,
    alive: mpsc::Receiver<()>,
    /// Cloned for each listener and connection.
    guard: Option<mpsc::Sender<()>>,
}

impl Stop {
    pub(super) fn new() -> Self {
        let (guard, alive) = mpsc::channel(1);
        Self { stopping: watch::Sender::new(false), draining: watch::Sender::new(()), alive, guard: Some(guard) }
    }

    /// Ends the present connections, each after what is in flight on it.
    pub(super) fn drain(&self) {
        self.draining.send_replace(());
    }

    /// Stops everything, and waits until it has ended.
    pub(super) async fn all(mut self) {
        self.stopping.send_replace(true);
        self.guard = None;
        // Nothing is sent: the channel closes when the last sender is dropped.
        while self.alive.recv().await.is_some() {}
    }

    /// Accepts connections at an address, in the background.
    pub(super) async fn listen<S, F>(
        &self,
        address: SocketAddr,
        handshake: Arc<dyn Handshake>,
        serve: S,
    ) -> io::Result<SocketAddr>
    where
        S: Fn(Io, Connection) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let refused = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr()?;
        let mut stop = self.stopping.subscribe();
        let Some(alive) = self.guard.clone() else { return Ok(address) };
        let draining = self.draining.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopped(&mut stop) => break,
                };
                let Ok((stream, _)) = accepted else {
                    // The connection ended before it was accepted, or there are too many: both are transient.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                let connection = Connection {
                    state: Arc::new(watch::Sender::new(ConnectionState::Open)),
                    draining: draining.subscribe(),
                    _alive: alive.clone(),
                };
                let (handshake, serve, mut stop) = (Arc::clone(&handshake), serve.clone(), stop.clone());
                tokio::spawn(async move {
                    let served = async {
                        // A small response is sent at once.
                        let _ = stream.set_nodelay(true);
                        if let Ok(io) = handshake.shake(stream).await {
                            serve(io, connection.clone()).await;
                        }
                    };
                    tokio::select! {
                        () = served => {}
                        () = connection.is(ConnectionState::Cancelled) => {}
                        () = stopped(&mut stop) => {}
                    }
                    connection.state.send_replace(ConnectionState::Closed);
                });
            }
            drop(alive);
        });
        Ok(address)
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // If the sender is gone, the server was dropped.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn stopping_ends_connections_their_tasks_and_the_listener() {
        let stop = Stop::new();
        let address = "127.0.0.1:0".parse().unwrap();
        let serve = |io: Io, connection: Connection| async move {
            hyper::rt::Executor::execute(&connection, std::future::pending());
            std::future::pending::<()>().await;
            drop(io);
        };
        let address = stop.listen(address, Arc::new(Plain), serve).await.unwrap();
        let mut connection = TcpStream::connect(address).await.unwrap();
        tokio::task::yield_now().await;
        stop.all().await;
        assert_eq!(connection.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
