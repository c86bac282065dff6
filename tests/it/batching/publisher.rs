//! The publisher: what leaves together, in which order, and what each message is told.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Namespace, Server, Transport as Front};
use centrifugo_api::{
    ApiError, Batching, BoxFuture, BroadcastRequest, Client, CloseSummary, Config, DisconnectRequest, Error, ErrorKind,
    HistoryRequest, Method, Order, Outcome, PublishRequest, PublishResult, Publisher, PublisherConfig, Retry,
    SubscribeRequest, Ticket, UnsubscribeRequest,
};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::support::fake::{Fake, Sent};
use crate::support::{BOTH, Over, SECOND, assert_fails, counts, poll_once, quick_retry, servers::Here, settle, until};
use crate::support::{soon, within};

const ORDERS: [Order; 3] = [Order::PerChannel, Order::Sequential, Order::None];

fn message(channel: &str, data: impl Into<Value>) -> PublishRequest {
    PublishRequest::new(channel, data.into())
}

/// One request at a time.
fn one_by_one() -> PublisherConfig {
    PublisherConfig::new().batching(Batching::new().in_flight(1))
}

/// A refusal that passes.
fn later() -> ApiError {
    ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many requests")
}

fn enqueue(publisher: &Publisher, channel: &str, data: impl Into<Value>) -> Ticket<PublishResult> {
    publisher.try_enqueue(message(channel, data)).unwrap()
}

// What leaves together

#[tokio::test(start_paused = true)]
async fn a_message_by_itself_is_an_ordinary_publish() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new()).unwrap();
    publisher.publish(message("news", 1)).await.unwrap();
    enqueue(&publisher, "news", 2).await.unwrap();
    let sent = fake.sent();
    assert_eq!(sent.iter().map(|sent| &*sent.method).collect::<Vec<_>>(), ["publish", "publish"]);
    assert_eq!(fake.data(), [[1], [2]]);
}

#[tokio::test(start_paused = true)]
async fn what_gathers_leaves_together_with_one_command_of_each_channel() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let mut tickets = vec![enqueue(&publisher, "a", 0)];
    settle().await;
    for number in 1..=3 {
        for channel in ["a", "b", "c"] {
            tickets.push(enqueue(&publisher, channel, number));
        }
    }
    permits.add_permits(10);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(fake.data(), [vec![0], vec![1; 3], vec![2; 3], vec![3; 3]]);
    assert!(fake.sent().iter().all(|sent| sent.parallel == (sent.commands.len() > 1)));
}

#[tokio::test(start_paused = true)]
async fn many_messages_of_one_channel_leave_in_order_in_one_request() {
    for order in [Order::PerChannel, Order::Sequential] {
        let (fake, permits) = Fake::held(Sent::done);
        let publisher = Publisher::new(&fake.client(), one_by_one().order(order)).unwrap();
        let tickets: Vec<_> = (0..100).map(|number| enqueue(&publisher, "a", number)).collect();
        permits.add_permits(10);
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert!(fake.sent().iter().all(|sent| !sent.parallel));
        assert_eq!(fake.data().concat(), (0..100).collect::<Vec<_>>());
        assert!(fake.sent().len() <= 2, "{}", fake.sent().len());
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_as_full_as_they_may_be_and_not_fuller() {
    for order in ORDERS {
        let (fake, permits) = Fake::held(Sent::done);
        let batching = Batching::new().in_flight(3).max_commands(7);
        let publisher = Publisher::new(&fake.client(), PublisherConfig::new().order(order).batching(batching)).unwrap();
        let tickets: Vec<_> =
            (0..100).map(|number| enqueue(&publisher, &format!("channel {number}"), number)).collect();
        settle().await;
        assert_eq!(fake.most(), 3, "{order:?}");
        permits.add_permits(100);
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert_eq!(fake.most(), 3, "{order:?}");
        let lens: Vec<_> = fake.sent().iter().map(|sent| sent.commands.len()).collect();
        assert_eq!((lens.iter().max(), lens.iter().sum()), (Some(&7), 100), "{lens:?}");

        let (fake, permits) = Fake::held(Sent::done);
        let batching = Batching::new().in_flight(1).max_bytes(1000);
        let publisher = Publisher::new(&fake.client(), PublisherConfig::new().order(order).batching(batching)).unwrap();
        // One alone is longer than what commands may share.
        let data = |number: usize| "x".repeat(if number == 50 { 2000 } else { 80 });
        let tickets: Vec<_> =
            (0..100).map(|number| enqueue(&publisher, &format!("channel {number}"), data(number))).collect();
        permits.add_permits(100);
        for ticket in tickets {
            ticket.await.unwrap();
        }
        for sent in fake.sent() {
            let long = sent.data().iter().any(|data| data.as_str().unwrap().len() == 2000);
            assert!(if long { sent.commands.len() == 1 } else { sent.commands.len() <= 10 }, "{}", sent.commands.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_more_if_it_is_told_to() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let batching = Batching::new().linger(SECOND).max_commands(3);
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new().batching(batching)).unwrap();
    let began = Instant::now();
    let (one, two) = (enqueue(&publisher, "a", 1), enqueue(&publisher, "b", 2));
    two.await.unwrap();
    one.await.unwrap();
    assert_eq!((began.elapsed(), fake.sent().len()), (SECOND, 1));
    tokio::time::sleep(10 * SECOND).await;
    // Full, it waits no longer; and the next waits again.
    for round in 0..2 {
        let began = Instant::now();
        let tickets = ["a", "b", "c"].map(|channel| enqueue(&publisher, channel, round));
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::time::sleep(10 * SECOND).await;
        let began = Instant::now();
        enqueue(&publisher, "a", 1).await.unwrap();
        assert_eq!(began.elapsed(), SECOND);
        tokio::time::sleep(10 * SECOND).await;
    }
    // A close ends the wait.
    let ticket = enqueue(&publisher, "a", 1);
    settle().await;
    let began = Instant::now();
    assert_eq!(counts(publisher.close(60 * SECOND).await), [1, 0, 0, 0]);
    assert!(began.elapsed() < SECOND);
    ticket.await.unwrap();
}

// What each message is told

#[tokio::test(start_paused = true)]
async fn each_message_has_its_own_result() {
    let (fake, permits) = Fake::held(|sent| {
        sent.each(|data| match data.as_u64().unwrap() {
            code @ 100..200 => Err(ApiError::new(u32::try_from(code).unwrap(), "refused")),
            offset => Ok(json!({ "offset": offset })),
        })
    });
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let tickets: Vec<_> = [1, 104, 2, 107, 3, 100, 4]
        .into_iter()
        .map(|data| (data, enqueue(&publisher, &format!("channel {data}"), data)))
        .collect();
    permits.add_permits(2);
    first.await.unwrap();
    for (data, ticket) in tickets {
        let result = ticket.await;
        match data {
            104 => drop(assert_fails(result, ErrorKind::Unsupported, Outcome::Refused)),
            107 => drop(assert_fails(result, ErrorKind::Api, Outcome::Refused)),
            100 => {
                let error = assert_fails(result, ErrorKind::Api, Outcome::Unknown);
                assert_eq!(error.code(), Some(100));
                let at = (error.method(), error.transport(), error.endpoint());
                assert_eq!(at, (Some("publish"), Some("fake"), Some("here")));
            }
            offset => assert_eq!(result.unwrap().offset, offset),
        }
    }
    assert_eq!(fake.sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_for_now_is_repeated_by_itself() {
    for order in ORDERS {
        let (fake, permits) = Fake::held(|sent| {
            let again = sent.number > 1;
            sent.each(|data| if *data == 2 && !again { Err(later()) } else { Ok(json!({ "offset": data })) })
        });
        let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
        let publisher = Publisher::new(&client, one_by_one().order(order)).unwrap();
        let first = enqueue(&publisher, "first", 0);
        settle().await;
        let tickets = [1, 2, 3].map(|data| enqueue(&publisher, &format!("channel {data}"), data));
        permits.add_permits(10);
        first.await.unwrap();
        for (data, ticket) in [1, 2, 3].into_iter().zip(tickets) {
            assert_eq!(ticket.await.unwrap().offset, data);
        }
        assert_eq!(fake.data(), [vec![0], vec![1, 2, 3], vec![2]]);
        assert_eq!(fake.sent()[2].method, "publish");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_count_the_attempts_and_name_the_message_s_own_method() {
    let (fake, permits) = Fake::held(|sent| {
        let number = sent.number;
        Ok(sent.commands.iter().map(|_| Err(if number < 2 { later() } else { ApiError::new(107, "bad") })).collect())
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().order(Order::None)).unwrap();
    let first = enqueue(&publisher, "first", 0);
    permits.add_permits(10);
    let error = assert_fails(first.await, ErrorKind::Api, Outcome::Refused);
    assert_eq!(error.attempts(), 3);

    let (fake, permits) = Fake::held(|sent| match sent.number {
        0 => sent.done(),
        1 => Ok(sent.commands.iter().map(|_| Err(later())).collect()),
        2 => Ok(vec![Err(later()), Err(ApiError::new(107, "bad"))]),
        _ => Err(Error::new(ErrorKind::Connect, "nobody is there")),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let publish = enqueue(&publisher, "a", 1);
    let history = publisher.try_enqueue(HistoryRequest::new("b")).unwrap();
    permits.add_permits(10);
    first.await.unwrap();
    let refused = assert_fails(history.await, ErrorKind::Api, Outcome::Refused);
    assert_eq!((refused.method(), refused.attempts()), (Some("history"), 2));
    let unreached = assert_fails(publish.await, ErrorKind::Connect, Outcome::NotSent);
    assert_eq!((unreached.method(), unreached.attempts()), (Some("publish"), 3));
    let at = (unreached.transport(), unreached.endpoint());
    assert_eq!(at, (Some("fake"), Some("here")));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_told_of_what_was_sent_again_and_lost() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        0 => sent.done(),
        1 => Ok(sent.commands.iter().map(|_| Err(later())).collect()),
        _ => Err(Error::new(ErrorKind::Lost, "no answer")),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().idempotency_keys(true)).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let tickets = ["a", "b"].map(|channel| enqueue(&publisher, channel, 1));
    permits.add_permits(10);
    first.await.unwrap();
    for ticket in tickets {
        let error = assert_fails(ticket.await, ErrorKind::Lost, Outcome::Unknown);
        assert_eq!(error.attempts(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_carried_out_twice_is_repeated_after_a_loss_and_the_rest_is_of_unknown_outcome() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        1 => Err(Error::new(ErrorKind::Lost, "no answer")),
        _ => sent.done(),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let keyed = ["a", "b"]
        .map(|channel| publisher.try_enqueue(message(channel, 1).idempotency_key(format!("key {channel}"))).unwrap());
    let unkeyed = enqueue(&publisher, "c", 2);
    let read = publisher.try_enqueue(HistoryRequest::new("d")).unwrap();
    permits.add_permits(10);
    first.await.unwrap();
    for ticket in keyed {
        ticket.await.unwrap();
    }
    read.await.unwrap();
    let error = assert_fails(unkeyed.await, ErrorKind::Lost, Outcome::Unknown);
    assert_eq!((error.attempts(), error.method()), (1, Some("publish")));
    assert_eq!(fake.sent()[2].keys(), ["key a", "key b", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_does_not_come_after_what_was_sent_behind_it() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        1 => Err(Error::new(ErrorKind::Lost, "no answer")),
        _ => sent.done(),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().order(Order::Sequential)).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    // Sent again, the first would undo the second.
    let unsubscribe = publisher.try_enqueue(UnsubscribeRequest::new("a", "user")).unwrap();
    let subscribe = publisher.try_enqueue(SubscribeRequest::new("a", "user")).unwrap();
    let other = publisher.try_enqueue(UnsubscribeRequest::new("b", "user")).unwrap();
    permits.add_permits(10);
    first.await.unwrap();
    assert_fails(unsubscribe.await, ErrorKind::Lost, Outcome::Unknown);
    assert_fails(subscribe.await, ErrorKind::Lost, Outcome::Unknown);
    other.await.unwrap();
    assert_eq!(fake.sent().last().unwrap().commands.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_is_not_repeated_when_a_later_one_of_its_channel_went_well() {
    for (later_fails, repeats) in [(false, 0), (true, 1)] {
        let (fake, permits) = Fake::held(move |sent| {
            let first = sent.number == 1;
            sent.each(|data| match data.as_u64().unwrap() {
                1 if first => Err(later()),
                2 if first && later_fails => Err(later()),
                _ => Ok(json!({})),
            })
        });
        let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
        let publisher = Publisher::new(&client, one_by_one().order(Order::Sequential)).unwrap();
        let first = enqueue(&publisher, "a", 0);
        settle().await;
        let (one, two) = (enqueue(&publisher, "a", 1), enqueue(&publisher, "a", 2));
        permits.add_permits(10);
        first.await.unwrap();
        assert_eq!(one.await.is_ok(), later_fails);
        two.await.unwrap();
        assert_eq!(fake.data()[2..].concat(), [json!(1), json!(2)][..repeats * 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_repeated_holds_up_its_channel_and_no_other() {
    let fake = Fake::new(|sent: Sent| async move {
        let first = sent.number == 0;
        sent.each(|data| if first && *data == "a1" { Err(later()) } else { Ok(json!({})) })
    });
    let client = fake.client().with_retry(Retry::new().backoff(10 * SECOND, 10 * SECOND));
    let publisher = Publisher::new(&client, PublisherConfig::new()).unwrap();
    // The first two leave in one request, of which one is repeated. What waits for the other is sent meanwhile.
    let tickets = ["a1", "b1", "b2", "a2"].map(|data| enqueue(&publisher, &data[..1], data));
    settle().await;
    assert_eq!(fake.data().concat(), ["a1", "b1", "b2"]);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(fake.data().concat(), ["a1", "b1", "b2", "a1", "a2"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_long_is_halved_until_only_what_is_too_long_by_itself_fails() {
    for order in ORDERS {
        for kind in [ErrorKind::TooLarge, ErrorKind::Invalid] {
            let (fake, permits) = Fake::held(move |sent| {
                let too_large = sent.commands.len() > 5 || sent.data().contains(&json!(42));
                let refused = || Error::new(kind, "no").with_outcome(Outcome::Refused);
                if too_large && sent.number > 0 { Err(refused()) } else { sent.done() }
            });
            let publisher = Publisher::new(&fake.client(), one_by_one().order(order)).unwrap();
            let first = enqueue(&publisher, "0", 0);
            settle().await;
            let tickets: Vec<_> =
                (1..100).map(|data| (data, enqueue(&publisher, &(data % 10).to_string(), data))).collect();
            permits.add_permits(1000);
            first.await.unwrap();
            for (data, ticket) in tickets {
                let result = ticket.await;
                if data == 42 {
                    assert_fails(result, kind, Outcome::Refused);
                } else {
                    result.unwrap();
                }
            }
            let answered =
                |sent: &&Sent| sent.number == 0 || sent.commands.len() <= 5 && !sent.data().contains(&json!(42));
            let sent = fake.sent();
            let mut channels: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for data in sent.iter().filter(answered).flat_map(Sent::data).map(|data| data.as_u64().unwrap()) {
                channels.entry(data % 10).or_default().push(data);
            }
            assert_eq!(channels.values().map(Vec::len).sum::<usize>(), 99);
            assert!(order == Order::None || channels.values().all(|channel| channel.is_sorted()), "{channels:?}");
        }
    }
}

#[tokio::test]
async fn what_a_server_or_a_proxy_finds_too_long_is_sent_in_parts() {
    for over in BOTH {
        let server = Server::builder().max_grpc_message(4000).start().await.unwrap();
        // As a proxy that takes so much and no more.
        for after in [1, 2, 3] {
            server.fault(Fault::http_status(413).method(Method::Batch).after(after - 1));
        }
        let client = Client::new(over.config(&server).retry(Retry::off())).unwrap();
        let publisher = Publisher::new(&client, one_by_one().order(Order::Sequential)).unwrap();
        let data = |number: usize| "x".repeat(if number == 50 { 5000 } else { 100 });
        let tickets: Vec<_> = (0..100).map(|number| enqueue(&publisher, "a", data(number))).collect();
        for (number, ticket) in tickets.into_iter().enumerate() {
            let result = soon(ticket).await;
            if number == 50 && over == Over::Grpc {
                assert_fails(result, ErrorKind::TooLarge, Outcome::Refused);
            } else {
                let offset = number as u64 + u64::from(number < 50 || over == Over::Http);
                assert_eq!(result.unwrap().offset, offset, "{over:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn halves_of_what_was_lost_once_stay_in_doubt() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        0 => sent.done(),
        1 => Err(Error::new(ErrorKind::Lost, "no answer")),
        _ => Err(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused)),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().idempotency_keys(true)).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let tickets = ["a", "b"].map(|channel| enqueue(&publisher, channel, 1));
    permits.add_permits(10);
    first.await.unwrap();
    for ticket in tickets {
        assert_fails(ticket.await, ErrorKind::TooLarge, Outcome::Unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn halves_of_what_was_lost_once_stay_in_doubt_when_it_is_closed() {
    let fake = Fake::new(|sent: Sent| async move {
        match sent.number {
            0 => Err(Error::new(ErrorKind::Lost, "no answer")),
            1 => Err(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused)),
            _ => std::future::pending().await,
        }
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().idempotency_keys(true)).unwrap();
    let tickets = ["a", "b"].map(|channel| enqueue(&publisher, channel, 1));
    assert_eq!(counts(publisher.close(SECOND).await), [0, 0, 0, 2]);
    for ticket in tickets {
        assert_fails(ticket.await, ErrorKind::Closed, Outcome::Unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn halves_of_what_was_lost_once_have_all_the_time_of_an_attempt() {
    let fake = Fake::new(|sent: Sent| async move {
        match sent.number {
            0 => std::future::pending().await,
            1 => return Err(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused)),
            _ => tokio::time::sleep(2 * SECOND).await,
        }
        sent.done()
    });
    let client = fake.client().with_retry(Retry::new().attempt_timeout(Some(3 * SECOND)));
    let publisher = Publisher::new(&client, one_by_one().idempotency_keys(true)).unwrap();
    let tickets = ["a", "b"].map(|channel| enqueue(&publisher, channel, 1));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(fake.sent().iter().map(|sent| sent.commands.len()).collect::<Vec<_>>(), [2, 2, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn reads_whose_replies_are_too_long_together_are_made_apart() {
    let (fake, permits) = Fake::held(|sent| {
        let too_long = || Error::new(ErrorKind::TooLarge, "the reply is too long").with_outcome(Outcome::Unknown);
        if sent.commands.len() > 2 { Err(too_long()) } else { sent.done() }
    });
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let first = enqueue(&publisher, "first", 0);
    settle().await;
    let reads = ["a", "b", "c", "d"].map(|channel| publisher.try_enqueue(HistoryRequest::new(channel)).unwrap());
    let publish = enqueue(&publisher, "e", 1);
    permits.add_permits(10);
    first.await.unwrap();
    for read in reads {
        read.await.unwrap();
    }
    assert_fails(publish.await, ErrorKind::TooLarge, Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn the_key_that_a_message_was_given_is_told_and_stays() {
    let fake = Fake::new(|_: Sent| async { Err(Error::new(ErrorKind::Lost, "no answer")) });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, PublisherConfig::new().idempotency_keys(true)).unwrap();
    let told = [
        publisher.publish(message("a", 1)).await.unwrap_err(),
        enqueue(&publisher, "b", 1).await.unwrap_err(),
        publisher.enqueue(message("c", 1)).await.unwrap().await.unwrap_err(),
    ];
    let sent = fake.sent();
    for (error, sent) in told.iter().zip(sent.chunks(3)) {
        let keys: Vec<_> = sent.iter().flat_map(Sent::keys).collect();
        assert_eq!(keys, [error.idempotency_key().unwrap(); 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn repeats_are_paid_from_the_client_s_budget() {
    let fake = Fake::new(|_: Sent| async { Err(Error::new(ErrorKind::Connect, "nobody is there")) });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().order(Order::None)).unwrap();
    for number in 0..100 {
        let error = assert_fails(publisher.publish(message("a", number)).await, ErrorKind::Connect, Outcome::NotSent);
        assert_eq!(error.attempts(), if number < 17 { 3 } else { error.attempts() });
    }
    assert_eq!(fake.sent().len(), 100 + 35);
}

// Room

#[tokio::test(start_paused = true)]
async fn there_is_room_for_so_many_messages_and_bytes_and_every_end_gives_it_back() {
    let small = || message("a", 1);
    for bytes in [false, true] {
        let config = if bytes { one_by_one().max_bytes(500) } else { one_by_one().max_messages(5) };
        for end in ["done", "refused", "lost", "cancel", "late", "panic"] {
            let (fake, permits) = Fake::held(move |sent| match end {
                "refused" => Ok(sent.commands.iter().map(|_| Err(ApiError::new(107, "bad"))).collect()),
                "lost" => Err(Error::new(ErrorKind::Lost, "no answer")),
                "panic" => panic!("of the transport"),
                _ => sent.done(),
            });
            let client = fake.client().with_timeout(10 * SECOND);
            let publisher = Publisher::new(&client, config.clone()).unwrap();
            let mut tickets = Vec::new();
            let full = loop {
                match publisher.try_enqueue(small()) {
                    Ok(ticket) => tickets.push(ticket),
                    Err(error) => break error,
                }
            };
            assert_eq!((full.kind(), full.outcome()), (ErrorKind::Full, Outcome::NotSent));
            assert_eq!((full.method(), full.transport()), (Some("publish"), Some("fake")));
            let number = tickets.len();
            assert!(number >= 5 && (bytes || number == 5), "{number}");
            match end {
                "cancel" => {
                    settle().await;
                    permits.add_permits(1);
                    let cancelled = tickets.drain(..).map(Ticket::cancel).filter(|is| *is).count();
                    assert!(cancelled >= number - 1);
                }
                "late" => tokio::time::sleep(11 * SECOND).await,
                _ => permits.add_permits(100),
            }
            publisher.flush().await;
            // All of it is there again.
            for _ in 0..number {
                drop(publisher.try_enqueue(small()).unwrap_or_else(|error| panic!("{end}: {error}")));
            }
            assert!(publisher.try_enqueue(small()).is_err(), "{end}: not more than there was");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_gets_it_in_turn() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one().max_bytes(1000)).unwrap();
    let first = publisher.try_enqueue(message("a", "x".repeat(600))).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<JoinHandle<()>> = [("large", 800), ("small", 1), ("smaller", 1)]
        .into_iter()
        .map(|(name, size)| {
            let (publisher, order) = (publisher.clone(), Arc::clone(&order));
            let mut wait = poll_once(async move {
                let ticket = publisher.enqueue(message(name, "x".repeat(size))).await.unwrap();
                order.lock().unwrap().push(name);
                drop(ticket);
            });
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            tokio::spawn(wait)
        })
        .collect();
    settle().await;
    assert_fails(publisher.try_enqueue(message("b", 1)), ErrorKind::Full, Outcome::NotSent);
    permits.add_permits(10);
    first.await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["large", "small", "smaller"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_by_itself_is_refused_at_once() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new().max_bytes(1000)).unwrap();
    let large = || message("a", "x".repeat(1000));
    assert_fails(publisher.publish(large()).await, ErrorKind::TooLarge, Outcome::NotSent);
    assert_fails(publisher.enqueue(large()).await, ErrorKind::TooLarge, Outcome::NotSent);
    let error = assert_fails(publisher.try_enqueue(large()), ErrorKind::TooLarge, Outcome::NotSent);
    assert_eq!((error.method(), error.transport()), (Some("publish"), Some("fake")));
    assert!(fake.sent().is_empty());

    let here = Here::standin(Over::Grpc).await;
    let client = Client::new(here.config().max_request_size(2000)).unwrap();
    let publisher = Publisher::new(&client, PublisherConfig::new()).unwrap();
    assert_fails(publisher.publish(message("a", "x".repeat(2000))).await, ErrorKind::TooLarge, Outcome::NotSent);
    assert!(here.server().calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn settings_that_hold_nothing_are_refused_and_those_without_a_bound_are_not() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    for config in [
        PublisherConfig::new().max_messages(0),
        PublisherConfig::new().max_bytes(0),
        PublisherConfig::new().max_bytes(usize::MAX),
        PublisherConfig::new().batching(Batching::new().in_flight(0)),
        PublisherConfig::new().batching(Batching::new().max_commands(0)),
        PublisherConfig::new().batching(Batching::new().max_bytes(0)),
    ] {
        assert_fails(Publisher::new(&fake.client(), config), ErrorKind::Invalid, Outcome::NotSent);
    }
    let config = PublisherConfig::new().max_messages(usize::MAX).max_bytes(u32::MAX as usize);
    let batching = Batching::new().in_flight(usize::MAX).max_commands(usize::MAX).max_bytes(usize::MAX);
    let publisher = Publisher::new(&fake.client(), config.batching(batching)).unwrap();
    publisher.publish(message("a", 1)).await.unwrap();
}

// Time

#[tokio::test(start_paused = true)]
async fn what_waits_past_its_deadline_is_not_sent() {
    let (fake, permits) = Fake::held(Sent::done);
    let client = fake.client().with_timeout(10 * SECOND);
    let publisher = Publisher::new(&client, one_by_one()).unwrap();
    let began = Instant::now();
    let stuck = enqueue(&publisher, "a", 1);
    settle().await;
    let behind = publisher.publish(message("a", 2));
    assert_fails(behind.await, ErrorKind::Timeout, Outcome::NotSent);
    assert_eq!(began.elapsed(), 10 * SECOND);
    assert_fails(stuck.await, ErrorKind::Timeout, Outcome::Unknown);
    let (one, two) = (enqueue(&publisher, "a", 3), enqueue(&publisher, "a", 4));
    settle().await;
    let error = assert_fails(two.await, ErrorKind::Timeout, Outcome::NotSent);
    assert_eq!((error.method(), error.transport(), error.endpoint()), (Some("publish"), Some("fake"), Some("here")));
    assert_fails(one.await, ErrorKind::Timeout, Outcome::Unknown);
    assert_eq!((fake.data(), began.elapsed()), (vec![vec![json!(1)], vec![json!(3)]], 20 * SECOND));
    permits.add_permits(1);
    publisher.publish(message("a", 5)).await.unwrap();
}

// Ends

#[tokio::test(start_paused = true)]
async fn a_flush_counts_what_was_not_over() {
    let (fake, permits) = Fake::held(|sent| match sent.data()[0].as_str() {
        Some("lost") => Err(Error::new(ErrorKind::Lost, "no answer")),
        Some("nobody") => Err(Error::new(ErrorKind::Connect, "nobody is there")),
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
    assert!(withdrawn.cancel());
    let _later = enqueue(&publisher, "b", "done");
    let two = poll_once(publisher.flush());
    drop(poll_once(publisher.flush()));
    permits.add_permits(10);
    let (one, two) = tokio::join!(one, two);
    assert_eq!((counts(one), counts(two)), ([1, 1, 2, 1], [2, 1, 1, 1]));
    assert_fails(refused.await, ErrorKind::Api, Outcome::Refused);
    assert_eq!(publisher.flush().await, CloseSummary::default());
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_what_is_left_in_time_and_says_how() {
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
            // One was answered, then its sender took the next; two are under way.
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
        assert_eq!(publisher.close(SECOND).await, CloseSummary::default());
    }
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
async fn a_panic_of_an_observer_ends_its_request_and_no_other() {
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
fn tickets_are_told_of_the_end_of_the_runtime_in_another_one() {
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
        assert_eq!(publisher.flush().await, CloseSummary::default());
        publisher.close(SECOND).await;
    }));
}

#[test]
fn a_publisher_may_be_used_from_several_runtimes() {
    let theirs = runtime();
    for over in BOTH {
        let here = theirs.block_on(Here::standin(over));
        let publisher = theirs.block_on(async { Publisher::new(&here.client(), PublisherConfig::new()) }).unwrap();
        for round in 1..4 {
            let ours = Builder::new_current_thread().enable_all().build().unwrap();
            ours.block_on(soon(async {
                let ticket = enqueue(&publisher, "a", 1);
                publisher.publish(message("a", 2)).await.unwrap();
                assert_eq!(ticket.await.unwrap().offset, round * 2 - 1);
            }));
        }
        assert_eq!(here.server().applied("a"), 6);
    }
}

#[test]
fn a_publisher_is_made_in_a_runtime() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    assert_fails(Publisher::new(&fake.client(), PublisherConfig::new()), ErrorKind::Invalid, Outcome::NotSent);
}

// Callers who give up

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_dropped_is_taken_back_unless_it_has_left() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one().max_messages(2)).unwrap();
    let left = poll_once(publisher.publish(message("a", "left")));
    settle().await;
    let waits = poll_once(publisher.publish(message("a", "waits")));
    drop((left, waits));
    settle().await;
    // Its slot, its channel and its room are free again.
    let next = enqueue(&publisher, "a", "next");
    permits.add_permits(10);
    next.await.unwrap();
    assert_eq!(fake.data().concat(), ["left", "next"]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_nobody_polls_holds_up_nobody() {
    for order in ORDERS {
        let publisher = Publisher::new(&slow().client(), one_by_one().order(order)).unwrap();
        let kept = poll_once(publisher.publish(message("a", 1)));
        within(60 * SECOND, publisher.publish(message("a", 2))).await.unwrap();
        assert_eq!(counts(publisher.close(SECOND).await), [0; 4]);
        kept.await.unwrap();
    }
}

/// Answers after a while.
fn slow() -> Arc<Fake> {
    Fake::new(|sent: Sent| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        sent.done()
    })
}

#[tokio::test(start_paused = true)]
async fn a_flush_does_not_wait_for_a_future_that_nobody_polls() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new()).unwrap();
    let kept = poll_once(publisher.publish(message("a", 1)));
    assert_eq!(counts(within(60 * SECOND, publisher.flush()).await), [1, 0, 0, 0]);
    kept.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_a_future_that_nobody_polls() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new()).unwrap();
    let kept = poll_once(publisher.publish(message("a", 1)));
    assert_eq!(counts(publisher.close(SECOND).await), [1, 0, 0, 0]);
    kept.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_does_not_wait_for_a_future_that_nobody_polls() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new().max_messages(1)).unwrap();
    let first = poll_once(publisher.publish(message("a", 1)));
    // Two wait for room. Who gets it is not polled any more.
    let mut second = poll_once(publisher.publish(message("b", 2)));
    let third = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish(message("c", 3)).await }
    });
    settle().await;
    first.await.unwrap();
    assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    within(60 * SECOND, third).await.unwrap().unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn mass_cancellation_leaves_no_trace() {
    for order in ORDERS {
        let fake = Fake::new(|sent: Sent| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent.done()
        });
        let config = PublisherConfig::new().order(order).max_messages(3000);
        let publisher = Publisher::new(&fake.client(), config).unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..2000)
            .map(|number: usize| {
                let (publisher, told) = (publisher.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    publisher.publish(message(&format!("{}", number % 7), number)).await.unwrap();
                    told.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        for (number, task) in tasks.iter().enumerate() {
            if number % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if number % 3 != 0 {
                task.abort();
            }
        }
        let mut done = 0;
        for task in tasks {
            done += usize::from(task.await.is_ok());
        }
        assert_eq!(done, told.load(Ordering::SeqCst));
        publisher.flush().await;
        let sent = fake.data().concat().len();
        assert!(done >= 667 && sent >= done, "{done} of {sent}");
        // All of the room is there.
        let tickets: Vec<_> = (0..3000).map(|number| enqueue(&publisher, "a", number)).collect();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_of_a_publisher_is_none_of_its_messages() {
    let (fake, _permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let secret = || message("channel", "hush").idempotency_key("hush");
    let tickets = [(); 3].map(|()| publisher.try_enqueue(secret()).unwrap());
    let shown = format!("{publisher:?} {publisher:#?} {tickets:?}");
    assert!(!shown.contains("hush") && !shown.contains("104, 117, 115, 104"), "{shown}");
}

// Order

/// What each channel was published, as the server keeps it.
async fn kept(client: &Client, channel: &str) -> Vec<Value> {
    let history = client.history(HistoryRequest::new(channel).limit(HistoryRequest::NO_LIMIT)).await.unwrap();
    history.publications.iter().map(|publication| publication.json().unwrap()).collect()
}

/// Publishes from many tasks and looks at the history of each channel: the messages of each task in their order, each once.
async fn publish_in_order(
    client: &Client,
    config: PublisherConfig,
    order: Order,
    channel: impl Fn(usize) -> String,
    tasks: usize,
    each: usize,
) {
    let publisher = Publisher::new(client, config.order(order)).unwrap();
    // A task has a channel of its own to publish to, which it may share with others.
    let handles: Vec<_> = (0..tasks)
        .map(|task| {
            let (publisher, channel) = (publisher.clone(), channel(task));
            tokio::spawn(async move {
                let mut tickets = Vec::new();
                for number in 0..each {
                    tickets.push(publisher.enqueue(message(&channel, json!([task, number]))).await.unwrap());
                }
                for (number, ticket) in tickets.into_iter().enumerate() {
                    ticket.await.unwrap_or_else(|error| panic!("{task}, {number}: {error:?}"));
                }
                channel
            })
        })
        .collect();
    let mut channels = Vec::new();
    for handle in handles {
        channels.push(within(120 * SECOND, handle).await.unwrap());
    }
    channels.sort();
    channels.dedup();
    let mut all = 0;
    for channel in channels {
        let mut of_task: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for data in kept(client, &channel).await {
            of_task.entry(data[0].as_u64().unwrap()).or_default().push(data[1].as_u64().unwrap());
            all += 1;
        }
        for (task, mut numbers) in of_task {
            if order == Order::None {
                numbers.sort_unstable();
            }
            assert_eq!(numbers, (0..each as u64).collect::<Vec<_>>(), "{channel}, {task}, {order:?}");
        }
    }
    assert_eq!(all, tasks * each);
    assert_eq!(publisher.close(SECOND).await, CloseSummary::default());
}

fn zipf(task: usize) -> usize {
    // Half of the tasks share one channel, a quarter of them another, and so on.
    ((task + 1).trailing_zeros() as usize).min(8)
}

async fn server() -> Server {
    let history = Namespace::new("").history(1_000_000, Duration::from_secs(3600));
    Server::builder().without_namespace(history).without_records().start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_keeps_the_order_in_which_it_was_given_messages() {
    for over in BOTH {
        for order in ORDERS {
            let server = server().await;
            let client = Client::new(over.config(&server)).unwrap();
            let publisher = PublisherConfig::new;
            publish_in_order(&client, publisher(), order, |task| format!("each {task}"), 50, 20).await;
            publish_in_order(&client, publisher(), order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
            publish_in_order(&client, publisher(), order, |_| "one".into(), 20, 50).await;
            let small = Batching::new().in_flight(4).max_commands(5).max_bytes(300);
            let publisher = publisher().batching(small).max_messages(50);
            publish_in_order(&client, publisher, order, |task| format!("small {}", zipf(task)), 64, 20).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_survives_failures_that_are_repeated_and_lost_connections() {
    for over in BOTH {
        for order in ORDERS {
            let server = server().await;
            let retry = quick_retry().attempt_timeout(None).attempts(20);
            let client = Client::new(over.config(&server).retry(retry)).unwrap();
            for number in 0..12 {
                server.fault(match number % 4 {
                    0 => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "slow")).after(number),
                    1 => Fault::cut_after().after(number),
                    2 => Fault::cut_before().after(number),
                    _ => Fault::delay(Duration::from_millis(20)).after(number),
                });
            }
            let publisher = PublisherConfig::new().idempotency_keys(true).batching(Batching::new().max_commands(20));
            publish_in_order(&client, publisher, order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_survives_the_way_to_the_fallback_and_back() {
    for order in [Order::PerChannel, Order::Sequential] {
        let server = server().await;
        let grpc = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
        let client = Client::new(grpc.retry(quick_retry().attempt_timeout(None).attempts(20))).unwrap();
        server.fault(Fault::cut_after().transport(Front::Grpc).after(3).times(200));
        let publisher = PublisherConfig::new().idempotency_keys(true).batching(Batching::new().max_commands(20));
        publish_in_order(&client, publisher, order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_has_its_turn_in_each_of_its_channels() {
    for over in BOTH {
        for order in [Order::PerChannel, Order::Sequential] {
            let server = server().await;
            let client = Client::new(over.config(&server)).unwrap();
            let batching = Batching::new().in_flight(4).max_commands(8);
            let publisher = Publisher::new(&client, PublisherConfig::new().order(order).batching(batching)).unwrap();
            let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            let mut tickets = Vec::new();
            let mut broadcasts = Vec::new();
            let mut random = fastrand::Rng::with_seed(1);
            for number in 0..500_u64 {
                let channel = |number: usize| format!("channel {number}");
                if random.u8(..4) == 0 {
                    // Perhaps one of them twice.
                    let channels: Vec<_> = (0..random.usize(1..4)).map(|_| channel(random.usize(..5))).collect();
                    for channel in &channels {
                        expected.entry(channel.clone()).or_default().push(number);
                    }
                    let ticket = publisher.try_enqueue(BroadcastRequest::new(channels, json!(number))).unwrap();
                    broadcasts.push(ticket);
                } else {
                    let channel = channel(random.usize(..5));
                    tickets.push(enqueue(&publisher, &channel, number));
                    expected.entry(channel).or_default().push(number);
                }
                if random.u8(..10) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let info = publisher.try_enqueue(DisconnectRequest::new("nobody")).unwrap();
            for ticket in tickets {
                within(60 * SECOND, ticket).await.unwrap();
            }
            for ticket in broadcasts {
                assert_eq!(within(60 * SECOND, ticket).await.unwrap().failed().count(), 0);
            }
            info.await.unwrap();
            for (channel, expected) in expected {
                let kept: Vec<_> =
                    kept(&client, &channel).await.iter().map(|number| number.as_u64().unwrap()).collect();
                assert_eq!(kept, expected, "{over:?}, {order:?}, {channel}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_publish_that_has_left_arrives() {
    for over in BOTH {
        let server = Server::start().await.unwrap();
        server.fault(Fault::delay(SECOND / 5).always());
        let client = Client::new(over.config(&server)).unwrap();
        let publisher = Publisher::new(&client, one_by_one()).unwrap();
        let left = tokio::spawn({
            let publisher = publisher.clone();
            async move { publisher.publish(message("a", 1)).await }
        });
        until(|| server.applied("a") > 0).await;
        left.abort();
        // It is still under way, so the next is behind it.
        let position = soon(publisher.publish(message("a", 2))).await.unwrap();
        assert_eq!((position.offset, server.applied("a")), (2, 2));
    }
}

async fn real_order(over: Over) {
    for order in ORDERS {
        let here = Here::real(over);
        let client = here.client();
        // A channel keeps 100.
        let name = here.channel("");
        let config = PublisherConfig::new();
        publish_in_order(&client, config, order, |task| format!("{name}-{}", task / 2), 200, 50).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real server: see tests/it/support/servers.rs"]
async fn real_server_grpc_keeps_the_order() {
    real_order(Over::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real server: see tests/it/support/servers.rs"]
async fn real_server_http_keeps_the_order() {
    real_order(Over::Http).await;
}

// Random lives

/// What a server has carried out: the numbers of the messages of each channel, and the keys that it knows.
#[derive(Default)]
struct Carried {
    channels: BTreeMap<String, Vec<u64>>,
    keys: BTreeSet<String>,
    /// Each request, and what came of it.
    log: Vec<String>,
}

/// What somebody was told of a message, if anything.
type Told = (u64, Option<Outcome>);

/// A server that does what comes to its mind, but does it at once.
fn whims(seed: u64, order: Order) -> (Arc<Fake>, Arc<Mutex<Carried>>) {
    let carried = Arc::new(Mutex::new(Carried::default()));
    let (done, random) = (Arc::clone(&carried), Mutex::new(Rng::with_seed(seed)));
    let fake = Fake::new(move |sent: Sent| {
        let mut random = random.lock().unwrap();
        let mut done = done.lock().unwrap();
        let channels: Vec<_> = sent.commands.iter().map(|(_, request)| &request["channel"]).collect();
        if sent.parallel && order != Order::None {
            let different: BTreeSet<_> = channels.iter().map(|channel| channel.as_str()).collect();
            assert_eq!(different.len(), channels.len(), "a channel is twice in a parallel request");
        }
        let mut carry_out = |request: &Value| {
            let key = request["idempotency_key"].as_str().map(str::to_owned);
            if key.is_none_or(|key| done.keys.insert(key)) {
                let channel = request["channel"].as_str().unwrap().to_owned();
                done.channels.entry(channel).or_default().push(request["data"].as_u64().unwrap());
            }
        };
        let mut numbers: Vec<_> = (0..sent.commands.len()).collect();
        if sent.parallel {
            random.shuffle(&mut numbers);
        }
        let whole = match random.u8(..20) {
            0 => Some(Error::new(ErrorKind::Connect, "nobody is there")),
            1 => Some(Error::new(ErrorKind::Lost, "no answer")),
            2 => {
                // Some of it, perhaps all.
                let until = random.usize(..=numbers.len());
                numbers[..until].iter().for_each(|index| carry_out(&sent.commands[*index].1));
                Some(Error::new(ErrorKind::Lost, "no answer"))
            }
            3 => Some(Error::new(ErrorKind::Unavailable, "later").with_outcome(Outcome::Refused)),
            4 if sent.commands.len() > 1 => {
                Some(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused))
            }
            _ => None,
        };
        // Nobody waits for so long. As after a loss, what was refused would then be repeated behind what was not.
        let is_slow = random.u8(..40) == 0;
        let time = Duration::from_millis(if is_slow { 30_000 } else { random.u64(..50) });
        let mut answers: Vec<_> = sent.commands.iter().map(|_| Ok(json!({}))).collect();
        if whole.is_none() {
            for index in numbers {
                let refusal = match random.u8(..30) {
                    _ if is_slow => None,
                    0 | 1 => Some(later()),
                    2 => Some(ApiError::new(107, "bad")),
                    3 => Some(ApiError::new(100, "broken")),
                    _ => None,
                };
                // In order, one that says that it is broken and is not would be overtaken by the repeat of those before it.
                let may_run = sent.parallel || sent.commands.len() == 1;
                let runs = refusal.as_ref().is_none_or(|refusal| refusal.code == 100 && may_run && random.bool());
                if runs {
                    carry_out(&sent.commands[index].1);
                }
                if let Some(refusal) = refusal {
                    answers[index] = Err(refusal);
                }
            }
        }
        let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(|error| error.code).err()).collect();
        let whole_kind = whole.as_ref().map(Error::kind);
        done.log.push(format!("{:?}, parallel {}: {whole_kind:?}, {codes:?}, {time:?}", sent.data(), sent.parallel));
        async move {
            tokio::time::sleep(time).await;
            whole.map_or(Ok(answers), Err)
        }
    });
    (fake, carried)
}

async fn live(seed: u64) {
    // Of the waits between attempts.
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let order = ORDERS[random.usize(..3)];
    let (fake, carried) = whims(seed, order);
    let client = fake.client().with_retry(Retry::new().attempts(random.u32(1..6))).with_timeout(10 * SECOND);
    let batching = Batching::new().in_flight(random.usize(1..4)).max_commands(random.usize(1..12));
    let batching = if random.u8(..5) == 0 { batching.linger(SECOND / 100) } else { batching };
    let keys = random.bool();
    let config = PublisherConfig::new().order(order).idempotency_keys(keys).max_messages(random.usize(5..60));
    let publisher = Publisher::new(&client, config.batching(batching)).unwrap();
    let channels = random.u64(1..6);
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let (mut tasks, mut flushes) = (JoinSet::new(), JoinSet::new());
    for number in 0..200_u64 {
        // One after the other, so that their order is that of their numbers.
        let channel = (u64::from(number.trailing_zeros()) % channels).to_string();
        let request = message(&channel, number);
        let told = Arc::clone(&told);
        let tell = move |outcome| told.lock().unwrap().push((number, outcome));
        match random.u8(..10) {
            0 => {
                let patience = Duration::from_millis(random.u64(..100));
                let publish = publisher.publish(request);
                let mut publish: BoxFuture<'_, _> = Box::pin(publish);
                // Dropped after a while, it has an unknown end.
                match tokio::time::timeout(patience, &mut publish).await {
                    Ok(Ok(_)) => tell(Some(Outcome::Done)),
                    Ok(Err(error)) => tell(Some(error.outcome())),
                    Err(_) => tell(None),
                }
            }
            1 => match publisher.try_enqueue(request) {
                Ok(ticket) => tell(if ticket.cancel() { Some(Outcome::NotSent) } else { None }),
                Err(error) => tell(Some(error.outcome())),
            },
            _ => match publisher.enqueue(request).await {
                Ok(ticket) => drop(tasks.spawn(async move {
                    let outcome = ticket.await.map_or_else(|error| error.outcome(), |_| Outcome::Done);
                    tell(Some(outcome));
                })),
                Err(error) => tell(Some(error.outcome())),
            },
        }
        if random.u8(..30) == 0 {
            let publisher = publisher.clone();
            flushes.spawn(async move { publisher.flush().await });
        }
        if random.u8(..6) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
        }
    }
    if random.bool() {
        publisher.flush().await;
        assert_eq!(publisher.close(SECOND).await, CloseSummary::default());
    } else {
        publisher.close(Duration::from_millis(random.u64(..20_000))).await;
    }
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    while flushes.join_next().await.transpose().unwrap().is_some() {}
    assert_eq!(publisher.flush().await, CloseSummary::default());
    let (carried, told) = (carried.lock().unwrap(), told.lock().unwrap());
    assert_eq!(told.len(), 200, "each is told once");
    for (channel, numbers) in &carried.channels {
        let mut once = numbers.clone();
        once.sort_unstable();
        assert!(
            order == Order::None || once == *numbers,
            "{order:?}, {channel}: {numbers:?}\n{}",
            carried.log.join("\n")
        );
        once.dedup();
        assert_eq!(once.len(), numbers.len(), "{channel}: {numbers:?}");
    }
    let all: BTreeSet<u64> = carried.channels.values().flatten().copied().collect();
    for (number, outcome) in &*told {
        match outcome {
            Some(Outcome::Done) => assert!(all.contains(number), "{number} is lost"),
            Some(Outcome::NotSent | Outcome::Refused) => {
                assert!(!all.contains(number), "{number} was carried out\n{}", carried.log.join("\n"));
            }
            Some(Outcome::Unknown) | None => {}
        }
    }
}

#[test]
fn whatever_happens_each_message_is_told_the_truth_and_nothing_overtakes() {
    let given = std::env::var("CENTRIFUGO_PUBLISHER_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in given.map_or(0..300, |seed| seed..seed + 1) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                // Of the paused clock: nothing waits for ever.
                tokio::time::timeout(3600 * SECOND, live(seed)).await.expect("it hangs");
            });
        }));
        assert!(lived.is_ok(), "with CENTRIFUGO_PUBLISHER_SEED={seed}");
    }
}
