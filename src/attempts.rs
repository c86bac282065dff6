//! One call, attempt after attempt, until it ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;

use crate::client::Client;
use crate::close::{Cut, Running};
use crate::idempotency::{Key, Keyed};
use crate::request::sealed::Sealed as _;
use crate::retry::{Failed, LAST_REPEAT, Next};
use crate::transport::{Body, Call, NOWHERE, Reply, Transport};
use crate::{Error, ErrorKind, Method, Outcome, Request, batch};

/// A call and what became of it so far.
pub(crate) struct Attempts<'a> {
    client: &'a Client,
    method: &'a str,
    known: Option<Method>,
    /// Whether it may be carried out twice.
    repeatable: bool,
    /// `None` for what calls are carried in that are counted themselves.
    running: Option<Running<'a>>,
    /// Another sign to stop, besides the client's.
    stop: Option<&'a Cut>,
    started: Instant,
    /// Whether an attempt was made, of any part.
    begun: bool,
    deadline: Option<Instant>,
    /// The attempts that failed, and those of them that found a server.
    failed: u32,
    counted: u32,
    /// Whether one of them may have been carried out.
    may_have_run: bool,
    from: &'a dyn Transport,
    /// Where the latest attempt went: the next goes elsewhere, if it can.
    avoided: usize,
}

impl<'a> Attempts<'a> {
    /// Begins the call.
    pub(crate) fn new(
        client: &'a Client,
        method: &'a str,
        known: Option<Method>,
        repeatable: bool,
    ) -> Result<Self, Error> {
        let running = if tokio::runtime::Handle::try_current().is_ok() {
            client.shared.gate.enter()
        } else {
            Err(Error::invalid("the client was used outside of a tokio runtime"))
        };
        let running = running.map_err(|error| log(method, client.at(error, method)))?;
        let started = Instant::now();
        let deadline = client.deadline(started);
        Ok(Self { running: Some(running), ..Self::begun(client, method, known, repeatable, started, deadline) })
    }

    /// Begins a request that carries commands of others. They are in doubt, if they were in another one before, since then.
    pub(crate) fn carrying(
        client: &'a Client,
        deadline: Option<Instant>,
        in_doubt: Option<Instant>,
        running: Option<Running<'a>>,
        stop: &'a Cut,
    ) -> Self {
        let started = in_doubt.unwrap_or_else(Instant::now);
        let begun = Self::begun(client, Method::Batch.name(), Some(Method::Batch), false, started, deadline);
        let in_doubt = in_doubt.is_some();
        Self { running, stop: Some(stop), may_have_run: in_doubt, begun: in_doubt, ..begun }
    }

    fn begun(
        client: &'a Client,
        method: &'a str,
        known: Option<Method>,
        repeatable: bool,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            client,
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
            from: client.transport(),
            avoided: NOWHERE,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Says what is left to be carried: the method that it is sent as, and whether it may be carried out twice.
    pub(crate) fn carry(&mut self, method: Method, repeatable: bool) {
        (self.method, self.known, self.repeatable) = (method.name(), Some(method), repeatable);
    }

    /// The call was carried by a request of another kind.
    pub(crate) fn carried<T>(&mut self, carried: Result<T, Error>) -> Result<T, Error> {
        self.begun = true;
        match carried {
            Ok(reply) => {
                self.end(Outcome::Done);
                Ok(reply)
            }
            Err(error) => {
                self.end(error.outcome());
                Err(log(self.method, self.client.at(error, self.method)))
            }
        }
    }

    /// Ends when the call is to be cut off.
    async fn cut(&self) {
        let client = self.client.shared.gate.cut();
        match self.stop {
            None => client.await,
            Some(stop) => {
                unless(client, stop.wait()).await;
            }
        }
    }

    /// Where the answer came from.
    pub(crate) fn from(&self) -> &'a dyn Transport {
        self.from
    }

    /// The number of the endpoint that the latest attempt went to.
    pub(crate) fn place(&self) -> usize {
        self.avoided
    }

    /// Whether an attempt that failed may have been carried out.
    pub(crate) fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Whether the call may be carried out twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// When the first attempt began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// How many attempts have failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// How many attempts failed, and how many of them count.
    pub(crate) fn tried(&self) -> (u32, u32) {
        (self.failed, self.counted)
    }

    /// Goes on as after so many attempts at least, with what remains of a call whose parts had attempts of their own.
    pub(crate) fn have_tried(&mut self, (failed, counted): (u32, u32)) {
        (self.failed, self.counted) = (self.failed.max(failed), self.counted.max(counted));
    }

    /// Begins with a part of the call, which has attempts of its own in what is left of the call's time.
    pub(crate) fn begin_part(&mut self, repeatable: bool) -> Result<(), Error> {
        self.repeatable = repeatable;
        if !self.begun {
            return Ok(());
        }
        (self.failed, self.counted, self.may_have_run, self.avoided) = (0, 0, false, NOWHERE);
        if self.client.shared.gate.is_cut() {
            Err(Error::new(ErrorKind::Closed, "the client was closed before this part of the call"))
        } else if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let late = Error::new(ErrorKind::Timeout, "the time was over before this part of the call");
            Err(late.with_outcome(Outcome::NotSent))
        } else {
            Ok(())
        }
    }

    /// Sends a request with its own types, and a key if it has none.
    pub(crate) async fn run_typed<R: Request>(&mut self, request: &R, key: Option<Key>) -> Result<R::Reply, Error> {
        let keyed = key.map(|key| Keyed { request, key });
        let body: &dyn Body = match &keyed {
            Some(keyed) => keyed,
            None => request,
        };
        self.run(body, |reply| {
            let reply = reply.read()?;
            batch::check_answers(Request::answers(request), &reply).map(|()| reply)
        })
        .await
        .map(|mut reply: R::Reply| {
            if self.may_have_run {
                reply.doubt();
            }
            reply
        })
    }

    /// Sends `body` until an answer can be read, or until it is not to be sent again.
    pub(crate) async fn run<T>(
        &mut self,
        body: &dyn Body,
        read: impl Fn(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            match self.attempt(body, &read).await {
                Ok(read) => return Ok(read),
                Err(error) => self.again(error).await?,
            }
        }
    }

    /// Sends `body` once, and reads the answer.
    pub(crate) async fn attempt<T>(
        &mut self,
        body: &dyn Body,
        read: impl Fn(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let read = read(self.send(body).await?)?;
        if self.failed == 0 {
            self.client.shared.budget.earn();
        }
        self.end(Outcome::Done);
        Ok(read)
    }

    /// Sends `body` once, for as long as the attempt may last.
    async fn send(&mut self, body: &dyn Body) -> Result<Reply, Error> {
        let shared = &self.client.shared;
        let now = if std::mem::replace(&mut self.begun, true) { Instant::now() } else { self.started };
        // A body handed over later would be carried out again, its key forgotten.
        let last = self.may_have_run.then(|| self.started + LAST_REPEAT);
        let end = self.deadline.into_iter().chain(last).min();
        let deadline = self.client.retry.attempt_deadline(self.counted, self.repeatable, now, end);
        let call = Call::new(self.method, self.known, body, now, deadline);
        let call = call.that_ends_attempt(deadline != end).avoiding(self.avoided);
        let sent = unless(shared.carrier.send(&call), self.cut());
        let sent = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, sent).await.map_err(|_| deadline - now),
            None => Ok(sent.await),
        };
        (self.from, self.avoided) = (shared.carrier.at(call.place()), call.place());
        let error = match sent {
            Ok(Some(Ok(reply))) => return Ok(reply),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => {
                let cut = Error::new(ErrorKind::Closed, "it was closed before an answer came");
                cut.with_outcome(Outcome::Unknown)
            }
            Err(waited) => Error::new(ErrorKind::Timeout, format!("no answer within {waited:?}")),
        };
        Err(call.handover().judge(error))
    }

    /// Waits until it is time for another attempt, or says how the call ends.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let (client, retry) = (self.client, &self.client.retry);
        let error = error.at(self.method.to_owned().into(), self.from.name(), self.from.endpoint());
        self.failed = self.failed.saturating_add(1);
        self.counted = self.counted.saturating_add(u32::from(!retry.waits_for(&error)));
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
            &client.shared.budget,
        );
        let error = match next {
            Next::After(wait) => {
                tracing::debug!(method = self.method, attempt = self.failed, ?wait, %error, "call to be repeated");
                let waited = unless(tokio::time::sleep(wait), self.cut()).await.is_some();
                // The clock is not exact, and an attempt without time would only hide this error.
                if waited && self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    return Ok(());
                }
                error
            }
            Next::Stop => error,
            Next::NoBudget => error.and(", and it is not repeated because too many calls lately were"),
        };
        let error = if self.may_have_run && !error.may_have_run() { error.in_doubt() } else { error };
        self.end(error.outcome());
        Err(log(self.method, error.after_attempts(self.failed)))
    }

    /// Says how the call as a whole has ended, if not as its last attempt.
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

/// The future's output, unless `stop` ends first.
pub(crate) async fn unless<F: Future>(future: F, stop: impl Future<Output = ()>) -> Option<F::Output> {
    let (mut future, mut stop) = (pin!(future), pin!(stop));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| None),
    })
    .await
}
