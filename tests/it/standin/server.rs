//! The stand-in server as a test meets it: faults, records, keys, TLS, and its end.

use std::time::Duration;

use centrifugo_api::testing::{Fault, Namespace, Server, Transport};
use centrifugo_api::{ApiError, Client, ClientInfo, Config, Method, PublishRequest};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::raw::{self, Grpc, Page, Response};
use crate::support::{advance, until};

const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";

/// A publish into `a` of `{}`, as protobuf.
const PUBLISH: &[u8] = b"\x0a\x01a\x12\x02{}";

/// How long nothing has to come for a test to believe that nothing will.
const A_WHILE: Duration = Duration::from_millis(200);

async fn http(server: &Server, method: &str, body: &Value) -> Result<Page, String> {
    let path = format!("/api/{method}");
    raw::http(server.http_addr(), "POST", &path, &[], body.to_string()).await.map_err(|error| error.to_string())
}

async fn publish_http(server: &Server) -> Result<Page, String> {
    http(server, "publish", &json!({"channel": "a", "data": {}})).await
}

async fn publish_grpc(server: &Server) -> Result<Response, String> {
    let mut client = Grpc::connect(server.grpc_addr()).await.map_err(|error| error.to_string())?;
    let path = format!("{SERVICE}/Publish");
    client.call(&path, &[], PUBLISH, false).await.map_err(|error| error.to_string())
}

/// A position of offset 1, as the server writes it in protobuf: the epoch is eight letters.
fn is_first_position(response: &Response) -> bool {
    response.code == 0 && response.body.as_ref().is_some_and(|body| body.starts_with(b"\x12\x0c\x08\x01\x12\x08"))
}

#[tokio::test]
async fn a_server_needs_no_key_and_keeps_history_and_presence() {
    let server = Server::start().await.unwrap();
    assert_eq!(publish_http(&server).await.unwrap().status, 200);
    assert_eq!(publish_grpc(&server).await.unwrap().code, 0);
    assert_eq!(server.applied("a"), 2);
    let history = http(&server, "history", &json!({"channel": "a", "limit": -1})).await.unwrap();
    let history: Value = serde_json::from_slice(&history.body).unwrap();
    assert_eq!(history["result"]["publications"], json!([{"data": {}, "offset": 1}, {"data": {}, "offset": 2}]));
    assert_eq!(
        http(&server, "presence", &json!({"channel": "a"})).await.unwrap().body,
        r#"{"result":{"presence":{}}}"#
    );
}

#[tokio::test]
async fn a_delayed_call_is_applied_at_once() {
    /// Long beside what a call takes on a busy machine.
    const DELAY: Duration = Duration::from_secs(1);
    for transport in [Transport::Http, Transport::Grpc] {
        let server = Server::start().await.unwrap();
        server.fault(Fault::delay(DELAY).transport(transport));
        let begun = tokio::time::Instant::now();
        let watch = async {
            until(|| server.applied("a") > 0).await;
            begun.elapsed()
        };
        let applied = if transport == Transport::Http {
            let (applied, page) = tokio::join!(watch, publish_http(&server));
            assert_eq!(page.unwrap().status, 200);
            applied
        } else {
            let (applied, response) = tokio::join!(watch, publish_grpc(&server));
            assert!(is_first_position(&response.unwrap()));
            applied
        };
        let responded = begun.elapsed();
        assert!(applied < DELAY && responded >= DELAY, "{transport}: {applied:?}, {responded:?}");
    }
}

#[tokio::test]
async fn an_api_error_replaces_the_call() {
    let server = Server::start().await.unwrap();
    let mut error = ApiError::new(ApiError::TOO_MANY_REQUESTS, "slow <down>");
    error.temporary = true;
    server.fault(Fault::api_error(error).times(4));
    let page = publish_http(&server).await.unwrap();
    assert_eq!(page.status, 200);
    assert_eq!(page.body, r#"{"error":{"code":111,"message":"slow \u003cdown\u003e","temporary":true}}"#);

    let mode = [("x-centrifugo-error-mode", "transport")];
    let page = raw::http(server.http_addr(), "POST", "/api/publish", &mode, "{}").await.unwrap();
    assert_eq!((page.status.as_u16(), page.body.first()), (500, Some(&b'{')));

    let response = publish_grpc(&server).await.unwrap();
    assert_eq!(response.body.unwrap(), b"\x0a\x11\x08\x6f\x12\x0bslow <down>\x18\x01"[..]);

    let batch = json!({"commands": [{"publish": {"channel": "a", "data": 1}}, {}]});
    let page = http(&server, "batch", &batch).await.unwrap();
    let batch: Value = serde_json::from_slice(&page.body).unwrap();
    assert_eq!(batch["replies"][0]["error"]["code"], 111);
    assert_eq!(batch["replies"][1]["error"]["code"], 104);
    assert_eq!(server.applied("a"), 0);
    assert_eq!(publish_http(&server).await.unwrap().body[..10], *b"{\"result\":");
}

#[tokio::test]
async fn a_status_comes_only_over_its_transport() {
    let server = Server::start().await.unwrap();
    server.fault(Fault::http_status(503).header("retry-after", "7").header("content-type", "text/html").body("<b>"));
    server.fault(Fault::grpc_status(14, "gone\n100%").header("x-a", "b").body(&b"\x08\x0e"[..]));
    let response = publish_grpc(&server).await.unwrap();
    assert_eq!((response.code, response.message.as_str(), response.body), (14, "gone\n100%", None));
    assert_eq!(
        (&response.metadata["x-a"], &response.metadata["grpc-status-details-bin"]),
        (&"b".parse().unwrap(), &"CA4".parse().unwrap())
    );
    let page = publish_http(&server).await.unwrap();
    assert_eq!((page.status, &page.body[..]), (StatusCode::SERVICE_UNAVAILABLE, &b"<b>"[..]));
    assert_eq!(
        (&page.headers["retry-after"], &page.headers["content-type"]),
        (&"7".parse().unwrap(), &"text/html".parse().unwrap())
    );
    assert_eq!(server.applied("a"), 0);
    assert_eq!(publish_http(&server).await.unwrap().status, 200);
    assert_eq!(publish_grpc(&server).await.unwrap().code, 0);
}

#[tokio::test]
async fn a_cut_connection_does_not_show_whether_the_call_was_applied() {
    for (fault, applied) in [(Fault::cut_before(), 0), (Fault::cut_after(), 1)] {
        let server = Server::start().await.unwrap();
        server.fault(fault.clone());
        publish_http(&server).await.unwrap_err();
        assert_eq!(server.applied("a"), applied);
        server.fault(fault);
        publish_grpc(&server).await.unwrap_err();
        assert_eq!(server.applied("a"), 2 * applied);
        assert_eq!(publish_http(&server).await.unwrap().status, 200);
        assert_eq!(publish_grpc(&server).await.unwrap().code, 0);
        assert_eq!(server.calls().len(), 4);
    }
}

#[tokio::test]
async fn a_call_that_hangs_ends_with_the_server() {
    for (fault, applied) in [(Fault::hang_before(), 0), (Fault::hang_after(), 1)] {
        let server = Server::start().await.unwrap();
        server.fault(fault.times(2));
        // Requests as bytes, so that the connections stay open when the wait is over.
        let (http, grpc) = (server.http_addr(), server.grpc_addr());
        let http = tokio::spawn(async move {
            raw::http(http, "POST", "/api/publish", &[], r#"{"channel":"a","data":{}}"#).await.map(|_| ()).is_err()
        });
        let grpc = tokio::spawn(async move {
            let mut client = Grpc::connect(grpc).await.unwrap();
            client.call(&format!("{SERVICE}/Publish"), &[], PUBLISH, false).await.map(|_| ()).is_err()
        });
        until(|| server.calls().len() >= 2).await;
        tokio::time::sleep(A_WHILE).await;
        assert!(!http.is_finished() && !grpc.is_finished());
        assert_eq!(server.applied("a"), 2 * applied);
        server.shutdown().await;
        assert!(http.await.unwrap() && grpc.await.unwrap());
    }
}

#[tokio::test]
async fn a_raw_reply_replaces_the_real_one() {
    let server = Server::start().await.unwrap();
    server.fault(Fault::raw_reply(r#"{"result":"#).transport(Transport::Http));
    server.fault(Fault::raw_reply(&b"\xff\xff"[..]).transport(Transport::Grpc));
    let page = publish_http(&server).await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &br#"{"result":"#[..]));
    let response = publish_grpc(&server).await.unwrap();
    assert_eq!((response.code, response.body.as_deref()), (0, Some(&b"\xff\xff"[..])));
    assert_eq!(server.applied("a"), 2);
}

#[tokio::test]
async fn a_fault_can_respond_for_a_method_that_the_server_does_not_have() {
    let server = Server::start().await.unwrap();
    let reply = r#"{"result":{"connections":{}}}"#;
    server.fault(Fault::raw_reply(reply).method(Method::Connections).transport(Transport::Http));
    assert_eq!(http(&server, "connections", &json!({})).await.unwrap().body, reply);
    assert_eq!(http(&server, "connections", &json!({})).await.unwrap().status, 404);
}

#[tokio::test]
async fn calls_are_recorded_without_their_keys() {
    let server = Server::builder().api_key("sesame").start().await.unwrap();
    let headers = [("x-api-key", "sesame"), ("x-trace", "1")];
    let body = r#"{"Channel":"a","data":{"n":1.50},"b64data":null,"nope":1}"#;
    raw::http(server.http_addr(), "POST", "/api/publish", &headers, body).await.unwrap();
    raw::http(server.http_addr(), "POST", "/api/publish", &[], body).await.unwrap();
    raw::http(server.http_addr(), "POST", "/api/publish", &headers, "{").await.unwrap();
    let mut client = Grpc::connect(server.grpc_addr()).await.unwrap();
    let metadata = [("authorization", "apikey sesame")];
    client.call(&format!("{SERVICE}/Publish"), &metadata, &b"\x0a\x01a\x12\x02\xff\x00"[..], false).await.unwrap();
    client
        .call(&format!("{SERVICE}/Batch"), &metadata, &b"\x0a\x05\x4a\x03\x0a\x01a\x10\x01"[..], false)
        .await
        .unwrap();
    client.call(&format!("{SERVICE}/Publish"), &[], PUBLISH, false).await.unwrap();

    let calls = server.calls();
    let seen: Vec<_> = calls.iter().map(|call| (call.transport, call.method, call.request.clone())).collect();
    assert_eq!(
        seen,
        [
            (Transport::Http, Method::Publish, json!({"channel": "a", "data": {"n": 1.5}})),
            (Transport::Grpc, Method::Publish, json!({"channel": "a", "b64data": "/wA="})),
            (Transport::Grpc, Method::Batch, json!({"commands": [{"presence": {"channel": "a"}}], "parallel": true})),
        ]
    );
    assert_eq!(calls[0].header("x-api-key"), Some("[redacted]"));
    assert_eq!(calls[0].header("x-trace"), Some("1"));
    assert_eq!(calls[1].header("authorization"), Some("[redacted]"));
    let shown = format!("{server:?} {calls:?} {:?}", Server::builder().api_key("sesame"));
    assert!(!shown.contains("sesame") && !shown.contains("1.5"), "{shown}");
    server.clear_calls();
    assert_eq!(server.calls(), []);
}

#[tokio::test]
async fn presence_is_what_the_test_sets() {
    let presence = Namespace::new("p").presence(true);
    let server = Server::builder().namespace(presence).namespace(Namespace::new("q")).start().await.unwrap();
    let info = |user: &str, conn_info: &'static [u8]| {
        let mut info = ClientInfo::default();
        user.clone_into(&mut info.user);
        info.conn_info = conn_info.into();
        info
    };
    server.set_presence("p:1", "c1", info("u", b" {\"n\": \"<\"}"));
    server.set_presence("p:1", "c2", info("u", b""));
    server.set_presence("q:1", "c2", info("u", b""));
    let result = async |method, body| {
        let page = http(&server, method, &body).await.unwrap();
        String::from_utf8(page.body.to_vec()).unwrap()
    };
    assert_eq!(
        result("presence", json!({"channel": "p:1"})).await,
        r#"{"result":{"presence":{"c1":{"user":"u","client":"c1","conn_info":{"n":"\u003c"}},"c2":{"user":"u","client":"c2"}}}}"#
    );
    assert_eq!(
        result("presence_stats", json!({"channel": "p:1"})).await,
        r#"{"result":{"num_clients":2,"num_users":1}}"#
    );
    assert_eq!(
        result("channels", json!({"pattern": "[pq]:*"})).await,
        r#"{"result":{"channels":{"p:1":{"num_clients":2},"q:1":{"num_clients":1}}}}"#
    );
    let info_result: Value = serde_json::from_str(&result("info", json!({})).await).unwrap();
    let node = &info_result["result"]["nodes"][0];
    assert_eq!(
        (&node["num_clients"], &node["num_users"], &node["num_channels"], &node["num_subs"]),
        (&json!(2), &json!(1), &json!(2), &json!(3))
    );
    server.set_presence("p:1", "c3", info("v", b"\xff"));
    assert_eq!(result("presence", json!({"channel": "p:1"})).await, "Internal Server Error\n");
    server.remove_presence("q:1", "c2");
    server.remove_presence("q:1", "c2");
    assert_eq!(result("channels", json!({})).await, r#"{"result":{"channels":{"p:1":{"num_clients":3}}}}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_server_leaves_nothing_behind() {
    let server = Server::start().await.unwrap();
    let (grpc, http) = (server.grpc_addr(), server.http_addr());
    let mut idle = TcpStream::connect(http).await.unwrap();
    publish_grpc(&server).await.unwrap();
    drop(server);
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    // The listeners are gone shortly after.
    for address in [grpc, http] {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn drained_connections_end_after_their_calls_and_cost_none() {
    let server = Server::start().await.unwrap();
    // A GOAWAY says which calls were not processed. Over HTTP/1.1 nothing does, so that a call may have to be repeated.
    let grpc: Config = Config::grpc(server.grpc_url()).retry(None).into();
    for config in [grpc, Config::http(server.http_url()).into()] {
        let before = server.applied("news");
        let client = Client::new(config).unwrap();
        for _ in 0..20 {
            let calls = (0..16).map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.publish(PublishRequest::new("news", json!(1))).await })
            });
            let calls: Vec<_> = calls.collect();
            server.drain_connections();
            for call in calls {
                call.await.unwrap().unwrap();
            }
        }
        assert_eq!(server.applied("news"), before + 320);
    }
}

#[tokio::test]
async fn a_server_can_be_started_again_where_it_was() {
    let (again, grpc, http) = loop {
        let server = Server::start().await.unwrap();
        let (grpc, http) = (server.grpc_addr(), server.http_addr());
        publish_grpc(&server).await.unwrap();
        publish_http(&server).await.unwrap();
        server.shutdown().await;
        match Server::builder().grpc_addr(grpc).http_addr(http).start().await {
            Ok(again) => break (again, grpc, http),
            // Another test was given one of the ports in between.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    };
    assert!(is_first_position(&publish_grpc(&again).await.unwrap()));
    assert_eq!(again.grpc_url(), format!("http://{grpc}"));
    assert_eq!(again.http_url(), format!("http://{http}/api"));
}

#[tokio::test]
async fn malformed_frames_are_a_status() {
    let server = Server::builder().max_grpc_message(100).start().await.unwrap();
    let mut client = Grpc::connect(server.grpc_addr()).await.unwrap();
    let path = format!("{SERVICE}/Publish");
    for (body, code, message) in [
        (&b""[..], 2, "EOF"),
        (b"\x00\x00\x00\x00\x09abc", 2, "unexpected EOF"),
        (b"\x01\x00\x00\x00\x00", 13, "grpc: compressed flag set with identity or empty encoding"),
        (b"\x02\x00\x00\x00\x00", 13, "grpc: received unexpected payload format 2"),
        (b"\x00\x00\x00\x01\x00", 8, "grpc: received message larger than max (256 vs. 100)"),
    ] {
        let response = client.send(&path, &[], body.into(), false).await.unwrap();
        assert_eq!((response.code, response.message.as_str()), (code, message));
    }
    let response = client.call(&path, &[], vec![0; 1000], true).await.unwrap();
    assert_eq!(
        (response.code, response.message.as_str()),
        (8, "grpc: received message after decompression larger than max 100")
    );
    let response = client.call(&path, &[("content-type", "application/json")], PUBLISH, false).await.unwrap();
    assert_eq!(response.code, 3);
    let response = client.call(&path, &[("grpc-encoding", "br")], PUBLISH, false).await.unwrap();
    assert_eq!(
        (response.code, response.message.as_str()),
        (12, "grpc: Decompressor is not installed for grpc-encoding \"br\"")
    );
}

#[tokio::test]
async fn a_deadline_that_has_passed_or_is_malformed_is_a_status() {
    let server = Server::start().await.unwrap();
    let mut client = Grpc::connect(server.grpc_addr()).await.unwrap();
    for (timeout, code) in [("0S", 4), ("10S", 0), ("1", 13), ("123456789S", 13), ("1x", 13), ("-1S", 13)] {
        let metadata = [("grpc-timeout", timeout), ("content-type", "application/grpc+proto")];
        let response = client.call(&format!("{SERVICE}/Publish"), &metadata, PUBLISH, false).await.unwrap();
        assert_eq!(response.code, code, "{timeout}");
        assert_eq!(response.metadata["content-type"], "application/grpc+proto");
    }
}

#[tokio::test]
async fn the_clock_can_be_advanced() {
    let server = Server::start().await.unwrap();
    let request = json!({"channel": "a", "data": 1, "idempotency_key": "k"});
    let publish = async || http(&server, "publish", &request).await.unwrap().body;
    let first = publish().await;
    assert_eq!(publish().await, first);
    advance(Duration::from_secs(301)).await;
    assert_ne!(publish().await, first);
    let history = http(&server, "history", &json!({"channel": "a", "limit": -1})).await.unwrap();
    let history: Value = serde_json::from_slice(&history.body).unwrap();
    assert_eq!(history["result"]["publications"], json!([{"data": 1, "offset": 2}]));
}

#[tokio::test]
async fn a_server_can_be_started_without_records() {
    let server = Server::builder().without_records().start().await.unwrap();
    publish_http(&server).await.unwrap();
    assert_eq!((server.calls(), server.applied("a")), (vec![], 1));
}

#[tokio::test]
async fn an_unreadable_payload_is_embedded_over_http_if_it_is_json_to_the_server() {
    let server = Server::start().await.unwrap();
    let body = b"{\"channel\":\"a\",\"b64data\":\"Iv/+Ig==\"}"; // a JSON string of two bytes that are not UTF-8
    raw::http(server.http_addr(), "POST", "/api/publish", &[], &body[..]).await.unwrap();
    let page = http(&server, "history", &json!({"channel": "a", "limit": 1})).await.unwrap();
    assert!(page.body.windows(11).any(|window| window == b"\"data\":\"\xff\xfe\""), "{}", page.body.escape_ascii());
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::support::authority::{Authority, Identity};

    async fn connect(
        authority: &Authority,
        address: std::net::SocketAddr,
        protocol: &str,
        identity: Option<&Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { certificate, key }) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![protocol.into()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    #[tokio::test]
    async fn both_apis_serve_tls_and_mutual_tls() {
        let authority = Authority::new();
        let Identity { certificate, key } = authority.issue("localhost");
        let server = Server::builder().tls(certificate, key).client_ca(authority.pem()).start().await.unwrap();
        assert!(server.grpc_url().starts_with("https://") && server.http_url().starts_with("https://"));

        let caller = authority.issue("caller");
        let stream = connect(&authority, server.grpc_addr(), "h2", Some(&caller)).await.unwrap();
        let mut client = Grpc::over(stream).await.unwrap();
        let response = client.call(&format!("{SERVICE}/Publish"), &[], PUBLISH, false).await.unwrap();
        assert!(is_first_position(&response));

        let address = server.http_addr();
        let stream = connect(&authority, address, "http/1.1", Some(&caller)).await.unwrap();
        let page = raw::http_over(stream, address, "POST", "/api/info", &[], "{}".into()).await.unwrap();
        assert_eq!(page.status, 200);

        let stranger = Authority::new().issue("stranger");
        for identity in [None, Some(&stranger)] {
            // With TLS 1.3 the caller learns of it when it reads.
            let refused = match connect(&authority, address, "http/1.1", identity).await {
                Ok(stream) => raw::http_over(stream, address, "POST", "/api/info", &[], "{}".into()).await.is_err(),
                Err(_) => true,
            };
            assert!(refused);
        }
        assert!(connect(&authority, address, "h2", Some(&caller)).await.is_err(), "that front does not speak h2");
    }

    #[tokio::test]
    async fn an_invalid_tls_key_is_refused_at_the_start() {
        let error = Server::builder().tls("x", "y").start().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
