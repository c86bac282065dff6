//! The examples of the RFCs, and of the issue that asked for tokens.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::token::{Algorithm, Jwk, Jwks, SharedPollSigner, SigningKey, TokenError, TokenIssuer, TokenVerifier};

/// The claims of RFC 7515, appendices A.1 to A.3.
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// The second before they end.
const IN_TIME: u64 = 1_300_819_379;

fn at(verifier: TokenVerifier, second: u64) -> TokenVerifier {
    verifier.at(UNIX_EPOCH + Duration::from_secs(second)).issuer("joe")
}

#[test]
fn the_tokens_of_rfc_7515_are_read() {
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = BASE64_URL_SAFE_NO_PAD.decode(secret).unwrap();
    let rsa = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    let p256 = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let vectors = [
        (
            TokenVerifier::hmac(secret).unwrap(),
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            TokenVerifier::key(Jwk::from_json(rsa).unwrap()),
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            TokenVerifier::key(Jwk::from_json(p256).unwrap()),
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    for (verifier, header, signature) in vectors {
        let token = format!("{header}.{CLAIMS}.{signature}");
        let read = at(verifier.clone(), IN_TIME).verify(&token).unwrap();
        assert_eq!(read.claims()["http://example.com/is_root"], true, "{header}");
        assert_eq!(at(verifier.clone(), IN_TIME + 1).verify(&token), Err(TokenError::Expired), "{header}");
        let other = token.replace(CLAIMS, "eyJpc3MiOiJqb2UifQ");
        assert_eq!(at(verifier, IN_TIME).verify(&other), Err(TokenError::Signature), "{header}");
    }
}

#[test]
fn ed25519_signs_as_in_rfc_8037() {
    // The key of appendix A.1, as RFC 8410 writes such keys.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----";
    let key = SigningKey::pem(Algorithm::EdDsa, pem).unwrap();
    let signature = key.sign_now(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc").unwrap();
    assert_eq!(
        BASE64_URL_SAFE_NO_PAD.encode(signature),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
    assert_eq!(
        TokenIssuer::new(key).key_id("a").jwks().unwrap().to_json(),
        r#"{"keys":[{"kid":"a","kty":"OKP","use":"sig","alg":"EdDSA","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#
    );
}

#[test]
fn of_the_key_set_of_rfc_7517_the_key_for_signatures_is_read() {
    let set = r#"{"keys":
       [
         {"kty":"EC",
          "crv":"P-256",
          "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
          "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
          "use":"enc",
          "kid":"1"},
         {"kty":"RSA",
          "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
          "e":"AQAB",
          "alg":"RS256",
          "kid":"2011-04-29"}
       ]
     }"#;
    let set = Jwks::from_json(set).unwrap();
    let names: Vec<_> = set.keys().iter().map(|key| key.key_id.as_deref().unwrap()).collect();
    assert_eq!(names, ["2011-04-29"]);
    assert_eq!(Jwks::from_json(set.to_json()).unwrap(), set);
}

#[test]
fn the_token_of_the_issue_is_made() {
    let key = SigningKey::danger_short_secret(Algorithm::Hs256, "client_secret").unwrap();
    let [issued, end] = [1_700_000_000, 1_700_003_600].map(|second| UNIX_EPOCH + Duration::from_secs(second));
    assert_eq!(
        TokenIssuer::new(key).connection("42").issued_at(issued).expires_at(end).issue().unwrap(),
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImV4cCI6MTcwMDAwMzYwMCwiaWF0IjoxNzAwMDAwMDAwfQ.HKZwmcYmHVbRESuYd4swVgAH7gg41giR57F_K5FEmEY"
    );
    let signer = SharedPollSigner::danger_short_secret("shared_poll_secret").unwrap();
    assert_eq!(
        signer.sign("42", "poll:prices", ["AAPL", "GOOG"]).issued_at(issued).expires_at(end).issue().unwrap(),
        "1700000000:1700003600:c61dbf52085a6973537e71644fa30a3bbfc29a52d7ce9f1b7618531596ce587d"
    );
}
