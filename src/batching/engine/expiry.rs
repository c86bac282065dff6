//! Ends commands at their deadlines, and those that would get no response before.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::batching::command::CommandId;
use crate::batching::engine::{Engine, notify};
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::unless;

/// The error text of a command whose deadline passes in the queue.
pub(in crate::batching) const DEADLINE_BEFORE_SENT: &str = "the deadline passed before the call was sent";
/// That of a command whose deadline passes in flight.
const DEADLINE_IN_FLIGHT: &str = "no response came before the deadline";
/// That of a command whose deadline is too near for a slow server.
const TOO_LATE: &str = "not sent, because the server takes longer to respond than is left until the deadline";
/// The commands that end at their deadlines in one step, so that the lock is not held for long.
const STEP: usize = 1000;

/// Ends commands at their deadlines. One timer each would add an eighth to the cost of a command.
pub(super) async fn end_expired(engine: Weak<Engine>, earlier: Arc<Notify>) {
    loop {
        let Some(next) = engine.upgrade().map(|engine| engine.end_expired()) else { return };
        let now = Instant::now();
        match next {
            // More have passed.
            Some(next) if next <= now => tokio::task::yield_now().await,
            Some(next) => {
                // No more often than the timer's resolution.
                let next = next.max(now + Duration::from_millis(1));
                unless(tokio::time::sleep_until(next), earlier.notified()).await;
            }
            None => earlier.notified().await,
        }
    }
}

fn late(what: &'static str, outcome: Outcome) -> Error {
    Error::new(ErrorKind::Timeout, what).with_outcome(outcome)
}

impl Engine {
    /// Returns a timeout to the caller of a command in flight.
    pub(in crate::batching) fn time_out(&self, id: CommandId) {
        let reply = self.state().queue.get_mut(id).and_then(|waiting| waiting.reply.take());
        if let Some(reply) = reply {
            // The receiver may be gone.
            let _ = reply.send(Err(late(DEADLINE_IN_FLIGHT, Outcome::Unknown)));
        }
    }

    /// Returns a timeout to the callers of commands whose deadline has passed, to [`STEP`] of them at most; those in flight go on.
    /// Returns the next deadline.
    fn end_expired(&self) -> Option<Instant> {
        let now = Instant::now();
        let (mut unsent, mut in_flight, mut done) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = self.state();
        for _ in 0..STEP {
            let Some((_, id)) = state.deadlines.pop(now) else { break };
            if let Some(waiting) = state.queue.withdraw(id) {
                done.extend(state.over(id, Outcome::NotSent));
                unsent.push(waiting);
            } else if let Some(waiting) = state.queue.get_mut(id) {
                in_flight.extend(waiting.reply.take());
            }
        }
        state.clean_deadlines();
        let next = state.deadlines.next();
        drop(state);
        self.fail(unsent, || late(DEADLINE_BEFORE_SENT, Outcome::NotSent));
        for reply in in_flight {
            // The receiver may be gone.
            let _ = reply.send(Err(late(DEADLINE_IN_FLIGHT, Outcome::Unknown)));
        }
        notify(done);
        next
    }

    /// Returns a timeout to the callers of queued commands whose deadline would pass before a response, as slow as the server is now.
    pub(super) fn end_too_late(&self) {
        let now = Instant::now();
        loop {
            let (mut unsent, mut in_flight, mut done) = (Vec::new(), Vec::new(), Vec::new());
            let mut state = self.state();
            let expected = state.response_times.expected(now);
            let Some(until) = now.checked_add(expected).filter(|_| !expected.is_zero()) else { return };
            while unsent.len() < STEP
                && let Some((deadline, id)) = state.deadlines.pop(until)
            {
                if let Some(waiting) = state.queue.withdraw(id) {
                    done.extend(state.over(id, Outcome::NotSent));
                    unsent.push(waiting);
                } else if state.queue.contains(id) {
                    in_flight.push((deadline, id));
                }
            }
            state.deadlines.put_back(in_flight);
            drop(state);
            let is_more = unsent.len() == STEP;
            self.fail(unsent, || late(TOO_LATE, Outcome::NotSent));
            notify(done);
            if !is_more {
                return;
            }
        }
    }
}
