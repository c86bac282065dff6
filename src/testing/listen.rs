//! Connections: accepting them, cutting them, and ending them all.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connection's bytes, in the clear.
pub(super) type Io = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What comes before the first byte in the clear.
pub(super) trait Handshake: fmt::Debug + Send + Sync {
    fn shake(&self, stream: TcpStream) -> BoxFuture<io::Result<Io>>;
}

/// Nothing.
#[derive(Debug)]
pub(super) struct Plain;

impl Handshake for Plain {
    fn shake(&self, stream: TcpStream) -> BoxFuture<io::Result<Io>> {
        Box::pin(async move { Ok(Box::new(stream) as Io) })
    }
}

/// One connection, to those that serve it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    state: Arc<watch::Sender<LineState>>,
    /// Held by all that is still going on.
    _alive: mpsc::Sender<()>,
}

/// The streams of a connection end only after it is closed: a stream that ended before would still say so to the other side.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum LineState {
    Open,
    Cut,
    Closed,
}

impl Line {
    /// Closes the connection, and then drops all that is going on for it.
    pub(super) fn cut(&self) {
        self.state.send_replace(LineState::Cut);
    }

    async fn is(&self, state: LineState) {
        // The sender is in `self`, so there is no other way for this to end.
        let _ = self.state.subscribe().wait_for(|now| *now >= state).await;
    }
}

/// Runs what a connection does besides: its streams.
impl<F> hyper::rt::Executor<F> for Line
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let line = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = line.is(LineState::Closed) => {}
            }
        });
    }
}

/// Ends everything when told to, or when dropped.
#[derive(Debug)]
pub(super) struct Stop {
    told: watch::Sender<bool>,
    alive: mpsc::Receiver<()>,
    // Kept until the end, so that listeners can be given it.
    lend: Option<mpsc::Sender<()>>,
}

impl Stop {
    pub(super) fn new() -> Self {
        let (lend, alive) = mpsc::channel(1);
        Self { told: watch::Sender::new(false), alive, lend: Some(lend) }
    }

    /// Ends everything, and waits until it has ended.
    pub(super) async fn all(mut self) {
        self.told.send_replace(true);
        self.lend = None;
        // Nobody sends: it is the last sender's end that is waited for.
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
        S: Fn(Io, Line) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let refused = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr()?;
        let mut stop = self.told.subscribe();
        let Some(alive) = self.lend.clone() else { return Ok(address) };
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopped(&mut stop) => break,
                };
                let Ok((stream, _)) = accepted else {
                    // A connection that ended before it was accepted, or too many at once: neither lasts.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                let line = Line { state: Arc::new(watch::Sender::new(LineState::Open)), _alive: alive.clone() };
                let (handshake, serve, mut stop) = (Arc::clone(&handshake), serve.clone(), stop.clone());
                tokio::spawn(async move {
                    let connection = async {
                        // Small answers should not wait for more to come.
                        let _ = stream.set_nodelay(true);
                        if let Ok(io) = handshake.shake(stream).await {
                            serve(io, line.clone()).await;
                        }
                    };
                    tokio::select! {
                        () = connection => {}
                        () = line.is(LineState::Cut) => {}
                        () = stopped(&mut stop) => {}
                    }
                    line.state.send_replace(LineState::Closed);
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
        let serve = |io: Io, line: Line| async move {
            hyper::rt::Executor::execute(&line, std::future::pending());
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
