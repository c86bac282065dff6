//! Connections over HTTP that end before the response does, and responses that come late.

use std::sync::Arc;
use std::time::Duration;

use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, ErrorKind, Outcome, Retry};
use tokio::time::Instant;

use super::without_keys;
use crate::support::h1script::{self, Reply};
use crate::support::proxy::{End, Proxy};
use crate::support::{SECOND, assert_error, publish, quick_retry, request};

/// A client behind the proxy, whose faults are removed before a retry.
fn healing(proxy: &Arc<Proxy>, retry: Retry) -> Client {
    let healer = Arc::clone(proxy);
    let retry = retry.observe(move |_| healer.heal());
    Client::new(Config::http(format!("{}/api", proxy.url())).retry(retry)).unwrap()
}

#[tokio::test]
async fn a_lost_response_is_retried_only_with_a_key() {
    for (bytes, end) in [(1, End::Rst), (1, End::Fin), (40, End::Rst), (40, End::Fin)] {
        let server = Server::start().await.unwrap();
        let proxy = Arc::new(Proxy::to(server.http_addr()));
        proxy.down(|lane| lane.limit = Some((bytes, end)));
        let error = publish(&healing(&proxy, without_keys())).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        assert_eq!((server.applied("news"), server.calls().len()), (1, 1), "{bytes} {end:?}");

        publish(&healing(&proxy, quick_retry())).await.unwrap();
        assert_eq!((server.applied("news"), server.calls().len()), (2, 3), "{bytes} {end:?}");
    }
}

#[tokio::test]
async fn a_truncated_request_is_not_applied_and_retried_with_a_key() {
    for (bytes, end) in [(10, End::Rst), (150, End::Rst), (150, End::Fin)] {
        let server = Server::start().await.unwrap();
        let proxy = Arc::new(Proxy::to(server.http_addr()));
        proxy.up(|lane| lane.limit = Some((bytes, end)));
        let error = publish(&healing(&proxy, without_keys())).await.unwrap_err();
        // The client cannot know where it was cut.
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        assert_eq!(server.applied("news"), 0);

        publish(&healing(&proxy, quick_retry())).await.unwrap();
        assert_eq!(server.applied("news"), 1, "{bytes} {end:?}");
    }
}

/// A server that ends every connection when it is used for the second time.
fn ending_on_reuse(reset: bool) -> crate::support::tally::Server {
    h1script::start(move |mut connection| async move {
        let request = connection.request().await?;
        connection.reply(&request, &Reply::result()).await?;
        connection.first_byte().await?;
        if reset { connection.reset() } else { connection.finish().await }
    })
}

#[tokio::test]
async fn a_connection_closed_on_reuse_publishes_nothing_twice() {
    for reset in [true, false] {
        let server = ending_on_reuse(reset);
        let client = Client::new(Config::http(server.api_url()).retry(None)).unwrap();
        let (mut done, mut unknown) = (0, 0);
        for _ in 0..100 {
            match publish(&client).await {
                Ok(_) => done += 1,
                Err(error) => {
                    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
                    unknown += 1;
                }
            }
        }
        assert_eq!(server.tally.applied().len(), done);
        assert_eq!(done + unknown, 100);
        assert!(done >= 50, "{done}");

        let server = ending_on_reuse(reset);
        let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
        let mut done = 0;
        // All but the first are retried, which is in the budget so often.
        for _ in 0..30 {
            publish(&client).await.unwrap();
            done += 1;
        }
        assert_eq!((server.tally.applied().len(), server.tally.effects()), (done, done));
    }
}

#[tokio::test]
async fn connections_closed_while_idle_lose_and_double_nothing() {
    let server = h1script::start(|mut connection| async move {
        let request = connection.request().await?;
        connection.reply(&request, &Reply::result()).await?;
        connection.finish().await
    });
    let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
    for _ in 0..1000 {
        publish(&client).await.unwrap();
        // The end arrives, or is about to.
        tokio::task::yield_now().await;
    }
    assert_eq!((server.tally.applied().len(), server.tally.effects()), (1000, 1000));
}

#[tokio::test]
async fn a_response_later_than_9_s_is_a_timeout_and_not_retried_without_a_key() {
    let server = h1script::replying(|_| Reply::result().after(11 * SECOND));
    // Without a deadline that would end it earlier.
    let config = Config::http(server.api_url()).timeout(100 * SECOND).retry(without_keys());
    let client = Client::new(config).unwrap();
    let started = Instant::now();
    let publishing = tokio::spawn(async move { client.publish(request()).await });
    server.tally.until_applied(1).await;
    tokio::time::pause();
    let error = publishing.await.unwrap().unwrap_err();
    let took = started.elapsed();
    tokio::time::resume();
    assert_error(&error, ErrorKind::Timeout, Outcome::Unknown, 1);
    assert!(took <= Duration::from_millis(9500), "{took:?}");
    assert_eq!((server.tally.arrived().len(), server.tally.applied().len()), (1, 1));
}

#[tokio::test]
async fn late_responses_have_one_effect_with_a_key() {
    let server = h1script::replying(|_| Reply::result().after(11 * SECOND));
    let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
    let started = Instant::now();
    let publishing = tokio::spawn(async move { client.publish(request()).await });
    for attempt in 1..=3 {
        server.tally.until_applied(attempt).await;
        tokio::time::pause();
        if attempt < 3 {
            tokio::time::advance(3 * SECOND).await;
            tokio::time::resume();
        }
    }
    let error = publishing.await.unwrap().unwrap_err();
    let took = started.elapsed();
    tokio::time::resume();
    assert_error(&error, ErrorKind::Timeout, Outcome::Unknown, 3);
    assert!(took <= Duration::from_millis(10_500), "{took:?}");
    assert_eq!((server.tally.applied().len(), server.tally.effects()), (3, 1));
}
