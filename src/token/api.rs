//! Tokens for the server API, and their renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{BoxError, Error};
use crate::sync::{BoxFuture, Mutex};
use crate::token::claims::{Claims, Common, End, common_setters};
use crate::token::issuer::TokenIssuer;
use crate::token::key::{Key, SigningKey};

/// The claims with setters.
const RESERVED: [&str; 7] = ["exp", "nbf", "iat", "jti", "aud", "iss", "scope"];
/// Tokens that are shorter would end on their way: clocks differ by seconds.
const SHORTEST: Duration = Duration::from_secs(10);
/// How long to wait after a token could not be made, while the one before it is still valid.
const PAUSE: Duration = Duration::from_secs(1);

/// A token for the server API: made by [`TokenIssuer::api_token`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ApiToken<'a, K: Key = SigningKey> {
    pub(crate) issuer: &'a TokenIssuer<K>,
    pub(crate) common: Common,
    scope: Option<String>,
}

impl<'a, K: Key> ApiToken<'a, K> {
    pub(crate) fn new(issuer: &'a TokenIssuer<K>) -> Self {
        Self { issuer, common: Common::default(), scope: None }
    }
}

/// # What it allows
impl<K: Key> ApiToken<'_, K> {
    /// Sets what the token allows, several words with spaces between: the claim `scope`, for a server with `http_api.jwks.scope` or
    /// `grpc_api.jwks.scope`.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    fn claims(&self) -> Result<Claims, Error> {
        let (times, mut claims) = (self.common.times()?, Claims::default());
        self.common.add_to(&mut claims, times, &self.issuer.identity)?;
        claims.add_if("scope", self.scope.as_deref());
        self.common.add_more(&mut claims, &RESERVED)?;
        Ok(claims)
    }
}

common_setters!(ApiToken);

/// # Again and again
impl<K: Key> ApiToken<'_, K> {
    /// A source for [`Config::bearer_token`](crate::Config::bearer_token) of such tokens, each good for `lifetime`, at least 10 s.
    ///
    /// A token is used until four fifths of its lifetime have passed. Then one call makes the next one, and the others go on with the
    /// one there is. If a token cannot be made, the one before it is used until it ends. A call that is cancelled while it makes one
    /// leaves that to the next call.
    ///
    /// The end that was set on this is not used.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use centrifugo_api::token::TokenIssuer;
    /// use centrifugo_api::{Client, Config};
    ///
    /// # let secret = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";
    /// let issuer = TokenIssuer::hmac_sha256(secret)?.audience("api");
    /// let tokens = issuer.api_token().scope("centrifugo:api").renewed(Duration::from_secs(60));
    /// let client = Client::new(Config::http("http://localhost:8000/api").bearer_token(tokens))?;
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Calls fail with [`ErrorKind::Unauthenticated`](crate::ErrorKind::Unauthenticated) when there is no valid token and none can be
    /// made: the source of the error is the one of `issue`. So do all calls when the lifetime is too short.
    pub fn renewed(
        self,
        lifetime: Duration,
    ) -> impl Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync + 'static + use<K> {
        self.renewed_by(lifetime, Box::new(SystemTime::now))
    }

    fn renewed_by(
        self,
        lifetime: Duration,
        clock: Clock,
    ) -> impl Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync + 'static + use<K> {
        let (issuer, common, scope) = (self.issuer.clone(), self.common, self.scope);
        let (current, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        let renewal = Arc::new(Renewal { issuer, common, scope, lifetime, clock, current, turn });
        move || {
            let renewal = Arc::clone(&renewal);
            Box::pin(async move { renewal.token().await.map_err(BoxError::from) })
        }
    }
}

/// Tells the time.
type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;

struct Renewal<K: Key> {
    issuer: TokenIssuer<K>,
    common: Common,
    scope: Option<String>,
    lifetime: Duration,
    clock: Clock,
    current: Mutex<Option<Current>>,
    /// Held by the call that makes a token.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Current {
    token: String,
    issued: SystemTime,
    renew_at: SystemTime,
    end: SystemTime,
}

impl<K: Key> Renewal<K> {
    /// The token there is, unless it has ended, and whether it should be renewed.
    fn current(&self, now: SystemTime) -> Option<(String, bool)> {
        let current = self.current.lock();
        // A clock that was set back says nothing about the end.
        let valid = current.as_ref().filter(|current| current.issued <= now && now < current.end);
        valid.map(|current| (current.token.clone(), current.renew_at <= now))
    }

    async fn token(&self) -> Result<String, Error> {
        let _turn = match self.current((self.clock)()) {
            Some((token, false)) => return Ok(token),
            Some((token, true)) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(token), // another call is making one
            },
            None => self.turn.lock().await,
        };
        let now = (self.clock)();
        let old = match self.current(now) {
            Some((token, false)) => return Ok(token), // made while this call waited
            Some((token, true)) => Some(token),
            None => None,
        };
        match (self.issue(now).await, old) {
            (Ok(current), _) => {
                let token = current.token.clone();
                *self.current.lock() = Some(current);
                Ok(token)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "a token of the server API could not be renewed; the one before is used until it ends");
                if let Some(current) = &mut *self.current.lock() {
                    current.renew_at = now + PAUSE;
                }
                Ok(old)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn issue(&self, now: SystemTime) -> Result<Current, Error> {
        if self.lifetime < SHORTEST {
            return Err(Error::invalid(
                "the lifetime of API tokens is under 10 s, so that they would end on their way",
            ));
        }
        let common = Common { end: Some(End::In(self.lifetime)), issued_at: Some(now), ..self.common.clone() };
        let times = common.times()?;
        let token = ApiToken { issuer: &self.issuer, common, scope: self.scope.clone() }.sign().await?;
        // The lifetime is within the year 9999, which `times` has checked.
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(times.expires.unwrap_or(times.issued));
        Ok(Current { token, issued: now, renew_at: now + self.lifetime / 5 * 4, end })
    }
}

#[cfg(test)]
mod tests;
