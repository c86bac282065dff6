//! Streams that are refused, and connections that end with a GOAWAY.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::{Client, Error, ErrorKind, Outcome, Retry};
use tokio::task::JoinSet;

use super::{client, without_keys};
use crate::support::h2script::{self, NO_ERROR, REFUSED_STREAM, Reply};
use crate::support::tally::Server;
use crate::support::{AT_ONCE, applied, assert_error, publish_number, soon, within};

/// Publishes 0 to `number`, all at once.
async fn publish_all(client: &Client, number: usize) -> Vec<Result<(), Error>> {
    let mut calls = JoinSet::new();
    for n in 0..number {
        let client = client.clone();
        calls.spawn(async move { publish_number(&client, n).await });
    }
    within(AT_ONCE, calls.join_all()).await
}

/// Refuses the first stream before its body is read, and is good from then on.
fn refusing_the_first() -> Server {
    h2script::start(|mut connection| async move {
        if connection.number == 0 {
            let stream = connection.opened().await?;
            connection.reset_stream(stream, REFUSED_STREAM).await?;
        }
        connection.serve().await
    })
}

#[tokio::test]
async fn a_refused_stream_is_retried_and_applied_once() {
    let server = refusing_the_first();
    within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
}

#[tokio::test]
async fn a_call_on_a_refused_stream_is_sent_again_even_without_retries() {
    let server = refusing_the_first();
    let client = client(server.url(), crate::support::once());
    within(AT_ONCE, publish_number(&client, 0)).await.unwrap();
    // The connection is as good as before.
    within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.tally.arrived().len(), server.dials()), ((2, 2), 2, 1));
}

#[tokio::test]
async fn a_stream_refused_after_its_request_is_retried_and_applied_once() {
    let server = h2script::replying(|request| match request.number {
        0 => Reply::reset(REFUSED_STREAM),
        _ => Reply::result(),
    });
    within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap();
    assert_eq!((server.tally.arrived().len(), applied(&[&server.tally]), server.dials()), (2, (1, 1), 1));
}

#[tokio::test]
async fn a_server_that_refuses_every_stream_gets_a_bounded_number_of_requests() {
    let streams = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&streams);
    let server = h2script::start(move |mut connection| {
        let counting = Arc::clone(&counting);
        async move {
            loop {
                let stream = connection.opened().await?;
                counting.fetch_add(1, Ordering::SeqCst);
                connection.reset_stream(stream, REFUSED_STREAM).await?;
            }
        }
    });
    for (retry, attempts) in [(crate::support::once(), 1), (Retry::new(), 3)] {
        streams.store(0, Ordering::SeqCst);
        let error = within(AT_ONCE, publish_number(&client(server.url(), retry), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::NotSent, attempts);
        // Three at once, and then two after the backoff of the endpoint.
        let streams = streams.load(Ordering::SeqCst);
        assert!((1..=5 * attempts as usize).contains(&streams), "{streams} for {attempts}");
    }
    assert_eq!((server.tally.arrived().len(), server.dials()), (0, 2));
}

#[tokio::test]
async fn streams_beyond_a_goaway_are_sent_again_and_applied_once() {
    for retry in [crate::support::once(), without_keys()] {
        let server = h2script::start(|mut connection| async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let mut requests = connection.requests(20).await?;
            requests.sort_by_key(|request| request.stream);
            connection.goaway(requests[9].stream, NO_ERROR, b"bye").await?;
            for request in &requests[..10] {
                connection.reply(request, &Reply::result()).await?;
            }
            connection.finish().await
        });
        for outcome in publish_all(&client(server.url(), retry), 20).await {
            outcome.unwrap();
        }
        assert_eq!(applied(&[&server.tally]), (20, 20));
        // Ten of them arrived twice, and there is one new connection for all.
        assert_eq!((server.tally.arrived().len(), server.dials()), (30, 2));
    }
}

#[tokio::test]
async fn a_server_that_ends_every_connection_with_a_goaway_is_dialled_a_bounded_number_of_times() {
    for (retry, attempts) in [(crate::support::once(), 1), (Retry::new(), 3)] {
        let server = h2script::start(|mut connection| async move {
            connection.request().await?;
            connection.goaway(0, NO_ERROR, b"").await?;
            connection.finish().await
        });
        let error = within(AT_ONCE, publish_number(&client(server.url(), retry), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::NotSent, attempts);
        // Three at once, and then two after the backoff of the endpoint.
        assert_eq!(applied(&[&server.tally]), (0, 0));
        assert!((3..=5 * attempts as usize).contains(&server.dials()), "{} for {attempts}", server.dials());
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_after_its_greeting_is_dialled_a_bounded_number_of_times() {
    for (reset, retry, attempts) in [
        (false, crate::support::once(), 1),
        (true, crate::support::once(), 1),
        (false, Retry::new(), 3),
        (true, Retry::new(), 3),
    ] {
        let server = h2script::start(move |connection| async move {
            if reset { connection.reset() } else { connection.finish().await }
        });
        let error =
            within(AT_ONCE, publish_number(&client(server.url(), retry.idempotency_keys(false)), 0)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost), "{error:?}");
        assert_eq!((server.tally.arrived().len(), server.tally.applied().len()), (0, 0));
        assert!(server.dials() <= 5 * attempts, "{} dials", server.dials());
        // That the request may have been on its way shows from the outcome, and from the end of the attempts.
        match error.outcome() {
            Outcome::NotSent => assert_eq!(error.attempts() as usize, attempts),
            outcome => assert_eq!((outcome, error.kind()), (Outcome::Unknown, ErrorKind::Lost)),
        }
    }
}

async fn drained_under_load(retry: Retry) {
    let server = h2script::start(|mut connection| async move {
        for _ in 0..25 {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
        }
        for request in connection.drain().await? {
            connection.reply(&request, &Reply::result()).await?;
        }
        connection.serve().await
    });
    let client = client(server.url(), retry);
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let client = client.clone();
        callers.spawn(async move {
            for n in 0..50 {
                publish_number(&client, caller * 50 + n).await.unwrap();
            }
        });
    }
    soon(callers.join_all()).await;
    assert_eq!(applied(&[&server.tally]), (800, 800));
    assert!((2..=32).contains(&server.dials()), "{} dials", server.dials());
}

#[tokio::test]
async fn connections_that_are_drained_under_load_as_grpc_go_does_lose_no_call() {
    drained_under_load(crate::support::once()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_are_drained_under_load_lose_no_call_of_several_threads() {
    // A call may meet the end of one connection after the other, which come after 25 calls here.
    drained_under_load(without_keys()).await;
}

#[tokio::test]
async fn streams_up_to_a_goaway_may_have_run_when_the_connection_is_cut() {
    for reset in [false, true] {
        let server = h2script::start(move |mut connection| async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let mut requests = connection.requests(4).await?;
            requests.sort_by_key(|request| request.stream);
            connection.goaway(requests[1].stream, NO_ERROR, b"").await?;
            connection.sync().await?;
            if reset { connection.reset() } else { connection.finish().await }
        });
        let outcomes = publish_all(&client(server.url(), without_keys()), 4).await;
        let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 2);
        for error in errors {
            assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        }
        assert_eq!(applied(&[&server.tally]), (2, 2));
    }
}

#[tokio::test]
async fn a_connection_that_takes_fifty_calls_loses_none_of_256_callers() {
    // As nginx with `keepalive_requests 50`: what comes after that is not processed.
    let server = h2script::start(|mut connection| async move {
        let mut last = 0;
        for _ in 0..50 {
            let request = connection.request().await?;
            last = last.max(request.stream);
            connection.reply(&request, &Reply::result()).await?;
        }
        connection.goaway(last, NO_ERROR, b"").await?;
        connection.finish().await
    });
    let client = client(server.url(), crate::support::once());
    let mut callers = JoinSet::new();
    for caller in 0..256 {
        let client = client.clone();
        callers.spawn(async move {
            for n in 0..7 {
                publish_number(&client, caller * 7 + n).await.unwrap();
            }
        });
    }
    soon(callers.join_all()).await;
    assert_eq!(applied(&[&server.tally]), (1792, 1792));
    assert!(client.endpoints()[0].available);
}

#[tokio::test]
async fn a_server_that_ends_each_connection_with_a_goaway_is_not_dialled_in_a_loop() {
    let server = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.goaway(0, NO_ERROR, b"").await?;
        connection.finish().await
    });
    let client = client(server.url(), crate::support::once());
    let (until, mut callers) = (tokio::time::Instant::now() + Duration::from_secs(2), JoinSet::new());
    for caller in 0..16 {
        let client = client.clone();
        callers.spawn(async move {
            while tokio::time::Instant::now() < until {
                let error = publish_number(&client, caller).await.unwrap_err();
                assert_error(&error, ErrorKind::Lost, Outcome::NotSent, 1);
            }
        });
    }
    soon(callers.join_all()).await;
    // Three at once, and then one after each backoff of 100 ms to a second; each may be of several callers.
    assert!(server.dials() <= 64, "{} dials in two seconds", server.dials());
}
