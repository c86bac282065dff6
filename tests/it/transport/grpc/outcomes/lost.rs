//! Connections and streams that end before the response does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::{Client, Config, ErrorKind, HistoryRequest, Outcome, Retry};

use super::{client, without_keys};
use crate::support::h2script::{
    self, CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Reply,
};
use crate::support::proxy::{End, Proxy};
use crate::support::tally::Server;
use crate::support::{AT_ONCE, applied, assert_error, publish_number, soon, spawn_publish, within};

/// Breaks the rules of HTTP/2 on the first connection, after a request was applied.
fn breaking_the_rules() -> Server {
    h2script::start(|mut connection| async move {
        if connection.number == 0 {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::hang().applied()).await?;
            // DATA belongs to a stream.
            connection.send(DATA, 0, 0, b"x").await?;
            return connection.ignore().await;
        }
        connection.serve().await
    })
}

#[tokio::test]
async fn a_call_whose_connection_the_client_gives_up_may_have_run() {
    let server = breaking_the_rules();
    let error = within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));

    let server = breaking_the_rules();
    within(AT_ONCE, publish_number(&client(server.url(), Retry::new()), 0)).await.unwrap();
    assert_eq!((server.tally.applied().len(), server.tally.effects(), server.dials()), (2, 1, 2));
}

#[tokio::test]
async fn a_connection_without_ping_acks_is_given_up_and_its_call_may_have_run() {
    let server = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.stall().await
    });
    let config = Config::grpc(server.url()).timeout(Duration::from_secs(3600)).retry(None);
    let call = spawn_publish(&Client::new(config).unwrap(), 0);
    soon(server.tally.until_arrived(1)).await;
    // From here on nothing arrives, so that only the clock matters.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = call.await.unwrap().unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
}

/// A server whose connections lead through a proxy, and a client with one connection to it. The proxy's faults are removed
/// when a call is retried, and the retries are counted.
async fn through_a_proxy(retry: Retry) -> (Server, Arc<Proxy>, Client, Arc<AtomicUsize>) {
    let server = h2script::replying(|_| Reply::result());
    let proxy = Arc::new(Proxy::to(server.address()));
    let repeats = Arc::new(AtomicUsize::new(0));
    let (healed, counting) = (Arc::clone(&proxy), Arc::clone(&repeats));
    let retry = retry.observe(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        healed.heal();
    });
    let client = client(proxy.url(), retry);
    publish_number(&client, 0).await.unwrap();
    (server, proxy, client, repeats)
}

#[tokio::test]
async fn a_request_cut_off_at_any_byte_is_applied_at_most_once_and_its_error_is_true() {
    let mut unknown = 0;
    for bytes in (1..).step_by(5) {
        let (server, proxy, client, repeats) = through_a_proxy(without_keys()).await;
        proxy.up(|lane| lane.limit = Some((bytes, End::Rst)));
        let outcome = within(AT_ONCE, publish_number(&client, 1)).await;
        let applied = server.tally.applied().len() - 1;
        if let Err(error) = outcome {
            assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
            assert!(applied <= 1, "after {bytes} bytes");
            unknown += 1;
        } else {
            assert_eq!(applied, 1, "after {bytes} bytes");
            if repeats.load(Ordering::SeqCst) == 0 && server.dials() == 1 {
                break;
            }
        }
        assert!(bytes < 1000, "a request has no end");
    }
    assert!(unknown > 0);
}

#[tokio::test]
async fn a_request_with_a_key_cut_off_at_any_byte_has_one_effect() {
    let mut repeated = 0;
    for bytes in (1..).step_by(11) {
        let (server, proxy, client, repeats) = through_a_proxy(Retry::new()).await;
        proxy.up(|lane| lane.limit = Some((bytes, End::Rst)));
        within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
        assert_eq!(server.tally.effects(), 2, "after {bytes} bytes");
        let repeats = repeats.load(Ordering::SeqCst);
        assert!(repeats <= 1);
        repeated += repeats;
        if repeats == 0 && server.dials() == 1 {
            break;
        }
        assert!(bytes < 1000, "a request has no end");
    }
    assert!(repeated > 0);
}

#[tokio::test]
async fn a_call_whose_response_is_lost_is_unknown_and_retried_only_with_a_key() {
    for (end, keyed) in [End::Rst, End::Fin].into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let retry = Retry::new().idempotency_keys(keyed);
        let (server, proxy, client, repeats) = through_a_proxy(retry).await;
        proxy.down(|lane| lane.stalled = true);
        let call = spawn_publish(&client, 1);
        soon(server.tally.until_applied(2)).await;
        proxy.cut(end);
        let outcome = within(AT_ONCE, call).await.unwrap();
        assert_eq!(outcome.is_ok(), keyed);
        if let Err(error) = outcome {
            assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        }
        let repeated = usize::from(keyed);
        assert_eq!(repeats.load(Ordering::SeqCst), repeated);
        assert_eq!((server.tally.applied().len(), server.tally.effects()), (2 + repeated, 2));
        assert_eq!(server.dials(), 1 + repeated);
    }
}

#[tokio::test]
async fn a_read_whose_response_is_lost_is_retried_without_a_key() {
    let server = h2script::replying(|request| match request.number {
        0 => Reply::cut(CANCEL),
        _ => Reply::message(&[0x12, 0]),
    });
    let client = client(server.url(), without_keys());
    within(AT_ONCE, client.history(HistoryRequest::new("news"))).await.unwrap();
    assert_eq!((server.tally.arrived().len(), server.dials()), (2, 1));
}

#[tokio::test]
async fn a_truncated_response_is_unknown_and_affects_no_other_call_on_the_connection() {
    let result = [0x12, 0];
    let cuts = [
        Reply::cut(NO_ERROR),
        Reply::cut(CANCEL),
        Reply::cut(INTERNAL_ERROR),
        Reply::reset(NO_ERROR).applied(),
        Reply::reset(CANCEL).applied(),
        Reply::reset(ENHANCE_YOUR_CALM).applied(),
        Reply::head().then_reset(NO_ERROR).applied(),
        Reply::head().end().applied(),
        Reply::head().data(&result).end().applied(),
        Reply::head().data(&result).headers(&[(b"x-status", b"0")], END_STREAM).applied(),
        Reply::head().data(&result).then_reset(NO_ERROR).applied(),
    ];
    let number = cuts.len();
    let server = h2script::start(move |mut connection| {
        let cuts = cuts.clone();
        async move {
            let bystander = connection.request().await?;
            for cut in &cuts {
                let request = connection.request().await?;
                connection.reply(&request, cut).await?;
                // A call that succeeds: after three in a row that do not, the connection is not trusted any more.
                let request = connection.request().await?;
                connection.reply(&request, &Reply::result()).await?;
            }
            connection.reply(&bystander, &Reply::result()).await?;
            connection.serve().await
        }
    });
    let client = client(server.url(), without_keys());
    let bystander = spawn_publish(&client, 0);
    soon(server.tally.until_arrived(1)).await;
    for cut in 1..=number {
        let error = within(AT_ONCE, publish_number(&client, cut)).await.expect_err(&format!("cut {cut}"));
        assert!(matches!(error.kind(), ErrorKind::Lost | ErrorKind::Protocol), "cut {cut}: {error:?}");
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "cut {cut}: {error:?}");
        within(AT_ONCE, publish_number(&client, 100 + cut)).await.unwrap();
    }
    within(AT_ONCE, bystander).await.unwrap().unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((2 * number + 1, 2 * number + 1), 1));
}

#[tokio::test]
async fn a_response_without_a_status_is_retried_with_a_key() {
    for reason in [NO_ERROR, CANCEL, INTERNAL_ERROR] {
        let server = h2script::replying(move |request| match request.number {
            0 => Reply::cut(reason),
            _ => Reply::result(),
        });
        within(AT_ONCE, publish_number(&client(server.url(), Retry::new()), 0)).await.unwrap();
        assert_eq!((server.tally.applied().len(), server.tally.effects()), (2, 1));
        let server = h2script::replying(move |_| Reply::cut(reason));
        let error = within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
    }
}

#[tokio::test]
async fn a_call_whose_response_has_begun_may_have_run() {
    let refusing = h2script::replying(|_| Reply::head().then_reset(REFUSED_STREAM).applied());
    let leaving = h2script::start(|mut connection| async move {
        let request = connection.request().await?;
        connection.reply(&request, &Reply::head().applied()).await?;
        // By then the client knows of the response.
        connection.sync().await?;
        connection.goaway(0, NO_ERROR, b"").await?;
        connection.finish().await
    });
    for server in [refusing, leaving] {
        let error = within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Lost | ErrorKind::Protocol), "{error:?}");
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{error:?}");
        assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
    }
}
