//! What becomes of one call over gRPC, whatever becomes of its connection: carried out once, or an error that is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::{BreakerState, Client, Config, Error, ErrorKind, HistoryRequest, Outcome, Retry, Tls};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::authority::Authority;
use crate::support::h2script::{
    self, CANCEL, CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, Event, HEADERS, INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, NO_ERROR, REFUSED_STREAM, Reply,
};
use crate::support::proxy::{End, Proxy};
use crate::support::tally::Server;
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{AT_ONCE, applied, assert_error, h1script, publish_number, soon, spawn_publish, within};

fn client(url: String, retry: Retry) -> Client {
    Client::new(Config::grpc(url).retry(retry)).unwrap()
}

/// Repeats only what certainly was not carried out.
fn without_keys() -> Retry {
    Retry::new().idempotency_keys(false)
}

/// Publishes 0 to `number`, all at once.
async fn publish_all(client: &Client, number: usize) -> Vec<Result<(), Error>> {
    let mut calls = JoinSet::new();
    for n in 0..number {
        let client = client.clone();
        calls.spawn(async move { publish_number(&client, n).await });
    }
    within(AT_ONCE, calls.join_all()).await
}

/// Refuses the first stream before its body is read, and is good from then on.
fn refusing_the_first() -> Server {
    h2script::start(|mut connection| async move {
        if connection.number == 0 {
            let stream = connection.opened().await?;
            connection.reset_stream(stream, REFUSED_STREAM).await?;
        }
        connection.serve().await
    })
}

#[tokio::test]
async fn a_call_whose_stream_is_refused_is_repeated_and_carried_out_once() {
    let server = refusing_the_first();
    within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
}

#[tokio::test]
async fn a_call_whose_stream_is_refused_was_not_sent() {
    let server = refusing_the_first();
    let client = client(server.url(), Retry::off());
    let error = within(AT_ONCE, publish_number(&client, 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Lost, Outcome::NotSent, 1);
    assert_eq!(server.tally.arrived().len(), 0);
    // The connection is as good as before.
    within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
}

#[tokio::test]
async fn a_call_that_is_refused_when_it_has_arrived_is_repeated_and_carried_out_once() {
    let server = h2script::replying(|request| match request.number {
        0 => Reply::reset(REFUSED_STREAM),
        _ => Reply::result(),
    });
    within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap();
    assert_eq!((server.tally.arrived().len(), applied(&[&server.tally]), server.dials()), (2, (1, 1), 1));
}

#[tokio::test]
async fn a_server_that_refuses_every_stream_is_asked_once_for_each_attempt() {
    let streams = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&streams);
    let server = h2script::start(move |mut connection| {
        let counting = Arc::clone(&counting);
        async move {
            loop {
                let stream = connection.opened().await?;
                counting.fetch_add(1, Ordering::SeqCst);
                connection.reset_stream(stream, REFUSED_STREAM).await?;
            }
        }
    });
    for (retry, attempts) in [(Retry::off(), 1), (Retry::new(), 3), (Retry::new().attempts(5), 5)] {
        streams.store(0, Ordering::SeqCst);
        let error = within(AT_ONCE, publish_number(&client(server.url(), retry), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::NotSent, attempts);
        assert_eq!(streams.load(Ordering::SeqCst), attempts as usize);
    }
    assert_eq!((server.tally.arrived().len(), server.dials()), (0, 3));
}

#[tokio::test]
async fn calls_beyond_the_last_stream_of_a_goaway_are_sent_anew_and_all_are_carried_out_once() {
    for retry in [Retry::off(), without_keys()] {
        let server = h2script::start(|mut connection| async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let mut requests = connection.requests(20).await?;
            requests.sort_by_key(|request| request.stream);
            connection.goaway(requests[9].stream, NO_ERROR, b"bye").await?;
            for request in &requests[..10] {
                connection.reply(request, &Reply::result()).await?;
            }
            connection.finish().await
        });
        for outcome in publish_all(&client(server.url(), retry), 20).await {
            outcome.unwrap();
        }
        assert_eq!(applied(&[&server.tally]), (20, 20));
        // Ten of them arrived twice, and there is one new connection for all.
        assert_eq!((server.tally.arrived().len(), server.dials()), (30, 2));
    }
}

#[tokio::test]
async fn a_server_that_ends_every_connection_with_a_goaway_is_dialled_a_bounded_number_of_times() {
    for (retry, attempts) in [(Retry::off(), 1), (Retry::new(), 3)] {
        let server = h2script::start(|mut connection| async move {
            connection.request().await?;
            connection.goaway(0, NO_ERROR, b"").await?;
            connection.finish().await
        });
        let error = within(AT_ONCE, publish_number(&client(server.url(), retry), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::NotSent, attempts);
        // The connection that may have ended just now, and a new one.
        assert_eq!((applied(&[&server.tally]), server.dials()), ((0, 0), 2 * attempts as usize));
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_after_its_greeting_is_dialled_a_bounded_number_of_times() {
    for (reset, retry, attempts) in
        [(false, Retry::off(), 1), (true, Retry::off(), 1), (false, Retry::new(), 3), (true, Retry::new(), 3)]
    {
        let server = h2script::start(move |connection| async move {
            if reset { connection.reset() } else { connection.finish().await }
        });
        let error =
            within(AT_ONCE, publish_number(&client(server.url(), retry.idempotency_keys(false)), 0)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost), "{error:?}");
        assert_eq!((server.tally.arrived().len(), server.tally.applied().len()), (0, 0));
        assert!(server.dials() <= 2 * attempts, "{} dials", server.dials());
        // That the request may have been on its way shows from the outcome, and from the end of the attempts.
        match error.outcome() {
            Outcome::NotSent => assert_eq!(error.attempts() as usize, attempts),
            outcome => assert_eq!((outcome, error.kind()), (Outcome::Unknown, ErrorKind::Lost)),
        }
    }
}

async fn drained_under_load(retry: Retry) {
    let server = h2script::start(|mut connection| async move {
        for _ in 0..25 {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
        }
        for request in connection.drain().await? {
            connection.reply(&request, &Reply::result()).await?;
        }
        connection.serve().await
    });
    let client = client(server.url(), retry);
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let client = client.clone();
        callers.spawn(async move {
            for n in 0..50 {
                publish_number(&client, caller * 50 + n).await.unwrap();
            }
        });
    }
    soon(callers.join_all()).await;
    assert_eq!(applied(&[&server.tally]), (800, 800));
    assert!((2..=32).contains(&server.dials()), "{} dials", server.dials());
}

#[tokio::test]
async fn connections_that_are_drained_under_load_as_grpc_go_does_lose_no_call() {
    drained_under_load(Retry::off()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_are_drained_under_load_lose_no_call_of_several_threads() {
    // A call may meet the end of one connection after the other, which come after 25 calls here.
    drained_under_load(without_keys()).await;
}

#[tokio::test]
async fn calls_up_to_the_last_stream_of_a_goaway_may_have_run_when_the_connection_is_cut() {
    for reset in [false, true] {
        let server = h2script::start(move |mut connection| async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let mut requests = connection.requests(4).await?;
            requests.sort_by_key(|request| request.stream);
            connection.goaway(requests[1].stream, NO_ERROR, b"").await?;
            connection.sync().await?;
            if reset { connection.reset() } else { connection.finish().await }
        });
        let outcomes = publish_all(&client(server.url(), without_keys()), 4).await;
        let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 2);
        for error in errors {
            assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        }
        assert_eq!(applied(&[&server.tally]), (2, 2));
    }
}

/// Breaks the rules of HTTP/2 on the first connection, when a request has been carried out.
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
async fn a_call_whose_connection_is_given_up_by_this_side_may_have_run() {
    let server = breaking_the_rules();
    let error = within(AT_ONCE, publish_number(&client(server.url(), without_keys()), 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));

    let server = breaking_the_rules();
    within(AT_ONCE, publish_number(&client(server.url(), Retry::new()), 0)).await.unwrap();
    assert_eq!((server.tally.applied().len(), server.tally.effects(), server.dials()), (2, 1, 2));
}

#[tokio::test]
async fn a_server_that_gives_no_sign_of_life_is_given_up_and_the_call_may_have_run() {
    let server = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.stall().await
    });
    let config = Config::grpc(server.url()).timeout(Duration::from_secs(3600)).retry(Retry::off());
    let call = spawn_publish(&Client::new(config).unwrap(), 0);
    soon(server.tally.until_arrived(1)).await;
    // From here on nothing arrives, so that only the clock matters.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = call.await.unwrap().unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
}

/// A server whose connections lead through a proxy, and a client with one connection to it. The proxy does no more harm
/// when a call is repeated, and the repeats are counted.
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
async fn wherever_a_request_is_cut_off_it_is_carried_out_once_at_most_and_the_error_is_true() {
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
async fn wherever_a_request_with_a_key_is_cut_off_it_has_one_effect() {
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
async fn a_call_that_is_carried_out_and_loses_its_answer_is_unknown_and_repeated_only_with_a_key() {
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
async fn a_read_that_loses_its_answer_is_repeated_without_a_key() {
    let server = h2script::replying(|request| match request.number {
        0 => Reply::cut(CANCEL),
        _ => Reply::message(&[0x12, 0]),
    });
    let client = client(server.url(), without_keys());
    within(AT_ONCE, client.history(HistoryRequest::new("news"))).await.unwrap();
    assert_eq!((server.tally.arrived().len(), server.dials()), (2, 1));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_unknown_and_harms_no_other_call_on_the_connection() {
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
async fn an_answer_without_a_status_is_asked_for_again_with_a_key() {
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
async fn what_an_answer_has_begun_for_may_have_run_whatever_is_said_next() {
    let refusing = h2script::replying(|_| Reply::head().then_reset(REFUSED_STREAM).applied());
    let leaving = h2script::start(|mut connection| async move {
        let request = connection.request().await?;
        connection.reply(&request, &Reply::head().applied()).await?;
        // By then the client knows of the answer.
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

#[tokio::test]
async fn a_call_that_waits_for_its_turn_on_a_full_connection_is_not_sent_when_its_time_is_over() {
    let (turn, over) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start_bare({
        let (turn, over) = (Arc::clone(&turn), Arc::clone(&over));
        move |mut connection| {
            let (turn, over) = (Arc::clone(&turn), Arc::clone(&over));
            async move {
                connection.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
                let first = connection.request().await?;
                // By then the client knows that there is room for one.
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
    let client = client(server.url(), Retry::off());
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
async fn a_call_to_a_server_with_room_for_no_stream_is_not_sent_when_its_time_is_over() {
    let server = h2script::start_bare(|mut connection| async move {
        connection.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await?;
        let stream = connection.opened().await?;
        panic!("stream {stream} was opened");
    });
    let client = client(server.url(), Retry::off()).with_timeout(Duration::from_millis(200));
    for n in 0..3 {
        let error = within(AT_ONCE, publish_number(&client, n)).await.unwrap_err();
        assert_error(&error, ErrorKind::Timeout, Outcome::NotSent, 1);
    }
}

#[tokio::test]
async fn a_status_that_makes_no_sense_is_an_error_and_the_connection_goes_on() {
    let head: [(&[u8], &[u8]); 2] = [(b":status", b"200"), (b"content-type", b"application/grpc")];
    let odd = |more: &[(&[u8], &[u8])]| Reply::default().headers(&[&head[..], more].concat(), END_STREAM);
    let odd_trailers = |more: &[(&[u8], &[u8])]| Reply::head().data(&[0x12, 0]).headers(more, END_STREAM).applied();
    let replies = [
        Reply::status_with(13, "bad", &[(b"grpc-status-details-bin", b"not base64 \xff")]),
        Reply::status_with(13, "bad", &[(b"grpc-status-details-bin", b"////")]),
        Reply::status_with(13, "bad", &[(b"grpc-status-details-bin", b"")]),
        Reply::status_with(14, "bad", &[(b"grpc-retry-pushback-ms", b"99999999999999999999999")]),
        Reply::status(13, "%"),
        Reply::status(13, "%zz %f %ff%fe%00"),
        odd(&[(b"grpc-status", b"13"), (b"grpc-message", b"\xff\xfe")]),
        odd(&[(b"grpc-status", b"-1")]),
        odd(&[(b"grpc-status", b"\xff")]),
        odd(&[(b"grpc-status", b"99999999999999999999")]),
        odd(&[(b"grpc-status", b"")]),
        odd_trailers(&[(b"grpc-status", b"nonsense")]),
        odd_trailers(&[(b"grpc-status", b"13"), (b"grpc-message", b"\xc3\x28%")]),
        odd_trailers(&[(b"grpc-status", b"13"), (b"grpc-status-details-bin", b"\xff\xff=")]),
    ];
    let number = replies.len();
    let server = h2script::replying(move |request| replies.get(request.number).cloned().unwrap_or(Reply::result()));
    let client = client(server.url(), without_keys());
    for odd in 0..number {
        let error = within(AT_ONCE, publish_number(&client, odd)).await.expect_err(&format!("reply {odd}"));
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "reply {odd}: {error:?}");
    }
    within(AT_ONCE, publish_number(&client, 99)).await.unwrap();
    assert_eq!(server.dials(), 1);
}

#[tokio::test]
async fn headers_that_are_huge_are_an_error_of_the_call_within_its_time() {
    let huge = vec![b'x'; 1 << 20];
    let many: Vec<(&[u8], &[u8])> = vec![(b"x-one", b"of many"); 5000];
    for more in [&[(&b"x-huge"[..], &huge[..])][..], &many] {
        for reply in [
            Reply::status_with(0, "", more),
            Reply::head().data(&[0x12, 0]).headers(&[&[(&b"grpc-status"[..], &b"0"[..])], more].concat(), END_STREAM),
        ] {
            let reply = reply.applied();
            let server = h2script::start(move |mut connection| {
                let reply = reply.clone();
                async move {
                    if connection.number == 0 {
                        let request = connection.request().await?;
                        connection.reply(&request, &reply).await?;
                    }
                    connection.serve().await
                }
            });
            let client = client(server.url(), without_keys());
            let error = within(AT_ONCE, publish_number(&client, 0)).await.unwrap_err();
            assert!(error.may_have_run() && error.attempts() == 1, "{error:?}");
            within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
            assert_eq!(applied(&[&server.tally]), (2, 2));
        }
    }
}

#[tokio::test]
async fn headers_without_an_end_are_read_to_a_bound_only() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&sent);
    let server = h2script::start(move |mut connection| {
        let counting = Arc::clone(&counting);
        async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let request = connection.request().await?;
            // `:status: 200`, out of the static table, and then `x: ` and a thousand bytes, again and again.
            connection.send(HEADERS, 0, request.stream, &[0x88]).await?;
            let field = [&[0, 1, b'x', 127, 0xe9, 6][..], &[b'y'; 1000]].concat();
            let fields = field.repeat(16);
            loop {
                connection.send(CONTINUATION, 0, request.stream, &fields).await?;
                counting.fetch_add(fields.len(), Ordering::SeqCst);
            }
        }
    });
    let client = client(server.url(), without_keys());
    let error = within(AT_ONCE, publish_number(&client, 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
    within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
    // What was read, and what the kernel keeps for both sides.
    assert!(sent.load(Ordering::SeqCst) < 32 << 20, "{sent:?} bytes");
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_asked_once_and_nothing_goes_another_way_or_in_the_clear() {
    for flaw in Flaw::FATAL {
        let (authority, http) = (Authority::new(), h1script::replying(|_| h1script::Reply::result()));
        let peer = Peer::with(flaw, &authority);
        let config = Config::grpc(peer.https_url())
            .tls(Tls::new().ca_certificates(authority.pem()))
            .fallback(Config::http(http.api_url()));
        let client = Client::new(config).unwrap();
        for _ in 0..5 {
            let error = within(AT_ONCE, publish_number(&client, 0)).await.unwrap_err();
            assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);
            assert!(!error.is_transient(), "{flaw:?}: {error:?}");
            let named = match flaw {
                Flaw::WrongHost => "not valid for name",
                Flaw::Expired => "expired",
                Flaw::UnknownAuthority => "UnknownIssuer",
                _ => "ProtocolVersion",
            };
            assert!(error.to_string().contains(named), "{flaw:?}: {error}");
        }
        assert_eq!((peer.requests(), peer.in_the_clear(), http.dials()), (0, 0, 0), "{flaw:?}");
        // The later calls did not ask again so soon.
        assert_eq!(peer.dials(), 1, "{flaw:?}");
        assert_eq!(*client.watch_breaker().unwrap().borrow(), BreakerState::Closed);
    }
}

#[tokio::test]
async fn a_server_without_http2_over_tls_is_told_so_and_is_the_one_that_http_over_tls_serves_in_its_place() {
    let authority = Authority::new();
    let identity = authority.issue("127.0.0.1");
    let http =
        centrifugo_api::testing::Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    for flaw in [Flaw::NoAlpn, Flaw::OtherAlpn] {
        let peer = Peer::with(flaw, &authority);
        let tls = Tls::new().ca_certificates(authority.pem());
        let config = Config::grpc(peer.https_url()).tls(tls.clone());
        let error = within(AT_ONCE, publish_number(&Client::new(config.clone()).unwrap(), 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);
        assert!(error.to_string().contains("HTTP/2 over TLS"), "{error}");

        let before = http.applied("news");
        let client = Client::new(config.fallback(Config::http(http.http_url()).tls(tls))).unwrap();
        within(AT_ONCE, publish_number(&client, 0)).await.unwrap();
        assert_eq!(http.applied("news"), before + 1);
        assert_eq!(*client.watch_breaker().unwrap().borrow(), BreakerState::Open);
        assert_eq!((peer.requests(), peer.in_the_clear()), (0, 0));
    }
}

/// Opens no window for the body of the first call until told to.
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
async fn a_slow_reader_gets_the_call_when_it_makes_room() {
    let open = Arc::new(Notify::new());
    let server = with_a_closed_window(Arc::clone(&open));
    let client = client(server.url(), Retry::off());
    let call = spawn_publish(&client, 1);
    open.notify_one();
    within(AT_ONCE, call).await.unwrap().unwrap();
    assert_eq!(applied(&[&server.tally]), (1, 1));
}

#[tokio::test]
async fn a_call_that_a_slow_reader_makes_no_room_for_ends_in_time_and_goes_nowhere_later() {
    let open = Arc::new(Notify::new());
    let server = with_a_closed_window(Arc::clone(&open));
    let client = client(server.url(), Retry::off());
    let error = within(AT_ONCE, publish_number(&client.with_timeout(AT_ONCE / 20), 1)).await.unwrap_err();
    // The connection has the body by then, and so nothing is proven.
    assert_error(&error, ErrorKind::Timeout, Outcome::Unknown, 1);
    open.notify_one();
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!(applied(&[&server.tally]), (1, 1));
}
