//! Closing a client: refuses new calls, waits for those in flight, cancels what is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::{Cancel, wait_until};

/// How long calls that were cancelled may take to end. Those that are not polled never do.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// How calls ended: all calls of a client, or all messages of a publisher, since it was made.
///
/// ```
/// # use centrifugo_api::CloseSummary;
/// # fn f(closed: CloseSummary) {
/// if closed.unknown > 0 {
///     eprintln!("{} calls may or may not have taken effect", closed.unknown);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseSummary {
    /// Those that took effect.
    pub done: u64,
    /// Those that the server refused.
    pub refused: u64,
    /// Those that never reached the server.
    pub not_sent: u64,
    /// Those whose outcome is unknown: cancelled after they were sent, or dropped by their callers.
    pub unknown: u64,
}

impl CloseSummary {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Done => &mut self.done,
            Outcome::Refused => &mut self.refused,
            Outcome::NotSent => &mut self.not_sent,
            Outcome::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// Counts calls, and lets no more begin once it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// [`CALL`] for each call that began, and [`CLOSED`]. In one, so that the calls that began before it was closed are certain.
    begun: AtomicU64,
    /// How many ended in each way.
    done: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
    /// Set when calls are cancelled.
    cancel: Cancel,
    /// Woken when a call ends after it was closed.
    ended: Notify,
}

const CLOSED: u64 = 1;
const CALL: u64 = 2;

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    gate: &'a Gate,
    end: Outcome,
}

impl Gate {
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        let one_more = |state| (state & CLOSED == 0).then_some(state + CALL);
        match self.begun.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(Running { gate: self, end: Outcome::Unknown }),
            Err(_) => Err(Error::new(ErrorKind::Closed, "the client was closed before the call")),
        }
    }

    /// How the calls ended that are over, and how many are not. Exact once it is closed.
    fn totals(&self) -> (CloseSummary, u64) {
        let totals = CloseSummary {
            done: self.done.load(Ordering::SeqCst),
            refused: self.refused.load(Ordering::SeqCst),
            not_sent: self.not_sent.load(Ordering::SeqCst),
            unknown: self.unknown.load(Ordering::SeqCst),
        };
        // Read last: a call that has ended has begun.
        let begun = self.begun.load(Ordering::SeqCst) / CALL;
        (totals, begun - totals.done - totals.refused - totals.not_sent - totals.unknown)
    }

    /// The signal that calls are cancelled.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    pub(crate) async fn close(&self, timeout: Duration) -> CloseSummary {
        self.begun.fetch_or(CLOSED, Ordering::SeqCst);
        let idle = || wait_until(&self.ended, || self.totals().1 == 0);
        let in_time = if let Some(until) = Instant::now().checked_add(timeout) {
            tokio::time::timeout_at(until, idle()).await.is_ok()
        } else {
            idle().await;
            true
        };
        if !in_time {
            self.cancel.set();
            // Whether they all end or not, it ends here.
            let _ = tokio::time::timeout(GRACE, idle()).await;
        }
        let (totals, running) = self.totals();
        CloseSummary { unknown: totals.unknown + running, ..totals }
    }
}

impl Running<'_> {
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.end = outcome;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let gate = self.gate;
        let ended = match self.end {
            Outcome::Done => &gate.done,
            Outcome::Refused => &gate.refused,
            Outcome::NotSent => &gate.not_sent,
            Outcome::Unknown => &gate.unknown,
        };
        ended.fetch_add(1, Ordering::SeqCst);
        if gate.begun.load(Ordering::SeqCst) & CLOSED != 0 {
            gate.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
