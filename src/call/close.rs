//! Closing a client: refuses new calls, waits for those in flight, cancels what is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::{Cancel, wait_until};

/// How long cancelled calls may take to end. One whose future is not polled never ends.
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

/// Counts calls, and refuses new ones once it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// [`CALL`] for each call that began, and [`CLOSED`]. In one atomic, so that no call begins uncounted while it is closed.
    begun: AtomicU64,
    /// The number of ended calls by outcome.
    done: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
    /// Set when calls are cancelled.
    cancel: Cancel,
    /// Notified when a call ends after the gate was closed.
    ended: Notify,
}

const CLOSED: u64 = 1;
const CALL: u64 = 2;

/// A running call, counted with its outcome when it is dropped.
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

    /// The ended calls by outcome, and the number of running ones. Exact once the gate is closed.
    fn totals(&self) -> (CloseSummary, u64) {
        let totals = CloseSummary {
            done: self.done.load(Ordering::SeqCst),
            refused: self.refused.load(Ordering::SeqCst),
            not_sent: self.not_sent.load(Ordering::SeqCst),
            unknown: self.unknown.load(Ordering::SeqCst),
        };
        // Read last, so that it is never less than the number of ended calls. A call ends after it has begun.
        let begun = self.begun.load(Ordering::SeqCst) / CALL;
        (totals, begun - totals.done - totals.refused - totals.not_sent - totals.unknown)
    }

    /// The number of running calls.
    pub(crate) fn running(&self) -> u64 {
        self.totals().1
    }

    /// The signal that cancels running calls.
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
            // Calls that have not ended by then count as unknown.
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
