//! When calls leave gRPC for HTTP, and when they return.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::backoff;

/// So many calls in a row without a success, within this time, are an outage.
const MAX_FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long an outage is waited out before gRPC is tried again: at first, and at most.
const OUTAGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The same where there is no gRPC at all.
const ABSENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// An outage this soon after calls have returned is the same outage, and waited out for longer.
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

/// Why calls leave gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no gRPC where it was looked for.
    Absent,
    /// It does not respond.
    Outage,
}

/// How a call over gRPC went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A response came, whatever it says.
    Answered,
    /// There is no gRPC.
    Absent,
    /// It got no response.
    Failed,
    /// It got no response, and no endpoint is left that could.
    AllOut,
    /// It says nothing.
    Nothing,
}

/// The breaker's state. It is told what happens and when, and has no clock of its own.
#[derive(Debug)]
pub(super) enum Breaker {
    /// `returned`: when calls came back last, and how often in a row it had been opened by then.
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

    /// Why calls have left gRPC, if they have.
    pub(super) fn cause(&self) -> Option<Cause> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { cause, .. } | Self::HalfOpen { cause, .. } => Some(*cause),
        }
    }

    /// Whether there is nothing that a success would change.
    pub(super) fn is_clear(&self) -> bool {
        matches!(self, Self::Closed { failures: 0, .. })
    }

    /// Records how a call over gRPC went. `usable` says whether calls could go over HTTP instead.
    pub(super) fn note(&mut self, sign: Sign, usable: bool, now: Instant) {
        // A call that began before the breaker opened tells nothing new.
        let Self::Closed { failures, first, returned } = self else { return };
        let cause = match sign {
            Sign::Nothing => return,
            Sign::Answered => {
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

    /// Whether gRPC is to be tried now; whoever is told so must [end](Self::probed) the probe.
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
    pub(super) fn probed(&mut self, well: bool, now: Instant) {
        if let Self::HalfOpen { cause, opened } = *self {
            *self = if well {
                Self::closed(Some((opened, now)))
            } else {
                Self::opened(cause, opened.saturating_add(1), now)
            };
        }
    }
}

#[cfg(test)]
mod tests;
