//! Any bytes as a token, a key set, a key and a signature in DER.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use centrifugo_api::token::{Algorithm, Jwk, Jwks, SigningKey, Token, TokenVerifier};

use super::Input;

const SECRET: &str = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";
/// The public key of RFC 8037, appendix A.
const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let shape = input.byte();
    let rest = input.0;
    match shape % 5 {
        0 => token(&String::from_utf8_lossy(rest)),
        1 => {
            // The parts as they are before they are encoded.
            let parts = [input.bytes(), input.bytes(), input.bytes()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
            token(&parts.join("."));
        }
        2 => {
            if let Ok(set) = Jwks::from_json(rest) {
                let again = Jwks::from_json(set.to_json()).expect("a set that was read can be read again");
                assert_eq!(set, again);
                let verifier = TokenVerifier::jwks(set);
                assert!(verifier.verify("eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.e30.AAAA").is_err());
            }
            let _ = Jwk::from_json(rest);
        }
        3 => {
            let _ = Jwk::pem(rest);
            for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::Es512, Algorithm::EdDsa]
            {
                let _ = SigningKey::pem(algorithm, rest);
            }
        }
        _ => {
            for (algorithm, bytes) in [(Algorithm::Es256, 64), (Algorithm::Es384, 96), (Algorithm::Es512, 132)] {
                if let Ok(signature) = algorithm.signature_from_der(rest) {
                    assert_eq!(signature.len(), bytes);
                }
            }
        }
    }
}

fn token(text: &str) {
    let verifiers = [
        TokenVerifier::hmac(SECRET).expect("it is long enough"),
        TokenVerifier::key(Jwk::from_json(ED25519).expect("it is a key")),
    ];
    let read = Token::decode_unverified(text);
    for verifier in verifiers {
        match (verifier.verify(text), &read) {
            // No input here was signed.
            (Ok(_), _) => panic!("a token is accepted that nobody signed"),
            (Err(error), Err(why)) => assert_eq!(error, *why),
            (Err(_), Ok(token)) => {
                let _ = (token.subject(), token.expires_at(), token.key_id(), format!("{token:?}"));
            }
        }
    }
}
