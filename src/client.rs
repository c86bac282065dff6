//! The client: the public face of the crate, with a method for every entry of the table.

#[macro_use]
mod examples;

use std::borrow::Borrow as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::api::batch::Batch;
use crate::api::message;
use crate::api::methods::for_each_method;
use crate::api::replies::BatchReplies;
use crate::api::request::{IntoRequest, Request};
use crate::batching::batcher::Batcher;
use crate::batching::publisher::Publisher;
use crate::call::Core;
use crate::call::close::CloseSummary;
use crate::call::typed::{self, TypedCall};
use crate::config::Config;
use crate::config::batching::Batching;
use crate::config::publisher::PublisherConfig;
use crate::config::retry::Retry;
use crate::error::Error;
#[cfg(doc)]
use crate::error::{ErrorKind, Outcome};
use crate::transport::Transport;
use crate::transport::routing::balancer::EndpointStatus;
use crate::transport::routing::breaker::BreakerState;

/// A client of the server API, over gRPC or over HTTP.
///
/// It has one method for each of the API's, [`call`](Self::call) for code that is generic over them, [`batch`](Self::batch)
/// for many calls in one request, and [`call_json`](Self::call_json) for what this version does not know. Requests are
/// taken by value or by reference.
///
/// A clone shares the connections and costs next to nothing. A client is used in a tokio runtime, or in several, one after
/// another or at once.
///
/// ```
/// use centrifugo_api::{Client, Config, PublishRequest};
/// use serde_json::json;
///
/// # #[cfg(all(feature = "testing", feature = "grpc"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = centrifugo_api::testing::Server::start().await?;
/// # let config = Config::grpc(server.grpc_url());
/// # if false {
/// let config = Config::grpc("http://localhost:10000").api_key("my key");
/// # }
/// let client = Client::new(config)?;
/// let position = client.publish(PublishRequest::new("news", json!({"text": "hello"}))).await?;
/// println!("offset {} of epoch {}", position.offset, position.epoch);
/// # Ok(()) }
/// # #[cfg(not(all(feature = "testing", feature = "grpc")))] fn main() {}
/// ```
///
/// Dropping the future of a call is safe: other calls on the same connection go on. The outcome of the dropped one is then
/// unknown.
///
/// # Panics
///
/// Calls panic, with tokio's own message, in a runtime whose I/O or time is not enabled.
#[derive(Clone)]
pub struct Client {
    core: Core,
    batcher: Option<Arc<Batcher>>,
}

impl Client {
    /// A client for the server that `config` names. It connects with the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong: the text names it.
    pub fn new(config: impl Into<Config>) -> Result<Self, Error> {
        let config = config.into();
        Self::with_transport(config.transport()?).with_config(&config)
    }

    /// Makes calls over a transport of your own: a fake, a recorder, a fault injector. They have no deadline and are not
    /// repeated until [`with_config`](Self::with_config), [`with_timeout`](Self::with_timeout) or
    /// [`with_retry`](Self::with_retry) says so.
    pub fn with_transport(transport: impl Transport) -> Self {
        Self { core: Core::new(Box::new(transport)), batcher: None }
    }

    /// The same client with the deadline, the retries, the batching and the limits of a configuration, and over the transport
    /// that it has: for a transport that wraps the one of [`Config::transport`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting of the batching is wrong.
    pub fn with_config<T>(&self, config: &Config<T>) -> Result<Self, Error> {
        let core = self.core.clone().with_config(&config.common);
        Self { core, batcher: None }.with_batching(config.common.batching)
    }

    /// The same client with another deadline for each of its calls.
    ///
    #[doc = example!()]
    /// # use std::time::Duration;
    /// let info = client.with_timeout(Duration::from_millis(200)).info(InfoRequest::new()).await?;
    #[doc = end_of_example!()]
    #[must_use]
    pub fn with_timeout(&self, timeout: impl Into<Option<Duration>>) -> Self {
        self.with_core(|core| core.timeout = timeout.into())
    }

    /// The same client, told whether the server is Centrifugo PRO: see [`Config::pro`].
    #[must_use]
    pub fn with_pro(&self, pro: bool) -> Self {
        self.with_core(|core| core.pro = pro)
    }

    /// The same client with other retries for each of its calls. They are paid from the same budget.
    ///
    #[doc = example!()]
    /// client.with_retry(None).history_remove("news").await?;
    #[doc = end_of_example!()]
    #[must_use]
    pub fn with_retry(&self, retry: impl Into<Option<Retry>>) -> Self {
        let retry = Arc::new(retry.into().unwrap_or_else(Retry::none));
        self.with_core(|core| core.retry = retry)
    }

    /// The same client, whose calls share requests when there are many: see [`Batching`].
    ///
    /// Every method takes part; a [`batch`](Self::batch) and [`call_json`](Self::call_json) are sent as they are. Each call has its
    /// own result, deadline and retries, as without. Calls that share a request are executed at the same time, in no order.
    /// The calls of clones share requests too, with other deadlines and retries as well.
    ///
    #[doc = example!()]
    /// let client = client.with_batching(Batching::new())?;
    /// // In many tasks:
    /// client.publish(PublishRequest::new("news", serde_json::json!({"text": "hello"}))).await?;
    #[doc = end_of_example!()]
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong.
    pub fn with_batching(&self, batching: impl Into<Option<Batching>>) -> Result<Self, Error> {
        let batcher = match batching.into() {
            Some(batching) => {
                batching.check()?;
                Some(Batcher::new(batching))
            }
            None => None,
        };
        Ok(Self { batcher, ..self.clone() })
    }

    fn with_core(&self, change: impl FnOnce(&mut Core)) -> Self {
        let mut client = self.clone();
        change(&mut client.core);
        client
    }

    /// The transport that sends the calls: over all endpoints, and with the fallback if there is one.
    #[must_use]
    pub fn transport(&self) -> &dyn Transport {
        self.core.transport()
    }

    /// The endpoints as they are now, in the order given, those of the fallback last. Empty for a transport of your own.
    ///
    #[doc = example!()]
    /// for endpoint in client.endpoints().iter().filter(|endpoint| !endpoint.available) {
    ///     eprintln!("{} over {} is left out", endpoint.endpoint, endpoint.transport);
    /// }
    #[doc = end_of_example!()]
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.transport().endpoints()
    }

    /// Whether calls go over gRPC or over the fallback, now and when it changes. `None` without a
    /// `Config::fallback`.
    ///
    #[doc = example!()]
    /// if let Some(mut state) = client.watch_breaker() {
    ///     println!("calls go over {}", if *state.borrow() == BreakerState::Closed { "gRPC" } else { "HTTP" });
    ///     while state.changed().await.is_ok() {
    ///         println!("the breaker is now {:?}", *state.borrow_and_update());
    ///     }
    /// }
    #[doc = end_of_example!()]
    #[must_use]
    pub fn watch_breaker(&self) -> Option<watch::Receiver<BreakerState>> {
        self.transport().watch_breaker()
    }

    /// Closes this client and all its clones: refuses new calls at once, waits for those in flight, and cancels what is left
    /// after `timeout`. Returns how all calls of the client ended, since it was made.
    ///
    /// It may be called more than once and from several places; each waits as long as it was told to, and all see the same
    /// calls. Nothing needs to be closed: a client that is dropped leaves no task and no connection behind.
    ///
    #[doc = example!()]
    /// # use std::time::Duration;
    /// client.publish(PublishRequest::new("news", serde_json::json!({"text": "hello"}))).await?;
    /// let closed = client.close(Duration::from_secs(5)).await;
    /// assert_eq!((closed.done, closed.unknown), (1, 0));
    #[doc = end_of_example!()]
    pub async fn close(&self, timeout: Duration) -> CloseSummary {
        let closed = self.core.gate().close(timeout).await;
        self.transport().disconnect();
        closed
    }

    /// Makes any call, as code that is generic over requests needs it.
    ///
    /// ```no_run
    /// # use std::time::Instant;
    /// # use centrifugo_api::message::Request;
    /// # use centrifugo_api::{Client, Error};
    /// async fn timed<R: Request>(client: &Client, request: R) -> Result<R::Result, Error> {
    ///     let started = Instant::now();
    ///     let result = client.call(request).await;
    ///     println!("{} took {:?}", R::METHOD.name(), started.elapsed());
    ///     result
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]: the kinds are the same over every transport.
    pub async fn call<R: Request>(&self, request: impl IntoRequest<R>) -> Result<R::Result, Error> {
        let request = request.into_request();
        let mut call = TypedCall::begin(&self.core, request.borrow())?;
        let sent = match &self.batcher {
            Some(batcher) => batcher.send(&self.core, &mut call).await,
            None => typed::send(&mut call.attempts, call.request, call.key).await,
        };
        call.finish(sent).await
    }

    /// Sends many commands in one request, or in several if they are too large for one: over the limit of this client, or
    /// refused for their length by the server or a proxy, when they are halved.
    ///
    /// A request is repeated as a whole, if it fails as a whole and none of its commands may have taken effect, or all of them
    /// may take effect twice: see [`Batch::idempotency_keys`], and [`Batch`] for an example. A command that fails is not repeated. All
    /// requests and repeats share the call's deadline. See the server's page on
    /// [batch](https://centrifugal.dev/docs/server/server_api#batch).
    ///
    /// # Errors
    ///
    /// Fails when no request got a response: then no reply is known. What became of a single command is in its reply. If one of
    /// several requests fails, that is the error of each of its commands, and those behind it are not sent, unless the batch
    /// is [parallel](Batch::parallel): theirs is [`ErrorKind::Unavailable`], with [`Outcome::NotSent`].
    pub async fn batch(&self, batch: &Batch) -> Result<BatchReplies, Error> {
        self.core.batch(batch).await
    }

    /// Calls a method by its name, with JSON in and JSON out.
    ///
    /// Over HTTP any method and any field that the server knows; over gRPC those that the schema of this version knows,
    /// and an error before anything is sent for others. `params` and the result may be of any type that serde
    /// understands: [`serde_json::Value`], [`Box<RawValue>`](serde_json::value::RawValue), or one of your own.
    ///
    #[doc = example!()]
    /// let info: Value = client.call_json("info", json!({})).await?;
    /// assert_eq!(info["nodes"].as_array().map(Vec::len), Some(1));
    #[doc = end_of_example!()]
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]: the kinds are the same over every transport. A result that cannot be read as a `T` is
    /// [`ErrorKind::Protocol`] with [`Outcome::Done`]: the call took effect.
    pub async fn call_json<T: DeserializeOwned>(&self, method: &str, params: impl Serialize) -> Result<T, Error> {
        self.core.call_json(method, params).await
    }
}

impl Publisher {
    /// Makes a publisher over this client, with its endpoints, its deadline, and its retries.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong, or outside of a tokio runtime.
    pub fn new(client: &Client, config: PublisherConfig) -> Result<Self, Error> {
        Self::over(&client.core, config)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.transport())
            .field("timeout", &self.core.timeout)
            .field("retry", &self.core.retry)
            .field("batching", &self.batcher)
            .finish_non_exhaustive()
    }
}

/// The list of methods, with the documentation that the table gives them.
macro_rules! client_methods {
    ($($(#[$group:meta])* impl { $(
        $(#[$doc:meta])*
        $rpc:ident => $name:ident($request:ident { $($field:ident: $type:ident),* }) -> $reply:ident,
            repeat $repeat:ident $($key:ident)? $(, check $check:ident)?;
    )+ })+) => { $(
        $(#[$group])*
        impl Client { $(
            $(#[$doc])*
            ///
            #[doc = example_of!($name $request { $($field)* })]
            ///
            #[doc = concat!(
                "See the server's page on [", stringify!($name),
                "](https://centrifugal.dev/docs/server/server_api#", stringify!($name), ")."
            )]
            ///
            /// # Errors
            ///
            /// See [`ErrorKind`]: the kinds are the same over every transport.
            pub async fn $name(
                &self,
                request: impl IntoRequest<message::$request>,
            ) -> Result<message::$reply, Error> {
                self.call(request).await
            }
        )+ }
    )+

    // So that no future of a method stops being `Send` unseen.
    #[cfg(test)]
    const _: fn(&Client) = |client| {
        $($( is_send(&client.$name(message::$request::default())); )+)+
    };
    };
}

for_each_method!(client_methods);

#[cfg(test)]
const fn is_send<T: Send>(_: &T) {}
#[cfg(test)]
const fn is_send_and_sync<T: Send + Sync>() {}

#[cfg(test)]
const _: fn(&Client, &Publisher) = |client, publisher| {
    use crate::error::ApiError;

    is_send_and_sync::<(Client, Error, ApiError, Batch, BatchReplies, Publisher, Config, PublisherConfig)>();
    is_send(&client.call(message::InfoRequest::new()));
    is_send(&client.call_json::<()>("info", ()));
    is_send(&client.batch(&Batch::new()));
    is_send(&client.close(Duration::ZERO));
    is_send(&publisher.publish(message::PublishRequest::default()));
    is_send(&publisher.enqueue(message::PublishRequest::default()));
    is_send(&publisher.flush());
    is_send(&publisher.close(Duration::ZERO));
};
