//! Endpoints that no connection can be made to.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use centrifugo_api::config::Grpc;
use centrifugo_api::config::{LoadBalancing, Tls};
use centrifugo_api::{Client, Config, ErrorKind, Outcome};
use tokio::task::JoinSet;

use super::{CONNECT, assert_not_sent, client, config, good};
use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::h2script::{self};
use crate::support::port::Port;
use crate::support::servers::ClosedPort;
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{AT_ONCE, advance, applied, publish_number, spawn_publish, within};

/// A call to an unreachable endpoint fails as not sent within this time. With a second endpoint it succeeds there in one attempt.
/// Later calls skip the unreachable one.
async fn assert_skipped(url: String, time: Duration) {
    let alone = client(std::slice::from_ref(&url), LoadBalancing::LeastBusy);
    assert_not_sent(&within(time, publish_number(&alone, 0)).await.unwrap_err(), ErrorKind::Connect);
    assert!(!alone.endpoints()[0].available);

    let server = good();
    let client = client(&[url, server.url()], LoadBalancing::Priority);
    within(time, publish_number(&client, 0)).await.unwrap();
    assert_eq!(client.endpoints().iter().map(|endpoint| endpoint.available).collect::<Vec<_>>(), [false, true]);
    let started = Instant::now();
    within(time, publish_number(&client, 1)).await.unwrap();
    assert!(started.elapsed() < time);
    assert_eq!((applied(&[&server.tally]), server.dials()), ((2, 2), 1));
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_skipped_at_once() {
    let closed = ClosedPort::new();
    assert_skipped(closed.url(), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_endpoint_where_connecting_hangs_is_skipped_after_the_connect_timeout() {
    let backlog = Backlog::fill().await;
    assert_skipped(backlog.url(), CONNECT + Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_silent_endpoint_is_skipped_after_the_connect_timeout() {
    let deaf = h2script::start_bare(|mut connection| async move { connection.stall().await });
    assert_skipped(deaf.url(), CONNECT + Duration::from_secs(1)).await;
    let silent = h2script::start_bare(|mut connection| async move { connection.ignore().await });
    assert_skipped(silent.url(), CONNECT + Duration::from_secs(1)).await;
    assert_eq!((deaf.tally.arrived().len(), silent.tally.arrived().len()), (0, 0));
}

#[tokio::test]
async fn an_endpoint_that_closes_its_connections_is_skipped() {
    for reset in [true, false] {
        let curt = h2script::start_bare(move |connection| async move {
            if reset { connection.reset() } else { connection.finish().await }
        });
        assert_skipped(curt.url(), AT_ONCE).await;
    }
}

#[tokio::test]
async fn an_endpoint_whose_tls_handshake_hangs_is_skipped_after_the_connect_timeout() {
    let authority = Authority::new();
    let (silent, identity) = (Peer::with(Flaw::Silent, &authority), authority.issue("127.0.0.1"));
    let tls = centrifugo_api::testing::Server::builder().tls(identity.certificate, identity.key);
    let server = tls.start().await.unwrap();
    let tls = Tls::new().ca_certificates(authority.pem());
    let time = CONNECT + Duration::from_secs(1);

    let alone = Client::new(config(&[silent.https_url()]).tls(tls.clone())).unwrap();
    assert_not_sent(&within(time, publish_number(&alone, 0)).await.unwrap_err(), ErrorKind::Connect);

    let both = config(&[silent.https_url(), server.grpc_url()]).load_balancing(LoadBalancing::Priority).tls(tls);
    within(time, publish_number(&Client::new(both).unwrap(), 0)).await.unwrap();
    assert_eq!(server.applied("news"), 1);
    assert_eq!((silent.dials(), silent.in_the_clear()), (2, 0));
}

#[tokio::test]
async fn an_endpoint_whose_name_does_not_resolve_is_skipped() {
    let server = good();
    let port = server.address().port();
    let urls = [format!("http://nowhere.test:{port}"), format!("http://here.test:{port}")];
    for nowhere in ["unknown", "without an address", "asked for in vain"] {
        let resolved = |config: Config| {
            Client::new(config.load_balancing(LoadBalancing::Priority).resolver(move |host| async move {
                match (&host[..], nowhere) {
                    ("here.test", _) => Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
                    (_, "unknown") => Err(std::io::ErrorKind::NotFound.into()),
                    (_, "without an address") => Ok(Vec::new()),
                    _ => std::future::pending().await,
                }
            }))
            .unwrap()
        };
        let time = CONNECT + Duration::from_secs(1);
        let error = within(time, publish_number(&resolved(config(&urls[..1])), 0)).await.unwrap_err();
        assert_not_sent(&error, ErrorKind::Connect);
        within(time, publish_number(&resolved(config(&urls)), 0)).await.unwrap();
    }
    assert_eq!((server.tally.applied().len(), server.dials()), (3, 3));
}

#[tokio::test]
async fn one_dead_endpoint_of_three_fails_no_call() {
    const CALLERS: usize = 50;
    const CALLS: usize = 200;
    let (closed, one, other) = (ClosedPort::new(), good(), good());
    let client = client(&[closed.url(), one.url(), other.url()], LoadBalancing::LeastBusy);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            for n in 0..CALLS {
                publish_number(&client, caller * CALLS + n).await.unwrap();
            }
        });
    }
    within(Duration::from_secs(120), callers.join_all()).await;
    assert_eq!(applied(&[&one.tally, &other.tally]), (CALLERS * CALLS, CALLERS * CALLS));
    // Both have done their part.
    for server in [one, other] {
        assert!(server.tally.applied().len() > CALLERS * CALLS / 4);
        assert_eq!(server.dials(), 1);
    }
}

/// An address by a name, and how often that was asked for: once for every connection that is tried.
fn named(port: u16, dials: &Arc<AtomicUsize>) -> Config<Grpc> {
    let dials = Arc::clone(dials);
    Config::grpc(format!("http://centrifugo.test:{port}")).resolver(move |_| {
        dials.fetch_add(1, Ordering::SeqCst);
        async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) }
    })
}

#[tokio::test]
async fn in_an_outage_dials_and_retries_are_few_and_calls_fail_fast_and_recover() {
    let server = good();
    server.refuse().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let client = Client::new(named(server.address().port(), &dials)).unwrap();

    // A minute of calls, one after the other. Nothing but timers is waited for, so that the clock runs ahead by itself.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let (mut repeats, mut spent) = (0, 0);
    let mut took = Vec::new();
    while began.elapsed() < Duration::from_secs(60) {
        let started = Instant::now();
        let error = publish_number(&client, 0).await.unwrap_err();
        took.push(started.elapsed());
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent), "{error:?}");
        repeats += error.attempts() - 1;
        spent += usize::from(error.message().contains("retry budget is exhausted"));
        tokio::time::advance(Duration::from_millis(50)).await;
    }
    // 100 ms between dials, growing by 1.6 up to a second, and a fifth less by chance.
    let dialled = dials.load(Ordering::SeqCst);
    assert!((20..=80).contains(&dialled), "{dialled} dials");
    // 500 tokens at 14 each.
    assert!(repeats <= 35 && spent > 5, "{repeats} repeats, {spent} calls without");
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_millis(5), "{:?}", took[took.len() / 2]);

    server.accept();
    tokio::time::resume();
    let mut waited = Duration::ZERO;
    while within(AT_ONCE, publish_number(&client, 1)).await.is_err() {
        assert!(waited <= Duration::from_millis(1300), "not back {waited:?} after the server");
        advance(Duration::from_millis(100)).await;
        waited += Duration::from_millis(100);
    }
    for n in 2..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((applied(&[&server.tally]), server.dials()), ((9, 9), 1));
}

#[tokio::test]
async fn concurrent_calls_to_an_unreachable_endpoint_dial_once() {
    let server = good();
    server.refuse().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let client = Client::new(named(server.address().port(), &dials).retry(None)).unwrap();
    let calls: Vec<_> = (0..100).map(|n| spawn_publish(&client, n)).collect();
    for call in calls {
        assert_not_sent(&within(AT_ONCE, call).await.unwrap().unwrap_err(), ErrorKind::Connect);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    server.accept();
    advance(Duration::from_secs(1)).await;
    // One of them tries the endpoint. Others that come before it is back do not wait for it.
    within(AT_ONCE, publish_number(&client, 100)).await.unwrap();
    let calls: Vec<_> = (0..100).map(|n| spawn_publish(&client, n)).collect();
    for call in calls {
        within(AT_ONCE, call).await.unwrap().unwrap();
    }
    assert_eq!((dials.load(Ordering::SeqCst), server.dials()), (2, 1));
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_http2_is_skipped() {
    let web = Port::open(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
        std::future::pending().await
    });
    let server = good();
    let client = client(&[web.url(), server.url()], LoadBalancing::Priority);
    within(AT_ONCE, publish_number(&client, 0)).await.unwrap();
    assert_eq!(applied(&[&server.tally]), (1, 1));
}
