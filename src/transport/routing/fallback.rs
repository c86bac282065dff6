//! Routes a call to gRPC or HTTP, and falls back from one to the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::message::{InfoRequest, InfoResult};
use crate::api::method::Method;
use crate::config::endpoint::Endpoint;
use crate::config::{Any, Config};
use crate::error::{Error, ErrorKind};
use crate::sync::{BoxFuture, Mutex};
use crate::transport::Transport;
use crate::transport::call::{Avoided, Call};
#[cfg(feature = "grpc")]
use crate::transport::grpc::Grpc;
#[cfg(feature = "http")]
use crate::transport::http::Http;
use crate::transport::net::memory::ReplyMemory;
use crate::transport::routing::balancer::{self, Balancer, EndpointStatus, Losses, never_arrived};
use crate::transport::routing::breaker::{Breaker, BreakerState, Cause, Sign};
use crate::transport::routing::health;
use crate::wire::reply::Reply;

/// The timeout of a probe at each endpoint.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many probes must succeed in a row.
const PROBES: u32 = 2;

/// The transport of a [`Config`]: all its endpoints, over gRPC or over HTTP, with the fallback if there is one.
///
/// A clone shares the connections.
#[derive(Clone, Debug)]
pub struct Route(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    first: Balancer,
    fallback: Option<Fallback>,
}

impl<T: Clone> Config<T>
where
    Self: Into<Config>,
{
    /// Makes the transport that this configuration describes, for a transport that wraps it. It connects with the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong: the text names it.
    pub fn transport(&self) -> Result<Route, Error> {
        let config: Config = self.clone().into();
        let fallback = config.common.fallback.as_deref();
        let first = balancer(&config, 0, fallback.is_some())?;
        let fallback = match fallback {
            Some(fallback) => {
                config.common.check_fallback(&fallback.common)?;
                Some(balancer(fallback, first.len(), true)?)
            }
            None => None,
        };
        Ok(Route::new(first, fallback))
    }
}

/// Makes the endpoints of a configuration, numbered after `others` others.
fn balancer(config: &Config, others: usize, has_fallback: bool) -> Result<Balancer, Error> {
    let mut common = config.common.clone();
    let memory = ReplyMemory::new(common.max_reply_size);
    let mut transports: Vec<Box<dyn Transport>> = Vec::new();
    for Endpoint { url, basic_auth } in config.common.check()? {
        common.basic_auth = basic_auth;
        transports.push(match &config.transport {
            #[cfg(feature = "grpc")]
            Any::Grpc(settings) => Box::new(Grpc::new(&common, settings, &url, memory.clone())?),
            #[cfg(feature = "http")]
            Any::Http(settings) => Box::new(Http::new(&common, settings, &url, memory.clone())?),
        });
    }
    Ok(Balancer::new(transports, common.load_balancing, others, has_fallback))
}

#[derive(Debug)]
struct Fallback {
    http: Balancer,
    breaker: Mutex<Breaker>,
    losses: Losses,
    /// Whether the breaker has failures recorded. Otherwise a successful call need not lock it.
    impaired: AtomicBool,
    state: watch::Sender<BreakerState>,
}

impl Route {
    fn new(first: Balancer, http: Option<Balancer>) -> Self {
        let fallback = http.map(|http| Fallback {
            http,
            breaker: Mutex::new(Breaker::new()),
            losses: Losses::default(),
            impaired: AtomicBool::new(false),
            state: watch::Sender::new(BreakerState::Closed),
        });
        Self(Arc::new(Inner { first, fallback }))
    }
}

impl Inner {
    fn balancers(&self) -> impl Iterator<Item = &Balancer> {
        std::iter::once(&self.first).chain(self.fallback.as_ref().map(|fallback| &fallback.http))
    }

    /// Whether an attempt follows one that got no response over gRPC, where no other endpoint responds.
    fn is_left(&self, fallback: &Fallback, call: &Call<'_>) -> bool {
        let Avoided { endpoint, silent } = call.avoided();
        silent && endpoint <= self.first.len() && !self.first.has_other(endpoint) && !fallback.http.is_out()
    }

    /// Probes gRPC in the background, if that is due.
    fn probe_if_due(self: &Arc<Self>, fallback: &Fallback) {
        if !fallback.change(|breaker| breaker.begin_probe(Instant::now())) {
            return;
        }
        let probe = Probe { route: Arc::clone(self), succeeded: false };
        tokio::spawn(async move {
            // Moves the whole probe: an assignment alone would capture a copy of the flag.
            let mut probe = probe;
            probe.succeeded = probe.run().await;
        });
    }
}

/// A probe in flight. Reports to the breaker when it ends, or is dropped with its runtime.
struct Probe {
    route: Arc<Inner>,
    succeeded: bool,
}

impl Probe {
    async fn run(&self) -> bool {
        for _ in 0..PROBES {
            let request = InfoRequest::new();
            let name = Method::Info.name();
            let call = |began, end| Call::of(name, Some(Method::Info), &request, began, Some(end));
            let probed = self.route.first.probe(PROBE_TIMEOUT, call).await;
            // An error of the API fails the probe.
            let succeeded = probed.is_some_and(|reply| reply.read::<InfoResult>().is_ok());
            if !succeeded {
                return false;
            }
        }
        true
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(fallback) = &self.route.fallback {
            fallback.change(|breaker| breaker.probed(self.succeeded, Instant::now()));
        }
    }
}

impl Fallback {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }

    fn is_open(&self) -> bool {
        self.impaired.load(Ordering::Relaxed) && self.breaker().state() != BreakerState::Closed
    }

    /// Changes the breaker. If that changes its state, notifies the watchers and logs it.
    fn change<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker();
        let changed = change(&mut breaker);
        self.impaired.store(!breaker.is_clear(), Ordering::Relaxed);
        let (state, cause) = (breaker.state(), breaker.cause());
        let is_new = self.state.send_if_modified(|now| std::mem::replace(now, state) != state);
        drop(breaker);
        if is_new {
            match (state, cause) {
                (BreakerState::Closed, _) => tracing::info!("gRPC responds again; calls go over gRPC"),
                (BreakerState::HalfOpen, _) => tracing::info!("probing gRPC"),
                (BreakerState::Open, Some(Cause::Absent)) => {
                    tracing::warn!("there is no gRPC at the address; calls go over HTTP");
                }
                (BreakerState::Open, _) => tracing::warn!("gRPC does not respond; calls go over HTTP"),
            }
        }
        changed
    }
}

/// Reports to the breaker how a call over gRPC ended, once.
struct Report<'a> {
    route: &'a Inner,
    fallback: &'a Fallback,
    call: &'a Call<'a>,
    noted: bool,
}

impl Report<'_> {
    fn note(&mut self, sign: Sign) {
        self.noted = true;
        let fallback = self.fallback;
        if sign == Sign::Nothing || (sign == Sign::Responded && !fallback.impaired.load(Ordering::Relaxed)) {
            return;
        }
        let sign = if sign == Sign::Failed && self.route.first.is_out() { Sign::AllOut } else { sign };
        let usable = !fallback.http.is_out();
        fallback.change(|breaker| breaker.note(sign, usable, Instant::now()));
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        // The client drops calls at their deadline, which the balancer has judged.
        if !self.noted && self.call.has_failed() {
            self.note(Sign::Failed);
        }
    }
}

/// What an error says about gRPC.
fn sign(error: &Error) -> Sign {
    if error.is_no_grpc() {
        return Sign::Absent;
    }
    // A certificate that is not trusted says nothing about whether gRPC is there.
    if error.kind() == ErrorKind::Connect && !error.is_transient() {
        return Sign::Nothing;
    }
    match balancer::sign(error) {
        // A bad response is one, and HTTP is the same server.
        health::Sign::Responded | health::Sign::Bad | health::Sign::Unreadable => Sign::Responded,
        health::Sign::Unreachable | health::Sign::Lost | health::Sign::Unprocessed | health::Sign::TimedOut => {
            Sign::Failed
        }
        health::Sign::Nothing => Sign::Nothing,
    }
}

/// Whether a call that failed over gRPC can be sent over HTTP at once: it certainly had no effect, and HTTP may succeed.
fn may_fall_back(error: &Error) -> bool {
    let trusted = error.kind() != ErrorKind::Connect || error.is_transient() || error.is_no_grpc();
    (never_arrived(error) && trusted) || (error.is_no_grpc() && !error.may_have_run())
}

impl Transport for Route {
    fn name(&self) -> &'static str {
        self.0.first.first().name()
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            let inner = &self.0;
            let Some(fallback) = &inner.fallback else { return inner.first.send(call).await };
            let is_open = fallback.is_open();
            if is_open {
                inner.probe_if_due(fallback);
            }
            if is_open || inner.is_left(fallback, call) {
                return match fallback.http.send(call).await {
                    // HTTP cannot be reached either.
                    Err(error) if never_arrived(&error) => inner
                        .first
                        .send(call)
                        .await
                        .map_err(|second| if never_arrived(&second) { error } else { second }),
                    sent => sent,
                };
            }
            let mut report = Report { route: inner, fallback, call, noted: false };
            let sent = inner.first.send(call).await;
            report.note(match &sent {
                Ok(_) => Sign::Responded,
                Err(error) if error.kind() == ErrorKind::Lost && !fallback.losses.begin(call.began()) => Sign::Nothing,
                Err(error) => sign(error),
            });
            match sent {
                Err(error) if may_fall_back(&error) => {
                    tracing::debug!(method = call.method(), %error, "the call goes over HTTP");
                    fallback.http.send(call).await
                }
                sent => sent,
            }
        })
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        self.0.first.first().endpoint()
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.0.balancers().flat_map(Balancer::status).collect()
    }

    fn watch_breaker(&self) -> Option<watch::Receiver<BreakerState>> {
        self.0.fallback.as_ref().map(|fallback| fallback.state.subscribe())
    }

    fn reject(&self, endpoint: usize) {
        self.0.balancers().for_each(|balancer| balancer.reject(endpoint));
    }

    fn disconnect(&self) {
        self.0.balancers().for_each(Balancer::disconnect);
    }
}
