//! Sends one outgoing batch, with retries, until each of its commands has ended.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::batching::accepted::{Sent, Settled};
use crate::batching::command::CommandId;
use crate::batching::engine::{DEADLINE_BEFORE_SENT, Engine, Slot};
use crate::batching::outgoing::{Member, OutgoingBatch};
use crate::call::attempts::Attempts;
use crate::config::retry::Retry;
use crate::error::{Error, ErrorKind, Outcome};
use crate::wire::reply::ReplyBody;

/// Sends one batch, and frees the slot. If dropped before its first poll, the batch is dropped first, so that the slot then sends
/// what that unblocks.
pub(super) async fn deliver_in(delivery: Delivery, mut slot: Slot) {
    slot.runs();
    deliver(delivery).await;
}

/// Sends a batch until each of its commands has ended.
pub(super) async fn deliver(delivery: Delivery) {
    let mut work = vec![delivery];
    while let Some(mut delivery) = work.pop() {
        if let Some(rest) = delivery.send_or_halve().await {
            work.extend([rest, delivery]);
        } else if !work.is_empty() {
            delivery.engine.send_unblocked();
        }
    }
}

/// Whether parts of the batch may succeed: the request or its reply is too large, or one command cannot be encoded.
fn may_succeed_in_parts(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Invalid)
}

/// A batch being sent. Dropping it ends each of its commands.
pub(super) struct Delivery {
    engine: Arc<Engine>,
    batch: OutgoingBatch,
    /// The error of each command at the last attempt, if they failed separately.
    reasons: Vec<Error>,
    /// When the call began, if the outcome of an attempt is unknown.
    unknown_since: Option<Instant>,
    /// The command that is sent inline. The engine has no timer for its deadline.
    inline: Option<CommandId>,
}

impl Delivery {
    pub(super) fn new(engine: &Arc<Engine>, batch: OutgoingBatch) -> Self {
        Self { engine: Arc::clone(engine), batch, reasons: Vec::new(), unknown_since: None, inline: None }
    }

    /// A batch of one command, sent inline.
    pub(super) fn inline(engine: &Arc<Engine>, batch: OutgoingBatch) -> Self {
        let inline = batch.members().first().map(|member| member.id);
        let mut delivery = Self::new(engine, batch);
        delivery.inline = inline;
        delivery
    }

    /// Sends the batch until each of its commands has ended. If it is too large, keeps its first half and returns the other.
    async fn send_or_halve(&mut self) -> Option<Self> {
        let engine = Arc::clone(&self.engine);
        self.fail_expired(1);
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
        let (inline, unknown_since) = (self.inline, self.unknown_since);
        let at_deadline = || inline.iter().for_each(|id| engine.time_out(*id));
        let mut attempts =
            Attempts::of_batch(core, &retry, deadline, unknown_since, running, engine.cancel(), &at_deadline);
        while !self.batch.is_empty() {
            let batch = &self.batch;
            attempts.resend_as(batch.method(), batch.is_repeatable());
            let sent = Instant::now();
            let error = match attempts.attempt(batch, |reply| batch.read(reply)).await {
                Ok(results) => {
                    engine.responded(batch, sent);
                    self.settle(results, &attempts)?
                }
                Err(error) => {
                    let is_shared = batch.members().len() > 1;
                    if error.may_have_run() {
                        self.unknown_since = Some(attempts.started());
                        self.fail_unrepeatable(&error, attempts.failed() + 1);
                    }
                    if is_shared && may_succeed_in_parts(&error) {
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
            self.fail_expired(attempts.failed());
        }
        None
    }

    fn retry_of<'a>(&'a self, member: &'a Member) -> &'a Arc<Retry> {
        member.retry.as_ref().unwrap_or(&self.engine.core().retry)
    }

    /// The retry settings that allow the most attempts.
    fn longest_retry(&self) -> Arc<Retry> {
        let all = self.batch.members().iter().map(|member| self.retry_of(member));
        Arc::clone(all.max_by_key(|retry| (retry.wait_for_ready, retry.attempts)).unwrap_or(&self.engine.core().retry))
    }

    /// Ends the commands that have a result or may not be retried. Returns an error if others are left to retry.
    fn settle(&mut self, results: Vec<Result<ReplyBody, Error>>, attempts: &Attempts<'_>) -> Option<Error> {
        let (outcome_unknown, number) = (attempts.may_have_run(), attempts.failed() + 1);
        let endpoint = attempts.endpoint();
        let sent = |result| Sent { result, endpoint, outcome_unknown };
        let engine = Arc::clone(&self.engine);
        let error_of = |member: &Member, error: Error| {
            let error = if outcome_unknown && !error.may_have_run() { error.outcome_unknown() } else { error };
            engine.core().with_endpoint(error, member.method.name(), endpoint).after_attempts(number)
        };
        let again = self.to_retry(&results, attempts);
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
        engine.send_unblocked();
        let mut index = 0..;
        self.batch.retain(|_| index.next().is_some_and(|index| again.contains(&index)));
        // If any outcome is unknown, so is that of the batch.
        let reason = reasons.iter().max_by_key(|reason| reason.may_have_run()).map(Error::echo);
        self.reasons = reasons;
        reason
    }

    /// The failed commands to retry: a transient failure, safe to repeat, and no later command of the channel has ended.
    fn to_retry(&self, results: &[Result<ReplyBody, Error>], attempts: &Attempts<'_>) -> HashSet<usize> {
        if results.iter().all(|result| result.as_ref().err().is_none_or(|error| !error.is_transient())) {
            return HashSet::new();
        }
        let counted = attempts.counts().1 + 1;
        self.without_overtaking(|index, member| match &results[index] {
            Err(error) => {
                let may_run_again = member.repeatable || !error.may_have_run();
                error.is_transient() && may_run_again && self.retry_of(member).allows(counted, error)
            }
            Ok(_) => false,
        })
    }

    /// Those of these commands that have no later command of the same channel that is not sent again.
    fn without_overtaking(&self, may_be: impl Fn(usize, &Member) -> bool) -> HashSet<usize> {
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

    /// Ends the commands whose deadline has passed, after so many attempts.
    fn fail_expired(&mut self, attempts: u32) {
        let now = Instant::now();
        let is_late = |_, member: &Member| member.deadline.is_some_and(|deadline| deadline <= now);
        let outcome = if self.unknown_since.is_some() { Outcome::Unknown } else { Outcome::NotSent };
        let late = || Error::new(ErrorKind::Timeout, DEADLINE_BEFORE_SENT).with_outcome(outcome);
        self.fail_where(|| late().after_attempts(attempts), is_late);
    }

    /// The latest deadline of the commands.
    fn deadline(&self) -> Option<Instant> {
        let deadlines = self.batch.members().iter().map(|member| member.deadline);
        deadlines.max_by_key(|deadline| (deadline.is_none(), *deadline))?
    }

    /// Ends the commands that must not take effect twice, after an attempt of unknown outcome, and those that would overtake them.
    fn fail_unrepeatable(&mut self, error: &Error, attempts: u32) {
        if self.batch.is_repeatable() {
            return;
        }
        let again = self.without_overtaking(|_, member| member.repeatable);
        self.fail_where(|| error.echo().after_attempts(attempts), |index, _| !again.contains(&index));
    }

    /// Ends the commands with no attempts left, and those that would overtake them, if others are retried.
    fn fail_exhausted(&mut self, error: &Error, attempts: &Attempts<'_>) {
        if self.batch.members().iter().all(|member| member.retry.is_none()) {
            return;
        }
        let (failed, counted) = attempts.counts();
        let again = self.without_overtaking(|_, member| self.retry_of(member).allows(counted + 1, error));
        if !again.is_empty() {
            let was_unknown = self.unknown_since.is_some() && !error.may_have_run();
            let echo = || if was_unknown { error.echo().outcome_unknown() } else { error.echo() };
            self.fail_where(|| echo().after_attempts(failed + 1), |index, _| !again.contains(&index));
        }
    }

    /// Ends the selected commands with an error.
    fn fail_where(&mut self, error: impl Fn() -> Error, which: impl Fn(usize, &Member) -> bool) {
        let numbered = self.batch.members().iter().enumerate();
        let failed: Vec<_> =
            numbered.filter(|(index, member)| which(*index, member)).map(|(_, member)| member.clone()).collect();
        if failed.is_empty() {
            return;
        }
        self.engine.settle(failed.iter().map(|member| (member.id, Err(self.with_context(error(), member)))));
        self.engine.send_unblocked();
        let mut index = 0..;
        self.batch.retain(|member| index.next().is_some_and(|index| !which(index, member)));
    }

    /// Ends all commands that are left, each with its own error if it has one, or else with this one.
    pub(super) fn fail(&mut self, error: Error) {
        let was_unknown = self.unknown_since.is_some() && !error.may_have_run();
        let error = if was_unknown { error.outcome_unknown() } else { error };
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
            let ended = Error::new(ErrorKind::Closed, "the sending task ended before a response came");
            self.fail(ended.with_outcome(Outcome::Unknown));
        }
    }
}
