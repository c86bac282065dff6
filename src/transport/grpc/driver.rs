//! The task of a connection: reads and writes for all its calls, and sends keepalive pings while there are any.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

/// How long the server may take to acknowledge a keepalive ping before the connection counts as dead.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// h2 closes a connection, with all its calls, after this many streams that it reset itself. Its default is 1,024, which callers
/// that drop calls reach within a minute.
const MAX_DROPPED_CALLS: u32 = 65_536;
/// From this many calls in flight on, yielding before a write saves CPU: a third with 64 calls. With fewer it only adds latency.
const MANY: usize = 8;
/// The receive window of a stream: a response of that size takes one round trip. h2's default, the protocol's, is 64 KiB, which
/// limits a response to 1 MiB/s at a round trip of 50 ms.
const STREAM_WINDOW: u32 = 2 << 20;
/// The receive window of a connection, larger so that a few slow readers do not block the others.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// The longest headers or trailers of a response. A server sends at most 8 KiB with an API error; proxies add cookies and policies. It
/// bounds the memory that a peer can use; h2's default is 16 MiB.
pub(super) const MAX_HEADERS: u32 = 64 << 10;

/// The memory for responses that are received and not read yet, as h2 counts it: 256 bytes for each short one. Beyond that h2
/// closes the connection, with all its calls. Its default, half the window, is reached by 10,000 simultaneous responses.
const UNREAD_RESPONSES: usize = 64 << 20;

/// Starts HTTP/2 as a client. Returns the sender of requests, and the connection, to be [driven](drive).
pub(super) async fn greet<I>(io: I) -> Result<(SendRequest<Bytes>, Connection<I, Bytes>), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    // Frames stay at the protocol's 16 KiB, so that others are sent between the frames of a long response.
    Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .data_frame_budget(UNREAD_RESPONSES)
        .max_local_error_reset_streams(Some(MAX_DROPPED_CALLS as usize))
        .handshake(io)
        .await
}

/// What is recorded of a connection, besides h2's own state.
#[derive(Debug)]
pub(super) struct Record {
    began: Instant,
    /// When bytes were last received, in milliseconds since `began`.
    heard: AtomicU64,
    /// Calls that have begun and not ended.
    open: AtomicUsize,
    /// Calls that their callers dropped.
    dropped: AtomicU32,
    retired: AtomicBool,
    /// Whether its task was dropped, because its runtime ended.
    lost_runtime: AtomicBool,
}

impl Record {
    pub(super) fn new() -> Self {
        let (heard, open, dropped, retired, lost_runtime) = <_>::default();
        Self { began: Instant::now(), heard, open, dropped, retired, lost_runtime }
    }

    /// Whether it ended with its runtime, which says nothing about the server.
    pub(super) fn has_lost_runtime(&self) -> bool {
        self.lost_runtime.load(Ordering::Relaxed)
    }

    /// Records that bytes were received.
    pub(super) fn hear(&self) {
        // Half a billion years fit.
        #[allow(clippy::cast_possible_truncation, reason = "as above")]
        self.heard.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// How many calls are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a call that begins. How many are open, with this one.
    pub(super) fn begin(&self) -> usize {
        self.open.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts the end of a call.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a call that its caller dropped, and retires the connection well before h2's limit.
    pub(super) fn dropped_call(&self) {
        if self.dropped.fetch_add(1, Ordering::Relaxed) >= MAX_DROPPED_CALLS / 2 {
            self.retire();
        }
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Gives the connection no more calls.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

/// Why a connection was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Failed(#[from] h2::Error),
    #[error("keepalive ping not acknowledged within {KEEPALIVE_TIMEOUT:?}")]
    Silent,
}

impl Lost {
    /// Whether the server ended the connection with `ENHANCE_YOUR_CALM`.
    pub(super) fn is_too_many_pings(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    }
}

/// Retires the connection when its task ends, or is dropped before that.
struct Retires {
    record: Arc<Record>,
    ended: bool,
}

impl Drop for Retires {
    fn drop(&mut self) {
        self.record.lost_runtime.store(!self.ended, Ordering::Relaxed);
        self.record.retire();
    }
}

/// Reads and writes, until the connection has ended or its last sender is dropped.
///
/// When this ends, or is dropped with its runtime, h2 fails every call on the connection.
pub(super) async fn drive<I>(
    mut connection: Connection<I, Bytes>,
    record: Arc<Record>,
    keepalive: Option<Duration>,
) -> Result<(), Lost>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (mut retires, calls) = (Retires { record: Arc::clone(&record), ended: false }, Arc::clone(&record));
    let pings = connection.ping_pong();
    let mut silence = pin!(async move {
        match (pings, keepalive) {
            (Some(pings), Some(interval)) => silence(pings, &record, interval).await,
            _ => std::future::pending().await,
        }
    });
    let mut connection = pin!(connection);
    let mut has_yielded = false;
    let ended = poll_fn(|cx| {
        // Yields once, so that ready callers add their frames to the same write.
        if !has_yielded && calls.open() >= MANY {
            has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        has_yielded = false;
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(Lost::from));
        }
        silence.as_mut().poll(cx).map(|()| Err(Lost::Silent))
    })
    .await;
    retires.ended = true;
    ended
}

/// Ends when the server has not acknowledged a keepalive ping while calls were in flight. Must be polled with the connection.
async fn silence(mut pings: PingPong, record: &Record, interval: Duration) {
    loop {
        let due = record.heard() + interval;
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
            continue;
        }
        // Every new call polls the connection, and this with it, so no waker is needed.
        poll_fn(|_| if record.open() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
        // Fails if the connection has ended, which `drive` handles.
        let asked = Instant::now();
        let _ = pings.send_ping(Ping::opaque());
        loop {
            let last = record.heard().max(asked);
            match timeout_at(last + KEEPALIVE_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await {
                Ok(_) => break,
                Err(_) if record.heard() > last => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_calls_retire_a_connection_well_before_the_limit() {
        let record = Record::new();
        (0..MAX_DROPPED_CALLS / 2).for_each(|_| record.dropped_call());
        assert!(!record.is_retired());
        record.dropped_call();
        assert!(record.is_retired());
    }
}
