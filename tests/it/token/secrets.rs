//! Secrets and tokens are in no `Debug` and in no error.

use std::time::Duration;

use centrifugo_api::token::{Algorithm, SharedPollSigner, SigningKey, Token, TokenIssuer, TokenVerifier};
use centrifugo_api::{Client, Config};
use serde_json::json;

use super::keys::{PAIRS, SECRET};

/// The lines of a key between its first and its last.
fn body(pem: &str) -> Vec<&str> {
    pem.lines().filter(|line| !line.starts_with("-----") && line.len() > 20).collect()
}

#[test]
fn no_debug_shows_a_secret_or_a_claim() {
    let hour = Duration::from_secs(3600);
    for (algorithm, private, _) in PAIRS {
        let key = SigningKey::pem(*algorithm, private).unwrap();
        let shown = format!("{key:?} {:#?}", TokenIssuer::new(key.clone()));
        assert!(body(private).iter().all(|line| !shown.contains(line)), "{shown}");
    }
    let issuer = TokenIssuer::hmac_sha256(SECRET).unwrap();
    let info = json!({"card": "4111 1111"});
    let token = issuer.connection("42").expires_in(hour).info(info.clone()).claim("own", info);
    let text = token.clone().issue().unwrap();
    let poll = SharedPollSigner::new(SECRET).unwrap();
    let shown = format!(
        "{issuer:?} {token:?} {:?} {:?} {poll:?} {:?} {:?}",
        issuer.subscription("42", "news").expires_in(hour).data(json!("4111 1111")),
        issuer.api_token(),
        poll.sign("42", "poll:a", ["k"]),
        (TokenVerifier::hmac(SECRET).unwrap(), issuer.verifier().unwrap(), Token::decode_unverified(&text).unwrap()),
    );
    let bytes = format!("{:?}", SECRET.as_bytes());
    for secret in [SECRET, &bytes[1..40], "4111 1111", &text] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn no_error_shows_a_secret() {
    let short = &SECRET[..31];
    let (_, private, _) = PAIRS[3];
    let broken = private.replacen("\nM", "\n%", 1);
    let shown = format!(
        "{:?} {:?} {:?}",
        TokenIssuer::hmac_sha256(short).unwrap_err(),
        SigningKey::pem(Algorithm::Es256, &broken).unwrap_err(),
        SigningKey::pem(Algorithm::EdDsa, private).unwrap_err(),
    );
    assert!(!shown.contains(short) && body(private).iter().all(|line| !shown.contains(&line[1..])), "{shown}");
    let text = TokenIssuer::hmac_sha256(SECRET).unwrap().connection("42").never_expires().issue().unwrap();
    for token in [&text[1..], &text[..text.len() - 4]] {
        let error = TokenVerifier::hmac(SECRET).unwrap().verify(token).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.len() < 100 && text.split('.').all(|part| !shown.contains(part)), "{shown}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_made_is_the_cause_of_the_call_s_error() {
    let issuer = TokenIssuer::hmac_sha256(SECRET).unwrap();
    let config = Config::http("http://127.0.0.1:9/api").bearer_token(issuer.api_tokens(Duration::from_secs(1)));
    let error = Client::new(config).unwrap().info(centrifugo_api::message::InfoRequest::new()).await.unwrap_err();
    assert!(error.is_unauthenticated() && !error.may_have_run());
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("lifetime of API tokens"));
}
