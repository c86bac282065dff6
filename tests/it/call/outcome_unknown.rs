//! A refusal after an attempt without a response: the earlier attempt may have been applied.

use centrifugo_api::message::PublishResponse;
use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::Reply;
use centrifugo_api::{
    ApiError, Batch, BroadcastRequest, BroadcastResult, Error, Method, Outcome, PublishRequest, PublishResult,
};
use serde_json::json;

use crate::support::{BOTH, Over, client_responding};

fn too_many() -> ApiError {
    ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many requests")
}

#[tokio::test]
async fn a_command_refused_in_the_retry_of_a_lost_batch_may_have_been_applied() {
    for over in BOTH {
        let server = Server::start().await.unwrap();
        server.fault(Fault::cut_after().method(Method::Batch));
        server.fault(Fault::api_error(too_many()).method(Method::Batch));
        let mut batch = Batch::new().idempotency_keys(true);
        let publish = batch.push(PublishRequest::new("news", json!(1)));
        let replies = over.client(&server).batch(&batch).await.unwrap();
        let error = replies.get(publish).unwrap_err();
        assert_eq!((error.code(), server.applied("news")), (Some(ApiError::TOO_MANY_REQUESTS), 1), "{over:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{over:?}: {error}");
    }
}

#[tokio::test]
async fn a_command_refused_at_the_first_attempt_was_not_applied() {
    let server = Server::start().await.unwrap();
    server.fault(Fault::api_error(too_many()).method(Method::Batch));
    let mut batch = Batch::new().idempotency_keys(true);
    let publish = batch.push(PublishRequest::new("news", json!(1)));
    let replies = Over::Grpc.client(&server).batch(&batch).await.unwrap();
    assert_eq!(replies.get(publish).unwrap_err().outcome(), Outcome::Refused);
}

/// A broadcast to two channels of which the second had too much.
fn second_refused() -> BroadcastResult {
    let (mut well, mut refused) = (PublishResponse::default(), PublishResponse::default());
    well.result = Some(PublishResult::default());
    refused.error = Some(too_many());
    let mut result = BroadcastResult::default();
    result.responses = vec![well, refused];
    result
}

#[tokio::test]
async fn a_channel_refused_in_the_retry_of_a_lost_broadcast_may_have_been_published_to() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let calls = AtomicU32::new(0);
    let client = client_responding(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Error::new(centrifugo_api::ErrorKind::Lost, "the response is lost")),
        _ => Ok(Reply::result(&second_refused())),
    });
    let client = client.with_retry(centrifugo_api::Retry::new().attempts(2));
    let result = client.broadcast(BroadcastRequest::new(["a", "b"], json!(1))).await.unwrap();
    let error = Error::from(result.responses[1].error.clone().unwrap());
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");

    // The same inside of a batch.
    let mut batch = Batch::new().idempotency_keys(true);
    let broadcast = batch.push(BroadcastRequest::new(["a", "b"], json!(1)));
    let server = Server::start().await.unwrap();
    server.fault(Fault::cut_after());
    let reply = json!({"replies": [{"broadcast": second_refused()}]}).to_string();
    server.fault(Fault::raw_reply(reply));
    let replies = Over::Http.client(&server).batch(&batch).await.unwrap();
    let result = replies.get(broadcast).unwrap();
    assert_eq!(Error::from(result.responses[1].error.clone().unwrap()).outcome(), Outcome::Unknown);
}
