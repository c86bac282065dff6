//! `token`: what a token says, and whether it is accepted.

use std::time::Duration;

use centrifugo_api::token::{Algorithm, TokenIssuer};
use serde_json::json;

use super::{File, command, run, with_stdin};

const SECRET: &str = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";
const MINUTE: Duration = Duration::from_secs(60);

fn issuer() -> TokenIssuer {
    TokenIssuer::hmac_sha256(SECRET).unwrap().issuer("shop").audience("ws")
}

fn token() -> String {
    issuer().connection("42").expires_in(MINUTE).info(json!({"name": "A"})).issue().unwrap()
}

#[test]
fn a_token_is_shown_without_a_key_and_checked_with_one() {
    let token = token();
    let secret = File::new("token-secret", format!("{SECRET}\n").as_bytes());
    for (key, checked) in [(&[][..], false), (&["--secret-file", secret.path(), "--issuer", "shop"], true)] {
        let shown = run(&mut command(&[&["token", "inspect", &token], key].concat())).result();
        assert_eq!(shown["algorithm"], "HS256");
        assert_eq!((&shown["claims"]["sub"], &shown["claims"]["info"]["name"]), (&json!("42"), &json!("A")));
        assert_eq!(shown["checked"], checked);
        assert!((1..=60).contains(&shown["ends_in_seconds"].as_i64().unwrap()), "{shown}");
    }
    let shown = with_stdin(&mut command(&["token", "inspect", "-"]), format!("{token}\n").as_bytes());
    assert_eq!(shown.result()["claims"]["aud"], json!("ws"));
}

#[test]
fn a_token_that_the_server_would_refuse_fails_with_the_reason_and_is_not_quoted() {
    let file = |name: &str, text: &str| File::new(name, text.as_bytes());
    let (secret, other) = (file("token-right", SECRET), file("token-wrong", "another secret of 32 bytes or more"));
    let ended = issuer().connection("42").issued_at(std::time::UNIX_EPOCH).expires_in(MINUTE).issue().unwrap();
    let token = token();
    for (token, options, why) in [
        (&token, &["--secret-file", other.path()][..], "signature"),
        (&token, &["--secret-file", secret.path(), "--issuer", "bank"], "issuer"),
        (&token, &["--secret-file", secret.path(), "--audience", "api"], "audience"),
        (&ended, &["--secret-file", secret.path()], "ended"),
    ] {
        let outcome = run(&mut command(&[&["token", "inspect", token], options].concat()));
        assert!(outcome.stdout.contains(r#""sub":"42""#), "what it says helps to see why: {outcome:?}");
        let error = outcome.error(19);
        assert!(error["message"].as_str().unwrap().contains(why), "{why}: {error}");
        assert!(!outcome.stderr.contains(token.as_str()) && !outcome.stderr.contains(SECRET), "{outcome:?}");
    }
    let garbage = run(&mut command(&["token", "inspect", "sesame.sesame"]));
    assert!(garbage.error(19)["message"].as_str().unwrap().contains("not a signed JWT"));
    assert!(!garbage.stderr.contains("sesame"), "{garbage:?}");
}

#[test]
fn public_keys_and_key_sets_check_tokens_and_secrets_do_not_check_theirs() {
    let read = |name: &str| std::fs::read(format!("tests/fixtures/token-keys/{name}")).unwrap();
    let issuer = TokenIssuer::pem(Algorithm::Es256, read("p256.pem")).unwrap().key_id("2026-11");
    let token = issuer.connection("42").expires_in(MINUTE).issue().unwrap();
    let public = File::new("token-public", &read("p256.pub.pem"));
    let set = File::new("token-set", issuer.jwks().unwrap().to_json().as_bytes());
    for key in [["--public-key", public.path()], ["--jwks", set.path()]] {
        let shown = run(&mut command(&[&["token", "inspect", &token][..], &key].concat())).result();
        assert_eq!((&shown["key_id"], &shown["checked"]), (&json!("2026-11"), &json!(true)));
    }
    let secret = File::new("token-not-this", SECRET.as_bytes());
    let outcome = run(&mut command(&["token", "inspect", &token, "--secret-file", secret.path()]));
    assert!(outcome.error(19)["message"].as_str().unwrap().contains("algorithm"));
    let outcome = run(&mut command(&["token", "inspect", &token, "--jwks", "nowhere.json"]));
    assert_eq!(outcome.error(1)["kind"], "io");
}

#[test]
fn options_of_a_server_are_refused_and_not_shown() {
    let outcome = run(&mut command(&["token", "inspect", "x", "--grpc", "http://localhost:1"]));
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("`token` calls no server"), "{outcome:?}");
    let help = run(&mut command(&["token", "inspect", "--help"]));
    assert!(help.stdout.contains("--jwks") && !help.stdout.contains("--grpc") && !help.stdout.contains("--api-key"));
}
