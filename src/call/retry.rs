//! Whether, when and how often a failed call is repeated.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::FOREVER;
use crate::config::retry::{Retry, RetryEvent};
use crate::error::{Error, ErrorKind, Outcome, RetryAfter};
use crate::transport::backoff;
use crate::wire::body::BodySize;

/// The latest start of a retry after an attempt of unknown outcome, counted from the first attempt. A server keeps idempotency
/// keys for 300 s; later the call would take effect again.
const LATEST_REPEAT: Duration = Duration::from_secs(240);
/// The latest end of such a retry.
pub(crate) const LATEST_REPEAT_END: Duration = Duration::from_secs(290);
/// The slowest connection that an attempt allows for: 2 Mbit/s.
const BYTES_PER_SECOND: usize = 256 << 10;
/// The time allowed for a channel of a broadcast or a command of a batch. Measured: 300,000 channels take 4.1 s, 14 µs each, on
/// two cores that the client shares.
const TIME_PER_CHANNEL: Duration = Duration::from_micros(50);
/// How far a server's hint may extend the backoff.
const LONGEST_HINT: Duration = Duration::from_secs(5);

impl Retry {
    /// The deadline of an attempt that begins now, after `failed` others, with a body of this size.
    pub(crate) fn attempt_deadline(
        &self,
        failed: u32,
        repeatable: bool,
        size: BodySize,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        let another = repeatable && failed < self.attempts - 1;
        let timeout = self.attempt_timeout.filter(|_| another).map(|timeout| timeout.saturating_add(extra_time(size)));
        let attempt = timeout.and_then(|timeout| now.checked_add(timeout));
        match (attempt, deadline) {
            (Some(attempt), Some(deadline)) => Some(attempt.min(deadline)),
            (attempt, deadline) => attempt.or(deadline),
        }
    }

    /// Whether an attempt with this error is not counted, because `wait_for_ready` is set and the server was unreachable.
    pub(crate) fn is_uncounted(&self, error: &Error) -> bool {
        self.wait_for_ready && error.kind() == ErrorKind::Connect && error.outcome() == Outcome::NotSent
    }

    /// Whether another attempt is allowed after `counted` attempts, the last of which failed with `error`.
    pub(crate) fn allows(&self, counted: u32, error: &Error) -> bool {
        counted < self.attempts || self.is_uncounted(error)
    }

    /// Decides whether there is another attempt, and how long to wait before it.
    pub(crate) fn next(&self, failed: &Failed<'_>, budget: &Budget) -> Next {
        let Failed { error, attempt, counted, repeatable, started, now, deadline, .. } = *failed;
        if !error.is_transient() || error.hint() == Some(RetryAfter::Never) {
            return Next::Stop;
        }
        let uncounted = self.is_uncounted(error);
        if !self.allows(counted, error) || (failed.may_have_run && !repeatable) {
            return Next::Stop;
        }
        let backoff = backoff::retry(attempt, self.first, self.longest);
        let wait = match error.hint() {
            Some(RetryAfter::Wait(hint)) => hint.clamp(backoff, backoff.saturating_add(LONGEST_HINT)),
            Some(RetryAfter::Never) | None => backoff,
        };
        // A wait of years ends the call even without a deadline.
        let Some(next) = now.checked_add(wait).filter(|_| wait < FOREVER) else { return Next::Stop };
        let keys_end = failed.may_have_run.then(|| started + LATEST_REPEAT);
        if deadline.is_some_and(|deadline| next >= deadline) || keys_end.is_some_and(|end| next >= end) {
            return Next::Stop;
        }
        if !uncounted && !budget.spend(error) {
            return Next::NoBudget;
        }
        if let Some(observer) = &self.observer {
            observer(&RetryEvent { method: failed.method, attempt, error, wait });
        }
        Next::After(wait)
    }
}

/// The extra time for a large request, so that an attempt that is only slow does not time out.
fn extra_time(BodySize { bytes, channels }: BodySize) -> Duration {
    let seconds = bytes / BYTES_PER_SECOND;
    let channels = u32::try_from(channels).unwrap_or(u32::MAX);
    Duration::from_secs(seconds as u64).saturating_add(TIME_PER_CHANNEL.saturating_mul(channels))
}

/// A call whose latest attempt failed.
pub(crate) struct Failed<'a> {
    pub(crate) method: &'a str,
    pub(crate) error: &'a Error,
    /// Whether this attempt or an earlier one may have taken effect.
    pub(crate) may_have_run: bool,
    /// The attempts so far, and those of them that count against `Retry::attempts`.
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
    /// Another attempt after this wait.
    After(Duration),
    Stop,
    /// The retry budget is exhausted.
    NoBudget,
}

/// The retry budget of a client: bounds retries in proportion to successful calls.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Budget {
    const FULL: u32 = 500;
    /// The price of a retry, and that of one after a refusal for overload, which is usually short.
    const REPEAT: u32 = 14;
    const REPEAT_REFUSED: u32 = 5;

    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(Self::FULL))
    }

    /// Counts a call that succeeded at its first attempt.
    pub(crate) fn earn(&self) {
        // Usually it is full, so the common path only reads.
        if self.0.load(Ordering::Relaxed) < Self::FULL {
            let _ =
                self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < Self::FULL).then(|| now + 1));
        }
    }

    /// Pays for a retry. Whether there was enough.
    pub(crate) fn spend(&self, error: &Error) -> bool {
        let price = if error.is_overload() { Self::REPEAT_REFUSED } else { Self::REPEAT };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_sub(price)).is_ok()
    }
}

#[cfg(test)]
mod tests;
