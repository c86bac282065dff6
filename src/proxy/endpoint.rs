//! The endpoints from which client SDKs fetch tokens and signatures, as `tower` services.
//!
//! Each takes a closure that begins with the application's own authentication. It gets the headers of the request, and says who
//! that is or [denies](Denied) it.
//!
//! ```
//! use centrifugo_api::proxy::endpoint::{self, Denied};
//!
//! # async fn user_of(cookie: Option<&str>) -> Option<String> { cookie.map(Into::into) }
//! # fn issue(user: &str) -> Result<String, std::io::Error> { Ok(user.into()) }
//! let service = endpoint::connection_token(|caller| async move {
//!     let user = user_of(caller.header("cookie")).await.ok_or(Denied::unauthorized())?;
//!     Ok(issue(&user)?)
//! });
//! ```
//!
//! Responses are JSON and must not be cached. Mount the services where the site's own requests are authenticated: who can call
//! them gets tokens. A failure other than [`Denied`] is status 500, and logged.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower_service::Service;

use crate::error::BoxError;
use crate::proxy::body::{self, Body, NotRead};
use crate::proxy::caller::Caller;
use crate::proxy::dispatch::{CatchPanic, chain, within};
use crate::sync::BoxFuture;

/// Enough for the names of a few thousand keys.
const MAX_BODY: usize = 64 << 10;

/// About what SDKs wait for a token.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no token: the caller may not have it, or the backend failed.
///
/// Any error of a program becomes a failure with `?`.
pub struct Denied(Why);

enum Why {
    Status(StatusCode),
    Failed(BoxError),
}

impl Denied {
    /// Status 401: it is not known who calls.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self(Why::Status(StatusCode::UNAUTHORIZED))
    }

    /// Status 403: the caller may not have this token. SDKs ask no more, if the application's callback says so to them.
    #[must_use]
    pub fn forbidden() -> Self {
        Self(Why::Status(StatusCode::FORBIDDEN))
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Denied {
    fn from(error: E) -> Self {
        Self(Why::Failed(error.into()))
    }
}

/// Shows no cause: that is only logged.
impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::Status(status) => f.debug_tuple("Denied").field(status).finish(),
            Why::Failed(_) => f.write_str("Failed"),
        }
    }
}

/// The keys of a channel that a client wants to watch: the body of a request for a [signature](shared_poll_signature).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SharedPollKeys {
    /// The channel.
    pub channel: String,
    /// The keys, in the order in which the client will name them to the server.
    pub keys: Vec<String>,
}

#[derive(Deserialize)]
struct Channel {
    channel: String,
}

type Respond = dyn Fn(Caller, Bytes) -> BoxFuture<'static, Result<Vec<u8>, Failed>> + Send + Sync;

enum Failed {
    Denied(Denied),
    Unreadable,
}

impl<E: Into<Denied>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Denied(error.into())
    }
}

/// One endpoint: a `tower::Service`, at whatever path it is mounted.
#[derive(Clone)]
pub struct Endpoint {
    method: http::Method,
    cached: &'static str,
    respond: Arc<Respond>,
}

impl Endpoint {
    fn new<F, Fut>(method: http::Method, cached: &'static str, respond: F) -> Self
    where
        F: Fn(Caller, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<u8>, Failed>> + Send + 'static,
    {
        Self { method, cached, respond: Arc::new(move |caller, body| Box::pin(respond(caller, body))) }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Serves connection tokens: `POST`, the response is `{"token": "…"}`.
///
/// The closure returns the token of the user that the headers belong to.
pub fn connection_token<F, Fut>(issue: F) -> Endpoint
where
    F: Fn(Caller) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Denied>> + Send + 'static,
{
    Endpoint::new(http::Method::POST, "no-store", move |caller, _| {
        let token = issue(caller);
        async move { Ok(json!({ "token": token.await.map_err(Failed::Denied)? }).to_string().into_bytes()) }
    })
}

/// Serves subscription tokens: `POST` with `{"channel": "…"}`, the response is `{"token": "…"}`.
///
/// The closure gets the channel; whether the user may read it is for the application to say.
pub fn subscription_token<F, Fut>(issue: F) -> Endpoint
where
    F: Fn(Caller, String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Denied>> + Send + 'static,
{
    Endpoint::new(http::Method::POST, "no-store", move |caller, body| {
        let token = parse(&body).map(|Channel { channel }| issue(caller, channel));
        async move { Ok(json!({ "token": token?.await.map_err(Failed::Denied)? }).to_string().into_bytes()) }
    })
}

/// Serves signatures for shared polls: `POST` with `{"channel": "…", "keys": ["…"]}`, the response is `{"signature": "…"}`.
///
/// The closure returns the signature for the user of the headers, as the `SharedPollSigner` of the feature `token` makes it.
pub fn shared_poll_signature<F, Fut>(sign: F) -> Endpoint
where
    F: Fn(Caller, SharedPollKeys) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Denied>> + Send + 'static,
{
    Endpoint::new(http::Method::POST, "no-store", move |caller, body| {
        let signature = parse(&body).map(|keys| sign(caller, keys));
        async move { Ok(json!({ "signature": signature?.await.map_err(Failed::Denied)? }).to_string().into_bytes()) }
    })
}

/// Serves the public keys of tokens, for `client.token.jwks_public_endpoint` of the server: `GET`, without authentication.
///
/// The closure returns the set of keys, as it is at that moment.
pub fn jwks<F, T>(keys: F) -> Endpoint
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Serialize,
{
    Endpoint::new(http::Method::GET, "max-age=60", move |_, _| {
        let json = serde_json::to_vec(&keys());
        async move { Ok(json?) }
    })
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body).map_err(|_| Failed::Unreadable)
}

impl<B> Service<Request<B>> for Endpoint
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let endpoint = self.clone();
        Box::pin(async move {
            let response = within(Some(TIMEOUT), endpoint.respond(request)).await;
            Ok(response.unwrap_or_else(|| body::text(StatusCode::SERVICE_UNAVAILABLE, "it took too long")))
        })
    }
}

impl Endpoint {
    async fn respond<B: http_body::Body>(&self, request: Request<B>) -> Response<Body> {
        if request.method() != self.method {
            let mut response = body::text(StatusCode::METHOD_NOT_ALLOWED, format!("only {}", self.method));
            if let Ok(method) = HeaderValue::from_str(self.method.as_str()) {
                response.headers_mut().insert(ALLOW, method);
            }
            return response;
        }
        let (head, content) = request.into_parts();
        let content = match body::read(content, &head.headers, MAX_BODY).await {
            Ok(content) => content,
            Err(NotRead::TooLong) => return body::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Err(NotRead::Broken) => return body::text(StatusCode::BAD_REQUEST, "the body ended early"),
        };
        let call = async { (self.respond)(Caller::of(head.headers), content).await };
        match CatchPanic(pin!(call)).await.unwrap_or_else(|panic| Err(panic.into())) {
            Ok(json) => {
                let mut response = body::json(json.into());
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(self.cached));
                response
            }
            Err(Failed::Unreadable) => body::text(StatusCode::BAD_REQUEST, "not JSON of this request"),
            Err(Failed::Denied(Denied(Why::Status(status)))) => {
                body::text(status, status.canonical_reason().unwrap_or_default())
            }
            Err(Failed::Denied(Denied(Why::Failed(cause)))) => {
                tracing::error!(cause = chain(&*cause), "an endpoint for client SDKs failed");
                body::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            }
        }
    }
}
