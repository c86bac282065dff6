//! Tokens for users, a key set that rotates, and a check of what was issued.
//!
//! `cargo run --all-features --example tokens`

#![allow(clippy::print_stdout, reason = "the tokens are for people to read")]

use std::time::Duration;

use centrifugo_api::token::{Algorithm, Jwk, TokenError, TokenIssuer, TokenVerifier};
use serde_json::json;

/// Keys for this example only: they are known to everybody. `openssl genpkey -algorithm ed25519` makes one.
const NOVEMBER: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----";
const DECEMBER: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END PUBLIC KEY-----";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let issuer = TokenIssuer::pem(Algorithm::EdDsa, NOVEMBER)?.key_id("2026-11").issuer("shop").audience("ws");
    // The next key is out before it signs.
    let issuer = issuer.publish_key(Jwk::pem(DECEMBER)?.key_id("2026-12"));

    let half_an_hour = Duration::from_secs(30 * 60);
    let connection = issuer.connection("42").expires_in(half_an_hour).info(json!({"name": "A"})).issue()?;
    let subscription = issuer.subscription("42", "room:7").expires_in(half_an_hour).issue()?;
    println!("connect with   {connection}\nsubscribe with {subscription}");

    // What the server reads from `client.token.jwks_public_endpoint`.
    let jwks = issuer.jwks()?;
    println!("key set        {}", jwks.to_json());

    let verifier = TokenVerifier::jwks(jwks).issuer("shop").audience("ws");
    let token = verifier.verify(&connection)?;
    assert_eq!((token.subject(), token.key_id()), (Some("42"), Some("2026-11")));
    assert_eq!(verifier.audience("admin").issuer("other").verify(&subscription), Err(TokenError::Issuer));
    Ok(())
}
