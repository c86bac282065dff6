//! A TCP proxy with faults that a test sets while it runs.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::port::{self, Port};

/// What happens to the bytes of one direction. It is plain data, so that a test can choose it at random.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    /// Every piece waits so long before it goes on.
    pub(crate) latency: Duration,
    /// Bytes per second.
    pub(crate) rate: Option<u32>,
    /// The most bytes that are written at once.
    pub(crate) slice: Option<usize>,
    /// How each connection ends after so many bytes, counted since the lane was last changed.
    pub(crate) limit: Option<(usize, End)>,
    /// Nothing is read or written, not even an end.
    pub(crate) stalled: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN to both sides, and nothing goes on.
    Fin,
    /// RST to both sides.
    Rst,
    /// FIN to where the lane leads, which gets no more of what still comes. The other lane goes on.
    HalfClose,
}

/// A proxy in front of one address. It ends when it is dropped, and its connections with it.
pub(crate) struct Proxy {
    port: Port,
    controls: Arc<Controls>,
}

#[derive(Debug)]
struct Controls {
    target: Mutex<SocketAddr>,
    up: watch::Sender<Lane>,
    down: watch::Sender<Lane>,
    cut: watch::Sender<End>,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), target)
    }

    /// The same, at an address of the caller's choice.
    pub(crate) fn at(address: SocketAddr, target: SocketAddr) -> Self {
        let (up, down, cut) = (watch::Sender::default(), watch::Sender::default(), watch::Sender::new(End::Fin));
        let controls = Arc::new(Controls { target: Mutex::new(target), up, down, cut });
        let port = Port::open_at(address, {
            let controls = Arc::clone(&controls);
            move |stream, _| connection(stream, Arc::clone(&controls))
        });
        Self { port, controls }
    }

    /// Changes what happens from clients to the target.
    pub(crate) fn up(&self, change: impl FnOnce(&mut Lane)) {
        self.controls.up.send_modify(change);
    }

    /// Changes what happens from the target to clients.
    pub(crate) fn down(&self, change: impl FnOnce(&mut Lane)) {
        self.controls.down.send_modify(change);
    }

    /// Changes what happens in both directions.
    pub(crate) fn both(&self, change: impl Fn(&mut Lane)) {
        self.up(&change);
        self.down(&change);
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.both(|lane| *lane = Lane::default());
    }

    /// Ends every connection that there is now, stalled or not.
    pub(crate) fn cut(&self, end: End) {
        self.controls.cut.send_replace(end);
    }

    /// Sends the connections to come elsewhere.
    pub(crate) fn target(&self, target: SocketAddr) {
        *self.controls.target.lock().unwrap() = target;
    }
}

/// For the rest: where it is, how many connections it accepted, to refuse and to accept.
impl Deref for Proxy {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

async fn connection(mut client: TcpStream, controls: Arc<Controls>) -> io::Result<()> {
    let mut cut = controls.cut.subscribe();
    let target = *controls.target.lock().unwrap();
    let Ok(mut server) = TcpStream::connect(target).await else { return port::reset(client) };
    server.set_nodelay(true)?;
    let end = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = forward(from_client, to_server, controls.up.subscribe());
        let down = forward(from_server, to_client, controls.down.subscribe());
        tokio::select! {
            forwarded = async { tokio::try_join!(up, down) } => forwarded.err(),
            _ = cut.changed() => Some(*cut.borrow()),
        }
    };
    match end {
        // Both ways were closed.
        None => Ok(()),
        Some(End::Rst) => port::reset(client).and(port::reset(server)),
        Some(End::Fin | End::HalfClose) => tokio::try_join!(port::finish(client), port::finish(server)).map(drop),
    }
}

/// Forwards bytes one way, until that way is closed. An error is how the whole connection ends.
async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut lane: watch::Receiver<Lane>) -> Result<(), End> {
    let mut buffer = vec![0; 64 * 1024];
    // What is read and not yet written, and how much was written since the lane was changed.
    let (mut waiting, mut forwarded) = (0..0, 0);
    loop {
        if lane.has_changed().unwrap_or(false) {
            forwarded = 0;
        }
        let Lane { latency, rate, slice, limit, stalled } = lane.borrow_and_update().clone();
        let left = limit.map_or(usize::MAX, |(bytes, _)| bytes.saturating_sub(forwarded));
        if let (0, Some((_, end))) = (left, limit) {
            if end == End::HalfClose {
                to.shutdown().await.map_err(|_| End::Rst)?;
                let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
                return Ok(());
            }
            return Err(end);
        }
        if stalled {
            lane.changed().await.unwrap();
            lane.mark_changed();
        } else if waiting.is_empty() {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.map_err(|_| End::Rst)?,
                _ = lane.changed() => { lane.mark_changed(); continue }
            };
            if read == 0 {
                return to.shutdown().await.map_err(|_| End::Rst);
            }
            waiting = 0..read;
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
        } else {
            // At a rate, a tenth of a second's bytes at once.
            let at_once = rate.map_or(usize::MAX, |rate| (rate as usize / 10).max(1));
            let length = waiting.len().min(left).min(at_once).min(slice.unwrap_or(usize::MAX).max(1));
            let piece = &buffer[waiting.start..waiting.start + length];
            to.write_all(piece).await.map_err(|_| End::Rst)?;
            (waiting.start, forwarded) = (waiting.start + length, forwarded + length);
            if let Some(rate) = rate {
                tokio::time::sleep(Duration::from_secs(1) * u32::try_from(length).unwrap() / rate).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::support::{soon, until};

    /// A connection through the proxy, and its other end.
    async fn through(proxy: &Proxy, target: &TcpListener) -> (TcpStream, TcpStream) {
        let (near, far) = soon(async { tokio::join!(TcpStream::connect(proxy.address()), target.accept()) }).await;
        (near.unwrap(), far.unwrap().0)
    }

    async fn start() -> (Proxy, TcpListener) {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Proxy::to(target.local_addr().unwrap()), target)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
        from.write_all(text.as_bytes()).await.unwrap();
        let mut heard = vec![0; text.len()];
        soon(to.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, text.as_bytes());
    }

    async fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        soon(stream.read_to_end(&mut rest)).await.map(|_| rest)
    }

    #[tokio::test]
    async fn bytes_and_half_closes_pass_both_ways() {
        let (proxy, target) = start().await;
        let (mut near, mut far) = through(&proxy, &target).await;
        says(&mut near, &mut far, "there").await;
        near.shutdown().await.unwrap();
        assert_eq!(rest(&mut far).await.unwrap(), b"");
        says(&mut far, &mut near, "back").await;
        drop(far);
        assert_eq!(rest(&mut near).await.unwrap(), b"");
        assert_eq!(proxy.dials(), 1);
    }

    #[tokio::test]
    async fn a_limit_lets_exactly_so_many_bytes_through_on_a_connection_in_use_too() {
        let (proxy, target) = start().await;
        for end in [End::Fin, End::Rst, End::HalfClose] {
            let (mut near, mut far) = through(&proxy, &target).await;
            says(&mut near, &mut far, "before").await;
            proxy.up(|lane| lane.limit = Some((4, end)));
            near.write_all(b"after it").await.unwrap();
            let mut heard = [0; 4];
            soon(far.read_exact(&mut heard)).await.unwrap();
            assert_eq!(&heard, b"afte");
            let reset = rest(&mut far).await.map_err(|error| error.kind());
            assert_eq!(reset, if end == End::Rst { Err(io::ErrorKind::ConnectionReset) } else { Ok(Vec::new()) });
            if end == End::HalfClose {
                says(&mut far, &mut near, "still").await;
                far.shutdown().await.unwrap();
            }
            assert_eq!(rest(&mut near).await.map_err(|error| error.kind()), reset);
            proxy.heal();
        }
    }

    #[tokio::test]
    async fn a_stalled_lane_keeps_its_bytes_until_it_is_healed_while_the_other_goes_on() {
        let (proxy, target) = start().await;
        let (mut near, mut far) = through(&proxy, &target).await;
        says(&mut near, &mut far, "before").await;
        proxy.up(|lane| lane.stalled = true);
        near.write_all(b"kept").await.unwrap();
        for _ in 0..50 {
            says(&mut far, &mut near, "meanwhile").await;
        }
        assert_eq!(far.try_read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        proxy.heal();
        let mut heard = [0; 4];
        soon(far.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"kept");
    }

    #[tokio::test]
    async fn latency_and_rate_take_their_time_and_slices_arrive_whole() {
        let (proxy, target) = start().await;
        let (mut near, mut far) = through(&proxy, &target).await;
        let started = Instant::now();
        proxy.both(|lane| lane.latency = Duration::from_millis(30));
        says(&mut near, &mut far, "there").await;
        says(&mut far, &mut near, "back").await;
        assert!(started.elapsed() >= Duration::from_millis(60));

        proxy.both(|lane| *lane = Lane { rate: Some(1000), ..Lane::default() });
        let started = Instant::now();
        says(&mut near, &mut far, &"x".repeat(101)).await;
        assert!(started.elapsed() >= Duration::from_millis(100));

        proxy.both(|lane| *lane = Lane { slice: Some(1), ..Lane::default() });
        says(&mut near, &mut far, &"0123456789".repeat(100)).await;
    }

    #[tokio::test]
    async fn all_connections_are_cut_at_once_even_stalled_ones_and_later_ones_are_not() {
        let (proxy, target) = start().await;
        for (end, reset) in [(End::Rst, true), (End::Fin, false)] {
            let (mut near, mut far) = through(&proxy, &target).await;
            says(&mut near, &mut far, "before").await;
            proxy.both(|lane| lane.stalled = true);
            proxy.cut(end);
            assert_eq!(rest(&mut near).await.is_err(), reset);
            assert_eq!(rest(&mut far).await.is_err(), reset);
            proxy.heal();
            let (mut near, mut far) = through(&proxy, &target).await;
            says(&mut near, &mut far, "after").await;
        }
    }

    #[tokio::test]
    async fn a_proxy_refuses_accepts_and_is_redirected_while_its_connections_go_on() {
        let (proxy, target) = start().await;
        let (mut near, mut far) = through(&proxy, &target).await;
        says(&mut near, &mut far, "before").await;
        proxy.refuse().await;
        assert_eq!(TcpStream::connect(proxy.address()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.target(elsewhere.local_addr().unwrap());
        proxy.accept();
        let (mut new_near, mut new_far) = through(&proxy, &elsewhere).await;
        says(&mut new_near, &mut new_far, "elsewhere").await;
        says(&mut near, &mut far, "still").await;

        // A target that is gone resets.
        drop(elsewhere);
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        rest(&mut near).await.unwrap_err();
    }

    #[tokio::test]
    async fn nothing_of_a_proxy_outlives_it() {
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.num_alive_tasks();
        let (proxy, target) = start().await;
        let (mut near, mut far) = through(&proxy, &target).await;
        says(&mut near, &mut far, "before").await;
        drop(proxy);
        assert_eq!(rest(&mut near).await.unwrap(), b"");
        assert_eq!(rest(&mut far).await.unwrap(), b"");
        until(|| metrics.num_alive_tasks() <= before).await;
    }
}
