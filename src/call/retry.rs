//! Whether, when and how often a failed call is repeated.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::FOREVER;
use crate::config::retry::{Retry, RetryEvent};
use crate::error::{Error, ErrorKind, Outcome, RetryAfter};
use crate::transport::backoff;
use crate::wire::body::BodySize;

/// A server keeps idempotency keys for 300 s from when it first saw them. Later the call would take effect again, so
/// repeats end well before.
const KEYS_LAST: Duration = Duration::from_secs(240);
/// How long one that has begun by then may take.
pub(crate) const LAST_REPEAT: Duration = Duration::from_secs(290);
/// The slowest connection that an attempt waits for: 2 Mbit/s.
const BYTES_A_SECOND: usize = 256 << 10;
/// What a channel of a broadcast, or a command of a batch, may take the server: one with 300,000 takes 4.1 s, 14 µs each, on two
/// cores that the client shares.
const A_CHANNEL: Duration = Duration::from_micros(50);
/// How much longer than the backoff a server can make a caller wait.
const LONGEST_HINT: Duration = Duration::from_secs(5);

impl Retry {
    /// When an attempt that begins now ends, given the number of those before it and what is sent.
    pub(crate) fn attempt_deadline(
        &self,
        failed: u32,
        repeatable: bool,
        size: BodySize,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        let another = repeatable && failed < self.attempts - 1;
        let timeout = self.attempt_timeout.filter(|_| another).map(|timeout| timeout.saturating_add(time_for(size)));
        let attempt = timeout.and_then(|timeout| now.checked_add(timeout));
        match (attempt, deadline) {
            (Some(attempt), Some(deadline)) => Some(attempt.min(deadline)),
            (attempt, deadline) => attempt.or(deadline),
        }
    }

    /// Whether an attempt that failed so only waited for the server to be there.
    pub(crate) fn waits_for(&self, error: &Error) -> bool {
        self.wait_for_ready && error.kind() == ErrorKind::Connect && error.outcome() == Outcome::NotSent
    }

    /// Whether there may be another attempt after so many that count, the last of which failed so.
    pub(crate) fn allows(&self, counted: u32, error: &Error) -> bool {
        counted < self.attempts || self.waits_for(error)
    }

    /// How long to wait before the next attempt of a call, if there is to be one.
    pub(crate) fn next(&self, failed: &Failed<'_>, budget: &Budget) -> Next {
        let Failed { error, attempt, counted, repeatable, started, now, deadline, .. } = *failed;
        if !error.is_transient() || error.hint() == Some(RetryAfter::Never) {
            return Next::Stop;
        }
        let waits = self.waits_for(error);
        if !self.allows(counted, error) || (failed.may_have_run && !repeatable) {
            return Next::Stop;
        }
        let backoff = backoff::retry(attempt, self.first, self.longest);
        let wait = match error.hint() {
            Some(RetryAfter::Wait(hint)) => hint.clamp(backoff, backoff.saturating_add(LONGEST_HINT)),
            Some(RetryAfter::Never) | None => backoff,
        };
        // Nothing comes of a wait of years, even without a deadline.
        let Some(next) = now.checked_add(wait).filter(|_| wait < FOREVER) else { return Next::Stop };
        let keys_end = failed.may_have_run.then(|| started + KEYS_LAST);
        if deadline.is_some_and(|deadline| next >= deadline) || keys_end.is_some_and(|end| next >= end) {
            return Next::Stop;
        }
        if !waits && !budget.spend(error) {
            return Next::NoBudget;
        }
        if let Some(observer) = &self.observer {
            observer(&RetryEvent { method: failed.method, attempt, error, wait });
        }
        Next::After(wait)
    }
}

/// How much longer than a small request a large one may take, so that no attempt is given up while it is only slow.
fn time_for(BodySize { bytes, channels }: BodySize) -> Duration {
    let seconds = bytes / BYTES_A_SECOND;
    let channels = u32::try_from(channels).unwrap_or(u32::MAX);
    Duration::from_secs(seconds as u64).saturating_add(A_CHANNEL.saturating_mul(channels))
}

/// A call whose latest attempt failed.
pub(crate) struct Failed<'a> {
    pub(crate) method: &'a str,
    pub(crate) error: &'a Error,
    /// Whether this attempt or an earlier one may have taken effect.
    pub(crate) may_have_run: bool,
    /// The attempts so far, and those of them that count.
    pub(crate) attempt: u32,
    pub(crate) counted: u32,
    /// Whether the call may take effect twice.
    pub(crate) repeatable: bool,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another attempt, when this time has passed.
    After(Duration),
    Stop,
    /// The retry budget is exhausted.
    NoBudget,
}

/// The retry budget of a client: bounds repeats in proportion to calls that succeed, when everything fails.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Budget {
    const FULL: u32 = 500;
    /// The price of a repeat, and that of one after a refusal for overload, which is over quickly.
    const REPEAT: u32 = 14;
    const REPEAT_REFUSED: u32 = 5;

    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(Self::FULL))
    }

    /// Counts a call that succeeded at its first attempt.
    pub(crate) fn earn(&self) {
        // Usually it is full, and nothing is written.
        if self.0.load(Ordering::Relaxed) < Self::FULL {
            let _ =
                self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < Self::FULL).then(|| now + 1));
        }
    }

    /// Pays for a repeat, if there is enough.
    pub(crate) fn spend(&self, error: &Error) -> bool {
        let price = if error.is_overload() { Self::REPEAT_REFUSED } else { Self::REPEAT };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_sub(price)).is_ok()
    }
}

#[cfg(test)]
mod tests;
