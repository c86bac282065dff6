//! How gRPC is probed while calls go over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::testing::Server;
use centrifugo_api::transport::BreakerState as State;
use centrifugo_api::{Client, Config};
use tokio::sync::watch;

use super::{absent, becomes, calls, client, state, watched};
use crate::support::backlog::Backlog;
use crate::support::h2script::{self, Reply};
use crate::support::tally::Server as Script;
use crate::support::{SECOND, advance, publish, soon, start, until, within};

/// What a scripted gRPC server does with a probe.
#[derive(Clone, Copy, Debug)]
enum Probed {
    Well,
    Badly,
    Never,
}

/// A gRPC server whose publications fail, and whose probes are counted and get the response that `how` says.
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
async fn one_probe_at_a_time_runs_while_calls_use_http() {
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
async fn the_cool_down_doubles_up_to_three_seconds() {
    let server = start().await;
    let (how, _) = watch::channel(Probed::Badly);
    let (probes, healthy) = (Arc::<AtomicUsize>::default(), Arc::default());
    let script = probing(&how, &probes, &healthy);
    let client = opened(&script, &server).await;
    for (round, cool_down) in [1, 2, 3, 3].into_iter().enumerate() {
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
    for (well, is_same) in [(SECOND, true), (61 * SECOND, false)] {
        healthy.store(true, Ordering::SeqCst);
        advance(4 * SECOND).await;
        publish(&client).await.unwrap();
        becomes(&client, State::Closed).await;
        advance(well).await;
        healthy.store(false, Ordering::SeqCst);
        for _ in 0..5 {
            let _ = publish(&client).await;
        }
        assert_eq!(state(&client), State::Open);
        healthy.store(true, Ordering::SeqCst);
        if is_same {
            advance(2 * SECOND).await;
            publish(&client).await.unwrap();
            assert_eq!(state(&client), State::Open);
        }
        advance(2 * SECOND).await;
        publish(&client).await.unwrap();
        becomes(&client, State::Closed).await;
    }
}

#[tokio::test]
async fn two_successful_probes_close_the_breaker_and_one_does_not() {
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
async fn a_hanging_endpoint_does_not_keep_a_probe_from_the_next_endpoint() {
    let server = start().await;
    let (silent, proxy) = (Backlog::fill().await, absent(&server).await);
    let config = Config::grpc(silent.url()).endpoint(proxy.url()).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(None)).unwrap();
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
async fn an_unauthenticated_probe_keeps_the_breaker_open() {
    let server = start().await;
    let script = h2script::replying(|request| match &request.path {
        path if path.ends_with("/Publish") => Reply::status(14, "no"),
        _ => Reply::status(16, "who are you"),
    });
    let client = opened(&script, &server).await;
    let (seen, _watching) = watched(&client);
    advance(7 * SECOND).await;
    publish(&client).await.unwrap();
    until(|| *seen.lock().unwrap() == [State::HalfOpen, State::Open]).await;
    publish(&client).await.unwrap();
}

#[test]
fn a_runtime_that_ends_during_a_probe_does_not_block_later_probes() {
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
