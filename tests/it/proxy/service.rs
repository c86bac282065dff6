//! The services themselves: keys, limits, paths, what is not implemented, and the endpoints for SDKs.

use std::time::Duration;

use bytes::Bytes;
use centrifugo_api::proxy::endpoint::{self, Denied};
use centrifugo_api::proxy::{self, Caller, ConnectRequest, ConnectResult, Proxy, Rejection};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tower_service::Service;

#[derive(Clone)]
struct Backend;

impl Proxy for Backend {
    async fn connect(&self, request: ConnectRequest, _: &Caller) -> Result<ConnectResult, Rejection> {
        if request.name == "slow" {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Ok(ConnectResult::default().user("42"))
    }
}

async fn call<S, B>(service: &mut S, method: Method, path: &str, body: &str) -> (StatusCode, String)
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<B>, Error = std::convert::Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = service.call(request).await.unwrap().into_parts();
    (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_refusal_over_http_has_its_status() {
    let mut http = proxy::http(Backend).max_body(100);
    let ok = (StatusCode::OK, r#"{"result":{"user":"42"}}"#.to_owned());
    for path in ["/connect", "/centrifugo/connect"] {
        assert_eq!(call(&mut http, Method::POST, path, "{}").await, ok, "{path}");
    }
    assert_eq!(call(&mut http, Method::POST, "/connect", r#"{"CLIENT":"a","unknown":[1]}"#).await, ok);
    let cases = [
        (Method::GET, "/connect", "{}", 405),
        (Method::POST, "/nothing", "{}", 404),
        (Method::POST, "/connect/", "{}", 404),
        (Method::POST, "/connect", "{", 400),
        (Method::POST, "/connect", "", 400),
        (Method::POST, "/connect", r#"{"b64data":"*"}"#, 400),
        (Method::POST, "/connect", r#"{"name":"slow"}"#, 503),
        (Method::POST, "/refresh", "{}", 404),
    ];
    for (method, path, body, status) in cases {
        assert_eq!(call(&mut http, method, path, body).await.0.as_u16(), status, "{path} {body}");
    }
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(100));
    assert_eq!(call(&mut http, Method::POST, "/connect", &long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // The client is told what the server says of a proxy that is not enabled.
    let (status, body) = call(&mut http, Method::POST, "/subscribe", "{}").await;
    assert_eq!((status, &*body), (StatusCode::OK, r#"{"error":{"code":108,"message":"not available"}}"#));
    let mut locked = proxy::http(Backend).key_header("x-key", "sesame");
    assert_eq!(call(&mut locked, Method::POST, "/connect", "{}").await.0, StatusCode::UNAUTHORIZED);
    assert!(!format!("{locked:?}").contains("sesame"));
}

#[tokio::test(start_paused = true)]
async fn each_refusal_over_grpc_has_its_status() {
    async fn status(service: &mut proxy::Grpc<Backend>, method: &str, message: &[u8]) -> String {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], message].concat();
        let path = format!("/centrifugal.centrifugo.proxy.CentrifugoProxy/{method}");
        let request = Request::post(path).body(Full::new(Bytes::from(body))).unwrap();
        let (head, body) = service.call(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        body.trailers().unwrap_or(&head.headers)["grpc-status"].to_str().unwrap().to_owned()
    }
    let mut grpc = proxy::grpc(Backend).max_body(100);
    // Field 12 is the name.
    let slow = [&[0x62, 4][..], b"slow"].concat();
    let cases = [
        ("Connect", Vec::new(), "0"),
        ("Subscribe", Vec::new(), "0"),
        ("Connect", vec![0xff], "3"),
        ("Connect", vec![0x5a, 1, b'*'], "3"),
        ("Connect", slow, "4"),
        ("Connect", vec![0; 101], "11"),
        ("Refresh", Vec::new(), "12"),
        ("SubscribeUnidirectional", Vec::new(), "12"),
    ];
    for (method, message, code) in cases {
        assert_eq!(status(&mut grpc, method, &message).await, code, "{method} {message:?}");
    }
    let mut locked = proxy::grpc(Backend).key_header("x-key", "sesame");
    assert_eq!(status(&mut locked, "Connect", &[]).await, "16");
}

#[tokio::test]
async fn the_endpoints_for_sdks_ask_the_application_first() {
    let user = |caller: &Caller| caller.header("cookie").map(ToOwned::to_owned).ok_or(Denied::unauthorized());
    let mut connection =
        endpoint::connection_token(move |caller| async move { Ok(format!("token of {}", user(&caller)?)) });
    let mut subscription = endpoint::subscription_token(move |_, channel| async move {
        match &*channel {
            "mine" => Ok("a token".to_owned()),
            "panic" => panic!("sesame"),
            "broken" => Err(std::io::Error::other("sesame"))?,
            _ => Err(Denied::forbidden()),
        }
    });
    let mut signature = endpoint::shared_poll_signature(|_, asked| async move { Ok(asked.keys.join("+")) });
    let mut keys = endpoint::jwks(|| json!({"keys": []}));

    assert_eq!(call(&mut connection, Method::POST, "/", "").await.0, StatusCode::UNAUTHORIZED);
    let request = Request::post("/").header("cookie", "Ann").body(Full::new(Bytes::new())).unwrap();
    let response = connection.call(request).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], br#"{"token":"token of Ann"}"#);
    for (body, status, text) in [
        (r#"{"channel":"mine"}"#, 200, r#"{"token":"a token"}"#),
        (r#"{"channel":"theirs"}"#, 403, "Forbidden"),
        (r#"{"channel":"broken"}"#, 500, "internal error"),
        (r#"{"channel":"panic"}"#, 500, "internal error"),
        ("{}", 400, "not JSON of this request"),
    ] {
        let (got, said) = call(&mut subscription, Method::POST, "/", body).await;
        assert_eq!((got.as_u16(), &*said), (status, text), "{body}");
    }
    let asked = r#"{"channel":"prices","keys":["a","b"]}"#;
    assert_eq!(call(&mut signature, Method::POST, "/", asked).await.1, r#"{"signature":"a+b"}"#);
    assert_eq!(call(&mut keys, Method::GET, "/", "").await, (StatusCode::OK, r#"{"keys":[]}"#.to_owned()));
    assert_eq!(call(&mut keys, Method::POST, "/", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
}
