//! Batches whose replies do not fit their commands, over both transports.

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::Reply;
use centrifugo_api::{
    ApiError, Batch, BatchReplies, Client, Config, Error, ErrorKind, Method, Outcome, PublishRequest,
};
use serde_json::json;

use crate::support::{BOTH, Over, SECOND, assert_error, block_on, client_replying, quick_retry, request, within};

/// The responses to a batch of `publish`, `publish` and `publish`, where the server gives `json` or `protobuf`.
async fn batch(
    over: Over,
    json: &'static str,
    protobuf: &'static [u8],
) -> (Result<BatchReplies, Error>, [Got; 3], u64) {
    let server = Server::start().await.unwrap();
    let (config, raw) = match over {
        Over::Grpc => (over.config(&server), protobuf),
        Over::Http => (over.config(&server), json.as_bytes()),
    };
    server.fault(Fault::raw_reply(raw).method(Method::Batch));
    let client = Client::new(config.retry(quick_retry())).unwrap();
    let mut batch = Batch::new().idempotency_keys(true);
    let handles = [(); 3].map(|()| batch.push(request()));
    let replies = within(5 * SECOND, client.batch(&batch)).await;
    let got = handles.map(|handle| match &replies {
        Ok(replies) => replies.get(handle).map(|result| result.offset).map_err(|error| (error.kind(), error.outcome())),
        Err(error) => Err((error.kind(), error.outcome())),
    });
    assert_eq!(server.calls().len(), 1, "{over:?}");
    (replies, got, server.applied("news"))
}

type Got = Result<u64, (ErrorKind, Outcome)>;

#[tokio::test]
async fn a_batch_with_too_many_or_too_few_replies_has_an_unknown_outcome() {
    let fewer =
        (r#"{"replies":[{"publish":{"offset":7}},{"publish":{}}]}"#, &b"\x0a\x04\x22\x02\x08\x07\x0a\x02\x22\0"[..]);
    let more = (
        r#"{"replies":[{"publish":{}},{"publish":{}},{"publish":{}},{"publish":{}}]}"#,
        &b"\x0a\x02\x22\0\x0a\x02\x22\0\x0a\x02\x22\0\x0a\x02\x22\0"[..],
    );
    let none = (r#"{"replies":[]}"#, &b""[..]);
    for over in BOTH {
        for (json, protobuf) in [fewer, more, none] {
            let (replies, _, applied) = batch(over, json, protobuf).await;
            assert_error(&replies.unwrap_err(), ErrorKind::Protocol, Outcome::Unknown, 1);
            assert_eq!(applied, 3);
        }
    }
}

#[tokio::test]
async fn an_empty_reply_or_one_of_another_method_fails_its_command_only() {
    let empty = (
        r#"{"replies":[{"publish":{"offset":7}},{},{"publish":{"offset":9}}]}"#,
        &b"\x0a\x04\x22\x02\x08\x07\x0a\0\x0a\x04\x22\x02\x08\x09"[..],
    );
    let another = (
        r#"{"replies":[{"publish":{"offset":7}},{"broadcast":{}},{"publish":{"offset":9}}]}"#,
        &b"\x0a\x04\x22\x02\x08\x07\x0a\x02\x2a\0\x0a\x04\x22\x02\x08\x09"[..],
    );
    for over in BOTH {
        for (json, protobuf) in [empty, another] {
            let (replies, got, _) = batch(over, json, protobuf).await;
            assert!(replies.is_ok(), "{replies:?}");
            assert_eq!(got, [Ok(7), Err((ErrorKind::Protocol, Outcome::Unknown)), Ok(9)], "{over:?} {json}");
        }
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_batch_shifts_no_reply() {
    let server = Server::start().await.unwrap();
    for config in crate::support::both(Config::grpc(server.grpc_url()), Config::http(server.http_url())) {
        let before = server.applied("news");
        let client = Client::new(config.retry(quick_retry())).unwrap();
        let mut batch = Batch::new();
        let first = batch.push(request());
        let wrong = batch.push(PublishRequest::new("nowhere:a", json!(1)));
        let last = batch.push(request());
        let replies = within(5 * SECOND, client.batch(&batch)).await.unwrap();
        let offsets = [replies.get(first).unwrap().offset, replies.get(last).unwrap().offset];
        assert_eq!(offsets, [before + 1, before + 2]);
        let error = replies.get(wrong).unwrap_err();
        assert_eq!((error.code(), error.outcome()), (Some(ApiError::UNKNOWN_CHANNEL), Outcome::Refused), "{error:?}");
        assert_eq!(server.applied("news"), before + 2);
    }
}

#[test]
fn a_result_in_a_batch_that_cannot_be_read_is_of_a_command_that_took_effect() {
    let client =
        client_replying(Reply::json(r#"{"replies":[{"publish":{"offset":"x"}},{"publish":1},{"history":{}}]}"#));
    let mut batch = Batch::new();
    let handles = [1, 2, 3].map(|data| batch.push(PublishRequest::new("news", json!(data))));
    let replies = block_on(client.batch(&batch)).unwrap();
    let outcomes = handles.map(|handle| {
        let error = replies.get(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        error.outcome()
    });
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, Outcome::Unknown]);
}
