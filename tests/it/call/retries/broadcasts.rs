//! Channels of a broadcast that failed are tried again without the others.

use std::sync::{Arc, Mutex};

use centrifugo_api::transport::Reply;
use centrifugo_api::{BroadcastRequest, Client, Error, ErrorKind, Retry};
use serde_json::{Value, json};

use crate::support::{BOTH, client_responding, quick_retry, start};

/// A client whose broadcasts get their responses one after the other, and what it asked for.
fn broadcaster(responses: Vec<Result<Value, Error>>, retry: Retry) -> (Client, Arc<Mutex<Vec<Value>>>) {
    let (asked, responses) = (Arc::<Mutex<Vec<Value>>>::default(), Mutex::new(responses.into_iter()));
    let asking = Arc::clone(&asked);
    let client = client_responding(move |call| {
        asking.lock().unwrap().push(serde_json::from_slice(&call.to_json().unwrap()).unwrap());
        let response = responses.lock().unwrap().next().expect("it was asked too often");
        response.map(|responses| Reply::json(json!({"result": {"responses": responses}}).to_string()))
    });
    (client.with_retry(retry), asked)
}

fn channels(request: &Value) -> Vec<&str> {
    request["channels"].as_array().unwrap().iter().map(|channel| channel.as_str().unwrap()).collect()
}

fn abcd() -> BroadcastRequest {
    BroadcastRequest::new(["a", "b", "c", "d"], json!({"n": 1}))
}

fn offset(offset: u64) -> Value {
    json!({"result": {"offset": offset}})
}

fn failure(code: u32) -> Value {
    json!({"error": {"code": code, "message": "no"}})
}

/// The offset of each channel, or the code of its error.
fn joined(result: &centrifugo_api::BroadcastResult) -> Vec<Result<u64, u32>> {
    let one = |response: &centrifugo_api::message::PublishResponse| match &response.error {
        Some(error) => Err(error.code),
        None => Ok(response.result.as_ref().unwrap().offset),
    };
    result.responses.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn only_failed_channels_are_retried_with_the_same_key() {
    let responses = vec![
        Ok(json!([offset(1), failure(111), failure(102), failure(100)])),
        Ok(json!([failure(100), offset(4)])),
        Ok(json!([offset(2)])),
    ];
    let (client, asked) = broadcaster(responses, quick_retry());
    let result = client.broadcast(abcd()).await.unwrap();
    assert_eq!(joined(&result), [Ok(1), Ok(2), Err(102), Ok(4)]);
    let asked = asked.lock().unwrap();
    assert_eq!(channels(&asked[0]), ["a", "b", "c", "d"]);
    assert_eq!(channels(&asked[1]), ["b", "d"]);
    assert_eq!(channels(&asked[2]), ["b"]);
    let keys: Vec<_> = asked.iter().map(|request| request["idempotency_key"].as_str().unwrap()).collect();
    assert!(keys[0].len() == 32 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(asked.iter().all(|request| request["data"] == json!({"n": 1})));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_keeps_failing_keeps_its_error() {
    let fails = || Ok(json!([failure(111)]));
    let (client, asked) =
        broadcaster(vec![Ok(json!([offset(1), failure(111), offset(3), offset(4)])), fails(), fails()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(111), Ok(3), Ok(4)]);
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_only_channels_that_were_not_published_to_are_retried() {
    let responses = vec![Ok(json!([failure(100), failure(111), offset(3), failure(100)])), Ok(json!([offset(2)]))];
    let (client, asked) = broadcaster(responses, quick_retry().idempotency_keys(false));
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Err(100), Ok(2), Ok(3), Err(100)]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!((asked.len(), channels(&asked[1])), (2, vec!["b"]));
    assert_eq!(asked[1].get("idempotency_key"), None);

    let (client, asked) =
        broadcaster(vec![Ok(json!([failure(111), offset(2), offset(3), offset(4)]))], crate::support::once());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Err(111), Ok(2), Ok(3), Ok(4)]);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_unknown_outcome_affects_its_channels_only() {
    // Without a key, so that it is not retried again.
    let lost = || Err(Error::new(ErrorKind::Lost, "no response"));
    let first = || Ok(json!([offset(1), failure(111), failure(102), failure(111)]));
    let (client, asked) = broadcaster(vec![first(), lost()], quick_retry().idempotency_keys(false));
    let result = client.broadcast(abcd()).await.unwrap();
    assert_eq!(joined(&result), [Ok(1), Err(100), Err(102), Err(100)]);
    for (channel, error) in result.failed().filter(|(channel, _)| *channel != "c") {
        assert!(
            error.temporary && error.message.contains("the outcome of the retry of this channel is unknown"),
            "{channel}: {error}"
        );
        assert!(Error::from(error.clone()).may_have_run());
    }
    assert_eq!(asked.lock().unwrap().len(), 2);

    // With one it is, as often as there are attempts.
    let (client, asked) = broadcaster(vec![first(), lost(), lost()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(100), Err(102), Err(100)]);
    assert_eq!(asked.lock().unwrap().len(), 3);

    // One that was not sent changes nothing.
    let nobody = || Err(Error::new(ErrorKind::Connect, "connection refused"));
    let (client, _) = broadcaster(vec![first(), nobody(), nobody()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(111), Err(102), Err(111)]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_too_few_results_shifts_none() {
    let responses = vec![Ok(json!([offset(1), failure(111), offset(3), failure(111)])), Ok(json!([offset(2)]))];
    let (client, _) = broadcaster(responses, quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(100), Ok(3), Err(100)]);
}

#[tokio::test]
async fn a_broadcast_that_names_a_channel_twice_publishes_twice() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        client.broadcast(BroadcastRequest::new(["a", "b", "a"], json!(1))).await.unwrap().all_ok().unwrap();
        assert_eq!((server.applied("a"), server.applied("b")), (2, 1));
    }
}
