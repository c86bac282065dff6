use std::time::Duration;

use centrifugo_api::{Client, Config, Error, ErrorKind};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::support::soon;

fn client(server: &Server) -> Client {
    Client::new(Config::grpc(server.url()).retry(None)).unwrap()
}

async fn publish(client: &Client) -> Result<u64, Error> {
    let request = PublishRequest::new("news", json!({})).idempotency_key("key");
    client.publish(request).await.map(|result| result.offset)
}

#[tokio::test]
async fn a_script_chooses_each_reply_and_the_tally_counts_what_is_applied() {
    let server = replying(|request| match request.number {
        0 => Reply::status(14, "busy"),
        1 => Reply::status(0, "").applied(),
        2 => Reply::reset(INTERNAL_ERROR),
        3 => Reply::cut(NO_ERROR),
        4 => Reply::status_with(13, "bad", &[(b"grpc-status-details-bin", b"not base64 \xff")]),
        _ => Reply::result(),
    });
    let client = client(&server);
    for kind in [ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::Lost] {
        assert_eq!(publish(&client).await.unwrap_err().kind(), kind);
    }
    publish(&client).await.unwrap_err();
    publish(&client).await.unwrap_err();
    assert_eq!(publish(&client).await.unwrap(), 1);
    let (arrived, applied) = (server.tally.arrived(), server.tally.applied());
    assert_eq!((arrived.len(), applied.len(), server.tally.effects()), (6, 3, 1));
    assert_eq!((&applied[0].channel[..], &applied[0].idempotency_key[..]), ("news", "key"));
    assert_eq!(server.dials(), 1);
}

#[tokio::test]
async fn the_path_and_the_headers_of_a_request_are_read() {
    let server = start(|mut connection| async move {
        for _ in 0..3 {
            let request = connection.request().await?;
            assert_eq!(request.path, "/centrifugal.centrifugo.api.CentrifugoApi/Publish");
            assert_eq!(request.headers["authorization"], "apikey a key");
            connection.reply(&request, &Reply::result()).await?;
        }
        connection.ignore().await
    });
    let client = Client::new(Config::grpc(server.url()).api_key("a key")).unwrap();
    for _ in 0..3 {
        publish(&client).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_is_refused_before_its_body_is_read() {
    let server = start(|mut connection| async move {
        let stream = connection.opened().await?;
        connection.reset_stream(stream, REFUSED_STREAM).await?;
        connection.serve().await
    });
    let well = soon(publish(&client(&server))).await.map_err(|error| assert!(!error.may_have_run(), "{error:?}"));
    assert_eq!(server.tally.arrived().len(), usize::from(well.is_ok()));
}

#[tokio::test]
async fn streams_up_to_the_last_one_of_a_goaway_finish() {
    let server = start(|mut connection| async move {
        if connection.number > 0 {
            return connection.serve().await;
        }
        let requests = connection.requests(20).await?;
        let last = requests[9].stream;
        connection.goaway(last, NO_ERROR, b"bye").await?;
        for request in &requests[..10] {
            connection.reply(request, &Reply::result()).await?;
        }
        connection.finish().await
    });
    let client = client(&server);
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        calls.spawn(async move { publish(&client).await });
    }
    let outcomes = soon(calls.join_all()).await;
    let (well, badly): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!(well.len() >= 10);
    assert_eq!(server.tally.applied().len(), well.len());
    assert!(badly.into_iter().all(|outcome| !outcome.unwrap_err().may_have_run()));
}

#[tokio::test]
async fn a_connection_is_drained_as_grpc_go_does() {
    let server = start(|mut connection| async move {
        let first = connection.request().await?;
        let mut requests = connection.drain().await?;
        requests.insert(0, first);
        for request in &requests {
            connection.reply(request, &Reply::result()).await?;
        }
        connection.finish().await
    });
    let client = client(&server);
    for dials in 1..5 {
        soon(publish(&client)).await.unwrap();
        assert_eq!(server.dials(), dials);
    }
}

#[tokio::test]
async fn one_stream_at_a_time_and_a_window_that_opens_late_are_the_scripts_choice() {
    static TAKEN: Notify = Notify::const_new();
    let server = start(|mut connection| async move {
        let request = connection.request().await?;
        connection.reply(&request, &Reply::result()).await?;
        connection.settings(&[(MAX_CONCURRENT_STREAMS, 1), (INITIAL_WINDOW_SIZE, 0)]).await?;
        connection.sync().await?;
        TAKEN.notify_one();
        connection.opened().await?;
        // Neither the body of this call, nor the other call.
        let events = connection.sync().await?;
        assert!(!events.iter().any(|event| matches!(event, Event::Opened(_) | Event::Request(_))), "{events:?}");
        connection.settings(&[(INITIAL_WINDOW_SIZE, 65535)]).await?;
        connection.serve().await
    });
    let client = client(&server);
    publish(&client).await.unwrap();
    soon(TAKEN.notified()).await;
    let (one, other) = tokio::join!(soon(publish(&client)), soon(publish(&client)));
    one.and(other).unwrap();
}

#[tokio::test]
async fn a_silent_server_responds_to_nothing() {
    let silent = start_bare(|mut connection| async move { connection.ignore().await });
    let deaf = start_bare(|mut connection| async move { connection.stall().await });
    for server in [silent, deaf] {
        let config = Config::grpc(server.url()).timeout(Duration::from_millis(200)).retry(None);
        let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert_eq!(server.dials(), 1);
    }
}

#[tokio::test]
async fn headers_may_be_huge_many_or_without_an_end() {
    let huge = vec![b'x'; 1 << 20];
    let many: Vec<(&[u8], &[u8])> = vec![(b"x-one", b"of many"); 5000];
    let replies = [Reply::status_with(0, "", &[(b"x-huge", &huge[..])]), Reply::status_with(0, "", &many)];
    for reply in replies {
        let server = replying(move |_| reply.clone());
        soon(publish(&client(&server))).await.unwrap_err();
        assert_eq!(server.tally.arrived().len(), 1);
    }
    let endless = start(|mut connection| async move {
        let request = connection.request().await?;
        connection.endless_headers(request.stream).await
    });
    soon(publish(&client(&endless))).await.unwrap_err();
}

#[tokio::test]
async fn a_connection_ends_with_a_fin_or_a_reset() {
    for reset in [true, false] {
        let server = start(move |mut connection| async move {
            connection.request().await?;
            if reset { connection.reset() } else { connection.finish().await }
        });
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        // A GET of `/`, out of the static table, and an empty message.
        let head = frame_bytes(HEADERS, END_HEADERS, 1, &[0x82, 0x84, 0x86, 0x41, 1, b'x']);
        let body = frame_bytes(DATA, END_STREAM, 1, &[0; 5]);
        stream.write_all(&[&preface[..], &head, &body].concat()).await.unwrap();
        let end = soon(tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
        assert_eq!(end.is_err(), reset, "{end:?}");
    }
}
