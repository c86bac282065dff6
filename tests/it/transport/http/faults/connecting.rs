//! Endpoints over HTTP that cannot be reached or are not trusted.

use std::time::Duration;

use centrifugo_api::config::{Http, LoadBalancing, Tls};
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, ErrorKind, Outcome, PublishRequest};
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::h2script::{self, REFUSED_STREAM};
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{SECOND, assert_error, publish, quick_retry, request, servers::ClosedPort, within};

#[tokio::test]
async fn after_a_refused_connection_the_next_endpoint_is_tried_at_once() {
    let (closed, server) = (ClosedPort::new(), Server::start().await.unwrap());
    let config = || Config::http(format!("{}/api", closed.url())).load_balancing(LoadBalancing::Priority).retry(None);
    let alone = Client::new(config()).unwrap();
    let error = within(SECOND, alone.publish(request())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);
    assert_eq!(error.endpoint(), Some(&format!("{}/api", closed.url())[..]));

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
    let config = config.load_balancing(LoadBalancing::Priority).retry(None).timeout(SECOND / 2);
    let client = Client::new(config.reqwest_client(http2.build().unwrap())).unwrap();
    let error = publish(&client).await.unwrap_err();
    assert_error(&error, ErrorKind::Timeout, Outcome::NotSent, 1);
    assert_eq!(error.endpoint(), Some(&format!("{}/api", silent.url())[..]));
    assert_eq!((refusing.tally.arrived().len(), refusing.tally.applied().len()), (1, 0));
}

#[tokio::test]
async fn a_hanging_connect_ends_at_its_timeout_and_the_next_endpoint_is_tried() {
    let (backlog, server) = (Backlog::fill().await, Server::start().await.unwrap());
    let config = || {
        let first = Config::http(format!("{}/api", backlog.url())).load_balancing(LoadBalancing::Priority).retry(None);
        first.connect_timeout(Duration::from_millis(300))
    };
    fails_and_tries_the_next(config, &server).await;
}

#[tokio::test]
async fn a_hanging_handshake_ends_at_its_timeout_and_the_next_endpoint_is_tried() {
    let authority = Authority::new();
    let (silent, identity) = (Peer::with(Flaw::Silent, &authority), authority.issue("127.0.0.1"));
    let server = Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let config = || {
        let first = Config::http(format!("{}/api", silent.https_url())).load_balancing(LoadBalancing::Priority);
        let trust = Tls::new().ca_certificates(authority.pem());
        first.tls(trust).connect_timeout(Duration::from_millis(300)).retry(None)
    };
    fails_and_tries_the_next(config, &server).await;
}

/// Asserts that a call fails to connect, and succeeds with `server` as the second endpoint.
async fn fails_and_tries_the_next(config: impl Fn() -> Config<Http>, server: &Server) {
    let error = within(2 * SECOND, Client::new(config()).unwrap().publish(request())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, 1);

    let client = Client::new(config().endpoint(server.http_url())).unwrap();
    within(2 * SECOND, client.publish(request())).await.unwrap();
    assert_eq!(server.applied("news"), 1);
}

#[tokio::test]
async fn one_dead_endpoint_of_three_fails_no_call() {
    let (closed, one, other) = (ClosedPort::new(), Server::start().await.unwrap(), Server::start().await.unwrap());
    let config = Config::http(format!("{}/api", closed.url())).endpoint(one.http_url()).endpoint(other.http_url());
    let client = Client::new(config.retry(None)).unwrap();
    for _ in 0..1000 {
        publish(&client).await.unwrap();
    }
    let applied = [&one, &other].map(|server| server.applied("news"));
    assert_eq!(applied.iter().sum::<u64>(), 1000);
    assert!(applied.iter().all(|applied| *applied > 200), "{applied:?}");
}

#[tokio::test]
async fn an_error_of_the_api_names_the_endpoint_that_responded() {
    let (closed, server) = (ClosedPort::new(), Server::start().await.unwrap());
    let config = Config::http(format!("{}/api", closed.url())).endpoint(server.http_url());
    let client = Client::new(config).unwrap();
    for _ in 0..10 {
        let error = client.publish(PublishRequest::new("nowhere:a", json!(1))).await.unwrap_err();
        assert_eq!((error.kind(), error.endpoint()), (ErrorKind::Api, Some(&server.http_url()[..])), "{error:?}");
    }
}

#[tokio::test]
async fn an_untrusted_certificate_is_named_and_permanent_and_no_clear_text_is_sent() {
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

        // The next call, which does not dial, has the same error.
        let error = publish(&client).await.unwrap_err();
        assert!(error.message().contains(cause) && !error.is_transient(), "{flaw:?}: {error:?}");
    }
}
