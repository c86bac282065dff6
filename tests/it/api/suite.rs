//! What every server must do over both transports. Each function below runs six times: on the stand-in and on a real
//! server, over gRPC and over HTTP, and on the stand-in with a client whose calls share requests with those of others.

use std::time::Duration;

use centrifugo_api::testing::Fault;
use centrifugo_api::{
    ApiError, Batch, Batching, BlockUserRequest, BroadcastRequest, ChannelsRequest, Client, ClientInfo, Config,
    ConnectionsRequest, DisconnectRequest, Error, ErrorKind, FilterNode, HistoryRemoveRequest, HistoryRequest,
    HistoryResult, InfoRequest, MapClearRequest, MapPublishRequest, MapReadStateRequest, MapReadStreamRequest,
    MapRemoveRequest, MapStatsRequest, Method, Payload, PresenceRequest, PresenceStatsRequest, PublishRequest,
    PublishResult, RefreshRequest, Retry, RpcRequest, SharedPollPublishRequest, StreamPosition, SubscribeRequest, Tls,
    UnsubscribeRequest,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Over,
    servers::{self, Here},
};

macro_rules! suite {
    (everywhere { $($test:ident)* } standin { $($special:ident)* }) => {
        mod standin_grpc { $(suite! { @standin Grpc $test })* $(suite! { @standin Grpc $special })* }
        mod standin_http { $(suite! { @standin Http $test })* $(suite! { @standin Http $special })* }
        mod real_server_grpc { $(suite! { @real Grpc $test })* }
        mod real_server_http { $(suite! { @real Http $test })* }
        mod batching_grpc { $(suite! { @batching Grpc $test })* }
        mod batching_http { $(suite! { @batching Http $test })* }
    };
    (@batching $over:ident $test:ident) => {
        #[tokio::test]
        async fn $test() {
            let here = super::Here::standin(super::Over::$over).await;
            let client = here.client().with_batching(super::Batching::new().in_flight(1)).unwrap();
            let _crowd = super::crowd(&client);
            super::$test(&client, &here).await;
        }
    };
    (@standin $over:ident $test:ident) => {
        #[tokio::test]
        async fn $test() {
            let here = super::Here::standin(super::Over::$over).await;
            super::$test(&here.client(), &here).await;
        }
    };
    (@real $over:ident $test:ident) => {
        #[tokio::test]
        #[ignore = "needs a real server: set CENTRIFUGO_TEST_GRPC, _HTTP and _API_KEY, see tests/it/support/servers.rs"]
        async fn $test() {
            let here = super::Here::real(super::Over::$over);
            super::$test(&here.client(), &here).await;
        }
    };
}

/// Others who use the client all the time, until this is dropped: hardly a call has a request to itself then.
pub(crate) fn crowd(client: &Client) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..3 {
        let client = client.clone();
        crowd.spawn(async move {
            loop {
                // Where the key is wrong, nobody has an answer.
                let _ = client.info(InfoRequest::new()).await;
                tokio::task::yield_now().await;
            }
        });
    }
    crowd
}

/// Everything that a channel keeps.
async fn kept(client: &Client, channel: &str) -> HistoryResult {
    client.history(HistoryRequest::new(channel).limit(HistoryRequest::NO_LIMIT)).await.unwrap()
}

fn offsets(history: &HistoryResult) -> Vec<u64> {
    history.publications.iter().map(|publication| publication.offset).collect()
}

async fn publish(client: &Client, channel: &str, data: Value) -> PublishResult {
    client.publish(PublishRequest::new(channel, data)).await.unwrap()
}

#[track_caller]
fn assert_kind<T>(outcome: Result<T, Error>, kind: ErrorKind, may_have_run: bool) -> Error {
    let error = outcome.err().expect("the call should fail");
    assert_eq!((error.kind(), error.may_have_run()), (kind, may_have_run), "{error}");
    error
}

/// The outcome is this error of the API, and the call was not carried out.
#[track_caller]
fn assert_code<T>(outcome: Result<T, Error>, code: u32) {
    let error = assert_kind(outcome, ErrorKind::Api, false);
    assert_eq!(error.code(), Some(code), "{error}");
}

// Publishing

async fn each_publish_moves_the_position_by_one(client: &Client, here: &Here) {
    let channel = here.channel("");
    let first = publish(client, &channel, json!({"n": 1})).await;
    let second = publish(client, &channel, json!({"n": 2})).await;
    assert_eq!((first.offset, second.offset), (1, 2));
    assert!(!first.epoch.is_empty());
    assert_eq!(first.epoch, second.epoch);
}

async fn a_channel_without_history_has_no_position(client: &Client, here: &Here) {
    assert_eq!(publish(client, &here.channel("plain"), json!(1)).await, PublishResult::default());
}

async fn json_comes_back_as_the_same_value(client: &Client, here: &Here) {
    #[derive(serde::Serialize)]
    struct Message {
        text: &'static str,
    }
    let channel = here.channel("");
    let raw = r#"{"price": 1.10, "html": "<b>\u00e9</b>", "big": 18446744073709551615}"#;
    for data in [Payload::from(json!([1, null])), Payload::json(&Message { text: "hi" }).unwrap()] {
        client.publish(PublishRequest::new(&channel, data)).await.unwrap();
    }
    client.publish(PublishRequest::new(&channel, Payload::raw_json(raw).unwrap())).await.unwrap();

    let kept = kept(client, &channel).await.publications;
    assert_eq!(kept[0].json::<Value>().unwrap(), json!([1, null]));
    assert_eq!(kept[1].json::<Value>().unwrap(), json!({"text": "hi"}));
    let text = match here.over {
        Over::Grpc => raw,
        // The server compacts and escapes; no digit is lost.
        Over::Http => r#"{"price":1.10,"html":"\u003cb\u003e\u00e9\u003c/b\u003e","big":18446744073709551615}"#,
    };
    assert_eq!(kept[2].data, text);
}

async fn null_is_data_and_nothing_is_none(client: &Client, here: &Here) {
    let channel = here.channel("");
    client.publish(PublishRequest::new(&channel, Payload::raw_json("null").unwrap())).await.unwrap();
    assert_eq!(kept(client, &channel).await.publications[0].data, "null");
    assert_code(client.publish(PublishRequest::new(&channel, Payload::default())).await, ApiError::BAD_REQUEST);
}

async fn binary_data_is_published_and_read_back_over_grpc_only(client: &Client, here: &Here) {
    let channel = here.channel("");
    let bytes = vec![0xff, 0x00, b'"'];
    let position = client.publish(PublishRequest::new(&channel, Payload::binary(bytes.clone()))).await.unwrap();
    assert_eq!(position.offset, 1);
    let history = client.history(HistoryRequest::new(&channel).limit(1)).await;
    match here.over {
        Over::Grpc => assert_eq!(history.unwrap().publications[0].data, bytes),
        Over::Http => drop(assert_kind(history, ErrorKind::Protocol, true)),
    }
    let position = client.history(HistoryRequest::new(&channel)).await.unwrap();
    assert_eq!(position.offset, 1, "the position alone can be read over both");
}

async fn data_in_base64_is_decoded_by_the_server(client: &Client, here: &Here) {
    let channel = here.channel("");
    let request = PublishRequest::new(&channel, Payload::default());
    client.publish(request.clone().b64data("eyJhIjoxfQ==")).await.unwrap();
    assert_eq!(kept(client, &channel).await.publications[0].data, r#"{"a":1}"#);
    assert_code(client.publish(request.b64data("%")).await, ApiError::BAD_REQUEST);
}

async fn a_namespace_may_demand_a_format(client: &Client, here: &Here) {
    let publish = async |namespace, data| client.publish(PublishRequest::new(here.channel(namespace), data)).await;
    assert_code(publish("json", Payload::binary(vec![0xff])).await, ApiError::BAD_REQUEST);
    assert_code(publish("object", Payload::from(json!([1]))).await, ApiError::BAD_REQUEST);
    publish("json", Payload::from(json!([1]))).await.unwrap();
    publish("object", Payload::from(json!({}))).await.unwrap();
    publish("binary", Payload::default()).await.unwrap();
}

async fn tags_come_back_with_the_publication(client: &Client, here: &Here) {
    let channel = here.channel("");
    client.publish(PublishRequest::new(&channel, json!(1)).tags([("a", "1"), ("b", "")])).await.unwrap();
    let kept = kept(client, &channel).await;
    let tags: Vec<_> = kept.publications[0].tags.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(tags, [("a", "1"), ("b", "")]);
}

async fn skipped_history_keeps_nothing(client: &Client, here: &Here) {
    let channel = here.channel("");
    let result = client.publish(PublishRequest::new(&channel, json!(1)).skip_history(true)).await.unwrap();
    assert_eq!(result, PublishResult::default());
    assert_eq!(kept(client, &channel).await.offset, 0);
}

async fn a_repeated_idempotency_key_publishes_once(client: &Client, here: &Here) {
    let channel = here.channel("");
    let request = PublishRequest::new(&channel, json!(1)).idempotency_key("key");
    let first = client.publish(&request).await.unwrap();
    publish(client, &channel, json!(2)).await;
    assert_eq!(client.publish(&request).await.unwrap(), first);
    assert_eq!(offsets(&kept(client, &channel).await), [1, 2]);
}

async fn a_stale_version_publishes_nothing(client: &Client, here: &Here) {
    let channel = here.channel("");
    let version = |version| PublishRequest::new(&channel, json!(version)).version(version).version_epoch("e");
    let newest = client.publish(version(u64::MAX)).await.unwrap();
    assert_eq!(client.publish(version(u64::MAX - 1)).await.unwrap(), newest);
    assert_eq!(offsets(&kept(client, &channel).await), [1]);
}

// Errors of the API

async fn an_unknown_namespace_is_error_102(client: &Client, here: &Here) {
    let channel = here.channel("nope");
    assert_code(client.publish(PublishRequest::new(&channel, json!(1))).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.history(HistoryRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.presence(PresenceRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.subscribe(SubscribeRequest::new(&channel, "ghost")).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.map_stats(MapStatsRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
}

async fn an_empty_channel_is_error_107(client: &Client, _: &Here) {
    assert_code(client.publish(PublishRequest::new("", json!(1))).await, ApiError::BAD_REQUEST);
    assert_code(client.history(HistoryRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.history_remove(HistoryRemoveRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.presence(PresenceRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.presence_stats(PresenceStatsRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.subscribe(SubscribeRequest::new("", "ghost")).await, ApiError::BAD_REQUEST);
}

async fn what_a_namespace_does_not_keep_is_error_108(client: &Client, here: &Here) {
    let channel = here.channel("plain");
    assert_code(client.history(HistoryRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.history_remove(HistoryRemoveRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.presence(PresenceRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.presence_stats(PresenceStatsRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
}

async fn an_error_says_where_it_happened(client: &Client, here: &Here) {
    let error = client.history(HistoryRequest::new(here.channel("nope"))).await.unwrap_err();
    let transport = match here.over {
        Over::Grpc => "grpc",
        Over::Http => "http",
    };
    assert_eq!((error.method(), error.transport()), (Some("history"), Some(transport)));
    let endpoint = error.endpoint().unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("history over {transport} to {endpoint}: error 102 (unknown channel); ")),
        "{text}"
    );
}

// Broadcast

async fn a_broadcast_answers_for_every_channel_in_order(client: &Client, here: &Here) {
    let (first, second, plain) = (here.channel(""), here.channel(""), here.channel("plain"));
    publish(client, &second, json!(0)).await;
    let channels = [&*first, "nope:a", &second, "", &plain];
    let result = client.broadcast(BroadcastRequest::new(channels, json!({"n": 1}))).await.unwrap();
    let outcomes: Vec<_> =
        result.iter().map(|outcome| outcome.map(|it| it.offset).map_err(|error| error.code)).collect();
    assert_eq!(outcomes, [Ok(1), Err(102), Ok(2), Err(107), Ok(0)]);
    let failed: Vec<_> = result.failed().map(|(index, error)| (index, error.code)).collect();
    assert_eq!(failed, [(1, 102), (3, 107)]);
    assert_eq!(kept(client, &second).await.publications[1].json::<Value>().unwrap(), json!({"n": 1}));
}

async fn a_broadcast_in_which_all_fail_is_a_success(client: &Client, here: &Here) {
    let channels = [here.channel("nope"), here.channel("nope")];
    let result = client.broadcast(BroadcastRequest::new(channels, json!(1))).await.unwrap();
    assert_eq!(result.failed().count(), 2);
}

async fn a_broadcast_to_no_channel_is_error_107(client: &Client, _: &Here) {
    assert_code(client.broadcast(BroadcastRequest::new([""; 0], json!(1))).await, ApiError::BAD_REQUEST);
}

async fn a_repeated_broadcast_with_a_key_publishes_once(client: &Client, here: &Here) {
    let channels = [here.channel(""), here.channel("")];
    let request = BroadcastRequest::new(&channels, json!(1)).idempotency_key("key").tags([("a", "b")]);
    let first = client.broadcast(&request).await.unwrap();
    assert_eq!(client.broadcast(&request).await.unwrap(), first);
    assert_eq!(offsets(&kept(client, &channels[1]).await), [1]);
}

// Batch

async fn a_batch_runs_its_commands_in_order(client: &Client, here: &Here) {
    let channel = here.channel("");
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

async fn a_parallel_batch_answers_in_the_order_of_its_commands(client: &Client, here: &Here) {
    let mut batch = Batch::new().parallel(true);
    let mut handles = Vec::new();
    for at in 0..20 {
        // Each channel at another position, so that replies in another order would be seen.
        let channel = here.channel("");
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

async fn a_failing_command_does_not_stop_the_others(client: &Client, here: &Here) {
    let mut batch = Batch::new();
    let refused = batch.push(PublishRequest::new(here.channel("nope"), json!(1)));
    let published = batch.push(PublishRequest::new(here.channel(""), json!(1)));
    let replies = client.batch(&batch).await.unwrap();
    let refused = replies.get(refused);
    assert_eq!(refused.as_ref().unwrap_err().method(), Some("publish"));
    assert_code(refused, ApiError::UNKNOWN_CHANNEL);
    assert_eq!(replies.get(published).unwrap().offset, 1);
}

async fn an_empty_batch_is_answered_with_nothing(client: &Client, _: &Here) {
    for batch in [Batch::new(), Batch::new().parallel(true)] {
        assert!(client.batch(&batch).await.unwrap().is_empty());
    }
}

async fn a_command_that_the_server_lacks_is_unsupported(client: &Client, here: &Here) {
    let mut batch = Batch::new();
    let connections = batch.push(ConnectionsRequest::new());
    let rpc = batch.push(RpcRequest::new("nope"));
    let published = batch.push(PublishRequest::new(here.channel("plain"), json!(1)));
    let replies = client.batch(&batch).await.unwrap();
    let error = assert_kind(replies.get(connections), ErrorKind::Unsupported, false);
    assert_eq!((error.code(), error.method()), (Some(ApiError::NOT_FOUND), Some("connections")));
    assert_code(replies.get(rpc), ApiError::NOT_FOUND);
    replies.get(published).unwrap();
}

async fn commands_given_as_json_are_commands(client: &Client, here: &Here) {
    let channel = here.channel("");
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

async fn a_command_of_an_unknown_method_is_refused(client: &Client, here: &Here) {
    let mut batch = Batch::new();
    let unknown = batch.push_json("nope", json!({})).unwrap();
    batch.push(PublishRequest::new(here.channel("plain"), json!(1)));
    let replies = client.batch(&batch).await;
    match here.over {
        Over::Grpc => drop(assert_kind(replies, ErrorKind::Invalid, false)),
        Over::Http => {
            drop(assert_kind(replies.unwrap().get_json::<Value>(unknown), ErrorKind::Unsupported, false));
        }
    }
}

async fn a_batch_can_be_sent_twice(client: &Client, here: &Here) {
    let mut batch = Batch::new();
    let published = batch.push(PublishRequest::new(here.channel(""), json!(1)));
    for offset in [1, 2] {
        let replies = client.batch(&batch).await.unwrap();
        assert_eq!(replies.get(published).unwrap().offset, offset);
    }
}

async fn a_handle_of_a_longer_batch_is_refused(client: &Client, here: &Here) {
    let request = PublishRequest::new(here.channel("plain"), json!(1));
    let (mut short, mut long) = (Batch::new(), Batch::new());
    short.push(&request);
    long.push(&request);
    let second = long.push(&request);
    assert_kind(client.batch(&short).await.unwrap().get(second), ErrorKind::Invalid, false);
}

async fn a_handle_of_another_command_is_refused(client: &Client, here: &Here) {
    let (mut one, mut other) = (Batch::new(), Batch::new());
    one.push(PublishRequest::new(here.channel(""), json!(1)));
    let history = other.push(HistoryRequest::new(here.channel("")));
    let replies = client.batch(&one).await.unwrap();
    assert_kind(replies.get(history), ErrorKind::Invalid, false);
}

async fn a_batch_of_a_request_that_is_refused_here_is_not_sent(client: &Client, here: &Here) {
    let channel = here.channel("");
    let mut batch = Batch::new();
    batch.push(PublishRequest::new(&channel, json!(1)));
    batch.push(HistoryRequest::new(&channel).reverse(true).since(StreamPosition::new(0, "")));
    let error = assert_kind(client.batch(&batch).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`reverse`"), "{error}");
    assert_eq!(kept(client, &channel).await.offset, 0);
}

// Presence and history

async fn nobody_is_present_in_a_channel_without_clients(client: &Client, here: &Here) {
    let channel = here.channel("presence");
    assert!(client.presence(PresenceRequest::new(&channel)).await.unwrap().presence.is_empty());
    let stats = client.presence_stats(PresenceStatsRequest::new(&channel)).await.unwrap();
    assert_eq!((stats.num_clients, stats.num_users), (0, 0));
}

async fn those_present_are_told_by_client_id(client: &Client, here: &Here) {
    let channel = here.channel("presence");
    for (id, user) in [("client-1", "alice"), ("client-2", "alice"), ("client-3", "bob")] {
        let mut info = ClientInfo::default();
        info.user = user.into();
        info.conn_info = r#"{"role":"x"}"#.into();
        here.server().set_presence(&channel, id, info);
    }
    let present = client.presence(PresenceRequest::new(&channel)).await.unwrap().presence;
    let users: Vec<_> = present.iter().map(|(id, info)| (&**id, &*info.client, &*info.user)).collect();
    assert_eq!(
        users,
        [("client-1", "client-1", "alice"), ("client-2", "client-2", "alice"), ("client-3", "client-3", "bob")]
    );
    assert_eq!(present["client-3"].conn_info, r#"{"role":"x"}"#);
    let stats = client.presence_stats(PresenceStatsRequest::new(&channel)).await.unwrap();
    assert_eq!((stats.num_clients, stats.num_users), (3, 2));
    let channels = client.channels(ChannelsRequest::new().pattern("presence:*")).await.unwrap().channels;
    assert_eq!(channels[&channel].num_clients, 3);
}

async fn binary_infos_are_read_over_grpc_only(client: &Client, here: &Here) {
    let channel = here.channel("presence");
    let mut info = ClientInfo::default();
    info.user = "alice".into();
    info.conn_info = vec![0xff, 0x00].into();
    here.server().set_presence(&channel, "client-1", info);
    let present = client.presence(PresenceRequest::new(&channel)).await;
    match here.over {
        Over::Grpc => assert_eq!(present.unwrap().presence["client-1"].conn_info, vec![0xff, 0x00]),
        Over::Http => drop(assert_kind(present, ErrorKind::Protocol, true)),
    }
}

async fn a_history_has_as_many_publications_as_its_limit(client: &Client, here: &Here) {
    let channel = here.channel("");
    for n in 1..=4 {
        publish(client, &channel, json!({ "n": n })).await;
    }
    let history = async |request: HistoryRequest| client.history(request).await.unwrap();
    let request = HistoryRequest::new(&channel);
    let position = history(request.clone()).await;
    assert_eq!((position.offset, offsets(&position)), (4, vec![]), "no limit means the position alone");
    assert_eq!(offsets(&history(request.clone().limit(2)).await), [1, 2]);
    assert_eq!(offsets(&history(request.clone().limit(2).reverse(true)).await), [4, 3]);
    assert_eq!(offsets(&history(request.limit(HistoryRequest::NO_LIMIT)).await), [1, 2, 3, 4]);
}

async fn a_history_goes_on_from_a_position(client: &Client, here: &Here) {
    let channel = here.channel("");
    let mut epoch = String::new();
    for n in 1..=4 {
        epoch = publish(client, &channel, json!({ "n": n })).await.epoch;
    }
    let since = |offset: u64, epoch: &str| {
        HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT).since(StreamPosition::new(offset, epoch))
    };
    let history = async |request: HistoryRequest| offsets(&client.history(request).await.unwrap());
    assert_eq!(history(since(2, &epoch)).await, [3, 4]);
    assert_eq!(history(since(0, &epoch)).await, [1, 2, 3, 4]);
    assert_eq!(history(since(3, "")).await, [4], "an empty epoch matches any");
    assert_eq!(history(since(3, &epoch).reverse(true)).await, [2, 1]);
    assert_eq!(history(since(99, &epoch)).await, [0; 0]);
    assert_code(client.history(since(2, "another")).await, ApiError::UNRECOVERABLE_POSITION);
}

async fn reverse_from_offset_0_is_refused_before_it_is_sent(client: &Client, here: &Here) {
    let channel = here.channel("");
    let request = HistoryRequest::new(&channel).reverse(true).since(StreamPosition::new(0, ""));
    let mut batch = Batch::new();
    batch.push_json("history", &request).unwrap();
    // The server would answer error 100, as if it were broken.
    for error in [
        client.history(&request).await.unwrap_err(),
        client.call_json::<Value>("history", &request).await.unwrap_err(),
        client.batch(&batch).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Invalid, false), "{error}");
        assert!(error.to_string().contains("`reverse`"), "{error}");
    }
    assert_eq!(client.history(request.since(StreamPosition::new(1, ""))).await.unwrap().offset, 0);
}

async fn a_removed_history_keeps_its_position(client: &Client, here: &Here) {
    let channel = here.channel("");
    let position = publish(client, &channel, json!(1)).await;
    client.history_remove(HistoryRemoveRequest::new(&channel)).await.unwrap();
    let left = kept(client, &channel).await;
    assert_eq!((offsets(&left), left.offset, left.epoch), (vec![], 1, position.epoch));
    assert_eq!(publish(client, &channel, json!(2)).await.offset, 2);
}

async fn a_history_keeps_the_newest(client: &Client, here: &Here) {
    let channel = here.channel("small");
    for n in 1..=4 {
        publish(client, &channel, json!(n)).await;
    }
    assert_eq!(offsets(&kept(client, &channel).await), [3, 4]);
}

// The server

async fn info_tells_of_one_node(client: &Client, _: &Here) {
    let info = client.info(InfoRequest::new()).await.unwrap();
    let [node] = &info.nodes[..] else { panic!("{info:?}") };
    assert!(!node.uid.is_empty() && !node.version.is_empty(), "{node:?}");
    assert_eq!(node.name, "node1");
}

async fn an_rpc_is_error_104(client: &Client, _: &Here) {
    assert_code(client.rpc(RpcRequest::new("nope").params(json!({"a": 1}))).await, ApiError::NOT_FOUND);
    assert_code(client.rpc(RpcRequest::new("")).await, ApiError::BAD_REQUEST);
}

async fn a_channel_without_subscribers_is_not_listed(client: &Client, here: &Here) {
    let channel = here.channel("");
    publish(client, &channel, json!(1)).await;
    assert!(client.channels(ChannelsRequest::new().pattern(&channel)).await.unwrap().channels.is_empty());
}

async fn a_malformed_pattern_is_error_100(client: &Client, _: &Here) {
    let error = client.channels(ChannelsRequest::new().pattern("[a")).await;
    let error = assert_kind(error, ErrorKind::Api, true);
    assert_eq!(error.code(), Some(ApiError::INTERNAL));
}

async fn users_without_connections_can_be_acted_on(client: &Client, here: &Here) {
    let channel = here.channel("");
    client.subscribe(SubscribeRequest::new(&channel, "ghost").data(json!({}))).await.unwrap();
    client.unsubscribe(UnsubscribeRequest::new(&channel, "ghost")).await.unwrap();
    client.refresh(RefreshRequest::new("ghost").expire_at(1)).await.unwrap();
    let disconnect = centrifugo_api::Disconnect::new(4000, "bye");
    client.disconnect(DisconnectRequest::new("ghost").disconnect(disconnect)).await.unwrap();
}

async fn methods_of_pro_are_unsupported(client: &Client, here: &Here) {
    assert_kind(client.connections(ConnectionsRequest::new()).await, ErrorKind::Unsupported, false);
    assert_kind(client.block_user(BlockUserRequest::new("ghost")).await, ErrorKind::Unsupported, false);
    let mut unsupported = 0;
    for method in Method::ALL {
        // Nobody's connections: without a user, the anonymous ones would be closed.
        let params = json!({"user": here.channel(""), "channel": here.channel("nope")});
        let params = if *method == Method::Batch { json!({}) } else { params };
        match client.call_json::<Value>(method.name(), params).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => unsupported += 1,
            // Over gRPC the schema has no such fields for some of PRO's methods.
            Err(error) if error.kind() == ErrorKind::Invalid && here.over == Over::Grpc => {
                let bare = client.call_json::<Value>(method.name(), json!({})).await;
                unsupported += usize::from(bare.is_err_and(|error| error.kind() == ErrorKind::Unsupported));
            }
            _ => {}
        }
    }
    assert_eq!(unsupported, 19);
}

async fn filters_of_pro_are_refused_unless_the_server_is_pro(client: &Client, here: &Here) {
    let filtered = DisconnectRequest::new("ghost").label_filter(FilterNode::default().cmp("eq").key("k").val("v"));
    let everybody = UnsubscribeRequest::new(here.channel(""), "ghost").all_users(true);
    let error = assert_kind(client.disconnect(&filtered).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`label_filter`"), "{error}");
    let error = assert_kind(client.unsubscribe(&everybody).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`all_users`"), "{error}");
    assert_kind(client.call_json::<Value>("disconnect", &filtered).await, ErrorKind::Invalid, false);
    let mut batch = Batch::new();
    batch.push(SubscribeRequest::new(here.channel(""), "ghost").all_users(true));
    assert_kind(client.batch(&batch).await, ErrorKind::Invalid, false);

    let pro = Client::new(here.config().pro(true)).unwrap();
    pro.disconnect(&filtered).await.unwrap();
    pro.call_json::<Value>("disconnect", &filtered).await.unwrap();
    pro.unsubscribe(&everybody).await.unwrap();
    assert_eq!(pro.batch(&batch).await.unwrap().len(), 1);
}

// JSON

async fn calls_by_name_take_and_give_json(client: &Client, here: &Here) {
    let channel = here.channel("");
    let published: PublishResult =
        client.call_json("publish", json!({"channel": channel, "data": {"n": 1}, "tags": {"a": "b"}})).await.unwrap();
    assert_eq!(published.offset, 1);
    let history: Value = client.call_json("history", HistoryRequest::new(&channel).limit(1)).await.unwrap();
    let expected = json!({
        "publications": [{"data": {"n": 1}, "offset": 1, "tags": {"a": "b"}}], "epoch": published.epoch, "offset": 1,
    });
    assert_eq!(history, expected);
    let nothing: Value =
        client.call_json("publish", json!({"channel": here.channel("plain"), "data": 1})).await.unwrap();
    assert_eq!(nothing, json!({}));
}

async fn calls_by_name_fail_as_typed_calls_do(client: &Client, here: &Here) {
    let params = json!({"channel": here.channel("nope")});
    assert_code(client.call_json::<Value>("history", params).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.call_json::<Value>("publish", json!({})).await, ApiError::BAD_REQUEST);
    let wrong_type = json!({"channel": here.channel(""), "limit": "1"});
    assert_kind(client.call_json::<Value>("history", wrong_type).await, ErrorKind::Invalid, false);
}

async fn a_name_that_is_no_method_is_refused(client: &Client, here: &Here) {
    let unknown = client.call_json::<Value>("nope", json!({})).await;
    match here.over {
        Over::Grpc => drop(assert_kind(unknown, ErrorKind::Invalid, false)),
        Over::Http => drop(assert_kind(unknown, ErrorKind::Unsupported, false)),
    }
    for name in ["", "../info", "Publish", "publish/"] {
        assert_kind(client.call_json::<Value>(name, json!({})).await, ErrorKind::Invalid, false);
    }
}

async fn an_unknown_field_is_sent_over_http_only(client: &Client, here: &Here) {
    let params = json!({"channel": here.channel("plain"), "data": 1, "new_field": 1});
    let published = client.call_json::<Value>("publish", params).await;
    match here.over {
        Over::Grpc => {
            let error = assert_kind(published, ErrorKind::Invalid, false);
            assert!(error.to_string().contains("`new_field`"), "{error}");
        }
        Over::Http => assert_eq!(published.unwrap(), json!({})),
    }
}

async fn a_batch_by_name_gives_the_same_json_over_both_transports(client: &Client, here: &Here) {
    let (plain, nope, presence) = (here.channel("plain"), here.channel("nope"), here.channel("presence"));
    for parallel in [false, true] {
        let params = json!({"parallel": parallel, "commands": [
            {"publish": {"channel": plain, "data": {"n": 1}}},
            {"history": {"channel": nope}},
            {"presence": {"channel": presence}},
            {"rpc": {"method": "nope"}},
            {"broadcast": {"channels": [plain, nope], "data": 1}},
            {"connections": {}},
        ]});
        let replies: Value = client.call_json("batch", params).await.unwrap();
        let not_found = json!({"error": {"code": 104, "message": "not found"}});
        let unknown = json!({"error": {"code": 102, "message": "unknown channel"}});
        let expected = json!({"replies": [
            {"publish": {}},
            unknown,
            {"presence": {"presence": {}}},
            not_found,
            {"broadcast": {"responses": [{"result": {}}, unknown]}},
            not_found,
        ]});
        assert_eq!(replies, expected);
    }
    assert_eq!(client.call_json::<Value>("batch", json!({"commands": []})).await.unwrap(), json!({}));
}

async fn a_batch_by_name_keeps_the_text_of_what_it_finds(client: &Client, here: &Here) {
    let channel = here.channel("");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let texts = [r#"{"z":12345678901234567890123,"a":1.10,"a":2}"#, "1e999", &deep];
    for text in texts {
        client.publish(PublishRequest::new(&channel, Payload::raw_json(text.to_owned()).unwrap())).await.unwrap();
    }
    let params = json!({"commands": [{"history": {"channel": channel, "limit": -1}}]});
    let replies: Box<RawValue> = client.call_json("batch", params).await.unwrap();
    for text in texts {
        assert!(replies.get().contains(&format!(r#""data":{text}"#)), "{replies}");
    }
}

async fn a_filter_does_not_hide_in_a_batch_by_name(client: &Client, _: &Here) {
    let disconnect = r#"{"user":"ghost","label_filter":{"key":"k"}}"#;
    for batch in [
        format!(r#"{{"commands":[{{"disconnect":{disconnect}}}]}}"#),
        format!(r#"{{"commands":[{{"disconnect":{disconnect}}}],"later_field":1}}"#),
        format!(r#"{{"Commands":[null,{{"Disconnect":{disconnect}}}],"parallel":null}}"#),
        format!(r#"{{"commands":[{{"info":{{}},"disconnect":{disconnect}}}]}}"#),
    ] {
        let batch: Box<RawValue> = serde_json::from_str(&batch).unwrap();
        let error = assert_kind(client.call_json::<Value>("batch", batch).await, ErrorKind::Invalid, false);
        assert!(error.to_string().contains("`label_filter`"), "{error}");
    }
}

async fn no_parameters_are_an_object_without_fields(client: &Client, _: &Here) {
    let info: Value = client.call_json("info", ()).await.unwrap();
    assert_eq!(info["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(client.call_json::<Value>("batch", ()).await.unwrap(), json!({}));
    assert_code(client.call_json::<Value>("publish", ()).await, ApiError::BAD_REQUEST);
}

async fn binary_results_have_no_json_by_name(client: &Client, here: &Here) {
    let channel = here.channel("");
    client.publish(PublishRequest::new(&channel, Payload::binary(vec![0xff]))).await.unwrap();
    let read = client.call_json::<Value>("history", json!({"channel": channel, "limit": -1})).await;
    assert_kind(read, ErrorKind::Protocol, true);
}

// Keys

async fn a_wrong_key_is_unauthenticated(_: &Client, here: &Here) {
    let publish = PublishRequest::new(here.channel(""), json!(1));
    for config in [here.without_key(), here.without_key().api_key("wrong")] {
        let called = Client::new(config).unwrap().publish(&publish).await;
        assert_kind(called, ErrorKind::Unauthenticated, false);
    }
}

async fn a_key_need_not_be_ascii(_: &Client, here: &Here) {
    // Tried on a real server too, which compares bytes.
    let server = servers::standin("ключ").await;
    let config = match here.over {
        Over::Grpc => Config::grpc(server.grpc_url()),
        Over::Http => Config::http(server.http_url()),
    };
    Client::new(config.clone().api_key("ключ")).unwrap().info(InfoRequest::new()).await.unwrap();
    let wrong = Client::new(config.api_key("ключи")).unwrap();
    assert_kind(wrong.info(InfoRequest::new()).await, ErrorKind::Unauthenticated, false);
}

// Sizes and times

/// A request for a channel without history that has exactly this many bytes in protobuf.
fn request_of(size: usize, here: &Here) -> PublishRequest {
    use prost::Message as _;

    let channel = here.channel("plain");
    let with = |length: usize| {
        PublishRequest::new(&channel, Payload::from(format!("\"{}\"", "x".repeat(length)).into_bytes()))
    };
    // The fields' numbers and lengths take the same room for all large payloads.
    let extra = with(size).encoded_len() - size;
    let request = with(size - extra);
    assert_eq!(request.encoded_len(), size);
    request
}

/// What the server accepts over gRPC.
const MAX: usize = 4 * 1024 * 1024;

async fn a_batch_of_5_mib_is_answered_in_order(client: &Client, here: &Here) {
    let channels: Vec<_> = (0..20).map(|_| here.channel("")).collect();
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

async fn a_broadcast_to_100_000_channels_is_answered_in_order(client: &Client, here: &Here) {
    let (prefix, kept_in) = (here.channel("plain"), here.channel(""));
    let mut channels: Vec<_> =
        (0..100_000).map(|n| format!("{prefix}{n:0>width$}", width = 60 - prefix.len())).collect();
    assert!(channels.iter().all(|channel| channel.len() == 60));
    // Some that can be told apart by their answers, and some that fail.
    for place in (0..100_000).step_by(10_000) {
        channels[place].clone_from(&kept_in);
        channels[place + 1] = here.channel("nope");
    }
    let client = client.with_timeout(Duration::from_secs(60)).with_retry(Retry::off());
    let result = client.broadcast(BroadcastRequest::new(&channels, json!({"n": 1}))).await.unwrap();
    assert_eq!(result.responses.len(), channels.len());
    let mut offsets_told = Vec::new();
    for (place, outcome) in result.iter().enumerate() {
        match (place % 10_000, outcome) {
            (0, Ok(position)) => offsets_told.push(position.offset),
            (1, Err(error)) => assert_eq!(error.code, ApiError::UNKNOWN_CHANNEL),
            (_, Ok(position)) => assert_eq!(position.offset, 0),
            (_, Err(error)) => panic!("{place}: {error}"),
        }
    }
    // The server publishes into the channels of one request in any order.
    offsets_told.sort_unstable();
    assert_eq!(offsets_told, (1..=10).collect::<Vec<_>>());
    assert_eq!(offsets(&kept(&client, &kept_in).await), offsets_told);
}

async fn a_request_may_have_4_mib_over_grpc_and_more_over_http(client: &Client, here: &Here) {
    // An idempotency key would take its place in the request.
    let client = client.with_retry(Retry::off());
    client.publish(request_of(MAX, here)).await.unwrap();
    let over = request_of(MAX + 1, here);
    match here.over {
        Over::Http => drop(client.publish(over).await.unwrap()),
        Over::Grpc => {
            let error = assert_kind(client.publish(over).await, ErrorKind::TooLarge, false);
            assert!(error.to_string().contains("over the limit of 4194304"), "it is refused here: {error}");
        }
    }
}

async fn the_servers_own_limit_is_told_as_the_clients_is(_: &Client, here: &Here) {
    let client = Client::new(here.config().max_request_size(2 * MAX)).unwrap();
    let published = client.publish(request_of(MAX + 1, here)).await;
    match here.over {
        Over::Http => drop(published.unwrap()),
        Over::Grpc => {
            let error = assert_kind(published, ErrorKind::TooLarge, false);
            assert!(error.to_string().contains("larger than max"), "the server says so: {error}");
        }
    }
    client.publish(request_of(1000, here)).await.unwrap();
}

async fn a_limit_of_ones_own_is_kept_over_both(_: &Client, here: &Here) {
    let client = Client::new(here.config().max_request_size(1000)).unwrap();
    assert_kind(client.publish(request_of(1001, here)).await, ErrorKind::TooLarge, false);
    client.publish(PublishRequest::new(here.channel("plain"), json!(1))).await.unwrap();
}

async fn a_long_reply_is_given_up(client: &Client, here: &Here) {
    let channel = here.channel("");
    for _ in 0..10 {
        publish(client, &channel, json!("x".repeat(10_000))).await;
    }
    let history = HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT);
    let short = Client::new(here.config().max_reply_size(50_000)).unwrap();
    assert_kind(short.history(&history).await, ErrorKind::TooLarge, true);
    assert_eq!(offsets(&short.history(history.clone().limit(4)).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(client.history(&history).await.unwrap().publications.len(), 10);
}

async fn a_hurried_copy_of_a_client_does_not_hurry_it(client: &Client, here: &Here) {
    here.server().fault(Fault::hang_before().method(Method::Publish));
    let hurried = client.with_timeout(Duration::from_millis(50));
    let published = hurried.publish(PublishRequest::new(here.channel(""), json!(1))).await;
    let error = assert_kind(published, ErrorKind::Timeout, true);
    assert!(error.is_transient());
    assert!(error.to_string().contains("50ms"), "{error}");
    // The other one keeps its own deadline: this answer comes later than the hurried copy would wait.
    here.server().fault(Fault::delay(Duration::from_millis(200)).method(Method::Publish));
    client.publish(PublishRequest::new(here.channel(""), json!(1))).await.unwrap();
    // A deadline beyond what the clock can say is none.
    client.with_timeout(Duration::MAX).info(InfoRequest::new()).await.unwrap();
}

/// The settings of clients, over both transports, whose connection is never ready: the server accepts it and says nothing,
/// so that TLS is never agreed on.
async fn never_connected() -> ([Config; 2], tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let tls = Tls::new().danger_skip_verification();
    ([Config::grpc(&url).tls(tls.clone()), Config::http(&url).tls(tls)], listener)
}

#[tokio::test]
async fn a_deadline_that_passes_while_connecting_leaves_nothing_sent() {
    let (configs, _listener) = never_connected().await;
    for config in configs {
        let client = Client::new(config.timeout(Duration::from_millis(50))).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Timeout, false);
    }
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_none() {
    let (configs, _listener) = never_connected().await;
    for config in configs {
        let client = Client::new(config.connect_timeout(Duration::from_millis(50))).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Connect, false);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_while_a_token_is_awaited_leaves_nothing_sent() {
    for config in [Config::grpc("http://127.0.0.1:1"), Config::http("http://127.0.0.1:1")] {
        let config = config.bearer_token(std::future::pending).timeout(Duration::from_millis(50));
        let client = Client::new(config).unwrap();
        assert_kind(client.info(InfoRequest::new()).await, ErrorKind::Timeout, false);
    }
}

// Maps and shared polls

async fn a_map_is_published_to_read_and_cleared(client: &Client, here: &Here) {
    let channel = here.channel("map");
    let position = client
        .map_publish(MapPublishRequest::new(&channel, "a").data(json!({"v": 1})).tags([("t", "1")]))
        .await
        .unwrap();
    assert_eq!((position.offset, position.suppressed), (1, false));
    client.map_publish(MapPublishRequest::new(&channel, "b").data(json!(2))).await.unwrap();

    let state = client.map_read_state(MapReadStateRequest::new(&channel).limit(-1)).await.unwrap();
    let entries: Vec<_> = state.entries.iter().map(|entry| (&*entry.key, entry.json::<Value>().unwrap())).collect();
    assert_eq!((entries, state.offset), (vec![("a", json!({"v": 1})), ("b", json!(2))], 2));
    assert_eq!(state.entries[0].tags["t"], "1");
    assert_eq!(client.map_stats(MapStatsRequest::new(&channel)).await.unwrap().num_keys, 2);

    client.map_remove(MapRemoveRequest::new(&channel, "a")).await.unwrap();
    let stream = client.map_read_stream(MapReadStreamRequest::new(&channel).limit(-1)).await.unwrap();
    let changes: Vec<_> = stream.entries.iter().map(|entry| (entry.offset, &*entry.key, entry.removed)).collect();
    assert_eq!(changes, [(1, "a", false), (2, "b", false), (3, "a", true)]);

    client.map_clear(MapClearRequest::new(&channel)).await.unwrap();
    let empty = client.map_read_state(MapReadStateRequest::new(&channel).limit(-1)).await.unwrap();
    assert_eq!((empty.entries.len(), empty.offset), (0, 0));
    assert_ne!(empty.epoch, state.epoch);
}

async fn a_suppressed_map_publish_says_why(client: &Client, here: &Here) {
    let channel = here.channel("map");
    let request = MapPublishRequest::new(&channel, "a").data(json!(1)).version(2);
    client.map_publish(request.clone().idempotency_key("key")).await.unwrap();
    for (repeated, reason) in [
        (request.clone().idempotency_key("key"), "idempotency"),
        (request.clone(), "version"),
        (request.clone().version(0).key_mode("if_new"), "key_exists"),
        (MapPublishRequest::new(&channel, "b").data(json!(1)).key_mode("if_exists"), "key_not_found"),
    ] {
        let result = client.map_publish(repeated).await.unwrap();
        assert_eq!((result.suppressed, &*result.suppress_reason, result.offset), (true, reason, 1));
    }
    assert_code(client.map_publish(request.key_mode("sometimes")).await, ApiError::BAD_REQUEST);
    let removed = client.map_remove(MapRemoveRequest::new(&channel, "b")).await.unwrap();
    assert_eq!((removed.suppressed, &*removed.suppress_reason), (true, "key_not_found"));
}

async fn the_pages_of_a_map_follow_its_cursor(client: &Client, here: &Here) {
    let channel = here.channel("map");
    for key in ["a", "b", "c"] {
        client.map_publish(MapPublishRequest::new(&channel, key).data(json!(key))).await.unwrap();
    }
    let mut keys = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.map_read_state(MapReadStateRequest::new(&channel).limit(2).cursor(cursor)).await.unwrap();
        keys.push(page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>());
        if page.cursor.is_empty() {
            break;
        }
        cursor = page.cursor;
    }
    assert_eq!(keys, [vec!["a", "b"], vec!["c"]]);
    let one = client.map_read_state(MapReadStateRequest::new(&channel).key("b")).await.unwrap();
    assert_eq!(one.entries[0].json::<String>().unwrap(), "b");
}

async fn a_gap_in_a_maps_stream_is_error_112(client: &Client, here: &Here) {
    let channel = here.channel("mapttl");
    let mut epoch = String::new();
    for n in 1..=4 {
        epoch = client.map_publish(MapPublishRequest::new(&channel, "a").data(json!(n))).await.unwrap().epoch;
    }
    let since = |offset: u64, epoch: &str| {
        MapReadStreamRequest::new(&channel).limit(-1).since_offset(offset).since_epoch(epoch)
    };
    assert_code(client.map_read_stream(since(1, &epoch)).await, ApiError::UNRECOVERABLE_POSITION);
    assert_code(client.map_read_stream(since(3, "another")).await, ApiError::UNRECOVERABLE_POSITION);
    assert_eq!(client.map_read_stream(since(3, &epoch)).await.unwrap().entries.len(), 1);
}

async fn an_ephemeral_map_has_no_offsets(client: &Client, here: &Here) {
    let channel = here.channel("mapmem");
    let result = client.map_publish(MapPublishRequest::new(&channel, "a").data(json!(1))).await.unwrap();
    assert_eq!(result.offset, 0);
    let state = client.map_read_state(MapReadStateRequest::new(&channel).limit(-1)).await.unwrap();
    assert_eq!((state.entries.len(), state.offset), (1, 0));
}

async fn a_method_of_another_kind_of_channel_is_error_107(client: &Client, here: &Here) {
    let (stream, map) = (here.channel(""), here.channel("map"));
    assert_code(client.map_stats(MapStatsRequest::new(&stream)).await, ApiError::BAD_REQUEST);
    assert_code(client.map_publish(MapPublishRequest::new(&stream, "a")).await, ApiError::BAD_REQUEST);
    assert_code(client.publish(PublishRequest::new(&map, json!(1))).await, ApiError::BAD_REQUEST);
    assert_code(
        client.shared_poll_publish(SharedPollPublishRequest::new(&stream, "a", 1)).await,
        ApiError::BAD_REQUEST,
    );
}

async fn a_shared_poll_takes_versions_stale_ones_too(client: &Client, here: &Here) {
    let poll = async |namespace, version| {
        let request = SharedPollPublishRequest::new(here.channel(namespace), "a", version).data(json!({"v": version}));
        client.shared_poll_publish(request).await
    };
    poll("poll", 2).await.unwrap();
    poll("poll", 1).await.unwrap();
    assert_code(poll("poll", 0).await, ApiError::BAD_REQUEST);
    assert_code(poll("pollro", 1).await, ApiError::NOT_AVAILABLE);
}

suite! {
    everywhere {
        each_publish_moves_the_position_by_one
        a_channel_without_history_has_no_position
        json_comes_back_as_the_same_value
        null_is_data_and_nothing_is_none
        binary_data_is_published_and_read_back_over_grpc_only
        data_in_base64_is_decoded_by_the_server
        a_namespace_may_demand_a_format
        tags_come_back_with_the_publication
        skipped_history_keeps_nothing
        a_repeated_idempotency_key_publishes_once
        a_stale_version_publishes_nothing
        an_unknown_namespace_is_error_102
        an_empty_channel_is_error_107
        what_a_namespace_does_not_keep_is_error_108
        an_error_says_where_it_happened
        a_broadcast_answers_for_every_channel_in_order
        a_broadcast_in_which_all_fail_is_a_success
        a_broadcast_to_no_channel_is_error_107
        a_repeated_broadcast_with_a_key_publishes_once
        a_batch_runs_its_commands_in_order
        a_parallel_batch_answers_in_the_order_of_its_commands
        a_failing_command_does_not_stop_the_others
        an_empty_batch_is_answered_with_nothing
        a_command_that_the_server_lacks_is_unsupported
        commands_given_as_json_are_commands
        a_command_of_an_unknown_method_is_refused
        a_batch_can_be_sent_twice
        a_handle_of_a_longer_batch_is_refused
        a_handle_of_another_command_is_refused
        a_batch_by_name_keeps_the_text_of_what_it_finds
        a_filter_does_not_hide_in_a_batch_by_name
        no_parameters_are_an_object_without_fields
        a_batch_of_a_request_that_is_refused_here_is_not_sent
        nobody_is_present_in_a_channel_without_clients
        a_history_has_as_many_publications_as_its_limit
        a_history_goes_on_from_a_position
        reverse_from_offset_0_is_refused_before_it_is_sent
        a_removed_history_keeps_its_position
        a_history_keeps_the_newest
        info_tells_of_one_node
        an_rpc_is_error_104
        a_channel_without_subscribers_is_not_listed
        a_malformed_pattern_is_error_100
        users_without_connections_can_be_acted_on
        methods_of_pro_are_unsupported
        filters_of_pro_are_refused_unless_the_server_is_pro
        calls_by_name_take_and_give_json
        calls_by_name_fail_as_typed_calls_do
        a_name_that_is_no_method_is_refused
        an_unknown_field_is_sent_over_http_only
        a_batch_by_name_gives_the_same_json_over_both_transports
        binary_results_have_no_json_by_name
        a_wrong_key_is_unauthenticated
        a_batch_of_5_mib_is_answered_in_order
        a_broadcast_to_100_000_channels_is_answered_in_order
        a_request_may_have_4_mib_over_grpc_and_more_over_http
        the_servers_own_limit_is_told_as_the_clients_is
        a_limit_of_ones_own_is_kept_over_both
        a_long_reply_is_given_up
        a_map_is_published_to_read_and_cleared
        a_suppressed_map_publish_says_why
        the_pages_of_a_map_follow_its_cursor
        a_gap_in_a_maps_stream_is_error_112
        an_ephemeral_map_has_no_offsets
        a_method_of_another_kind_of_channel_is_error_107
        a_shared_poll_takes_versions_stale_ones_too
    }
    standin {
        a_hurried_copy_of_a_client_does_not_hurry_it
        a_key_need_not_be_ascii
        binary_infos_are_read_over_grpc_only
        those_present_are_told_by_client_id
    }
}
