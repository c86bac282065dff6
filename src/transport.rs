//! How calls are sent: [`Transport`], and what a transport of your own needs.

pub(crate) mod backoff;
pub(crate) mod call;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
pub(crate) mod handover;
mod hint;
#[cfg(feature = "http")]
pub(crate) mod http;
mod http_status;
pub(crate) mod net;
pub(crate) mod page;
pub(crate) mod routing;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Excess, Form};
pub use crate::sync::BoxFuture;
pub use crate::transport::call::Call;
pub use crate::transport::routing::balancer::EndpointStatus;
pub use crate::transport::routing::breaker::BreakerState;
pub use crate::transport::routing::fallback::Route;
pub use crate::wire::reply::Reply;

/// Sends one call to the server and returns its response.
///
/// The built-in transports speak gRPC and HTTP; [`Config::transport`](crate::Config::transport) makes one. Yours may wrap
/// one of them, to record calls or to inject faults, or stand alone as a fake; [`from_fn`] makes one of a closure.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use centrifugo_api::transport::{BoxFuture, Call, Reply, Transport};
/// use centrifugo_api::{Client, Config, Error};
///
/// /// Counts the calls of another transport.
/// #[derive(Debug)]
/// struct Counted<T> {
///     inner: T,
///     calls: AtomicUsize,
/// }
///
/// impl<T: Transport> Transport for Counted<T> {
///     fn name(&self) -> &'static str {
///         self.inner.name()
///     }
///
///     fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
///         self.calls.fetch_add(1, Ordering::Relaxed);
///         self.inner.send(call)
///     }
///
///     fn inner(&self) -> Option<&dyn Transport> {
///         Some(&self.inner)
///     }
/// }
///
/// let config = Config::grpc("http://localhost:10000").api_key("my key");
/// let counted = Counted { inner: config.transport()?, calls: AtomicUsize::new(0) };
/// let client = Client::with_transport(counted).with_config(&config)?;
/// # Ok::<(), Error>(())
/// ```
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The name that errors give this transport: `"grpc"`, `"http"`.
    fn name(&self) -> &'static str;

    /// Sends `call` once. The deadline is the client's: it drops the future when it passes.
    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>>;

    /// The transport that this one wraps. The methods below ask it unless they are overridden.
    fn inner(&self) -> Option<&dyn Transport> {
        None
    }

    /// The address that errors name, where there is one.
    fn endpoint(&self) -> Option<Arc<str>> {
        self.inner()?.endpoint()
    }

    /// The endpoints as they are now: see [`Client::endpoints`](crate::Client::endpoints).
    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.inner().map(Transport::endpoints).unwrap_or_default()
    }

    /// The state of the breaker between gRPC and its fallback, now and when it changes: see
    /// [`Client::watch_breaker`](crate::Client::watch_breaker).
    fn watch_breaker(&self) -> Option<watch::Receiver<BreakerState>> {
        self.inner()?.watch_breaker()
    }

    /// Records that a response of this endpoint cannot be read; its index counts from 1, as [`endpoints`](Self::endpoints) has them.
    ///
    /// An endpoint that responds badly, while others respond well, is left out for a time.
    fn reject(&self, endpoint: usize) {
        if let Some(inner) = self.inner() {
            inner.reject(endpoint);
        }
    }

    /// Gives its connections no more calls, because they do not respond: they may be dead unnoticed. Whether later calls have another
    /// address of the same endpoint to go to, so that it is not left out.
    fn fail_over(&self) -> bool {
        if let Some(inner) = self.inner() {
            return inner.fail_over();
        }
        self.disconnect();
        false
    }

    /// Gives its connections no more calls. Calls in flight go on, and later calls use new connections.
    ///
    /// Called when the client is closed.
    fn disconnect(&self) {
        if let Some(inner) = self.inner() {
            inner.disconnect();
        }
    }
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        (**self).send(call)
    }

    fn inner(&self) -> Option<&dyn Transport> {
        (**self).inner()
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        (**self).endpoint()
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        (**self).endpoints()
    }

    fn watch_breaker(&self) -> Option<watch::Receiver<BreakerState>> {
        (**self).watch_breaker()
    }

    fn reject(&self, endpoint: usize) {
        (**self).reject(endpoint);
    }

    fn fail_over(&self) -> bool {
        (**self).fail_over()
    }

    fn disconnect(&self) {
        (**self).disconnect();
    }
}

/// Turns a closure into a transport, for tests.
///
/// The closure reads what it needs of the call and returns a future of the response.
///
/// ```
/// use centrifugo_api::transport::{Reply, from_fn};
/// use centrifugo_api::{Client, PublishRequest};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), centrifugo_api::Error> {
/// let client = Client::with_transport(from_fn("fake", |call| {
///     assert_eq!(call.method(), "publish");
///     async { Ok(Reply::json(r#"{"result":{"offset":7}}"#)) }
/// }));
/// let result = client.publish(PublishRequest::new("news", serde_json::json!({}))).await?;
/// assert_eq!(result.offset, 7);
/// # Ok(()) }
/// ```
pub fn from_fn<F, R>(name: &'static str, send: F) -> impl Transport
where
    F: Fn(&Call<'_>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Error>> + Send + 'static,
{
    struct FromFn<F>(&'static str, F);

    impl<F> fmt::Debug for FromFn<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("FromFn").field(&self.0).finish()
        }
    }

    impl<F, R> Transport for FromFn<F>
    where
        F: Fn(&Call<'_>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        fn name(&self) -> &'static str {
            self.0
        }

        fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
            Box::pin((self.1)(call))
        }
    }

    FromFn(name, send)
}

/// Refuses a request over the limit before it is sent.
pub(crate) fn check_len(form: Form, bytes: usize, limit: usize) -> Result<(), Error> {
    if bytes <= limit { Ok(()) } else { Err(Error::over_limit(Excess { form, bytes, limit })) }
}
