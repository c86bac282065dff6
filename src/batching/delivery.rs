//! One batch on its way, attempt after attempt, until each of its commands is over.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::batching::accepted::{Sent, Settled};
use crate::batching::engine::{Engine, Slot};
use crate::batching::outgoing::{Member, OutgoingBatch};
use crate::call::attempts::Attempts;
use crate::config::retry::Retry;
use crate::error::{Error, ErrorKind, Outcome};
use crate::wire::reply::ReplyBody;

/// Sends one batch, and frees the slot. Dropped before it runs, it drops the batch first: the slot is to find what that sets
/// free.
pub(super) async fn deliver_in(delivery: Delivery, mut slot: Slot) {
    slot.runs();
    deliver(delivery).await;
}

/// Sends a batch until each of its commands is over.
pub(super) async fn deliver(delivery: Delivery) {
    let mut work = vec![delivery];
    while let Some(mut delivery) = work.pop() {
        if let Some(rest) = delivery.send_or_halve().await {
            work.extend([rest, delivery]);
        } else if !work.is_empty() {
            delivery.engine.send_others();
        }
    }
}

/// Whether a part of the batch may do better: it is too large, or its reply, or one command makes it unfit to be sent.
fn may_be_of_a_part(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Invalid)
}

/// A batch in flight. Whatever happens, each of its commands ends.
pub(super) struct Delivery {
    engine: Arc<Engine>,
    batch: OutgoingBatch,
    /// Why its commands failed at the last attempt, if each has its own reason.
    reasons: Vec<Error>,
    /// Since when its outcome is unknown, if an attempt got no response.
    unknown_since: Option<Instant>,
}

impl Delivery {
    pub(super) fn new(engine: &Arc<Engine>, batch: OutgoingBatch) -> Self {
        Self { engine: Arc::clone(engine), batch, reasons: Vec::new(), unknown_since: None }
    }

    /// Sends the batch until each of its commands is over, or returns half of it, if it is too much at once.
    async fn send_or_halve(&mut self) -> Option<Self> {
        let engine = Arc::clone(&self.engine);
        self.drop_late(1);
        if self.batch.is_empty() {
            return None;
        }
        let running = match engine.begin_batch() {
            Ok(running) => running,
            Err(error) => {
                self.fail(error);
                return None;
            }
        };
        let (deadline, retry) = (self.deadline(), self.longest_retry());
        let core = engine.core();
        let mut attempts = Attempts::of_batch(core, &retry, deadline, self.unknown_since, running, engine.cancel());
        while !self.batch.is_empty() {
            let batch = &self.batch;
            attempts.resend_as(batch.method(), batch.is_repeatable());
            let sent = Instant::now();
            let error = match attempts.attempt(batch, |reply| batch.read(reply)).await {
                Ok(results) => {
                    engine.responded(batch, sent.elapsed());
                    self.settle(results, &attempts)?
                }
                Err(error) => {
                    let is_shared = batch.members().len() > 1;
                    if error.may_have_run() {
                        self.unknown_since = Some(attempts.started());
                        self.fail_what_ran_once(&error, attempts.failed() + 1);
                    }
                    if is_shared && may_be_of_a_part(&error) {
                        attempts.end(error.outcome());
                        let mut rest = Self::new(&engine, self.batch.split());
                        rest.unknown_since = self.unknown_since;
                        return Some(rest);
                    }
                    self.fail_exhausted(&error, &attempts);
                    error
                }
            };
            if self.batch.is_empty() {
                attempts.end(error.outcome());
                return None;
            }
            attempts.resend_as(self.batch.method(), self.batch.is_repeatable());
            if let Err(error) = attempts.again(error).await {
                self.fail(error);
                return None;
            }
            self.reasons.clear();
            self.unknown_since = attempts.may_have_run().then_some(attempts.started());
            self.drop_late(attempts.failed());
        }
        None
    }

    fn retry_of<'a>(&'a self, member: &'a Member) -> &'a Arc<Retry> {
        member.retry.as_ref().unwrap_or(&self.engine.core().retry)
    }

    /// The retries that go on for longest.
    fn longest_retry(&self) -> Arc<Retry> {
        let all = self.batch.members().iter().map(|member| self.retry_of(member));
        Arc::clone(all.max_by_key(|retry| (retry.wait_for_ready, retry.attempts)).unwrap_or(&self.engine.core().retry))
    }

    /// Ends the commands that have a result, but for those that failed and may be tried again. Why, if there are any.
    fn settle(&mut self, results: Vec<Result<ReplyBody, Error>>, attempts: &Attempts<'_>) -> Option<Error> {
        let (outcome_unknown, number) = (attempts.may_have_run(), attempts.failed() + 1);
        let endpoint = attempts.endpoint();
        let sent = |result| Sent { result, endpoint, outcome_unknown };
        let engine = Arc::clone(&self.engine);
        let error_of = |member: &Member, error: Error| {
            let error = if outcome_unknown && !error.may_have_run() { error.outcome_unknown() } else { error };
            engine.core().with_endpoint(error, member.method.name(), endpoint).after_attempts(number)
        };
        let again = self.to_be_tried_again(&results, attempts);
        let members = self.batch.members().iter().zip(results);
        if again.is_empty() {
            let settled =
                members.map(|(member, result)| (member.id, result.map(sent).map_err(|error| error_of(member, error))));
            engine.settle(settled);
            self.batch.take();
            return None;
        }
        let (mut settled, mut reasons): (Vec<(_, Settled)>, _) = (Vec::new(), Vec::new());
        for (index, (member, result)) in members.enumerate() {
            match result {
                Err(error) if again.contains(&index) => reasons.push(error_of(member, error)),
                Err(error) => settled.push((member.id, Err(error_of(member, error)))),
                Ok(result) => settled.push((member.id, Ok(sent(result)))),
            }
        }
        engine.settle(settled.into_iter());
        engine.send_others();
        let mut index = 0..;
        self.batch.retain(|_| index.next().is_some_and(|index| again.contains(&index)));
        // One of unknown outcome makes it that of the whole.
        let reason = reasons.iter().max_by_key(|reason| reason.may_have_run()).map(Error::echo);
        self.reasons = reasons;
        reason
    }

    /// The commands that failed and may be tried again: that can help, can do no harm, and overtakes nothing.
    fn to_be_tried_again(&self, results: &[Result<ReplyBody, Error>], attempts: &Attempts<'_>) -> HashSet<usize> {
        if results.iter().all(|result| result.as_ref().err().is_none_or(|error| !error.is_transient())) {
            return HashSet::new();
        }
        let counted = attempts.counts().1 + 1;
        self.those_in_turn(|index, member| match &results[index] {
            Err(error) => {
                let may_run_again = member.repeatable || !error.may_have_run();
                error.is_transient() && may_run_again && self.retry_of(member).allows(counted, error)
            }
            Ok(_) => false,
        })
    }

    /// Which of these commands can be sent again, without that they overtake others that are not.
    fn those_in_turn(&self, may_be: impl Fn(usize, &Member) -> bool) -> HashSet<usize> {
        let (mut again, mut over) = (HashSet::new(), HashSet::new());
        self.engine.with_queue(|queue| {
            for (index, member) in self.batch.members().iter().enumerate().rev() {
                let channels = || queue.channels_of(member.id);
                if may_be(index, member) && !channels().any(|channel| over.contains(&channel)) {
                    again.insert(index);
                } else {
                    over.extend(channels());
                }
            }
        });
        again
    }

    /// Ends the commands whose time is over, after so many attempts.
    fn drop_late(&mut self, attempts: u32) {
        let now = Instant::now();
        let is_late = |_, member: &Member| member.deadline.is_some_and(|deadline| deadline <= now);
        let outcome = if self.unknown_since.is_some() { Outcome::Unknown } else { Outcome::NotSent };
        let late = || Error::new(ErrorKind::Timeout, "the deadline passed before it was sent").with_outcome(outcome);
        self.fail_those(|| late().after_attempts(attempts), is_late);
    }

    /// The latest deadline of the commands.
    fn deadline(&self) -> Option<Instant> {
        let deadlines = self.batch.members().iter().map(|member| member.deadline);
        deadlines.max_by_key(|deadline| (deadline.is_none(), *deadline))?
    }

    /// Ends the commands that may have taken effect and must not take effect twice, and those that would then overtake them.
    fn fail_what_ran_once(&mut self, error: &Error, attempts: u32) {
        if self.batch.is_repeatable() {
            return;
        }
        let again = self.those_in_turn(|_, member| member.repeatable);
        self.fail_those(|| error.echo().after_attempts(attempts), |index, _| !again.contains(&index));
    }

    /// Ends the commands whose retries end here, and those that would then overtake them, if others go on.
    fn fail_exhausted(&mut self, error: &Error, attempts: &Attempts<'_>) {
        if self.batch.members().iter().all(|member| member.retry.is_none()) {
            return;
        }
        let (failed, counted) = attempts.counts();
        let again = self.those_in_turn(|_, member| self.retry_of(member).allows(counted + 1, error));
        if !again.is_empty() {
            let takes_back = self.unknown_since.is_some() && !error.may_have_run();
            let echo = || if takes_back { error.echo().outcome_unknown() } else { error.echo() };
            self.fail_those(|| echo().after_attempts(failed + 1), |index, _| !again.contains(&index));
        }
    }

    /// Ends some of the commands with an error.
    fn fail_those(&mut self, error: impl Fn() -> Error, which: impl Fn(usize, &Member) -> bool) {
        let numbered = self.batch.members().iter().enumerate();
        let failed: Vec<_> =
            numbered.filter(|(index, member)| which(*index, member)).map(|(_, member)| member.clone()).collect();
        if failed.is_empty() {
            return;
        }
        self.engine.settle(failed.iter().map(|member| (member.id, Err(self.with_context(error(), member)))));
        self.engine.send_others();
        let mut index = 0..;
        self.batch.retain(|member| index.next().is_some_and(|index| !which(index, member)));
    }

    /// Ends all that are left: each for its own reason, if it has one, or with this error.
    pub(super) fn fail(&mut self, error: Error) {
        let takes_back = self.unknown_since.is_some() && !error.may_have_run();
        let error = if takes_back { error.outcome_unknown() } else { error };
        let members = self.batch.take();
        let reasons = std::mem::take(&mut self.reasons);
        if reasons.len() == members.len() {
            let attempts = error.attempts();
            let settled = members.iter().zip(reasons);
            self.engine.settle(settled.map(|(member, reason)| (member.id, Err(reason.after_attempts(attempts)))));
        } else if let [member] = &members[..] {
            self.engine.settle(std::iter::once((member.id, Err(self.with_context(error, member)))));
        } else {
            let settled = members.iter().map(|member| (member.id, Err(self.with_context(error.echo(), member))));
            self.engine.settle(settled);
        }
    }

    fn with_context(&self, error: Error, member: &Member) -> Error {
        self.engine.core().with_context(error, member.method.name())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.batch.is_empty() {
            let ended = Error::new(ErrorKind::Closed, "the task that sent the call ended before a response came");
            self.fail(ended.with_outcome(Outcome::Unknown));
        }
    }
}
