//! The record that proves whether a call was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Outcome};

/// Whether any of a request's body was handed to the connection: the proof that a call was or was not sent.
///
/// A transport calls [`track`](Self::track) and gives the clone to the body, which calls [`take`](Self::take) before it yields
/// its first byte. When the deadline passes, [`revoke`](Self::revoke) either finds the body taken, or prevents that it is.
/// A call that is sent again has another body, and no earlier one can be handed over then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover {
    record: Arc<AtomicU32>,
    /// Which of the bodies of one call this is for.
    body: u32,
}

/// The record, from the lowest bit: the state of the current body, whether an earlier one was handed over, and the number of the
/// current body. It starts as 0, which proves nothing.
const STATE: u32 = 0b11;
const PENDING: u32 = 1;
const TAKEN: u32 = 2;
const REVOKED: u32 = 3;
const EARLIER_TAKEN: u32 = 0b100;
const NUMBER: u32 = 3;

impl Handover {
    /// Starts another body of the call; no earlier one can be handed over after that.
    pub(crate) fn track(&self) -> Self {
        let next = |now: u32| {
            let earlier = if now & STATE == TAKEN { EARLIER_TAKEN } else { now & EARLIER_TAKEN };
            Some(((now >> NUMBER) + 1) << NUMBER | earlier | PENDING)
        };
        // The update is never refused, so both hold the value before it.
        let (Ok(before) | Err(before)) = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        Self { record: Arc::clone(&self.record), body: (before >> NUMBER) + 1 }
    }

    /// Hands the body over, unless it was revoked or is not the current one.
    pub(crate) fn take(&self) -> bool {
        let mine = |now: u32| now >> NUMBER == self.body;
        let take = |now: u32| (mine(now) && now & STATE == PENDING).then_some(now & !STATE | TAKEN);
        let taken = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.is_ok() || taken.is_err_and(|now| mine(now) && now & STATE == TAKEN)
    }

    /// Records that the server did not process the body, as if it had never been handed over.
    pub(crate) fn undo(&self) {
        let given = |now: u32| now >> NUMBER == self.body && now & STATE == TAKEN;
        let back = |now: u32| given(now).then_some(now & !STATE | PENDING);
        // Nothing to record if it was not handed over, or is not the current one.
        let _ = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, back);
    }
}

impl Handover {
    /// Prevents that the current body is handed over. Whether it is certain that none was.
    pub(crate) fn revoke(&self) -> bool {
        let revoke = |now: u32| (now & STATE == PENDING).then_some(now & !STATE | REVOKED);
        let (Ok(now) | Err(now)) = self.record.fetch_update(Ordering::AcqRel, Ordering::Acquire, revoke);
        matches!(now & STATE, PENDING | REVOKED) && now & EARLIER_TAKEN == 0
    }

    /// Sets the outcome of an error that the record proves.
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
        assert!(handover.take(), "later frames of the same body are still sent");
    }

    #[test]
    fn only_the_last_body_of_a_call_is_handed_over() {
        let call = Handover::default();
        let (first, second) = (call.track(), call.track());
        assert!(!first.take());
        assert!(second.take());
        assert!(!call.revoke(), "the call's record is that of the current body");
    }

    #[test]
    fn an_undone_handover_counts_as_none() {
        let call = Handover::default();
        let first = call.track();
        assert!(first.take());
        first.undo();
        let second = call.track();
        assert!(!first.take());
        assert!(second.take());
        first.undo();
        assert!(!call.revoke(), "the undo was for the first body");
        second.undo();
        assert!(call.revoke());
    }

    #[test]
    fn a_call_with_an_earlier_body_handed_over_cannot_be_revoked() {
        let call = Handover::default();
        let (first, second) = (call.track(), call.track());
        assert!(!first.take(), "the second is the current one");
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
