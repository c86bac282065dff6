//! The claims that every kind of token has, and how a token is written.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::value::{RawValue, to_raw_value};

use crate::api::payload::Payload;
use crate::error::Error;
use crate::token::algorithm::Algorithm;

/// The last second of the year 9999, in seconds since 1970: later times are a mistake, and some programs do not read them.
const LAST: u64 = 253_402_300_799;

/// When something ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// So long after the token is issued.
    In(Duration),
    At(SystemTime),
    Never,
}

/// What every kind of token may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Common {
    pub(crate) end: Option<End>,
    pub(crate) not_before: Option<SystemTime>,
    pub(crate) issued_at: Option<SystemTime>,
    pub(crate) id: Option<String>,
    pub(crate) more: BTreeMap<String, Payload>,
}

/// When a token is issued, and when it ends, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) issued: u64,
    pub(crate) expires: Option<u64>,
}

/// The time in whole seconds since 1970.
pub(crate) fn seconds(time: SystemTime, what: &str) -> Result<u64, Error> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) if since.as_secs() <= LAST => Ok(since.as_secs()),
        _ => Err(Error::invalid(format!("`{what}` is before 1970 or after 9999"))),
    }
}

impl End {
    /// The second of the end, which must be after `issued`; `None` for never.
    pub(crate) fn second(self, issued: u64, what: &str) -> Result<Option<u64>, Error> {
        let end = match self {
            Self::Never => return Ok(None),
            Self::In(lifetime) => issued.saturating_add(lifetime.as_secs()),
            Self::At(time) => seconds(time, what)?,
        };
        match end {
            end if end <= issued => {
                Err(Error::invalid(format!("`{what}` is not at least a second after the token is issued")))
            }
            LAST.. => Err(Error::invalid(format!("`{what}` is after 9999; if it should not end, say so by name"))),
            end => Ok(Some(end)),
        }
    }
}

impl Common {
    pub(crate) fn times(&self) -> Result<Times, Error> {
        let issued = seconds(self.issued_at.unwrap_or_else(SystemTime::now), "issued_at")?;
        let end = self.end.ok_or_else(|| {
            Error::invalid("the token has no end; set `expires_in`, or `never_expires` if it should be good forever")
        })?;
        Ok(Times { issued, expires: end.second(issued, "the end of the token")? })
    }

    /// Adds the registered claims but `sub`.
    pub(crate) fn add_to(&self, claims: &mut Claims, times: Times, of: &Identity) -> Result<(), Error> {
        claims.add_if("exp", times.expires);
        if let Some(not_before) = self.not_before {
            let second = seconds(not_before, "not_before")?;
            if times.expires.is_some_and(|end| end <= second) {
                return Err(Error::invalid("the token would end before its `not_before`"));
            }
            claims.add("nbf", second);
        }
        claims.add("iat", times.issued);
        claims.add_if("jti", self.id.as_deref());
        match &*of.audience {
            [] => {}
            [one] => claims.add("aud", one),
            several => claims.add("aud", several),
        }
        claims.add_if("iss", of.issuer.as_deref());
        Ok(())
    }

    /// Adds the claims of the application's own.
    pub(crate) fn add_more(&self, claims: &mut Claims, reserved: &[&str]) -> Result<(), Error> {
        for (name, value) in &self.more {
            if reserved.contains(&&**name) {
                return Err(Error::invalid(format!(
                    "the `claim` {name} has a setter of its own, or no place in this token"
                )));
            }
            claims.add(name, json(name, value)?);
        }
        Ok(())
    }
}

/// Who issues tokens and for whom, and with which key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) key_id: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Vec<String>,
}

/// The claims of a token, in order.
#[derive(Default)]
pub(crate) struct Claims(Vec<(String, Box<RawValue>)>);

impl Claims {
    /// Adds a claim. Strings, numbers and what is made of them always have a JSON form.
    pub(crate) fn add(&mut self, name: &str, value: impl Serialize) {
        if let Ok(value) = to_raw_value(&value) {
            self.0.push((name.to_owned(), value));
        }
    }

    pub(crate) fn add_if(&mut self, name: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds a payload: JSON as it is under its name, other bytes in base64 under `b64` and the name.
    pub(crate) fn add_payload(&mut self, name: &str, payload: &Payload) {
        match json(name, payload) {
            _ if payload.as_bytes().is_empty() => {}
            Ok(json) => self.add(name, json),
            Err(_) => self.add(&format!("b64{name}"), BASE64_STANDARD.encode(payload.as_bytes())),
        }
    }
}

impl Serialize for Claims {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The names only: a claim may hold what is nobody's business.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A payload that must be JSON.
pub(crate) fn json<'a>(name: &str, payload: &'a Payload) -> Result<&'a RawValue, Error> {
    serde_json::from_slice(payload.as_bytes()).map_err(|_| Error::invalid(format!("`{name}` is not JSON")))
}

/// What is signed: the header and the claims.
pub(crate) fn message(algorithm: Algorithm, of: &Identity, claims: &Claims) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Header<'a> {
        alg: &'a str,
        typ: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
    }
    let unwritable = |_| Error::invalid("the claims cannot be written as JSON");
    let header = Header { alg: algorithm.name(), typ: "JWT", kid: of.key_id.as_deref() };
    let header = serde_json::to_vec(&header).map_err(unwritable)?;
    let claims = serde_json::to_vec(claims).map_err(unwritable)?;
    Ok(format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims)))
}

/// The token: what was signed, and its signature.
pub(crate) fn token(mut message: String, signature: &[u8]) -> String {
    message.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut message);
    message
}

/// The setters of what every kind of token may have, and how it is issued.
macro_rules! common_setters {
    ($kind:ident) => {
        /// # When it is valid
        impl<K: $crate::token::key::Key> $kind<'_, K> {
            /// Lets the token end so long after it is issued, in whole seconds, at least 1: the claim `exp`.
            pub fn expires_in(mut self, lifetime: std::time::Duration) -> Self {
                self.common.end = Some($crate::token::claims::End::In(lifetime));
                self
            }

            /// Lets the token end at this time: the claim `exp`. The second before is the last in which it is accepted.
            pub fn expires_at(mut self, time: std::time::SystemTime) -> Self {
                self.common.end = Some($crate::token::claims::End::At(time));
                self
            }

            /// Makes a token without an end. Whoever gets hold of it can use it until the key is changed.
            pub fn never_expires(mut self) -> Self {
                self.common.end = Some($crate::token::claims::End::Never);
                self
            }

            /// Lets the token be accepted from this time on: the claim `nbf`. Clocks differ, so that a token that is meant for now
            /// should not have it.
            pub fn not_before(mut self, time: impl Into<Option<std::time::SystemTime>>) -> Self {
                self.common.not_before = time.into();
                self
            }

            /// Sets when the token was issued: the claim `iat`. Now unless set.
            pub fn issued_at(mut self, time: impl Into<Option<std::time::SystemTime>>) -> Self {
                self.common.issued_at = time.into();
                self
            }
        }

        /// # Further claims
        impl<K: $crate::token::key::Key> $kind<'_, K> {
            /// Gives the token an id: the claim `jti`. Centrifugo PRO needs one to revoke it
            /// ([revoke_token](https://centrifugal.dev/docs/pro/token_revocation)).
            pub fn id(mut self, id: impl Into<String>) -> Self {
                self.common.id = Some(id.into());
                self
            }

            /// Adds a claim of another name, in JSON: for a `user_id_claim` of the server, or what else reads the token.
            pub fn claim(mut self, name: impl Into<String>, value: impl Into<$crate::api::payload::Payload>) -> Self {
                self.common.more.insert(name.into(), value.into());
                self
            }
        }

        impl $kind<'_, $crate::token::key::SigningKey> {
            /// Signs the token.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it has no end, ends before it begins, or would be refused by the
            /// server for what it has or lacks: the text names the claim.
            pub fn issue(self) -> Result<String, $crate::error::Error> {
                let message = self.message()?;
                let signature = self.issuer.key.sign_now(message.as_bytes())?;
                Ok($crate::token::claims::token(message, &signature))
            }
        }

        impl $kind<'_, $crate::token::key::RemoteKey> {
            /// Has the token signed.
            ///
            /// # Errors
            ///
            /// Those of a key of this process, and [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when the signer fails.
            pub async fn issue(self) -> Result<String, $crate::error::Error> {
                self.sign().await
            }
        }

        impl<K: $crate::token::key::Key> $kind<'_, K> {
            pub(crate) async fn sign(&self) -> Result<String, $crate::error::Error> {
                let message = self.message()?;
                let signature = $crate::token::key::sealed::Sign::sign(&self.issuer.key, message.as_bytes()).await?;
                Ok($crate::token::claims::token(message, &signature))
            }

            /// The header and the claims.
            fn message(&self) -> Result<String, $crate::error::Error> {
                let algorithm = $crate::token::key::sealed::Sign::algorithm(&self.issuer.key);
                $crate::token::claims::message(algorithm, &self.issuer.identity, &self.claims()?)
            }
        }
    };
}
pub(crate) use common_setters;
