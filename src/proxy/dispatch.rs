//! What both services do with a call: check the key, read the request, run the handler within its limits, write the answer.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use subtle::ConstantTimeEq as _;

use crate::error::causes;
use crate::proxy::answer::{self, Failed, Form};
use crate::proxy::caller::Caller;
use crate::proxy::method::{Method, Proxy, for_each_handler};
use crate::proxy::rejection::Rejection;

/// A tenth under the 1 s after which the server gives a call up, unless configured otherwise: so the answer still arrives.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(900);

/// The largest body that is read unless set. The server's clients send at most 64 KiB in one frame (`message_size_limit`), and
/// base64 and JSON add a third; a shared poll has all keys of a channel.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// A backend and the limits of its service.
pub(crate) struct Served<P> {
    pub(crate) proxy: Arc<P>,
    /// Names of headers in lower case, and the keys.
    keys: Vec<(String, Arc<str>)>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_body: usize,
}

impl<P> Clone for Served<P> {
    fn clone(&self) -> Self {
        Self { proxy: Arc::clone(&self.proxy), keys: self.keys.clone(), timeout: self.timeout, max_body: self.max_body }
    }
}

/// Shows the names of the keys' headers.
impl<P> fmt::Debug for Served<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("keys", &self.keys.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

impl<P: Proxy> Served<P> {
    pub(crate) fn new(proxy: P) -> Self {
        Self { proxy: Arc::new(proxy), keys: Vec::new(), timeout: Some(TIMEOUT), max_body: MAX_BODY }
    }

    pub(crate) fn add_key(&mut self, name: &str, key: &str) {
        if key.is_empty() || name.parse::<http::HeaderName>().is_err() {
            tracing::error!(
                header = name,
                "the key of the proxy is empty or its header has no valid name: calls are refused"
            );
        }
        // An empty key is kept as one that nothing equals.
        self.keys.push((name.to_ascii_lowercase(), key.into()));
    }

    /// Whether the call has one of the keys, which is then taken out of its headers.
    pub(crate) fn admits(&self, headers: &mut HeaderMap) -> bool {
        let mut admitted = self.keys.is_empty();
        for (name, key) in &self.keys {
            let mut values = headers.get_all(name.as_str()).iter();
            if let (Some(value), None) = (values.next(), values.next()) {
                // Its time tells the length of the key, and nothing else.
                let is_equal = bool::from(value.as_bytes().ct_eq(key.as_bytes()));
                admitted |= is_equal && !key.is_empty();
            }
        }
        for (name, _) in &self.keys {
            headers.remove(name.as_str());
        }
        admitted
    }

    /// Reads a request, runs its handler and writes the answer.
    pub(crate) async fn call(&self, method: Method, form: Form, body: &[u8], caller: &Caller) -> Result<Bytes, Failed> {
        macro_rules! run {
            ($($(#[$doc:meta])* $rpc:ident $grpc:literal $name:ident($request:ident) -> $result:ident, tells_client $tells:literal;)+) => {
                match method { $(
                    Method::$rpc => {
                        let request = answer::read(form, body)?;
                        let outcome = match CatchPanic(pin!(async { self.proxy.$name(request, caller).await })).await {
                            Ok(outcome) => outcome,
                            Err(panic) => Err(Rejection::internal(panic)),
                        };
                        answer::write(form, method, outcome)
                    }
                )+ }
            };
        }
        for_each_handler!(run)
    }
}

/// The settings that both services have, of a [`Served`] in their field 0.
macro_rules! served {
    ($service:ident, $body:literal) => {
        impl<P: $crate::proxy::Proxy> $service<P> {
            /// Sets how long a call may take, from its head to its answer. 900 ms unless set, as the server gives up after 1 s; `None`
            /// for no limit.
            #[must_use]
            pub fn timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
                self.0.timeout = timeout.into();
                self
            }

            #[doc = concat!("Sets the largest ", $body, " that is read, in bytes. 1 MiB unless set.")]
            #[must_use]
            pub fn max_body(mut self, bytes: usize) -> Self {
                self.0.max_body = bytes;
                self
            }
        }

        impl<P> Clone for $service<P> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        /// Shows no key.
        impl<P> std::fmt::Debug for $service<P> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($service)).field(&self.0).finish()
            }
        }
    };
}
pub(crate) use served;

/// Runs a call within its time.
pub(crate) async fn within<T>(timeout: Option<Duration>, call: impl Future<Output = T>) -> Option<T> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, call).await.ok(),
        None => Some(call.await),
    }
}

/// A future whose panic becomes a value.
pub(crate) struct CatchPanic<F>(pub(crate) F);

impl<F: Future + Unpin> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is not polled again after a panic, only dropped.
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.0).poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(Panicked::new(&*panic))),
        }
    }
}

/// What a handler panicked with.
#[derive(Debug)]
pub(crate) struct Panicked(String);

impl Panicked {
    fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "a value that is no text".to_owned()))
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it panicked: {}", self.0)
    }
}

impl StdError for Panicked {}

/// The text of an error and of its causes.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Proxy for Nothing {}

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn one_right_key_admits_and_no_key_stays_in_the_headers() {
        let mut served = Served::new(Nothing);
        assert!(served.admits(&mut HeaderMap::new()));
        served.add_key("X-Key", "old");
        served.add_key("x-key", "new");
        for key in ["old", "new"] {
            let mut given = headers(&[("x-key", key), ("cookie", "a")]);
            assert!(served.admits(&mut given));
            assert_eq!(given, headers(&[("cookie", "a")]));
        }
        for wrong in [&[][..], &[("x-key", "ol")], &[("x-key", "old"), ("x-key", "old")], &[("cookie", "old")]] {
            assert!(!served.admits(&mut headers(wrong)), "{wrong:?}");
        }
        assert!(!format!("{served:?}").contains("old"));
    }

    #[test]
    fn an_empty_key_or_a_bad_name_admits_nobody() {
        for (name, key) in [("x-key", ""), ("x key", "a")] {
            let mut served = Served::new(Nothing);
            served.add_key(name, key);
            assert!(!served.admits(&mut headers(&[("x-key", "")])));
            assert!(!served.admits(&mut HeaderMap::new()));
        }
    }
}
