//! Connection tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::api::payload::Payload;
use crate::error::Error;
use crate::token::claims::{Claims, Common, End, common_setters, json};
use crate::token::issuer::TokenIssuer;
use crate::token::key::{Key, SigningKey};
use crate::token::options::SubscribeOptions;

/// The claims of client tokens that have setters, or must not be in the other kind.
pub(crate) const RESERVED: [&str; 20] = [
    "sub",
    "exp",
    "nbf",
    "iat",
    "jti",
    "aud",
    "iss",
    "expire_at",
    "info",
    "b64info",
    "data",
    "b64data",
    "channels",
    "subs",
    "meta",
    "caps",
    "labels",
    "channel",
    "client",
    "override",
];

/// A token with which a client connects: made by [`TokenIssuer::connection`].
///
/// `expires_in` says how long the token is good for connecting. The connection itself ends when the token does, unless the client
/// refreshes it with a new one, or [`connection_expires_in`](Self::connection_expires_in) says something else.
#[derive(Clone, Debug)]
#[must_use]
pub struct ConnectionToken<'a, K: Key = SigningKey> {
    pub(crate) issuer: &'a TokenIssuer<K>,
    /// `None` for the anonymous user.
    pub(crate) user: Option<String>,
    pub(crate) common: Common,
    connection_end: Option<End>,
    info: Payload,
    meta: Payload,
    channels: Vec<String>,
    subs: BTreeMap<String, SubscribeOptions>,
    capabilities: Vec<Capability>,
    labels: BTreeMap<String, String>,
}

impl<'a, K: Key> ConnectionToken<'a, K> {
    pub(crate) fn new(issuer: &'a TokenIssuer<K>, user: Option<String>) -> Self {
        Self {
            issuer,
            user,
            common: Common::default(),
            connection_end: None,
            info: Payload::default(),
            meta: Payload::default(),
            channels: Vec::new(),
            subs: BTreeMap::new(),
            capabilities: Vec::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// # The connection
impl<K: Key> ConnectionToken<'_, K> {
    /// Lets the connection end so long after the token is issued: the claim `expire_at`.
    ///
    /// It then does not matter for the connection when the token ends (`exp`). A token that is good for a minute may so begin a
    /// connection of a day. Before the end the client asks for a new token, with which the connection goes on.
    pub fn connection_expires_in(mut self, lifetime: Duration) -> Self {
        self.connection_end = Some(End::In(lifetime));
        self
    }

    /// Lets the connection end at this time: see [`connection_expires_in`](Self::connection_expires_in).
    pub fn connection_expires_at(mut self, time: SystemTime) -> Self {
        self.connection_end = Some(End::At(time));
        self
    }

    /// Lets the connection go on without an end, though the token has one: `expire_at` of 0. The client is never asked for a new
    /// token, so that a user who was locked out stays connected until a `disconnect`.
    pub fn connection_never_expires(mut self) -> Self {
        self.connection_end = Some(End::Never);
        self
    }

    /// Sets what others learn of the connection, with presence, join and leave messages, and publications of the client: the claim
    /// `info`, or `b64info` if it is not JSON.
    pub fn info(mut self, info: impl Into<Payload>) -> Self {
        self.info = info.into();
        self
    }

    /// Sets what only the backend learns of the connection, as in proxied calls: the claim `meta`, a JSON object. Whoever has the token can
    /// read it all the same.
    pub fn meta(mut self, meta: impl Into<Payload>) -> Self {
        self.meta = meta.into();
        self
    }

    /// Subscribes the connection to a channel on the server's side: the claim `channels`.
    pub fn channel(mut self, channel: impl Into<String>) -> Self {
        self.channels.push(channel.into());
        self
    }

    /// Subscribes the connection to these channels on the server's side: the claim `channels`.
    pub fn channels(mut self, channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.channels.extend(channels.into_iter().map(Into::into));
        self
    }

    /// Subscribes the connection to a channel on the server's side, with options: the claim `subs`.
    ///
    /// The server ignores `channels` in a token with `subs`. So the channels of [`channel`](Self::channel) go into `subs` too then.
    pub fn subscription(mut self, channel: impl Into<String>, options: SubscribeOptions) -> Self {
        self.subs.insert(channel.into(), options);
        self
    }

    /// Allows the connection something in channels: the claim `caps`. The first capability that names a channel decides. PRO only; the open-source
    /// server ignores it.
    pub fn capability(mut self, capability: Capability) -> Self {
        self.capabilities.push(capability);
        self
    }

    /// Labels the connection: the claim `labels`. PRO only; the open-source server ignores it.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    fn claims(&self) -> Result<Claims, Error> {
        let (times, mut claims) = (self.common.times()?, Claims::default());
        claims.add("sub", user("connection", self.user.as_deref())?);
        self.common.add_to(&mut claims, times, &self.issuer.identity)?;
        if let Some(end) = self.connection_end {
            claims.add("expire_at", end.second(times.issued, "the end of the connection")?.unwrap_or(0));
        }
        claims.add_payload("info", &self.info);
        if self.channels.iter().chain(self.subs.keys()).any(String::is_empty) {
            return Err(Error::invalid("the name of a channel is empty"));
        }
        if self.subs.is_empty() {
            claims.add_if("channels", (!self.channels.is_empty()).then_some(&self.channels));
        } else {
            let mut subs = self.subs.clone();
            for channel in &self.channels {
                subs.entry(channel.clone()).or_default();
            }
            claims.add("subs", subs);
        }
        if !self.meta.as_bytes().is_empty() {
            let meta = json("meta", &self.meta)?;
            if !meta.get().starts_with('{') {
                return Err(Error::invalid("`meta` is not a JSON object"));
            }
            claims.add("meta", meta);
        }
        claims.add_if("caps", (!self.capabilities.is_empty()).then_some(&self.capabilities));
        claims.add_if("labels", (!self.labels.is_empty()).then_some(&self.labels));
        self.common.add_more(&mut claims, &RESERVED)?;
        Ok(claims)
    }
}

common_setters!(ConnectionToken);

/// The user of a token; `None` for the anonymous one.
pub(crate) fn user<'a>(kind: &str, user: Option<&'a str>) -> Result<&'a str, Error> {
    match user {
        Some("") => Err(Error::invalid(format!(
            "the user is empty, which is the anonymous user; if that is meant, say so with `anonymous_{kind}`"
        ))),
        user => Ok(user.unwrap_or_default()),
    }
}

/// What a connection may do in channels: one entry of the claim `caps`
/// ([channel capabilities](https://centrifugal.dev/docs/pro/capabilities)). PRO only.
///
/// ```
/// use centrifugo_api::token::Capability;
///
/// let news = Capability::new(["news"]).subscribe().history();
/// let own = Capability::wildcard(["user_42:*"]).subscribe().publish();
/// ```
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct Capability {
    channels: Vec<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matching: Option<&'static str>,
    allow: Vec<&'static str>,
}

impl Capability {
    fn matching(matching: Option<&'static str>, channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { channels: channels.into_iter().map(Into::into).collect(), matching, allow: Vec::new() }
    }

    fn allow(mut self, what: &'static str) -> Self {
        self.allow.push(what);
        self
    }

    /// For the channels of these names.
    pub fn new(channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::matching(None, channels)
    }

    /// For the channels that match one of these, in which `*` is any text.
    pub fn wildcard(channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::matching(Some("wildcard"), channels)
    }

    /// For the channels that match one of these regular expressions, in Go's syntax.
    pub fn regex(channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::matching(Some("regex"), channels)
    }

    /// Allows to subscribe.
    pub fn subscribe(self) -> Self {
        self.allow("sub")
    }

    /// Allows to publish.
    pub fn publish(self) -> Self {
        self.allow("pub")
    }

    /// Allows to ask for presence, and to get join and leave messages.
    pub fn presence(self) -> Self {
        self.allow("prs")
    }

    /// Allows to ask for history, and to recover.
    pub fn history(self) -> Self {
        self.allow("hst")
    }
}
