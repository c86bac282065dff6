//! Statuses, waits that a server asks for, and responses that are none or never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::{Client, Config, ErrorKind, Outcome, Retry};

use super::without_keys;
use crate::support::h1script::{self, Connection, Reply, head};
use crate::support::{SECOND, assert_error, publish, quick_retry, request, within};

#[tokio::test]
async fn each_status_has_its_error_and_is_retried_only_where_safe_and_useful() {
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
async fn malformed_responses_are_unknown_and_not_retried() {
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
async fn retry_after_of_a_429_is_waited_for() {
    let server = h1script::replying(|request| match request.number {
        0 => Reply::with(429, &[("retry-after", "1")], b""),
        _ => Reply::result(),
    });
    // Nothing was applied, so it takes no key.
    let client = Client::new(Config::http(server.api_url()).retry(without_keys())).unwrap();
    publish(&client).await.unwrap();
    let arrived = server.tally.arrived();
    assert_eq!((arrived.len(), server.tally.applied().len()), (2, 1));
    let waited = arrived[1].at - arrived[0].at;
    assert!((SECOND..3 * SECOND).contains(&waited), "{waited:?}");
}

/// What the client says it waits after such a response, without waiting for it.
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
async fn retry_after_is_bounded_on_both_sides() {
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

/// How a response goes on without an end.
#[derive(Clone, Copy, Debug)]
enum Endless {
    /// The same bytes again and again, as fast as they go.
    Fast(&'static str),
    /// The same bytes, a few of them a second.
    Slow(&'static str),
    Nothing,
}

/// Responds with `head` and what never ends, and counts the bytes.
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
async fn an_endless_response_ends_within_the_deadline_and_in_bounded_memory() {
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
        let config = Config::http(server.api_url()).max_reply_size(1 << 20).retry(None);
        // What ends by its size may take a busy machine its time.
        let deadline = if kinds.contains(&Timeout) { SECOND } else { 10 * SECOND };
        let client = Client::new(config.timeout(deadline)).unwrap();
        let error = within(deadline + 2 * SECOND, client.publish(request())).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{what}: {error:?}");
        assert_eq!(server.tally.arrived().len(), 1, "{what}");
        let written = written.load(Ordering::Relaxed);
        // What comes before the response is dropped as it is read, however much it is.
        assert!(written <= LIMIT || what == "promises", "{what}: {written} bytes were taken");
    }
}
