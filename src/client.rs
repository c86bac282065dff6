//! The client: one generic call, and a method for every entry of the table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::Instant;

#[cfg(any(feature = "grpc", feature = "http"))]
use crate::Config;
#[cfg(doc)]
use crate::ErrorKind;
use crate::attempts::Attempts;
use crate::batch::{self, Batch, BatchReplies};
use crate::batching::{Batcher, Batching};
use crate::close::{CloseSummary, Gate};
use crate::idempotency::{self, Key};
use crate::methods::for_each_method;
use crate::request::{AsRequest, Request};
use crate::retry::{Budget, Retry};
use crate::transport::{Body, Call, Reply, ReplyBody, Transport};
#[cfg(any(feature = "grpc", feature = "http"))]
use crate::transport::{balancer::Balancer, balancer::EndpointStatus, breaker::BreakerState, fallback::Route};
use crate::{ApiError, Error, Method, Outcome, message, transport, wire};

/// A client of the server API, over gRPC or over HTTP.
///
/// It has one method for each of the API's, [`call`](Self::call) for code that is generic over them, [`batch`](Self::batch)
/// for many calls in one request, and [`call_json`](Self::call_json) for what this version does not know. Requests are
/// taken by value or by reference.
///
/// A clone shares the connections and costs next to nothing. A client is used in a tokio runtime, or in several, one after
/// another or at once.
///
/// ```no_run
/// use centrifugo_api::{Client, Config, PublishRequest};
/// use serde_json::json;
///
/// # async fn f() -> Result<(), centrifugo_api::Error> {
/// let client = Client::new(Config::grpc("http://localhost:10000").api_key("my key"))?;
/// let position = client.publish(PublishRequest::new("news", json!({"text": "hello"}))).await?;
/// println!("offset {} of epoch {}", position.offset, position.epoch);
/// # Ok(()) }
/// ```
///
/// Dropping the future of a call is safe: other calls on the same connection go on. Whether the dropped one was carried
/// out is then unknown.
///
/// # Panics
///
/// Calls panic, with tokio's own message, in a runtime whose I/O or time is not enabled.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) retry: Arc<Retry>,
    batching: Option<Arc<Batcher>>,
    timeout: Option<Duration>,
    pro: bool,
}

/// What the clones of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) carrier: Carrier,
    /// The longest request over gRPC.
    max_request_size: Option<usize>,
    pub(crate) budget: Budget,
    pub(crate) gate: Gate,
}

/// What carries the calls.
#[derive(Debug)]
pub(crate) enum Carrier {
    #[cfg(any(feature = "grpc", feature = "http"))]
    Route(Arc<Route>),
    Custom(Box<dyn Transport>),
}

impl Carrier {
    /// Sends a call once.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Reply, Error> {
        match self {
            #[cfg(any(feature = "grpc", feature = "http"))]
            Self::Route(route) => Route::send(route, call).await,
            Self::Custom(custom) => custom.send(call).await,
        }
    }

    /// The endpoint that a call was given to.
    #[cfg_attr(not(any(feature = "grpc", feature = "http")), allow(unused_variables, reason = "there is one only"))]
    pub(crate) fn at(&self, place: usize) -> &dyn Transport {
        match self {
            #[cfg(any(feature = "grpc", feature = "http"))]
            Self::Route(route) => route.at(place),
            Self::Custom(custom) => &**custom,
        }
    }

    fn transport(&self) -> &dyn Transport {
        match self {
            #[cfg(any(feature = "grpc", feature = "http"))]
            Self::Route(route) => route,
            Self::Custom(custom) => &**custom,
        }
    }
}

impl Client {
    /// A client for the server that `config` names. It connects with the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong: the text names it.
    #[cfg(any(feature = "grpc", feature = "http"))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a configuration is used up: changing it later would change nothing"
    )]
    pub fn new(config: Config) -> Result<Self, Error> {
        let (carrier, limit) = (Carrier::Route(config.route()?), config.max_grpc_request_size());
        let (timeout, pro, batching) = (config.call_timeout(), config.pro, config.batching);
        let client = Self::over(carrier, limit, Some(timeout), pro, config.retries());
        match batching {
            Some(batching) => client.with_batching(batching),
            None => Ok(client),
        }
    }

    /// A client over a transport of your own: a fake, a recorder, a fault injector. It has no deadline until
    /// [`with_timeout`](Self::with_timeout) sets one, and repeats nothing until [`with_retry`](Self::with_retry) says so.
    pub fn with_transport(transport: impl Transport) -> Self {
        Self::over(Carrier::Custom(Box::new(transport)), None, None, false, Retry::off())
    }

    fn over(
        carrier: Carrier,
        max_request_size: Option<usize>,
        timeout: Option<Duration>,
        pro: bool,
        retry: Retry,
    ) -> Self {
        let shared = Shared { carrier, max_request_size, budget: Budget::new(), gate: Gate::default() };
        Self { shared: Arc::new(shared), retry: Arc::new(retry), batching: None, timeout, pro }
    }

    /// The same client with another deadline for each of its calls.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use centrifugo_api::{Client, InfoRequest};
    /// # async fn f(client: &Client) -> Result<(), centrifugo_api::Error> {
    /// let info = client.with_timeout(Duration::from_millis(200)).info(InfoRequest::new()).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The same client, told whether the server is Centrifugo PRO: see `Config::pro`.
    #[must_use]
    pub fn with_pro(&self, pro: bool) -> Self {
        Self { pro, ..self.clone() }
    }

    /// The same client with other retries for each of its calls. They are paid from the same budget.
    ///
    /// ```no_run
    /// # use centrifugo_api::{Client, PublishRequest, Retry};
    /// # async fn f(client: &Client, request: PublishRequest) -> Result<(), centrifugo_api::Error> {
    /// let position = client.with_retry(Retry::off()).publish(request).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_retry(&self, retry: Retry) -> Self {
        let batching = self.batching.as_deref().map(Batcher::apart);
        Self { retry: Arc::new(retry), batching, ..self.clone() }
    }

    /// The same client, whose calls share requests when there are many: see [`Batching`].
    ///
    /// Every method takes part; a [`batch`](Self::batch) and [`call_json`](Self::call_json) travel as they are. Each call has its
    /// own result, deadline and retries, as without. Calls that share a request are carried out at the same time, in no order,
    /// and the calls of clones share requests, too; those of a client that [`with_retry`](Self::with_retry) made do so among
    /// themselves.
    ///
    /// ```no_run
    /// # use centrifugo_api::{Batching, Client, PublishRequest};
    /// # async fn f(client: &Client) -> Result<(), centrifugo_api::Error> {
    /// let client = client.with_batching(Batching::new())?;
    /// // In many tasks:
    /// client.publish(PublishRequest::new("news", serde_json::json!({"text": "hello"}))).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a setting is wrong.
    pub fn with_batching(&self, batching: Batching) -> Result<Self, Error> {
        batching.check()?;
        Ok(Self { batching: Some(Batcher::new(batching)), ..self.clone() })
    }

    pub(crate) fn without_batching(&self) -> Self {
        Self { batching: None, ..self.clone() }
    }

    /// The transport that carries the calls: over all endpoints, and with the fallback if there is one.
    #[must_use]
    pub fn transport(&self) -> &dyn Transport {
        self.shared.carrier.transport()
    }

    /// The endpoints as they are now, in the order given, those of the fallback last. Empty for a transport of your own.
    ///
    /// ```
    /// # use centrifugo_api::Client;
    /// # fn f(client: &Client) {
    /// for endpoint in client.endpoints().iter().filter(|endpoint| !endpoint.available) {
    ///     eprintln!("{} over {} is left out", endpoint.endpoint, endpoint.transport);
    /// }
    /// # }
    /// ```
    #[cfg(any(feature = "grpc", feature = "http"))]
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        match &self.shared.carrier {
            Carrier::Route(route) => route.balancers().flat_map(Balancer::status).collect(),
            Carrier::Custom(_) => Vec::new(),
        }
    }

    /// Whether calls go over gRPC or over the fallback, now and when it changes. `None` without a
    /// `Config::fallback`.
    ///
    /// ```no_run
    /// # use centrifugo_api::{BreakerState, Client};
    /// # async fn f(client: &Client) {
    /// if let Some(mut state) = client.watch_breaker() {
    ///     println!("calls go over {}", if *state.borrow() == BreakerState::Closed { "gRPC" } else { "HTTP" });
    ///     while state.changed().await.is_ok() {
    ///         println!("the breaker is now {:?}", *state.borrow_and_update());
    ///     }
    /// }
    /// # }
    /// ```
    #[cfg(any(feature = "grpc", feature = "http"))]
    #[must_use]
    pub fn watch_breaker(&self) -> Option<tokio::sync::watch::Receiver<BreakerState>> {
        match &self.shared.carrier {
            Carrier::Route(route) => route.state(),
            Carrier::Custom(_) => None,
        }
    }

    /// Ends this client and all its clones: refuses new calls at once, waits for those that run, and cuts off what is left
    /// after `timeout`. Says how the calls ended.
    ///
    /// It may be called more than once and from several places; each waits as long as it was told to, and all see the same
    /// calls. Nothing needs to be closed: a client that is dropped leaves no task and no connection behind.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn f(client: centrifugo_api::Client) {
    /// let closed = client.close(Duration::from_secs(5)).await;
    /// println!("{} calls done, {} of unknown outcome", closed.done, closed.unknown);
    /// # }
    /// ```
    pub async fn close(&self, timeout: Duration) -> CloseSummary {
        let closed = self.shared.gate.close(timeout).await;
        self.transport().disconnect();
        closed
    }

    /// Makes any call, as code that is generic over requests needs it.
    ///
    /// ```no_run
    /// # use std::time::Instant;
    /// # use centrifugo_api::{AsRequest, Client, Error, Request};
    /// async fn timed<R: AsRequest>(client: &Client, request: R) -> Result<<R::Request as Request>::Reply, Error> {
    ///     let started = Instant::now();
    ///     let result = client.call(request).await;
    ///     println!("{} took {:?}", R::Request::METHOD.name(), started.elapsed());
    ///     result
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]: the kinds are the same over every transport.
    pub async fn call<R: AsRequest>(&self, request: R) -> Result<<R::Request as Request>::Reply, Error> {
        let (method, request) = (R::Request::METHOD, request.as_request());
        self.check(request).map_err(|error| self.at(error, method.name()))?;
        let key = idempotency::key_for(request, self.retry.makes_keys());
        let repeatable = key.is_some() || request.is_repeatable();
        let mut attempts = Attempts::new(self, method.name(), Some(method), repeatable)?;
        let sent = send(self, &mut attempts, request, key).await;
        let mut reply = sent.map_err(|error| error.with_key(key.as_ref()))?;
        // What failed of it is tried again, as the whole would have been.
        while let Some(part) = request.failed_part(&reply, repeatable) {
            if attempts.again(part.error.into()).await.is_err() {
                break;
            }
            let answer = send(self, &mut attempts, &part.request, key).await;
            let failed = answer.is_err();
            R::Request::join(&mut reply, &part.places, answer);
            if failed {
                break;
            }
        }
        attempts.end(Outcome::Done);
        Ok(reply)
    }

    /// Sends many commands in one request, or in several if they are too large for one: over the limit of this client, or
    /// refused for their length by the server or a proxy, which shows them in halves.
    ///
    /// A request is repeated as a whole, if it fails as a whole and no command of it may have been carried out, or all of them
    /// may be twice: see [`Batch::idempotency_keys`], and [`Batch`] for an example. A command that fails is not repeated. All
    /// requests and repeats share the call's deadline. See the server's page on
    /// [batch](https://centrifugal.dev/docs/server/server_api#batch).
    ///
    /// # Errors
    ///
    /// Fails when no request was answered: then no reply is known. What became of a single command is in its reply. If one of
    /// several requests fails, that is the error of each of its commands, and those behind it are not sent, unless the batch
    /// is [parallel](Batch::parallel): theirs is [`ErrorKind::Unavailable`], with [`Outcome::NotSent`].
    pub async fn batch(&self, batch: &Batch) -> Result<BatchReplies, Error> {
        batch.check(self.pro).map_err(|error| self.at(error, Method::Batch.name()))?;
        let all = batch.all();
        let mut attempts = Attempts::new(self, Method::Batch.name(), Some(Method::Batch), all.is_repeatable())?;
        let mut replies = BatchReplies::to(batch);
        let mut waiting = vec![all];
        while let Some(part) = waiting.pop() {
            let sent = match attempts.begin_part(part.is_repeatable()) {
                Ok(()) => attempts.run(&part, |reply| part.read(reply)).await,
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(answers) => {
                    let from = attempts.from();
                    let answers = answers.from(from.name(), from.endpoint()).after(attempts.may_have_run());
                    replies.add(&part, Ok(answers));
                    continue;
                }
                Err(error) => error,
            };
            match part.divide(error) {
                Ok(parts) => waiting.extend(parts),
                Err(error) => {
                    let skipped = Error::after_failed_part(&error);
                    replies.add(&part, Err(error));
                    if !batch.is_parallel() {
                        waiting.drain(..).rev().for_each(|part| replies.add(&part, Err(skipped.echo())));
                    }
                }
            }
        }
        let replies = replies.unless_all_failed();
        attempts.end(replies.as_ref().map_or_else(Error::outcome, BatchReplies::outcome));
        replies
    }

    /// Calls a method by its name, with JSON in and JSON out.
    ///
    /// Over HTTP any method and any field that the server knows; over gRPC those that the schema of this version knows,
    /// and an error before anything is sent for others. `params` and the result may be of any type that serde
    /// understands: [`serde_json::Value`], [`Box<RawValue>`](RawValue), or one of your own.
    ///
    /// ```no_run
    /// # use centrifugo_api::Client;
    /// # use serde_json::{Value, json};
    /// # async fn f(client: &Client) -> Result<(), centrifugo_api::Error> {
    /// let info: Value = client.call_json("info", json!({})).await?;
    /// println!("{} nodes", info["nodes"].as_array().map_or(0, Vec::len));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]: the kinds are the same over every transport.
    pub async fn call_json<T: DeserializeOwned>(&self, method: &str, params: impl Serialize) -> Result<T, Error> {
        let params = batch::check_method_name(method).and_then(|()| {
            serde_json::value::to_raw_value(&params)
                .map_err(|_| Error::invalid("the parameters cannot be written as JSON"))
        });
        let params = params.map_err(|error| self.at(error, method))?;
        let body = RawBody { method, params: &params };
        body.check(self.pro).map_err(|error| self.at(error, method))?;
        let known = Method::from_name(method);
        let mut attempts = Attempts::new(self, method, known, body.is_repeatable())?;
        attempts.run(&body, |reply| body.read(reply)).await
    }

    /// Why a request must not be sent, if so.
    pub(crate) fn check(&self, request: &impl Request) -> Result<(), Error> {
        request.check().or_else(|problem| problem.error(self.pro))
    }

    /// Refuses a request that is too long for gRPC.
    pub(crate) fn check_len(&self, len: usize) -> Result<(), Error> {
        self.shared.max_request_size.map_or(Ok(()), |limit| transport::check_len(transport::Form::Protobuf, len, limit))
    }

    /// When a call that begins now has no more time. A deadline beyond what the clock can say is none.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.timeout.and_then(|timeout| now.checked_add(timeout))
    }

    pub(crate) fn at(&self, error: Error, method: &str) -> Error {
        let transport = self.transport();
        error.at(method.to_owned().into(), transport.name(), transport.endpoint())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.transport())
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .field("batching", &self.batching)
            .finish_non_exhaustive()
    }
}

/// Sends a request, in several if it is too large for one and can be divided.
async fn send<R: Request>(
    client: &Client,
    attempts: &mut Attempts<'_>,
    request: &R,
    key: Option<Key>,
) -> Result<R::Reply, Error> {
    let sent = match &client.batching {
        Some(batching) => batching.call(client, request, key, attempts).await,
        None => attempts.run_typed(request, key).await,
    };
    match sent {
        Ok(reply) => Ok(reply),
        Err(error) => {
            let (parts, tried) = (request.divide(error)?, attempts.tried());
            // Apart, so that the futures of other calls have no room for it.
            let sent = Box::pin(send_parts(attempts, parts, key)).await;
            attempts.have_tried(tried);
            sent
        }
    }
}

/// Sends the parts of a request, the last of them first, each with attempts of its own.
async fn send_parts<R: Request>(
    attempts: &mut Attempts<'_>,
    mut waiting: Vec<R>,
    key: Option<Key>,
) -> Result<R::Reply, Error> {
    let (mut whole, repeatable) = (None, attempts.is_repeatable());
    while let Some(part) = waiting.pop() {
        let sent = match attempts.begin_part(repeatable) {
            Ok(()) => attempts.run_typed(&part, key).await,
            Err(error) => Err(error),
        };
        let answer = match sent {
            Ok(reply) => Ok(reply),
            Err(error) => match part.divide(error) {
                Ok(parts) => {
                    waiting.extend(parts);
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        match &mut whole {
            // The call fails as its first part does.
            None => whole = Some(answer?),
            Some(whole) => R::append(whole, &part, answer),
        }
    }
    Ok(whole.unwrap_or_default())
}

/// A call given as JSON.
struct RawBody<'a> {
    method: &'a str,
    params: &'a RawValue,
}

impl RawBody<'_> {
    /// The checks that a call with its own types makes.
    fn check(&self, pro: bool) -> Result<(), Error> {
        match Method::from_name(self.method) {
            Some(Method::Batch) => batch::check_json(self.params.get(), pro),
            Some(method) => method.check_json(self.params.get().as_bytes()).or_else(|problem| problem.error(pro)),
            None => Ok(()),
        }
    }

    /// Whether it may be carried out twice: if so says what a call with its own types would, and only if it is read in full.
    fn is_repeatable(&self) -> bool {
        match Method::from_name(self.method) {
            Some(Method::Batch) => self.to_batch().is_ok_and(|batch| batch.all().is_repeatable()),
            Some(method) => method.is_repeatable_json(self.params.get().as_bytes()),
            None => false,
        }
    }

    /// A batch given as JSON, for a transport that speaks protobuf.
    fn to_batch(&self) -> Result<Batch, Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Request {
            commands: Option<Vec<std::collections::BTreeMap<String, Box<RawValue>>>>,
            parallel: Option<bool>,
        }
        let request: Request = serde_json::from_str(batch::object(self.params.get())).map_err(|_| {
            Error::invalid("a batch is `commands`, a list of objects with one method each, and `parallel`, a boolean")
        })?;
        let mut batch = Batch::new().parallel(request.parallel.unwrap_or_default());
        for command in request.commands.unwrap_or_default() {
            let mut methods = command.into_iter();
            let (Some((method, params)), None) = (methods.next(), methods.next()) else {
                return Err(Error::invalid("a command of a batch names exactly one method"));
            };
            batch.push_json(&method, params)?;
        }
        Ok(batch)
    }

    /// Reads the result, whichever form it has.
    fn read<T: DeserializeOwned>(&self, reply: Reply) -> Result<T, Error> {
        let is_batch = self.method == Method::Batch.name();
        let result = match reply.body() {
            ReplyBody::Json(body) => {
                let answer = if is_batch { wire::batch_from_json(&body) } else { wire::answer_from_json(&body) };
                match answer {
                    Ok(Ok(result)) => Ok(result),
                    Ok(Err(error)) => return Err(error.into()),
                    Err(malformed) => Err(malformed),
                }
            }
            ReplyBody::Protobuf(body) if is_batch => {
                let batch = self.to_batch()?;
                let all = batch.all();
                let mut replies = BatchReplies::to(&batch);
                replies.add(&all, Ok(all.read(Reply::protobuf(body))?));
                let replies = replies.to_json()?;
                // As text, in which numbers keep their digits. Left out when there is none, as the server does.
                let replies: Vec<&str> = replies.iter().map(|reply| reply.get()).collect();
                let list = format!(r#"{{"replies":[{}]}}"#, replies.join(","));
                wire::from_json(if replies.is_empty() { b"{}" } else { list.as_bytes() })
            }
            ReplyBody::Protobuf(body) => match wire::answer_from_protobuf(&body) {
                Ok(Ok(result)) => batch::result_from_protobuf(self.method, result),
                Ok(Err(error)) => return Err(error.into()),
                Err(malformed) => Err(malformed),
            },
        };
        result.map_err(Error::protocol)
    }
}

impl Body for RawBody<'_> {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        if self.method == Method::Batch.name() {
            return self.to_batch()?.all().to_protobuf();
        }
        batch::from_json(self.method, self.params.get()).map(|(_, request)| request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        Ok(Bytes::copy_from_slice(self.params.get().as_bytes()))
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
            /// ```no_run
            /// # use centrifugo_api::*;
            /// # use serde_json::json;
            /// # async fn f(client: &Client) -> Result<(), Error> {
            #[doc = concat!(
                "let result = client.", stringify!($name), "(", stringify!($request), "::new(",
                $(client_methods!(@example $field $type),)* ")).await?;"
            )]
            /// # Ok(()) }
            /// ```
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
                request: impl AsRequest<Request = message::$request>,
            ) -> Result<message::$reply, Error> {
                self.call(request).await
            }
        )+ }
    )+ };

    (@example $field:ident String) => { concat!("\"", stringify!($field), "\", ") };
    (@example $field:ident Strings) => { concat!("[\"", stringify!($field), "\"], ") };
    (@example $field:ident Payload) => { "json!({\"text\": \"hello\"}), " };
    (@example $field:ident u64) => { "1, " };
    (@example $field:ident $message:ident) => { concat!(stringify!($message), "::default(), ") };
}

for_each_method!(client_methods);

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Client>();
    is_send_and_sync::<Error>();
    is_send_and_sync::<BatchReplies>();
    is_send_and_sync::<ApiError>();
};
