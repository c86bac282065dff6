//! A server that is too slow for what it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use centrifugo_api::{ErrorKind, Outcome, Publisher, PublisherConfig};
use tokio::time::Instant;

use super::{enqueue, message};
use crate::support::fake::{Fake, Sent};
use crate::support::{SECOND, assert_fails, counts};

#[tokio::test(start_paused = true)]
async fn a_message_that_a_slow_server_would_answer_too_late_is_not_sent() {
    let takes = Arc::new(AtomicU64::new(1500));
    let fake = {
        let takes = Arc::clone(&takes);
        Fake::new(move |sent: Sent| {
            let takes = Duration::from_millis(takes.load(Ordering::SeqCst));
            async move {
                tokio::time::sleep(takes).await;
                sent.done()
            }
        })
    };
    let publisher = Publisher::new(&fake.client().with_timeout(10 * SECOND), PublisherConfig::new()).unwrap();
    let mut calls = Vec::new();
    let began = Instant::now();
    // More than twice as many as the server takes: 2 requests of 1,000 in 1.5 s.
    for number in 0..30_000 {
        let publisher = publisher.clone();
        calls
            .push(tokio::spawn(async move { publisher.publish(message(&format!("{}", number % 5000), number)).await }));
        if number % 300 == 299 {
            tokio::time::sleep(SECOND / 10).await;
        }
    }
    let (mut done, mut not_sent) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
                assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Full), "{error}");
                not_sent += 1;
            }
        }
    }
    let sizes: Vec<_> = fake.data().iter().map(Vec::len).collect();
    assert_eq!((sizes.iter().sum::<usize>(), done + not_sent, fake.most()), (done, 30_000, 2));
    let could = began.elapsed().as_millis() * 2000 / 1500;
    assert!(done as u128 * 10 >= could * 8, "{done} of {could}, in requests of {sizes:?}");

    // The first response in less time ends it.
    takes.store(1, Ordering::SeqCst);
    let began = Instant::now();
    for number in 0..1000 {
        publisher.publish(message("a", number)).await.unwrap();
    }
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_its_slot_past_the_deadline_until_the_server_has_responded() {
    let (working, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let fake = {
        let (working, most) = (Arc::clone(&working), Arc::clone(&most));
        Fake::new(move |sent: Sent| {
            most.fetch_max(1 + working.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            let working = Arc::clone(&working);
            // A server goes on when a client no longer waits.
            let work = tokio::spawn(async move {
                tokio::time::sleep(SECOND * 3 / 2).await;
                working.fetch_sub(1, Ordering::SeqCst);
            });
            async move {
                work.await.unwrap();
                sent.done()
            }
        })
    };
    let publisher = Publisher::new(&fake.client().with_timeout(SECOND), PublisherConfig::new()).unwrap();
    let mut calls = Vec::new();
    for number in 0..2000 {
        let publisher = publisher.clone();
        calls.push(tokio::spawn(async move {
            let began = Instant::now();
            let result = publisher.publish(message(&number.to_string(), number)).await;
            assert!(began.elapsed() <= SECOND + SECOND / 100, "{:?}", began.elapsed());
            result.unwrap_err().outcome()
        }));
        tokio::time::sleep(SECOND / 100).await;
    }
    let mut unknown = 0;
    for call in calls {
        unknown += usize::from(call.await.unwrap() == Outcome::Unknown);
    }
    let sent: usize = fake.data().iter().map(Vec::len).sum();
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(unknown, sent, "what was sent, and responded to too late");
    // All of these were responded to, though nobody waited.
    assert_eq!(counts(publisher.flush().await), [sent as u64, 0, (2000 - sent) as u64, 0]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_expire_together_give_all_their_capacity_back() {
    const MESSAGES: usize = 20_000;
    let (fake, _permits) = Fake::held(Sent::done);
    let publisher =
        Publisher::new(&fake.client().with_timeout(10 * SECOND), PublisherConfig::new().max_messages(MESSAGES))
            .unwrap();
    let tickets: Vec<_> = (0..MESSAGES).map(|number| enqueue(&publisher, &(number % 10).to_string(), number)).collect();
    tokio::time::sleep(11 * SECOND).await;
    let sent: usize = fake.data().iter().map(Vec::len).sum();
    let totals = counts(publisher.flush().await);
    assert_eq!((totals, publisher.depth().messages), ([0, 0, (MESSAGES - sent) as u64, sent as u64], 0));
    let mut unknown = 0;
    for ticket in tickets {
        unknown += usize::from(ticket.await.unwrap_err().may_have_run());
    }
    assert_eq!(unknown, sent);
    assert_fails(enqueue(&publisher, "a", 1).await, ErrorKind::Timeout, Outcome::Unknown);
}
