//! Callers that give up: futures that are dropped, aborted, or no longer polled.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{Client, Publisher, PublisherConfig};

use super::{ORDERS, enqueue, message, one_by_one};
use crate::support::fake::{Fake, Sent};
use crate::support::{BOTH, SECOND, counts, poll_once, settle, soon, until, within};

#[tokio::test(start_paused = true)]
async fn a_dropped_publish_is_cancelled_unless_it_is_in_flight() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one().max_messages(2)).unwrap();
    let left = poll_once(publisher.publish(message("a", "left")));
    settle().await;
    let waits = poll_once(publisher.publish(message("a", "waits")));
    drop((left, waits));
    settle().await;
    // Its slot, its channel and its capacity are free again.
    let next = enqueue(&publisher, "a", "next");
    permits.add_permits(10);
    next.await.unwrap();
    assert_eq!(fake.data().concat(), ["left", "next"]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_not_polled_delays_no_other() {
    for order in ORDERS {
        let publisher = Publisher::new(&slow().client(), one_by_one().order(order)).unwrap();
        let kept = poll_once(publisher.publish(message("a", 1)));
        within(60 * SECOND, publisher.publish(message("a", 2))).await.unwrap();
        assert_eq!(counts(publisher.close(SECOND).await), [2, 0, 0, 0]);
        kept.await.unwrap();
    }
}

/// Responds after a while.
fn slow() -> Arc<Fake> {
    Fake::new(|sent: Sent| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        sent.done()
    })
}

#[tokio::test(start_paused = true)]
async fn a_flush_does_not_wait_for_a_future_that_is_not_polled() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new()).unwrap();
    let kept = poll_once(publisher.publish(message("a", 1)));
    assert_eq!(counts(within(60 * SECOND, publisher.flush()).await), [1, 0, 0, 0]);
    kept.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_a_future_that_is_not_polled() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new()).unwrap();
    let kept = poll_once(publisher.publish(message("a", 1)));
    assert_eq!(counts(publisher.close(SECOND).await), [1, 0, 0, 0]);
    kept.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waiting_for_capacity_does_not_depend_on_a_future_that_is_not_polled() {
    let publisher = Publisher::new(&slow().client(), PublisherConfig::new().max_messages(1)).unwrap();
    let first = poll_once(publisher.publish(message("a", 1)));
    // Two wait for capacity. The one that gets it is not polled any more.
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
async fn a_cancel_that_comes_too_late_gives_the_ticket_back() {
    let (fake, permits) = Fake::held(Sent::done);
    let publisher = Publisher::new(&fake.client(), one_by_one()).unwrap();
    let (left, waits) = (enqueue(&publisher, "a", 1), enqueue(&publisher, "a", 2));
    settle().await;
    assert_eq!(publisher.depth().messages, 2);
    waits.cancel().unwrap();
    assert_eq!(publisher.depth().messages, 1);
    let left = left.cancel().unwrap_err();
    permits.add_permits(1);
    left.await.unwrap();
    assert_eq!(fake.data(), [[1]]);
}

#[tokio::test(start_paused = true)]
async fn mass_cancellation_frees_all_capacity() {
    for order in ORDERS {
        let fake = Fake::new(|sent: Sent| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent.done()
        });
        let config = PublisherConfig::new().order(order).max_messages(3000);
        let publisher = Publisher::new(&fake.client(), config).unwrap();
        let tasks: Vec<_> = (0..2000)
            .map(|number: usize| {
                let publisher = publisher.clone();
                tokio::spawn(async move {
                    publisher.publish(message(&format!("{}", number % 7), number)).await.unwrap();
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
        assert!(done >= 667, "{done}");
        let totals = publisher.flush().await;
        let sent = fake.data().concat().len();
        assert!(sent >= done, "{done} of {sent}");
        assert_eq!(counts(totals), [sent as u64, 0, 2000 - sent as u64, 0], "{order:?}");
        let depth = publisher.depth();
        assert_eq!((depth.messages, depth.bytes), (0, 0));
        // All capacity is free.
        let tickets: Vec<_> = (0..3000).map(|number| enqueue(&publisher, "a", number)).collect();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_dropped_in_flight_is_applied() {
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
        // It is still in flight, so the next is behind it.
        let position = soon(publisher.publish(message("a", 2))).await.unwrap();
        assert_eq!((position.offset, server.applied("a")), (2, 2));
    }
}
