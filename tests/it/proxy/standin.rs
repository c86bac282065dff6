//! The stand-in calls handlers as a real server was recorded to.

use std::net::SocketAddr;
use std::time::Duration;

use centrifugo_api::proxy;
use centrifugo_api::proxy::message::SharedPollRefreshItem;
use centrifugo_api::testing::{ClientError, Handlers, MapMode, Namespace, Server};
use centrifugo_api::{Client, Config, HistoryRequest, PresenceRequest, message};
use serde_json::{Value, json};

use super::backend::Backend;
use super::serve::{Log, serve};

const KEY: &str = "a key of the proxy";

/// Both services, with the handlers as the stand-in calls them.
async fn both() -> [(Handlers, SocketAddr, Log); 2] {
    let (http, http_log) = serve(proxy::http(Backend).key_header("x-proxy-key", KEY), false).await;
    let (grpc, grpc_log) = serve(proxy::grpc(Backend).key_header("x-proxy-key", KEY), true).await;
    [
        (Handlers::http(format!("http://{http}/centrifugo")).header("x-proxy-key", KEY), http, http_log),
        (Handlers::grpc(format!("grpc://{grpc}")).header("x-proxy-key", KEY), grpc, grpc_log),
    ]
}

async fn server(handlers: Handlers) -> Server {
    let server = Server::builder().handlers(handlers.include_meta(true));
    server.namespace(Namespace::new("map").map(MapMode::Persistent)).start().await.unwrap()
}

#[tokio::test]
async fn a_client_connects_subscribes_and_publishes_through_the_handlers() {
    for (handlers, ..) in both().await {
        let server = server(handlers).await;
        let api = Client::new(Config::grpc(server.grpc_url())).unwrap();
        let mut client = server.client().data(json!({"case": "full"})).name("test").connect().await.unwrap();
        assert_eq!((client.user(), &client.data()[..]), ("full", &br#"[1,null,"x"]"#[..]));
        assert_eq!(client.channels().collect::<Vec<_>>(), ["auto", "hidden"]);

        let data = client.subscribe("full", json!({})).await.unwrap();
        assert_eq!(&data[..], br#"{"hello":"full"}"#);
        let presence = api.presence(PresenceRequest::new("full")).await.unwrap().presence;
        assert_eq!(presence[client.id()].user, "full");
        assert_eq!(&presence[client.id()].conn_info[..], br#"{"name":"Ann"}"#);
        assert_eq!(&presence[client.id()].chan_info[..], br#"{"role":"owner"}"#);
        assert!(api.channels(message::ChannelsRequest::new()).await.unwrap().channels.contains_key("full"));

        client.publish("full", json!({"n": 1})).await.unwrap();
        let history = api.history(HistoryRequest::new("full").limit(10)).await.unwrap().publications;
        assert_eq!((&history[0].data[..], &*history[0].tags["kind"]), (&br#"{"checked":true}"#[..], "news"));
        client.publish("unkept", json!(1)).await.unwrap();
        assert!(api.history(HistoryRequest::new("unkept").limit(10)).await.unwrap().publications.is_empty());

        assert_eq!(&client.rpc("echo", json!([1])).await.unwrap()[..], b"[1]");
        assert_eq!(&client.rpc("meta", json!(0)).await.unwrap()[..], br#"{"plan":"gold"}"#);
        client.map_publish("map:a", "renamed", json!(1)).await.unwrap();
        let state = api.map_read_state(message::MapReadStateRequest::new("map:a").limit(10)).await.unwrap();
        assert_eq!((&*state.entries[0].key, &state.entries[0].data[..]), ("other", &b"2"[..]));
        client.map_remove("map:a", "other").await.unwrap();
        client.refresh().await.unwrap();
        assert!(client.expire_at() > 0);
        client.sub_refresh("expiring-ok").await.unwrap();

        drop(client);
        assert!(api.presence(PresenceRequest::new("full")).await.unwrap().presence.is_empty());
        let request = proxy::SharedPollRefreshRequest::default()
            .channel("poll:prices")
            .items([SharedPollRefreshItem::default().key("AAPL")]);
        let result = server.shared_poll_refresh(request).await.unwrap();
        assert_eq!((result.items[0].version, &*result.epoch), (7, "e1"));
    }
}

#[tokio::test]
async fn errors_and_disconnects_reach_the_client_and_a_failure_is_told_as_error_100() {
    for (handlers, _, log) in both().await {
        let server = server(handlers.timeout(Duration::from_secs(1))).await;
        for (case, code) in [("error", 1042), ("disconnect", 4242), ("internal", 100), ("panic", 100), ("slow", 100)] {
            let error = server.client().data(json!({"case": case})).connect().await.unwrap_err();
            assert_eq!(error.code(), code, "{case}: {error}");
            let mut client = server.connect_client("42");
            assert_eq!(client.subscribe(case, json!({})).await.unwrap_err().code(), code, "{case}");
            assert_eq!(client.is_connected(), case != "disconnect");
        }
        assert_eq!(log.lock().unwrap().len(), 10, "nothing is asked twice");
        let mut client = server.connect_client("refresh-error");
        assert_eq!(client.refresh().await.unwrap_err().code(), 3005);
        let mut client = server.connect_client("refresh-internal");
        client.refresh().await.unwrap();
        assert!(client.is_connected() && client.expire_at() > 0);
        let mut client = server.connect_client("42");
        client.subscribe("expiring-error", json!({})).await.unwrap();
        assert_eq!(client.sub_refresh("expiring-error").await.unwrap_err(), ClientError::Unsubscribed(2501));
        assert_eq!(client.channels().count(), 0);
    }
}

#[tokio::test]
async fn a_header_of_the_client_replaces_the_static_one() {
    for (handlers, ..) in both().await {
        let server = server(handlers).await;
        let client = server.client().data(json!({"case": "headers"})).header("cookie", "a=b").connect().await.unwrap();
        let data: Value = serde_json::from_slice(client.data()).unwrap();
        assert_eq!(data, json!({"cookie": "a=b", "emulated": null, "key": null}));
        let stolen = server.client().header("X-Proxy-Key", "stolen").connect().await.unwrap_err();
        assert!(matches!(&stolen, ClientError::Failed(why) if why.contains("401") || why.contains("16")), "{stolen}");
    }
}

#[tokio::test]
async fn data_goes_in_base64_where_the_server_is_told_so() {
    for (handlers, ..) in both().await {
        let server = server(handlers.binary(true)).await;
        let mut client = server.connect_client("42");
        let bytes = bytes::Bytes::from_static(&[0xff, 0, 1]);
        assert_eq!(client.rpc("echo", bytes.clone()).await.unwrap(), bytes);
        assert_eq!(client.rpc("binary", bytes).await.unwrap(), &[0xff, 0][..]);
    }
}

#[tokio::test]
async fn without_handlers_the_client_is_told_error_100() {
    let server = Server::start().await.unwrap();
    let error = server.client().connect().await.unwrap_err();
    assert!(error.to_string().contains("no handlers"), "{error}");
}

/// The requests of the stand-in are those of the recording, but for the ID of the client.
#[tokio::test]
async fn the_stand_in_asks_as_a_real_server_does() {
    let recorded = std::fs::read_to_string(format!("{}/tests/fixtures/proxy/http.ndjson", env!("CARGO_MANIFEST_DIR")));
    let recorded: Vec<Value> = recorded.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let request = |line: &Value| {
        let mut request: Value = serde_json::from_str(line["request_body"].as_str().unwrap()).unwrap();
        assert_eq!(request["client"].as_str().unwrap().len(), 36);
        request.as_object_mut().unwrap().remove("client");
        request
    };
    let [(handlers, _, log), _] = both().await;
    let server = server(handlers).await;
    let mut client = server.client().data(json!({"case": "ok"})).name("test").connect().await.unwrap();
    client.subscribe("ok", json!({"d": 1})).await.unwrap();
    client.publish("ok", centrifugo_api::Payload::raw_json(r#"{"n":[1.0,2]}"#).unwrap()).await.unwrap();
    client.rpc("echo", json!({"p": "ä\u{1F600}"})).await.unwrap();
    client.map_publish("map:a", "ok", json!({"v": 1})).await.unwrap();
    client.map_remove("map:a", "ok").await.unwrap();
    client.sub_refresh("expiring-ok").await.unwrap();
    let asked = std::mem::take(&mut *log.lock().unwrap());
    let names =
        ["connect/ok", "subscribe/ok", "publish/ok", "rpc/echo", "map_publish/ok", "map_remove/ok", "sub_refresh/ok"];
    for (name, asked) in names.into_iter().zip(&asked) {
        let line = recorded.iter().find(|line| line["name"] == name).unwrap();
        assert_eq!(request(asked), request(line), "{name}");
        assert_eq!(asked["path"], line["path"]);
        assert_eq!(asked["headers"]["content-type"], line["headers"]["content-type"]);
    }
    assert_eq!(asked.len(), names.len());
}
