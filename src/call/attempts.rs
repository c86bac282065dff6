//! One call: its attempts, until it has a response or an error.

use std::borrow::Cow;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::method::Method;
use crate::call::Core;
use crate::call::close::Running;
use crate::call::retry::{Failed, LATEST_REPEAT_END, Next};
use crate::config::retry::Retry;
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::{Cancel, in_time, unless};
use crate::transport::call::{Avoided, Call};
use crate::wire::body::Body;
use crate::wire::reply::Reply;

/// A call and the state of its attempts.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(crate) struct Attempts<'a> {
    core: &'a Core,
    retry: &'a Retry,
    method: &'a str,
    known: Option<Method>,
    /// Whether it may take effect twice.
    repeatable: bool,
    /// `None` for a batch of calls that are counted one by one.
    running: Option<Running<'a>>,
    /// Another signal to stop, besides the client's.
    stop: Option<&'a Cancel>,
    /// Ends the wait of the callers at the deadline. The attempt then goes on.
    at_deadline: Option<&'a (dyn Fn() + Sync)>,
    started: Instant,
    /// Whether an attempt of any part was made.
    begun: bool,
    deadline: Option<Instant>,
    /// The attempts that failed, and those of them that count against `Retry::attempts`.
    failed: u32,
    counted: u32,
    /// Whether one of them may have taken effect.
    may_have_run: bool,
    /// The endpoint of the latest attempt, which the next one avoids if there is another, and when that attempt began.
    latest: Avoided,
    began: Instant,
    /// Whether the next attempt is paid for.
    paid: bool,
}

/// How long until a slow attempt is looked at again, at least.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);
/// How often an attempt is looked at that has outlived its deadline.
const LOOK_PAST_DEADLINE: Duration = Duration::from_millis(250);

impl<'a> Attempts<'a> {
    /// Begins the call.
    pub(crate) fn new(core: &'a Core, method: &'a str, known: Option<Method>, repeatable: bool) -> Result<Self, Error> {
        let running = if tokio::runtime::Handle::try_current().is_ok() {
            core.gate().enter()
        } else {
            Err(Error::invalid("the client was used outside of a tokio runtime"))
        };
        let running = running.map_err(|error| log(method, core.with_context(error, method)))?;
        let started = Instant::now();
        let deadline = core.deadline(started);
        Ok(Self {
            running: Some(running),
            ..Self::begun(core, &core.retry, method, known, repeatable, started, deadline)
        })
    }

    /// Begins a batch of calls that are counted one by one. `unknown_since`: when an earlier batch of the same calls was sent, if
    /// its outcome is unknown. `at_deadline` ends the wait of the callers; an attempt then goes on, for the client's timeout at most:
    /// until the server has responded, its work is not done.
    pub(crate) fn of_batch(
        core: &'a Core,
        retry: &'a Retry,
        deadline: Option<Instant>,
        unknown_since: Option<Instant>,
        running: Option<Running<'a>>,
        stop: &'a Cancel,
        at_deadline: &'a (dyn Fn() + Sync),
    ) -> Self {
        let started = unknown_since.unwrap_or_else(Instant::now);
        let begun = Self::begun(core, retry, Method::Batch.name(), Some(Method::Batch), false, started, deadline);
        let is_unknown = unknown_since.is_some();
        let at_deadline = Some(at_deadline);
        Self { running, stop: Some(stop), at_deadline, may_have_run: is_unknown, begun: is_unknown, ..begun }
    }

    fn begun(
        core: &'a Core,
        retry: &'a Retry,
        method: &'a str,
        known: Option<Method>,
        repeatable: bool,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            core,
            retry,
            method,
            known,
            repeatable,
            running: None,
            stop: None,
            at_deadline: None,
            started,
            begun: false,
            deadline,
            failed: 0,
            counted: 0,
            may_have_run: false,
            latest: Avoided::default(),
            began: started,
            paid: false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets the method, and whether the call may take effect twice, for what is left to send.
    pub(crate) fn resend_as(&mut self, method: Method, repeatable: bool) {
        (self.method, self.known, self.repeatable) = (method.name(), Some(method), repeatable);
    }

    /// Ends the call with its result from a batch.
    pub(crate) fn end_with<T>(&mut self, sent: Result<T, Error>) -> Result<T, Error> {
        self.begun = true;
        match sent {
            Ok(reply) => {
                self.end(Outcome::Done);
                Ok(reply)
            }
            Err(error) => {
                self.end(error.outcome());
                Err(log(self.method, self.core.with_context(error, self.method)))
            }
        }
    }

    /// Waits until the call is cancelled.
    fn cancelled(&self) -> impl Future {
        let stop = self.stop;
        let stopped = async move {
            match stop {
                Some(stop) => stop.wait().await,
                None => pending().await,
            }
        };
        unless(self.core.gate().cancel().wait(), stopped)
    }

    /// The index of the endpoint of the latest attempt.
    pub(crate) fn endpoint(&self) -> usize {
        self.latest.endpoint
    }

    /// Whether an attempt that failed may have taken effect.
    pub(crate) fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Whether the call may take effect twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// When the first attempt began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The number of failed attempts.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// The number of failed attempts, and of those that count against `Retry::attempts`.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.failed, self.counted)
    }

    /// Raises the counts to at least these, after parts of the call were counted apart.
    pub(crate) fn raise_counts(&mut self, (failed, counted): (u32, u32)) {
        (self.failed, self.counted) = (self.failed.max(failed), self.counted.max(counted));
    }

    /// Begins a part of the call. Its attempts are counted from 0; the deadline stays the call's.
    pub(crate) fn begin_part(&mut self, repeatable: bool) -> Result<(), Error> {
        self.repeatable = repeatable;
        if !self.begun {
            return Ok(());
        }
        (self.failed, self.counted, self.may_have_run, self.latest) = (0, 0, false, Avoided::default());
        if self.core.gate().cancel().is_set() {
            Err(Error::new(ErrorKind::Closed, "the client was closed before this part of the call was sent"))
        } else if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let late = Error::new(ErrorKind::Timeout, "the deadline passed before this part of the call was sent");
            Err(late.with_outcome(Outcome::NotSent))
        } else {
            Ok(())
        }
    }

    /// Sends `body` until a response is read or no retry is allowed. `read` gets whether an earlier attempt may have taken effect.
    pub(crate) async fn run<T>(
        &mut self,
        body: &dyn Body,
        read: impl Fn(bool, Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let may_have_run = self.may_have_run;
            match self.attempt(body, |reply| read(may_have_run, reply)).await {
                Ok(read) => return Ok(read),
                Err(error) => self.again(error).await?,
            }
        }
    }

    /// Sends `body` once, and reads the response.
    pub(crate) async fn attempt<T>(
        &mut self,
        body: &dyn Body,
        read: impl FnOnce(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let read = read(self.send(body).await?).inspect_err(|error| {
            if error.kind() == ErrorKind::Protocol && error.outcome() == Outcome::Unknown {
                self.core.transport().reject(self.latest.endpoint);
            }
        })?;
        if self.failed == 0 {
            self.core.budget().earn();
        }
        self.end(Outcome::Done);
        Ok(read)
    }

    /// Sends `body` once, until there is a response, the deadline passes, or the attempt is given up for another.
    async fn send(&mut self, body: &dyn Body) -> Result<Reply, Error> {
        let now = if std::mem::replace(&mut self.begun, true) { Instant::now() } else { self.started };
        self.began = now;
        // A body handed over later would take effect again: the server has dropped its idempotency key by then.
        let last = self.may_have_run.then(|| self.started + LATEST_REPEAT_END);
        let end = self.deadline.into_iter().chain(last).min();
        let patience = self.retry.patience(self.counted, body.size());
        let call = Call::of(self.method, self.known, body, now, end).avoiding(self.latest);
        let mut paid = false;
        let sent = {
            let mut sent = pin!(unless(self.core.transport().send(&call), self.cancelled()));
            let (mut looked, mut past_deadline) = (None, None);
            loop {
                let end = || match (past_deadline, patience) {
                    (Some(look), _) => Some(look),
                    (None, Some(patience)) => earlier(call.end(), self.next_look(&call, patience, looked)),
                    (None, None) => call.end(),
                };
                match in_time(sent.as_mut(), end).await {
                    Ok(sent) => break Ok(sent),
                    Err(now) => {
                        let first = past_deadline.is_none();
                        past_deadline = self.look_past_deadline(&call, now);
                        if past_deadline.is_some() {
                            self.at_deadline.iter().filter(|_| first).for_each(|at_deadline| at_deadline());
                            continue;
                        }
                        let is_over = call.end().is_some_and(|end| end <= now);
                        paid = !is_over && self.gives_up(&call, now, patience);
                        if is_over || paid {
                            call.give_up();
                            break Err(now);
                        }
                        looked = Some(now);
                    }
                }
            }
        };
        self.paid = paid;
        self.latest = Avoided { endpoint: call.endpoint(), silent: sent.is_err() };
        let error = match sent {
            Ok(Some(Ok(reply))) => return Ok(reply),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => {
                let cancelled = Error::new(ErrorKind::Closed, "the client was closed before a response came");
                cancelled.with_outcome(Outcome::Unknown)
            }
            Err(end) => Error::new(ErrorKind::Timeout, self.no_response(end, paid)),
        };
        Err(call.handover().judge(error))
    }

    /// When to look again at an attempt that goes on past its deadline: not if it was not sent, nor if another endpoint responds and
    /// this one does not.
    fn look_past_deadline(&self, call: &Call<'_>, now: Instant) -> Option<Instant> {
        let deadline = self.deadline.filter(|deadline| self.at_deadline.is_some() && *deadline <= now)?;
        let end = self.core.deadline(deadline)?;
        let goes_on = now < end && !call.handover().revoke() && !self.has_better(call.endpoint(), false);
        goes_on.then(|| end.min(now + LOOK_PAST_DEADLINE))
    }

    /// What happened at the end of an attempt without a response, in words that are the same for each call.
    fn no_response(&self, end: Instant, gave_up: bool) -> Cow<'static, str> {
        if gave_up {
            "no response in time".into()
        } else if self.deadline != Some(end) {
            // It is counted from when the request could be sent, so the call's own time differs.
            "no response in the time that the transport allows".into()
        } else if self.stop.is_some() {
            "no response before the deadline".into()
        } else {
            format!("no response within {:?}", end - self.started).into()
        }
    }

    /// When to look at an attempt without a response: when its endpoint is unusually slow, at its share of the deadline, when the time
    /// for an attempt is over, and now and then after that.
    fn next_look(&self, call: &Call<'_>, patience: Duration, looked: Option<Instant>) -> Option<Instant> {
        let began = call.began();
        let later = |time| began.checked_add(time).filter(|look| looked.is_none_or(|looked| *look > looked));
        let (over, again) =
            (later(patience), looked.and_then(|looked| looked.checked_add((looked - began).max(SHORTEST_LOOK))));
        let last = earlier(over, again);
        // What is usual at the endpoint is not for a large request, nor for one that was slow already.
        let Some(unusual) = call.unusual().filter(|_| self.failed == 0 && self.retry.is_usual(patience)) else {
            return last;
        };
        let share = later(self.share(began, patience));
        earlier(earlier(share, Some(unusual).filter(|_| looked.is_none())), last)
    }

    /// The time of an attempt that leaves as much to another endpoint.
    fn share(&self, began: Instant, patience: Duration) -> Duration {
        self.deadline.map_or(patience, |deadline| deadline.saturating_duration_since(began) / 2)
    }

    /// Whether an attempt without a response is given up for another, which is paid for: its time is over, or its endpoint does not
    /// respond and another does, which is to have its turn before the deadline.
    fn gives_up(&self, call: &Call<'_>, now: Instant, patience: Option<Duration>) -> bool {
        let Some(patience) = patience.filter(|_| !call.is_responding()) else { return false };
        let waited = now - call.began();
        let is_over = self.repeatable && waited >= patience;
        // Of a call that is slow at two endpoints, it is the call.
        let may_be_early = self.failed == 0 && self.retry.is_usual(patience);
        let had_share = waited >= self.share(call.began(), patience);
        if !(is_over || may_be_early && self.has_better(call.endpoint(), had_share)) {
            return false;
        }
        if !self.core.spend_before_repeat() {
            return false;
        }
        // A call that was not sent may move even if it must not be repeated.
        let may_move = self.repeatable || call.handover().revoke();
        if !may_move {
            self.core.budget().refund();
        }
        may_move
    }

    /// Whether another endpoint responds, and this one does not, or has had its share of the time.
    fn has_better(&self, here: usize, had_share: bool) -> bool {
        let all = self.core.transport().endpoints();
        let available = || all.iter().zip(1..).filter(|(status, _)| status.available).map(|(_, index)| index);
        available().any(|index| index != here) && (had_share || available().all(|index| index != here))
    }

    /// Waits for the backoff before another attempt, or returns the error that the call ends with.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let (core, retry) = (self.core, self.retry);
        let error = core.with_endpoint(error, self.method, self.latest.endpoint);
        let paid = std::mem::take(&mut self.paid);
        // Nothing was tried while the endpoints were in backoff.
        if error.ready_at().is_none() || retry.waits_for_ready() {
            self.failed = self.failed.saturating_add(1);
        }
        self.counted = self.counted.saturating_add(u32::from(!retry.is_uncounted(&error)));
        self.may_have_run |= error.may_have_run();
        let next = retry.next(
            &Failed {
                method: self.method,
                error: &error,
                may_have_run: self.may_have_run,
                attempt: self.failed,
                counted: self.counted,
                repeatable: self.repeatable,
                started: self.started,
                now: Instant::now(),
                deadline: self.deadline,
                paid,
                endpoint: self.latest.endpoint,
                began: self.began,
            },
            core.budget(),
        );
        if paid && !matches!(next, Next::After(_)) {
            core.budget().refund();
        }
        let error = match next {
            Next::After(wait) => {
                tracing::debug!(method = self.method, attempt = self.failed, ?wait, %error, "call is retried");
                let waited = unless(tokio::time::sleep(wait), self.cancelled()).await.is_some();
                // The sleep may overrun; an attempt past the deadline would replace this error with a timeout.
                if waited && self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    return Ok(());
                }
                error
            }
            Next::Stop => error,
            Next::NoBudget => error.and(", and the retry budget is exhausted"),
        };
        let error = if self.may_have_run && !error.may_have_run() { error.outcome_unknown() } else { error };
        self.end(error.outcome());
        Err(log(self.method, error.after_attempts(self.failed.max(1))))
    }

    /// Sets the outcome of the whole call.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if let Some(running) = &mut self.running {
            running.end(outcome);
        }
    }
}

/// The earlier of two times, where none is never.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn log(method: &str, error: Error) -> Error {
    tracing::debug!(method, kind = error.kind().name(), %error, "call failed");
    error
}
