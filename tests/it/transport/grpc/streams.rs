//! Calls over gRPC as streams of HTTP/2: windows, limits, and connections that they share.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use centrifugo_api::message::{RpcRequest, RpcResult};
use centrifugo_api::{Client, Config, ErrorKind, Outcome, PublishRequest};
use http::HeaderMap;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::h2script::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, NO_ERROR, Reply,
    Request, frame_bytes,
};
use crate::support::{AT_ONCE, soon, within};

fn client(url: String) -> Client {
    Client::new(Config::grpc(url).retry(None)).unwrap()
}

/// Reads a request to its end, as slowly as small windows make it, and responds with a result with this data.
async fn respond(listener: TcpListener, data: Bytes) -> Bytes {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::Builder::new().initial_window_size(10_000).handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let driven = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let (mut body, mut read) = (request.into_body(), BytesMut::new());
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        read.extend_from_slice(&part);
    }

    let mut result = RpcResult::default();
    result.data = data;
    let mut message = Vec::new();
    prost::encoding::message::encode(2, &result, &mut message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let mut rest = Bytes::from([&[0], &length[..], &message].concat());
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    drop((stream, respond));
    driven.await.unwrap();
    read.freeze()
}

#[tokio::test]
async fn requests_and_responses_larger_than_every_window_arrive_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(format!("http://{}", listener.local_addr().unwrap()));
    let (up, down) = (vec![b'u'; 3 << 20], Bytes::from(vec![b'd'; 8 << 20]));
    let server = tokio::spawn(respond(listener, down.clone()));
    let result = soon(client.rpc(RpcRequest::new("echo").params(up.clone()))).await.unwrap();
    assert!(result.data == down);
    drop(client);
    let read = soon(server).await.unwrap();
    assert!(read.windows(4).filter(|part| part == b"uuuu").count() >= up.len() - 3);
}

/// Notifies that a stream is open, and opens no window for its body.
fn without_window(opened: Arc<Notify>) -> crate::support::tally::Server {
    h2script::start_bare(move |mut connection| {
        let opened = Arc::clone(&opened);
        async move {
            connection.settings(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
            connection.opened().await?;
            opened.notify_one();
            connection.ignore().await
        }
    })
}

#[tokio::test]
async fn a_long_request_blocked_by_flow_control_was_not_sent() {
    let opened = Arc::new(Notify::new());
    let server = without_window(Arc::clone(&opened));
    let impatient = client(server.url()).with_timeout(Duration::from_millis(300));
    let error = within(AT_ONCE, impatient.publish(PublishRequest::new("news", vec![b'1'; 20_000]))).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error:?}");
    soon(opened.notified()).await;
}

#[tokio::test]
async fn a_response_that_comes_before_the_request_is_read_is_returned() {
    for length in [1, 20_000] {
        let server = h2script::start_bare(|mut connection| async move {
            connection.settings(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
            let stream = connection.opened().await?;
            let (path, headers, message) = Default::default();
            let request = Request { stream, connection: 0, number: 0, path, headers, message };
            connection.reply(&request, &Reply::status(7, "no").unapplied().then_reset(NO_ERROR)).await?;
            connection.ignore().await
        });
        let call = client(server.url()).publish(PublishRequest::new("news", vec![b'1'; length])).await;
        let error = call.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unauthenticated, Outcome::Refused), "{error:?}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_stream_move_to_the_next_connection_when_theirs_ends() {
    for resets in [false, true] {
        let (begun, wait) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let server = h2script::start_bare({
            let (begun, wait) = (Arc::clone(&begun), Arc::clone(&wait));
            move |mut connection| {
                let (begun, wait) = (Arc::clone(&begun), Arc::clone(&wait));
                async move {
                    if connection.number > 0 {
                        connection.settings(&[]).await?;
                        return connection.serve().await;
                    }
                    connection.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
                    connection.request().await?;
                    // By then the client knows that one stream is allowed.
                    connection.sync().await?;
                    begun.notify_one();
                    wait.notified().await;
                    if resets { connection.reset() } else { connection.finish().await }
                }
            }
        });
        let client = client(server.url());
        let mut calls = JoinSet::new();
        for number in 0..=200 {
            let client = client.clone();
            calls.spawn(async move { client.publish(PublishRequest::new("news", json!(number))).await });
            if number == 0 {
                soon(begun.notified()).await;
            }
        }
        // All of them have been put on the connection.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        wait.notify_one();
        let errors: Vec<_> = within(AT_ONCE, calls.join_all()).await.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!((errors[0].kind(), errors[0].outcome()), (ErrorKind::Lost, Outcome::Unknown));
        assert_eq!((server.tally.applied().len(), server.dials()), (200, 2));
    }
}

#[tokio::test]
async fn another_connection_is_made_when_the_first_is_busy() {
    let server = h2script::replying(|_| Reply::hang());
    let config = Config::grpc(server.url()).retry(None).connections(2);
    let client = Client::new(config).unwrap();
    let mut calls = JoinSet::new();
    for number in 1..=20 {
        let caller = client.clone();
        calls.spawn(async move { caller.publish(PublishRequest::new("news", json!(number))).await });
        soon(server.tally.until_arrived(number)).await;
        if number <= 16 {
            assert_eq!(server.dials(), 1);
        }
    }
    let busy = server.tally.arrived().iter().filter(|operation| operation.connection == 0).count();
    assert!((16..20).contains(&busy), "{busy}");
    assert_eq!(server.dials(), 2);
}

#[tokio::test]
async fn thousands_of_responses_may_arrive_at_once() {
    const CALLS: usize = 16_000;
    /// `:status: 200`, and the two headers that the first response puts into the table of HPACK.
    const HEAD: &[u8] = &[0x88, 0xbf];
    const STATUS: &[u8] = &[0xbe];
    let server = h2script::start(|mut connection| async move {
        let requests = connection.requests(CALLS).await?;
        let first_head = [b"\x88\x40\x0ccontent-type", &b"\x10application/grpc"[..]].concat();
        let mut responses = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            let (head, status) =
                if number == 0 { (&first_head[..], &b"\x40\x0bgrpc-status\x010"[..]) } else { (HEAD, STATUS) };
            responses.extend(frame_bytes(HEADERS, END_HEADERS, request.stream, head));
            responses.extend(frame_bytes(DATA, 0, request.stream, &[0, 0, 0, 0, 2, 0x12, 0]));
            responses.extend(frame_bytes(HEADERS, END_HEADERS | END_STREAM, request.stream, status));
        }
        connection.raw(&responses).await?;
        connection.ignore().await
    });
    let config = Config::grpc(server.url()).retry(None).connections(1).timeout(Duration::from_secs(60));
    let client = Client::new(config).unwrap();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let client = client.clone();
        calls.spawn(async move { client.publish(PublishRequest::new("news", json!(number))).await });
    }
    let errors: Vec<_> = within(AT_ONCE * 6, calls.join_all()).await.into_iter().filter_map(Result::err).collect();
    assert!(errors.is_empty(), "{} calls, {:?}", errors.len(), errors[0]);
    assert_eq!(server.dials(), 1);
}
