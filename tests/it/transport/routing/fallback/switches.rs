//! Failures that switch calls from gRPC to HTTP, and the outcome of such calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::testing::Fault;
use centrifugo_api::transport::BreakerState as State;
use centrifugo_api::{Client, Config, ErrorKind, Outcome};

use super::{absent, becomes, calls, client, state};
use crate::support::authority::Authority;
use crate::support::h2script::{self, Reply};
use crate::support::proxy::{End, Proxy};
use crate::support::servers::ClosedPort;
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{SECOND, advance, h1script, publish, quick_retry, request, soon, start, until, within};

/// Publishes again and again, 8 at a time, while something else happens. Gives how often.
async fn publishing_while(client: &Client, happens: impl Future<Output = ()>) -> u64 {
    let stop = Arc::<AtomicBool>::default();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::SeqCst) {
                    publish(&client).await.unwrap();
                    done += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                done
            })
        })
        .collect();
    happens.await;
    stop.store(true, Ordering::SeqCst);
    let mut done = 0;
    for caller in callers {
        done += soon(caller).await.unwrap();
    }
    done
}

#[tokio::test]
async fn no_call_is_lost_or_doubled_in_a_fallback_and_return() {
    let server = start().await;
    let proxy = Proxy::to(server.grpc_addr());
    let config = Config::grpc(proxy.url()).fallback(Config::http(server.http_url())).retry(quick_retry());
    let client = Client::new(config).unwrap();
    let done = publishing_while(&client, async {
        tokio::time::sleep(SECOND / 5).await;
        proxy.refuse().await;
        proxy.cut(End::Rst);
        becomes(&client, State::Open).await;
        tokio::time::sleep(SECOND / 5).await;
        proxy.accept();
        // After the cool-down, in real time.
        becomes(&client, State::Closed).await;
        tokio::time::sleep(SECOND / 5).await;
    })
    .await;
    assert!(done > 100);
    assert_eq!(server.applied("news"), done);
    let (over_grpc, over_http) = calls(&server);
    assert!(over_grpc > 20 && over_http > 20, "{over_grpc}, {over_http}");
}

#[tokio::test]
async fn calls_fail_fast_when_both_transports_are_down() {
    let (grpc, http) = (ClosedPort::new(), ClosedPort::new());
    let config = Config::grpc(grpc.url()).fallback(Config::http(format!("{}/api", http.url()))).retry(None);
    let client = Client::new(config).unwrap();
    for _ in 0..20 {
        let error = within(SECOND, client.publish(request())).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent), "{error:?}");
    }
}

#[tokio::test]
async fn calls_stay_on_grpc_while_the_fallback_is_known_to_be_down() {
    let refuses = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuses);
    let script = h2script::replying(move |_| {
        if refusing.load(Ordering::SeqCst) {
            Reply::reset(h2script::REFUSED_STREAM)
        } else {
            Reply::status(14, "later")
        }
    });
    let http = ClosedPort::new();
    let config = Config::grpc(script.url()).fallback(Config::http(format!("{}/api", http.url())));
    let client = Client::new(config.retry(None)).unwrap();
    // The first goes over HTTP, which is down.
    let error = publish(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.transport()), (ErrorKind::Connect, Some("http")), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotSent);
    refuses.store(false, Ordering::SeqCst);
    // More than would be an outage.
    for _ in 0..10 {
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.transport()), (ErrorKind::Unavailable, Some("grpc")), "{error:?}");
    }
}

#[tokio::test]
async fn grpc_at_the_http_port_is_explained_and_opens_the_breaker_for_a_minute() {
    let server = start().await;
    // As the server's own HTTP port responds.
    let port = h1script::start(|mut connection| async move {
        connection.first_byte().await?;
        connection.write(&h1script::head(400, &[("connection", "close")])).await?;
        connection.finish().await
    });
    let http_port = || port.url();
    let alone = Client::new(Config::grpc(http_port()).retry(quick_retry())).unwrap();
    let error = within(SECOND, alone.publish(request())).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome(), error.attempts()),
        (ErrorKind::Connect, Outcome::NotSent, 1),
        "{error:?}"
    );
    assert!(error.message().contains("is this the port of its gRPC API?") && !error.is_transient(), "{error}");

    let client = client(http_port(), &server);
    within(SECOND, client.publish(request())).await.unwrap();
    assert_eq!((state(&client), server.applied("news")), (State::Open, 1));
    // A minute, a fifth more or less, and not the 5 s of an outage.
    let mut state = client.watch_breaker().unwrap();
    state.mark_unchanged();
    advance(45 * SECOND).await;
    publish(&client).await.unwrap();
    assert!(!state.has_changed().unwrap());
    advance(30 * SECOND).await;
    publish(&client).await.unwrap();
    soon(state.changed()).await.unwrap();
    becomes(&client, State::Open).await;
}

#[tokio::test]
async fn responses_that_mean_there_is_no_grpc_lead_to_http() {
    let words: [(&str, Reply); 4] = [
        ("an unknown service", Reply::status(12, "unknown service centrifugal.centrifugo.api.CentrifugoApi")),
        ("404", Reply::default().headers(&[(b":status", b"404")], h2script::END_STREAM)),
        ("405", Reply::default().headers(&[(b":status", b"405")], h2script::END_STREAM)),
        ("415", Reply::default().headers(&[(b":status", b"415")], h2script::END_STREAM)),
    ];
    for (what, reply) in words {
        let server = start().await;
        let script = h2script::replying(move |_| reply.clone());
        let client = client(script.url(), &server);
        publish(&client).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!((state(&client), server.applied("news")), (State::Open, 1), "{what}");
    }
    // Nor is there any behind a port for HTTP/1.1 over TLS.
    let (server, authority) = (start().await, Authority::new());
    let peer = Peer::with(Flaw::NoAlpn, &authority);
    let trust = Tls::new().ca_certificates(authority.pem());
    let config = Config::grpc(peer.https_url()).tls(trust).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(None)).unwrap();
    publish(&client).await.unwrap();
    assert_eq!((state(&client), peer.requests()), (State::Open, 0));
}

#[tokio::test]
async fn http_at_the_grpc_port_is_explained() {
    let server = start().await;
    let client = Client::new(Config::http(format!("http://{}/api", server.grpc_addr())).retry(None)).unwrap();
    let error = within(SECOND, client.publish(request())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Protocol), "{error:?}");
    assert!(error.message().contains("is this the port of the server's HTTP API?"), "{error}");
}

#[tokio::test]
async fn a_call_that_may_have_run_goes_over_http_only_with_a_key_and_has_one_effect() {
    let server = start().await;
    let proxy = Arc::new(Proxy::to(server.grpc_addr()));
    for (keys, effects) in [(false, 1), (true, 2)] {
        let client = || {
            let config = Config::grpc(proxy.url()).fallback(Config::http(server.http_url()));
            Client::new(config.retry(quick_retry().idempotency_keys(keys))).unwrap()
        };
        proxy.accept();
        proxy.heal();
        let client = client();
        // A connection is there; responses on it are lost from now on, and no other can be made.
        soon(client.info(centrifugo_api::message::InfoRequest::new())).await.unwrap();
        proxy.down(|lane| lane.stalled = true);
        proxy.refuse().await;
        let publishing = tokio::spawn(async move { publish(&client).await });
        until(|| server.applied("news") >= effects).await;
        server.clear_calls();
        proxy.cut(End::Rst);
        let published = publishing.await.unwrap();
        assert_eq!(published.is_ok(), keys, "{published:?}");
        if let Err(error) = published {
            assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{error:?}");
        }
        assert_eq!((calls(&server), server.applied("news")), ((0, usize::from(keys)), effects));
    }
}

#[tokio::test]
async fn a_call_that_was_not_sent_goes_over_http_without_a_key_or_a_retry() {
    let server = start().await;
    // Every connection is made, and ends when the first stream is opened.
    let script = h2script::start(|mut connection| async move {
        connection.opened().await?;
        connection.goaway(0, h2script::NO_ERROR, b"").await?;
        connection.finish().await
    });
    let client = client(script.url(), &server);
    for published in 1..=10 {
        publish(&client).await.unwrap();
        assert_eq!((server.applied("news"), calls(&server)), (published, (0, usize::try_from(published).unwrap())));
    }
    assert!(server.calls().iter().all(|call| call.request.get("idempotency_key").is_none()));
}

#[tokio::test]
async fn both_transports_share_one_budget_and_one_deadline() {
    let server = start().await;
    server.fault(Fault::grpc_status(14, "later").always());
    server.fault(Fault::http_status(503).always());
    let config = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
    let client = Client::new(config.retry(quick_retry().attempts(10))).unwrap();
    let mut said = false;
    for _ in 0..100 {
        let error = publish(&client).await.unwrap_err();
        said |= error.to_string().contains("retry budget is exhausted");
    }
    let (over_grpc, over_http) = calls(&server);
    assert!(said && over_http > 0);
    assert!(over_grpc + over_http <= 100 + 35, "{over_grpc} and {over_http}");

    let server = start().await;
    server.fault(Fault::hang_before().always());
    let config = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
    let retry = quick_retry().attempts(100).attempt_timeout(Some(Duration::from_millis(50)));
    let client = Client::new(config.timeout(SECOND).retry(retry)).unwrap();
    let error = within(2 * SECOND, client.publish(request())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let (over_grpc, over_http) = calls(&server);
    assert!(over_grpc > 0 && over_http > 0, "{over_grpc} and {over_http}");
}

#[tokio::test]
async fn calls_return_to_grpc_when_the_fallback_goes_down() {
    let server = start().await;
    let (grpc, http) = (absent(&server).await, Proxy::to(server.http_addr()));
    let config = Config::grpc(grpc.url()).fallback(Config::http(format!("{}/api", http.url()))).retry(None);
    let client = Client::new(config).unwrap();
    publish(&client).await.unwrap();
    assert_eq!(state(&client), State::Open);
    // Now gRPC is up and HTTP is down.
    grpc.accept();
    http.refuse().await;
    http.cut(End::Fin);
    advance(SECOND / 2).await;
    for _ in 0..5 {
        publish(&client).await.unwrap();
    }
    assert_eq!((calls(&server), server.applied("news")), ((5, 1), 6));
}
