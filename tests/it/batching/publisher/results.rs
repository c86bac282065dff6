//! The result of each message, and which messages are sent again.

use std::collections::BTreeSet;

use centrifugo_api::config::Order;
use centrifugo_api::{
    ApiError, Error, ErrorKind, HistoryRequest, Outcome, Publisher, PublisherConfig, Retry, SubscribeRequest,
    UnsubscribeRequest,
};
use serde_json::json;
use tokio::time::Instant;

use super::{ORDERS, enqueue, later, message, one_by_one};
use crate::support::fake::{Fake, Sent};
use crate::support::{SECOND, assert_fails, quick_retry, settle};

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
async fn a_transient_refusal_is_retried_alone() {
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
async fn errors_count_attempts_and_name_the_method_of_the_message() {
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
        _ => Err(Error::new(ErrorKind::Connect, "connection refused")),
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
async fn a_message_lost_in_a_retry_is_unknown_and_not_refused() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        0 => sent.done(),
        1 => Ok(sent.commands.iter().map(|_| Err(later())).collect()),
        _ => Err(Error::new(ErrorKind::Lost, "no response")),
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
async fn messages_are_given_keys_unless_the_client_or_the_publisher_has_them_off() {
    let off = quick_retry().idempotency_keys(false);
    for (retry, config, keyed) in [
        (Some(quick_retry()), one_by_one(), true),
        (Some(quick_retry()), one_by_one().idempotency_keys(false), false),
        (Some(off), one_by_one(), false),
        (None, one_by_one(), false),
        (None, one_by_one().idempotency_keys(true), true),
    ] {
        let fake = Fake::new(|sent: Sent| async move { sent.done() });
        let publisher = Publisher::new(&fake.client().with_retry(retry), config).unwrap();
        for number in 0..3 {
            publisher.publish(message("a", number)).await.unwrap();
        }
        let keys: BTreeSet<_> = fake.sent().iter().flat_map(Sent::keys).collect();
        assert!(keys.len() == if keyed { 3 } else { 1 } && keys.contains("") != keyed, "{keys:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_idempotent_messages_are_retried_and_others_are_unknown() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        1 => Err(Error::new(ErrorKind::Lost, "no response")),
        _ => sent.done(),
    });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().idempotency_keys(false)).unwrap();
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
async fn a_message_is_not_retried_after_a_later_one_of_its_channel() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        1 => Err(Error::new(ErrorKind::Lost, "no response")),
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
async fn a_failed_message_is_not_retried_if_a_later_one_of_its_channel_succeeded() {
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
async fn a_retried_message_delays_its_channel_only() {
    let fake = Fake::new(|sent: Sent| async move {
        let first = sent.number == 0;
        sent.each(|data| if first && *data == "a1" { Err(later()) } else { Ok(json!({})) })
    });
    let client = fake.client().with_retry(Retry::new().backoff(10 * SECOND, 10 * SECOND));
    let publisher = Publisher::new(&client, PublisherConfig::new()).unwrap();
    // The first two leave in one request, of which one is retried. What waits for the other is sent meanwhile.
    let tickets = ["a1", "b1", "b2", "a2"].map(|data| enqueue(&publisher, &data[..1], data));
    settle().await;
    assert_eq!(fake.data().concat(), ["a1", "b1", "b2"]);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(fake.data().concat(), ["a1", "b1", "b2", "a1", "a2"]);
}

#[tokio::test(start_paused = true)]
async fn the_idempotency_key_stays_the_same_and_is_in_the_error() {
    let fake = Fake::new(|_: Sent| async { Err(Error::new(ErrorKind::Lost, "no response")) });
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
async fn retries_are_paid_from_the_budget_of_the_client() {
    let fake = Fake::new(|_: Sent| async { Err(Error::new(ErrorKind::Connect, "connection refused")) });
    let client = fake.client().with_retry(quick_retry().attempt_timeout(None));
    let publisher = Publisher::new(&client, one_by_one().order(Order::None)).unwrap();
    for number in 0..100 {
        let error = assert_fails(publisher.publish(message("a", number)).await, ErrorKind::Connect, Outcome::NotSent);
        assert_eq!(error.attempts(), if number < 17 { 3 } else { error.attempts() });
    }
    assert_eq!(fake.sent().len(), 100 + 35);
}

#[tokio::test(start_paused = true)]
async fn a_message_queued_past_its_deadline_is_not_sent() {
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
    permits.add_permits(1);
    let (one, two) = (enqueue(&publisher, "a", 3), enqueue(&publisher, "a", 4));
    settle().await;
    let error = assert_fails(two.await, ErrorKind::Timeout, Outcome::NotSent);
    assert_eq!((error.method(), error.transport(), error.endpoint()), (Some("publish"), Some("fake"), Some("here")));
    assert_fails(one.await, ErrorKind::Timeout, Outcome::Unknown);
    assert_eq!((fake.data(), began.elapsed()), (vec![vec![json!(1)], vec![json!(3)]], 20 * SECOND));
    permits.add_permits(2);
    publisher.publish(message("a", 5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn debug_of_a_publisher_shows_no_message() {
    let (fake, _permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let secret = || message("channel", "hush").idempotency_key("hush");
    let tickets = [(); 3].map(|()| publisher.try_enqueue(secret()).unwrap());
    let shown = format!("{publisher:?} {publisher:#?} {tickets:?}");
    assert!(!shown.contains("hush") && !shown.contains("104, 117, 115, 104"), "{shown}");
}
