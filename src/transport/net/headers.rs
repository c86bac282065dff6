//! The headers of every call.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, USER_AGENT};

use crate::config::{Common, Protocol, TokenSource};
use crate::error::{Error, ErrorKind, Outcome};

/// The headers of every call, checked, with secrets marked as such.
pub(crate) fn headers(config: &Common) -> Result<HeaderMap, Error> {
    let secret = |what: &str, text: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Error::invalid(format!("`{what}` holds a character that a header cannot have")))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_| Error::invalid(format!("the name of `header` {name:?} is not one that HTTP allows")))?;
        let ours = [
            "authorization",
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
    let user_agent = HeaderValue::from_str(&config.user_agent)
        .map_err(|_| Error::invalid("`user_agent` holds a character that a header cannot have"))?;
    headers.insert(USER_AGENT, user_agent);
    match (config.protocol, &config.api_key) {
        (_, None) => {}
        (Protocol::Grpc, Some(_)) if config.bearer_token.is_some() => {
            return Err(Error::invalid(
                "`api_key` and `bearer_token` both need the header `authorization` over gRPC; give one",
            ));
        }
        (Protocol::Grpc, Some(key)) => {
            headers.insert(AUTHORIZATION, secret("api_key", &format!("apikey {key}"))?);
        }
        (Protocol::Http, Some(key)) => {
            headers.insert(HeaderName::from_static("x-api-key"), secret("api_key", key)?);
        }
    }
    Ok(headers)
}

/// Gets a bearer token, as the header `authorization`.
pub(crate) async fn bearer(source: &TokenSource) -> Result<HeaderValue, Error> {
    let failed = |what: &'static str| Error::new(ErrorKind::Unauthenticated, what).with_outcome(Outcome::NotSent);
    let token = source().await.map_err(|error| failed("`bearer_token` returned no token").with_source(error))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| failed("the token of `bearer_token` holds a character that a header cannot have"))?;
    value.set_sensitive(true);
    Ok(value)
}
