//! The text of an error tells its cause, and nothing that differs from one call to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::{Client, Config, Error, Retry};

use crate::support::authority::Authority;
use crate::support::servers::ClosedPort;
use crate::support::tls_peers::{Flaw, Peer};
use crate::support::{BOTH, Over, h1script, h2script, publish, start};

/// How long the calls are away from each other that come one after the other.
const APART: Duration = Duration::from_millis(7);

/// Asserts that many calls, one after the other and at once, fail with one text for each outcome: one if the server was asked, and one
/// if it is left out.
async fn assert_one_text(config: impl Into<Config>) {
    let client = Client::new(config.into().retry(Retry::new().attempts(1))).unwrap();
    let mut texts = BTreeMap::<_, BTreeSet<String>>::new();
    let mut collect = |error: Error| {
        let situation = (error.outcome().name(), error.message().contains("in backoff"));
        texts.entry(situation).or_default().insert(error.to_string());
    };
    for _ in 0..10 {
        collect(publish(&client).await.unwrap_err());
        tokio::time::sleep(APART).await;
    }
    let at_once = (0..10).map(|_| client.clone());
    let at_once: Vec<_> = at_once.map(|client| tokio::spawn(async move { publish(&client).await })).collect();
    for publishing in at_once {
        collect(publishing.await.unwrap().unwrap_err());
    }
    assert!(texts.values().all(|texts| texts.len() == 1), "{texts:#?}");
}

#[tokio::test]
async fn a_refused_connection_has_one_text() {
    let closed = ClosedPort::new();
    for over in BOTH {
        assert_one_text(over.config_at(&closed.url())).await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_has_one_text() {
    for flaw in Flaw::FATAL {
        let authority = Authority::new();
        let peer = Peer::with(flaw, &authority);
        for over in BOTH {
            let tls = Tls::new().ca_certificates(authority.pem());
            assert_one_text(over.config_at(&peer.https_url()).tls(tls)).await;
        }
    }
}

#[tokio::test]
async fn a_page_with_the_number_of_the_request_has_one_text() {
    let server = h1script::replying(|request| {
        let id = 31_415_926 * (request.number + 1);
        let page = format!("<title>Blocked</title> Your support ID is {id}, {}:{id}", "9a".repeat(request.number));
        h1script::Reply::with(403, &[("content-type", "text/html")], page.as_bytes())
    });
    assert_one_text(Config::http(server.api_url())).await;
}

#[tokio::test]
async fn a_connection_that_ends_has_one_text() {
    let http = h1script::start(|mut connection| async move {
        connection.request().await?;
        connection.reset()
    });
    assert_one_text(Config::http(http.api_url())).await;
    let grpc = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.reset()
    });
    assert_one_text(Config::grpc(grpc.url())).await;
}

#[tokio::test]
async fn a_response_that_does_not_come_has_one_text() {
    let deadline = Duration::from_millis(60);
    let silent = h1script::start(|mut connection| async move { connection.ignore().await });
    assert_one_text(Config::http(silent.api_url()).timeout(deadline).max_connections(2)).await;
    assert_one_text(Config::grpc(silent.url()).timeout(deadline)).await;
    assert_one_text(Config::grpc(silent.url()).connect_timeout(deadline)).await;
    let server = start().await;
    for over in [Over::Grpc, Over::Http] {
        server.fault(centrifugo_api::testing::Fault::hang_after().always());
        assert_one_text(over.config(&server).timeout(deadline)).await;
    }
}

#[tokio::test]
async fn a_name_without_an_address_has_one_text() {
    for over in BOTH {
        let config = over.config_at("http://centrifugo.invalid:1");
        let unknown = || async { Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such name")) };
        assert_one_text(config.resolver(move |_| unknown())).await;
    }
}
