//! Several endpoints over gRPC, and the connections to each: which one gets a call, and what becomes of a bad one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use centrifugo_api::{BreakerState, Client, Config, Error, ErrorKind, LoadBalancing, Outcome, Retry, Tls};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::h2script::{self, ENHANCE_YOUR_CALM, Event, NO_ERROR, REFUSED_STREAM, Reply};
use crate::support::port::Port;
use crate::support::proxy::{End, Proxy};
use crate::support::servers::Nobody;
use crate::support::tally::{Server, Tally};
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{AT_ONCE, advance, applied, h1script, publish_number, soon, spawn_publish, until, within};

/// How long a connection may take to be made, where it is not made at all.
const CONNECT: Duration = Duration::from_millis(250);

fn good() -> Server {
    h2script::replying(|_| Reply::result())
}

/// These endpoints, without retries.
fn client(urls: &[String], balance: LoadBalancing) -> Client {
    Client::new(config(urls).balance(balance)).unwrap()
}

fn config(urls: &[String]) -> Config {
    let first = Config::grpc(&urls[0]).retry(Retry::off()).connect_timeout(CONNECT);
    urls[1..].iter().fold(first, Config::endpoint)
}

#[track_caller]
fn assert_not_sent(error: &Error, kind: ErrorKind) {
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (kind, Outcome::NotSent, 1), "{error:?}");
}

/// A call to an endpoint that no connection can be made to fails as not sent, in this time, and with another endpoint
/// behind it, it goes there at no cost. Later calls do not go where nobody was.
async fn is_passed_over(url: String, time: Duration) {
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
async fn an_endpoint_that_refuses_connections_is_passed_over_at_once() {
    let nobody = Nobody::new();
    is_passed_over(nobody.url(), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_endpoint_where_connecting_hangs_is_passed_over_when_the_time_to_connect_is_over() {
    let backlog = Backlog::fill().await;
    is_passed_over(backlog.url(), CONNECT + Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_says_nothing_is_passed_over_when_the_time_to_connect_is_over() {
    let deaf = h2script::start_bare(|mut connection| async move { connection.stall().await });
    is_passed_over(deaf.url(), CONNECT + Duration::from_secs(1)).await;
    let silent = h2script::start_bare(|mut connection| async move { connection.ignore().await });
    is_passed_over(silent.url(), CONNECT + Duration::from_secs(1)).await;
    assert_eq!((deaf.tally.arrived().len(), silent.tally.arrived().len()), (0, 0));
}

#[tokio::test]
async fn an_endpoint_that_closes_connections_without_a_word_is_passed_over() {
    for reset in [true, false] {
        let curt = h2script::start_bare(move |connection| async move {
            if reset { connection.reset() } else { connection.finish().await }
        });
        is_passed_over(curt.url(), AT_ONCE).await;
    }
}

#[tokio::test]
async fn an_endpoint_whose_tls_handshake_hangs_is_passed_over_when_the_time_to_connect_is_over() {
    let authority = Authority::new();
    let (silent, identity) = (Peer::with(Flaw::Silent, &authority), authority.issue("127.0.0.1"));
    let tls = centrifugo_api::testing::Server::builder().tls(identity.certificate, identity.key);
    let server = tls.start().await.unwrap();
    let tls = Tls::new().ca_certificates(authority.pem());
    let time = CONNECT + Duration::from_secs(1);

    let alone = Client::new(config(&[silent.https_url()]).tls(tls.clone())).unwrap();
    assert_not_sent(&within(time, publish_number(&alone, 0)).await.unwrap_err(), ErrorKind::Connect);

    let both = config(&[silent.https_url(), server.grpc_url()]).balance(LoadBalancing::Priority).tls(tls);
    within(time, publish_number(&Client::new(both).unwrap(), 0)).await.unwrap();
    assert_eq!(server.applied("news"), 1);
    assert_eq!((silent.dials(), silent.in_the_clear()), (2, 0));
}

#[tokio::test]
async fn an_endpoint_whose_name_has_no_address_is_passed_over() {
    let server = good();
    let port = server.address().port();
    let urls = [format!("http://nowhere.test:{port}"), format!("http://here.test:{port}")];
    for nowhere in ["unknown", "without an address", "asked for in vain"] {
        let resolved = |config: Config| {
            Client::new(config.balance(LoadBalancing::Priority).resolver(move |host| async move {
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
async fn a_call_that_one_endpoint_refuses_goes_to_another_at_no_cost() {
    let refusing = h2script::replying(|_| Reply::reset(REFUSED_STREAM));
    let leaving = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.goaway(0, NO_ERROR, b"").await?;
        connection.finish().await
    });
    let server = good();
    let client = client(&[refusing.url(), leaving.url(), server.url()], LoadBalancing::Priority);
    for n in 0..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!(applied(&[&refusing.tally, &leaving.tally, &server.tally]), (10, 10));
    assert_eq!(refusing.tally.arrived().len(), 10);
}

#[tokio::test]
async fn one_of_three_endpoints_that_is_dead_from_the_start_costs_no_call() {
    const CALLERS: usize = 50;
    const CALLS: usize = 200;
    let (nobody, one, other) = (Nobody::new(), good(), good());
    let client = client(&[nobody.url(), one.url(), other.url()], LoadBalancing::LeastBusy);
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
fn named(port: u16, dials: &Arc<AtomicUsize>) -> Config {
    let dials = Arc::clone(dials);
    Config::grpc(format!("http://centrifugo.test:{port}")).resolver(move |_| {
        dials.fetch_add(1, Ordering::SeqCst);
        async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) }
    })
}

#[tokio::test]
async fn while_nobody_is_there_dials_and_repeats_are_few_and_calls_fail_fast_and_then_recover() {
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
        spent += usize::from(error.message().contains("too many calls"));
        tokio::time::advance(Duration::from_millis(50)).await;
    }
    // 100 ms between dials, growing by 1.6 up to 10 s, and a fifth less by chance: 11 dials until it is 10 s, in 15 s, and
    // one every 8 s after that.
    let dialled = dials.load(Ordering::SeqCst);
    assert!((2..=18).contains(&dialled), "{dialled} dials");
    // 500 tokens at 14 each.
    assert!(repeats <= 35 && spent > 100, "{repeats} repeats, {spent} calls without");
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_millis(5), "{:?}", took[took.len() / 2]);

    server.accept();
    tokio::time::resume();
    let mut waited = Duration::ZERO;
    while within(AT_ONCE, publish_number(&client, 1)).await.is_err() {
        assert!(waited <= Duration::from_secs(12), "not back {waited:?} after the server");
        advance(Duration::from_millis(500)).await;
        waited += Duration::from_millis(500);
    }
    for n in 2..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((applied(&[&server.tally]), server.dials()), ((9, 9), 1));
}

#[tokio::test]
async fn calls_that_find_nobody_at_the_same_time_dial_once() {
    let server = good();
    server.refuse().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let client = Client::new(named(server.address().port(), &dials).retry(Retry::off())).unwrap();
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
async fn a_name_that_moves_takes_its_calls_along_and_the_old_connection_is_drained() {
    let gone = Arc::new(Notify::new());
    let (ended, held) = (Arc::clone(&gone), Arc::new(Notify::new()));
    let answer = Arc::clone(&held);
    let old = h2script::start(move |mut connection| {
        let (ended, answer) = (Arc::clone(&ended), Arc::clone(&answer));
        async move {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
            let long = connection.request().await?;
            let next = connection.request().await?;
            connection.reply(&next, &Reply::result()).await?;
            let served = tokio::select! {
                served = connection.serve() => served,
                () = answer.notified() => Ok(()),
            };
            served?;
            connection.reply(&long, &Reply::result()).await?;
            let served = connection.serve().await;
            ended.notify_one();
            served
        }
    });
    let address = (Ipv4Addr::new(127, 0, 0, 2), old.address().port()).into();
    let new = h2script::start_at(address, |mut connection| async move { connection.serve().await });
    let name = Arc::new(Mutex::new(old.address().ip()));
    let now = Arc::clone(&name);
    let config = Config::grpc(format!("http://centrifugo.test:{}", old.address().port()))
        .resolver(move |_| {
            let addresses = vec![*now.lock().unwrap()];
            async { Ok(addresses) }
        })
        .timeout(Duration::from_secs(3600))
        .retry(Retry::off());
    let client = Client::new(config).unwrap();

    within(AT_ONCE, publish_number(&client, 0)).await.unwrap();
    let long = spawn_publish(&client, 1);
    soon(old.tally.until_arrived(2)).await;
    *name.lock().unwrap() = new.address().ip();
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!((old.tally.applied().len(), new.dials()), (2, 0), "it was looked up again so soon");

    advance(Duration::from_secs(31)).await;
    // This one finds that it is time. It may still go to the old address.
    within(AT_ONCE, publish_number(&client, 3)).await.unwrap();
    // The lookup is a task of its own.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let before = new.tally.applied().len();
    within(AT_ONCE, publish_number(&client, 4)).await.unwrap();
    within(AT_ONCE, publish_number(&client, 5)).await.unwrap();
    assert_eq!(new.tally.applied().len(), before + 2);
    assert_eq!((old.dials(), new.dials()), (1, 1));

    // The call that runs on the old connection is not cut off, and when it ends, the connection does.
    held.notify_one();
    within(AT_ONCE, long).await.unwrap().unwrap();
    within(AT_ONCE, gone.notified()).await;
    assert_eq!(applied(&[&old.tally, &new.tally]), (6, 6));
}

#[tokio::test]
async fn a_server_that_finds_the_signs_of_life_too_many_is_asked_for_half_as_many_on_the_next_connection() {
    let (checked, proceed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start({
        let (checked, proceed) = (Arc::clone(&checked), Arc::clone(&proceed));
        move |mut connection| {
            let (checked, proceed) = (Arc::clone(&checked), Arc::clone(&proceed));
            async move {
                let request = connection.request().await?;
                if connection.number == 0 {
                    // Whatever arrives is a sign of life; now all of it has.
                    connection.sync().await?;
                    checked.notify_one();
                    connection.pinged().await?;
                    connection.goaway(connection.highest, ENHANCE_YOUR_CALM, b"too_many_pings").await?;
                    return connection.finish().await;
                }
                proceed.notified().await;
                let early = connection.sync().await?;
                assert!(!early.iter().any(|event| matches!(event, Event::Pinged)), "{early:?}");
                checked.notify_one();
                connection.pinged().await?;
                connection.reply(&request, &Reply::result()).await?;
                connection.serve().await
            }
        }
    });
    let config = Config::grpc(server.url()).timeout(Duration::from_secs(3600)).retry(Retry::off());
    let client = Client::new(config).unwrap();

    let first = spawn_publish(&client, 0);
    soon(checked.notified()).await;
    advance(Duration::from_secs(31)).await;
    let error = within(AT_ONCE, first).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error:?}");

    let second = spawn_publish(&client, 1);
    soon(server.tally.until_arrived(2)).await;
    advance(Duration::from_secs(35)).await;
    proceed.notify_one();
    soon(checked.notified()).await;
    advance(Duration::from_secs(61)).await;
    within(AT_ONCE, second).await.unwrap().unwrap();
    // Nobody is punished for it: the endpoint is as good as before.
    assert!(client.endpoints()[0].available);
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((2, 2), 2));
}

#[tokio::test]
async fn calls_go_to_the_less_busy_of_two_endpoints() {
    let (one, other) = (h2script::replying(|_| Reply::hang()), h2script::replying(|_| Reply::hang()));
    let client = client(&[one.url(), other.url()], LoadBalancing::LeastBusy);
    let mut calls = Vec::new();
    for n in 1..=20 {
        calls.push(spawn_publish(&client, n));
        until(|| one.tally.arrived().len() + other.tally.arrived().len() >= n).await;
        let busy = [&one, &other].map(|server| server.tally.arrived().len());
        assert!(busy[0].abs_diff(busy[1]) <= 1, "{busy:?}");
        let known: Vec<_> = client.endpoints().iter().map(|endpoint| endpoint.in_flight).collect();
        assert_eq!(known, busy);
    }
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert!(client.endpoints().iter().all(|endpoint| endpoint.in_flight == 0 && endpoint.available));
}

#[tokio::test]
async fn the_first_endpoint_that_can_be_reached_has_priority_and_has_it_again_when_it_is_back() {
    let (first, second) = (good(), good());
    let proxy = Proxy::to(first.address());
    // With retries: the first call may be on its way when the connection is cut.
    let config = config(&[proxy.url(), second.url()]).balance(LoadBalancing::Priority).retry(Retry::new());
    let client = Client::new(config).unwrap();
    for n in 0..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!(second.dials(), 0);

    proxy.refuse().await;
    proxy.cut(End::Fin);
    for n in 10..20 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((first.dials(), second.tally.applied().len()), (1, 10));

    proxy.accept();
    advance(Duration::from_secs(1)).await;
    for n in 20..30 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((first.dials(), second.tally.applied().len()), (2, 10));
    assert_eq!(Tally::effects_of(&[&first.tally, &second.tally]), 30);
}

/// A server that is bad as long as it is told so: requests are carried out, and then the connection is cut, or nothing is
/// answered.
fn bad_at_first(bad: &Arc<Mutex<bool>>, cuts: bool) -> Server {
    let bad = Arc::clone(bad);
    h2script::start(move |mut connection| {
        let bad = Arc::clone(&bad);
        async move {
            loop {
                let request = connection.request().await?;
                let is_bad = *bad.lock().unwrap();
                if is_bad {
                    connection.reply(&request, &Reply::hang().applied()).await?;
                    if cuts {
                        return connection.reset();
                    }
                } else {
                    connection.reply(&request, &Reply::result()).await?;
                }
            }
        }
    })
}

/// An endpoint that fails so is left out after so many calls in a row, and comes back by one call that tries it.
async fn is_left_out_after(failures: usize, cuts: bool, kind: ErrorKind) {
    let bad = Arc::new(Mutex::new(true));
    let (first, second) = (bad_at_first(&bad, cuts), good());
    let client = client(&[first.url(), second.url()], LoadBalancing::Priority);
    // Less would be the caller's affair.
    let impatient = client.with_timeout(Duration::from_secs(1));
    for n in 0..failures {
        assert!(client.endpoints()[0].available, "left out after {n}");
        let error = within(AT_ONCE, publish_number(&impatient, n)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::Unknown), "{error:?}");
    }
    assert!(!client.endpoints()[0].available);
    for n in 10..20 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    let counts = || (first.tally.arrived().len(), second.tally.arrived().len());
    assert_eq!(counts(), (failures, 10));

    // The time is over, and it is as bad as before: one call finds out.
    advance(Duration::from_millis(1300)).await;
    let calls: Vec<_> = (20..40).map(|n| spawn_publish(&impatient, n)).collect();
    let mut lost = 0;
    for call in calls {
        lost += usize::from(within(AT_ONCE, call).await.unwrap().is_err());
    }
    assert_eq!((lost, counts()), (1, (failures + 1, 29)));

    // It was left out for longer, and is good now.
    advance(Duration::from_millis(1300)).await;
    within(AT_ONCE, publish_number(&client, 40)).await.unwrap();
    assert_eq!(counts(), (failures + 1, 30));
    *bad.lock().unwrap() = false;
    advance(Duration::from_millis(1300)).await;
    for n in 41..50 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!(counts(), (failures + 10, 30));
    assert!(client.endpoints()[0].available);
    assert_eq!(applied(&[&first.tally, &second.tally]), (failures + 40, failures + 40));
    // Its connections were not trusted any more, cut or not.
    let dials = if cuts { failures + 2 } else { 3 };
    assert_eq!((first.dials(), second.dials()), (dials, 1));
}

#[tokio::test]
async fn an_endpoint_that_loses_three_calls_in_a_row_is_left_out_until_one_call_succeeds_there() {
    is_left_out_after(3, true, ErrorKind::Lost).await;
}

#[tokio::test]
async fn an_endpoint_where_five_calls_in_a_row_are_not_answered_in_time_is_left_out_until_one_call_succeeds_there() {
    is_left_out_after(5, false, ErrorKind::Timeout).await;
}

#[tokio::test]
async fn an_only_endpoint_that_loses_calls_is_tried_all_the_same() {
    let bad = Arc::new(Mutex::new(true));
    let server = bad_at_first(&bad, true);
    let client = client(&[server.url()], LoadBalancing::LeastBusy);
    for n in 0..10 {
        let error = within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error:?}");
    }
    *bad.lock().unwrap() = false;
    within(AT_ONCE, publish_number(&client, 10)).await.unwrap();
    assert!(client.endpoints()[0].available);
    assert_eq!(applied(&[&server.tally]), (11, 11));
}

#[tokio::test]
async fn an_endpoint_that_only_refuses_calls_is_not_left_out() {
    let (first, second) = (h2script::replying(|_| Reply::status(3, "no")), good());
    let client = client(&[first.url(), second.url()], LoadBalancing::Priority);
    for n in 0..20 {
        let error = within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::Refused), "{error:?}");
    }
    assert_eq!((first.tally.arrived().len(), second.dials()), (20, 0));
}

#[tokio::test]
async fn connections_that_are_all_ended_at_once_lose_no_call() {
    let server = h2script::start(|mut connection| async move {
        if connection.number >= 4 {
            return connection.serve().await;
        }
        for _ in 0..5 {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
        }
        let rest = connection.request().await?;
        connection.goaway(rest.stream - 2, NO_ERROR, b"").await?;
        connection.finish().await
    });
    let config = Config::grpc(server.url()).connections(4).retry(Retry::off());
    let client = Client::new(config).unwrap();
    // Until there are four, the calls share those that there are.
    soon(async {
        while server.dials() < 4 {
            publish_number(&client, 0).await.unwrap();
        }
    })
    .await;
    let before = server.tally.applied().len();
    let calls: Vec<_> = (1..=100).map(|n| spawn_publish(&client, n)).collect();
    for call in calls {
        within(AT_ONCE, call).await.unwrap().unwrap();
    }
    assert_eq!(server.tally.applied().len(), before + 100);
}

#[tokio::test]
async fn thousands_of_calls_that_are_dropped_harm_no_other_call_on_their_connection() {
    const AT_ONCE_DROPPED: usize = 100;
    const ROUNDS: usize = 30;
    let server = h2script::start(|mut connection| async move {
        let bystander = connection.request().await?;
        connection.requests(AT_ONCE_DROPPED * ROUNDS).await?;
        connection.reply(&bystander, &Reply::result()).await?;
        connection.serve().await
    });
    let client = client(&[server.url()], LoadBalancing::LeastBusy);
    let patient = client.with_timeout(Duration::from_secs(3600));
    let bystander = spawn_publish(&patient, 0);
    soon(server.tally.until_arrived(1)).await;
    for round in 0..ROUNDS {
        let calls: Vec<_> = (0..AT_ONCE_DROPPED).map(|n| spawn_publish(&patient, n)).collect();
        soon(server.tally.until_arrived(1 + (round + 1) * AT_ONCE_DROPPED)).await;
        for call in calls {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
    }
    within(AT_ONCE, bystander).await.unwrap().unwrap();
    for n in 0..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((server.tally.applied().len(), server.dials()), (11, 1));
    assert!(client.endpoints()[0].available, "that callers give up says nothing about the endpoint");
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_is_dialled_for_leaves_the_connection_to_the_others() {
    let (greet, greeted) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start_bare({
        let (greet, greeted) = (Arc::clone(&greet), Arc::clone(&greeted));
        move |mut connection| {
            let (greet, greeted) = (Arc::clone(&greet), Arc::clone(&greeted));
            async move {
                greeted.notify_one();
                greet.notified().await;
                connection.settings(&[]).await?;
                connection.serve().await
            }
        }
    });
    let client = Client::new(Config::grpc(server.url()).retry(Retry::off())).unwrap();
    let (dropped, other) = (spawn_publish(&client, 0), spawn_publish(&client, 1));
    soon(greeted.notified()).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    greet.notify_one();
    within(AT_ONCE, other).await.unwrap().unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
}

#[tokio::test]
async fn what_is_not_http2_at_an_endpoint_is_passed_over_for_one_that_is() {
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

#[tokio::test]
async fn calls_that_are_lost_with_one_connection_are_one_loss() {
    let server = h2script::start(|mut connection| async move {
        if connection.number == 0 {
            let requests = connection.requests(20).await?;
            drop(requests);
            return connection.reset();
        }
        connection.serve().await
    });
    let http = h1script::replying(|_| h1script::Reply::result());
    let config = Config::grpc(server.url()).fallback(Config::http(http.api_url())).retry(Retry::off());
    let client = Client::new(config).unwrap();
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let client = client.clone();
        calls.spawn(async move { publish_number(&client, n).await });
    }
    for outcome in within(AT_ONCE, calls.join_all()).await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Lost);
    }
    assert!(client.endpoints().iter().all(|endpoint| endpoint.available));
    assert_eq!(*client.watch_breaker().unwrap().borrow(), BreakerState::Closed);
    within(AT_ONCE, publish_number(&client, 20)).await.unwrap();
    assert_eq!((server.tally.applied().len(), http.tally.applied().len()), (1, 0));
}
