//! Whether, when and how often a failed call is repeated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::FOREVER;
use crate::config::retry::{Retry, RetryEvent};
use crate::error::{Error, ErrorKind, Outcome, RetryAfter};
use crate::sync::Mutex;
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
    /// How long an attempt waits for its response before another may take its place, after `failed` others and with a body of this
    /// size. `None` for the last attempt, and where attempts have no limit.
    pub(crate) fn patience(&self, failed: u32, size: BodySize) -> Option<Duration> {
        let timeout = self.attempt_timeout.filter(|_| failed < self.attempts - 1);
        timeout.map(|timeout| timeout.saturating_add(extra_time(size)))
    }

    /// Whether an attempt with this patience takes no longer than most.
    pub(crate) fn is_usual(&self, patience: Duration) -> bool {
        self.attempt_timeout.is_some_and(|timeout| patience < timeout.saturating_add(Duration::from_secs(1)))
    }

    /// Whether an attempt with this error is not counted: it was only a wait for an endpoint's backoff, or `wait_for_ready` is set and
    /// the server was unreachable.
    pub(crate) fn is_uncounted(&self, error: &Error) -> bool {
        let unreachable = error.kind() == ErrorKind::Connect && error.outcome() == Outcome::NotSent;
        error.ready_at().is_some() || (self.wait_for_ready && unreachable)
    }

    pub(crate) fn waits_for_ready(&self) -> bool {
        self.wait_for_ready
    }

    /// Whether another attempt is allowed after `counted` attempts, the last of which failed with `error`.
    pub(crate) fn allows(&self, counted: u32, error: &Error) -> bool {
        counted < self.attempts || self.is_uncounted(error)
    }

    /// Decides whether there is another attempt, and how long to wait before it.
    pub(crate) fn next(&self, failed: &Failed<'_>, budget: &Budget) -> Next {
        let Failed { error, attempt, counted, repeatable, started, now, deadline, paid, .. } = *failed;
        if !error.is_transient() || error.hint() == Some(RetryAfter::Never) {
            return Next::Stop;
        }
        let uncounted = self.is_uncounted(error);
        if !self.allows(counted, error) || (failed.may_have_run && !repeatable) {
            return Next::Stop;
        }
        // A call fails at once in an outage that is known, unless it has tried to connect itself.
        if error.ready_at().is_some() && attempt == 0 && !self.wait_for_ready {
            return Next::Stop;
        }
        let backoff = backoff::retry(attempt, self.first, self.longest);
        let wait = match (error.hint(), error.ready_at()) {
            // Its time has passed while it waited.
            _ if paid => Duration::ZERO,
            (Some(RetryAfter::Wait(hint)), _) => hint.clamp(backoff, backoff.saturating_add(LONGEST_HINT)),
            (_, Some(ready)) => backoff::ready(ready.saturating_duration_since(now)),
            _ => backoff,
        };
        // A wait of years ends the call even without a deadline.
        let Some(next) = now.checked_add(wait).filter(|_| wait < FOREVER) else { return Next::Stop };
        let keys_end = failed.may_have_run.then(|| started + LATEST_REPEAT);
        if deadline.is_some_and(|deadline| next >= deadline) || keys_end.is_some_and(|end| next >= end) {
            return Next::Stop;
        }
        if !uncounted && !paid && !budget.spend(failed.cause()) {
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
    /// Whether the next attempt was paid for before this one was given up.
    pub(crate) paid: bool,
    /// The endpoint of the attempt, and when it began.
    pub(crate) endpoint: usize,
    pub(crate) began: Instant,
}

impl Failed<'_> {
    /// What the next attempt is paid for.
    fn cause(&self) -> Cause {
        let is_loss = matches!(self.error.kind(), ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Unavailable);
        if self.error.is_overload() {
            Cause::Overload
        } else if is_loss && self.attempt <= 1 {
            Cause::Loss { endpoint: self.endpoint, began: self.began }
        } else {
            Cause::Other
        }
    }
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
///
/// It is against storms, and counts causes: the loss of a connection is paid for once, however many calls it had in flight, and each of
/// them is repeated once for that. So what fails is sent at most twice, and a little more often.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What was spent and not earned again.
    spent: AtomicU64,
    /// The last loss of each endpoint that was paid for.
    losses: Mutex<Vec<(usize, Instant)>>,
}

/// What a retry is paid for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    /// The connection to this endpoint was lost, or could not be made, for an attempt that began then. It was the first of its call.
    Loss { endpoint: usize, began: Instant },
    /// There is no response yet, and so many calls are in flight: a pause of the server is one cause for all of them.
    Pause { in_flight: u64 },
    /// The server refuses calls, because it is overloaded.
    Overload,
    /// Any other.
    Other,
}

impl Budget {
    const FULL: u64 = 500;
    /// The price of a retry, and that of one after a refusal for overload, which is usually short.
    const REPEAT: u64 = 14;
    const REPEAT_REFUSED: u64 = 5;

    pub(crate) fn new() -> Self {
        Self { spent: AtomicU64::new(0), losses: Mutex::default() }
    }

    /// Counts a call that succeeded at its first attempt.
    pub(crate) fn earn(&self) {
        // Usually nothing is spent, so the common path only reads.
        if self.spent.load(Ordering::Relaxed) > 0 {
            let _ = self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| spent.checked_sub(1));
        }
    }

    /// Pays for a retry. Whether there was enough.
    pub(crate) fn spend(&self, cause: Cause) -> bool {
        match cause {
            Cause::Loss { endpoint, began } => {
                let mut losses = self.losses.lock();
                let paid = losses.iter().position(|(of, _)| *of == endpoint);
                // It was in flight at the last loss.
                if paid.is_some_and(|paid| began <= losses[paid].1) {
                    return true;
                }
                let pays = self.pay(Self::REPEAT, Self::FULL);
                match paid {
                    Some(paid) if pays => losses[paid].1 = Instant::now(),
                    None if pays => losses.push((endpoint, Instant::now())),
                    _ => {}
                }
                pays
            }
            Cause::Pause { in_flight } => {
                self.pay(Self::REPEAT, Self::FULL + Self::REPEAT * in_flight.saturating_sub(1))
            }
            Cause::Overload => self.pay(Self::REPEAT_REFUSED, Self::FULL),
            Cause::Other => self.pay(Self::REPEAT, Self::FULL),
        }
    }

    fn pay(&self, price: u64, limit: u64) -> bool {
        let pay = |spent: u64| spent.checked_add(price).filter(|spent| *spent <= limit);
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }

    /// Gives back the price of a retry that was not made.
    pub(crate) fn refund(&self) {
        let back = |spent: u64| Some(spent.saturating_sub(Self::REPEAT));
        let _ = self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

#[cfg(test)]
mod tests;
