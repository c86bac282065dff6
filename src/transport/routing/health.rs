//! The health of an endpoint, which decides whether it gets calls.
//!
//! An endpoint that cannot be connected to, has stopped responding, or responds badly is ejected for a time that grows while it fails.
//! Then one call is its trial, whose result decides.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::backoff;

/// This many lost calls in a row eject an endpoint, and so do this many connections in a row that ended before they processed a call.
const MAX_LOST: u32 = 3;
/// This many timeouts in a row eject an endpoint.
const MAX_TIMEOUTS: u32 = 5;
/// This many bad responses more than good ones eject an endpoint: as many as Envoy's `consecutive_5xx`.
const MAX_BAD: u32 = 5;
/// The first and the longest ejection of an endpoint that does not respond, or badly. A trial costs little, so it is soon found when
/// the endpoint is back.
const EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(3);
/// After this long without a failure, ejections start again at the shortest.
const STABLE: Duration = Duration::from_secs(10);

/// What the end of a call says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// There was a response, even a refusal.
    Responded,
    /// There was a response that no working server sends.
    Bad,
    /// A response could not be read. It has counted as one before.
    Unreadable,
    /// No connection could be made.
    Unreachable,
    /// The connection ended without a response.
    Lost,
    /// The server said that it did not process the call, or the call was never written.
    Unprocessed,
    /// There was no response for an unusually long time.
    TimedOut,
    /// Nothing: its caller dropped it, or it was not sent.
    Nothing,
}

/// What else is known when a call ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) now: Instant,
    /// Whether the endpoint has sent nothing for an unusually long time.
    pub(super) silent: bool,
    /// Whether another endpoint responds well.
    pub(super) others_well: bool,
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
    unprocessed: u32,
    timeouts: u32,
    bad: u32,
    /// Whether it was ejected for bad responses, and no call has succeeded since.
    on_probation: bool,
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
    why: Why,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// No connection can be made.
    Unreachable,
    /// It does not process calls: it ends connections, or refuses streams.
    Refusing,
    /// It does not respond, or badly.
    Failing,
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

    /// Why it is ejected, if it is.
    pub(super) fn why(&self) -> Option<Why> {
        self.out.map(|out| out.why)
    }

    /// Until when it is ejected because it did not process calls, if it is.
    pub(super) fn refusing_until(&self) -> Option<Instant> {
        self.out.filter(|out| out.why == Why::Refusing).map(|out| out.until)
    }

    /// Whether a success would change nothing.
    pub(super) fn is_clear(&self) -> bool {
        let failures = self.lost + self.unprocessed + self.timeouts + self.bad;
        let is_clear = self.out.is_none() && failures == 0 && !self.on_probation;
        is_clear && (self.healthy_since.is_some() || self.dials == 0)
    }

    /// Whether its last response was none of a working server.
    pub(super) fn is_bad(&self) -> bool {
        self.bad > 0 || self.on_probation
    }

    /// Starts the trial.
    pub(super) fn begin_trial(&mut self) {
        if let Some(out) = &mut self.out {
            out.trial = true;
        }
    }

    /// Makes the trial due now, because no other endpoint is left.
    pub(super) fn end_backoff(&mut self, now: Instant) {
        if let Some(out) = &mut self.out {
            out.until = out.until.min(now);
            self.dials = 0;
        }
    }

    /// Takes back an ejection: the endpoint has another address.
    pub(super) fn readmit(&mut self) {
        self.out = None;
    }

    /// Records how a call ended, the trial or another. Whether the open connections are to be replaced.
    pub(super) fn note(&mut self, sign: Sign, trial: bool, facts: Facts) -> bool {
        let Facts { now, silent, others_well } = facts;
        // A trial counts as an ordinary call once another call has decided.
        let trial = trial && self.out.as_mut().is_some_and(|out| std::mem::take(&mut out.trial));
        let is_in = self.out.is_none();
        match sign {
            Sign::Responded => {
                (self.lost, self.unprocessed, self.timeouts, self.out) = (0, 0, 0, None);
                self.bad = self.bad.saturating_sub(1);
                self.on_probation &= trial;
                self.healthy_since.get_or_insert(now);
                false
            }
            Sign::Unreachable => {
                // Concurrent failures count as one.
                if trial || self.why() != Some(Why::Unreachable) {
                    self.back_off(Why::Unreachable, now);
                }
                false
            }
            Sign::Unprocessed => {
                self.unprocessed += 1;
                if trial || (is_in && self.unprocessed >= MAX_LOST) {
                    self.unprocessed = 0;
                    self.back_off(Why::Refusing, now);
                }
                false
            }
            Sign::Lost => {
                self.lost += 1;
                self.eject(trial || (is_in && self.lost >= MAX_LOST), now)
            }
            Sign::TimedOut => {
                self.timeouts += 1;
                self.eject(trial || (is_in && silent && self.timeouts >= MAX_TIMEOUTS), now)
            }
            Sign::Bad | Sign::Unreadable => {
                self.bad = MAX_BAD.min(self.bad + if sign == Sign::Bad { 1 } else { 2 });
                (self.lost, self.unprocessed, self.timeouts) = (0, 0, 0);
                // If all respond badly, it is the calls.
                if others_well && (trial || (is_in && (self.on_probation || self.bad >= MAX_BAD))) {
                    self.on_probation = true;
                    self.eject(true, now);
                } else if trial {
                    self.out = None;
                }
                false
            }
            Sign::Nothing => false,
        }
    }

    /// Ejects it until the next dial.
    fn back_off(&mut self, why: Why, now: Instant) {
        self.begin_failure(now);
        self.dials = self.dials.saturating_add(1);
        self.set_out(now + backoff::dial(self.dials), why);
    }

    fn eject(&mut self, enough: bool, now: Instant) -> bool {
        if enough {
            self.begin_failure(now);
            self.ejections = self.ejections.saturating_add(1);
            let time = LONGEST_EJECTION.min(EJECTION.saturating_mul(self.ejections));
            self.set_out(now + backoff::spread(time), Why::Failing);
            (self.lost, self.unprocessed, self.timeouts, self.bad) = (0, 0, 0, 0);
        }
        enough
    }

    /// Resets the counts of earlier failures if they are long past.
    fn begin_failure(&mut self, now: Instant) {
        if self.healthy_since.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            (self.dials, self.ejections) = (0, 0);
        }
    }

    fn set_out(&mut self, until: Instant, why: Why) {
        // A trial in flight stays the only one.
        let trial = self.out.is_some_and(|out| out.trial);
        self.out = Some(Out { until, trial, why });
    }
}

#[cfg(test)]
mod tests;
