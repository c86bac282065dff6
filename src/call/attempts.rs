//! One call: its attempts, until it has a response or an error.

use std::future::{Future, pending};

use tokio::time::Instant;

use crate::api::method::Method;
use crate::call::Core;
use crate::call::close::Running;
use crate::call::retry::{Failed, LATEST_REPEAT_END, Next};
use crate::config::retry::Retry;
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::{Cancel, in_time, unless};
use crate::transport::call::{Call, NO_ENDPOINT};
use crate::wire::body::Body;
use crate::wire::reply::Reply;

/// A call and the state of its attempts.
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
    started: Instant,
    /// Whether an attempt of any part was made.
    begun: bool,
    deadline: Option<Instant>,
    /// The attempts that failed, and those of them that count against `Retry::attempts`.
    failed: u32,
    counted: u32,
    /// Whether one of them may have taken effect.
    may_have_run: bool,
    /// The endpoint of the latest attempt, which the next one avoids if there is another.
    endpoint: usize,
}

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
    /// its outcome is unknown.
    pub(crate) fn of_batch(
        core: &'a Core,
        retry: &'a Retry,
        deadline: Option<Instant>,
        unknown_since: Option<Instant>,
        running: Option<Running<'a>>,
        stop: &'a Cancel,
    ) -> Self {
        let started = unknown_since.unwrap_or_else(Instant::now);
        let begun = Self::begun(core, retry, Method::Batch.name(), Some(Method::Batch), false, started, deadline);
        let is_unknown = unknown_since.is_some();
        Self { running, stop: Some(stop), may_have_run: is_unknown, begun: is_unknown, ..begun }
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
            started,
            begun: false,
            deadline,
            failed: 0,
            counted: 0,
            may_have_run: false,
            endpoint: NO_ENDPOINT,
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
        self.endpoint
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
        (self.failed, self.counted, self.may_have_run, self.endpoint) = (0, 0, false, NO_ENDPOINT);
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
        let read = read(self.send(body).await?)?;
        if self.failed == 0 {
            self.core.budget().earn();
        }
        self.end(Outcome::Done);
        Ok(read)
    }

    /// Sends `body` once, until the attempt's deadline.
    async fn send(&mut self, body: &dyn Body) -> Result<Reply, Error> {
        let now = if std::mem::replace(&mut self.begun, true) { Instant::now() } else { self.started };
        // A body handed over later would take effect again: the server has dropped its idempotency key by then.
        let last = self.may_have_run.then(|| self.started + LATEST_REPEAT_END);
        let end = self.deadline.into_iter().chain(last).min();
        let deadline = self.retry.attempt_deadline(self.counted, self.repeatable, body.size(), now, end);
        let call = Call::of(self.method, self.known, body, now, deadline);
        let call = call.that_ends_attempt(deadline != end).avoiding(self.endpoint);
        let sent = unless(self.core.transport().send(&call), self.cancelled());
        let sent = in_time(sent, || call.end()).await;
        self.endpoint = call.endpoint();
        let error = match sent {
            Ok(Some(Ok(reply))) => return Ok(reply),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => {
                let cancelled = Error::new(ErrorKind::Closed, "the client was closed before a response came");
                cancelled.with_outcome(Outcome::Unknown)
            }
            Err(end) => {
                // From when the call began, if it is the call's own deadline: so the text is the same for each call.
                let limit = if self.deadline == Some(end) { end - self.started } else { end - now };
                Error::new(ErrorKind::Timeout, format!("no response within {limit:?}"))
            }
        };
        Err(call.handover().judge(error))
    }

    /// Waits for the backoff before another attempt, or returns the error that the call ends with.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let (core, retry) = (self.core, self.retry);
        let error = core.with_endpoint(error, self.method, self.endpoint);
        self.failed = self.failed.saturating_add(1);
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
            },
            core.budget(),
        );
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
        Err(log(self.method, error.after_attempts(self.failed)))
    }

    /// Sets the outcome of the whole call.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if let Some(running) = &mut self.running {
            running.end(outcome);
        }
    }
}

fn log(method: &str, error: Error) -> Error {
    tracing::debug!(method, kind = error.kind().name(), %error, "call failed");
    error
}
