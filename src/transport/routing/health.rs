//! The health of an endpoint, which decides whether it gets calls.
//!
//! An endpoint that cannot be connected to, or has stopped responding, is ejected for a time that grows while it fails. Then one
//! call is its trial, whose result decides.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::backoff;

/// This many lost calls in a row eject an endpoint.
const MAX_LOST: u32 = 3;
/// This many timeouts in a row eject an endpoint.
const MAX_TIMEOUTS: u32 = 5;
/// The first and the longest ejection of an endpoint that does not respond.
const EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// After this long without a failure, ejections start again at the shortest.
const STABLE: Duration = Duration::from_secs(10);

/// What the end of a call says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// There was a response, even an error.
    Responded,
    /// No connection could be made.
    Unreachable,
    /// The connection ended without a response.
    Lost,
    /// The deadline passed before a response came.
    TimedOut,
    /// Nothing: its caller dropped it, or it was not sent.
    Nothing,
}

/// Whether an endpoint gets the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    /// Ejected until then.
    Out(Instant),
    /// The ejection is over: one call may be the trial.
    Due,
    /// The trial is in flight.
    OnTrial,
}

/// The state of one endpoint. It is told what happens and when, and has no clock of its own.
#[derive(Debug, Default)]
pub(super) struct Health {
    lost: u32,
    timeouts: u32,
    /// Failed dials in a row, and ejections in a row for not responding.
    dials: u32,
    ejections: u32,
    out: Option<Out>,
    /// The first success since the last failure.
    healthy_since: Option<Instant>,
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

    /// Whether it is ejected because no connection can be made.
    pub(super) fn is_unreachable(&self) -> bool {
        self.out.is_some_and(|out| out.unreachable)
    }

    /// Whether a success would change nothing.
    pub(super) fn is_clear(&self) -> bool {
        self.out.is_none() && self.lost == 0 && self.timeouts == 0 && (self.healthy_since.is_some() || self.dials == 0)
    }

    /// Starts the trial.
    pub(super) fn begin_trial(&mut self) {
        if let Some(out) = &mut self.out {
            out.trial = true;
        }
    }

    /// Records how a call ended, the trial or another. Whether the open connections are to be replaced.
    pub(super) fn note(&mut self, sign: Sign, trial: bool, now: Instant) -> bool {
        // A trial counts as an ordinary call once another call has decided.
        let trial = trial && self.out.as_mut().is_some_and(|out| std::mem::take(&mut out.trial));
        match sign {
            Sign::Responded => {
                (self.lost, self.timeouts, self.out) = (0, 0, None);
                self.healthy_since.get_or_insert(now);
                false
            }
            Sign::Unreachable => {
                // Concurrent failures count as one.
                if trial || !self.is_unreachable() {
                    self.begin_failure(now);
                    self.dials = self.dials.saturating_add(1);
                    self.set_out(now + backoff::dial(self.dials), true);
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
            self.begin_failure(now);
            self.ejections = self.ejections.saturating_add(1);
            let time = LONGEST_EJECTION.min(EJECTION.saturating_mul(self.ejections));
            self.set_out(now + backoff::spread(time), false);
            (self.lost, self.timeouts) = (0, 0);
        }
        enough
    }

    /// Resets the counts of earlier failures if they are long past.
    fn begin_failure(&mut self, now: Instant) {
        if self.healthy_since.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            (self.dials, self.ejections) = (0, 0);
        }
    }

    fn set_out(&mut self, until: Instant, unreachable: bool) {
        // A trial in flight stays the only one.
        let trial = self.out.is_some_and(|out| out.trial);
        self.out = Some(Out { until, trial, unreachable });
    }
}

#[cfg(test)]
mod tests;
