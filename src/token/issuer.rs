//! [`TokenIssuer`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{BoxError, Error};
use crate::sync::BoxFuture;
use crate::token::algorithm::Algorithm;
use crate::token::api::ApiToken;
use crate::token::claims::Identity;
use crate::token::connection::ConnectionToken;
use crate::token::jwk::{Jwk, Jwks};
use crate::token::key::{Key, RemoteKey, Signer, SigningKey};
use crate::token::subscription::SubscriptionToken;
use crate::token::verifier::TokenVerifier;

/// Issues tokens for Centrifugo's clients and for its server API.
///
/// ```
/// use std::time::Duration;
///
/// use centrifugo_api::Config;
/// use centrifugo_api::token::TokenIssuer;
/// use serde_json::json;
///
/// # let secret = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";
/// let issuer = TokenIssuer::hmac_sha256(secret)?.issuer("shop").audience("ws");
///
/// let half_an_hour = Duration::from_secs(1800);
/// let token = issuer.connection("42").expires_in(half_an_hour).info(json!({"name": "A"})).channel("news").issue()?;
/// let token = issuer.subscription("42", "orders:17").expires_in(half_an_hour).issue()?;
/// # let url = "http://localhost:8000/api";
/// let config = Config::http(url).bearer_token(issuer.api_tokens(Duration::from_secs(60)));
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
///
/// The server must know the key: see [`Algorithm`]. A clone shares it.
#[derive(Clone)]
#[must_use]
pub struct TokenIssuer<K: Key = SigningKey> {
    pub(crate) key: K,
    pub(crate) identity: Identity,
    published: Vec<Jwk>,
}

/// # With a key of this process
impl TokenIssuer {
    /// Signs with HS256 and this secret: `client.token.hmac_secret_key` of the server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the secret has fewer than 32 bytes. A shorter one is taken by
    /// [`SigningKey::danger_short_secret`].
    pub fn hmac_sha256(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        SigningKey::hmac(Algorithm::Hs256, secret).map(Self::new)
    }

    /// Signs with HS384 and this secret.
    ///
    /// # Errors
    ///
    /// See [`hmac_sha256`](Self::hmac_sha256).
    pub fn hmac_sha384(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        SigningKey::hmac(Algorithm::Hs384, secret).map(Self::new)
    }

    /// Signs with HS512 and this secret.
    ///
    /// # Errors
    ///
    /// See [`hmac_sha256`](Self::hmac_sha256).
    pub fn hmac_sha512(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        SigningKey::hmac(Algorithm::Hs512, secret).map(Self::new)
    }

    /// Signs with this private key in PEM, for RS\*, ES\* and `EdDSA`.
    ///
    /// ```
    /// use centrifugo_api::token::{Algorithm, TokenIssuer};
    ///
    /// # let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----";
    /// let issuer = TokenIssuer::pem(Algorithm::EdDsa, pem)?.key_id("2026-11");
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`SigningKey::pem`].
    pub fn pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        SigningKey::pem(algorithm, pem).map(Self::new)
    }

    /// Signs with this key.
    pub fn new(key: SigningKey) -> Self {
        Self::of(key)
    }

    /// What accepts the tokens of this issuer: with its key, its `iss` and its `aud`. For tests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a key that cannot be verified with: see [`TokenVerifier`].
    pub fn verifier(&self) -> Result<TokenVerifier, Error> {
        TokenVerifier::of(&self.key, &self.identity)
    }
}

/// # With a key elsewhere
impl TokenIssuer<RemoteKey> {
    /// Has tokens signed by a KMS or an HSM. `issue` is async then.
    pub fn signer(signer: impl Signer) -> Self {
        Self::of(RemoteKey(Arc::new(signer)))
    }
}

/// # What all tokens have
impl<K: Key> TokenIssuer<K> {
    fn of(key: K) -> Self {
        Self { key, identity: Identity::default(), published: Vec::new() }
    }

    /// Names the key: the header `kid`. A server that reads a key set refuses tokens without it.
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.identity.key_id = Some(key_id.into());
        self
    }

    /// Says who issues the tokens: the claim `iss`, which a server with `client.token.issuer` checks.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.identity.issuer = Some(issuer.into());
        self
    }

    /// Adds for whom the tokens are: the claim `aud`, of which a server with `client.token.audience` must find its own.
    ///
    /// Give client tokens and tokens of the server API different audiences when they have the same key, and let the server check
    /// them. Otherwise it takes one for the other.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.identity.audience.push(audience.into());
        self
    }

    /// Publishes another key in [`jwks`](Self::jwks): the next one before it signs, the one before until its last token has ended.
    pub fn publish_key(mut self, key: Jwk) -> Self {
        self.published.push(key);
        self
    }
}

/// # Tokens
impl<K: Key> TokenIssuer<K> {
    /// Begins a token with which this user connects.
    pub fn connection(&self, user: impl Into<String>) -> ConnectionToken<'_, K> {
        ConnectionToken::new(self, Some(user.into()))
    }

    /// Begins a token with which somebody connects who is not known: `sub` is empty.
    pub fn anonymous_connection(&self) -> ConnectionToken<'_, K> {
        ConnectionToken::new(self, None)
    }

    /// Begins a token with which this user subscribes to a channel. The user must be that of the connection.
    pub fn subscription(&self, user: impl Into<String>, channel: impl Into<String>) -> SubscriptionToken<'_, K> {
        SubscriptionToken::new(self, Some(user.into()), channel.into())
    }

    /// Begins a token with which somebody subscribes who is not known.
    pub fn anonymous_subscription(&self, channel: impl Into<String>) -> SubscriptionToken<'_, K> {
        SubscriptionToken::new(self, None, channel.into())
    }

    /// Begins a token for the server API.
    ///
    /// Centrifugo PRO takes such tokens since 6.3.2, with `http_api.jwks` and `grpc_api.jwks`
    /// ([JWKS authentication](https://centrifugal.dev/docs/pro/server_api_enhancements)). The open-source server takes API keys
    /// only; a proxy in front of it may take tokens.
    pub fn api_token(&self) -> ApiToken<'_, K> {
        ApiToken::new(self)
    }

    /// A source for [`Config::bearer_token`](crate::Config::bearer_token) of tokens for the server API.
    ///
    /// The same as [`api_token()`](Self::api_token) and then [`renewed`](ApiToken::renewed), which adds a scope if there is one.
    pub fn api_tokens(
        &self,
        lifetime: Duration,
    ) -> impl Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync + 'static + use<K> {
        self.api_token().renewed(lifetime)
    }
}

/// # The key set
impl<K: Key> TokenIssuer<K> {
    /// The public keys: of this issuer, and those of [`publish_key`](Self::publish_key). The server reads them from the endpoint
    /// `client.token.jwks_public_endpoint`, and remembers each for an hour after its last use.
    ///
    /// ```
    /// use centrifugo_api::token::{Algorithm, Jwk, TokenIssuer};
    ///
    /// # let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----";
    /// # let october = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----";
    /// let issuer = TokenIssuer::pem(Algorithm::EdDsa, pem)?.key_id("2026-11");
    /// let issuer = issuer.publish_key(Jwk::pem(october)?.key_id("2026-10"));
    /// let body = issuer.jwks()?.to_json();
    /// # assert!(body.starts_with(r#"{"keys":[{"kid":"2026-11","#));
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the key is a secret, when the signer has no public key, when a key has no
    /// `key_id` or two have the same, and when a key is not one for its algorithm.
    pub fn jwks(&self) -> Result<Jwks, Error> {
        let own = self.key.public_key().ok_or_else(|| {
            Error::invalid(if self.key.algorithm().is_hmac() {
                "an HMAC secret must not be published; use RSA, ECDSA or EdDSA for a key set"
            } else {
                "the signer has no public key; implement `Signer::public_key`"
            })
        })?;
        let own = Jwk { key_id: self.identity.key_id.clone(), algorithm: Some(self.key.algorithm()), ..own };
        let keys: Vec<_> = std::iter::once(own).chain(self.published.iter().cloned()).collect();
        for (index, key) in keys.iter().enumerate() {
            let id = key.key_id.as_deref().unwrap_or_default();
            if id.is_empty() {
                return Err(Error::invalid("a key of the set has no `key_id`, so that the server would not find it"));
            }
            if keys[..index].iter().any(|other| other.key_id == key.key_id) {
                return Err(Error::invalid(format!("two keys of the set have the `key_id` {id:?}")));
            }
            if let Some(algorithm) = key.algorithm.filter(|algorithm| !key.public.takes(*algorithm)) {
                return Err(Error::invalid(format!("the key {id:?} is not one for {algorithm}")));
            }
        }
        Ok(Jwks { keys })
    }
}

/// Shows the algorithm and the names, and no key.
impl<K: Key> fmt::Debug for TokenIssuer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("algorithm", &self.key.algorithm())
            .field("key_id", &self.identity.key_id)
            .field("issuer", &self.identity.issuer)
            .field("audience", &self.identity.audience)
            .finish_non_exhaustive()
    }
}
