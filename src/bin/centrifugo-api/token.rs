//! `token`: what a token says, and whether the server would accept it.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use centrifugo_api::token::{Algorithm, Jwk, Jwks, SigningKey, Token, TokenError, TokenIssuer, TokenVerifier};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::connection::{read, without_mark};
use crate::failure::Failure;
use crate::output;

/// What to do with a token.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows what a token says, and checks it with a key
    ///
    /// Prints the algorithm, the name of the key, the claims, and the seconds until the token ends. With a key the command fails if the
    /// server would refuse the token, because of its signature, its times, its issuer or its audience. Without a key
    /// nothing is checked.
    Inspect(Inspect),
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// The token; `-` reads it from standard input, where other users of this machine do not see it
    token: String,
    /// Checks it with the secret in this file, the server's `client.token.hmac_secret_key`
    #[arg(long, value_name = "FILE", group = "key")]
    secret_file: Option<PathBuf>,
    /// Checks it with the public key in this file, in PEM
    #[arg(long, value_name = "FILE", group = "key")]
    public_key: Option<PathBuf>,
    /// Checks it with the key set in this file, in JSON
    #[arg(long, value_name = "FILE", group = "key")]
    jwks: Option<PathBuf>,
    /// The issuer that the server expects: `client.token.issuer`
    #[arg(long, value_name = "NAME", requires = "key")]
    issuer: Option<String>,
    /// The audience that the server expects: `client.token.audience`
    #[arg(long, value_name = "NAME", requires = "key")]
    audience: Option<String>,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Inspect(inspect) = command;
    let given = match inspect.token.as_str() {
        "-" => String::from_utf8(output::read_stdin()?).map_err(|_| Failure::Token(TokenError::Malformed))?,
        _ => inspect.token.clone(),
    };
    let text = without_mark(&given).trim();
    let token = Token::decode_unverified(text).map_err(Failure::Token)?;
    let verifier = inspect.verifier(token.algorithm())?;
    let shown = json!({
        "algorithm": token.algorithm().to_string(),
        "key_id": token.key_id(),
        "claims": token.claims(),
        "ends_in_seconds": token.expires_at().map(seconds_until),
        "checked": verifier.is_some(),
    });
    output::print(&shown.to_string())?;
    match verifier {
        Some(verifier) => verifier.verify(text).map(drop).map_err(Failure::Token),
        None => Ok(()),
    }
}

impl Inspect {
    /// What checks tokens with the key, if one is given.
    fn verifier(&self, algorithm: Algorithm) -> Result<Option<TokenVerifier>, Failure> {
        let mut verifier = if let Some(file) = &self.secret_file {
            if !matches!(algorithm, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512) {
                return Err(Failure::Token(TokenError::Algorithm));
            }
            // As for an API key, one line end is not part of it. A short one is the server's to refuse.
            let secret = read("--secret-file", file)?;
            let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
            let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
            TokenIssuer::new(SigningKey::danger_short_secret(algorithm, secret)?).verifier()?
        } else if let Some(file) = &self.public_key {
            TokenVerifier::key(Jwk::pem(read("--public-key", file)?)?)
        } else if let Some(file) = &self.jwks {
            TokenVerifier::jwks(Jwks::from_json(read("--jwks", file)?)?)
        } else {
            return Ok(None);
        };
        if let Some(issuer) = &self.issuer {
            verifier = verifier.issuer(issuer);
        }
        if let Some(audience) = &self.audience {
            verifier = verifier.audience(audience);
        }
        Ok(Some(verifier))
    }
}

/// Negative when it is over.
fn seconds_until(end: SystemTime) -> i64 {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    seconds(end).cast_signed() - seconds(SystemTime::now()).cast_signed()
}
