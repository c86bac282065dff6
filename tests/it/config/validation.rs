//! Settings that are refused, and secrets that no text shows.

use std::fmt::Debug;
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::message::{DeviceRegisterRequest, MapPublishRequest, RefreshRequest, RpcRequest};
use centrifugo_api::transport::{Call, Reply};
use centrifugo_api::{
    Batch, BroadcastRequest, Client, Config, Error, ErrorKind, Payload, PublishRequest, SubscribeRequest,
};
use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::servers::ClosedPort;
use crate::support::{block_on, client_replying, client_responding};

const GRPC: &str = "http://localhost:10000";
const HTTP: &str = "http://localhost:8000/api";

fn both() -> [Config; 2] {
    crate::support::both(Config::grpc(GRPC), Config::http(HTTP))
}

/// Asserts that a client is refused, with this text.
#[track_caller]
fn assert_refused(config: impl Into<Config>, why: &str) {
    let error = Client::new(config).expect_err(why);
    assert_eq!((error.kind(), error.may_have_run(), error.is_transient()), (ErrorKind::Invalid, false, false));
    let text = error.to_string();
    assert!(text.contains(why), "{text:?} does not say {why:?}");
}

/// Settings that must not be refused.
#[track_caller]
fn assert_accepted(config: impl Into<Config>) {
    if let Err(error) = Client::new(config) {
        panic!("{error}");
    }
}

#[test]
fn the_defaults_are_accepted() {
    for config in both() {
        assert_accepted(config);
    }
    for url in ["http://127.0.0.1:1", "http://[::1]:10000", "https://example.com", "http://example.com/"] {
        assert_accepted(Config::grpc(url));
        assert_accepted(Config::http(url));
    }
}

#[test]
fn an_endpoint_that_is_not_a_url_is_refused() {
    for url in ["", "localhost", "http://", "http://:8000", "http://localhost:99999", "http://[::1", "//localhost:8000"]
    {
        assert_refused(Config::grpc(url), "endpoint");
        assert_refused(Config::http(url), "endpoint");
    }
}

#[test]
fn an_endpoint_with_another_scheme_or_none_is_refused() {
    for url in ["localhost:10000", "grpc://localhost:10000", "ftp://localhost", "unix:/tmp/socket"] {
        assert_refused(Config::grpc(url), "http:// or https://");
        assert_refused(Config::http(url), "http:// or https://");
    }
}

#[test]
fn an_endpoint_with_a_user_is_accepted_and_not_shown() {
    for url in ["http://me@localhost:8000", "http://me:sesame@localhost:8000", "http://:s%65same@localhost:8000"] {
        for config in crate::support::both(Config::grpc(url), Config::http(url)) {
            assert_secret(&config);
            assert_secret(&Client::new(config.clone()).unwrap());
            assert_refused(config.clone().endpoint("http://localhost:8000"), "twice");
            assert_refused(config.basic_auth("you", "sesame"), "give one");
        }
    }
    for url in ["http://me:ses/ame@localhost:8000", "http://me:1/sesame@localhost", "me:sesame@localhost:8000"] {
        for config in crate::support::both(Config::grpc(url), Config::http(url)) {
            assert_refused(config.clone(), "endpoint");
            assert_secret(&config);
            assert_secret(&Client::new(config).unwrap_err());
        }
    }
}

#[test]
fn only_one_setting_may_need_the_header_authorization() {
    let token = || async { Ok("sesame".to_owned()) };
    for config in both() {
        assert_accepted(config.clone().basic_auth("me", "sesame"));
        assert_accepted(config.clone().header("Authorization", "Bearer sesame"));
        let basic = config.clone().basic_auth("me", "sesame");
        assert_refused(basic.clone().bearer_token(token), "`bearer_token` and basic auth");
        assert_refused(basic.header("authorization", "Bearer sesame"), "basic auth and the `header` authorization");
        let twice = config.clone().header("authorization", "Bearer sesame").header("Authorization", "Bearer sesame");
        assert_refused(twice, "the `header` authorization");
        for (user, password) in [("m:e", "sesame"), ("me", "ses\name")] {
            let wrong = config.clone().basic_auth(user, password);
            assert_refused(wrong.clone(), "`basic_auth`");
            assert_secret(&wrong);
        }
    }
    let [grpc, http] = both().map(|config| config.api_key("sesame"));
    assert_accepted(http.clone().basic_auth("me", "sesame"));
    assert_accepted(http.header("authorization", "Bearer sesame"));
    assert_refused(grpc.clone().basic_auth("me", "sesame"), "`api_key` and basic auth both need");
    assert_refused(grpc.clone().header("authorization", "Bearer sesame"), "call over HTTP");
    let grpc = Config::grpc("http://me:sesame@localhost:10000");
    assert_refused(grpc.api_key("sesame"), "`api_key` and basic auth both need");
}

#[test]
fn an_endpoint_with_a_query_or_a_fragment_is_refused_and_not_quoted() {
    for url in ["http://localhost:8000/?api_key=sesame", "http://localhost:8000/#sesame"] {
        for config in crate::support::both(Config::grpc(url), Config::http(url)) {
            assert_refused(config.clone(), "endpoint");
            assert_secret(&config);
            assert_secret(&Client::new(config).unwrap_err());
        }
    }
}

#[test]
fn an_endpoint_that_would_be_read_as_another_is_refused() {
    for url in [
        "http://localhost:8000/api//",
        "http://localhost:8000//",
        "http://localhost:8000//api",
        "http://localhost:8000/a//api/",
        "http:///localhost:8000/api",
        "http:localhost:8000",
        "http:/localhost:8000",
        "http://localhost:8000/./api",
        "http://localhost:8000/v1/../api",
        "http://localhost:8000/v1/%2E%2e/api",
        "http:\\\\localhost:8000",
        "http://localhost:8000\\api",
        "http://local\thost:8000",
        "http://localhost:8000/a\npi",
        " http://localhost:8000",
        "http://localhost:8000\n",
    ] {
        let refused = "is not the URL that it would be read as";
        assert_refused(Config::http(url), refused);
        assert_refused(Config::grpc(url), refused);
    }
    for url in ["http://localhost:8000/api/", "HTTP://LOCALHOST:80/api", "http://localhost/a.b/..c/api"] {
        assert_accepted(Config::http(url));
    }
}

#[test]
fn a_zone_of_an_address_is_named() {
    for url in ["http://[fe80::1%25eth0]:8000", "http://[fe80::1%eth0]:8000"] {
        assert_refused(Config::grpc(url), "zone");
        assert_refused(Config::http(format!("{url}/api")), "zone");
    }
}

#[test]
fn an_endpoint_of_grpc_with_a_path_is_refused() {
    for url in ["http://localhost:10000/api", "http://localhost:10000/a/b"] {
        assert_refused(Config::grpc(url), "path");
    }
}

#[test]
fn a_zero_timeout_is_refused() {
    for config in both() {
        assert_refused(config.clone().timeout(Duration::ZERO), "`timeout`");
        assert_refused(config.clone().connect_timeout(Duration::ZERO), "`connect_timeout`");
        assert_accepted(config.timeout(Duration::MAX).connect_timeout(Duration::MAX));
    }
}

#[test]
fn an_api_key_that_no_header_can_hold_is_refused_and_not_quoted() {
    for config in both() {
        assert_refused(config.clone().api_key(""), "`api_key`");
        for key in ["ses\name", "sesame\r\nx: y", "ses\0ame", "sesame\u{7f}", "\u{feff}sesame"] {
            assert_refused(config.clone().api_key(key), "`api_key`");
            assert_secret(&Client::new(config.clone().api_key(key)).unwrap_err());
        }
        for key in [" sesame", "sesame ", "\tsesame", "sesame\n", "sesame\r\n", "\u{a0}sesame", " "] {
            assert_refused(config.clone().api_key(key), "`api_key` begins or ends with");
            assert_secret(&Client::new(config.clone().api_key(key)).unwrap_err());
        }
        assert_accepted(config.api_key("a key with spaces, and ~!@#$%^&*()"));
    }
}

#[test]
fn a_header_that_the_transport_sets_is_refused() {
    let reserved = [
        "x-api-key",
        "X-API-Key",
        "user-agent",
        "content-type",
        "content-length",
        "host",
        "te",
        "connection",
        "transfer-encoding",
        "grpc-timeout",
        "trace-bin",
    ];
    for config in both() {
        for name in reserved {
            assert_refused(config.clone().header(name, "sesame"), &name.to_ascii_lowercase());
        }
        assert_accepted(config.header("x-request-id", "7").header("x-request-id", "8"));
    }
}

#[test]
fn a_header_that_http_does_not_allow_is_refused() {
    for config in both() {
        for name in ["", "a b", "a:b", "ä", ":path"] {
            assert_refused(config.clone().header(name, "1"), "`header`");
        }
        assert_refused(config.clone().header("x-a", "1\n2"), "`x-a`");
        assert_refused(config.clone().header("x-a", "1 "), "`x-a` begins or ends with");
        assert_refused(config.clone().user_agent("a\nb"), "`user_agent`");
        assert_refused(config.user_agent(" a"), "`user_agent` begins or ends with");
    }
}

#[test]
fn a_key_and_a_token_together_are_refused_over_grpc_only() {
    let [grpc, http] = crate::support::both(Config::grpc(GRPC), Config::http(HTTP))
        .map(|config| config.api_key("sesame").bearer_token(|| async { Ok("sesame".to_owned()) }));
    assert_refused(grpc, "`api_key` and `bearer_token`");
    assert_accepted(http);
}

#[test]
fn zero_connections_are_refused() {
    assert_refused(Config::grpc(GRPC).connections(0), "`connections`");
}

#[test]
fn a_keepalive_interval_under_a_second_is_refused() {
    assert_refused(Config::grpc(GRPC).keepalive(Some(Duration::from_millis(999))), "`keepalive`");
    assert_accepted(Config::grpc(GRPC).keepalive(Some(Duration::from_secs(1))));
    assert_accepted(Config::grpc(GRPC).keepalive(None));
}

#[test]
fn tls_for_a_clear_text_endpoint_is_refused() {
    for config in both() {
        assert_refused(config.clone().tls(Tls::new().danger_skip_verification()), "`tls`");
        assert_accepted(config.tls(Tls::new()));
    }
}

#[test]
fn a_byte_order_mark_before_certificates_and_keys_is_left_out() {
    let (authority, mark) = (Authority::new(), |pem: &str| format!("\u{feff}{pem}"));
    let identity = authority.issue("127.0.0.1");
    let tls = Tls::new().ca_certificates(mark(&authority.pem()));
    let tls = tls.client_certificate(mark(&identity.certificate), mark(&identity.key));
    for url in ["https://localhost:10000", "https://localhost:10001"] {
        assert_accepted(Config::grpc(url).tls(tls.clone()));
        assert_accepted(Config::http(url).tls(tls.clone()));
    }
}

#[test]
fn invalid_certificates_and_keys_are_refused_and_not_quoted() {
    for config in
        crate::support::both(Config::grpc("https://localhost:10000"), Config::http("https://localhost:8000/api"))
    {
        assert_refused(config.clone().tls(Tls::new().ca_certificates("sesame")), "`ca_certificates`");
        let identity = Tls::new().client_certificate("sesame", "sesame");
        assert_secret(&identity);
        assert_refused(config.clone().tls(identity.clone()), "`client_certificate`");
        assert_secret(&Client::new(config.tls(identity)).unwrap_err());
    }
}

/// The secret that the tests below put wherever one can be.
const SECRET: &str = "sesame";

/// Neither the secret nor its base64 nor its bytes are in the texts.
#[track_caller]
fn assert_not_in(text: &str) {
    for form in [SECRET, "c2VzYW1l", "115, 101, 115"] {
        assert!(!text.contains(form), "{text}");
    }
}

#[track_caller]
fn assert_secret(value: &impl Debug) {
    assert_not_in(&format!("{value:?}"));
    assert_not_in(&format!("{value:#?}"));
}

/// An error's texts and those of its causes.
#[track_caller]
fn assert_secret_error(error: &Error) {
    assert_secret(error);
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        assert_not_in(&error.to_string());
        cause = error.source();
    }
}

#[test]
fn a_config_and_a_client_show_no_key() {
    for config in both() {
        let config = config.api_key(SECRET).header("x-key", SECRET);
        assert_secret(&config);
        assert_secret(&Client::new(config).unwrap());
    }
    for config in both() {
        let config = config.bearer_token(|| async { Ok(SECRET.to_owned()) });
        assert_secret(&config);
        assert_secret(&Client::new(config).unwrap());
    }
}

#[test]
fn a_request_shows_no_payload_and_no_token() {
    let data = || Payload::from(json!({ SECRET: SECRET }));
    assert_secret(&data());
    assert_secret(&PublishRequest::new("news", data()).b64data("c2VzYW1l"));
    assert_secret(&BroadcastRequest::new(["news"], data()).b64data("c2VzYW1l"));
    assert_secret(
        &SubscribeRequest::new("news", "me").info(data()).data(data()).b64info("c2VzYW1l").b64data("c2VzYW1l"),
    );
    assert_secret(&RefreshRequest::new("me").info(data()));
    assert_secret(&RpcRequest::new("echo").params(data()));
    assert_secret(&MapPublishRequest::new("map:a", "key").data(data()).stream_data(data()).b64data("c2VzYW1l"));
    assert_secret(&DeviceRegisterRequest::new("fcm", SECRET, "ios"));
}

#[test]
fn a_batch_and_its_replies_show_no_payload() {
    let mut batch = Batch::new();
    batch.push(PublishRequest::new("news", json!(SECRET)));
    let handle = batch.push_json("history", json!({ "channel": SECRET })).unwrap();
    assert_secret(&batch);
    let client = client_responding(|_| {
        Ok(Reply::json(format!(r#"{{"replies":[{{"publish":{{}}}},{{"history":{{"epoch":"{SECRET}"}}}}]}}"#)))
    });
    let replies = block_on(client.batch(&batch)).unwrap();
    assert_secret(&replies);
    assert_secret(&handle);
    assert_secret_error(&replies.get_json::<u64>(handle).unwrap_err());
}

#[test]
fn a_call_and_a_reply_show_no_payload() {
    let client = client_responding(|call: &Call<'_>| {
        assert_secret(call);
        let reply = Reply::json(format!(r#"{{"result":{{"offset":"{SECRET}"}}}}"#));
        assert_secret(&reply);
        Ok(reply)
    });
    let error = block_on(client.publish(PublishRequest::new("news", json!(SECRET)))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_secret_error(&error);
}

#[test]
fn an_error_shows_nothing_of_a_response_that_could_not_be_read() {
    for reply in [
        Reply::json(SECRET),
        Reply::json(format!(r#"{{"{SECRET}":1}}"#)),
        Reply::json(format!(r#"{{"result":"{SECRET}"}}"#)),
        Reply::json(format!(r#"{{"result":{{"publications":[{{"data":{SECRET}}}]}}}}"#)),
        Reply::protobuf(SECRET),
    ] {
        let client = client_replying(reply);
        let history = centrifugo_api::HistoryRequest::new("news");
        assert_secret_error(&block_on(client.history(history)).unwrap_err());
        assert_secret_error(&block_on(client.call_json::<u64>("history", json!({}))).unwrap_err());
    }
}

#[test]
fn a_decoding_error_shows_no_payload() {
    let reply = Reply::json(format!(r#"{{"result":{{"publications":[{{"data":"{SECRET}","offset":1}}]}}}}"#));
    let client = client_replying(reply);
    let history = block_on(client.history(centrifugo_api::HistoryRequest::new("news"))).unwrap();
    assert_secret(&history);
    assert_secret_error(&history.publications[0].json::<u64>().unwrap_err());
    assert_secret_error(&Payload::raw_json(SECRET).unwrap_err());
}

#[test]
fn a_connect_error_shows_no_key_and_no_payload() {
    let closed = ClosedPort::new();
    for config in crate::support::both(Config::grpc(closed.url()), Config::http(format!("{}/api", closed.url()))) {
        let client = Client::new(config.api_key(SECRET)).unwrap();
        let error = block_on(client.publish(PublishRequest::new("news", json!(SECRET)))).unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Connect, false));
        assert_secret_error(&error);
    }
}

#[test]
fn a_token_that_cannot_be_sent_is_not_shown() {
    for config in both() {
        let client = Client::new(config.bearer_token(|| async { Ok(format!("{SECRET}\n")) })).unwrap();
        let error = block_on(client.call_json::<Value>("info", json!({}))).unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Unauthenticated, false));
        assert_secret_error(&error);
    }
}
