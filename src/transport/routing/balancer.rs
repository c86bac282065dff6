//! Balances calls over the endpoints of one transport, and sends a call that never reached one to another.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::LoadBalancing;
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::Mutex;
use crate::transport::Transport;
use crate::transport::call::{Call, NO_ENDPOINT};
use crate::transport::routing::health::{Health, Sign, Standing};
use crate::wire::reply::Reply;

/// The endpoints of one transport.
#[derive(Debug)]
pub(crate) struct Balancer {
    endpoints: Vec<Endpoint>,
    load_balancing: LoadBalancing,
}

#[derive(Debug)]
struct Endpoint {
    transport: Box<dyn Transport>,
    /// Its index among all endpoints of the client, from 1.
    number: usize,
    in_flight: AtomicUsize,
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
    pub(crate) fn new(transports: Vec<Box<dyn Transport>>, load_balancing: LoadBalancing) -> Self {
        let endpoints = transports.into_iter().zip(1..).map(|(transport, number)| Endpoint {
            transport,
            number,
            in_flight: AtomicUsize::new(0),
            impaired: AtomicBool::new(false),
            health: Mutex::default(),
            losses: Losses::default(),
            reason: Mutex::default(),
        });
        Self { endpoints: endpoints.collect(), load_balancing }
    }

    /// The endpoint named by errors of calls that were not sent.
    pub(crate) fn first(&self) -> &dyn Transport {
        &*self.endpoints[0].transport
    }

    /// The same endpoints, numbered after those of `others`.
    pub(crate) fn numbered_after(mut self, others: &Self) -> Self {
        for endpoint in &mut self.endpoints {
            endpoint.number += others.endpoints.len();
        }
        self
    }

    pub(crate) fn status(&self) -> impl Iterator<Item = EndpointStatus> {
        let now = Instant::now();
        self.endpoints.iter().map(move |endpoint| EndpointStatus {
            transport: endpoint.transport.name(),
            endpoint: endpoint.transport.endpoint().unwrap_or_default(),
            available: endpoint.standing(now) == Standing::In,
            in_flight: endpoint.in_flight.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn disconnect(&self) {
        for endpoint in &self.endpoints {
            endpoint.transport.disconnect();
        }
    }

    /// Whether every endpoint is left out.
    pub(crate) fn is_out(&self) -> bool {
        let now = Instant::now();
        self.endpoints.iter().all(|endpoint| endpoint.standing(now) != Standing::In)
    }

    /// Sends a call to one endpoint, and as long as it certainly never reached it, to the others, each once.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let mut tried = Vec::new();
        let mut last = None;
        while let Some((index, trial)) = self.pick(&tried, call.avoided()) {
            match self.endpoints[index].send(call, trial).await {
                Err(error) if never_arrived(&error) && tried.len() + 1 < self.endpoints.len() => {
                    tracing::debug!(method = call.method(), %error, "the call goes to another endpoint");
                    tried.push(index);
                    last = Some(error);
                }
                sent => return sent,
            }
        }
        Err(last.unwrap_or_else(|| self.all_out()))
    }

    /// Sends a call to one endpoint after the other, whatever their health, until one responds. The timeout is for each endpoint.
    pub(crate) async fn probe<'a>(
        &self,
        timeout: Duration,
        call: impl Fn(Instant, Instant) -> Call<'a>,
    ) -> Option<Reply> {
        for endpoint in &self.endpoints {
            let now = Instant::now();
            let call = call(now, now + timeout);
            let trial = endpoint.begin_trial(now);
            if let Ok(Ok(reply)) = tokio::time::timeout(timeout, endpoint.send(&call, trial)).await {
                return Some(reply);
            }
        }
        None
    }

    /// The endpoint for the next call, and whether the call is its trial.
    fn pick(&self, tried: &[usize], avoided: usize) -> Option<(usize, bool)> {
        let busy = |index: usize| self.endpoints[index].in_flight.load(Ordering::Relaxed);
        let less_busy = |one, other| if busy(one) <= busy(other) { one } else { other };
        if tried.is_empty() && avoided == NO_ENDPOINT && !self.endpoints.iter().any(Endpoint::is_impaired) {
            let index = match (self.load_balancing, self.endpoints.len()) {
                (LoadBalancing::Priority, _) | (_, 1) => 0,
                (LoadBalancing::LeastBusy, number) => {
                    let (one, other) = two_of(number);
                    less_busy(one, other)
                }
            };
            return Some((index, false));
        }
        let now = Instant::now();
        let standing: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.standing(now)).collect();
        let usable = |index: &usize| matches!(standing[*index], Standing::In | Standing::Due) && !tried.contains(index);
        let mut candidates: Vec<_> = (0..self.endpoints.len()).filter(usable).collect();
        if candidates.len() > 1 {
            candidates.retain(|index| self.endpoints[*index].number != avoided);
        }
        let picked = match (self.load_balancing, candidates.len()) {
            (LoadBalancing::Priority, _) | (_, 0 | 1) => candidates.first().copied(),
            (LoadBalancing::LeastBusy, number) => {
                let (one, other) = two_of(number);
                Some(less_busy(candidates[one], candidates[other]))
            }
        };
        if let Some(index) = picked {
            return match standing[index] {
                Standing::Due if self.endpoints[index].begin_trial(now) => Some((index, true)),
                // Another call has just claimed the trial.
                Standing::Due => self.pick(tried, avoided),
                _ => Some((index, false)),
            };
        }
        // All are ejected. One that timed out or is on trial may still respond; one that cannot be connected to will not.
        if !tried.is_empty() {
            return None;
        }
        let may_respond =
            |index: &usize| standing[*index] == Standing::OnTrial || !self.endpoints[*index].health().is_unreachable();
        let soonest = (0..self.endpoints.len()).filter(may_respond).min_by_key(|index| match standing[*index] {
            Standing::Out(until) => Some(until),
            Standing::In | Standing::Due | Standing::OnTrial => None,
        });
        soonest.map(|index| (index, false))
    }

    /// The error when no endpoint was tried.
    fn all_out(&self) -> Error {
        let reasons = self.endpoints.iter().filter_map(|endpoint| endpoint.reason().as_ref().map(Error::echo));
        // An error that is not transient takes precedence.
        let reason = reasons.min_by_key(Error::is_transient);
        let reason = reason.unwrap_or_else(|| Error::new(ErrorKind::Connect, "no connection could be made"));
        reason.and("; every endpoint is in backoff")
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

    /// Claims the trial, unless another call has just done so.
    fn begin_trial(&self, now: Instant) -> bool {
        let mut health = self.health();
        let due = health.standing(now) == Standing::Due;
        if due {
            health.begin_trial();
        }
        due
    }

    async fn send(&self, call: &Call<'_>, trial: bool) -> Result<Reply, Error> {
        call.set_endpoint(self.number);
        let mut in_flight = InFlight::new(self, call, trial);
        let sent = self.transport.send(call).await;
        match sent {
            Ok(reply) => {
                in_flight.sign = Sign::Responded;
                Ok(reply)
            }
            Err(error) => {
                let error = error.with_context(
                    call.method().to_owned().into(),
                    self.transport.name(),
                    self.transport.endpoint(),
                );
                in_flight.sign = sign(&error);
                if in_flight.sign == Sign::Unreachable {
                    *self.reason() = Some(error.echo());
                }
                Err(error)
            }
        }
    }

    fn note(&self, sign: Sign, trial: bool) {
        if sign == Sign::Responded && !trial && !self.is_impaired() {
            return;
        }
        let now = Instant::now();
        let mut health = self.health();
        let (before, disconnect) = (health.standing(now), health.note(sign, trial, now));
        let after = health.standing(now);
        self.impaired.store(!health.is_clear(), Ordering::Relaxed);
        drop(health);
        if disconnect {
            self.transport.disconnect();
        }
        let endpoint = self.transport.endpoint();
        match (before, after) {
            (Standing::In, Standing::Out(_)) => {
                tracing::info!(endpoint = endpoint.as_deref(), ?sign, "endpoint left out");
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
    call: &'a Call<'a>,
    trial: bool,
    sign: Sign,
}

impl<'a> InFlight<'a> {
    fn new(endpoint: &'a Endpoint, call: &'a Call<'a>, trial: bool) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, call, trial, sign: Sign::Nothing }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        // The client drops calls at their deadline.
        if self.sign == Sign::Nothing && self.call.has_timed_out() {
            self.sign = Sign::TimedOut;
        }
        if self.sign == Sign::Lost && !self.trial && !self.endpoint.losses.begin(self.call.began()) {
            self.sign = Sign::Nothing;
        }
        if self.sign != Sign::Nothing || self.trial {
            self.endpoint.note(self.sign, self.trial);
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
    use ErrorKind::{Closed, Connect, Invalid, Lost, Timeout, TooLarge, Unauthenticated, Unavailable};
    use Outcome::{NotSent, Unknown};
    match (error.kind(), error.outcome()) {
        _ if error.is_overload() => Sign::Responded,
        (Connect, _) => Sign::Unreachable,
        // The connection was drained, or the call was never sent.
        (Lost | Invalid | TooLarge | Closed | Unauthenticated, NotSent) => Sign::Nothing,
        (Lost, _) | (Unavailable, Unknown) => Sign::Lost,
        (Timeout, Unknown | NotSent) => Sign::TimedOut,
        _ => Sign::Responded,
    }
}

/// Whether the call certainly never reached the endpoint, so that another one can get it.
pub(super) fn never_arrived(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost) && error.outcome() == Outcome::NotSent
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::transport::from_fn;

    #[test]
    fn the_only_endpoint_gets_calls_during_its_trial() {
        let fake = Box::new(from_fn("fake", |_| std::future::ready(Ok(Reply::json("")))));
        let balancer = Balancer::new(vec![fake], LoadBalancing::LeastBusy);
        let past = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        balancer.endpoints[0].health().note(Sign::Unreachable, false, past);
        balancer.endpoints[0].impaired.store(true, Ordering::Relaxed);
        assert_eq!(balancer.pick(&[], NO_ENDPOINT), Some((0, true)));
        assert_eq!(balancer.pick(&[], NO_ENDPOINT), Some((0, false)));
        // After the trial fails to connect, it gets no calls.
        balancer.endpoints[0].note(Sign::Unreachable, true);
        assert_eq!(balancer.pick(&[], NO_ENDPOINT), None);
    }

    #[test]
    fn of_concurrent_calls_exactly_one_is_the_trial() {
        const CALLS: usize = 4;
        let fake = || Box::new(from_fn("fake", |_| std::future::ready(Ok(Reply::json(""))))) as Box<dyn Transport>;
        for _ in 0..500 {
            let balancer = Balancer::new(vec![fake(), fake()], LoadBalancing::Priority);
            let past = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
            balancer.endpoints[0].health().note(Sign::Unreachable, false, past);
            balancer.endpoints[0].impaired.store(true, Ordering::Relaxed);
            let together = Barrier::new(CALLS);
            let pick = || {
                together.wait();
                balancer.pick(&[], NO_ENDPOINT).unwrap()
            };
            let picked: Vec<_> = thread::scope(|scope| {
                let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(pick)).collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            });
            assert_eq!(picked.iter().filter(|picked| **picked == (0, true)).count(), 1, "{picked:?}");
            assert_eq!(picked.iter().filter(|picked| **picked == (1, false)).count(), CALLS - 1, "{picked:?}");
        }
    }
}
