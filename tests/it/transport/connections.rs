//! Connections without a response: pings, idle timeouts, greetings. The server is scripted byte by byte.

use std::time::Duration;

use centrifugo_api::message::InfoRequest;
use centrifugo_api::{Client, Config, ErrorKind, PublishRequest};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// The types of HTTP/2 frames that matter here (RFC 9113, section 6).
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A server that speaks just enough HTTP/2 to be connected to. It acknowledges settings and pings, responds to no call, and
/// tells the type of every frame that arrives.
async fn silent_grpc_server() -> (String, mpsc::UnboundedReceiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, frames) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await.unwrap();
        stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        let mut header = [0; 9];
        while stream.read_exact(&mut header).await.is_ok() {
            let [_, a, b, kind, flags, ..] = header;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([a, b]))];
            stream.read_exact(&mut payload).await.unwrap();
            // The same bit ends a stream.
            let is_ack = matches!(kind, SETTINGS | PING) && flags & ACK != 0;
            if matches!(kind, SETTINGS | PING) && !is_ack {
                let payload = if kind == PING { &payload[..] } else { &[] };
                let length = u8::try_from(payload.len()).unwrap();
                let frame = [&[0, 0, length, kind, ACK, 0, 0, 0, 0], payload].concat();
                stream.write_all(&frame).await.unwrap();
            }
            if !is_ack && tell.send(kind).is_err() {
                return;
            }
        }
    });
    (url, frames)
}

async fn next(frames: &mut mpsc::UnboundedReceiver<u8>, wanted: u8) {
    while frames.recv().await.expect("the connection ended") != wanted {}
}

#[tokio::test]
async fn a_keepalive_ping_is_sent_while_a_call_is_in_flight() {
    let (url, mut frames) = silent_grpc_server().await;
    let client = Client::new(Config::grpc(url).timeout(Duration::from_secs(3600))).unwrap();
    let call = tokio::spawn(async move { client.info(InfoRequest::new()).await });
    next(&mut frames, DATA).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    next(&mut frames, PING).await;
    call.abort();
}

#[tokio::test]
async fn no_keepalive_ping_is_sent_while_no_call_is_in_flight() {
    let (url, mut frames) = silent_grpc_server().await;
    let client = Client::new(Config::grpc(url).timeout(Duration::from_secs(3600))).unwrap();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.info(InfoRequest::new()).await }
    });
    next(&mut frames, DATA).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    tokio::time::pause();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(31)).await;
    }
    tokio::time::resume();
    let second = tokio::spawn(async move { client.info(InfoRequest::new()).await });
    let mut pings = 0;
    loop {
        match frames.recv().await.expect("the connection ended") {
            DATA => break,
            PING => pings += 1,
            _ => {}
        }
    }
    // One may come with the next call, whose response the server counts for itself.
    assert!(pings <= 1, "an idle connection was pinged {pings} times, for which the server ends it");
    second.abort();
}

/// Reads one HTTP/1.1 request with a body, and responds as a server does that keeps the connection.
async fn respond_once(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"}") || !request.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request ended early");
    }
    let body = r#"{"result":{}}"#;
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(response.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn an_idle_http_connection_is_closed_by_the_client_before_the_server_would() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let config = Config::http(url).idle_timeout(Duration::from_millis(10));
    let client = Client::new(config).unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.publish(PublishRequest::new("news", json!({}))).await }
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    respond_once(&mut stream).await;
    call.await.unwrap().unwrap();
    // The client ends it, while it is still in use otherwise, and long before its default.
    let end = tokio::time::timeout(Duration::from_secs(10), async { stream.read(&mut [0]).await.unwrap() });
    assert_eq!(end.await.expect("the connection was kept"), 0);
    drop(client);
}

#[tokio::test]
async fn a_kept_connection_is_reused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(Config::http(format!("http://{}/api", listener.local_addr().unwrap()))).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        respond_once(&mut stream).await;
        respond_once(&mut stream).await;
    });
    for _ in 0..2 {
        client.publish(PublishRequest::new("news", json!({}))).await.unwrap();
    }
    server.await.unwrap();
}

#[tokio::test]
async fn a_stream_refused_after_its_response_headers_may_have_run() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(Config::grpc(format!("http://{}", listener.local_addr().unwrap()))).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        tokio::spawn(async move {
            // Time for the headers to leave: a reset would take them back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_data(bytes::Bytes::new(), false).unwrap();
            stream.send_reset(h2::Reason::REFUSED_STREAM);
        });
        while connection.accept().await.is_some() {}
    });
    let error = client.publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Lost, true), "{error:?}");
}

#[tokio::test]
async fn the_port_of_the_other_api_is_explained() {
    let server = centrifugo_api::testing::Server::start().await.unwrap();
    let grpc_at_http = Config::grpc(format!("http://{}", server.http_addr()));
    let http_at_grpc = Config::http(format!("http://{}/api", server.grpc_addr()));
    for config in crate::support::both(grpc_at_http, http_at_grpc) {
        let error = Client::new(config).unwrap().publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::Lost | ErrorKind::Protocol), "{error:?}");
        assert!(error.to_string().contains("port"), "{error}");
    }
}

#[tokio::test]
async fn a_url_without_the_path_of_the_api_is_explained() {
    let server = centrifugo_api::testing::Server::start().await.unwrap();
    let client = Client::new(Config::http(format!("http://{}", server.http_addr()))).unwrap();
    let error = client.publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("ends in /api"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_call_after_a_lost_connection_uses_a_new_one() {
    use centrifugo_api::testing::{Fault, Server};

    let server = Server::start().await.unwrap();
    for config in crate::support::both(Config::grpc(server.grpc_url()), Config::http(server.http_url())) {
        let client = Client::new(config.retry(None)).unwrap();
        for _ in 0..100 {
            server.fault(Fault::cut_before());
            let error = client.publish(PublishRequest::new("news", json!({}))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
            client.publish(PublishRequest::new("news", json!({}))).await.unwrap();
        }
    }
    assert_eq!(server.applied("news"), 200);
}

#[tokio::test]
async fn a_bearer_token_is_sent_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let client = Client::new(Config::http(url).bearer_token(|| async { Ok("a token".to_owned()) })).unwrap();
    let client = client.with_retry(None);
    let call = tokio::spawn(async move { client.info(InfoRequest::new()).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"{}") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request ended early");
    }
    assert!(String::from_utf8(request).unwrap().contains("\r\nauthorization: Bearer a token\r\n"));
    drop(stream);
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
}
