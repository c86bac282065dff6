//! Which endpoint gets a call, and when one is ejected.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::config::LoadBalancing;
use centrifugo_api::transport::BreakerState;
use centrifugo_api::{Client, Config, ErrorKind, Outcome, Retry};
use tokio::task::JoinSet;

use super::{client, config, good};
use crate::support::h2script::{self, NO_ERROR, REFUSED_STREAM, Reply};
use crate::support::proxy::{End, Proxy};
use crate::support::tally::{Server, Tally};
use crate::support::{AT_ONCE, advance, applied, h1script, publish_number, spawn_publish, until, within};

#[tokio::test]
async fn a_stream_refused_by_one_endpoint_goes_to_another_at_no_cost() {
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
    // Three of them, and then it is left out.
    assert_eq!(refusing.tally.arrived().len(), 3);
    assert_eq!(client.endpoints().iter().map(|endpoint| endpoint.available).collect::<Vec<_>>(), [false, false, true]);
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
async fn priority_returns_to_the_first_endpoint_when_it_is_reachable_again() {
    let (first, second) = (good(), good());
    let proxy = Proxy::to(first.address());
    // With retries: the first call may be on its way when the connection is cut.
    let config = config(&[proxy.url(), second.url()]).load_balancing(LoadBalancing::Priority).retry(Retry::new());
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

    // The first call begins the trial, and goes to the second endpoint itself.
    proxy.accept();
    advance(Duration::from_secs(1)).await;
    within(AT_ONCE, publish_number(&client, 20)).await.unwrap();
    until(|| client.endpoints()[0].available).await;
    for n in 21..30 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((first.dials(), second.tally.applied().len()), (2, 11));
    // With the trial.
    assert_eq!(Tally::effects_of(&[&first.tally, &second.tally]), 31);
}

/// A server that fails while `bad` is set: requests are applied, and then the connection is cut, or there is no response.
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

/// An endpoint that fails so is ejected after this many calls in a row, and returns after a successful trial.
async fn assert_unavailable_after(failures: usize, cuts: bool, kind: ErrorKind) {
    let bad = Arc::new(Mutex::new(true));
    let (first, second) = (bad_at_first(&bad, cuts), good());
    let client = client(&[first.url(), second.url()], LoadBalancing::Priority);
    let impatient = client.with_timeout(Duration::from_millis(300));
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

    // The time is over, and it is as bad as before: a trial finds out, and no call.
    advance(Duration::from_millis(1300)).await;
    let calls: Vec<_> = (20..40).map(|n| spawn_publish(&impatient, n)).collect();
    for call in calls {
        within(AT_ONCE, call).await.unwrap().unwrap();
    }
    until(|| counts().0 == failures + 1).await;
    assert_eq!(counts(), (failures + 1, 30));
    if !cuts {
        // The trial has a second.
        advance(Duration::from_millis(1100)).await;
    }
    until(|| client.endpoints()[0].in_flight == 0).await;

    // It was left out for longer, and is good now.
    advance(Duration::from_millis(1300)).await;
    within(AT_ONCE, publish_number(&client, 40)).await.unwrap();
    assert_eq!(counts(), (failures + 1, 31));
    *bad.lock().unwrap() = false;
    advance(Duration::from_millis(1300)).await;
    within(AT_ONCE, publish_number(&client, 41)).await.unwrap();
    until(|| client.endpoints()[0].available).await;
    for n in 42..50 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!(counts(), (failures + 2 + 8, 32));
    assert!(client.endpoints()[0].available);
    // Its connections were not trusted any more, cut or not.
    let dials = if cuts { failures + 2 } else { 3 };
    assert_eq!((first.dials(), second.dials()), (dials, 1));
}

#[tokio::test]
async fn three_lost_calls_in_a_row_make_an_endpoint_unavailable_until_one_succeeds() {
    assert_unavailable_after(3, true, ErrorKind::Lost).await;
}

#[tokio::test]
async fn five_timeouts_in_a_row_make_an_endpoint_unavailable_until_a_call_succeeds() {
    assert_unavailable_after(5, false, ErrorKind::Timeout).await;
}

#[tokio::test]
async fn the_only_endpoint_is_tried_even_when_unavailable() {
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
async fn an_endpoint_that_refuses_calls_stays_available() {
    let (first, second) = (h2script::replying(|_| Reply::status(3, "no")), good());
    let client = client(&[first.url(), second.url()], LoadBalancing::Priority);
    for n in 0..20 {
        let error = within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::Refused), "{error:?}");
    }
    assert_eq!((first.tally.arrived().len(), second.dials()), (20, 0));
}

#[tokio::test]
async fn calls_lost_with_one_connection_count_as_one_loss() {
    let server = h2script::start(|mut connection| async move {
        if connection.number == 0 {
            let requests = connection.requests(20).await?;
            drop(requests);
            return connection.reset();
        }
        connection.serve().await
    });
    let http = h1script::replying(|_| h1script::Reply::result());
    let config = Config::grpc(server.url()).fallback(Config::http(http.api_url())).retry(None);
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

#[tokio::test]
async fn an_endpoint_that_responds_badly_is_left_out_while_another_responds_well() {
    for bad in [Reply::status(13, "it is broken"), Reply::message(b"nonsense")] {
        let (first, second) = (h2script::replying(move |_| bad.clone()), good());
        let client = client(&[first.url(), second.url()], LoadBalancing::LeastBusy);
        let mut failed = 0;
        for n in 0..200 {
            failed += usize::from(within(AT_ONCE, publish_number(&client, n)).await.is_err());
        }
        assert!((4..=5).contains(&failed) && first.tally.arrived().len() == failed, "{failed} failed");
        assert!(!client.endpoints()[0].available && client.endpoints()[1].available);
    }
    // If all respond badly, it may be the calls.
    let (first, second) =
        (h2script::replying(|_| Reply::status(13, "no")), h2script::replying(|_| Reply::status(13, "no")));
    let client = client(&[first.url(), second.url()], LoadBalancing::LeastBusy);
    for n in 0..50 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
    }
    assert!(client.endpoints().iter().all(|endpoint| endpoint.available));
}
