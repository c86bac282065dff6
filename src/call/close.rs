//! The end of a client: no new calls, and an end for those that run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::Mutex;
use crate::sync::cancel::wait_until;

/// How long calls that were cut off may take to say how they ended. Those that nobody polls never do.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// How calls ended: those that were running when [`Client::close`](crate::Client::close) was called.
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
    /// Those of which nobody on this side knows: cut off after they were sent, or dropped by their callers.
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

/// Counts the calls that run, and lets no more begin once it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    lanes: [Lane; LANES],
    cut: AtomicBool,
    /// Woken when the last call of a lane ends.
    turned: Notify,
    /// How the calls ended that ran when it was closed. Locked while one of them leaves, so that each is counted once.
    ended: Mutex<CloseSummary>,
}

const LANES: usize = 16;
const CLOSED: u64 = 1;
const CALL: u64 = 2;

/// A part of the calls. Threads have lanes of their own, more or less, and so do not wait for each other's memory.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    /// [`CALL`] for each call that runs, and [`CLOSED`]. In one, so that the calls that run when it is closed are certain.
    state: AtomicU64,
    /// Woken when calls are cut off.
    cut: Notify,
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
    end: Option<Outcome>,
}

impl Gate {
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        let one_more = |state| (state & CLOSED == 0).then_some(state + CALL);
        let lane = &self.lanes[lane()];
        match lane.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(Running { gate: self, lane, end: None }),
            Err(_) => Err(Error::new(ErrorKind::Closed, "the client was closed before the call")),
        }
    }

    fn leave(&self, lane: &Lane, end: Option<Outcome>) {
        let one_less = |state| (state & CLOSED == 0).then(|| state - CALL);
        if lane.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return;
        }
        let mut ended = self.ended.lock();
        ended.count(end.unwrap_or(Outcome::Unknown));
        if lane.state.fetch_sub(CALL, Ordering::SeqCst) == CALL | CLOSED {
            self.turned.notify_waiters();
        }
    }

    fn running(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.state.load(Ordering::SeqCst) / CALL).sum()
    }

    /// Whether running calls are to be cut off.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Ends when running calls are to be cut off.
    pub(crate) async fn cancelled(&self) {
        wait_until(&self.lanes[lane()].cut, || self.is_cancelled()).await;
    }

    pub(crate) async fn close(&self, timeout: Duration) -> CloseSummary {
        for lane in &self.lanes {
            lane.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        let ended = || wait_until(&self.turned, || self.running() == 0);
        let patience = Instant::now().checked_add(timeout);
        let in_time = if let Some(until) = patience {
            tokio::time::timeout_at(until, ended()).await.is_ok()
        } else {
            ended().await;
            true
        };
        if !in_time {
            self.cut.store(true, Ordering::SeqCst);
            self.lanes.iter().for_each(|lane| lane.cut.notify_waiters());
            // Whether they all do or not, it ends here.
            let _ = tokio::time::timeout(GRACE, ended()).await;
        }
        let ended = self.ended.lock();
        CloseSummary { unknown: ended.unknown + self.running(), ..*ended }
    }
}

impl Running<'_> {
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.end = Some(outcome);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.lane, self.end);
    }
}

#[cfg(test)]
mod tests;
