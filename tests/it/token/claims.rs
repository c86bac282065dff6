//! Each claim, as the server reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use centrifugo_api::Payload;
use centrifugo_api::token::{Capability, SubscribeOptions, Token, TokenIssuer};
use serde_json::{Value, json};

use super::keys::SECRET;

const HOUR: Duration = Duration::from_secs(3600);

fn issuer() -> TokenIssuer {
    TokenIssuer::hmac_sha256(SECRET).unwrap()
}

fn issued() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn claims(token: Result<String, centrifugo_api::Error>) -> Value {
    Value::Object(Token::decode_unverified(&token.unwrap()).unwrap().claims().clone())
}

#[test]
fn a_connection_token_has_every_claim_that_is_set() {
    let issuer = issuer().key_id("2026-11").issuer("shop").audience("ws").audience("mobile");
    let token = issuer
        .connection("42")
        .issued_at(issued())
        .expires_in(HOUR)
        .not_before(issued() - HOUR)
        .id("t-1")
        .connection_expires_in(2 * HOUR)
        .info(json!({"name": "A"}))
        .meta(json!({"plan": "pro"}))
        .channel("news")
        .channels(["a", "b"])
        .capability(Capability::new(["news"]).subscribe().publish().presence().history())
        .capability(Capability::wildcard(["user:*"]).subscribe())
        .capability(Capability::regex(["^x[0-9]$"]).subscribe())
        .label("region", "eu")
        .claim("user_id", json!("42"))
        .issue()
        .unwrap();
    let read = Token::decode_unverified(&token).unwrap();
    assert_eq!(read.key_id(), Some("2026-11"));
    assert_eq!(read.subject(), Some("42"));
    assert_eq!(read.expires_at(), Some(issued() + HOUR));
    assert_eq!(
        claims(Ok(token)),
        json!({
            "sub": "42", "exp": 1_700_003_600, "nbf": 1_699_996_400, "iat": 1_700_000_000, "jti": "t-1", "aud": ["ws", "mobile"],
            "iss": "shop", "expire_at": 1_700_007_200, "info": {"name": "A"}, "channels": ["news", "a", "b"],
            "meta": {"plan": "pro"}, "labels": {"region": "eu"}, "user_id": "42",
            "caps": [
                {"channels": ["news"], "allow": ["sub", "pub", "prs", "hst"]},
                {"channels": ["user:*"], "match": "wildcard", "allow": ["sub"]},
                {"channels": ["^x[0-9]$"], "match": "regex", "allow": ["sub"]},
            ],
        })
    );
}

#[test]
fn a_subscription_token_has_every_claim_that_is_set() {
    let token = issuer()
        .audience("ws")
        .subscription("42", "orders:17")
        .issued_at(issued())
        .expires_at(issued() + HOUR)
        .subscription_expires_at(issued() + 2 * HOUR)
        .client("c-1")
        .info(json!({"name": "A"}))
        .data(Payload::binary(vec![0xff, 0]))
        .presence(true)
        .join_leave(false)
        .force_push_join_leave(true)
        .force_positioning(false)
        .force_recovery(true)
        .issue();
    assert_eq!(
        claims(token),
        json!({
            "sub": "42", "channel": "orders:17", "exp": 1_700_003_600, "iat": 1_700_000_000, "aud": "ws",
            "expire_at": 1_700_007_200, "client": "c-1", "info": {"name": "A"}, "b64data": "/wA=",
            "override": {
                "presence": {"value": true}, "join_leave": {"value": false}, "force_push_join_leave": {"value": true},
                "force_positioning": {"value": false}, "force_recovery": {"value": true},
            },
        })
    );
}

#[test]
fn an_api_token_has_a_scope_and_no_user() {
    let token =
        issuer().audience("api").api_token().issued_at(issued()).expires_in(HOUR).scope("centrifugo:api").issue();
    assert_eq!(
        claims(token),
        json!({"exp": 1_700_003_600, "iat": 1_700_000_000, "aud": "api", "scope": "centrifugo:api"})
    );
}

#[test]
fn what_is_not_set_is_not_there() {
    let token = issuer().connection("42").issued_at(issued()).expires_in(HOUR).issue();
    assert_eq!(claims(token), json!({"sub": "42", "exp": 1_700_003_600, "iat": 1_700_000_000}));
}

#[test]
fn bytes_that_are_not_json_go_in_base64() {
    let token =
        issuer().connection("42").issued_at(issued()).expires_in(HOUR).info(Payload::binary(vec![0xff])).issue();
    let claims = claims(token);
    assert_eq!((claims.get("info"), &claims["b64info"]), (None, &json!("/w==")));
}

#[test]
fn with_options_for_one_channel_all_channels_go_into_subs() {
    let options = SubscribeOptions::new().info(json!(1)).data(json!("hello")).presence(false);
    let token = issuer().connection("42").expires_in(HOUR).channel("news").subscription("orders:17", options).issue();
    let claims = claims(token);
    assert_eq!(claims.get("channels"), None);
    assert_eq!(
        claims["subs"],
        json!({
            "news": {},
            "orders:17": {"info": 1, "data": "hello", "override": {"presence": {"value": false}}},
        })
    );
}

#[test]
fn the_anonymous_user_has_an_empty_sub() {
    let issuer = issuer();
    assert_eq!(claims(issuer.anonymous_connection().expires_in(HOUR).issue())["sub"], "");
    let claims = claims(issuer.anonymous_subscription("news").expires_in(HOUR).issue());
    assert_eq!((&claims["sub"], &claims["channel"]), (&json!(""), &json!("news")));
}

#[test]
fn what_has_no_end_was_asked_for_by_name() {
    let issuer = issuer();
    let forever = claims(issuer.connection("42").never_expires().issue());
    assert_eq!((forever.get("exp"), forever.get("expire_at")), (None, None));
    let connection = claims(issuer.connection("42").expires_in(HOUR).connection_never_expires().issue());
    assert_eq!(connection["expire_at"], 0);
    let subscription = claims(issuer.subscription("42", "a").expires_in(HOUR).subscription_never_expires().issue());
    assert_eq!(subscription["expire_at"], 0);
}

#[test]
fn a_token_is_issued_now_unless_it_says_otherwise() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = claims(issuer().connection("42").expires_in(HOUR).issue());
    let issued = claims["iat"].as_u64().unwrap();
    assert!((now..now + 10).contains(&issued));
    assert_eq!(claims["exp"], issued + 3600);
}
