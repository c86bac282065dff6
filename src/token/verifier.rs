//! Reading tokens, and checking them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::token::algorithm::Algorithm;
use crate::token::claims::Identity;
#[cfg(feature = "token-es512")]
use crate::token::es512;
use crate::token::jwk::{Jwk, Jwks, Public};
use crate::token::key::sealed::Sign as _;
use crate::token::key::{SigningKey, check_secret, hmac_key};

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is not a JWT: three parts in base64url with a JSON object in the first two.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// Its algorithm is not one of [`Algorithm`], is not that of the key, or needs the feature `token-es512`.
    #[error("the token's algorithm is not one that the key is for")]
    Algorithm,
    /// It has an extension that must be understood: the header `crit`.
    #[error("the token has an extension that is not known")]
    Extension,
    /// It names no key, or one that is not known.
    #[error("the token's key is not known")]
    UnknownKey,
    /// It was changed, or signed with another key.
    #[error("the token's signature is not right")]
    Signature,
    /// It has ended: `exp`.
    #[error("the token has ended")]
    Expired,
    /// It is not valid yet: `nbf`.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is from another issuer: `iss`.
    #[error("the token is from another issuer")]
    Issuer,
    /// It is for somebody else: `aud`.
    #[error("the token is for another audience")]
    Audience,
}

/// A token that was read.
///
/// [`TokenVerifier::verify`] returns one whose signature and times are right. [`decode_unverified`](Self::decode_unverified) only reads.
#[derive(Clone, PartialEq)]
pub struct Token {
    algorithm: Algorithm,
    key_id: Option<String>,
    claims: Map<String, Value>,
}

/// The parts of a token.
struct Parts<'a> {
    message: &'a str,
    signature: Vec<u8>,
    token: Token,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

fn parts(text: &str) -> Result<Parts<'_>, TokenError> {
    let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
    let (message, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Malformed)?;
    let claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| TokenError::Malformed)?;
    let signature = decoded(signature)?;
    if header.crit.is_some() {
        return Err(TokenError::Extension);
    }
    let algorithm = Algorithm::of_name(&header.alg).ok_or(TokenError::Algorithm)?;
    Ok(Parts { message, signature, token: Token { algorithm, key_id: header.kid, claims } })
}

impl Token {
    /// Reads a token without checking anything: neither its signature nor its end.
    ///
    /// ```
    /// use centrifugo_api::token::Token;
    ///
    /// let token = Token::decode_unverified("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.AAAA")?;
    /// assert_eq!(token.subject(), Some("42"));
    /// # Ok::<(), centrifugo_api::token::TokenError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TokenError::Malformed`], [`TokenError::Extension`] and [`TokenError::Algorithm`].
    pub fn decode_unverified(token: &str) -> Result<Self, TokenError> {
        parts(token).map(|parts| parts.token)
    }

    /// How it is signed, as its header says.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The name of its key: `kid`.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The user: `sub`. Empty for the anonymous one.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub")?.as_str()
    }

    /// When the token ends: `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.time("exp").ok().flatten()
    }

    /// The time of a claim, if there is one. Fractions of a second count, as for the server.
    fn time(&self, claim: &str) -> Result<Option<SystemTime>, TokenError> {
        let Some(value) = self.claims.get(claim).filter(|value| !value.is_null()) else { return Ok(None) };
        let seconds = value.as_f64().ok_or(TokenError::Malformed)?;
        let since = Duration::try_from_secs_f64(seconds.max(0.0)).map_err(|_| TokenError::Malformed)?;
        UNIX_EPOCH.checked_add(since).map(Some).ok_or(TokenError::Malformed)
    }

    /// Checks the times, the issuer and the audience.
    fn check(&self, now: SystemTime, of: &Identity) -> Result<(), TokenError> {
        if self.time("exp")?.is_some_and(|end| end <= now) {
            return Err(TokenError::Expired);
        }
        if self.time("nbf")?.is_some_and(|begin| begin >= now) {
            return Err(TokenError::NotYetValid);
        }
        let text = |claim: &str| self.claims.get(claim).and_then(Value::as_str);
        if of.issuer.is_some() && of.issuer.as_deref() != text("iss") {
            return Err(TokenError::Issuer);
        }
        let is_one = |value: &Value| value.as_str().is_some_and(|value| of.audience.iter().any(|one| one == value));
        let audience = match self.claims.get("aud") {
            Some(Value::Array(several)) => several.iter().any(is_one),
            Some(one) => is_one(one),
            None => false,
        };
        if audience || of.audience.is_empty() { Ok(()) } else { Err(TokenError::Audience) }
    }
}

/// Shows the header and the names of the claims.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .field("claims", &self.claims.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Checks tokens as the server does, for tests and to look into tokens. It is no authentication library: it knows the claims of
/// Centrifugo, fetches no keys, and has had no audit.
///
/// ```
/// use std::time::Duration;
/// use centrifugo_api::token::{TokenError, TokenIssuer, TokenVerifier};
///
/// # let (secret, other) = ("7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2", "00000000000000000000000000000000");
/// let issuer = TokenIssuer::hmac_sha256(secret)?.audience("ws");
/// let token = issuer.connection("42").expires_in(Duration::from_secs(60)).issue()?;
///
/// let read = TokenVerifier::hmac(secret)?.audience("ws").verify(&token).unwrap();
/// assert_eq!(read.subject(), Some("42"));
/// assert_eq!(TokenVerifier::hmac(other)?.verify(&token), Err(TokenError::Signature));
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
///
/// As for the server, a token without `exp` is good forever, no clock may be off, and the end is before the second of `exp`. Tokens with
/// ES512 need the feature `token-es512`.
#[derive(Clone)]
#[must_use]
pub struct TokenVerifier {
    keys: Keys,
    expected: Identity,
    now: Option<SystemTime>,
}

#[derive(Clone)]
enum Keys {
    /// The keys of one secret.
    Hmac(Vec<(Algorithm, hmac::Key)>),
    /// One key, whatever the token calls it.
    One(Jwk),
    /// The key that the token names.
    Set(Jwks),
}

impl TokenVerifier {
    fn new(keys: Keys) -> Self {
        Self { keys, expected: Identity::default(), now: None }
    }

    /// Takes tokens that were signed with this secret, by any HMAC algorithm.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the secret has fewer than 32 bytes. A shorter one is taken by
    /// [`SigningKey::danger_short_secret`] and [`TokenIssuer::verifier`](crate::token::TokenIssuer::verifier).
    pub fn hmac(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        check_secret(secret.as_ref())?;
        let keys = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
        let key = |algorithm| hmac_key(algorithm, secret.as_ref()).map(|key| (algorithm, key));
        Ok(Self::new(Keys::Hmac(keys.into_iter().filter_map(key).collect())))
    }

    /// Takes tokens that were signed with the private half of this key, whatever name they give it.
    pub fn key(key: Jwk) -> Self {
        Self::new(Keys::One(key))
    }

    /// Takes tokens that name a key of this set, and were signed with its private half.
    pub fn jwks(keys: Jwks) -> Self {
        Self::new(Keys::Set(keys))
    }

    pub(crate) fn of(key: &SigningKey, expected: &Identity) -> Result<Self, Error> {
        let keys = match (key.hmac_key(), key.public_key()) {
            (Some(secret), _) => Keys::Hmac(vec![(key.algorithm(), secret.clone())]),
            (None, Some(public)) => Keys::One(public),
            (None, None) => return Err(Error::invalid("the key has no public half")),
        };
        Ok(Self { expected: expected.clone(), ..Self::new(keys) })
    }

    /// Takes only tokens of this issuer: `iss`.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.expected.issuer = Some(issuer.into());
        self
    }

    /// Takes only tokens for this audience, or another one that was added: `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.expected.audience.push(audience.into());
        self
    }

    /// Takes this time for now.
    pub fn at(mut self, now: impl Into<Option<SystemTime>>) -> Self {
        self.now = now.into();
        self
    }

    /// Reads a token, and checks its signature, its times, its issuer and its audience.
    ///
    /// # Errors
    ///
    /// [`TokenError`] says why it is not accepted.
    pub fn verify(&self, token: &str) -> Result<Token, TokenError> {
        let Parts { message, signature, token } = parts(token)?;
        let message = message.as_bytes();
        match &self.keys {
            Keys::Hmac(keys) => {
                let (_, key) =
                    keys.iter().find(|(algorithm, _)| *algorithm == token.algorithm).ok_or(TokenError::Algorithm)?;
                hmac::verify(key, message, &signature).map_err(|_| TokenError::Signature)?;
            }
            Keys::One(key) => verify(key, token.algorithm, message, &signature)?,
            Keys::Set(set) => {
                let named = |key: &&Jwk| key.key_id.is_some() && key.key_id == token.key_id;
                let key = set.keys.iter().find(named).ok_or(TokenError::UnknownKey)?;
                verify(key, token.algorithm, message, &signature)?;
            }
        }
        token.check(self.now.unwrap_or_else(SystemTime::now), &self.expected)?;
        Ok(token)
    }
}

fn verify(key: &Jwk, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
    if !key.public.takes(algorithm) || key.algorithm.is_some_and(|of_key| of_key != algorithm) {
        return Err(TokenError::Algorithm);
    }
    let by = |method: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
        signature::UnparsedPublicKey::new(method, key).verify(message, signature)
    };
    let verified = match &key.public {
        Public::Rsa { n, e } => {
            let parameters = match algorithm {
                Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                _ => &signature::RSA_PKCS1_2048_8192_SHA256,
            };
            signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
        }
        Public::Ec { point, .. } => match algorithm {
            Algorithm::Es256 => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            Algorithm::Es384 => by(&signature::ECDSA_P384_SHA384_FIXED, point),
            #[cfg(feature = "token-es512")]
            Algorithm::Es512 if es512::verify(point, message, signature) => Ok(()),
            #[cfg(feature = "token-es512")]
            Algorithm::Es512 => Err(ring::error::Unspecified),
            _ => return Err(TokenError::Algorithm),
        },
        Public::Ed25519(key) => by(&signature::ED25519, key),
    };
    verified.map_err(|_| TokenError::Signature)
}

/// Shows what is expected, and no secret.
impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("issuer", &self.expected.issuer)
            .field("audience", &self.expected.audience)
            .finish_non_exhaustive()
    }
}
