//! Batches, and calls given as JSON, are retried by the rules of their commands.

use centrifugo_api::message::{InfoRequest, RpcRequest};
use centrifugo_api::testing::Fault;
use centrifugo_api::{ApiError, Batch, BroadcastRequest, Client, Config, ErrorKind, HistoryRequest, Outcome};
use serde_json::{Value, json};

use crate::support::{BOTH, Over, SECOND, assert_error, h1script, quick_retry, request, soon, start, within};

fn two(keys: bool) -> Batch {
    let mut batch = Batch::new().idempotency_keys(keys);
    batch.push(request());
    batch.push(BroadcastRequest::new(["a", "b"], json!(2)));
    batch
}

#[tokio::test]
async fn a_batch_with_keys_is_retried_as_a_whole_and_one_without_is_not() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        server.fault(Fault::cut_after().times(2));
        let batch = two(true);
        assert_eq!(within(5 * SECOND, client.batch(&batch)).await.unwrap().len(), 2);
        let calls = server.calls();
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| call.request == calls[0].request));
        for command in ["publish", "broadcast"] {
            let commands = calls[0].request["commands"].as_array().unwrap();
            let key = commands.iter().find_map(|found| found[command]["idempotency_key"].as_str()).unwrap();
            assert_eq!(key.len(), 32);
        }
        assert_eq!(["news", "a", "b"].map(|channel| server.applied(channel)), [1; 3]);
        // Sending it again makes other keys, and publishes again.
        within(5 * SECOND, client.batch(&batch)).await.unwrap().all_ok().unwrap();
        assert_eq!(server.applied("news"), 2);
        assert_ne!(server.calls()[3].request, calls[0].request);

        server.clear_calls();
        server.fault(Fault::cut_after());
        let error = within(5 * SECOND, client.batch(&two(false))).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        assert_eq!((server.calls().len(), server.applied("news")), (1, 3));

        // It is if it was not applied, or if it only reads.
        let mut reads = Batch::new();
        reads.push(HistoryRequest::new("news"));
        reads.push(InfoRequest::new());
        server.clear_calls();
        server.fault(Fault::cut_after());
        within(5 * SECOND, client.batch(&reads)).await.unwrap().all_ok().unwrap();
        assert_eq!(server.calls().len(), 2);
        // One command is enough to forbid it.
        reads.push(RpcRequest::new("pay"));
        server.fault(Fault::cut_after());
        let error = within(5 * SECOND, client.batch(&reads)).await.unwrap_err();
        assert_eq!(error.attempts(), 1);
    }
    let server = start().await;
    server.fault(Fault::http_status(429));
    within(5 * SECOND, Over::Http.client_with(&server, quick_retry()).batch(&two(false)))
        .await
        .unwrap()
        .all_ok()
        .unwrap();
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_call_given_as_json_is_retried_by_the_same_rules() {
    // The method, its parameters, and whether it is retried after it may have been applied.
    let cases = [
        ("info", json!({}), true),
        ("history", json!({"channel": "news"}), true),
        ("publish", json!({"channel": "news", "data": 1, "idempotency_key": "mine"}), true),
        ("publish", json!({"channel": "news", "data": 1}), false),
        ("disconnect", json!({"user": "me"}), false),
        ("history_remove", json!({"channel": "news"}), false),
        ("batch", json!({"commands": [{"info": {}}, {"history": {"channel": "news"}}]}), true),
        ("batch", json!({"commands": [{"info": {}}, {"disconnect": {"user": "me"}}]}), false),
        ("batch", json!({"commands": [{"publish": {"channel": "a", "data": 1, "idempotency_key": "k"}}]}), true),
    ];
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        for (method, params, repeats) in &cases {
            server.clear_calls();
            server.fault(Fault::cut_after());
            let called = within(5 * SECOND, client.call_json::<Value>(method, params)).await;
            assert_eq!(called.is_ok(), *repeats, "{over:?} {method} {params}: {called:?}");
            let calls = server.calls();
            assert_eq!(calls.len(), 1 + usize::from(*repeats));
            assert!(calls.iter().all(|call| call.request == calls[0].request));
            // If it was not applied, it is retried in any case.
            server.clear_calls();
            // Over gRPC, no response of the stand-in says so of a whole batch.
            if *method != "batch" || over == Over::Http {
                server.fault(match over {
                    Over::Grpc => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")),
                    Over::Http => Fault::http_status(429),
                });
                within(5 * SECOND, client.call_json::<Value>(method, params)).await.unwrap();
                assert_eq!(server.calls().len(), 2);
            }
        }
    }
}

#[tokio::test]
async fn a_method_outside_the_schema_is_not_retried_after_it_may_have_run() {
    let server = h1script::replying(|_| h1script::Reply::json(503, "").applied());
    let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
    let error = soon(client.call_json::<Value>("new_method", json!({}))).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, 1);
    assert_eq!(server.tally.applied().len(), 1);
}
