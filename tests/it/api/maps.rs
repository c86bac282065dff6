//! Maps and shared polls.

use centrifugo_api::message::{
    MapClearRequest, MapPublishRequest, MapReadStateRequest, MapReadStreamRequest, MapRemoveRequest, MapStatsRequest,
    SharedPollPublishRequest,
};
use centrifugo_api::{ApiError, Client, PublishRequest};
use serde_json::{Value, json};

use super::suite::{assert_code, suite};
use crate::support::servers::Setup;

async fn a_map_is_published_to_read_and_cleared(client: &Client, setup: &Setup) {
    let channel = setup.channel("map");
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

async fn a_suppressed_map_publish_says_why(client: &Client, setup: &Setup) {
    let channel = setup.channel("map");
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

async fn the_pages_of_a_map_follow_its_cursor(client: &Client, setup: &Setup) {
    let channel = setup.channel("map");
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

async fn a_gap_in_a_maps_stream_is_error_112(client: &Client, setup: &Setup) {
    let channel = setup.channel("mapttl");
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

async fn an_ephemeral_map_has_no_offsets(client: &Client, setup: &Setup) {
    let channel = setup.channel("mapmem");
    let result = client.map_publish(MapPublishRequest::new(&channel, "a").data(json!(1))).await.unwrap();
    assert_eq!(result.offset, 0);
    let state = client.map_read_state(MapReadStateRequest::new(&channel).limit(-1)).await.unwrap();
    assert_eq!((state.entries.len(), state.offset), (1, 0));
}

async fn a_method_of_another_kind_of_channel_is_error_107(client: &Client, setup: &Setup) {
    let (stream, map) = (setup.channel(""), setup.channel("map"));
    assert_code(client.map_stats(MapStatsRequest::new(&stream)).await, ApiError::BAD_REQUEST);
    assert_code(client.map_publish(MapPublishRequest::new(&stream, "a")).await, ApiError::BAD_REQUEST);
    assert_code(client.publish(PublishRequest::new(&map, json!(1))).await, ApiError::BAD_REQUEST);
    assert_code(
        client.shared_poll_publish(SharedPollPublishRequest::new(&stream, "a", 1)).await,
        ApiError::BAD_REQUEST,
    );
}

async fn a_shared_poll_takes_versions_stale_ones_too(client: &Client, setup: &Setup) {
    let poll = async |namespace, version| {
        let request = SharedPollPublishRequest::new(setup.channel(namespace), "a", version).data(json!({"v": version}));
        client.shared_poll_publish(request).await
    };
    poll("poll", 2).await.unwrap();
    poll("poll", 1).await.unwrap();
    assert_code(poll("poll", 0).await, ApiError::BAD_REQUEST);
    assert_code(poll("pollro", 1).await, ApiError::NOT_AVAILABLE);
}

suite! {
    everywhere {
        a_map_is_published_to_read_and_cleared
        a_suppressed_map_publish_says_why
        the_pages_of_a_map_follow_its_cursor
        a_gap_in_a_maps_stream_is_error_112
        an_ephemeral_map_has_no_offsets
        a_method_of_another_kind_of_channel_is_error_107
        a_shared_poll_takes_versions_stale_ones_too
    }
    standin {}
}
