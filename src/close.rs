//! The end of a client: no new calls, and an end for those that run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// How many calls run, and [`CLOSED`] besides once no other may begin.
    running: AtomicU64,
    cut: AtomicBool,
    /// Woken when the last call ends, and when calls are cut off.
    turned: Notify,
    /// How the calls ended that ran when the gate was closed.
    ended: Mutex<Closed>,
}

const CLOSED: u64 = 1 << 63;

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    gate: &'a Gate,
    end: Option<Outcome>,
}

impl Gate {
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        match self.while_open(|running| running + 1) {
            true => Ok(Running { gate: self, end: None }),
            false => Err(Error::new(ErrorKind::Closed, "the client was closed before the call")),
        }
    }

    fn leave(&self, end: Option<Outcome>) {
        if self.while_open(|running| running - 1) {
            return;
        }
        // Counted as ended and no more as running at once, for those who count both.
        let mut ended = self.ended();
        *match end {
            Some(Outcome::Done) => &mut ended.done,
            Some(Outcome::Refused) => &mut ended.refused,
            Some(Outcome::NotSent) => &mut ended.not_sent,
            Some(Outcome::Unknown) | None => &mut ended.unknown,
        } += 1;
        let before = self.running.fetch_sub(1, Ordering::SeqCst);
        drop(ended);
        if before == CLOSED + 1 {
            self.turned.notify_waiters();
        }
    }

    /// Changes how many calls run, unless the gate is closed. Whether it is not.
    fn while_open(&self, change: impl Fn(u64) -> u64) -> bool {
        let change = |running: u64| (running & CLOSED == 0).then(|| change(running));
        self.running.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    fn ended(&self) -> MutexGuard<'_, Closed> {
        // Whole between any two statements, so a panic elsewhere cannot have broken it.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.running.fetch_or(CLOSED, Ordering::SeqCst);
        let ended = || self.turned_when(|| self.running.load(Ordering::SeqCst) == CLOSED);
        let patience = Instant::now().checked_add(timeout);
        let in_time = match patience {
            Some(until) => tokio::time::timeout_at(until, ended()).await.is_ok(),
            None => {
                ended().await;
                true
            }
        };
        if !in_time {
            self.cut.store(true, Ordering::SeqCst);
            self.turned.notify_waiters();
            // Whether they all do or not, it ends here.
            let _ = tokio::time::timeout(GRACE, ended()).await;
        }
        let ended = self.ended();
        let running = self.running.load(Ordering::SeqCst) & !CLOSED;
        Closed { unknown: ended.unknown + running, ..*ended }
    }
}

impl Running<'_> {
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.end = Some(outcome);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.end);
    }
}
