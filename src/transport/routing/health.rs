//! Whether an endpoint is given calls.
//!
//! One that cannot be connected to, or that has stopped responding, is left out for a time that grows while it fails. Then
//! one call tries it, and its end decides.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::backoff;

/// So many lost calls in a row leave an endpoint out,
const MAX_LOST: u32 = 3;
/// or so many that get no response in time.
const MAX_TIMEOUTS: u32 = 5;
/// For how long: the first time, and at most.
const EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// After so long without trouble, the next trouble is the first again.
const STABLE: Duration = Duration::from_secs(10);

/// How a call went, as far as it says something about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A response came, whatever it says.
    Answered,
    /// No connection could be made.
    Unreachable,
    /// The connection ended without a response.
    Lost,
    /// Its time was over before a response came.
    TimedOut,
    /// Its caller gave up, or it says nothing about the endpoint.
    Nothing,
}

/// What an endpoint is to the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    /// Left out until then.
    Out(Instant),
    /// Left out for long enough: one call may try it.
    Due,
    /// That call is on its way.
    OnTrial,
}

/// The state of one endpoint. It is told what happens and when, and has no clock of its own.
#[derive(Debug, Default)]
pub(super) struct Health {
    lost: u32,
    timeouts: u32,
    /// Failed dials in a row, and times in a row that it was left out for not responding.
    dials: u32,
    ejections: u32,
    out: Option<Out>,
    /// Since when there was no trouble.
    well: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    until: Instant,
    trial: bool,
    unreachable: bool,
}

impl Health {
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.out {
            None => Standing::In,
            Some(Out { trial: true, .. }) => Standing::OnTrial,
            Some(Out { until, .. }) if now < until => Standing::Out(until),
            Some(_) => Standing::Due,
        }
    }

    /// Whether it is left out because no connection can be made, in which case nothing is lost by not trying.
    pub(super) fn is_unreachable(&self) -> bool {
        self.out.is_some_and(|out| out.unreachable)
    }

    /// Whether a success would change anything.
    pub(super) fn is_clear(&self) -> bool {
        self.out.is_none() && self.lost == 0 && self.timeouts == 0 && (self.well.is_some() || self.dials == 0)
    }

    /// Gives it the call that tries it.
    pub(super) fn begin_trial(&mut self) {
        if let Some(out) = &mut self.out {
            out.trial = true;
        }
    }

    /// Records how a call went, the trial or another. Returns whether the connections that there are cannot be trusted
    /// any more.
    pub(super) fn note(&mut self, sign: Sign, trial: bool, now: Instant) -> bool {
        // A trial that others have decided decides nothing any more.
        let trial = trial && self.out.as_mut().is_some_and(|out| std::mem::take(&mut out.trial));
        match sign {
            Sign::Answered => {
                (self.lost, self.timeouts, self.out) = (0, 0, None);
                self.well.get_or_insert(now);
                false
            }
            Sign::Unreachable => {
                // Calls that failed together are one failure.
                if trial || !self.is_unreachable() {
                    self.trouble(now);
                    self.dials = self.dials.saturating_add(1);
                    self.leave_out(now + backoff::dial(self.dials), true);
                }
                false
            }
            Sign::Lost => {
                self.lost += 1;
                self.eject(trial || (self.lost >= MAX_LOST && self.out.is_none()), now)
            }
            Sign::TimedOut => {
                self.timeouts += 1;
                self.eject(trial || (self.timeouts >= MAX_TIMEOUTS && self.out.is_none()), now)
            }
            Sign::Nothing => false,
        }
    }

    fn eject(&mut self, enough: bool, now: Instant) -> bool {
        if enough {
            self.trouble(now);
            self.ejections = self.ejections.saturating_add(1);
            let time = LONGEST_EJECTION.min(EJECTION.saturating_mul(self.ejections));
            self.leave_out(now + backoff::spread(time), false);
            (self.lost, self.timeouts) = (0, 0);
        }
        enough
    }

    /// Forgets earlier trouble if it is long past.
    fn trouble(&mut self, now: Instant) {
        if self.well.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            (self.dials, self.ejections) = (0, 0);
        }
    }

    fn leave_out(&mut self, until: Instant, unreachable: bool) {
        // A trial in progress stays the only one.
        let trial = self.out.is_some_and(|out| out.trial);
        self.out = Some(Out { until, trial, unreachable });
    }
}

#[cfg(test)]
mod tests;
