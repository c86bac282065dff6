//! Subscription tokens.

use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::token::claims::{Claims, Common, End, common_setters};
use crate::token::connection::{RESERVED, user};
use crate::token::issuer::TokenIssuer;
use crate::token::key::{Key, SigningKey};
use crate::token::options::{SubscribeOptions, subscribe_setters};

/// A token with which a client subscribes to one channel: made by [`TokenIssuer::subscription`].
///
/// `expires_in` says how long the token is good for subscribing. The subscription itself ends when the token does, unless the client
/// refreshes it with a new one, or [`subscription_expires_in`](Self::subscription_expires_in) says something else.
#[derive(Clone, Debug)]
#[must_use]
pub struct SubscriptionToken<'a, K: Key = SigningKey> {
    pub(crate) issuer: &'a TokenIssuer<K>,
    /// `None` for the anonymous user.
    user: Option<String>,
    channel: String,
    common: Common,
    subscription_end: Option<End>,
    client: Option<String>,
    options: SubscribeOptions,
}

impl<'a, K: Key> SubscriptionToken<'a, K> {
    pub(crate) fn new(issuer: &'a TokenIssuer<K>, user: Option<String>, channel: String) -> Self {
        let (common, options) = Default::default();
        Self { issuer, user, channel, common, subscription_end: None, client: None, options }
    }
}

subscribe_setters!([<K: Key>] SubscriptionToken<'_, K>, this => this.options);

/// # Its end
impl<K: Key> SubscriptionToken<'_, K> {
    /// Lets the subscription end so long after the token is issued: the claim `expire_at`.
    ///
    /// It then does not matter for the subscription when the token ends (`exp`). Before the end the client asks for a new token, with
    /// which the subscription goes on.
    pub fn subscription_expires_in(mut self, lifetime: Duration) -> Self {
        self.subscription_end = Some(End::In(lifetime));
        self
    }

    /// Lets the subscription end at this time: see [`subscription_expires_in`](Self::subscription_expires_in).
    pub fn subscription_expires_at(mut self, time: SystemTime) -> Self {
        self.subscription_end = Some(End::At(time));
        self
    }

    /// Lets the subscription go on without an end, though the token has one: `expire_at` of 0. A user who may no longer see the
    /// channel stays subscribed until an `unsubscribe`.
    pub fn subscription_never_expires(mut self) -> Self {
        self.subscription_end = Some(End::Never);
        self
    }

    /// Binds the token to one connection, by the id of the client: the claim `client`. Servers since Centrifugo 4 do without.
    pub fn client(mut self, client: impl Into<String>) -> Self {
        self.client = Some(client.into());
        self
    }

    fn claims(&self) -> Result<Claims, Error> {
        let (times, mut claims) = (self.common.times()?, Claims::default());
        if self.channel.is_empty() {
            return Err(Error::invalid("the name of the channel is empty"));
        }
        claims.add("sub", user("subscription", self.user.as_deref())?);
        claims.add("channel", &self.channel);
        self.common.add_to(&mut claims, times, &self.issuer.identity)?;
        if let Some(end) = self.subscription_end {
            claims.add("expire_at", end.second(times.issued, "the end of the subscription")?.unwrap_or(0));
        }
        claims.add_if("client", self.client.as_deref());
        self.options.add_to(&mut claims);
        self.common.add_more(&mut claims, &RESERVED)?;
        Ok(claims)
    }
}

common_setters!(SubscriptionToken);
