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
/// h2 gives a connection up, with all calls on it, after this many calls that ended as errors of its own. Its default,
/// 1,024, is a busy minute.
const MAX_DROPPED_CALLS: u32 = 65_536;
/// With so many calls in flight it pays to write later and more at once: a third of the CPU with 64 of them. Fewer would only
/// wait.
const MANY: usize = 8;
/// How much of one response the server may send ahead of its reader: a history of that many bytes takes one round trip. h2's
/// default, the protocol's, is 64 KiB, with which one over 50 ms would come at 1 MiB a second.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same of all responses on a connection, so that a few whose callers are slow to read do not hold up the others.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// The longest headers or trailers of a response: twice what a server puts into them with an error of the API. It bounds the
/// memory that a peer can use here; h2's default is 16 MiB.
const MAX_HEADERS: u32 = 16 << 10;

/// The memory for responses that have arrived and are not read yet, as h2 counts it: 256 bytes for each that is short. Beyond
/// that h2 gives the connection up, with all calls on it. Its default, half the window, is what 10,000 calls take whose
/// responses come together.
const UNREAD_RESPONSES: usize = 64 << 20;

/// Greets the server as a client. What is returned is the way to the connection, and the connection, which is to be
/// [driven](drive).
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

/// What is known of a connection besides what h2 knows.
#[derive(Debug)]
pub(super) struct Record {
    began: Instant,
    /// When anything arrived last, in milliseconds since `began`.
    heard: AtomicU64,
    /// Calls that have begun and not ended.
    open: AtomicUsize,
    /// Calls that their callers dropped.
    dropped: AtomicU32,
    retired: AtomicBool,
}

impl Record {
    pub(super) fn new() -> Self {
        let (heard, open, dropped, retired) = <_>::default();
        Self { began: Instant::now(), heard, open, dropped, retired }
    }

    /// Records that something arrived.
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

    /// Counts a call that its caller dropped, and retires the connection long before that could harm it.
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
    pub(super) fn asks_for_calm(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    }
}

/// Retires the connection when it takes no more calls, however that comes about.
struct Retires(Arc<Record>);

impl Drop for Retires {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// Reads and writes, until the connection has ended, or nothing is left that could make a call on it.
///
/// However this ends, dropped with its runtime too, h2 tells every call that waits.
pub(super) async fn drive<I>(
    mut connection: Connection<I, Bytes>,
    record: Arc<Record>,
    keepalive: Option<Duration>,
) -> Result<(), Lost>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (_retires, calls) = (Retires(Arc::clone(&record)), Arc::clone(&record));
    let pings = connection.ping_pong();
    let mut silence = pin!(async move {
        match (pings, keepalive) {
            (Some(pings), Some(interval)) => silence(pings, &record, interval).await,
            _ => std::future::pending().await,
        }
    });
    let mut connection = pin!(connection);
    let mut has_yielded = false;
    poll_fn(|cx| {
        // Callers that are ready get to add their frames, so that all go out in one write.
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
    .await
}

/// Ends when the server has not acknowledged a keepalive ping while calls were in flight. To be polled with the connection.
async fn silence(mut pings: PingPong, record: &Record, interval: Duration) {
    loop {
        let due = record.heard() + interval;
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
            continue;
        }
        // The connection is polled for every call that begins, and this with it.
        poll_fn(|_| if record.open() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
        // It fails if the connection has ended, which is noticed elsewhere.
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
    async fn a_connection_is_retired_long_before_dropped_calls_could_harm_it() {
        let record = Record::new();
        (0..MAX_DROPPED_CALLS / 2).for_each(|_| record.dropped_call());
        assert!(!record.is_retired());
        record.dropped_call();
        assert!(record.is_retired());
    }
}
