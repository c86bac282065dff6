//! Which messages share a request, and which do not.

use std::collections::BTreeMap;
use std::time::Duration;

use centrifugo_api::config::Order;
use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{
    Batching, Client, Error, ErrorKind, HistoryRequest, Method, Outcome, Publisher, PublisherConfig, Retry,
};
use serde_json::json;
use tokio::time::Instant;

use super::{ORDERS, enqueue, message, one_by_one};
use crate::support::fake::{Fake, Sent};
use crate::support::{BOTH, Over, SECOND, assert_fails, counts, quick_retry, settle, soon};

#[tokio::test(start_paused = true)]
async fn a_single_message_is_sent_as_a_publish() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new()).unwrap();
    publisher.publish(message("news", 1)).await.unwrap();
    enqueue(&publisher, "news", 2).await.unwrap();
    let sent = fake.sent();
    assert_eq!(sent.iter().map(|sent| &*sent.method).collect::<Vec<_>>(), ["publish", "publish"]);
    assert_eq!(fake.data(), [[1], [2]]);
}

#[tokio::test(start_paused = true)]
async fn queued_messages_share_a_request_with_one_command_per_channel() {
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
async fn many_messages_of_one_channel_share_a_request_in_order() {
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
async fn requests_are_filled_up_to_their_limits() {
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
async fn a_request_lingers_for_more_messages() {
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
    assert_eq!(counts(publisher.close(60 * SECOND).await), [11, 0, 0, 0]);
    assert!(began.elapsed() < SECOND);
    ticket.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_too_large_request_is_halved_until_only_too_large_messages_fail() {
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
            let responded =
                |sent: &&Sent| sent.number == 0 || sent.commands.len() <= 5 && !sent.data().contains(&json!(42));
            let sent = fake.sent();
            let mut channels: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for data in sent.iter().filter(responded).flat_map(Sent::data).map(|data| data.as_u64().unwrap()) {
                channels.entry(data % 10).or_default().push(data);
            }
            assert_eq!(channels.values().map(Vec::len).sum::<usize>(), 99);
            assert!(order == Order::None || channels.values().all(|channel| channel.is_sorted()), "{channels:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_a_server_or_proxy_refuses_as_too_large_is_split() {
    for over in BOTH {
        let server = Server::builder().max_grpc_message(4000).start().await.unwrap();
        // As a proxy that takes so much and no more.
        for after in [1, 2, 3] {
            server.fault(Fault::http_status(413).method(Method::Batch).after(after - 1));
        }
        let client = Client::new(over.config(&server).retry(None)).unwrap();
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
async fn halves_of_a_lost_batch_stay_unknown() {
    let (fake, permits) = Fake::held(|sent| match sent.number {
        0 => sent.done(),
        1 => Err(Error::new(ErrorKind::Lost, "no response")),
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
async fn halves_of_a_lost_batch_stay_unknown_when_the_publisher_is_closed() {
    let fake = Fake::new(|sent: Sent| async move {
        match sent.number {
            0 => Err(Error::new(ErrorKind::Lost, "no response")),
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
async fn halves_of_a_lost_batch_have_all_the_time_of_an_attempt() {
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
async fn reads_whose_replies_are_too_large_together_are_split() {
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
