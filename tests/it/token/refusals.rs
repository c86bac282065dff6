//! What is not issued, and what is not accepted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use centrifugo_api::Payload;
use centrifugo_api::token::{
    Algorithm, Jwk, Jwks, SharedPollSigner, Signer, SubscribeOptions, Token, TokenError, TokenIssuer, TokenVerifier,
};
use centrifugo_api::transport::BoxFuture;
use serde_json::{Value, json};

use super::keys::{PAIRS, SECRET};

const MINUTE: Duration = Duration::from_secs(60);

fn issuer() -> TokenIssuer {
    TokenIssuer::hmac_sha256(SECRET).unwrap()
}

fn verifier() -> TokenVerifier {
    TokenVerifier::hmac(SECRET).unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, centrifugo_api::Error>) -> String {
    let error = result.unwrap_err();
    assert!(error.is_invalid());
    error.to_string()
}

#[test]
fn a_token_without_an_end_is_not_issued() {
    for error in [
        refusal(issuer().connection("42").issue()),
        refusal(issuer().subscription("42", "news").issue()),
        refusal(issuer().api_token().issue()),
    ] {
        assert!(error.contains("has no end") && error.contains("`never_expires`"), "{error}");
    }
}

#[test]
fn a_token_that_would_end_before_it_begins_is_not_issued() {
    let issuer = issuer();
    let connection = || issuer.connection("42");
    let early = SystemTime::now() - MINUTE;
    for (what, result) in [
        ("the end of the token", connection().expires_in(Duration::ZERO).issue()),
        ("the end of the token", connection().expires_in(Duration::from_millis(999)).issue()),
        ("the end of the token", connection().expires_at(early).issue()),
        ("the end of the token", connection().expires_in(Duration::MAX).issue()),
        ("the end of the token", connection().expires_at(UNIX_EPOCH - MINUTE).issue()),
        ("the end of the connection", connection().expires_in(MINUTE).connection_expires_at(early).issue()),
        ("`issued_at`", connection().expires_in(MINUTE).issued_at(UNIX_EPOCH - MINUTE).issue()),
        ("`not_before`", connection().expires_in(MINUTE).not_before(SystemTime::now() + 2 * MINUTE).issue()),
        (
            "the end of the subscription",
            issuer.subscription("42", "a").expires_in(MINUTE).subscription_expires_in(Duration::ZERO).issue(),
        ),
    ] {
        let error = refusal(result);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn an_empty_user_is_not_the_anonymous_one_by_accident() {
    assert!(refusal(issuer().connection("").expires_in(MINUTE).issue()).contains("`anonymous_connection`"));
    let subscription = refusal(issuer().subscription("", "news").expires_in(MINUTE).issue());
    assert!(subscription.contains("`anonymous_subscription`"));
}

#[test]
fn what_the_server_would_refuse_or_ignore_is_not_issued() {
    let issuer = issuer();
    let connection = || issuer.connection("42").expires_in(MINUTE);
    assert!(refusal(issuer.subscription("42", "").expires_in(MINUTE).issue()).contains("channel is empty"));
    assert!(refusal(connection().channel("").issue()).contains("channel is empty"));
    assert!(refusal(connection().subscription("", SubscribeOptions::new()).issue()).contains("channel is empty"));
    assert!(refusal(connection().meta(Payload::binary(vec![0xff])).issue()).contains("`meta` is not JSON"));
    assert!(refusal(connection().meta(json!([1])).issue()).contains("`meta` is not a JSON object"));
    assert!(refusal(connection().claim("x", Payload::binary(vec![0xff])).issue()).contains("`x` is not JSON"));
    for name in ["sub", "exp", "channel", "override", "data"] {
        let error = refusal(connection().claim(name, json!("x")).issue());
        assert!(error.contains(&format!("the `claim` {name} ")), "{error}");
    }
    assert!(issuer.api_token().expires_in(MINUTE).claim("sub", json!("backend")).issue().is_ok());
}

#[test]
fn a_signature_of_keys_that_the_server_would_not_find_right_is_not_made() {
    let signer = SharedPollSigner::new(SECRET).unwrap();
    assert!(refusal(signer.sign("42", "poll:a", ["k"]).issue()).contains("has no end"));
    assert!(refusal(signer.sign("42", "", ["k"]).expires_in(MINUTE).issue()).contains("no channel"));
    assert!(refusal(signer.sign("42", "poll:a", [""; 0]).expires_in(MINUTE).issue()).contains("no keys"));
    for (user, channel, key) in [("4\0", "poll:a", "k"), ("42", "poll\0", "k"), ("42", "poll:a", "k\0")] {
        assert!(refusal(signer.sign(user, channel, [key]).expires_in(MINUTE).issue()).contains("the byte 0"));
    }
    let forever = signer.sign("42", "poll:a", ["k"]).never_expires().issue().unwrap();
    assert_eq!(forever.split(':').nth(1), Some("0"));
}

/// A token with this header and these claims, signed by the right secret.
fn forged(header: &Value, claims: &str) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(&header.to_string()), part(claims));
    let mut mac = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()),
        jsonwebtoken::Algorithm::HS256,
    )
    .unwrap();
    mac.insert(0, '.');
    message + &mac
}

#[test]
fn each_broken_token_is_refused_for_its_own_reason() {
    let good = issuer().connection("42").expires_in(MINUTE).issue().unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let hs = json!({"alg": "HS256", "typ": "JWT"});
    let cases = [
        (String::new(), TokenError::Malformed),
        ("a.b".into(), TokenError::Malformed),
        (message.into(), TokenError::Malformed),
        (format!("{good}="), TokenError::Malformed),
        (format!("{good}.{signature}"), TokenError::Malformed),
        (format!(" {good}"), TokenError::Malformed),
        (format!("{header}.{claims}."), TokenError::Signature),
        (format!("{header}.{claims}.{}", &signature[..40]), TokenError::Signature),
        (format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"1"}"#)), TokenError::Signature),
        (forged(&json!({"alg": "none"}), "{}"), TokenError::Algorithm),
        (forged(&json!({"alg": "hs256"}), "{}"), TokenError::Algorithm),
        (forged(&json!({"alg": "RS256"}), "{}"), TokenError::Algorithm),
        (forged(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}), "{}"), TokenError::Extension),
        (forged(&json!({"typ": "JWT"}), "{}"), TokenError::Malformed),
        (forged(&hs, "[]"), TokenError::Malformed),
        (forged(&hs, "{"), TokenError::Malformed),
        (forged(&hs, r#"{"exp":"1"}"#), TokenError::Malformed),
        (forged(&hs, r#"{"exp":1e300}"#), TokenError::Malformed),
        (forged(&hs, r#"{"exp":1700000000}"#), TokenError::Expired),
        (forged(&hs, r#"{"exp":-5}"#), TokenError::Expired),
        (forged(&hs, r#"{"nbf":9700000000}"#), TokenError::NotYetValid),
    ];
    for (token, why) in cases {
        assert_eq!(verifier().verify(&token), Err(why), "{token}");
    }
    assert!(verifier().verify(&good).is_ok());
}

#[test]
fn a_token_of_another_issuer_or_for_another_audience_is_refused() {
    let verifier = verifier().issuer("shop").audience("ws");
    let of = |issuer: TokenIssuer| issuer.connection("42").expires_in(MINUTE).issue().unwrap();
    assert_eq!(verifier.verify(&of(issuer().audience("ws"))), Err(TokenError::Issuer));
    assert_eq!(verifier.verify(&of(issuer().issuer("other").audience("ws"))), Err(TokenError::Issuer));
    assert_eq!(verifier.verify(&of(issuer().issuer("shop"))), Err(TokenError::Audience));
    assert_eq!(verifier.verify(&of(issuer().issuer("shop").audience("api"))), Err(TokenError::Audience));
    assert!(verifier.verify(&of(issuer().issuer("shop").audience("api").audience("ws"))).is_ok());
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    for (algorithm, _, public) in PAIRS {
        // The attack: HMAC with the public key, which everybody has.
        let token = TokenIssuer::hmac_sha256(public).unwrap().connection("1").expires_in(MINUTE).issue().unwrap();
        let verifier = TokenVerifier::key(Jwk::pem(public).unwrap());
        assert_eq!(verifier.verify(&token), Err(TokenError::Algorithm), "{algorithm}");
    }
}

#[test]
fn of_a_key_set_only_the_key_that_the_token_names_counts() {
    let (algorithm, private, _) = PAIRS[3];
    let issuer = TokenIssuer::pem(algorithm, private).unwrap();
    let verifier = TokenVerifier::jwks(issuer.clone().key_id("a").jwks().unwrap());
    let token = |issuer: TokenIssuer| issuer.connection("42").expires_in(MINUTE).issue().unwrap();
    assert!(verifier.verify(&token(issuer.clone().key_id("a"))).is_ok());
    assert_eq!(verifier.verify(&token(issuer.clone().key_id("b"))), Err(TokenError::UnknownKey));
    assert_eq!(verifier.verify(&token(issuer)), Err(TokenError::UnknownKey));
}

#[test]
fn a_key_set_with_a_private_secret_or_broken_key_is_refused() {
    for (set, why) in [
        ("", "no JSON"),
        ("[]", "no JSON"),
        (r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, "private or secret"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","d":"AAAA"}]}"#, "private or secret"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#, "no right `x`"),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}"#, "no right `x and y`"),
        (r#"{"keys":[{"kty":"RSA","n":"AAAA"}]}"#, "no right `e`"),
        (r#"{"keys":[{"kty":"RSA","n":"AAAA","e":"AQAB","alg":"ES256"}]}"#, "no right `alg`"),
    ] {
        let error = refusal(Jwks::from_json(set));
        assert!(error.contains(why), "{error}");
    }
    let unknown = r#"{"keys":[{"kty":"AKP","alg":"ML-DSA-44"},{"kty":"OKP","crv":"X25519","x":"AAAA"},{"kty":"RSA","alg":"PS256"}]}"#;
    assert!(Jwks::from_json(unknown).unwrap().keys().is_empty());
}

/// Returns these bytes, or no signature.
#[derive(Debug)]
struct Fixed(Algorithm, Option<Vec<u8>>);

impl Signer for Fixed {
    fn algorithm(&self) -> Algorithm {
        self.0
    }

    fn sign<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async { self.1.clone().ok_or_else(|| "the KMS is away".into()) })
    }
}

#[tokio::test]
async fn a_signature_that_is_not_one_of_the_algorithm_is_refused() {
    let issue = async |signer: Fixed| TokenIssuer::signer(signer).connection("42").expires_in(MINUTE).issue().await;
    let der = vec![0x30, 6, 2, 1, 1, 2, 1, 1];
    let error = refusal(issue(Fixed(Algorithm::Es256, Some(der.clone()))).await);
    assert!(error.contains("has 8 bytes") && error.contains("signature_from_der"), "{error}");
    assert!(refusal(issue(Fixed(Algorithm::Rs256, Some(Vec::new()))).await).contains("is empty"));
    let away = issue(Fixed(Algorithm::Rs256, None)).await.unwrap_err();
    assert!(away.is_unavailable() && away.is_transient() && !away.may_have_run());
    let fixed = Algorithm::Es384.signature_from_der(&der).unwrap();
    let token = issue(Fixed(Algorithm::Es384, Some(fixed))).await.unwrap();
    assert_eq!(Token::decode_unverified(&token).unwrap().algorithm(), Algorithm::Es384);
    assert!(refusal(Algorithm::Rs256.signature_from_der(&der)).contains("not in DER"));
    assert!(refusal(Algorithm::Es256.signature_from_der(&der[..7])).contains("no signature"));
    let no_key = TokenIssuer::signer(Fixed(Algorithm::Es256, None)).key_id("a").jwks();
    assert!(refusal(no_key).contains("`Signer::public_key`"));
}
