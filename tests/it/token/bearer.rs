//! Tokens of the server API in the calls of a client, checked by `jsonwebtoken`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::token::TokenIssuer;
use centrifugo_api::{Client, Config};
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde_json::Value;

use super::keys::PAIRS;
use crate::support::{h1script, h2script, request};

/// Whether a header is a token that a server with this key set would take.
fn is_accepted(header: Option<&str>, jwks: &str) -> bool {
    let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ")) else { return false };
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(jwks).unwrap();
    let head = jsonwebtoken::decode_header(token).unwrap();
    let key = DecodingKey::from_jwk(set.find(&head.kid.unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(head.alg);
    validation.set_audience(&["api"]);
    decode::<Value>(token, &key, &validation).is_ok_and(|token| token.claims["scope"] == "centrifugo:api")
}

#[tokio::test]
async fn calls_over_both_transports_have_a_token_that_is_accepted() {
    let (algorithm, private, _) = PAIRS[3];
    let issuer = TokenIssuer::pem(algorithm, private).unwrap().key_id("k").audience("api");
    let jwks: Arc<str> = issuer.jwks().unwrap().to_json().into();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let check = {
        let (jwks, seen) = (Arc::clone(&jwks), Arc::clone(&seen));
        move |header: Option<&str>| {
            seen.lock().unwrap().insert(header.map(str::to_owned));
            is_accepted(header, &jwks)
        }
    };
    let over_grpc = check.clone();
    let grpc = h2script::replying(move |call| {
        let header = call.headers.get("authorization").map(|value| value.to_str().unwrap());
        if over_grpc(header) { h2script::Reply::result() } else { h2script::Reply::status(16, "who?") }
    });
    let http = h1script::replying(move |call| {
        if check(call.header("authorization")) { h1script::Reply::result() } else { h1script::Reply::json(401, "{}") }
    });
    let tokens = || issuer.api_token().scope("centrifugo:api").renewed(Duration::from_secs(60));
    let no_scope = || issuer.api_tokens(Duration::from_secs(60));
    for config in crate::support::both(Config::grpc(grpc.url()), Config::http(http.api_url())) {
        let client = Client::new(config.clone().bearer_token(tokens())).unwrap();
        seen.lock().unwrap().clear();
        for _ in 0..10 {
            client.publish(request()).await.unwrap();
        }
        assert_eq!(seen.lock().unwrap().len(), 1, "one token serves all calls");
        let refused = Client::new(config.bearer_token(no_scope())).unwrap();
        let error = refused.publish(request()).await.unwrap_err();
        assert!(error.is_unauthenticated(), "{error}");
        let shown = format!("{error:?}");
        assert!(seen.lock().unwrap().iter().flatten().all(|token| !shown.contains(&token[7..])), "{shown}");
    }
}
