//! Balances calls over the endpoints of one transport, and sends a call that was not processed again.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::message::InfoRequest;
use crate::api::method::Method;
use crate::config::LoadBalancing;
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::Mutex;
use crate::transport::call::{Call, NO_ENDPOINT};
use crate::transport::routing::health::{Facts, Health, Sign, Standing, Why};
use crate::transport::routing::pulse::Pulse;
use crate::transport::{Transport, backoff};
use crate::wire::reply::Reply;

/// How long a trial waits for its response.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a call waits for endpoints that do not process calls.
const MAX_WAITS: u32 = 2;

/// The endpoints of one transport. A clone shares them.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    endpoints: Arc<[Endpoint]>,
    load_balancing: LoadBalancing,
    /// Whether calls have another way than one endpoint.
    has_choice: bool,
}

#[derive(Debug)]
struct Endpoint {
    transport: Box<dyn Transport>,
    /// Its index among all endpoints of the client, from 1.
    number: usize,
    pulse: Pulse,
    /// Whether `health` has failures recorded. Otherwise a successful call need not lock it.
    impaired: AtomicBool,
    health: Mutex<Health>,
    losses: Losses,
    /// The error of the last failed dial.
    reason: Mutex<Option<Error>>,
}

/// An endpoint as [`Client::endpoints`](crate::Client::endpoints) shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// The transport's name: `"grpc"` or `"http"`.
    pub transport: &'static str,
    /// The address.
    pub endpoint: std::sync::Arc<str>,
    /// Whether it is given calls. One that failed is left out for a time, and then tried with one call.
    pub available: bool,
    /// The calls in flight.
    pub in_flight: usize,
}

impl Balancer {
    /// Balances over these endpoints, numbered after `others` others; `has_fallback` says whether calls can go elsewhere.
    pub(crate) fn new(
        transports: Vec<Box<dyn Transport>>,
        load_balancing: LoadBalancing,
        others: usize,
        has_fallback: bool,
    ) -> Self {
        let has_choice = transports.len() > 1 || has_fallback;
        let endpoints = transports.into_iter().zip(others + 1..).map(|(transport, number)| Endpoint {
            transport,
            number,
            pulse: Pulse::new(),
            impaired: AtomicBool::new(false),
            health: Mutex::default(),
            losses: Losses::default(),
            reason: Mutex::default(),
        });
        Self { endpoints: endpoints.collect(), load_balancing, has_choice }
    }

    /// The endpoint named by errors of calls that were not sent.
    pub(crate) fn first(&self) -> &dyn Transport {
        &*self.endpoints[0].transport
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn status(&self) -> impl Iterator<Item = EndpointStatus> {
        let now = Instant::now();
        self.endpoints.iter().map(move |endpoint| EndpointStatus {
            transport: endpoint.transport.name(),
            endpoint: endpoint.transport.endpoint().unwrap_or_default(),
            available: endpoint.is_available(now),
            in_flight: endpoint.pulse.in_flight(),
        })
    }

    pub(crate) fn disconnect(&self) {
        for endpoint in &*self.endpoints {
            endpoint.transport.disconnect();
        }
    }

    /// Whether every endpoint is left out.
    pub(crate) fn is_out(&self) -> bool {
        let now = Instant::now();
        self.endpoints.iter().all(|endpoint| endpoint.standing(now) != Standing::In)
    }

    /// Whether an endpoint other than this one is given calls.
    pub(crate) fn has_other(&self, number: usize) -> bool {
        let now = Instant::now();
        self.endpoints.iter().any(|endpoint| endpoint.number != number && endpoint.is_available(now))
    }

    /// Sends a call to an endpoint, and as long as it certainly never reached it, to the others, each once. A call that the server did
    /// not process goes again to any of them, also to the same, until the health of all forbids it.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let (mut tried, mut unprocessed, mut waits, mut last) = (Vec::new(), 0, 0, None);
        let (mut avoided, mut now) = (call.avoided().endpoint, call.began());
        loop {
            let Some((index, trial)) = self.pick(&tried, avoided, now) else {
                // One that does not process calls now may do so in a moment.
                let Some(until) = self.refusing_until(&tried).filter(|_| waits < MAX_WAITS) else { break };
                waits += 1;
                tokio::time::sleep_until(until).await;
                now = Instant::now();
                continue;
            };
            let endpoint = &self.endpoints[index];
            let error = match endpoint.send(self, call, trial, now).await {
                Err(error) if never_arrived(&error) => error,
                sent => return sent,
            };
            tracing::debug!(method = call.method(), %error, "the call is sent again");
            if error.kind() == ErrorKind::Lost {
                (avoided, unprocessed) = (endpoint.number, unprocessed + 1);
                let wait = backoff::resend(unprocessed);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            } else {
                tried.push(index);
            }
            last = Some(error);
            now = Instant::now();
        }
        Err(last.unwrap_or_else(|| self.all_out(now)))
    }

    /// Sends a call to one endpoint after the other, whatever their health, until one responds. The timeout is for each endpoint.
    pub(crate) async fn probe<'a>(
        &self,
        timeout: Duration,
        call: impl Fn(Instant, Instant) -> Call<'a>,
    ) -> Option<Reply> {
        for endpoint in &*self.endpoints {
            let now = Instant::now();
            let call = call(now, now + timeout);
            let trial = endpoint.begin_trial(now);
            if let Some(Ok(reply)) = self.send_within(timeout, endpoint, &call, trial).await {
                return Some(reply);
            }
        }
        None
    }

    /// Sends a call that is given up after this time.
    async fn send_within(
        &self,
        timeout: Duration,
        endpoint: &Endpoint,
        call: &Call<'_>,
        trial: bool,
    ) -> Option<Result<Reply, Error>> {
        let mut sent = pin!(endpoint.send(self, call, trial, call.began()));
        let sent = tokio::time::timeout(timeout, sent.as_mut()).await.ok();
        if sent.is_none() {
            // Before it is dropped, which is when that is recorded.
            call.give_up();
        }
        sent
    }

    /// The endpoint for the next call, and whether the call is its trial.
    fn pick(&self, tried: &[usize], avoided: usize, now: Instant) -> Option<(usize, bool)> {
        let is_silent = |index: usize| self.endpoints[index].pulse.is_silent(now);
        let busy = |index: usize| (is_silent(index), self.endpoints[index].pulse.in_flight());
        let less_busy = |one, other| if busy(one) <= busy(other) { one } else { other };
        if tried.is_empty() && avoided == NO_ENDPOINT && !self.endpoints.iter().any(Endpoint::is_impaired) {
            let number = self.endpoints.len();
            let index = match (self.load_balancing, number) {
                (_, 1) => 0,
                (LoadBalancing::Priority, _) => (0..number).find(|index| !is_silent(*index)).unwrap_or(0),
                (LoadBalancing::LeastBusy, _) => {
                    let (one, other) = two_of(number);
                    less_busy(one, other)
                }
            };
            return Some((index, false));
        }
        let standing: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.standing(now)).collect();
        let untried = |index: &usize| !tried.contains(index);
        let mut candidates: Vec<_> =
            (0..standing.len()).filter(|index| standing[*index] == Standing::In).filter(untried).collect();
        // Silent endpoints, and the one of the last attempt, are used if there is no other.
        prefer(&mut candidates, |index| self.endpoints[*index].number != avoided);
        prefer(&mut candidates, |index| !is_silent(*index));
        let picked = match (self.load_balancing, candidates.len()) {
            (LoadBalancing::Priority, _) | (_, 0 | 1) => candidates.first().copied(),
            (LoadBalancing::LeastBusy, number) => {
                let (one, other) = two_of(number);
                Some(less_busy(candidates[one], candidates[other]))
            }
        };
        if let Some(index) = picked {
            self.begin_trials(&standing, now);
            return Some((index, false));
        }
        // All are ejected: the call itself is the trial of the one that is due.
        let due = (0..standing.len()).filter(untried).find(|index| standing[*index] == Standing::Due);
        if let Some(index) = due {
            // Another call may have just claimed the trial.
            return Some((index, self.endpoints[index].begin_trial(now)));
        }
        // One that timed out or is on trial may still respond; one that cannot be connected to will not.
        let may_respond = |index: &usize| {
            standing[*index] == Standing::OnTrial || self.endpoints[*index].health().why() == Some(Why::Failing)
        };
        let soonest =
            (0..standing.len()).filter(untried).filter(may_respond).min_by_key(|index| match standing[*index] {
                Standing::Out(until) => Some(until),
                Standing::In | Standing::Due | Standing::OnTrial => None,
            });
        soonest.map(|index| (index, false))
    }

    /// Until when those are ejected that did not process calls.
    fn refusing_until(&self, tried: &[usize]) -> Option<Instant> {
        let untried = self.endpoints.iter().enumerate().filter(|(index, _)| !tried.contains(index));
        let until = untried.filter_map(|(_, endpoint)| endpoint.health().refusing_until());
        until.min()
    }

    /// Sends a trial to each endpoint that is due, so that no call has to wait for one that is not back.
    fn begin_trials(&self, standing: &[Standing], now: Instant) {
        for (index, _) in standing.iter().enumerate().filter(|(_, standing)| **standing == Standing::Due) {
            if self.endpoints[index].begin_trial(now) {
                let balancer = self.clone();
                tokio::spawn(async move { balancer.try_endpoint(index).await });
            }
        }
    }

    /// Asks an endpoint for `info`, which a server responds to by itself.
    async fn try_endpoint(self, index: usize) {
        let (request, now) = (InfoRequest::new(), Instant::now());
        let call = Call::of(Method::Info.name(), Some(Method::Info), &request, now, Some(now + TRIAL_TIMEOUT));
        // What it says of the endpoint is recorded.
        let _ = self.send_within(TRIAL_TIMEOUT, &self.endpoints[index], &call, true).await;
    }

    /// Makes the trial of the others due, if this endpoint was the last: when none is known to work, one is tried at once.
    fn end_backoff_without(&self, last: &Endpoint, now: Instant) {
        if self.is_out() {
            for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.number != last.number) {
                endpoint.health().end_backoff(now);
            }
        }
    }

    fn facts(&self, of: &Endpoint, now: Instant) -> Facts {
        Facts { now, silent: of.pulse.has_fallen_silent(now), others_well: self.others_well(of, now) }
    }

    /// Records that a response of the endpoint with this number could not be read.
    pub(crate) fn reject(&self, number: usize) {
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.number == number) {
            endpoint.note(Sign::Unreadable, false, self.facts(endpoint, Instant::now()), self);
        }
    }

    /// Whether an endpoint other than this one responds well.
    fn others_well(&self, this: &Endpoint, now: Instant) -> bool {
        self.endpoints.iter().filter(|endpoint| endpoint.number != this.number).any(|endpoint| {
            endpoint.is_available(now) && endpoint.pulse.usual().is_some() && !endpoint.health().is_bad()
        })
    }

    /// The error when no endpoint was tried.
    fn all_out(&self, now: Instant) -> Error {
        let reasons = self.endpoints.iter().filter_map(|endpoint| endpoint.reason().as_ref().map(Error::echo));
        // An error that is not transient takes precedence.
        let reason = reasons.min_by_key(Error::is_transient);
        let reason = reason.unwrap_or_else(|| Error::new(ErrorKind::Connect, "no connection could be made"));
        let until = self.endpoints.iter().filter_map(|endpoint| match endpoint.standing(now) {
            Standing::Out(until) => Some(until),
            _ => None,
        });
        reason.and("; every endpoint is in backoff").in_backoff(until.min().unwrap_or(now))
    }
}

/// Keeps the candidates that are better, if there are any.
fn prefer(candidates: &mut Vec<usize>, is_better: impl Fn(&usize) -> bool) {
    if candidates.iter().any(&is_better) {
        candidates.retain(is_better);
    }
}

impl Endpoint {
    fn is_impaired(&self) -> bool {
        self.impaired.load(Ordering::Relaxed)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock()
    }

    fn reason(&self) -> MutexGuard<'_, Option<Error>> {
        self.reason.lock()
    }

    fn standing(&self, now: Instant) -> Standing {
        if self.is_impaired() { self.health().standing(now) } else { Standing::In }
    }

    fn is_available(&self, now: Instant) -> bool {
        self.standing(now) == Standing::In && !self.pulse.is_silent(now)
    }

    /// Claims the trial, unless another call has just done so.
    fn begin_trial(&self, now: Instant) -> bool {
        let mut health = self.health();
        let due = health.standing(now) == Standing::Due;
        if due {
            health.begin_trial();
        }
        due
    }

    async fn send(&self, among: &Balancer, call: &Call<'_>, trial: bool, began: Instant) -> Result<Reply, Error> {
        call.set_endpoint(self.number);
        if among.has_choice {
            call.limit_usual(began.saturating_duration_since(call.began()) + self.pulse.patience().saturating_mul(2));
        }
        let mut in_flight = InFlight::new(self, among, call, trial, began);
        match self.transport.send(call).await {
            Ok(reply) => {
                in_flight.sign = Some(Sign::Responded);
                Ok(reply)
            }
            Err(error) => {
                let error = error.with_context(
                    call.method().to_owned().into(),
                    self.transport.name(),
                    self.transport.endpoint(),
                );
                let sign = sign(&error);
                in_flight.sign = Some(sign);
                if sign == Sign::Unreachable {
                    *self.reason() = Some(error.echo());
                }
                Err(error)
            }
        }
    }

    fn note(&self, sign: Sign, trial: bool, facts: Facts, among: &Balancer) {
        let now = facts.now;
        let mut health = self.health();
        let (before, disconnect) = (health.standing(now), health.note(sign, trial, facts));
        let after = health.standing(now);
        self.impaired.store(!health.is_clear(), Ordering::Relaxed);
        drop(health);
        if disconnect && self.transport.fail_over() {
            tracing::info!(endpoint = self.transport.endpoint().as_deref(), ?sign, "another address is used");
            self.health().readmit();
            return;
        }
        let endpoint = self.transport.endpoint();
        match (before, after) {
            (Standing::In, Standing::Out(_)) => {
                tracing::info!(endpoint = endpoint.as_deref(), ?sign, "endpoint left out");
                among.end_backoff_without(self, now);
            }
            (Standing::Out(_) | Standing::Due | Standing::OnTrial, Standing::In) => {
                tracing::info!(endpoint = endpoint.as_deref(), "endpoint is back");
            }
            _ => {}
        }
    }
}

/// Counts lost calls: those that end with the same connection count as one loss.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<Option<Instant>>);

impl Losses {
    /// Records the loss of a call that began then. Whether it is a new loss: the call was not in flight at the last one.
    pub(super) fn begin(&self, began: Instant) -> bool {
        let mut last = self.0.lock();
        let is_new = last.is_none_or(|last| began > last);
        if is_new {
            *last = Some(Instant::now());
        }
        is_new
    }
}

/// A call in flight to an endpoint. Recorded when it ends or is dropped.
struct InFlight<'a> {
    endpoint: &'a Endpoint,
    among: &'a Balancer,
    call: &'a Call<'a>,
    trial: bool,
    began: Instant,
    /// The same in nanoseconds.
    began_at: u64,
    /// `None` if it is dropped.
    sign: Option<Sign>,
}

impl<'a> InFlight<'a> {
    fn new(endpoint: &'a Endpoint, among: &'a Balancer, call: &'a Call<'a>, trial: bool, began: Instant) -> Self {
        let began_at = endpoint.pulse.nanos(began);
        endpoint.pulse.begin(began_at);
        Self { endpoint, among, call, trial, began, began_at, sign: None }
    }

    /// What its end says about the endpoint.
    fn sign(&self, now: Instant) -> Sign {
        let Self { endpoint, began, began_at, call, .. } = *self;
        let is_failure = |sign| match sign {
            // Those that were in flight at the last loss ended with the same connection.
            Sign::Lost | Sign::Unprocessed => self.trial || endpoint.losses.begin(began),
            _ => true,
        };
        match self.sign {
            Some(sign) => Some(sign).filter(|sign| is_failure(*sign)).unwrap_or(Sign::Nothing),
            // The client drops calls at their deadline. Other callers drop theirs for reasons of their own.
            None if call.is_given_up() && endpoint.pulse.is_timeout(now - began) => Sign::TimedOut,
            None if endpoint.pulse.is_silent_since(began_at, now) => Sign::TimedOut,
            None => Sign::Nothing,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let Self { endpoint, among, call, trial, .. } = *self;
        endpoint.pulse.end();
        let has_responded = self.sign == Some(Sign::Responded);
        if has_responded {
            endpoint.pulse.respond(self.began_at);
            if !trial && !endpoint.is_impaired() {
                return;
            }
        }
        let now = Instant::now();
        let sign = self.sign(now);
        if matches!(sign, Sign::Lost | Sign::TimedOut) {
            call.set_failed();
        }
        if sign != Sign::Nothing || trial {
            endpoint.note(sign, trial, among.facts(endpoint, now), among);
        }
    }
}

/// Two different numbers below `number`, which is at least 2.
fn two_of(number: usize) -> (usize, usize) {
    let one = fastrand::usize(..number);
    (one, (one + fastrand::usize(1..number)) % number)
}

/// What an error says about the endpoint.
pub(super) fn sign(error: &Error) -> Sign {
    use ErrorKind::{Api, Closed, Connect, Invalid, Lost, Protocol, Timeout, TooLarge, Unauthenticated, Unavailable};
    use Outcome::{NotSent, Unknown};
    match (error.kind(), error.outcome()) {
        _ if error.is_local() => Sign::Nothing,
        _ if error.is_overload() => Sign::Responded,
        (Connect, _) => Sign::Unreachable,
        (Lost, NotSent) => Sign::Unprocessed,
        (Invalid | TooLarge | Closed | Unauthenticated, NotSent) => Sign::Nothing,
        (Lost, _) | (Unavailable, Unknown) => Sign::Lost,
        (Timeout, Unknown | NotSent) => Sign::TimedOut,
        (Protocol | Api, Unknown) => Sign::Bad,
        _ => Sign::Responded,
    }
}

/// Whether the call certainly never reached the endpoint, so that another one can get it.
pub(super) fn never_arrived(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost) && error.outcome() == Outcome::NotSent
}

#[cfg(test)]
mod tests;
