//! The address of a server, as it is given and as it is called.

use std::borrow::Cow;
use std::fmt;

use url::Url;

use crate::error::Error;

/// An endpoint that can be called.
pub(crate) struct Endpoint {
    /// Without a user.
    pub(crate) url: Url,
    pub(crate) basic_auth: Option<BasicAuth>,
}

/// The user and the password for a proxy in front of the API.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BasicAuth {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The user and the password that an endpoint holds.
pub(super) fn user_of(url: &Url) -> Result<Option<BasicAuth>, Error> {
    let (user, password) = (url.username(), url.password());
    if user.is_empty() && password.is_none() {
        return Ok(None);
    }
    let decoded = |text| decode(text).ok_or_else(|| Error::invalid("the user of the endpoint is not UTF-8"));
    Ok(Some(BasicAuth { user: decoded(user)?, password: decoded(password.unwrap_or_default())? }))
}

/// Decodes the percent-encoding of a part of a URL.
fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let hex = if *byte == b'%' { after.first_chunk::<2>() } else { None };
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(hex.unwrap_or(*byte));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(decoded).ok()
}

pub(super) fn without_user(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail for URLs without a host, which have none.
    let _ = (url.set_username(""), url.set_password(None));
    url
}

/// An endpoint as errors may show it: without what may be a key or a password.
pub(crate) fn shown(given: &str) -> Cow<'_, str> {
    if !given.contains(['@', '?', '#']) {
        return given.into();
    }
    match Url::parse(given) {
        Ok(url) if url.has_host() && !url.path().contains('@') && url.query().is_none() && url.fragment().is_none() => {
            without_user(&url).as_str().trim_end_matches('/').to_owned().into()
        }
        _ => "[redacted]".into(),
    }
}

/// Whether the host is an address with a zone: `[fe80::1%25eth0]`.
pub(super) fn has_zone(given: &str) -> bool {
    let host = given.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    host.is_some_and(|(host, _)| host.contains('%'))
}

/// Whether it is called as it is written. Parsing drops some characters, and folds slashes and parts of the path.
pub(super) fn is_as_written(given: &str) -> bool {
    let Some((_, rest)) = given.split_once("://") else { return false };
    let path = rest.find('/').map_or("", |begin| &rest[begin + 1..]);
    let is_dots = |part: &str| matches!(&*part.to_ascii_lowercase().replace("%2e", "."), "." | "..");
    !rest.starts_with('/')
        && !given.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control())
        && !path.starts_with('/')
        && !path.contains("//")
        && !path.split('/').any(is_dots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_password_are_decoded() {
        let of = |url: &str| user_of(&Url::parse(url).unwrap()).unwrap();
        let both = |user: &str, password: &str| Some(BasicAuth { user: user.into(), password: password.into() });
        assert_eq!(of("http://localhost/api"), None);
        assert_eq!(of("http://me@localhost/api"), both("me", ""));
        assert_eq!(of("http://:sesame@localhost"), both("", "sesame"));
        assert_eq!(of("http://m%65:p%40ss%2f+%zz%@localhost"), both("me", "p@ss/+%zz%"));
        assert!(user_of(&Url::parse("http://%ff@localhost").unwrap()).is_err());
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("http://localhost:8000/api/"), "http://localhost:8000/api/");
        assert_eq!(shown("http://me:sesame@localhost:8000/api"), "http://localhost:8000/api");
        for given in
            ["http://me:1/sesame@localhost", "http://me:ses/ame@localhost", "http://localhost?sesame", "me:sesame@host"]
        {
            assert_eq!(shown(given), "[redacted]", "{given}");
        }
    }
}
