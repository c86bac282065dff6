//! The record that proves whether a call was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Outcome};

/// Whether any of a request's body was handed to the connection: the proof that a call was or was not sent.
///
/// A transport that keeps it calls [`track`](Self::track) and gives the clone to the body, which asks
/// [`take`](Self::take) before it yields its first byte. When the deadline passes, [`revoke`](Self::revoke) either finds
/// the body taken, or makes sure that it never will be. Before a transport sends a call anew, [`anew`](Self::anew) makes
/// as sure of the first body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover {
    record: Arc<AtomicU32>,
    /// Which of the bodies of one call this is for.
    body: u32,
}

/// What the record says, from the lowest bit: how far the body in hand has come, whether an earlier one was handed over,
/// and the number of the body in hand. It starts as 0, which proves nothing.
const STATE: u32 = 0b11;
const PENDING: u32 = 1;
const TAKEN: u32 = 2;
const REVOKED: u32 = 3;
const EARLIER_TAKEN: u32 = 0b100;
const NUMBER: u32 = 3;

impl Handover {
    /// Takes another body of the call in hand; from here on no earlier one can be handed over.
    pub(crate) fn track(&self) -> Self {
        let before = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(Self::next(now)));
        // The update is never refused, so both hold the value before it.
        let (Ok(before) | Err(before)) = before;
        self.of_next(before)
    }

    /// The record with one more body, now in hand.
    fn next(now: u32) -> u32 {
        let earlier = if now & STATE == TAKEN { EARLIER_TAKEN } else { now & EARLIER_TAKEN };
        ((now >> NUMBER) + 1) << NUMBER | earlier | PENDING
    }

    /// For the body that came after this record.
    fn of_next(&self, before: u32) -> Self {
        Self { record: Arc::clone(&self.record), body: (before >> NUMBER) + 1 }
    }

    /// Hands the body over, unless it was revoked or another one is in hand.
    pub(crate) fn take(&self) -> bool {
        let mine = |now: u32| now >> NUMBER == self.body;
        let take = |now: u32| (mine(now) && now & STATE == PENDING).then_some(now & !STATE | TAKEN);
        let taken = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.is_ok() || taken.is_err_and(|now| mine(now) && now & STATE == TAKEN)
    }

    /// Records that the server did not process the body: it is as if it had never been handed over.
    pub(crate) fn give_back(&self) {
        let given = |now: u32| now >> NUMBER == self.body && now & STATE == TAKEN;
        let back = |now: u32| given(now).then_some(now & !STATE | PENDING);
        // If it was not handed over, or another one is in hand, there is nothing to record.
        let _ = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, back);
    }

    /// Takes another body in hand, if this one was not handed over; now it never will be.
    #[cfg(any(test, feature = "grpc"))]
    pub(crate) fn anew(&self) -> Option<Self> {
        let mine = |now: u32| now >> NUMBER == self.body && now & STATE == PENDING;
        // In one step, so that whoever revokes the body in hand finds either this one or the next.
        let anew = |now: u32| mine(now).then(|| Self::next(now));
        let before = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, anew);
        before.ok().map(|before| self.of_next(before))
    }
}

impl Handover {
    /// Makes sure that the body in hand will not be handed over any more. Whether it is certain that none was.
    pub(crate) fn revoke(&self) -> bool {
        let revoke = |now: u32| (now & STATE == PENDING).then_some(now & !STATE | REVOKED);
        let (Ok(now) | Err(now)) = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, revoke);
        matches!(now & STATE, PENDING | REVOKED) && now & EARLIER_TAKEN == 0
    }

    /// `error`, with what the record proves about it.
    pub(crate) fn judge(&self, error: Error) -> Error {
        if self.revoke() && error.may_have_run() { error.with_outcome(Outcome::NotSent) } else { error }
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_body_is_not_handed_over() {
        let handover = Handover::default().track();
        assert!(handover.revoke());
        assert!(!handover.take());
    }

    #[test]
    fn a_body_handed_over_cannot_be_revoked() {
        let handover = Handover::default().track();
        assert!(handover.take());
        assert!(!handover.revoke());
        assert!(handover.take(), "the later frames of the same body go on");
    }

    #[test]
    fn of_two_bodies_of_a_call_only_the_last_is_handed_over() {
        let call = Handover::default();
        let first = call.track();
        let second = first.anew().unwrap();
        assert!(!first.take());
        assert!(first.anew().is_none());
        assert!(second.take());
        assert!(!call.revoke(), "the call's own record is that of the body in hand");
        assert!(second.anew().is_none(), "it was handed over");
    }

    #[test]
    fn a_body_that_the_server_gave_back_was_not_handed_over() {
        let call = Handover::default();
        let first = call.track();
        assert!(first.take());
        first.give_back();
        let second = first.anew().unwrap();
        assert!(!first.take());
        assert!(second.take());
        first.give_back();
        assert!(!call.revoke(), "the second is not what was given back");
        second.give_back();
        assert!(call.revoke());
    }

    #[test]
    fn a_call_of_which_an_earlier_body_was_handed_over_may_have_run() {
        let call = Handover::default();
        let (first, second) = (call.track(), call.track());
        assert!(!first.take(), "the second is in hand");
        assert!(second.take());
        let third = call.track();
        assert!(!call.revoke());
        assert!(!third.take());
    }

    #[test]
    fn a_transport_that_keeps_no_record_proves_nothing() {
        assert!(!Handover::default().revoke());
    }
}
