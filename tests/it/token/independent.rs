//! Tokens are read by `jsonwebtoken`, and its tokens here. It has no P-521: see `real` for ES512.

use std::time::Duration;

use centrifugo_api::token::{Jwk, TokenIssuer, TokenVerifier};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde_json::{Value, json};

use super::keys::{PAIRS, SECRET, hmac};

fn read(token: &str, key: &DecodingKey, algorithm: &str) -> Value {
    let mut validation = Validation::new(algorithm.parse().unwrap());
    validation.set_audience(&["ws"]);
    validation.set_issuer(&["shop"]);
    let read = decode::<Value>(token, key, &validation).unwrap();
    assert_eq!((read.header.kid.as_deref(), read.header.typ.as_deref()), (Some("k"), Some("JWT")));
    read.claims
}

#[test]
fn tokens_with_a_secret_are_read() {
    for issuer in hmac() {
        let issuer = issuer.key_id("k").issuer("shop").audience("ws");
        let token =
            issuer.connection("42").expires_in(Duration::from_secs(60)).info(json!({"a": "ü"})).issue().unwrap();
        let algorithm = issuer.verifier().unwrap().verify(&token).unwrap().algorithm().to_string();
        let claims = read(&token, &DecodingKey::from_secret(SECRET.as_bytes()), &algorithm);
        assert_eq!((&claims["sub"], &claims["info"]), (&json!("42"), &json!({"a": "ü"})));
    }
}

#[test]
fn tokens_with_a_private_key_are_read_with_the_published_key() {
    for (algorithm, private, _) in PAIRS {
        if algorithm.to_string() == "ES512" {
            continue;
        }
        let issuer = TokenIssuer::pem(*algorithm, private).unwrap().key_id("k").issuer("shop").audience("ws");
        let token = issuer.subscription("42", "news").expires_in(Duration::from_secs(60)).issue().unwrap();
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&issuer.jwks().unwrap().to_json()).unwrap();
        let key = DecodingKey::from_jwk(set.find("k").unwrap()).unwrap();
        let claims = read(&token, &key, &algorithm.to_string());
        assert_eq!((&claims["sub"], &claims["channel"]), (&json!("42"), &json!("news")));
    }
}

#[test]
fn tokens_of_others_are_read_here() {
    let claims = json!({"sub": "42", "exp": 9_000_000_000_u64});
    let tokens =
        PAIRS.iter().filter(|(algorithm, ..)| algorithm.to_string() != "ES512").map(|(algorithm, private, public)| {
            let key = match &algorithm.to_string()[..2] {
                "RS" => EncodingKey::from_rsa_pem(private.as_bytes()),
                "ES" => EncodingKey::from_ec_pem(private.as_bytes()),
                _ => EncodingKey::from_ed_pem(private.as_bytes()),
            };
            (algorithm.to_string(), key, TokenVerifier::key(Jwk::pem(public).unwrap()))
        });
    let secret = ["HS256", "HS384", "HS512"].map(|algorithm| {
        (algorithm.to_owned(), Ok(EncodingKey::from_secret(SECRET.as_bytes())), TokenVerifier::hmac(SECRET).unwrap())
    });
    let mut count = 0;
    for (algorithm, key, verifier) in tokens.chain(secret) {
        // Of EC keys it reads PKCS #8 only.
        let Ok(key) = key else { continue };
        let Ok(token) = encode(&Header::new(algorithm.parse().unwrap()), &claims, &key) else { continue };
        assert_eq!(verifier.verify(&token).unwrap().subject(), Some("42"), "{algorithm}");
        count += 1;
    }
    assert!(count >= 9, "{count}");
}
