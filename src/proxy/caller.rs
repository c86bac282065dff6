//! Who calls a handler.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers of a call of Centrifugo: over gRPC, its metadata.
///
/// Those of the client are among them where the server is told to pass them on (`http_headers`, `emulated_headers` and
/// `grpc_metadata` in its configuration). The header with the [key](crate::proxy::Http::key_header) is taken out.
///
/// `Debug` shows the names only, as values may be cookies and tokens.
#[derive(Clone, Default)]
pub struct Caller {
    headers: HeaderMap,
}

impl Caller {
    /// A caller with these headers, to call a handler in a test.
    ///
    /// ```
    /// use centrifugo_api::proxy::Caller;
    ///
    /// let from = Caller::new([("cookie", "session=1")]);
    /// assert_eq!(from.header("Cookie"), Some("session=1"));
    /// ```
    ///
    /// A name or a value that no header can have is left out.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let parse =
            |(name, value): (&str, &str)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
        let mut map = HeaderMap::new();
        for (name, value) in headers.into_iter().filter_map(parse) {
            map.append(name, value);
        }
        Self { headers: map }
    }

    pub(crate) fn of(headers: HeaderMap) -> Self {
        Self { headers }
    }

    /// The first value of a header, if it is text. The name's case does not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("headers", &self.headers.keys().collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_shows_no_value() {
        let caller = Caller::new([("Cookie", "sesame"), ("bad name", "x"), ("x", "bad\nvalue")]);
        assert_eq!(format!("{caller:?}"), r#"Caller { headers: ["cookie"] }"#);
    }
}
