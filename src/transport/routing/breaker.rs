//! The circuit breaker: when calls go over HTTP instead of gRPC, and when they return.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::backoff;

/// This many failed calls in a row, within this time, are an outage.
const MAX_FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// The cool-down before gRPC is probed after an outage: the first, and the longest. With the time of a probe, calls are back within
/// 5 s of the server.
const OUTAGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// The same where the server has no gRPC.
const ABSENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// An outage this soon after calls have returned continues the last one, with a longer cool-down.
const STABLE: Duration = Duration::from_secs(60);

/// Which transport sends the calls of a client with a `Config::fallback`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls go over gRPC.
    Closed,
    /// Calls go over HTTP.
    Open,
    /// Calls go over HTTP, and a probe tries gRPC.
    HalfOpen,
}

/// Why the breaker opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no gRPC at the address.
    Absent,
    /// gRPC does not respond.
    Outage,
}

/// How a call over gRPC went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// There was a response, even an error.
    Responded,
    /// There is no gRPC at the address.
    Absent,
    /// There was no response.
    Failed,
    /// There was no response, and every endpoint is ejected.
    AllOut,
    /// Says nothing about gRPC.
    Nothing,
}

/// The breaker's state. It is told what happens and when, and has no clock of its own.
#[derive(Debug)]
pub(super) enum Breaker {
    /// `returned`: how often in a row it had opened when calls last returned to gRPC, and when that was.
    Closed {
        failures: u32,
        first: Option<Instant>,
        returned: Option<(u32, Instant)>,
    },
    Open {
        cause: Cause,
        opened: u32,
        until: Instant,
    },
    HalfOpen {
        cause: Cause,
        opened: u32,
    },
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self::closed(None)
    }

    fn closed(returned: Option<(u32, Instant)>) -> Self {
        Self::Closed { failures: 0, first: None, returned }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why it is open, if it is.
    pub(super) fn cause(&self) -> Option<Cause> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { cause, .. } | Self::HalfOpen { cause, .. } => Some(*cause),
        }
    }

    /// Whether a success would change nothing.
    pub(super) fn is_clear(&self) -> bool {
        matches!(self, Self::Closed { failures: 0, .. })
    }

    /// Records how a call over gRPC went. `usable` says whether calls could go over HTTP instead.
    pub(super) fn note(&mut self, sign: Sign, usable: bool, now: Instant) {
        // Calls that began before the breaker opened are ignored.
        let Self::Closed { failures, first, returned } = self else { return };
        let cause = match sign {
            Sign::Nothing => return,
            Sign::Responded => {
                *self = Self::closed(*returned);
                return;
            }
            Sign::Absent => Cause::Absent,
            Sign::AllOut => Cause::Outage,
            Sign::Failed => {
                if first.is_none_or(|first| now.saturating_duration_since(first) > WINDOW) {
                    (*failures, *first) = (0, Some(now));
                }
                *failures += 1;
                if *failures < MAX_FAILURES {
                    return;
                }
                Cause::Outage
            }
        };
        if !usable {
            return;
        }
        let before = returned.filter(|(_, at)| now.saturating_duration_since(*at) < STABLE);
        let opened = before.map_or(1, |(opened, _)| opened.saturating_add(1));
        *self = Self::opened(cause, opened, now);
    }

    fn opened(cause: Cause, opened: u32, now: Instant) -> Self {
        let (shortest, longest) = match cause {
            Cause::Absent => ABSENCE,
            Cause::Outage => OUTAGE,
        };
        let cool_down = shortest.saturating_mul(1 << opened.saturating_sub(1).min(16)).min(longest);
        Self::Open { cause, opened, until: now + backoff::spread(cool_down) }
    }

    /// Whether a probe is due. If so, the caller must report its end to [`probed`](Self::probed).
    pub(super) fn begin_probe(&mut self, now: Instant) -> bool {
        match *self {
            Self::Open { cause, opened, until } if now >= until => {
                *self = Self::HalfOpen { cause, opened };
                true
            }
            _ => false,
        }
    }

    /// Records how a probe ended.
    pub(super) fn probed(&mut self, succeeded: bool, now: Instant) {
        if let Self::HalfOpen { cause, opened } = *self {
            *self = if succeeded {
                Self::closed(Some((opened, now)))
            } else {
                Self::opened(cause, opened.saturating_add(1), now)
            };
        }
    }
}

#[cfg(test)]
mod tests;
