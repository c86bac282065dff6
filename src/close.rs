//! The end of a client: no new calls, and an end for those that run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Outcome};

/// How long calls that were cut off may take to say how they ended. Those that nobody polls never do.
const GRACE: Duration = Duration::from_millis(20);

/// How the calls ended that were running when [`Client::close`](crate::Client::close) was called.
///
/// ```
/// # use centrifugo_api::Closed;
/// # fn f(closed: Closed) {
/// if closed.unknown > 0 {
///     eprintln!("{} calls may or may not have been carried out", closed.unknown);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Those that were carried out.
    pub done: u64,
    /// Those that were answered and not carried out.
    pub refused: u64,
    /// Those that never reached the server.
    pub not_sent: u64,
    /// Those of which nobody on this side knows: cut off after they were sent, or dropped by their callers.
    pub unknown: u64,
}

/// Counts the calls that run, and lets no more begin once it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    running: AtomicU64,
    closed: AtomicBool,
    cut: AtomicBool,
    /// Woken when the last call ends, and when calls are cut off.
    turned: Notify,
    done: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    gate: &'a Gate,
    end: Option<Outcome>,
}

impl Gate {
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        // Counted first and asked after, so that whoever closes the gate in between sees the call.
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.leave();
            return Err(Error::new(ErrorKind::Closed, "the client was closed before the call"));
        }
        Ok(Running { gate: self, end: None })
    }

    fn leave(&self) {
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 && self.closed.load(Ordering::SeqCst) {
            self.turned.notify_waiters();
        }
    }

    /// Ends when running calls are to be cut off.
    pub(crate) async fn cut(&self) {
        self.turned_when(|| self.cut.load(Ordering::SeqCst)).await;
    }

    async fn turned_when(&self, is_so: impl Fn() -> bool) {
        loop {
            let turned = self.turned.notified();
            if is_so() {
                return;
            }
            turned.await;
        }
    }

    pub(crate) async fn close(&self, timeout: Duration) -> Closed {
        self.closed.store(true, Ordering::SeqCst);
        let ended = || self.turned_when(|| self.running.load(Ordering::SeqCst) == 0);
        let patience = Instant::now().checked_add(timeout);
        let in_time = if let Some(until) = patience {
            tokio::time::timeout_at(until, ended()).await.is_ok()
        } else {
            ended().await;
            true
        };
        if !in_time {
            self.cut.store(true, Ordering::SeqCst);
            self.turned.notify_waiters();
            // Whether they all do or not, it ends here.
            let _ = tokio::time::timeout(GRACE, ended()).await;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Closed {
            done: count(&self.done),
            refused: count(&self.refused),
            not_sent: count(&self.not_sent),
            unknown: count(&self.unknown) + count(&self.running),
        }
    }
}

impl Running<'_> {
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.end = Some(outcome);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let gate = self.gate;
        if gate.closed.load(Ordering::SeqCst) {
            let counter = match self.end {
                Some(Outcome::Done) => &gate.done,
                Some(Outcome::Refused) => &gate.refused,
                Some(Outcome::NotSent) => &gate.not_sent,
                Some(Outcome::Unknown) | None => &gate.unknown,
            };
            counter.fetch_add(1, Ordering::SeqCst);
        }
        gate.leave();
    }
}
