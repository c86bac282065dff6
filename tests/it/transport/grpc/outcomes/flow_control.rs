//! Calls that wait for a stream or for a window.

use std::sync::Arc;
use std::time::Duration;

use centrifugo_api::{ErrorKind, Outcome};
use tokio::sync::Notify;

use super::client;
use crate::support::h2script::{self, Event, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, Reply};
use crate::support::tally::Server;
use crate::support::{AT_ONCE, applied, assert_error, publish_number, soon, spawn_publish, within};

#[tokio::test]
async fn a_call_that_waits_for_a_stream_until_its_deadline_is_not_sent() {
    let (turn, over) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start_bare({
        let (turn, over) = (Arc::clone(&turn), Arc::clone(&over));
        move |mut connection| {
            let (turn, over) = (Arc::clone(&turn), Arc::clone(&over));
            async move {
                connection.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
                let first = connection.request().await?;
                // By then the client knows that one stream is allowed.
                connection.sync().await?;
                turn.notify_one();
                over.notified().await;
                let events = connection.sync().await?;
                assert!(events.iter().all(|event| !matches!(event, Event::Request(_))), "{events:?}");
                connection.reply(&first, &Reply::result()).await?;
                connection.serve().await
            }
        }
    });
    let client = client(server.url(), crate::support::once());
    let first = spawn_publish(&client, 0);
    soon(turn.notified()).await;
    let impatient = client.with_timeout(Duration::from_millis(200));
    let waiting: Vec<_> = (1..=4).map(|n| spawn_publish(&impatient, n)).collect();
    for call in waiting {
        let error = within(AT_ONCE, call).await.unwrap().unwrap_err();
        assert_error(&error, ErrorKind::Timeout, Outcome::NotSent, 1);
    }
    over.notify_one();
    within(AT_ONCE, first).await.unwrap().unwrap();
    within(AT_ONCE, publish_number(&client, 6)).await.unwrap();
    assert_eq!((server.tally.arrived().len(), applied(&[&server.tally]), server.dials()), (2, (2, 2), 1));
}

#[tokio::test]
async fn a_call_to_a_server_that_allows_no_stream_is_not_sent() {
    let server = h2script::start_bare(|mut connection| async move {
        connection.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await?;
        let stream = connection.opened().await?;
        panic!("stream {stream} was opened");
    });
    let client = client(server.url(), crate::support::once()).with_timeout(Duration::from_millis(200));
    for n in 0..3 {
        let error = within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
        assert_error(&error, ErrorKind::Timeout, Outcome::NotSent, 1);
    }
}

/// Opens no window for the body of the first call until `open` is notified.
fn with_a_closed_window(open: Arc<Notify>) -> Server {
    h2script::start_bare(move |mut connection| {
        let open = Arc::clone(&open);
        async move {
            connection.settings(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
            let stream = connection.opened().await?;
            open.notified().await;
            let early = connection.sync().await?;
            assert!(early.iter().all(|event| !matches!(event, Event::Request(_))), "{early:?}");
            connection.window_update(stream, 1 << 20).await?;
            connection.settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await?;
            connection.serve().await
        }
    })
}

#[tokio::test]
async fn a_call_blocked_by_flow_control_is_sent_when_the_window_opens() {
    let open = Arc::new(Notify::new());
    let server = with_a_closed_window(Arc::clone(&open));
    let client = client(server.url(), crate::support::once());
    let call = spawn_publish(&client, 1);
    open.notify_one();
    within(AT_ONCE, call).await.unwrap().unwrap();
    assert_eq!(applied(&[&server.tally]), (1, 1));
}

#[tokio::test]
async fn a_call_blocked_by_flow_control_ends_at_its_deadline_and_is_not_sent_later() {
    let open = Arc::new(Notify::new());
    let server = with_a_closed_window(Arc::clone(&open));
    let client = client(server.url(), crate::support::once());
    let error = within(AT_ONCE, publish_number(&client.with_timeout(AT_ONCE / 20), 1)).await.unwrap_err();
    // The connection has the body by then, and so nothing is proven.
    assert_error(&error, ErrorKind::Timeout, Outcome::Unknown, 1);
    open.notify_one();
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!(applied(&[&server.tally]), (1, 1));
}
