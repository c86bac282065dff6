//! Broadcasts.

use std::time::Duration;

use centrifugo_api::message::InfoRequest;
use centrifugo_api::{ApiError, Batch, BroadcastRequest, Client, ErrorKind, Outcome, PublishRequest};
use serde_json::{Value, json};

use super::suite::{assert_code, kept, offsets, publish, suite};
use crate::support::servers::Setup;

async fn a_broadcast_has_a_result_for_every_channel_in_order(client: &Client, setup: &Setup) {
    let (first, second, plain) = (setup.channel(""), setup.channel(""), setup.channel("plain"));
    publish(client, &second, json!(0)).await;
    let channels = [&*first, "nope:a", &second, "", &plain];
    let result = client.broadcast(BroadcastRequest::new(channels, json!({"n": 1}))).await.unwrap();
    let outcomes: Vec<_> =
        result.iter().map(|outcome| outcome.map(|it| it.offset).map_err(|error| error.code)).collect();
    assert_eq!(outcomes, [Ok(1), Err(102), Ok(2), Err(107), Ok(0)]);
    let failed: Vec<_> = result.failed().map(|(channel, error)| (channel, error.code)).collect();
    assert_eq!(failed, [("nope:a", 102), ("", 107)]);
    let error = result.all_ok().unwrap_err();
    assert_eq!((error.kind(), error.code(), error.outcome()), (ErrorKind::Partial, None, Outcome::Unknown));
    let failures: Vec<_> =
        error.failures().iter().map(|it| (it.index(), it.name(), it.error().code(), it.error().outcome())).collect();
    assert_eq!(failures, [(1, "nope:a", Some(102), Outcome::Refused), (3, "", Some(107), Outcome::Refused)]);
    assert!(
        error.to_string().starts_with("broadcast: 2 of 5 channels failed: nope:a: unknown channel (102), "),
        "{error}"
    );
    assert_eq!(kept(client, &second).await.publications[1].json::<Value>().unwrap(), json!({"n": 1}));
}

async fn a_broadcast_in_which_all_fail_is_a_success(client: &Client, setup: &Setup) {
    let channels = [setup.channel("nope"), setup.channel("nope")];
    let result = client.broadcast(BroadcastRequest::new(channels, json!(1))).await.unwrap();
    assert_eq!(result.failed().count(), 2);
    let error = result.all_ok().unwrap_err();
    assert_eq!((error.kind(), error.outcome(), error.is_transient()), (ErrorKind::Partial, Outcome::Refused, false));

    let channels = [setup.channel(""), setup.channel("")];
    client.broadcast(BroadcastRequest::new(channels, json!(1))).await.unwrap().all_ok().unwrap();
}

async fn a_batch_names_its_commands_that_failed(client: &Client, setup: &Setup) {
    let (good, bad) = (setup.channel(""), setup.channel("nope"));
    let mut batch = Batch::new();
    batch.push(PublishRequest::new(&good, json!(1)));
    batch.push(PublishRequest::new(&bad, json!(1)));
    batch.push(BroadcastRequest::new([&good, &bad], json!(1)));
    batch.push_json("publish", json!({"channel": bad, "data": 1})).unwrap();
    batch.push(InfoRequest::new());
    let error = client.batch(&batch).await.unwrap().all_ok().unwrap_err();
    assert_eq!((error.kind(), error.code(), error.outcome()), (ErrorKind::Partial, None, Outcome::Unknown));
    let failures: Vec<_> =
        error.failures().iter().map(|it| (it.index(), it.name().to_owned(), it.error().code())).collect();
    let named = [
        (1, format!("publish {bad}"), Some(102)),
        (2, format!("broadcast {bad}"), Some(102)),
        (3, format!("publish {bad}"), Some(102)),
    ];
    assert_eq!(failures, named);

    let mut batch = Batch::new();
    batch.push(PublishRequest::new(&good, json!(1)));
    batch.push(BroadcastRequest::new([&good], json!(1)));
    client.batch(&batch).await.unwrap().all_ok().unwrap();
}

async fn a_broadcast_to_no_channel_is_error_107(client: &Client, _: &Setup) {
    assert_code(client.broadcast(BroadcastRequest::new([""; 0], json!(1))).await, ApiError::BAD_REQUEST);
}

async fn a_repeated_broadcast_with_a_key_publishes_once(client: &Client, setup: &Setup) {
    let channels = [setup.channel(""), setup.channel("")];
    let request = BroadcastRequest::new(&channels, json!(1)).idempotency_key("key").tags([("a", "b")]);
    let first = client.broadcast(&request).await.unwrap();
    assert_eq!(client.broadcast(&request).await.unwrap(), first);
    assert_eq!(offsets(&kept(client, &channels[1]).await), [1]);
}

async fn a_broadcast_to_100_000_channels_has_results_in_order(client: &Client, setup: &Setup) {
    let (prefix, kept_in) = (setup.channel("plain"), setup.channel(""));
    let mut channels: Vec<_> =
        (0..100_000).map(|n| format!("{prefix}{n:0>width$}", width = 60 - prefix.len())).collect();
    assert!(channels.iter().all(|channel| channel.len() == 60));
    // Some whose results differ, and some that fail.
    for place in (0..100_000).step_by(10_000) {
        channels[place].clone_from(&kept_in);
        channels[place + 1] = setup.channel("nope");
    }
    let client = client.with_timeout(Duration::from_secs(60)).with_retry(None);
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

suite! {
    everywhere {
        a_broadcast_has_a_result_for_every_channel_in_order
        a_broadcast_in_which_all_fail_is_a_success
        a_batch_names_its_commands_that_failed
        a_broadcast_to_no_channel_is_error_107
        a_repeated_broadcast_with_a_key_publishes_once
        a_broadcast_to_100_000_channels_has_results_in_order
    }
    standin {}
}
