//! The table of `docs/errors.md`, row by row: each cell names a failure, and here it is provoked on a server.

use std::collections::BTreeSet;
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::message::ConnectionsRequest;
use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{
    ApiError, Batch, BroadcastRequest, Client, Config, Error, ErrorKind, HistoryRequest, Outcome, Payload,
    PublishRequest, Publisher, PublisherConfig,
};

use crate::support::authority::Authority;
use crate::support::backlog::Backlog;
use crate::support::servers::ClosedPort;
use crate::support::{BOTH, Over, client_replying, h1script, h2script, scripted, start, until};

const TABLE: &str = include_str!("../../../docs/errors.md");

/// The rows of the table: over gRPC, over HTTP, kind, outcome.
fn rows() -> Vec<[String; 4]> {
    let table = TABLE.lines().skip_while(|line| !line.starts_with("| over gRPC | over HTTP |"));
    table
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            cells.try_into().expect("a row has four cells")
        })
        .collect()
}

/// A client without retries, which would show the error of the last attempt, or none.
fn config(over: Over, server: &Server) -> Config {
    over.config(server).retry(None)
}

fn client(over: Over, server: &Server) -> Client {
    Client::new(config(over, server)).unwrap()
}

fn request() -> PublishRequest {
    PublishRequest::new("news", Payload::raw_json(r#"{"text":"hello"}"#).unwrap())
}

/// The error of a publish when `fault` happens to it.
async fn publish_with(over: Over, fault: Fault) -> Error {
    let server = start().await;
    server.fault(fault);
    client(over, &server).publish(request()).await.unwrap_err()
}

fn grpc_code(name: &str) -> Option<i32> {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    names.iter().position(|known| *known == name).map(|code| i32::try_from(code).unwrap())
}

/// The error of a history call whose response is over a limit, compressed or not.
async fn long_history(over: Over, limited: impl FnOnce(&Server) -> Config) -> Error {
    let server = start().await;
    for _ in 0..20 {
        client(over, &server).publish(request()).await.unwrap();
    }
    let client = Client::new(limited(&server)).unwrap();
    client.history(HistoryRequest::new("news").limit(HistoryRequest::NO_LIMIT)).await.unwrap_err()
}

/// The error of a broadcast that failed in some of its channels.
async fn broadcast_to(over: Over, channels: [&str; 2]) -> Error {
    let server = start().await;
    let request = BroadcastRequest::new(channels, serde_json::json!({"text": "hello"}));
    client(over, &server).broadcast(request).await.unwrap().all_ok().unwrap_err()
}

async fn connection_refused(over: Over) -> Error {
    let closed = ClosedPort::new();
    let config = over.config_at(&closed.url());
    Client::new(config.retry(None)).unwrap().publish(request()).await.unwrap_err()
}

/// The error of a publish to a server where connecting hangs.
async fn connecting_hangs(over: Over) -> Error {
    let backlog = Backlog::fill().await;
    let config = over.config_at(&backlog.url());
    let config = config.connect_timeout(Duration::from_millis(100)).retry(None);
    Client::new(config).unwrap().publish(request()).await.unwrap_err()
}

/// The error of a publish to a server whose certificate is of an authority that the client does not know.
async fn not_trusted(over: Over) -> Error {
    let identity = Authority::new().issue("127.0.0.1");
    let server = Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let trust = Tls::new().ca_certificates(Authority::new().pem());
    Client::new(config(over, &server).tls(trust)).unwrap().publish(request()).await.unwrap_err()
}

/// The error of a publish that the server says it did not process as it ends the connection, as it does every time.
async fn sent_away() -> Error {
    let server = h2script::start(|mut connection| async move {
        connection.request().await?;
        connection.goaway(0, h2script::NO_ERROR, b"").await?;
        connection.finish().await
    });
    let client = Client::new(Config::grpc(server.url()).retry(None)).unwrap();
    client.publish(request()).await.unwrap_err()
}

/// The error of a publish that is applied and cancelled before its response.
async fn closed_while_it_runs(over: Over) -> Error {
    let server = start().await;
    server.fault(Fault::hang_after());
    let client = client(over, &server);
    let running = client.clone();
    let publishing = tokio::spawn(async move { running.publish(request()).await });
    until(|| server.applied("news") > 0).await;
    assert_eq!(client.close(Duration::ZERO).await.unknown, 1);
    publishing.await.unwrap().unwrap_err()
}

/// The error of a publish to a server that responds with these headers and this page.
async fn responded_to(over: Over, status: u16, headers: &[(&str, &str)], page: &'static str) -> Error {
    let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let server = match over {
        Over::Http => h1script::replying(move |_| {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            h1script::Reply::with(status, &headers, page.as_bytes())
        }),
        Over::Grpc => h2script::start(move |mut connection| {
            let (headers, status) = (headers.clone(), status.to_string());
            async move {
                let request = connection.request().await?;
                let mut head: Vec<(&[u8], &[u8])> = vec![(b":status", status.as_bytes())];
                head.extend(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
                connection.reply(&request, &h2script::Reply::default().headers(&head, 0)).await?;
                connection.send(h2script::DATA, h2script::END_STREAM, request.stream, page.as_bytes()).await?;
                connection.ignore().await
            }
        }),
    };
    let config = over.config_at(&server.url()).retry(None);
    Client::new(config).unwrap().publish(request()).await.unwrap_err()
}

/// The error of a publish in clear text to what speaks TLS and says so.
async fn clear_text_to_tls(over: Over) -> Error {
    let server = h1script::start(|mut connection| async move {
        connection.first_byte().await?;
        let said = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        connection.write(said).await?;
        connection.finish().await
    });
    let config = over.config_at(&server.url()).retry(None);
    Client::new(config).unwrap().publish(request()).await.unwrap_err()
}

/// The error of a publish over TLS to what speaks none.
async fn tls_to_clear_text(over: Over) -> Error {
    let server = start().await;
    let url = over.url(&server).replace("http://", "https://").replace("/api", "");
    let config = over.config_at(&url).tls(Tls::new().danger_skip_verification()).retry(None);
    Client::new(config).unwrap().publish(request()).await.unwrap_err()
}

/// Makes the failure happen that a cell of the table names.
#[allow(clippy::too_many_lines, reason = "a few lines for each row of the table")]
async fn provoke(over: Over, cell: &str) -> Error {
    if let Some((_, code)) = cell.split_once(" with `error` ") {
        return publish_with(over, Fault::api_error(ApiError::new(code.parse().unwrap(), "said the server"))).await;
    }
    if let Ok(status) = cell.parse() {
        return publish_with(over, Fault::http_status(status)).await;
    }
    let (name, text) = cell.split_once(' ').unwrap_or((cell, "said the server"));
    if let Some(code) = grpc_code(name) {
        return publish_with(over, Fault::grpc_status(code, text.trim_matches('"'))).await;
    }
    match cell {
        "a status with API error 102 in its details" | "its status with API error 102 as the body" => {
            let server = Server::builder().error_mode_transport().start().await.unwrap();
            client(over, &server).publish(PublishRequest::new("nowhere:a", request().data)).await.unwrap_err()
        }
        "a status with API error 100 in its details" | "its status with API error 100 as the body" => {
            let server = Server::builder().error_mode_transport().start().await.unwrap();
            server.fault(Fault::api_error(ApiError::new(100, "internal server error")));
            client(over, &server).publish(request()).await.unwrap_err()
        }
        "104 in a batch, but for `rpc`" => {
            let server = start().await;
            let mut batch = Batch::new();
            let connections = batch.push(ConnectionsRequest::new());
            client(over, &server).batch(&batch).await.unwrap().get(connections).unwrap_err()
        }
        "a response that is no protobuf message" => publish_with(over, Fault::raw_reply(&b"\xff\xff"[..])).await,
        "a response that is not JSON" => publish_with(over, Fault::raw_reply(&b"<html>"[..])).await,
        "no `result` and no `error`" => {
            let nothing = if over == Over::Grpc { &b""[..] } else { &b"{}"[..] };
            publish_with(over, Fault::raw_reply(nothing)).await
        }
        "no code in `error`" => {
            let nothing = if over == Over::Grpc { &[0x0a, 0][..] } else { &br#"{"error":{},"result":{}}"#[..] };
            publish_with(over, Fault::raw_reply(nothing)).await
        }
        "some channels of a broadcast failed, with `all_ok`" => broadcast_to(over, ["news", "nope:a"]).await,
        "every channel of a broadcast is refused, with `all_ok`" => broadcast_to(over, ["nope:b", "nope:a"]).await,
        "a reply over `max_reply_size`" => long_history(over, |server| config(over, server).max_reply_size(100)).await,
        "a compressed reply over `max_reply_size`" => {
            let limited = |server: &Server| Config::grpc(server.grpc_url()).max_reply_size(200).gzip(true).into();
            long_history(over, limited).await
        }
        "a request over `max_request_size`" => {
            let server = start().await;
            let client = Client::new(config(over, &server).max_request_size(16)).unwrap();
            let error = client.publish(request()).await.unwrap_err();
            assert!(server.calls().is_empty(), "it was sent");
            error
        }
        "nobody listens" => connection_refused(over).await,
        "no connection within `connect_timeout`" => connecting_hangs(over).await,
        "the certificate is not trusted" => not_trusted(over).await,
        "a GOAWAY that leaves the call out" => sent_away().await,
        "headers over the limit" => responded_to(over, 200, &vec![("x-policy", &*"y".repeat(100)); 600], "").await,
        "a `content-encoding` that was not asked for" => {
            responded_to(over, 200, &[("content-encoding", "br")], "").await
        }
        "a proxy wants a client certificate" => {
            responded_to(over, 400, &[], "<h1>400 No required SSL certificate was sent</h1>").await
        }
        "clear text sent to a port for TLS" => clear_text_to_tls(over).await,
        "TLS at a port for clear text" => tls_to_clear_text(over).await,
        "a result with a field of the wrong type" => {
            // An offset that is a string.
            let wrong =
                if over == Over::Grpc { &[0x12, 3, 0x0a, 1, b'x'][..] } else { &br#"{"result":{"offset":"x"}}"#[..] };
            publish_with(over, Fault::raw_reply(wrong)).await
        }
        "the server does not speak HTTP/2" => {
            let server = start().await;
            let to_http = server.http_url().replace("/api", "");
            let client = Client::new(Config::grpc(to_http).retry(None)).unwrap();
            client.publish(request()).await.unwrap_err()
        }
        "a response that ends before its status" => {
            let server = h2script::replying(|_| h2script::Reply::cut(h2script::NO_ERROR));
            Client::new(Config::grpc(server.url()).retry(None)).unwrap().publish(request()).await.unwrap_err()
        }
        "a response that is cut off" => {
            let server = h1script::start(|mut connection| async move {
                let request = connection.request().await?;
                connection.reply(&request, &h1script::Reply::result().without_last(1)).await?;
                connection.finish().await
            });
            let config = Config::http(server.api_url()).retry(None);
            Client::new(config).unwrap().publish(request()).await.unwrap_err()
        }
        "a reset with REFUSED_STREAM" => {
            let client = Client::new(Config::grpc(scripted::grpc_refusing().await).retry(None)).unwrap();
            client.publish(request()).await.unwrap_err()
        }
        "a `bearer_token` that cannot be had" => {
            let config = config(over, &start().await).bearer_token(|| async { Err("no".into()) });
            Client::new(config).unwrap().publish(request()).await.unwrap_err()
        }
        "the client is closed before the call" => {
            let client = client(over, &start().await);
            client.close(Duration::ZERO).await;
            client.publish(request()).await.unwrap_err()
        }
        "the publisher's capacity is used up" => {
            let client = client(over, &start().await);
            let publisher = Publisher::new(&client, PublisherConfig::new().max_messages(1)).unwrap();
            let _room = publisher.try_enqueue(request()).unwrap();
            publisher.try_enqueue(request()).unwrap_err()
        }
        "the client is closed while the call runs" => closed_while_it_runs(over).await,
        "the connection ends before the response" => publish_with(over, Fault::cut_after()).await,
        "the deadline passes before the request is sent" => {
            let server = start().await;
            let waiting_for_ever = config(over, &server).bearer_token(std::future::pending);
            let client = Client::new(waiting_for_ever.timeout(Duration::from_millis(1))).unwrap();
            let error = client.publish(request()).await.unwrap_err();
            assert_eq!(server.applied("news"), 0);
            error
        }
        "the deadline passes after the request is sent" => {
            let server = start().await;
            server.fault(Fault::hang_after());
            let client = client(over, &server);
            let publishing = tokio::spawn(async move { client.publish(request()).await });
            until(|| server.applied("news") > 0).await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(11)).await;
            let error = publishing.await.unwrap().unwrap_err();
            tokio::time::resume();
            error
        }
        other => panic!("the table names a failure that no test provokes: {other}"),
    }
}

#[tokio::test]
async fn every_row_of_the_table_is_true() {
    let mut kinds = BTreeSet::new();
    for [grpc, http, kind, outcome] in rows() {
        for (over, cell) in [(Over::Grpc, grpc), (Over::Http, http)] {
            if cell.is_empty() {
                continue;
            }
            let error = Box::pin(provoke(over, &cell)).await;
            assert_eq!(format!("{:?}", error.kind()), kind, "{cell}: {error:?}");
            assert_eq!(error.outcome().name().replace('_', " "), outcome, "{cell}: {error:?}");
            let may_have_run = matches!(error.outcome(), Outcome::Unknown | Outcome::Done);
            assert_eq!(error.may_have_run(), may_have_run, "{cell}: {error:?}");
            // The parts of a call that failed may have gone to several endpoints.
            let is_placed = error.transport().is_some() && error.endpoint().is_some();
            assert!(error.method().is_some() && is_placed != (error.kind() == ErrorKind::Partial), "{error:?}");
            kinds.insert(error.kind().name());
        }
    }
    assert_eq!(kinds, ErrorKind::ALL.iter().map(|kind| kind.name()).collect(), "a kind has no row");
}

#[tokio::test]
async fn an_error_says_what_happened_where_and_what_to_do() {
    let server = start().await;
    for over in BOTH {
        let error = client(over, &server).publish(PublishRequest::new("nowhere:a", request().data)).await.unwrap_err();
        let (name, endpoint) = (over.name(), over.url(&server));
        assert_eq!(
            error.to_string(),
            format!(
                "publish over {name} to {endpoint}: error 102 (unknown channel); it did not take effect; \
                 configure the channel's namespace on the server, or correct the channel's name"
            )
        );
    }
}

#[tokio::test]
async fn details_that_are_no_base64_are_an_error_and_not_a_panic() {
    // The last has bits set that belong to no byte, which tonic takes for no base64 either.
    for details in ["not base64!", "A", "AB"] {
        let bad = Fault::grpc_status(13, "broken").header("grpc-status-details-bin", details);
        let error = publish_with(Over::Grpc, bad).await;
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    }
}

#[tokio::test]
async fn an_error_without_a_code_in_the_details_is_none_of_the_api() {
    // A `google.rpc.Status` around an `Any` without a value.
    let mut any = Vec::new();
    prost::encoding::string::encode(1, &"type.googleapis.com/centrifugal.centrifugo.api.Error".to_owned(), &mut any);
    let mut details = Vec::new();
    prost::encoding::bytes::encode(3, &any, &mut details);
    let url = scripted::grpc(14, "going away", Some(&details)).await;
    let error = Client::new(Config::grpc(url)).unwrap().publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, None), "{error:?}");
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_an_error_when_given_as_json_too() {
    let client = client_replying(centrifugo_api::transport::Reply::json(
        r#"{"error":{"code":111,"message":"too many requests"}}"#,
    ));
    let result = client.call_json::<serde_json::Value>("batch", serde_json::json!({"commands": []})).await;
    let error = result.unwrap_err();
    assert_eq!((error.code(), error.may_have_run()), (Some(111), false), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = start().await;
    let server = start().await;
    // The first three turn the call into a GET, which has no body to replay, so nothing but the policy stops them.
    for status in [301, 302, 303, 307, 308] {
        server.fault(Fault::http_status(status).header("location", format!("{}/publish", elsewhere.http_url())));
        let error = client(Over::Http, &server).publish(request()).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Protocol, false), "{status}: {error:?}");
    }
    assert!(elsewhere.calls().is_empty());
}

#[tokio::test]
async fn an_error_and_its_causes_show_no_key_no_token_and_no_payload() {
    let server = Server::builder().api_key("other").start().await.unwrap();
    for over in BOTH {
        let secretive = [
            config(over, &server).api_key("sesame"),
            config(over, &server).bearer_token(|| async { Ok("sesame".to_owned()) }),
            config(over, &server).bearer_token(|| async { Ok("sesame\n".to_owned()) }),
            config(over, &server).header("x-tenant", "sesame"),
        ];
        for config in secretive {
            assert!(!format!("{config:?}").contains("sesame"));
            let client = Client::new(config).unwrap();
            let request = PublishRequest::new("news", serde_json::json!("sesame"));
            let error = client.publish(&request).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
            assert!(!format!("{error} {error:?} {client:?} {request:?}").contains("sesame"));
        }
    }
}

#[tokio::test]
async fn the_page_of_a_proxy_is_not_taken_for_an_error_of_the_api() {
    let pages = [
        (504, r#"{"code":504,"message":"Gateway Timeout"}"#, ErrorKind::Timeout),
        (502, r#"{"code":14,"message":"connection refused","details":[]}"#, ErrorKind::Unavailable),
        (404, r#"{"code":5,"message":"Not Found"}"#, ErrorKind::Unsupported),
    ];
    for (status, page, kind) in pages {
        let error = publish_with(Over::Http, Fault::http_status(status).body(page)).await;
        assert_eq!((error.kind(), error.code()), (kind, None), "{error:?}");
        assert_eq!(error.may_have_run(), status != 404, "{error:?}");
    }
    // Whatever a code says that is not known here, it proves nothing.
    let error = publish_with(Over::Http, Fault::http_status(500).body(r#"{"code":777,"message":"new"}"#)).await;
    assert_eq!((error.kind(), error.code(), error.may_have_run()), (ErrorKind::Api, Some(777), true));
}

#[tokio::test]
async fn the_timeout_of_a_given_reqwest_client_is_a_timeout() {
    let server = start().await;
    server.fault(Fault::hang_after());
    // With the feature `tls` reqwest needs a provider, used or not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = reqwest::Client::builder().timeout(Duration::from_millis(100)).build().unwrap();
    let client = Client::new(Config::http(server.http_url()).retry(None).reqwest_client(own)).unwrap();
    let error = client.publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Timeout, true), "{error:?}");
}

#[tokio::test]
async fn a_status_without_a_name_is_told_as_its_number() {
    let error = publish_with(Over::Http, Fault::http_status(522)).await;
    assert_eq!(error.message(), "the server returned HTTP status 522");
}
