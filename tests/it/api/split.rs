//! Batches and broadcasts that are too large for one request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::{Reply, from_fn};
use centrifugo_api::{
    Batch, BatchHandle, BroadcastRequest, Client, Error, ErrorKind, HistoryRequest, Outcome, Payload, PublishRequest,
    PublishResult,
};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use crate::support::{BOTH, Over, client_responding, quick_retry};

/// What goes in one request, in bytes.
const LIMIT: usize = 2_000;

/// A server that takes any length, and a client with the limit.
async fn limited(over: Over) -> (Server, Client) {
    let server = Server::start().await.unwrap();
    let client = Client::new(over.config(&server).max_request_size(LIMIT).retry(quick_retry())).unwrap();
    (server, client)
}

/// A server, or a proxy before it, with the limit, and a client that knows nothing of it.
async fn refusing(over: Over) -> (Server, Client) {
    let server = Server::builder().max_grpc_message(LIMIT).max_http_body(LIMIT).start().await.unwrap();
    let client = Client::new(over.config(&server).retry(quick_retry())).unwrap();
    (server, client)
}

/// A publication that is this long, more or less.
fn long(n: usize, length: usize) -> PublishRequest {
    PublishRequest::new("news", json!({"n": n, "text": "x".repeat(length)}))
}

/// Publications that go in three requests, or in four when they are halved.
fn nine(batch: &mut Batch) -> Vec<BatchHandle<PublishResult>> {
    (0..9).map(|n| batch.push(long(n, 500))).collect()
}

/// The numbers of what was published, request after request.
fn numbers(server: &Server) -> Vec<Vec<u64>> {
    let number = |command: &Value| command["publish"]["data"]["n"].as_u64();
    let commands = |request: &Value| request["commands"].as_array().unwrap().iter().filter_map(number).collect();
    server.calls().iter().map(|call| commands(&call.request)).collect()
}

/// What became of each command: its offset, or its error's kind and outcome.
fn outcomes(
    replies: &centrifugo_api::BatchReplies,
    handles: &[BatchHandle<PublishResult>],
) -> Vec<Result<u64, (ErrorKind, Outcome)>> {
    let outcome = |handle: &BatchHandle<PublishResult>| match replies.get(*handle) {
        Ok(result) => Ok(result.offset),
        Err(error) => {
            assert_eq!(error.method(), Some("publish"));
            Err((error.kind(), error.outcome()))
        }
    };
    handles.iter().map(outcome).collect()
}

#[tokio::test]
async fn a_batch_over_the_clients_limit_is_split_into_the_fewest_requests() {
    for over in BOTH {
        for parallel in [false, true] {
            let (server, client) = limited(over).await;
            let mut batch = Batch::new().idempotency_keys(false).parallel(parallel);
            let handles = nine(&mut batch);
            let replies = client.batch(&batch).await.unwrap();
            assert_eq!(numbers(&server), [[0, 1, 2], [3, 4, 5], [6, 7, 8]]);
            assert!(server.calls().iter().all(|call| call.request["parallel"] == json!(true) || !parallel));
            let mut offsets: Vec<_> = outcomes(&replies, &handles).into_iter().map(Result::unwrap).collect();
            offsets.sort_unstable();
            assert_eq!(offsets, (1..10).collect::<Vec<_>>());
            assert_eq!((replies.len(), server.applied("news")), (9, 9));
            // The batch is what it was.
            client.batch(&batch).await.unwrap().all_ok().unwrap();
            assert_eq!(server.applied("news"), 18);
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_as_too_large_is_halved_until_it_fits() {
    for over in BOTH {
        let (server, client) = refusing(over).await;
        let mut batch = Batch::new().idempotency_keys(false);
        let handles = nine(&mut batch);
        let replies = client.batch(&batch).await.unwrap();
        assert_eq!(numbers(&server), [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7, 8]]);
        assert_eq!(outcomes(&replies, &handles), (1..10).map(Ok).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn commands_given_as_json_are_split_too() {
    for over in BOTH {
        let (server, client) = limited(over).await;
        let mut batch = Batch::new().idempotency_keys(false);
        let mut typed = Vec::new();
        let mut raw = Vec::new();
        for n in 0..4 {
            typed.push(batch.push(long(2 * n, 500)));
            let params = json!({"channel": "news", "data": {"n": 2 * n + 1, "text": "x".repeat(500)}});
            raw.push(batch.push_json("publish", params).unwrap());
        }
        let replies = client.batch(&batch).await.unwrap();
        assert_eq!(numbers(&server).concat(), (0..8).collect::<Vec<_>>());
        assert_eq!(server.calls().len(), 3);
        for (n, (typed, raw)) in (0..).zip(typed.into_iter().zip(raw)) {
            assert_eq!(replies.get(typed).unwrap().offset, 2 * n + 1);
            assert_eq!(replies.get_json::<Value>(raw).unwrap()["offset"], 2 * n + 2);
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_of_a_batch_with_a_command_over_the_clients_limit() {
    for over in BOTH {
        for parallel in [false, true] {
            let (server, client) = limited(over).await;
            let mut batch = Batch::new().idempotency_keys(false).parallel(parallel);
            nine(&mut batch);
            batch.push(long(9, LIMIT));
            let error = client.batch(&batch).await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent), "{error}");
            assert_eq!((error.method(), server.calls().len()), (Some("batch"), 0), "{error}");
        }
    }
}

#[tokio::test]
async fn a_command_that_is_refused_as_too_large_ends_a_sequential_batch() {
    let (refused, skipped) = ((ErrorKind::TooLarge, Outcome::Refused), (ErrorKind::Unavailable, Outcome::NotSent));
    for over in BOTH {
        for parallel in [false, true] {
            let (server, client) = refusing(over).await;
            let mut batch = Batch::new().idempotency_keys(false).parallel(parallel);
            let lengths = [10, 10, LIMIT, 10];
            let handles: Vec<_> = (0..).zip(lengths).map(|(n, length)| batch.push(long(n, length))).collect();
            let replies = client.batch(&batch).await.unwrap();
            let last = if parallel { Ok(3) } else { Err(skipped) };
            let mut outcomes = outcomes(&replies, &handles);
            if parallel {
                // Those of one request run in any order.
                outcomes[..2].sort_by_key(|outcome| *outcome.as_ref().unwrap());
            }
            assert_eq!(outcomes, [Ok(1), Ok(2), Err(refused), last]);
            assert_eq!(server.applied("news"), if parallel { 3 } else { 2 });
        }
    }
}

#[tokio::test]
async fn replies_of_earlier_parts_are_kept_when_a_later_part_fails() {
    let (lost, skipped) = ((ErrorKind::Lost, Outcome::Unknown), (ErrorKind::Unavailable, Outcome::NotSent));
    for over in BOTH {
        for parallel in [false, true] {
            let (server, client) = limited(over).await;
            server.fault(Fault::cut_after().after(1));
            let mut batch = Batch::new().idempotency_keys(false).parallel(parallel);
            let handles = nine(&mut batch);
            let replies = client.batch(&batch).await.unwrap();
            let outcomes = outcomes(&replies, &handles);
            assert!(outcomes[..3].iter().all(Result::is_ok), "{outcomes:?}");
            assert_eq!(outcomes[3..6], [Err(lost); 3]);
            if parallel {
                assert!(outcomes[6..].iter().all(Result::is_ok), "{outcomes:?}");
            } else {
                assert_eq!(outcomes[6..], [Err(skipped); 3]);
                let error = replies.get(handles[8]).unwrap_err();
                assert!(error.to_string().contains("ended without a response"), "it says why: {error}");
            }
            assert_eq!(server.applied("news"), if parallel { 9 } else { 6 });
        }
    }
}

#[tokio::test]
async fn a_batch_fails_with_its_first_part_if_that_fails() {
    for over in BOTH {
        let (server, client) = limited(over).await;
        server.fault(Fault::cut_before());
        let mut batch = Batch::new().idempotency_keys(false);
        nine(&mut batch);
        let error = client.batch(&batch).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.method()), (ErrorKind::Lost, Outcome::Unknown, Some("batch")));
        assert_eq!((server.calls().len(), server.applied("news")), (1, 0));
    }
}

#[tokio::test]
async fn each_part_is_retried_alone_with_the_same_keys() {
    for over in BOTH {
        let (server, client) = limited(over).await;
        server.fault(Fault::cut_after().after(1).times(2));
        let mut batch = Batch::new().idempotency_keys(false).idempotency_keys(true);
        let handles = nine(&mut batch);
        let replies = client.batch(&batch).await.unwrap();
        assert_eq!(outcomes(&replies, &handles), (1..10).map(Ok).collect::<Vec<_>>());
        let (parts, calls) = (numbers(&server), server.calls());
        assert_eq!(parts[1..4], [parts[1].clone(), parts[1].clone(), parts[1].clone()]);
        assert_eq!(calls[1].request, calls[3].request);
        assert_eq!(server.applied("news"), 9);
    }
}

#[tokio::test]
async fn a_part_that_only_reads_is_retried_though_another_cannot_be() {
    for over in BOTH {
        let (server, client) = limited(over).await;
        let mut batch = Batch::new().idempotency_keys(false);
        let handles = nine(&mut batch);
        let reads: Vec<_> = (0..40).map(|_| batch.push(HistoryRequest::new("y".repeat(100)))).collect();
        let sizes = client.batch(&batch).await.unwrap();
        assert_eq!(sizes.len(), 49);
        let parts = u64::try_from(server.calls().len()).unwrap();
        // The last part has reads only.
        server.fault(Fault::cut_before().after(parts - 1));
        let replies = client.batch(&batch).await.unwrap();
        assert!(handles.iter().all(|handle| replies.get(*handle).is_ok()));
        assert!(reads.iter().all(|handle| replies.get(*handle).is_ok()));
    }
}

/// A client with scripted responses, which never come after the last, and the requests that it sent.
fn scripted(responses: impl IntoIterator<Item = Result<Reply, Error>>) -> (Client, Arc<Mutex<Vec<Value>>>) {
    let asked = Arc::<Mutex<Vec<Value>>>::default();
    let responses: Vec<_> = responses.into_iter().collect();
    let (seen, responses) = (Arc::clone(&asked), Mutex::new(responses.into_iter()));
    let client = Client::with_transport(from_fn("scripted", move |call| {
        seen.lock().unwrap().push(serde_json::from_slice(&call.to_json().unwrap()).unwrap());
        let response = responses.lock().unwrap().next();
        async move {
            match response {
                Some(response) => response,
                None => std::future::pending().await,
            }
        }
    }));
    (client.with_timeout(Duration::from_secs(10)), asked)
}

fn too_large() -> Result<Reply, Error> {
    Err(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_of_a_parallel_batch_after_its_deadline() {
    let replies = Reply::json(r#"{"replies":[{"publish":{"offset":1}},{"publish":{"offset":2}}]}"#);
    // Halved twice; the first quarter gets a response, the second never.
    let (client, asked) = scripted([too_large(), too_large(), Ok(replies)]);
    let mut batch = Batch::new().idempotency_keys(false).parallel(true);
    let handles: Vec<_> = (0..8).map(|n| batch.push(long(n, 1))).collect();
    let replies = client.batch(&batch).await.unwrap();
    let (unknown, not_sent) = ((ErrorKind::Timeout, Outcome::Unknown), (ErrorKind::Timeout, Outcome::NotSent));
    let expected = [vec![Ok(1), Ok(2)], vec![Err(unknown); 2], vec![Err(not_sent); 4]].concat();
    assert_eq!(outcomes(&replies, &handles), expected);
    assert_eq!(asked.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_parts_all_failed_is_unknown_if_one_is() {
    let refused = || Err(Error::new(ErrorKind::Unauthenticated, "no"));
    let lost = || Err(Error::new(ErrorKind::Lost, "lost"));
    let (client, _) = scripted([too_large(), refused(), lost()]);
    let mut batch = Batch::new().idempotency_keys(false).parallel(true);
    for n in 0..2 {
        batch.push(long(n, 1));
    }
    let error = client.batch(&batch).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_may_have_run_is_not_split() {
    let long_reply = Error::new(ErrorKind::TooLarge, "the reply is too large").with_outcome(Outcome::Unknown);
    let (client, asked) = scripted([Err(long_reply)]);
    let mut batch = Batch::new().idempotency_keys(false);
    nine(&mut batch);
    assert!(client.batch(&batch).await.unwrap_err().may_have_run());
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// Channels that go in several requests, with names that are longer in JSON.
fn channels() -> Vec<String> {
    (0..100).map(|n| format!("{n:03}\"\u{7}\n{}", "é".repeat(20))).collect()
}

#[tokio::test]
async fn a_split_broadcast_publishes_once_in_each_channel_with_results_in_order() {
    for over in BOTH {
        for (server, client) in [limited(over).await, refusing(over).await] {
            let channels = channels();
            // Each at another position, so that responses in another order would be seen.
            for (n, channel) in channels.iter().enumerate() {
                for _ in 0..n % 3 {
                    client.publish(PublishRequest::new(channel, json!(0))).await.unwrap();
                }
            }
            server.clear_calls();
            let result = client.broadcast(BroadcastRequest::new(&channels, json!({"n": 1}))).await.unwrap();
            let offsets: Vec<_> = result.iter().map(|it| it.unwrap().offset).collect();
            assert_eq!(offsets, (0..100).map(|n| n % 3 + 1).collect::<Vec<_>>());
            let calls = server.calls();
            assert!(calls.len() > 2, "{calls:?}");
            let keys: Vec<_> = calls.iter().map(|call| call.request["idempotency_key"].as_str().unwrap()).collect();
            assert!(keys.iter().all(|key| *key == keys[0]), "the key is the call's");
            let asked = calls.iter().flat_map(|call| call.request["channels"].as_array().unwrap());
            assert!(asked.map(|channel| channel.as_str().unwrap()).eq(channels.iter().map(String::as_str)));
        }
    }
}

#[tokio::test]
async fn a_broadcast_of_data_over_the_clients_limit_is_not_sent() {
    for over in BOTH {
        let (server, client) = limited(over).await;
        let request = BroadcastRequest::new(channels(), json!("x".repeat(LIMIT)));
        let error = client.broadcast(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent), "{error}");
        assert_eq!((error.attempts(), server.calls().len()), (1, 0));
    }
}

fn offsets(of: &[u64]) -> Reply {
    let responses: Vec<_> = of.iter().map(|offset| json!({"result": {"offset": offset}})).collect();
    Reply::json(json!({"result": {"responses": responses}}).to_string())
}

#[tokio::test(start_paused = true)]
async fn a_failed_part_of_a_broadcast_fails_its_channels() {
    let refused = Error::new(ErrorKind::Unauthenticated, "no").with_outcome(Outcome::Refused);
    let lost = Error::new(ErrorKind::Lost, "lost");
    let responses =
        [too_large(), too_large(), Ok(offsets(&[1])), Err(lost), too_large(), Err(refused), Ok(offsets(&[4]))];
    let (client, _) = scripted(responses);
    let request = || BroadcastRequest::new(["a", "b", "c", "d"], json!(1));
    let result = client.broadcast(request()).await.unwrap();
    let told: Vec<_> = result.iter().map(|it| it.map(|it| it.offset).map_err(|error| error.code)).collect();
    assert_eq!(told, [Ok(1), Err(100), Err(100), Ok(4)]);
    let texts: Vec<_> = result.failed().map(|(_, error)| error.message.clone()).collect();
    assert!(texts[0].contains("unknown") && texts[1].contains("did not take effect"), "{texts:?}");

    // The call fails as its first part does.
    let (client, asked) = scripted([too_large(), Err(Error::new(ErrorKind::Lost, "lost"))]);
    let error = client.broadcast(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), asked.lock().unwrap().len()), (ErrorKind::Lost, Outcome::Unknown, 2));
}

#[tokio::test(start_paused = true)]
async fn the_channels_of_a_failed_part_are_retried_a_bounded_number_of_times() {
    let lost = || Err(Error::new(ErrorKind::Lost, "lost"));
    let twice = || [lost(), lost()];
    let responses = [too_large()].into_iter().chain([Ok(offsets(&[1]))]).chain(twice()).chain([lost()]);
    // The part that failed three times had all its attempts.
    let (client, asked) = scripted(responses);
    let client = client.with_retry(quick_retry());
    let result = client.broadcast(BroadcastRequest::new(["a", "b"], json!(1))).await.unwrap();
    assert_eq!((result.failed().count(), asked.lock().unwrap().len()), (1, 5));

    // After a part between others, there is an attempt left for its channels.
    let responses = [too_large(), too_large(), Ok(offsets(&[1]))].into_iter().chain(twice());
    let (client, asked) = scripted(responses.chain([lost(), Ok(offsets(&[3, 4])), Ok(offsets(&[2]))]));
    let client = client.with_retry(quick_retry());
    let result = client.broadcast(BroadcastRequest::new(["a", "b", "c", "d"], json!(1))).await.unwrap();
    let told: Vec<_> = result.iter().map(|it| it.unwrap().offset).collect();
    assert_eq!((told, asked.lock().unwrap().len()), (vec![1, 2, 3, 4], 8));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_part_is_under_the_limit_and_every_command_is_sent_once_in_order(
        lengths in prop::collection::vec(0_usize..300, 1..60),
        limit in 300_usize..2_000,
        json_form in any::<bool>(),
        parallel in any::<bool>(),
    ) {
        let asked: Arc<Mutex<Vec<Vec<u64>>>> = Arc::default();
        let seen = Arc::clone(&asked);
        // Refuses what is over the limit, in either form, and never says what the limit is.
        let client = client_responding(move |call| {
            let json: Value = serde_json::from_slice(&call.to_json()?).unwrap();
            let length = if json_form { call.to_json()?.len() } else { call.to_protobuf()?.len() };
            if length > limit {
                return too_large();
            }
            let commands = json["commands"].as_array().unwrap();
            let numbers: Vec<_> = commands.iter().map(|it| it["publish"]["version"].as_u64().unwrap()).collect();
            let replies: Vec<_> = numbers.iter().map(|n| json!({"publish": {"offset": n}})).collect();
            seen.lock().unwrap().push(numbers);
            Ok(Reply::json(json!({"replies": replies}).to_string()))
        });
        let mut batch = Batch::new().idempotency_keys(false).parallel(parallel);
        let handles: Vec<_> = (1..).zip(&lengths).map(|(n, length)| {
            let data = Payload::binary("x".repeat(*length).into_bytes());
            batch.push(PublishRequest::new("news", data).version(n))
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let sent = runtime.block_on(client.batch(&batch));
        let asked = asked.lock().unwrap().concat();
        match sent {
            Ok(replies) => {
                let told: Vec<_> = handles.iter().map(|handle| replies.get(*handle).ok().map(|it| it.offset)).collect();
                let responded: Vec<_> = told.iter().flatten().copied().collect();
                prop_assert_eq!(&asked, &responded);
                prop_assert!(responded.windows(2).all(|pair| pair[0] < pair[1]));
                for (n, told) in (1..).zip(&told) {
                    prop_assert!(told.is_none_or(|told| told == n));
                }
            }
            Err(error) => {
                prop_assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::TooLarge, false));
                prop_assert!(asked.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_batch_that_fits_exactly_is_one_request() {
    let server = Server::start().await.unwrap();
    let request = long(0, 500);
    // Twice: number and length of the command, and of the request in it.
    let size = request.encoded_len() + 2 * 3;
    let two = |limit| {
        let client = Client::new(Over::Grpc.config(&server).max_request_size(limit)).unwrap();
        let mut batch = Batch::new().idempotency_keys(false);
        batch.push(&request);
        batch.push(&request);
        async move { client.batch(&batch).await }
    };
    two(2 * size).await.unwrap().all_ok().unwrap();
    assert_eq!(server.calls().len(), 1);
    two(2 * size - 1).await.unwrap().all_ok().unwrap();
    assert_eq!(server.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_parts_all_failed_counts_as_unknown_if_one_may_have_run() {
    let lost = Err(Error::new(ErrorKind::Lost, "the first half").with_outcome(Outcome::Unknown));
    let unsent = || Err(Error::new(ErrorKind::Unavailable, "the second half").with_outcome(Outcome::NotSent));
    // The second half is tried three times, and the client closed meanwhile.
    let (client, _) = scripted([too_large(), lost, unsent(), unsent(), unsent()]);
    let client = client.with_retry(quick_retry());
    let mut batch = Batch::new().idempotency_keys(false).parallel(true);
    batch.push(PublishRequest::new("one", json!({})));
    batch.push(PublishRequest::new("two", json!({})));
    let (sent, closed) = tokio::join!(client.batch(&batch), client.close(Duration::from_secs(60)));
    let error = sent.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown));
    assert_eq!((closed.unknown, closed.not_sent), (1, 0));
}
