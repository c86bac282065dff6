//! The end of a client: no new calls, and an end for those that run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::wait_until;

/// How long calls that were cancelled may take to end. Those that nobody polls never do.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// How calls ended: all calls of a client, or all messages of a publisher, since it was made.
///
/// ```
/// # use centrifugo_api::CloseSummary;
/// # fn f(closed: CloseSummary) {
/// if closed.unknown > 0 {
///     eprintln!("{} calls may or may not have been carried out", closed.unknown);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseSummary {
    /// Those that were carried out.
    pub done: u64,
    /// Those that were answered and not carried out.
    pub refused: u64,
    /// Those that never reached the server.
    pub not_sent: u64,
    /// Those that may or may not have been carried out: cancelled after they were sent, or dropped by their callers.
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
    lanes: [Lane; LANES],
    is_cancelled: AtomicBool,
    /// Woken when a call ends after it was closed.
    ended: Notify,
}

const LANES: usize = 16;
const CLOSED: u64 = 1;
const CALL: u64 = 2;

/// A part of the calls. Threads have lanes of their own, more or less, and so do not wait for each other's memory.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    /// [`CALL`] for each call that began, and [`CLOSED`]. In one, so that the calls that began before it was closed are certain.
    begun: AtomicU64,
    /// How many ended in each way.
    done: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
    /// Woken when calls are cancelled.
    cancelled: Notify,
}

/// The lane of this thread.
fn lane() -> usize {
    thread_local! {
        static LANE: usize = fastrand::usize(..LANES);
    }
    LANE.with(|lane| *lane)
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    gate: &'a Gate,
    lane: &'a Lane,
    end: Outcome,
}

impl Gate {
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        let one_more = |state| (state & CLOSED == 0).then_some(state + CALL);
        let lane = &self.lanes[lane()];
        match lane.begun.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(Running { gate: self, lane, end: Outcome::Unknown }),
            Err(_) => Err(Error::new(ErrorKind::Closed, "the client was closed before the call")),
        }
    }

    /// How the calls ended that are over, and how many are not. Exact once it is closed.
    fn totals(&self) -> (CloseSummary, u64) {
        let sum = |number: fn(&Lane) -> &AtomicU64| -> u64 {
            self.lanes.iter().map(|lane| number(lane).load(Ordering::SeqCst)).sum()
        };
        let (done, refused) = (sum(|lane| &lane.done), sum(|lane| &lane.refused));
        let (not_sent, unknown) = (sum(|lane| &lane.not_sent), sum(|lane| &lane.unknown));
        let begun: u64 = self.lanes.iter().map(|lane| lane.begun.load(Ordering::SeqCst) / CALL).sum();
        let totals = CloseSummary { done, refused, not_sent, unknown };
        (totals, begun - done - refused - not_sent - unknown)
    }

    /// Whether running calls are to be cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    /// Ends when running calls are to be cancelled.
    pub(crate) async fn cancelled(&self) {
        wait_until(&self.lanes[lane()].cancelled, || self.is_cancelled()).await;
    }

    pub(crate) async fn close(&self, timeout: Duration) -> CloseSummary {
        for lane in &self.lanes {
            lane.begun.fetch_or(CLOSED, Ordering::SeqCst);
        }
        let idle = || wait_until(&self.ended, || self.totals().1 == 0);
        let in_time = if let Some(until) = Instant::now().checked_add(timeout) {
            tokio::time::timeout_at(until, idle()).await.is_ok()
        } else {
            idle().await;
            true
        };
        if !in_time {
            self.is_cancelled.store(true, Ordering::SeqCst);
            self.lanes.iter().for_each(|lane| lane.cancelled.notify_waiters());
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
        let lane = self.lane;
        let ended = match self.end {
            Outcome::Done => &lane.done,
            Outcome::Refused => &lane.refused,
            Outcome::NotSent => &lane.not_sent,
            Outcome::Unknown => &lane.unknown,
        };
        ended.fetch_add(1, Ordering::SeqCst);
        if lane.begun.load(Ordering::SeqCst) & CLOSED != 0 {
            self.gate.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
