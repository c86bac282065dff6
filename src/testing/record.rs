//! Recorded calls.

use std::fmt;

use serde_json::Value;

use super::fault::Transport;
use crate::api::method::Method;

/// A recorded call, of [`Server::calls`](super::Server::calls).
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Recorded {
    /// The transport that it came over.
    pub transport: Transport,
    /// The method.
    pub method: Method,
    /// The request as JSON, whatever its form on the wire: fields that are not set are omitted, and data that is not JSON
    /// is in the `b64…` field. A batch is `{"commands": [{"publish": {…}}, …]}`.
    pub request: Value,
    /// The headers or the metadata, in order, with names in lower case. Keys are `[redacted]`.
    pub headers: Vec<(String, String)>,
}

impl Recorded {
    /// Returns the first header of this name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Shows names, and no values.
impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<&String> = self.request.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
        let headers: Vec<&String> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Recorded")
            .field("transport", &self.transport)
            .field("method", &self.method)
            .field("request", &fields)
            .field("headers", &headers)
            .finish()
    }
}

/// The headers to record.
pub(super) fn headers(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let secret = matches!(name.as_str(), "authorization" | "x-api-key");
            let value =
                if secret { "[redacted]".into() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() };
            (name.as_str().to_owned(), value)
        })
        .collect()
}
