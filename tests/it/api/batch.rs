//! Batches.

use centrifugo_api::message::{ConnectionsRequest, PresenceStatsRequest, RpcRequest};
use centrifugo_api::{
    ApiError, Batch, Client, ErrorKind, HistoryRequest, HistoryResult, PublishRequest, StreamPosition,
};
use serde_json::{Value, json};

use super::suite::{assert_code, assert_kind, kept, offsets, publish, suite};
use crate::support::{Over, servers::Setup};

async fn a_batch_runs_its_commands_in_order(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let history = HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT);
    let mut batch = Batch::new();
    let before = batch.push(&history);
    let published = batch.push(PublishRequest::new(&channel, json!({"n": 1})));
    let after = batch.push(&history);
    let stats = batch.push(PresenceStatsRequest::new(&channel));
    assert_eq!(batch.len(), 4);

    let replies = client.batch(&batch).await.unwrap();
    assert_eq!(replies.len(), 4);
    assert_eq!(offsets(&replies.get(before).unwrap()), [0; 0]);
    assert_eq!(replies.get(published).unwrap().offset, 1);
    let after = replies.get(after).unwrap();
    assert_eq!((offsets(&after), after.publications[0].json::<Value>().unwrap()), (vec![1], json!({"n": 1})));
    assert_eq!(replies.get(stats).unwrap().num_clients, 0);
}

async fn replies_of_a_parallel_batch_are_in_the_order_of_its_commands(client: &Client, setup: &Setup) {
    let mut batch = Batch::new().parallel(true);
    let mut handles = Vec::new();
    for at in 0..20 {
        // Each channel at another position, so that replies in another order would be seen.
        let channel = setup.channel("");
        for _ in 0..at % 3 {
            publish(client, &channel, json!(0)).await;
        }
        handles.push((at % 3 + 1, batch.push(PublishRequest::new(channel, json!(1)))));
    }
    let replies = client.batch(&batch).await.unwrap();
    for (offset, handle) in handles {
        assert_eq!(replies.get(handle).unwrap().offset, offset);
    }
}

async fn a_failing_command_does_not_stop_the_others(client: &Client, setup: &Setup) {
    let mut batch = Batch::new();
    let refused = batch.push(PublishRequest::new(setup.channel("nope"), json!(1)));
    let published = batch.push(PublishRequest::new(setup.channel(""), json!(1)));
    let replies = client.batch(&batch).await.unwrap();
    let refused = replies.get(refused);
    assert_eq!(refused.as_ref().unwrap_err().method(), Some("publish"));
    assert_code(refused, ApiError::UNKNOWN_CHANNEL);
    assert_eq!(replies.get(published).unwrap().offset, 1);
}

async fn an_empty_batch_has_no_replies(client: &Client, _: &Setup) {
    for batch in [Batch::new(), Batch::new().parallel(true)] {
        assert!(client.batch(&batch).await.unwrap().is_empty());
    }
}

async fn a_command_that_the_server_does_not_have_is_unsupported(client: &Client, setup: &Setup) {
    let mut batch = Batch::new();
    let connections = batch.push(ConnectionsRequest::new());
    let rpc = batch.push(RpcRequest::new("nope"));
    let published = batch.push(PublishRequest::new(setup.channel("plain"), json!(1)));
    let replies = client.batch(&batch).await.unwrap();
    let error = assert_kind(replies.get(connections), ErrorKind::Unsupported, false);
    assert_eq!((error.code(), error.method()), (Some(ApiError::NOT_FOUND), Some("connections")));
    assert_code(replies.get(rpc), ApiError::NOT_FOUND);
    replies.get(published).unwrap();
}

async fn commands_given_as_json_run_as_typed_ones_do(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let mut batch = Batch::new();
    let published = batch.push_json("publish", json!({"channel": channel, "data": {"n": 1}})).unwrap();
    let refused = batch.push_json("history", json!({"channel": "nope:a"})).unwrap();
    let typed = batch.push(PresenceStatsRequest::new(&channel));
    let history = batch.push_json("history", json!({"channel": channel, "limit": -1})).unwrap();
    let replies = client.batch(&batch).await.unwrap();
    assert_eq!(replies.get_json::<Value>(published).unwrap()["offset"], 1);
    assert_code(replies.get_json::<Value>(refused), ApiError::UNKNOWN_CHANNEL);
    assert_eq!(replies.get(typed).unwrap().num_users, 0);
    let history: HistoryResult = replies.get_json(history).unwrap();
    assert_eq!(history.publications[0].json::<Value>().unwrap(), json!({"n": 1}));
}

async fn a_command_of_an_unknown_method_is_refused(client: &Client, setup: &Setup) {
    let mut batch = Batch::new();
    let unknown = batch.push_json("nope", json!({})).unwrap();
    batch.push(PublishRequest::new(setup.channel("plain"), json!(1)));
    let replies = client.batch(&batch).await;
    match setup.over {
        Over::Grpc => drop(assert_kind(replies, ErrorKind::Invalid, false)),
        Over::Http => {
            drop(assert_kind(replies.unwrap().get_json::<Value>(unknown), ErrorKind::Unsupported, false));
        }
    }
}

async fn a_batch_can_be_sent_twice(client: &Client, setup: &Setup) {
    let mut batch = Batch::new();
    let published = batch.push(PublishRequest::new(setup.channel(""), json!(1)));
    for offset in [1, 2] {
        let replies = client.batch(&batch).await.unwrap();
        assert_eq!(replies.get(published).unwrap().offset, offset);
    }
}

async fn a_handle_of_a_longer_batch_is_refused(client: &Client, setup: &Setup) {
    let request = PublishRequest::new(setup.channel("plain"), json!(1));
    let (mut short, mut long) = (Batch::new(), Batch::new());
    short.push(&request);
    long.push(&request);
    let second = long.push(&request);
    assert_kind(client.batch(&short).await.unwrap().get(second), ErrorKind::Invalid, false);
}

async fn a_handle_of_another_command_is_refused(client: &Client, setup: &Setup) {
    let (mut one, mut other) = (Batch::new(), Batch::new());
    one.push(PublishRequest::new(setup.channel(""), json!(1)));
    let history = other.push(HistoryRequest::new(setup.channel("")));
    let replies = client.batch(&one).await.unwrap();
    assert_kind(replies.get(history), ErrorKind::Invalid, false);
}

async fn a_batch_with_an_invalid_request_is_not_sent(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let mut batch = Batch::new();
    batch.push(PublishRequest::new(&channel, json!(1)));
    batch.push(HistoryRequest::new(&channel).reverse(true).since(StreamPosition::new(0, "")));
    let error = assert_kind(client.batch(&batch).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`reverse`"), "{error}");
    assert_eq!(kept(client, &channel).await.offset, 0);
}

async fn a_batch_of_5_mib_has_replies_in_order(client: &Client, setup: &Setup) {
    let channels: Vec<_> = (0..20).map(|_| setup.channel("")).collect();
    for parallel in [false, true] {
        let mut batch = Batch::new().parallel(parallel);
        let mut handles = Vec::new();
        // Each channel's next publication is longer by a letter.
        for n in 0..4 {
            for channel in &channels {
                handles.push(batch.push(PublishRequest::new(channel, json!("x".repeat(64 * 1024 + n)))));
            }
        }
        let replies = client.batch(&batch).await.unwrap();
        let mut found: Vec<_> = handles.iter().map(|handle| replies.get(*handle).unwrap().offset).collect();
        let first = if parallel { 5 } else { 1 };
        if parallel {
            found.sort_unstable();
        }
        let expected: Vec<_> = (first..first + 4).flat_map(|offset| [offset; 20]).collect();
        assert_eq!(found, expected);
    }
    for channel in &channels {
        let history = kept(client, channel).await;
        assert_eq!(offsets(&history), [1, 2, 3, 4, 5, 6, 7, 8]);
        let lengths: Vec<_> = history.publications[..4].iter().map(|it| it.data.len() - 64 * 1024 - 2).collect();
        assert_eq!(lengths, [0, 1, 2, 3]);
    }
}

suite! {
    everywhere {
        a_batch_runs_its_commands_in_order
        replies_of_a_parallel_batch_are_in_the_order_of_its_commands
        a_failing_command_does_not_stop_the_others
        an_empty_batch_has_no_replies
        a_command_that_the_server_does_not_have_is_unsupported
        commands_given_as_json_run_as_typed_ones_do
        a_command_of_an_unknown_method_is_refused
        a_batch_can_be_sent_twice
        a_handle_of_a_longer_batch_is_refused
        a_handle_of_another_command_is_refused
        a_batch_with_an_invalid_request_is_not_sent
        a_batch_of_5_mib_has_replies_in_order
    }
    standin {}
}
