//! The keys of the tests, and what they are read from.

use centrifugo_api::token::{Algorithm, Jwk, SigningKey, TokenIssuer, TokenVerifier};

/// Long enough to be taken without more ado.
pub(crate) const SECRET: &str = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/token-keys/", $name, ".pem"))
    };
}

/// The private keys that OpenSSL writes, in each of its forms, and the public half of each.
pub(crate) const PAIRS: &[(Algorithm, &str, &str)] = &[
    (Algorithm::Rs256, pem!("rsa"), pem!("rsa.pub")),
    (Algorithm::Rs384, pem!("rsa"), pem!("rsa-pkcs1.pub")),
    (Algorithm::Rs512, pem!("rsa-pkcs1"), pem!("rsa.pub")),
    (Algorithm::Es256, pem!("p256"), pem!("p256.pub")),
    (Algorithm::Es256, pem!("p256-sec1"), pem!("p256.pub")),
    (Algorithm::Es384, pem!("p384"), pem!("p384.pub")),
    (Algorithm::Es384, pem!("p384-sec1"), pem!("p384.pub")),
    #[cfg(feature = "token-es512")]
    (Algorithm::Es512, pem!("p521"), pem!("p521.pub")),
    #[cfg(feature = "token-es512")]
    (Algorithm::Es512, pem!("p521-sec1"), pem!("p521.pub")),
    (Algorithm::EdDsa, pem!("ed25519"), pem!("ed25519.pub")),
];

/// An issuer for each algorithm of HMAC.
pub(crate) fn hmac() -> [TokenIssuer; 3] {
    [TokenIssuer::hmac_sha256(SECRET), TokenIssuer::hmac_sha384(SECRET), TokenIssuer::hmac_sha512(SECRET)]
        .map(Result::unwrap)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, centrifugo_api::Error>) -> String {
    let error = result.unwrap_err();
    assert!(error.is_invalid());
    error.to_string()
}

#[test]
fn what_a_key_signs_its_public_half_verifies() {
    for (algorithm, private, public) in PAIRS {
        let issuer = TokenIssuer::pem(*algorithm, private).unwrap().key_id("k");
        let token = issuer.connection("42").expires_in(std::time::Duration::from_secs(60)).issue().unwrap();
        let jwk = Jwk::pem(public).unwrap();
        assert_eq!(TokenVerifier::key(jwk.clone()).verify(&token).unwrap().algorithm(), *algorithm);
        let jwks = issuer.jwks().unwrap();
        assert_eq!(jwks.keys(), [jwk.key_id("k").algorithm(*algorithm)], "{algorithm}");
        assert!(TokenVerifier::jwks(jwks).verify(&token).is_ok());
        assert!(issuer.verifier().unwrap().verify(&token).is_ok());
    }
}

#[test]
fn parameters_before_a_key_do_not_matter() {
    assert!(SigningKey::pem(Algorithm::Es256, pem!("p256-parameters")).is_ok());
}

#[test]
fn a_key_that_is_not_one_for_the_algorithm_is_refused() {
    for (private, of) in [
        (pem!("rsa"), Algorithm::Es256),
        (pem!("p256"), Algorithm::Rs256),
        (pem!("p256"), Algorithm::Es384),
        (pem!("p256-sec1"), Algorithm::Es384),
        (pem!("p384"), Algorithm::Es256),
        (pem!("p521"), Algorithm::Es256),
        (pem!("ed25519"), Algorithm::Es256),
        (pem!("p256"), Algorithm::EdDsa),
        #[cfg(feature = "token-es512")]
        (pem!("p256"), Algorithm::Es512),
    ] {
        let text = refusal(SigningKey::pem(of, private));
        assert!(text.starts_with(&format!("the key is not one for {of}: ")), "{text}");
    }
}

#[test]
fn what_is_no_private_key_is_refused_with_the_reason() {
    let refusal_of = |pem: &str| refusal(SigningKey::pem(Algorithm::Es256, pem));
    assert!(refusal_of("").contains("is not PEM"));
    assert!(refusal_of("secret").contains("is not PEM"));
    assert!(refusal_of(pem!("p256.pub")).contains("no private key but a `PUBLIC KEY`"));
    assert!(refusal_of(pem!("p256-encrypted")).contains("is encrypted"));
    assert!(refusal_of(&pem!("p256").replace("END", "AND")).contains("without an end"));
    assert!(refusal_of(&pem!("p256").replace('M', "%")).contains("not base64"));
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
    assert!(refusal_of(certificate).contains("is a certificate"));
    assert!(refusal(Jwk::pem(pem!("p256"))).contains("is private"));
    assert!(refusal(SigningKey::pem(Algorithm::Hs256, pem!("p256"))).contains("needs a secret"));
    assert!(refusal(SigningKey::hmac(Algorithm::Es256, SECRET)).contains("needs a private key"));
}

#[cfg(not(feature = "token-es512"))]
#[test]
fn es512_names_its_feature() {
    assert!(refusal(SigningKey::pem(Algorithm::Es512, pem!("p521"))).contains("`token-es512`"));
}

#[test]
fn a_short_secret_is_taken_only_by_name() {
    let short = &SECRET[1..];
    for refused in [
        refusal(TokenIssuer::hmac_sha256(short)),
        refusal(TokenVerifier::hmac(short)),
        refusal(centrifugo_api::token::SharedPollSigner::new(short)),
    ] {
        assert!(refused.contains("fewer than 32 bytes") && refused.contains("danger_"), "{refused}");
    }
    assert!(SigningKey::danger_short_secret(Algorithm::Hs256, short).is_ok());
    assert!(refusal(SigningKey::danger_short_secret(Algorithm::Hs256, "")).contains("is empty"));
}

#[test]
fn the_old_and_the_next_key_are_published() {
    let old = Jwk::pem(pem!("p384.pub")).unwrap().key_id("2026-10");
    let next = Jwk::pem(pem!("rsa.pub")).unwrap().key_id("2026-12");
    let issuer = TokenIssuer::pem(Algorithm::Es256, pem!("p256")).unwrap().key_id("2026-11");
    let before = TokenIssuer::pem(Algorithm::Es384, pem!("p384")).unwrap().key_id("2026-10");
    let verifier = TokenVerifier::jwks(issuer.clone().publish_key(old).publish_key(next.clone()).jwks().unwrap());
    for issuer in [&issuer, &before] {
        let token = issuer.connection("42").expires_in(std::time::Duration::from_secs(60)).issue().unwrap();
        assert!(verifier.verify(&token).is_ok());
    }
    let unnamed = Jwk::pem(pem!("rsa.pub")).unwrap();
    assert!(refusal(issuer.clone().publish_key(unnamed).jwks()).contains("has no `key_id`"));
    assert!(refusal(issuer.clone().publish_key(next.clone().key_id("2026-11")).jwks()).contains("two keys"));
    let wrong = next.algorithm(Algorithm::Es256);
    assert!(refusal(issuer.publish_key(wrong).jwks()).contains("is not one for ES256"));
    let [hmac, ..] = hmac();
    assert!(refusal(hmac.key_id("a").jwks()).contains("must not be published"));
}
