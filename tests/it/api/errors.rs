//! Errors of the API, and keys.

use centrifugo_api::message::{HistoryRemoveRequest, InfoRequest, MapStatsRequest, PresenceStatsRequest};
use centrifugo_api::{
    ApiError, Client, Config, ErrorKind, HistoryRequest, PresenceRequest, PublishRequest, SubscribeRequest,
};
use serde_json::json;

use super::suite::{assert_code, assert_kind, suite};
use crate::support::{
    Over,
    servers::{self, Setup},
};

async fn an_unknown_namespace_is_error_102(client: &Client, setup: &Setup) {
    let channel = setup.channel("nope");
    assert_code(client.publish(PublishRequest::new(&channel, json!(1))).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.history(HistoryRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.presence(PresenceRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.subscribe(SubscribeRequest::new(&channel, "ghost")).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.map_stats(MapStatsRequest::new(&channel)).await, ApiError::UNKNOWN_CHANNEL);
}

async fn an_empty_channel_is_error_107(client: &Client, _: &Setup) {
    assert_code(client.publish(PublishRequest::new("", json!(1))).await, ApiError::BAD_REQUEST);
    assert_code(client.history(HistoryRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.history_remove(HistoryRemoveRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.presence(PresenceRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.presence_stats(PresenceStatsRequest::new("")).await, ApiError::BAD_REQUEST);
    assert_code(client.subscribe(SubscribeRequest::new("", "ghost")).await, ApiError::BAD_REQUEST);
}

async fn history_and_presence_that_are_off_are_error_108(client: &Client, setup: &Setup) {
    let channel = setup.channel("plain");
    assert_code(client.history(HistoryRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.history_remove(HistoryRemoveRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.presence(PresenceRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
    assert_code(client.presence_stats(PresenceStatsRequest::new(&channel)).await, ApiError::NOT_AVAILABLE);
}

async fn an_error_names_method_transport_and_endpoint(client: &Client, setup: &Setup) {
    let error = client.history(HistoryRequest::new(setup.channel("nope"))).await.unwrap_err();
    let transport = match setup.over {
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

async fn a_wrong_key_is_unauthenticated(_: &Client, setup: &Setup) {
    let publish = PublishRequest::new(setup.channel(""), json!(1));
    for config in [setup.without_key(), setup.without_key().api_key("wrong")] {
        let called = Client::new(config).unwrap().publish(&publish).await;
        assert_kind(called, ErrorKind::Unauthenticated, false);
    }
}

async fn a_key_need_not_be_ascii(_: &Client, setup: &Setup) {
    // Tried on a real server too, which compares bytes.
    let server = servers::standin("ключ").await;
    let config: Config = match setup.over {
        Over::Grpc => Config::grpc(server.grpc_url()).into(),
        Over::Http => Config::http(server.http_url()).into(),
    };
    Client::new(config.clone().api_key("ключ")).unwrap().info(InfoRequest::new()).await.unwrap();
    let wrong = Client::new(config.api_key("ключи")).unwrap();
    assert_kind(wrong.info(InfoRequest::new()).await, ErrorKind::Unauthenticated, false);
}

suite! {
    everywhere {
        an_unknown_namespace_is_error_102
        an_empty_channel_is_error_107
        history_and_presence_that_are_off_are_error_108
        an_error_names_method_transport_and_endpoint
        a_wrong_key_is_unauthenticated
    }
    standin {
        a_key_need_not_be_ascii
    }
}
