//! How much a publisher holds.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use centrifugo_api::{ApiError, Batching, Client, Error, ErrorKind, Outcome, Publisher, PublisherConfig, Ticket};
use tokio::task::JoinHandle;

use super::{message, one_by_one};
use crate::support::fake::{Fake, Sent};
use crate::support::{Over, SECOND, assert_fails, poll_once, servers::Setup, settle};

#[tokio::test(start_paused = true)]
async fn capacity_is_bounded_and_freed_whatever_becomes_of_a_message() {
    let small = || message("a", 1);
    for bytes in [false, true] {
        let config = if bytes { one_by_one().max_bytes(500) } else { one_by_one().max_messages(5) };
        for end in ["done", "refused", "lost", "cancel", "late", "panic"] {
            let (fake, permits) = Fake::held(move |sent| match end {
                "refused" => Ok(sent.commands.iter().map(|_| Err(ApiError::new(107, "bad"))).collect()),
                "lost" => Err(Error::new(ErrorKind::Lost, "no response")),
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
                    let cancelled = tickets.drain(..).flat_map(Ticket::cancel).count();
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
async fn capacity_is_granted_in_fifo_order() {
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
async fn a_message_larger_than_a_limit_is_refused_at_once() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let publisher = Publisher::new(&fake.client(), PublisherConfig::new().max_bytes(1000)).unwrap();
    let large = || message("a", "x".repeat(1000));
    assert_fails(publisher.publish(large()).await, ErrorKind::TooLarge, Outcome::NotSent);
    assert_fails(publisher.enqueue(large()).await, ErrorKind::TooLarge, Outcome::NotSent);
    let error = assert_fails(publisher.try_enqueue(large()), ErrorKind::TooLarge, Outcome::NotSent);
    assert_eq!((error.method(), error.transport()), (Some("publish"), Some("fake")));
    assert!(fake.sent().is_empty());

    let setup = Setup::standin(Over::Grpc).await;
    let client = Client::new(setup.config().max_request_size(2000)).unwrap();
    let publisher = Publisher::new(&client, PublisherConfig::new()).unwrap();
    assert_fails(publisher.publish(message("a", "x".repeat(2000))).await, ErrorKind::TooLarge, Outcome::NotSent);
    assert!(setup.server().calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn zero_limits_are_refused_and_the_largest_ones_are_accepted() {
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
