//! A port of the loopback that connections are accepted at, and that can be made to refuse them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

type Serve = dyn Fn(TcpStream, usize) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send + Sync;

/// Accepts connections and serves each in a task. All of it ends when this is dropped.
pub(crate) struct Port {
    address: SocketAddr,
    /// Bound and never listening, so that no other socket gets the port while it refuses.
    _reserved: TcpSocket,
    accepting: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Shared {
    serve: Box<Serve>,
    dials: watch::Sender<Vec<Instant>>,
    tasks: Mutex<Tasks>,
}

/// The connections that are served, and whether a script panicked.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    panicked: bool,
}

impl Tasks {
    /// Forgets those that have ended.
    fn reap(&mut self) {
        while let Some(end) = self.set.try_join_next() {
            self.panicked |= end.is_err();
        }
    }
}

impl Port {
    /// Serves on a free port with this function, which is given the connection and its number, from 0.
    pub(crate) fn open<F>(serve: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::open_at("127.0.0.1:0".parse().unwrap(), serve)
    }

    /// The same, at an address of the caller's choice.
    pub(crate) fn open_at<F>(address: SocketAddr, serve: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let reserved = bound(address).unwrap();
        let port = Self {
            address: reserved.local_addr().unwrap(),
            _reserved: reserved,
            accepting: Mutex::default(),
            shared: Arc::new(Shared {
                serve: Box::new(move |stream, number| Box::pin(serve(stream, number))),
                dials: watch::Sender::default(),
                tasks: Mutex::default(),
            }),
        };
        port.accept();
        port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were accepted so far.
    pub(crate) fn dials(&self) -> usize {
        self.shared.dials.borrow().len()
    }

    /// When each connection was accepted.
    pub(crate) fn dialed_at(&self) -> Vec<Instant> {
        self.shared.dials.borrow().clone()
    }

    /// Waits until so many connections were accepted.
    pub(crate) async fn dialed(&self, number: usize) {
        self.shared.dials.subscribe().wait_for(|dials| dials.len() >= number).await.unwrap();
    }

    /// Refuses connections from now on. Those that were accepted stay.
    pub(crate) async fn refuse(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The listener is closed when its task is gone, not before.
            let _ = accepting.await;
        }
    }

    /// Accepts connections, at the same port.
    pub(crate) fn accept(&self) {
        let mut accepting = self.accepting.lock().unwrap();
        if accepting.is_none() {
            let listener = bound(self.address).and_then(|socket| socket.listen(1024)).unwrap();
            *accepting = Some(tokio::spawn(accept_all(listener, Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.get_mut().unwrap().take() {
            accepting.abort();
        }
        let mut tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap());
        tasks.reap();
        assert!(!tasks.panicked || std::thread::panicking(), "a script panicked");
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files: there will be fewer.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let number = shared.dials.borrow().len();
        shared.dials.send_modify(|dials| dials.push(Instant::now()));
        let task = (shared.serve)(stream, number);
        let mut tasks = shared.tasks.lock().unwrap();
        tasks.reap();
        tasks.set.spawn(async move { drop(task.await) });
    }
}

/// Ends the stream with a reset.
pub(super) fn reset(stream: TcpStream) -> io::Result<()> {
    stream.set_zero_linger()?;
    drop(stream);
    Ok(())
}

/// Ends the stream with a FIN, and reads what still comes: to close a socket before everything was read is a reset.
pub(super) async fn finish(mut stream: TcpStream) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::support::{soon, until};

    #[tokio::test]
    async fn a_port_refuses_and_accepts_again_and_keeps_what_it_accepted() {
        let port = Port::open(|stream, number| async move {
            stream.writable().await?;
            stream.try_write(&[u8::try_from(number).unwrap()])?;
            std::future::pending().await
        });
        let mut first = TcpStream::connect(port.address()).await.unwrap();
        soon(port.dialed(1)).await;
        for round in 1..20 {
            port.refuse().await;
            let error = TcpStream::connect(port.address()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            port.accept();
            let mut stream = TcpStream::connect(port.address()).await.unwrap();
            assert_eq!(usize::from(soon(stream.read_u8()).await.unwrap()), round);
        }
        assert_eq!(soon(first.read_u8()).await.unwrap(), 0);
        assert_eq!(port.dialed_at().len(), 20);
    }

    #[tokio::test]
    async fn nothing_of_a_port_outlives_it() {
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.num_alive_tasks();
        let port = Port::open(|stream, _| async move {
            let _kept = stream;
            std::future::pending().await
        });
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        soon(port.dialed(1)).await;
        let address = port.address();
        drop(port);
        assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
        until(|| metrics.num_alive_tasks() <= before).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a script panicked")]
    async fn a_script_that_panics_fails_the_test() {
        let port = Port::open(|_, _| async { panic!("on purpose") });
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
    }
}
