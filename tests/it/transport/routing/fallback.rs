//! From gRPC to HTTP and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server, Transport as Front};
use centrifugo_api::{
    ApiError, BreakerState as State, Client, Config, ConnectionsRequest, Error, ErrorKind, Outcome, Retry, Tls,
};
use serde_json::json;
use tokio::sync::watch;

use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::h2script::{self, Reply};
use crate::support::proxy::{End, Proxy};
use crate::support::servers::Nobody;
use crate::support::tally::Server as Script;
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{SECOND, advance, h1script, publish, quick_retry, request, soon, start, until, within};

/// A client of gRPC there and HTTP here, without repeats.
fn client(grpc: impl Into<String>, http: &Server) -> Client {
    Client::new(Config::grpc(grpc).fallback(Config::http(http.http_url())).retry(Retry::off())).unwrap()
}

fn state(client: &Client) -> State {
    *client.watch_breaker().unwrap().borrow()
}

/// How many calls came over each front.
fn calls(server: &Server) -> (usize, usize) {
    let calls = server.calls();
    let over = |front| calls.iter().filter(|call| call.transport == front).count();
    (over(Front::Grpc), over(Front::Http))
}

/// Waits until the breaker is in this state.
async fn becomes(client: &Client, wanted: State) {
    soon(client.watch_breaker().unwrap().wait_for(|state| *state == wanted)).await.unwrap();
}

/// Remembers every state that the breaker is in.
fn watched(client: &Client) -> (Arc<std::sync::Mutex<Vec<State>>>, tokio::task::JoinHandle<()>) {
    let (seen, mut state) = (Arc::<std::sync::Mutex<Vec<_>>>::default(), client.watch_breaker().unwrap());
    let see = Arc::clone(&seen);
    let watching = tokio::spawn(async move {
        while state.changed().await.is_ok() {
            see.lock().unwrap().push(*state.borrow_and_update());
        }
    });
    (seen, watching)
}

/// A proxy in front of the stand-in's gRPC port, which refuses connections.
async fn absent(server: &Server) -> Proxy {
    let proxy = Proxy::to(server.grpc_addr());
    proxy.refuse().await;
    proxy
}

#[tokio::test]
async fn calls_go_over_http_at_once_while_there_is_no_grpc_and_over_grpc_when_there_is() {
    let server = start().await;
    let proxy = absent(&server).await;
    let client = client(proxy.url(), &server);
    assert_eq!(state(&client), State::Closed);
    for published in 1..=5 {
        within(SECOND, client.publish(request())).await.unwrap();
        assert_eq!((server.applied("news"), state(&client)), (published, State::Open));
    }
    assert_eq!(calls(&server), (0, 5));
    let endpoints = client.endpoints();
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.available).collect::<Vec<_>>(), [false, true]);

    proxy.accept();
    // Not before the cool-down is over: 5 s, a fifth more or less.
    advance(3 * SECOND).await;
    publish(&client).await.unwrap();
    assert_eq!((state(&client), calls(&server)), (State::Open, (0, 6)));
    advance(4 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    server.clear_calls();
    publish(&client).await.unwrap();
    assert_eq!((server.applied("news"), calls(&server)), (8, (1, 0)));
}

#[tokio::test]
async fn one_that_looks_on_is_told_every_change_once() {
    let server = start().await;
    let proxy = absent(&server).await;
    let client = client(proxy.url(), &server);
    let (seen, watching) = watched(&client);
    let settle = || async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    for _ in 0..10 {
        publish(&client).await.unwrap();
        settle().await;
    }
    advance(7 * SECOND).await;
    for _ in 0..3 {
        publish(&client).await.unwrap();
        settle().await;
    }
    becomes(&client, State::Open).await;
    proxy.accept();
    advance(13 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    publish(&client).await.unwrap();
    settle().await;
    assert_eq!(*seen.lock().unwrap(), [State::Open, State::HalfOpen, State::Open, State::HalfOpen, State::Closed]);
    // And that the client is gone.
    drop(client);
    soon(watching).await.unwrap();
}

#[tokio::test]
async fn every_change_is_logged_once() {
    let server = start().await;
    let proxy = absent(&server).await;
    let log = Arc::<Log>::default();
    let _guard = tracing::subscriber::set_default(Arc::clone(&log));
    let client = client(proxy.url(), &server);
    for _ in 0..10 {
        publish(&client).await.unwrap();
    }
    proxy.accept();
    advance(7 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    for _ in 0..10 {
        publish(&client).await.unwrap();
    }
    drop(client);
    let count = |events: &AtomicUsize| events.load(Ordering::SeqCst);
    assert_eq!((count(&log.opened), count(&log.tried), count(&log.closed)), (1, 1, 1));
}

/// Counts what the breaker says.
#[derive(Default)]
struct Log {
    opened: AtomicUsize,
    tried: AtomicUsize,
    closed: AtomicUsize,
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("centrifugo_api")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if *event.metadata().level() > tracing::Level::INFO {
            return;
        }
        if message.0.ends_with("calls go over HTTP") {
            self.opened.fetch_add(1, Ordering::SeqCst);
        }
        if message.0 == "gRPC is tried again" {
            self.tried.fetch_add(1, Ordering::SeqCst);
        }
        if message.0.ends_with("calls go over gRPC") {
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// What a scripted gRPC server does with a probe.
#[derive(Clone, Copy, Debug)]
enum Probed {
    Well,
    Badly,
    Never,
}

/// A gRPC server whose publications are answered badly and whose probes are answered as told, and counted.
fn probing(how: &watch::Sender<Probed>, probes: &Arc<AtomicUsize>, healthy: &Arc<AtomicBool>) -> Script {
    let (how, probes, healthy) = (how.subscribe(), Arc::clone(probes), Arc::clone(healthy));
    h2script::start(move |mut connection| {
        let (how, probes, healthy) = (how.clone(), Arc::clone(&probes), Arc::clone(&healthy));
        async move {
            let how = |request: &h2script::Request| {
                if request.path.ends_with("/Publish") {
                    return if healthy.load(Ordering::SeqCst) { Reply::result() } else { Reply::status(14, "no") };
                }
                probes.fetch_add(1, Ordering::SeqCst);
                match *how.borrow() {
                    Probed::Well => Reply::message(&[0x12, 0]),
                    Probed::Badly => Reply::status(14, "no"),
                    Probed::Never => Reply::hang(),
                }
            };
            connection.serve_with(how).await
        }
    })
}

/// A client whose breaker that server has opened.
async fn opened(script: &Script, server: &Server) -> Client {
    let client = client(script.url(), server);
    for _ in 0..5 {
        let _ = publish(&client).await;
    }
    assert_eq!(state(&client), State::Open);
    client
}

#[tokio::test]
async fn one_probe_at_a_time_tries_grpc_while_calls_go_on_over_http() {
    let server = start().await;
    let (how, _) = watch::channel(Probed::Never);
    let (probes, healthy) = (Arc::<AtomicUsize>::default(), Arc::default());
    let script = probing(&how, &probes, &healthy);
    let client = opened(&script, &server).await;
    let (before, applied) = (script.tally.arrived().len(), server.applied("news"));
    advance(7 * SECOND).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { publish(&client).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    soon(script.tally.until_arrived(before + 1)).await;
    assert_eq!(state(&client), State::HalfOpen);
    for _ in 0..20 {
        publish(&client).await.unwrap();
    }
    assert_eq!((probes.load(Ordering::SeqCst), script.tally.arrived().len()), (1, before + 1));
    // The probe is given a second.
    within(3 * SECOND, becomes(&client, State::Open)).await;
    assert_eq!((probes.load(Ordering::SeqCst), server.applied("news")), (1, applied + 70));
}

#[tokio::test]
async fn the_cool_down_doubles_up_to_a_minute() {
    let server = start().await;
    let (how, _) = watch::channel(Probed::Badly);
    let (probes, healthy) = (Arc::<AtomicUsize>::default(), Arc::default());
    let script = probing(&how, &probes, &healthy);
    let client = opened(&script, &server).await;
    for (round, cool_down) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        let cool_down = Duration::from_secs(cool_down);
        // A fifth more or less.
        advance(cool_down.mul_f64(0.75)).await;
        publish(&client).await.unwrap();
        assert_eq!((state(&client), probes.load(Ordering::SeqCst)), (State::Open, round));
        advance(cool_down.mul_f64(0.5)).await;
        let mut state = client.watch_breaker().unwrap();
        publish(&client).await.unwrap();
        soon(state.wait_for(|state| *state == State::Open)).await.unwrap();
        until(|| probes.load(Ordering::SeqCst) > round).await;
        becomes(&client, State::Open).await;
        assert_eq!(probes.load(Ordering::SeqCst), round + 1);
    }
    how.send_replace(Probed::Well);
    // When gRPC has been back for a moment, it is the same outage still; after a minute, the next is the first again.
    for (well, cool_down) in [(SECOND, 80 * SECOND), (61 * SECOND, 7 * SECOND)] {
        healthy.store(true, Ordering::SeqCst);
        advance(80 * SECOND).await;
        publish(&client).await.unwrap();
        becomes(&client, State::Closed).await;
        advance(well).await;
        healthy.store(false, Ordering::SeqCst);
        for _ in 0..5 {
            let _ = publish(&client).await;
        }
        assert_eq!(state(&client), State::Open);
        healthy.store(true, Ordering::SeqCst);
        if cool_down > 7 * SECOND {
            advance(7 * SECOND).await;
            publish(&client).await.unwrap();
            assert_eq!(state(&client), State::Open);
        }
        advance(cool_down).await;
        publish(&client).await.unwrap();
        becomes(&client, State::Closed).await;
    }
}

#[tokio::test]
async fn two_answers_in_a_row_close_the_breaker_and_one_does_not() {
    let server = start().await;
    let probes = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&probes);
    // The publications fail; of the probes the second, and no other.
    let script = h2script::replying(move |request| match &request.path {
        path if path.ends_with("/Publish") => Reply::status(14, "no"),
        _ if count.fetch_add(1, Ordering::SeqCst) == 1 => Reply::status(14, "no"),
        _ => Reply::message(&[0x12, 0]),
    });
    let client = opened(&script, &server).await;
    let (seen, _watching) = watched(&client);
    advance(7 * SECOND).await;
    publish(&client).await.unwrap();
    until(|| probes.load(Ordering::SeqCst) >= 2).await;
    becomes(&client, State::Open).await;
    advance(13 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::Closed).await;
    assert_eq!(probes.load(Ordering::SeqCst), 4);
    tokio::task::yield_now().await;
    assert_eq!(*seen.lock().unwrap(), [State::HalfOpen, State::Open, State::HalfOpen, State::Closed]);
}

#[tokio::test]
async fn an_endpoint_where_connecting_hangs_does_not_keep_a_probe_from_the_next() {
    let server = start().await;
    let (silent, proxy) = (Backlog::fill().await, absent(&server).await);
    let config = Config::grpc(silent.url()).endpoint(proxy.url()).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(Retry::off())).unwrap();
    publish(&client).await.unwrap();
    assert_eq!((state(&client), calls(&server)), (State::Open, (0, 1)));
    proxy.accept();
    advance(7 * SECOND).await;
    publish(&client).await.unwrap();
    becomes(&client, State::HalfOpen).await;
    let ended = client.watch_breaker().unwrap();
    let ended =
        within(5 * SECOND, async move { *{ ended }.wait_for(|now| *now != State::HalfOpen).await.unwrap() }).await;
    assert_eq!(ended, State::Closed);
}

#[tokio::test]
async fn a_probe_that_is_refused_for_its_key_does_not_bring_calls_back() {
    let server = start().await;
    let script = h2script::replying(|request| match &request.path {
        path if path.ends_with("/Publish") => Reply::status(14, "no"),
        _ => Reply::status(16, "who are you"),
    });
    let client = opened(&script, &server).await;
    advance(7 * SECOND).await;
    let mut state = client.watch_breaker().unwrap();
    state.mark_unchanged();
    publish(&client).await.unwrap();
    soon(state.wait_for(|state| *state == State::Open)).await.unwrap();
    becomes(&client, State::Open).await;
    publish(&client).await.unwrap();
}

/// Publishes again and again, 8 at a time, while something else happens. Gives how often.
async fn publishing_while(client: &Client, happens: impl Future<Output = ()>) -> u64 {
    let stop = Arc::<AtomicBool>::default();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::SeqCst) {
                    publish(&client).await.unwrap();
                    done += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                done
            })
        })
        .collect();
    happens.await;
    stop.store(true, Ordering::SeqCst);
    let mut done = 0;
    for caller in callers {
        done += soon(caller).await.unwrap();
    }
    done
}

#[tokio::test]
async fn no_call_is_lost_or_doubled_when_grpc_goes_and_comes_back() {
    let server = start().await;
    let proxy = Proxy::to(server.grpc_addr());
    let config = Config::grpc(proxy.url()).fallback(Config::http(server.http_url())).retry(quick_retry());
    let client = Client::new(config).unwrap();
    let done = publishing_while(&client, async {
        tokio::time::sleep(SECOND / 5).await;
        proxy.refuse().await;
        proxy.cut(End::Rst);
        becomes(&client, State::Open).await;
        tokio::time::sleep(SECOND / 5).await;
        proxy.accept();
        // After the cool-down, in real time.
        becomes(&client, State::Closed).await;
        tokio::time::sleep(SECOND / 5).await;
    })
    .await;
    assert!(done > 100);
    assert_eq!(server.applied("news"), done);
    let (over_grpc, over_http) = calls(&server);
    assert!(over_grpc > 20 && over_http > 20, "{over_grpc}, {over_http}");
}

/// What must not lead to HTTP: the error of a publish, ten times over.
async fn stays(server: &Server, client: &Client, kind: ErrorKind) -> Error {
    let mut last = None;
    for _ in 0..10 {
        let error = publish(client).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (kind, Some("grpc")), "{error:?}");
        last = Some(error);
    }
    assert_eq!(state(client), State::Closed);
    assert_eq!((calls(server).1, server.applied("news")), (0, 0));
    last.unwrap()
}

#[tokio::test]
async fn a_wrong_key_over_grpc_does_not_lead_to_http() {
    let server = Server::builder().grpc_api_key("other").start().await.unwrap();
    let config = Config::grpc(server.grpc_url()).api_key("mine").fallback(Config::http(server.http_url()));
    let error = stays(&server, &Client::new(config.retry(quick_retry())).unwrap(), ErrorKind::Unauthenticated).await;
    assert_eq!((error.outcome(), error.attempts()), (Outcome::Refused, 1));
}

#[tokio::test]
async fn answers_of_a_server_do_not_lead_to_http() {
    use ErrorKind::{Api, Invalid, Protocol, TooLarge, Unauthenticated, Unavailable};

    let api = |code| (Fault::api_error(ApiError::new(code, "no")).transport(Front::Grpc), Api);
    let grpc = |code, text: &str, kind| (Fault::grpc_status(code, text), kind);
    let faults = [
        api(100),
        api(102),
        api(111),
        api(999),
        grpc(3, "argument", Invalid),
        grpc(5, "not found", Protocol),
        grpc(6, "exists", Protocol),
        grpc(7, "denied", Unauthenticated),
        grpc(8, "grpc: received message larger than max (1 vs. 0)", TooLarge),
        grpc(8, "too many requests", Unavailable),
        grpc(11, "out of range", Protocol),
        grpc(13, "internal", Protocol),
    ];
    for (fault, kind) in faults {
        let server = start().await;
        server.fault(fault.clone().always());
        let client = client(server.grpc_url(), &server);
        stays(&server, &client, kind).await;
    }
    // A limiter in front of gRPC that answers in plain HTTP.
    let server = start().await;
    let limiter = h2script::replying(|_| Reply::default().headers(&[(b":status", b"429")], h2script::END_STREAM));
    stays(&server, &client(limiter.url(), &server), Unavailable).await;
}

#[tokio::test]
async fn a_method_that_the_server_does_not_have_does_not_lead_to_http() {
    let server = start().await;
    let client = client(server.grpc_url(), &server);
    for _ in 0..10 {
        let error = soon(client.connections(ConnectionsRequest::new())).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (ErrorKind::Unsupported, Some("grpc")), "{error:?}");
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}

#[tokio::test]
async fn sizes_and_wrong_requests_do_not_lead_to_http() {
    let server = start().await;
    let http = || Config::http(server.http_url());
    let small = Client::new(Config::grpc(server.grpc_url()).max_request_size(10).fallback(http())).unwrap();
    stays(&server, &small, ErrorKind::TooLarge).await;
    // Of what gRPC cannot carry, too.
    let client = Client::new(Config::grpc(server.grpc_url()).fallback(http())).unwrap();
    let error = soon(client.call_json::<serde_json::Value>("new_method", json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!((state(&client), calls(&server)), (State::Closed, (0, 0)));
}

#[tokio::test]
async fn mistrust_does_not_lead_to_http_and_nothing_is_said_in_the_clear() {
    for flaw in Flaw::FATAL {
        let server = start().await;
        let authority = Authority::new();
        let peer = Peer::with(flaw, &authority);
        let trust = Tls::new().ca_certificates(authority.pem());
        let config = Config::grpc(peer.https_url()).tls(trust).fallback(Config::http(server.http_url()));
        let client = Client::new(config.retry(quick_retry())).unwrap();
        let error = stays(&server, &client, ErrorKind::Connect).await;
        assert_eq!((error.outcome(), error.attempts(), error.is_transient()), (Outcome::NotSent, 1, false), "{flaw:?}");
        assert_eq!((peer.requests(), peer.in_the_clear()), (0, 0), "{flaw:?}");
    }
}

#[tokio::test]
async fn a_deadline_of_the_callers_does_not_lead_to_http() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND / 10);
    // One fewer than would be an outage.
    for _ in 0..4 {
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
    // Nor does a call that is dropped.
    for _ in 0..10 {
        let dropped = tokio::time::timeout(SECOND / 50, client.with_timeout(100 * SECOND).publish(request())).await;
        dropped.unwrap_err();
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}

#[tokio::test]
async fn calls_that_nobody_answers_are_an_outage() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND);
    for _ in 0..5 {
        publish(&client).await.unwrap_err();
    }
    assert_eq!(state(&client), State::Open);
    publish(&client).await.unwrap();
    assert_eq!((calls(&server), server.applied("news")), ((5, 1), 1));
}

#[tokio::test]
async fn how_short_a_deadline_is_is_the_callers_affair() {
    let server = start().await;
    server.fault(Fault::hang_before().transport(Front::Grpc).always());
    let client = client(server.grpc_url(), &server).with_timeout(SECOND / 50);
    for _ in 0..20 {
        assert_eq!(publish(&client).await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
    assert!(client.endpoints().iter().all(|endpoint| endpoint.available));
}

#[tokio::test]
async fn failures_between_successes_are_no_outage() {
    let server = start().await;
    let client = client(server.grpc_url(), &server);
    for _ in 0..5 {
        for _ in 0..2 {
            server.fault(Fault::grpc_status(14, "later"));
            publish(&client).await.unwrap_err();
        }
        publish(&client).await.unwrap();
    }
    assert_eq!((state(&client), calls(&server).1), (State::Closed, 0));
}

#[tokio::test]
async fn calls_fail_fast_when_neither_is_there() {
    let (grpc, http) = (Nobody::new(), Nobody::new());
    let config = Config::grpc(grpc.url()).fallback(Config::http(format!("{}/api", http.url()))).retry(Retry::off());
    let client = Client::new(config).unwrap();
    for _ in 0..20 {
        let error = within(SECOND, client.publish(request())).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent), "{error:?}");
    }
}

#[tokio::test]
async fn calls_stay_on_grpc_while_http_is_known_to_be_gone() {
    let script = h2script::replying(|request| match request.number {
        0 => Reply::reset(h2script::REFUSED_STREAM),
        _ => Reply::status(14, "later"),
    });
    let http = Nobody::new();
    let config = Config::grpc(script.url()).fallback(Config::http(format!("{}/api", http.url())));
    let client = Client::new(config.retry(Retry::off())).unwrap();
    // The first goes on over HTTP, and finds nobody.
    let error = publish(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.transport()), (ErrorKind::Connect, Some("http")), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotSent);
    // More than would be an outage.
    for _ in 0..10 {
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (ErrorKind::Unavailable, Some("grpc")), "{error:?}");
        assert_eq!(state(&client), State::Closed);
    }
}

#[tokio::test]
async fn grpc_at_the_http_port_is_told_and_with_a_fallback_left_for_long() {
    let server = start().await;
    // As the server's own port of HTTP answers it.
    let port = h1script::start(|mut connection| async move {
        connection.first_byte().await?;
        connection.write(&h1script::head(400, &[("connection", "close")])).await?;
        connection.finish().await
    });
    let http_port = || port.url();
    let alone = Client::new(Config::grpc(http_port()).retry(quick_retry())).unwrap();
    let error = within(SECOND, alone.publish(request())).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome(), error.attempts()),
        (ErrorKind::Connect, Outcome::NotSent, 1),
        "{error:?}"
    );
    assert!(error.message().contains("is this the port of its gRPC API?") && !error.is_transient(), "{error}");

    let client = client(http_port(), &server);
    within(SECOND, client.publish(request())).await.unwrap();
    assert_eq!((state(&client), server.applied("news")), (State::Open, 1));
    // A minute, a fifth more or less, and not the 5 s of an outage.
    let mut state = client.watch_breaker().unwrap();
    state.mark_unchanged();
    advance(45 * SECOND).await;
    publish(&client).await.unwrap();
    assert!(!state.has_changed().unwrap());
    advance(30 * SECOND).await;
    publish(&client).await.unwrap();
    soon(state.changed()).await.unwrap();
    becomes(&client, State::Open).await;
}

#[tokio::test]
async fn grpc_that_is_not_there_in_other_words_is_left_too() {
    let words: [(&str, Reply); 4] = [
        ("an unknown service", Reply::status(12, "unknown service centrifugal.centrifugo.api.CentrifugoApi")),
        ("404", Reply::default().headers(&[(b":status", b"404")], h2script::END_STREAM)),
        ("405", Reply::default().headers(&[(b":status", b"405")], h2script::END_STREAM)),
        ("415", Reply::default().headers(&[(b":status", b"415")], h2script::END_STREAM)),
    ];
    for (what, reply) in words {
        let server = start().await;
        let script = h2script::replying(move |_| reply.clone());
        let client = client(script.url(), &server);
        publish(&client).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!((state(&client), server.applied("news")), (State::Open, 1), "{what}");
    }
    // Nor is there any behind a port for HTTP/1.1 over TLS.
    let (server, authority) = (start().await, Authority::new());
    let peer = Peer::with(Flaw::NoAlpn, &authority);
    let trust = Tls::new().ca_certificates(authority.pem());
    let config = Config::grpc(peer.https_url()).tls(trust).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(Retry::off())).unwrap();
    publish(&client).await.unwrap();
    assert_eq!((state(&client), peer.requests()), (State::Open, 0));
}

#[tokio::test]
async fn http_at_the_grpc_port_is_told() {
    let server = start().await;
    let client = Client::new(Config::http(format!("http://{}/api", server.grpc_addr())).retry(Retry::off())).unwrap();
    let error = within(SECOND, client.publish(request())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Protocol), "{error:?}");
    assert!(error.message().contains("is this the port of the server's HTTP API?"), "{error}");
}

#[tokio::test]
async fn a_call_that_may_have_run_goes_over_http_only_with_a_key_and_has_one_effect() {
    let server = start().await;
    let proxy = Arc::new(Proxy::to(server.grpc_addr()));
    for (keys, effects) in [(false, 1), (true, 2)] {
        let client = || {
            let config = Config::grpc(proxy.url()).fallback(Config::http(server.http_url()));
            Client::new(config.retry(quick_retry().idempotency_keys(keys))).unwrap()
        };
        proxy.accept();
        proxy.heal();
        let client = client();
        // A connection is there; what is answered on it from now on is lost, and no other can be made.
        soon(client.info(centrifugo_api::InfoRequest::new())).await.unwrap();
        proxy.down(|lane| lane.stalled = true);
        proxy.refuse().await;
        let publishing = tokio::spawn(async move { publish(&client).await });
        until(|| server.applied("news") >= effects).await;
        server.clear_calls();
        proxy.cut(End::Rst);
        let published = publishing.await.unwrap();
        assert_eq!(published.is_ok(), keys, "{published:?}");
        if let Err(error) = published {
            assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{error:?}");
        }
        assert_eq!((calls(&server), server.applied("news")), ((0, usize::from(keys)), effects));
    }
}

#[tokio::test]
async fn a_call_that_certainly_did_not_run_goes_over_http_without_a_key_and_a_repeat() {
    let server = start().await;
    // Every connection is made, and ends when the first stream is opened.
    let script = h2script::start(|mut connection| async move {
        connection.opened().await?;
        connection.goaway(0, h2script::NO_ERROR, b"").await?;
        connection.finish().await
    });
    let client = client(script.url(), &server);
    for published in 1..=10 {
        publish(&client).await.unwrap();
        assert_eq!((server.applied("news"), calls(&server)), (published, (0, usize::try_from(published).unwrap())));
    }
    assert!(server.calls().iter().all(|call| call.request.get("idempotency_key").is_none()));
}

#[tokio::test]
async fn a_fallback_in_clear_text_beyond_this_machine_must_be_allowed() {
    let secure = || Config::grpc("https://centrifugo.example:10000");
    let refused = |config: Config, word: &str| {
        let error = Client::new(config).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::NotSent), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    };
    for http in [
        "http://centrifugo.example:8000/api",
        "http://10.0.0.1/api",
        "http://[2001:db8::1]/api",
        "http://127.0.0.1.example/api",
    ] {
        refused(secure().fallback(Config::http(http)), "`allow_clear_text_fallback`");
        Client::new(secure().fallback(Config::http(http)).allow_clear_text_fallback(true)).unwrap();
        Client::new(Config::grpc("http://centrifugo.example:10000").fallback(Config::http(http))).unwrap();
    }
    // One of several is enough.
    let mixed = Config::http("http://localhost/api").endpoint("http://centrifugo.example/api");
    refused(secure().fallback(mixed), "`allow_clear_text_fallback`");
    for http in ["https://centrifugo.example/api", "http://localhost/api", "http://127.0.0.1/api", "http://[::1]/api"] {
        Client::new(secure().fallback(Config::http(http))).unwrap();
    }
}

#[test]
fn what_a_fallback_must_not_have_is_refused_by_name() {
    let http = || Config::http("http://localhost/api");
    let grpc = || Config::grpc("http://localhost:10000");
    let fallbacks = [
        (http().timeout(SECOND), "`timeout`"),
        (http().retry(Retry::off()), "`retry`"),
        (http().pro(true), "`pro`"),
        (http().fallback(http()), "`fallback`"),
        (http().allow_clear_text_fallback(true), "`allow_clear_text_fallback`"),
        (grpc(), "only HTTP is one"),
        (Config::http("ftp://localhost/api"), "http://"),
        (Config::http("http://localhost/api").api_key(""), "`api_key`"),
    ];
    for (fallback, word) in fallbacks {
        let error = Client::new(grpc().fallback(fallback)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = Client::new(http().fallback(Config::http("http://127.0.0.1/api"))).unwrap_err();
    assert!(error.to_string().contains("only gRPC has a fallback"), "{error}");
    Client::new(grpc().fallback(http().api_key("its own").connect_timeout(SECOND).header("x-a", "b"))).unwrap();
}

#[tokio::test]
async fn both_ways_are_paid_from_one_budget_and_end_at_one_deadline() {
    let server = start().await;
    server.fault(Fault::grpc_status(14, "later").always());
    server.fault(Fault::http_status(503).always());
    let config = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(quick_retry().attempts(10))).unwrap();
    let mut said = false;
    for _ in 0..100 {
        let error = publish(&client).await.unwrap_err();
        said |= error.to_string().contains("too many calls lately");
    }
    let (over_grpc, over_http) = calls(&server);
    assert!(said && over_http > 0);
    assert!(over_grpc + over_http <= 100 + 35, "{over_grpc} and {over_http}");

    let server = start().await;
    server.fault(Fault::hang_before().always());
    let config = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
    let retry = quick_retry().attempts(100).attempt_timeout(Some(Duration::from_millis(50)));
    let client = Client::new(config.timeout(SECOND).retry(retry)).unwrap();
    let error = within(2 * SECOND, client.publish(request())).await.unwrap_err();
    assert_eq!((error.kind(), error.transport()), (ErrorKind::Timeout, Some("http")), "{error:?}");
    assert!(calls(&server).1 > 0);
}

#[tokio::test]
async fn a_client_without_a_fallback_has_no_breaker() {
    let server = start().await;
    for config in [Config::grpc(server.grpc_url()), Config::http(server.http_url())] {
        assert!(Client::new(config).unwrap().watch_breaker().is_none());
    }
}

#[tokio::test]
async fn calls_return_to_grpc_also_from_a_fallback_that_is_gone() {
    let server = start().await;
    let (grpc, http) = (absent(&server).await, Proxy::to(server.http_addr()));
    let config = Config::grpc(grpc.url()).fallback(Config::http(format!("{}/api", http.url()))).retry(Retry::off());
    let client = Client::new(config).unwrap();
    publish(&client).await.unwrap();
    assert_eq!(state(&client), State::Open);
    // They change places.
    grpc.accept();
    http.refuse().await;
    http.cut(End::Fin);
    advance(2 * SECOND).await;
    for _ in 0..5 {
        publish(&client).await.unwrap();
    }
    assert_eq!((calls(&server), server.applied("news")), ((5, 1), 6));
}

#[test]
fn a_runtime_that_ends_in_the_middle_of_a_probe_leaves_no_probe_for_ever() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (how, _) = watch::channel(Probed::Never);
    let (probes, healthy) = (Arc::<AtomicUsize>::default(), Arc::default());
    let (server, script) = servers.block_on(async { (start().await, probing(&how, &probes, &healthy)) });

    let ends = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = ends.block_on(async {
        let client = opened(&script, &server).await;
        advance(7 * SECOND).await;
        publish(&client).await.unwrap();
        until(|| probes.load(Ordering::SeqCst) > 0).await;
        assert_eq!(state(&client), State::HalfOpen);
        client
    });
    drop(ends);
    assert_eq!(state(&client), State::Open);
    servers.block_on(async { publish(&client).await }).unwrap();
    servers.block_on(async { drop((server, script)) });
}
