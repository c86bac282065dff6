//! Responses that make no sense, and servers that are not trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use centrifugo_api::config::Tls;
use centrifugo_api::transport::BreakerState;
use centrifugo_api::{Client, Config, ErrorKind, Outcome};

use super::{client, without_keys};
use crate::support::authority::Authority;
use crate::support::h2script::{self, CONTINUATION, END_STREAM, HEADERS, Reply};
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{AT_ONCE, applied, assert_error, h1script, publish_number, quick_retry, within};

#[tokio::test]
async fn a_malformed_status_is_an_error_and_the_connection_is_kept() {
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
async fn huge_headers_fail_their_call_only() {
    let huge = vec![b'x'; 1 << 20];
    let many: Vec<(&[u8], &[u8])> = vec![(b"x-one", b"of many"); 20_000];
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

/// Headers of so many bytes, as HTTP/2 counts them.
fn headers_of(bytes: usize) -> Vec<(&'static [u8], &'static [u8])> {
    const VALUE: &[u8] = &[b'y'; 1000 - 32 - 8];
    vec![(b"x-policy", VALUE); bytes / 1000]
}

#[tokio::test]
async fn long_headers_are_read_and_those_over_the_limit_are_named_and_not_retried() {
    let long = h2script::replying(|_| Reply::status_with(14, "busy", &headers_of(60_000)));
    let error = within(AT_ONCE, publish_number(&client(long.url(), without_keys()), 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, 1);
    let too_long = h2script::replying(|_| Reply::status_with(0, "", &headers_of(80_000)));
    let error = within(AT_ONCE, publish_number(&client(too_long.url(), quick_retry()), 0)).await.unwrap_err();
    assert_error(&error, ErrorKind::Protocol, Outcome::Unknown, 1);
    assert!(error.message().contains("over the limit of 65536 bytes"), "{error}");
    assert_eq!(too_long.tally.arrived().len(), 1);
}

#[tokio::test]
async fn endless_headers_are_read_up_to_a_limit() {
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
    assert!(error.message().contains("65536 bytes"), "{error}");
    within(AT_ONCE, publish_number(&client, 1)).await.unwrap();
    // What was read, and what the kernel keeps for both sides.
    assert!(sent.load(Ordering::SeqCst) < 32 << 20, "{sent:?} bytes");
}

#[tokio::test]
async fn an_untrusted_server_gets_no_request_and_leads_to_no_fallback_or_clear_text() {
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
async fn a_server_without_http2_over_tls_is_explained_and_leads_to_the_fallback() {
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
