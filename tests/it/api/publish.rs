//! Publications.

use centrifugo_api::{ApiError, Client, ErrorKind, HistoryRequest, Payload, PublishRequest, PublishResult};
use serde_json::{Value, json};

use super::suite::{assert_code, assert_kind, kept, offsets, publish, suite};
use crate::support::{Over, servers::Setup};

async fn each_publish_moves_the_position_by_one(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let first = publish(client, &channel, json!({"n": 1})).await;
    let second = publish(client, &channel, json!({"n": 2})).await;
    assert_eq!((first.offset, second.offset), (1, 2));
    assert!(!first.epoch.is_empty());
    assert_eq!(first.epoch, second.epoch);
}

async fn a_channel_without_history_has_no_position(client: &Client, setup: &Setup) {
    assert_eq!(publish(client, &setup.channel("plain"), json!(1)).await, PublishResult::default());
}

async fn json_comes_back_as_the_same_value(client: &Client, setup: &Setup) {
    #[derive(serde::Serialize)]
    struct Message {
        text: &'static str,
    }
    let channel = setup.channel("");
    let raw = r#"{"price": 1.10, "html": "<b>\u00e9</b>", "big": 18446744073709551615}"#;
    for data in [Payload::from(json!([1, null])), Payload::json(&Message { text: "hi" }).unwrap()] {
        client.publish(PublishRequest::new(&channel, data)).await.unwrap();
    }
    client.publish(PublishRequest::new(&channel, Payload::raw_json(raw).unwrap())).await.unwrap();

    let kept = kept(client, &channel).await.publications;
    assert_eq!(kept[0].json::<Value>().unwrap(), json!([1, null]));
    assert_eq!(kept[1].json::<Value>().unwrap(), json!({"text": "hi"}));
    let text = match setup.over {
        Over::Grpc => raw,
        // The server compacts and escapes; no digit is lost.
        Over::Http => r#"{"price":1.10,"html":"\u003cb\u003e\u00e9\u003c/b\u003e","big":18446744073709551615}"#,
    };
    assert_eq!(kept[2].data, text);
}

async fn null_is_data_and_an_empty_payload_is_not(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    client.publish(PublishRequest::new(&channel, Payload::raw_json("null").unwrap())).await.unwrap();
    assert_eq!(kept(client, &channel).await.publications[0].data, "null");
    assert_code(client.publish(PublishRequest::new(&channel, Payload::default())).await, ApiError::BAD_REQUEST);
}

async fn binary_data_is_published_and_read_back_over_grpc_only(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let bytes = vec![0xff, 0x00, b'"'];
    let position = client.publish(PublishRequest::new(&channel, Payload::binary(bytes.clone()))).await.unwrap();
    assert_eq!(position.offset, 1);
    let history = client.history(HistoryRequest::new(&channel).limit(1)).await;
    match setup.over {
        Over::Grpc => assert_eq!(history.unwrap().publications[0].data, bytes),
        Over::Http => drop(assert_kind(history, ErrorKind::Protocol, true)),
    }
    let position = client.history(HistoryRequest::new(&channel)).await.unwrap();
    assert_eq!(position.offset, 1, "the position alone can be read over both");
}

async fn data_in_base64_is_decoded_by_the_server(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let request = PublishRequest::new(&channel, Payload::default());
    client.publish(request.clone().b64data("eyJhIjoxfQ==")).await.unwrap();
    assert_eq!(kept(client, &channel).await.publications[0].data, r#"{"a":1}"#);
    assert_code(client.publish(request.b64data("%")).await, ApiError::BAD_REQUEST);
}

async fn a_namespace_may_demand_a_format(client: &Client, setup: &Setup) {
    let publish = async |namespace, data| client.publish(PublishRequest::new(setup.channel(namespace), data)).await;
    assert_code(publish("json", Payload::binary(vec![0xff])).await, ApiError::BAD_REQUEST);
    assert_code(publish("object", Payload::from(json!([1]))).await, ApiError::BAD_REQUEST);
    publish("json", Payload::from(json!([1]))).await.unwrap();
    publish("object", Payload::from(json!({}))).await.unwrap();
    publish("binary", Payload::default()).await.unwrap();
}

async fn tags_come_back_with_the_publication(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    client.publish(PublishRequest::new(&channel, json!(1)).tags([("a", "1"), ("b", "")])).await.unwrap();
    let kept = kept(client, &channel).await;
    let tags: Vec<_> = kept.publications[0].tags.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(tags, [("a", "1"), ("b", "")]);
}

async fn skip_history_keeps_no_publication(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let result = client.publish(PublishRequest::new(&channel, json!(1)).skip_history(true)).await.unwrap();
    assert_eq!(result, PublishResult::default());
    assert_eq!(kept(client, &channel).await.offset, 0);
}

async fn a_repeated_idempotency_key_publishes_once(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let request = PublishRequest::new(&channel, json!(1)).idempotency_key("key");
    let first = client.publish(&request).await.unwrap();
    publish(client, &channel, json!(2)).await;
    assert_eq!(client.publish(&request).await.unwrap(), first);
    assert_eq!(offsets(&kept(client, &channel).await), [1, 2]);
}

async fn a_stale_version_publishes_nothing(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let version = |version| PublishRequest::new(&channel, json!(version)).version(version).version_epoch("e");
    let newest = client.publish(version(u64::MAX)).await.unwrap();
    assert_eq!(client.publish(version(u64::MAX - 1)).await.unwrap(), newest);
    assert_eq!(offsets(&kept(client, &channel).await), [1]);
}

suite! {
    everywhere {
        each_publish_moves_the_position_by_one
        a_channel_without_history_has_no_position
        json_comes_back_as_the_same_value
        null_is_data_and_an_empty_payload_is_not
        binary_data_is_published_and_read_back_over_grpc_only
        data_in_base64_is_decoded_by_the_server
        a_namespace_may_demand_a_format
        tags_come_back_with_the_publication
        skip_history_keeps_no_publication
        a_repeated_idempotency_key_publishes_once
        a_stale_version_publishes_nothing
    }
    standin {}
}
