//! What a real Centrifugo was recorded to ask is asked again, over both services, and answered the same.

use bytes::Bytes;
use centrifugo_api::proxy;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tower_service::Service;

use super::backend::Backend;
use super::serve::{hex, unhex};

fn lines(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{}/tests/fixtures/proxy/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn request(line: &Value, body: Vec<u8>) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post(line["path"].as_str().unwrap());
    for (name, value) in line["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    request.body(Full::new(body.into())).unwrap()
}

/// Whether the answer holds a time.
fn is_volatile(line: &Value) -> bool {
    ["refresh/ok", "sub_refresh/ok"].contains(&line["name"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn recorded_calls_are_answered_the_same_over_http() {
    let lines = lines("http.ndjson");
    let mut service = proxy::http(Backend).key_header("x-proxy-key", "a key of the proxy");
    for line in lines.iter().filter(|line| !is_volatile(line)) {
        let body = line["request_body"].as_str().unwrap().as_bytes().to_vec();
        let (head, body) = service.call(request(line, body)).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(head.status.as_u16(), line["status"], "{line}");
        assert_eq!(std::str::from_utf8(&body).unwrap(), line["response_body"], "{line}");
    }
    assert!(lines.len() > 50);
}

#[tokio::test(start_paused = true)]
async fn recorded_calls_are_answered_the_same_over_grpc() {
    let lines = lines("grpc.ndjson");
    let mut service = proxy::grpc(Backend).key_header("x-proxy-key", "a key of the proxy");
    for line in lines.iter().filter(|line| !is_volatile(line)) {
        let message = unhex(line["request_hex"].as_str().unwrap());
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &message].concat();
        let (head, body) = service.call(request(line, body)).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let status = body.trailers().unwrap_or(&head.headers)["grpc-status"].to_str().unwrap().to_owned();
        assert_eq!(status, line["code"].to_string(), "{line}");
        let message = body.to_bytes();
        assert_eq!(hex(message.get(5..).unwrap_or_default()), line["response_hex"], "{line}");
    }
    assert!(lines.len() > 50);
}

#[test]
fn both_transports_were_told_the_same() {
    let (http, grpc) = (lines("http.ndjson"), lines("grpc.ndjson"));
    let of =
        |lines: &[Value], name: &str| lines.iter().find(|line| line["name"] == name).map(|line| line["client"].clone());
    for line in &http {
        let name = line["name"].as_str().unwrap();
        // Over gRPC bytes that are not JSON have a place everywhere, and the server checks nothing.
        if name == "connect/not_json_meta" {
            continue;
        }
        let mask = |client: Option<Value>| {
            let mut client = client.unwrap_or_else(|| panic!("{name} was not recorded"));
            for (method, field) in [("connect", "client"), ("connect", "subs"), ("subscribe", "epoch")] {
                if let Some(object) = client.get_mut(method).and_then(Value::as_object_mut) {
                    object.remove(field);
                }
            }
            client
        };
        assert_eq!(mask(of(&http, name)), mask(of(&grpc, name)), "{name}");
    }
}
