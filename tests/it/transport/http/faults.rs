//! What can go wrong over HTTP: how it is told, how often the call was carried out, and how soon it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{
    ApiError, Batch, BatchReplies, Client, Config, Error, ErrorKind, LoadBalancing, Method, Outcome, PublishRequest,
    Retry, Tls,
};
use serde_json::json;
use tokio::time::Instant;

use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::h1script::{self, Connection, Reply, head};
use crate::support::h2script::{self, REFUSED_STREAM};
use crate::support::proxy::{End, Proxy};
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::within;
use crate::support::{BOTH, Over, SECOND, assert_error, publish, quick_retry, request, servers::Nobody};

/// The same without keys, so that nothing is repeated that may have been carried out.
fn without_keys() -> Retry {
    quick_retry().idempotency_keys(false)
}

#[tokio::test]
async fn a_refused_connection_costs_no_time_and_the_call_goes_to_the_next_endpoint() {
    let (nobody, server) = (Nobody::new(), Server::start().await.unwrap());
    let config = || Config::http(format!("{}/api", nobody.url())).balance(LoadBalancing::Priority).retry(Retry::off());
    let alone = Client::new(config()).unwrap();
    let error = within(SECOND, alone.publish(request())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);
    assert_eq!(error.endpoint(), Some(&format!("{}/api", nobody.url())[..]));

    let client = Client::new(config().endpoint(server.http_url())).unwrap();
    for published in 1..=3 {
        within(SECOND, client.publish(request())).await.unwrap();
        assert_eq!(server.applied("news"), published);
    }
}

#[tokio::test]
async fn a_call_that_one_endpoint_refused_and_that_never_reached_the_next_was_not_sent() {
    let (refusing, silent) = (h2script::replying(|_| h2script::Reply::reset(REFUSED_STREAM)), Backlog::fill().await);
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http2 = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never()).http2_prior_knowledge();
    let config = Config::http(format!("{}/api", refusing.url())).endpoint(format!("{}/api", silent.url()));
    let config = config.balance(LoadBalancing::Priority).retry(Retry::off()).timeout(SECOND / 2);
    let client = Client::new(config.reqwest_client(http2.build().unwrap())).unwrap();
    let error = publish(&client).await.unwrap_err();
    assert_error(&error, ErrorKind::Timeout, Outcome::NotSent, 1);
    assert_eq!(error.endpoint(), Some(&format!("{}/api", silent.url())[..]));
    assert_eq!((refusing.tally.arrived().len(), refusing.tally.applied().len()), (1, 0));
}

#[tokio::test]
async fn a_connect_that_hangs_ends_in_its_own_time_and_the_call_goes_to_the_next_endpoint() {
    let (backlog, server) = (Backlog::fill().await, Server::start().await.unwrap());
    let config = || {
        let first = Config::http(format!("{}/api", backlog.url())).balance(LoadBalancing::Priority).retry(Retry::off());
        first.connect_timeout(Duration::from_millis(300))
    };
    let error = within(2 * SECOND, Client::new(config()).unwrap().publish(request())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);

    let client = Client::new(config().endpoint(server.http_url())).unwrap();
    within(2 * SECOND, client.publish(request())).await.unwrap();
    assert_eq!(server.applied("news"), 1);
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_in_its_own_time_and_the_call_goes_to_the_next_endpoint() {
    let authority = Authority::new();
    let (silent, identity) = (Peer::with(Flaw::Silent, &authority), authority.issue("127.0.0.1"));
    let server = Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let config = || {
        let first = Config::http(format!("{}/api", silent.https_url())).balance(LoadBalancing::Priority);
        let trust = Tls::new().ca_certificates(authority.pem());
        first.tls(trust).connect_timeout(Duration::from_millis(300)).retry(Retry::off())
    };
    let error = within(2 * SECOND, Client::new(config()).unwrap().publish(request())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);

    let client = Client::new(config().endpoint(server.http_url())).unwrap();
    within(2 * SECOND, client.publish(request())).await.unwrap();
    assert_eq!(server.applied("news"), 1);
}

#[tokio::test]
async fn one_dead_endpoint_of_three_fails_no_call() {
    let (nobody, one, other) = (Nobody::new(), Server::start().await.unwrap(), Server::start().await.unwrap());
    let config = Config::http(format!("{}/api", nobody.url())).endpoint(one.http_url()).endpoint(other.http_url());
    let client = Client::new(config.retry(Retry::off())).unwrap();
    for _ in 0..1000 {
        publish(&client).await.unwrap();
    }
    let applied = [&one, &other].map(|server| server.applied("news"));
    assert_eq!(applied.iter().sum::<u64>(), 1000);
    assert!(applied.iter().all(|applied| *applied > 200), "{applied:?}");
}

#[tokio::test]
async fn an_error_of_the_api_names_the_endpoint_that_answered() {
    let (nobody, server) = (Nobody::new(), Server::start().await.unwrap());
    let config = Config::http(format!("{}/api", nobody.url())).endpoint(server.http_url());
    let client = Client::new(config).unwrap();
    for _ in 0..10 {
        let error = client.publish(PublishRequest::new("nowhere:a", json!(1))).await.unwrap_err();
        assert_eq!((error.kind(), error.endpoint()), (ErrorKind::Api, Some(&server.http_url()[..])), "{error:?}");
    }
}

#[tokio::test]
async fn mistrust_is_named_and_final_and_nothing_is_said_in_the_clear() {
    for flaw in Flaw::FATAL {
        let authority = Authority::new();
        let peer = Peer::with(flaw, &authority);
        let trust = Tls::new().ca_certificates(authority.pem());
        let config = Config::http(format!("{}/api", peer.https_url())).tls(trust).retry(quick_retry());
        let client = Client::new(config).unwrap();
        let error = publish(&client).await.unwrap_err();
        assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);
        let cause = match flaw {
            Flaw::WrongHost => "not valid for name",
            Flaw::Expired => "expired",
            Flaw::UnknownAuthority => "UnknownIssuer",
            _ => "ProtocolVersion",
        };
        assert!(error.message().contains(cause), "{flaw:?}: {error}");
        assert!(!error.is_transient(), "{flaw:?}: {error:?}");
        assert_eq!((peer.dials(), peer.requests(), peer.in_the_clear()), (1, 0, 0), "{flaw:?}");

        // The next call, for which nobody dials yet, is told the same.
        let error = publish(&client).await.unwrap_err();
        assert!(error.message().contains(cause) && !error.is_transient(), "{flaw:?}: {error:?}");
    }
}

/// A client whose every byte passes the proxy, which stops to do harm before anything is repeated.
fn healing(proxy: &Arc<Proxy>, retry: Retry) -> Client {
    let healer = Arc::clone(proxy);
    let retry = retry.observe(move |_| healer.heal());
    Client::new(Config::http(format!("{}/api", proxy.url())).retry(retry)).unwrap()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_only_with_a_key() {
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
async fn a_request_that_is_cut_is_not_carried_out_and_sent_again_with_a_key() {
    for (bytes, end) in [(10, End::Rst), (150, End::Rst), (150, End::Fin)] {
        let server = Server::start().await.unwrap();
        let proxy = Arc::new(Proxy::to(server.http_addr()));
        proxy.up(|lane| lane.limit = Some((bytes, end)));
        let error = publish(&healing(&proxy, without_keys())).await.unwrap_err();
        // Nobody on this side knows where it was cut.
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
async fn a_connection_that_ends_exactly_when_it_is_used_again_publishes_nothing_twice() {
    for reset in [true, false] {
        let server = ending_on_reuse(reset);
        let client = Client::new(Config::http(server.api_url()).retry(Retry::off())).unwrap();
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
        // All but the first are repeated, which is in the budget so often.
        for _ in 0..30 {
            publish(&client).await.unwrap();
            done += 1;
        }
        assert_eq!((server.tally.applied().len(), server.tally.effects()), (done, done));
    }
}

#[tokio::test]
async fn a_thousand_connections_that_end_while_they_are_idle_lose_and_double_nothing() {
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
async fn a_handler_that_takes_11_seconds_is_waited_for_9_and_not_asked_again_without_a_key() {
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
async fn a_handler_that_takes_too_long_has_one_effect_with_a_key() {
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

#[tokio::test]
async fn every_status_is_told_and_repeated_only_where_that_is_safe_and_can_help() {
    use ErrorKind as Kind;
    use Outcome::{Refused, Unknown};

    /// How often it is sent, of three times: without a key and with one.
    type Row = (u16, ErrorKind, Outcome, [u32; 2]);
    let rows: [Row; 22] = [
        (301, Kind::Protocol, Refused, [1, 1]),
        (302, Kind::Protocol, Refused, [1, 1]),
        (307, Kind::Protocol, Refused, [1, 1]),
        (400, Kind::Invalid, Refused, [1, 1]),
        (401, Kind::Unauthenticated, Refused, [1, 1]),
        (403, Kind::Unauthenticated, Refused, [1, 1]),
        (404, Kind::Unsupported, Refused, [1, 1]),
        (405, Kind::Unsupported, Refused, [1, 1]),
        (408, Kind::Timeout, Unknown, [1, 3]),
        (411, Kind::Protocol, Refused, [1, 1]),
        (413, Kind::TooLarge, Refused, [1, 1]),
        (415, Kind::Protocol, Refused, [1, 1]),
        (418, Kind::Protocol, Unknown, [1, 1]),
        (429, Kind::Unavailable, Refused, [3, 3]),
        (431, Kind::Protocol, Refused, [1, 1]),
        (500, Kind::Protocol, Unknown, [1, 1]),
        (501, Kind::Protocol, Unknown, [1, 1]),
        (502, Kind::Unavailable, Unknown, [1, 3]),
        (503, Kind::Unavailable, Unknown, [1, 3]),
        (504, Kind::Timeout, Unknown, [1, 3]),
        (204, Kind::Protocol, Unknown, [1, 1]),
        (299, Kind::Protocol, Unknown, [1, 1]),
    ];
    for (status, kind, outcome, sent) in rows {
        for (retry, sent) in [without_keys(), quick_retry()].into_iter().zip(sent) {
            let server = h1script::replying(move |_| match status {
                // This one has no body, whatever its headers say.
                204 => Reply::raw(&head(204, &[])),
                _ => Reply::with(status, &[("location", "/elsewhere")], b""),
            });
            let client = Client::new(Config::http(server.api_url()).retry(retry)).unwrap();
            let error = publish(&client).await.unwrap_err();
            assert_error(&error, kind, outcome, sent);
            let arrived = server.tally.arrived();
            assert_eq!((arrived.len(), server.tally.effects()), (sent as usize, 0), "{status}");
        }
    }
}

#[tokio::test]
async fn answers_that_are_no_answers_are_unknown_and_not_asked_for_again() {
    let replies = [
        Reply::with(200, &[("content-type", "text/html")], b"<html>"),
        Reply::json(200, r#"{"result":{"offset":1,"epo"#),
        Reply::json(200, ""),
        Reply::json(200, "null"),
        Reply::json(200, "[]"),
        Reply::raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        Reply::raw(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"),
        Reply::raw(b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n"),
    ];
    for reply in replies {
        let reply = reply.applied();
        let saying = format!("{reply:?}");
        let server = h1script::replying(move |_| reply.clone());
        let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Unknown), "{saying}: {error:?}");
        assert_eq!((error.attempts(), server.tally.applied().len()), (1, 1), "{saying}: {error:?}");
    }
}

#[tokio::test]
async fn the_wait_that_429_asks_for_is_waited() {
    let server = h1script::replying(|request| match request.number {
        0 => Reply::with(429, &[("retry-after", "1")], b""),
        _ => Reply::result(),
    });
    // Nothing was carried out, so it takes no key.
    let client = Client::new(Config::http(server.api_url()).retry(without_keys())).unwrap();
    publish(&client).await.unwrap();
    let arrived = server.tally.arrived();
    assert_eq!((arrived.len(), server.tally.applied().len()), (2, 1));
    let waited = arrived[1].at - arrived[0].at;
    assert!((SECOND..3 * SECOND).contains(&waited), "{waited:?}");
}

/// What the client says it waits after such an answer, without waiting for it.
async fn wait_after(headers: &'static [(&'static str, &'static str)]) -> Duration {
    let server = h1script::replying(move |_| Reply::with(429, headers, b""));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let bound = Duration::from_millis(100);
    let retry = Retry::new().backoff(bound, bound).observe(move |retry| tell.send(retry.wait).unwrap());
    let client = Client::new(Config::http(server.api_url()).retry(retry)).unwrap();
    let publishing = tokio::spawn(async move { publish(&client).await });
    let wait = within(5 * SECOND, told.recv()).await.unwrap();
    publishing.abort();
    wait
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_bounded_on_both_sides() {
    let backoff = Duration::from_millis(100);
    let hour = wait_after(&[("retry-after", "3600")]).await;
    assert!((5 * SECOND..=5 * SECOND + backoff).contains(&hour), "{hour:?}");
    let none: [&'static [_]; 3] =
        [&[("retry-after", "0")], &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], &[("retry-after", "soon")]];
    for headers in none {
        let wait = wait_after(headers).await;
        assert!(wait <= backoff && !wait.is_zero(), "{headers:?}: {wait:?}");
    }
    assert_eq!(wait_after(&[("retry-after", "3")]).await, 3 * SECOND);
}

/// The answers to a batch of `publish`, `publish` and `publish`, where the server gives `json` or `protobuf`.
async fn batch(
    over: Over,
    json: &'static str,
    protobuf: &'static [u8],
) -> (Result<BatchReplies, Error>, [Got; 3], u64) {
    let server = Server::start().await.unwrap();
    let (config, raw) = match over {
        Over::Grpc => (Config::grpc(server.grpc_url()), protobuf),
        Over::Http => (Config::http(server.http_url()), json.as_bytes()),
    };
    server.fault(Fault::raw_reply(raw).method(Method::Batch));
    let client = Client::new(config.retry(quick_retry())).unwrap();
    let mut batch = Batch::new().idempotency_keys(true);
    let handles = [(); 3].map(|()| batch.push(request()));
    let replies = within(5 * SECOND, client.batch(&batch)).await;
    let got = handles.map(|handle| match &replies {
        Ok(replies) => replies.get(handle).map(|result| result.offset).map_err(|error| (error.kind(), error.outcome())),
        Err(error) => Err((error.kind(), error.outcome())),
    });
    assert_eq!(server.calls().len(), 1, "{over:?}");
    (replies, got, server.applied("news"))
}

type Got = Result<u64, (ErrorKind, Outcome)>;

#[tokio::test]
async fn a_batch_with_more_or_fewer_answers_than_commands_is_unknown_as_a_whole() {
    let fewer =
        (r#"{"replies":[{"publish":{"offset":7}},{"publish":{}}]}"#, &b"\x0a\x04\x22\x02\x08\x07\x0a\x02\x22\0"[..]);
    let more = (
        r#"{"replies":[{"publish":{}},{"publish":{}},{"publish":{}},{"publish":{}}]}"#,
        &b"\x0a\x02\x22\0\x0a\x02\x22\0\x0a\x02\x22\0\x0a\x02\x22\0"[..],
    );
    let none = (r#"{"replies":[]}"#, &b""[..]);
    for over in BOTH {
        for (json, protobuf) in [fewer, more, none] {
            let (replies, _, applied) = batch(over, json, protobuf).await;
            assert_error(&replies.unwrap_err(), ErrorKind::Protocol, Outcome::Unknown, 1);
            assert_eq!(applied, 3);
        }
    }
}

#[tokio::test]
async fn an_empty_answer_in_a_batch_or_one_to_another_method_is_that_of_its_command_only() {
    let empty = (
        r#"{"replies":[{"publish":{"offset":7}},{},{"publish":{"offset":9}}]}"#,
        &b"\x0a\x04\x22\x02\x08\x07\x0a\0\x0a\x04\x22\x02\x08\x09"[..],
    );
    let another = (
        r#"{"replies":[{"publish":{"offset":7}},{"broadcast":{}},{"publish":{"offset":9}}]}"#,
        &b"\x0a\x04\x22\x02\x08\x07\x0a\x02\x2a\0\x0a\x04\x22\x02\x08\x09"[..],
    );
    for over in BOTH {
        for (json, protobuf) in [empty, another] {
            let (replies, got, _) = batch(over, json, protobuf).await;
            replies.unwrap();
            assert_eq!(got, [Ok(7), Err((ErrorKind::Protocol, Outcome::Unknown)), Ok(9)], "{over:?} {json}");
        }
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_batch_shifts_no_answer() {
    let server = Server::start().await.unwrap();
    for config in [Config::grpc(server.grpc_url()), Config::http(server.http_url())] {
        let before = server.applied("news");
        let client = Client::new(config.retry(quick_retry())).unwrap();
        let mut batch = Batch::new();
        let first = batch.push(request());
        let wrong = batch.push(PublishRequest::new("nowhere:a", json!(1)));
        let last = batch.push(request());
        let replies = within(5 * SECOND, client.batch(&batch)).await.unwrap();
        let offsets = [replies.get(first).unwrap().offset, replies.get(last).unwrap().offset];
        assert_eq!(offsets, [before + 1, before + 2]);
        let error = replies.get(wrong).unwrap_err();
        assert_eq!((error.code(), error.outcome()), (Some(ApiError::UNKNOWN_CHANNEL), Outcome::Refused), "{error:?}");
        assert_eq!(server.applied("news"), before + 2);
    }
}

/// How an answer goes on without an end.
#[derive(Clone, Copy, Debug)]
enum Endless {
    /// The same bytes again and again, as fast as they go.
    Fast(&'static str),
    /// The same bytes, a few of them a second.
    Slow(&'static str),
    Nothing,
}

/// Answers with `head` and what never ends, and counts the bytes.
fn endless(head: Vec<u8>, endless: Endless, written: &Arc<AtomicUsize>) -> crate::support::tally::Server {
    let written = Arc::clone(written);
    h1script::start(move |mut connection: Connection| {
        let (head, written) = (head.clone(), Arc::clone(&written));
        async move {
            connection.request().await?;
            connection.write(&head).await?;
            loop {
                let (bytes, pause) = match endless {
                    Endless::Fast(bytes) => (bytes.repeat(4096 / bytes.len()), Duration::ZERO),
                    Endless::Slow(bytes) => (bytes.to_owned(), Duration::from_millis(50)),
                    Endless::Nothing => return connection.ignore().await,
                };
                connection.write(bytes.as_bytes()).await?;
                written.fetch_add(bytes.len(), Ordering::Relaxed);
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    })
}

#[tokio::test]
async fn an_answer_without_an_end_ends_within_the_deadline_and_in_bounded_memory() {
    use Endless::{Fast, Nothing, Slow};
    use ErrorKind::{Protocol, Timeout, TooLarge, Unavailable};

    /// A chunk of 256 bytes.
    const CHUNK: &str = concat!(
        "100\r\n",
        "                                                                ",
        "                                                                ",
        "                                                                ",
        "                                                                ",
        "\r\n"
    );

    // What the client may take in, and what the kernel may hold besides.
    const LIMIT: usize = (1 << 20) + (32 << 20);
    let chunked = |status| head(status, &[("transfer-encoding", "chunked")]);
    let long = |status| head(status, &[("content-length", "99999999999")]);
    let line = || b"HTTP/1.1 200 OK\r\n".to_vec();
    let cases: [(&str, Vec<u8>, Endless, &[ErrorKind]); 15] = [
        ("an announced length", long(200), Nothing, &[TooLarge]),
        ("an announced length of spaces", long(200), Fast(" "), &[TooLarge]),
        ("chunks", chunked(200), Fast(CHUNK), &[TooLarge]),
        ("small chunks", chunked(200), Fast("1\r\n \r\n"), &[TooLarge, Timeout]),
        ("slow chunks", chunked(200), Slow("1\r\n \r\n"), &[Timeout]),
        ("no length", head(200, &[("connection", "close")]), Fast(" "), &[TooLarge]),
        ("a chunk without a size", chunked(200), Fast("0"), &[Timeout, Protocol, ErrorKind::Lost]),
        ("headers", line(), Fast("x-more: and more\r\n"), &[Protocol]),
        ("slow headers", line(), Slow("x-more: and more\r\n"), &[Timeout]),
        ("one header", b"HTTP/1.1 200 OK\r\nx: ".to_vec(), Fast("x"), &[Protocol]),
        ("promises", Vec::new(), Fast("HTTP/1.1 100 Continue\r\n\r\n"), &[Timeout]),
        ("an error page", chunked(503), Fast("4\r\n    \r\n"), &[Unavailable]),
        ("a slow error page", chunked(503), Slow("1\r\n \r\n"), &[Timeout, Unavailable]),
        ("an announced error page", long(503), Fast(" "), &[Unavailable]),
        ("nothing", Vec::new(), Nothing, &[Timeout]),
    ];
    for (what, head, end, kinds) in cases {
        let written = Arc::default();
        let server = endless(head, end, &written);
        let config = Config::http(server.api_url()).max_reply_size(1 << 20).retry(Retry::off());
        // What ends by its size may take a busy machine its time.
        let deadline = if kinds.contains(&Timeout) { SECOND } else { 10 * SECOND };
        let client = Client::new(config.timeout(deadline)).unwrap();
        let error = within(deadline + 2 * SECOND, client.publish(request())).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{what}: {error:?}");
        assert_eq!(server.tally.arrived().len(), 1, "{what}");
        let written = written.load(Ordering::Relaxed);
        // What comes before the answer is dropped as it is read, however much it is.
        assert!(written <= LIMIT || what == "promises", "{what}: {written} bytes were taken");
    }
}
