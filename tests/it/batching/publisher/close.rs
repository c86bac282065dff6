//! Flush, close, and the end of the client or the runtime below.

use std::time::Duration;

use centrifugo_api::{ApiError, Batching, CloseSummary, Error, ErrorKind, Outcome, Publisher, PublisherConfig};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::{ORDERS, enqueue, later, message, one_by_one};
use crate::support::fake::{Fake, Sent};
use crate::support::{BOTH, SECOND, assert_fails, counts, poll_once, quick_retry, servers::Setup, settle, soon, until};

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_was_accepted_before_and_tells_how_all_messages_ended() {
    let (fake, permits) = Fake::held(|sent| match sent.data()[0].as_str() {
        Some("lost") => Err(Error::new(ErrorKind::Lost, "no response")),
        Some("nobody") => Err(Error::new(ErrorKind::Connect, "connection refused")),
        Some("refused") => Ok(vec![Err(ApiError::new(107, "bad"))]),
        _ => sent.done(),
    });
    let batching = Batching::new().in_flight(1).max_commands(1);
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new().batching(batching)).unwrap();
    assert_eq!(publisher.flush().await, CloseSummary::default());
    let tickets = ["done", "lost", "nobody", "refused", "withdrawn"].map(|data| enqueue(&publisher, "a", data));
    settle().await;
    let one = poll_once(publisher.flush());
    let [_done, _lost, _nobody, refused, withdrawn] = tickets;
    withdrawn.cancel().unwrap();
    let _later = enqueue(&publisher, "b", "done");
    let two = poll_once(publisher.flush());
    drop(poll_once(publisher.flush()));
    permits.add_permits(10);
    let (one, two) = tokio::join!(one, two);
    assert_eq!((counts(one)[1..].to_vec(), counts(two)), (vec![1, 2, 1], [2, 1, 2, 1]));
    assert_fails(refused.await, ErrorKind::Api, Outcome::Refused);
    assert_eq!(counts(publisher.flush().await), [2, 1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_in_time_and_counts_every_outcome() {
    for order in ORDERS {
        let (fake, permits) = Fake::held(Sent::done);
        let batching = Batching::new().in_flight(2).max_commands(2);
        let config = PublisherConfig::new().order(order).batching(batching).max_messages(10);
        let publisher = Publisher::new(&fake.client(), config).unwrap();
        let tickets: Vec<_> = (0..10).map(|number| enqueue(&publisher, &format!("{number}"), number)).collect();
        settle().await;
        let mut waits = poll_once(publisher.enqueue(message("a", 11)));
        let began = Instant::now();
        let closes = [SECOND, 10 * SECOND, Duration::MAX].map(|timeout| {
            let publisher = publisher.clone();
            tokio::spawn(async move { publisher.close(timeout).await })
        });
        settle().await;
        assert_fails(waits.as_mut().await, ErrorKind::Closed, Outcome::NotSent);
        assert_fails(publisher.try_enqueue(message("a", 12)), ErrorKind::Closed, Outcome::NotSent);
        assert_fails(publisher.publish(message("a", 12)).await, ErrorKind::Closed, Outcome::NotSent);
        assert_eq!(began.elapsed(), Duration::ZERO);
        permits.add_permits(1);
        for close in closes {
            // One got its response, then its sender took the next; two are in flight.
            let ended = counts(close.await.unwrap());
            assert_eq!(ended.iter().sum::<u64>(), 10);
            let carried = fake.data()[0].len() as u64;
            assert_eq!((ended[0], ended[1]), (carried, 0), "{order:?}: {ended:?}");
            let under_way: usize = fake.data()[1..].iter().map(Vec::len).sum();
            assert_eq!(ended[3], under_way as u64, "{order:?}: {ended:?}");
        }
        assert!(began.elapsed() <= SECOND + Duration::from_millis(50), "{:?}", began.elapsed());
        let mut told = [0; 3];
        for ticket in tickets {
            match ticket.await {
                Ok(_) => told[0] += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed);
                    told[if error.outcome() == Outcome::NotSent { 1 } else { 2 }] += 1;
                }
            }
        }
        let sent: usize = fake.data().iter().map(Vec::len).sum();
        assert_eq!(told, [fake.data()[0].len(), 10 - sent, sent - fake.data()[0].len()]);
        let [done, not_sent, unknown] = told.map(|number| number as u64);
        assert_eq!(counts(publisher.close(SECOND).await), [done, 0, not_sent, unknown]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_knows_of_every_message_whether_it_has_left() {
    const MESSAGES: usize = 1_000_000;
    let (fake, _permits) = Fake::held(Sent::done);
    let config = PublisherConfig::new().max_messages(MESSAGES).max_bytes(1 << 30);
    let client = fake.client().with_timeout(Duration::from_secs(600));
    let publisher = Publisher::new(&client, config).unwrap();
    let first = enqueue(&publisher, "0", 0);
    until(|| !fake.sent().is_empty()).await;
    let mut last = None;
    for number in 1..MESSAGES {
        last = Some(enqueue(&publisher, &(number % 1000).to_string(), number));
    }
    until(|| fake.sent().len() == 2).await;
    let left: u64 = fake.data().iter().map(|batch| batch.len() as u64).sum();
    assert_eq!(counts(publisher.close(Duration::ZERO).await), [0, 0, MESSAGES as u64 - left, left]);
    assert_fails(first.await, ErrorKind::Closed, Outcome::Unknown);
    assert_fails(last.unwrap().await, ErrorKind::Closed, Outcome::NotSent);
    until(|| publisher.depth().messages == 0).await;
    assert_eq!((publisher.depth().bytes, fake.sent().len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_dropped_sends_what_it_has() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let tickets: Vec<_> = (0..100).map(|number| enqueue(&publisher, "a", number)).collect();
    drop((publisher.clone(), publisher, tickets));
    permits.add_permits(100);
    tokio::time::sleep(SECOND).await;
    assert_eq!(fake.data().concat(), (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_close_of_the_client_ends_a_busy_publisher() {
    let (fake, permits) = Fake::held(Sent::done);
    let client = fake.client();
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    let first = enqueue(&publisher, "a", 1);
    settle().await;
    let second = enqueue(&publisher, "a", 2);
    let close = tokio::spawn({
        let client = client.clone();
        async move { client.close(10 * SECOND).await }
    });
    settle().await;
    permits.add_permits(1);
    first.await.unwrap();
    let error = assert_fails(second.await, ErrorKind::Closed, Outcome::NotSent);
    assert_eq!((error.method(), error.transport()), (Some("publish"), Some("fake")));
    assert_eq!(counts(close.await.unwrap()), [1, 0, 0, 0]);
    assert_fails(publisher.publish(message("a", 3)).await, ErrorKind::Closed, Outcome::NotSent);
    assert_eq!(fake.sent().len(), 1);

    let (fake, _permits) = Fake::held(Sent::done);
    let client = fake.client();
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    let first = enqueue(&publisher, "a", 1);
    settle().await;
    let second = enqueue(&publisher, "a", 2);
    assert_eq!(counts(client.close(SECOND).await), [0, 0, 0, 1]);
    assert_fails(first.await, ErrorKind::Closed, Outcome::Unknown);
    assert_fails(second.await, ErrorKind::Closed, Outcome::NotSent);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_ends_the_calls_of_its_request_only() {
    let fake =
        Fake::new(
            |sent: Sent| async move { sent.each(|data| if *data == "bad" { Err(later()) } else { Ok(json!({})) }) },
        );
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None).observe(|_| panic!("of the observer")));
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    for _ in 0..2 {
        let tickets = ["bad", "good", "better"].map(|data| (data, enqueue(&publisher, "a", data)));
        for (data, ticket) in tickets {
            let result = ticket.await;
            if data == "bad" {
                assert_fails(result, ErrorKind::Closed, Outcome::Unknown);
            } else {
                result.unwrap();
            }
        }
        assert_fails(publisher.publish(message("a", "bad")).await, ErrorKind::Closed, Outcome::Unknown);
        publisher.publish(message("a", "good")).await.unwrap();
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn tickets_resolve_in_another_runtime_when_theirs_ends() {
    let (fake, _permits) = Fake::held(Sent::done);
    let (theirs, ours) = (runtime(), runtime());
    let config = PublisherConfig::new().batching(Batching::new().in_flight(2).max_commands(3));
    let publisher = theirs.block_on(async { Publisher::new(&fake.client(), config) }).unwrap();
    let tickets: Vec<_> = (0..20).map(|number| enqueue(&publisher, &(number % 4).to_string(), number)).collect();
    ours.block_on(until(|| fake.sent().len() >= 2));
    theirs.shutdown_background();
    ours.block_on(soon(async {
        let mut unknown = 0;
        for ticket in tickets {
            let error = ticket.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            unknown += usize::from(error.may_have_run());
        }
        assert!((2..=6).contains(&unknown), "{unknown}");
        // Later ones, too.
        for number in 0..3 {
            assert_fails(enqueue(&publisher, "a", number).await, ErrorKind::Closed, Outcome::NotSent);
            assert_fails(publisher.publish(message("a", 1)).await, ErrorKind::Closed, Outcome::NotSent);
        }
        let ended = counts(publisher.flush().await);
        assert_eq!((ended[0], ended.iter().sum::<u64>()), (0, 26), "{ended:?}");
        assert_eq!(counts(publisher.close(SECOND).await), ended);
    }));
}

#[test]
fn a_publisher_may_be_used_from_several_runtimes() {
    let theirs = runtime();
    for over in BOTH {
        let setup = theirs.block_on(Setup::standin(over));
        let publisher = theirs.block_on(async { Publisher::new(&setup.client(), PublisherConfig::new()) }).unwrap();
        for round in 1..4 {
            let ours = Builder::new_current_thread().enable_all().build().unwrap();
            ours.block_on(soon(async {
                let ticket = enqueue(&publisher, "a", 1);
                publisher.publish(message("a", 2)).await.unwrap();
                assert_eq!(ticket.await.unwrap().offset, round * 2 - 1);
            }));
        }
        assert_eq!(setup.server().applied("a"), 6);
    }
}

#[test]
fn a_publisher_outside_a_runtime_is_refused() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    assert_fails(Publisher::new(&fake.client(), PublisherConfig::new()), ErrorKind::Invalid, Outcome::NotSent);
}
