//! The headers of every call.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, USER_AGENT};

use crate::config::endpoint::BasicAuth;
use crate::config::{Common, Protocol, TokenSource};
use crate::error::{Error, ErrorKind, Outcome};

/// The headers of every call, checked, with secrets marked as such.
pub(crate) fn headers(config: &Common) -> Result<HeaderMap, Error> {
    check_authorization(config)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_| Error::invalid(format!("the name of `header` {name:?} is not one that HTTP allows")))?;
        let ours = [
            "x-api-key",
            "user-agent",
            "content-type",
            "content-length",
            "host",
            "te",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ];
        if ours.contains(&name.as_str()) || name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin") {
            return Err(Error::invalid(format!("the `header` {name} is set by the transport; remove it")));
        }
        headers.append(&name, secret(name.as_str(), value)?);
    }
    headers.insert(USER_AGENT, value("user_agent", &config.user_agent)?);
    if let Some(BasicAuth { user, password }) = &config.basic_auth {
        if user.contains(':') || user.contains(char::is_control) || password.contains(char::is_control) {
            return Err(Error::invalid("`basic_auth` has a colon in the user, or a control character"));
        }
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        headers.insert(AUTHORIZATION, secret("basic_auth", &format!("Basic {encoded}"))?);
    }
    if let Some(key) = &config.api_key {
        let value = secret("api_key", key)?;
        match config.protocol {
            Protocol::Grpc => headers.insert(AUTHORIZATION, secret("api_key", &format!("apikey {key}"))?),
            Protocol::Http => headers.insert(HeaderName::from_static("x-api-key"), value),
        };
    }
    Ok(headers)
}

/// Refuses settings of which each needs the header `authorization`.
fn check_authorization(config: &Common) -> Result<(), Error> {
    let of_key = config.protocol == Protocol::Grpc && config.api_key.is_some();
    let given = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
    let mut needed = [
        of_key.then_some("`api_key`"),
        config.bearer_token.is_some().then_some("`bearer_token`"),
        config.basic_auth.is_some().then_some("basic auth"),
    ]
    .into_iter()
    .flatten()
    .chain(config.headers.iter().filter(given).map(|_| "the `header` authorization"));
    match (needed.next(), needed.next()) {
        (Some(first), Some(second)) if of_key => Err(Error::invalid(format!(
            "{first} and {second} both need the header `authorization` over gRPC; give one, or call over HTTP, where the key has \
             a header of its own"
        ))),
        (Some(first), Some(second)) => {
            Err(Error::invalid(format!("{first} and {second} both need the header `authorization`; give one")))
        }
        _ => Ok(()),
    }
}

/// The value of a header, which is never changed: servers drop spaces around it, or refuse it.
fn value(what: &str, text: &str) -> Result<HeaderValue, Error> {
    if text.trim() != text {
        return Err(Error::invalid(format!("`{what}` begins or ends with a space or a line end; remove it")));
    }
    if text.starts_with('\u{feff}') {
        return Err(Error::invalid(format!("`{what}` begins with a byte order mark; remove it")));
    }
    HeaderValue::from_str(text)
        .map_err(|_| Error::invalid(format!("`{what}` holds a character that a header cannot have")))
}

fn secret(what: &str, text: &str) -> Result<HeaderValue, Error> {
    let mut value = value(what, text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Gets a bearer token, as the header `authorization`.
pub(crate) async fn bearer(source: &TokenSource) -> Result<HeaderValue, Error> {
    let failed = |what: &'static str| Error::new(ErrorKind::Unauthenticated, what).with_outcome(Outcome::NotSent);
    let token = source().await.map_err(|error| failed("`bearer_token` returned no token").with_source(error))?;
    let wrong = |error: Error| failed("the token of `bearer_token` cannot be sent").with_source(error);
    secret("bearer_token", &token).map_err(wrong)?;
    secret("bearer_token", &format!("Bearer {token}")).map_err(wrong)
}
