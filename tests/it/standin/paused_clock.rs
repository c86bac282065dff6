//! The ways of `docs/testing.md` to test with a paused clock, over both transports.

use std::time::Duration;

use centrifugo_api::testing::Fault;
use centrifugo_api::transport::{Reply, from_fn};
use centrifugo_api::{Client, ErrorKind};
use tokio::time::Instant;

use crate::support::{BOTH, SECOND, request, start};

/// Holds the paused clock until it is dropped.
struct HeldClock(#[allow(dead_code, reason = "its drop ends the task")] std::sync::mpsc::Sender<()>);

impl HeldClock {
    fn new() -> Self {
        let (sender, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        Self(sender)
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_without_sockets_needs_nothing() {
    let client = Client::with_transport(from_fn("fake", |_| async {
        tokio::time::sleep(3 * SECOND).await;
        Ok(Reply::json(r#"{"result":{"offset":7}}"#))
    }));
    let began = Instant::now();
    assert_eq!(client.publish(request()).await.unwrap().offset, 7);
    assert_eq!(began.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_held_clock_stands_still_while_sockets_are_waited_for() {
    let clock = HeldClock::new();
    let began = Instant::now();
    let server = start().await;
    for over in BOTH {
        let client = Client::new(over.config(&server).retry(None)).unwrap();
        for _ in 0..20 {
            client.publish(request()).await.unwrap();
        }
        // It moves when it is told to.
        tokio::time::advance(30 * SECOND).await;
        client.publish(request()).await.unwrap();
    }
    assert_eq!(began.elapsed(), 60 * SECOND);
    drop(clock);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_let_go_reaches_the_deadline_in_no_time() {
    for over in BOTH {
        let clock = HeldClock::new();
        let server = start().await;
        let client = Client::new(over.config(&server).timeout(5 * SECOND).retry(None)).unwrap();
        client.publish(request()).await.unwrap();
        server.fault(Fault::hang_after());
        let (began, really) = (Instant::now(), std::time::Instant::now());
        drop(clock);
        let error = client.publish(request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(began.elapsed().as_secs(), 5);
        assert!(really.elapsed() < 4 * SECOND);
    }
}

#[tokio::test]
async fn a_clock_that_is_paused_between_calls_changes_no_call() {
    let server = start().await;
    for over in BOTH {
        let client = Client::new(over.config(&server)).unwrap();
        client.publish(request()).await.unwrap();
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::time::resume();
        client.publish(request()).await.unwrap();
    }
}
