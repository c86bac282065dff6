//! The handlers over HTTP.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::header::ALLOW;
use http::{HeaderValue, Request, Response, StatusCode};
use tower_service::Service;

use crate::proxy::answer::{Failed, Form};
use crate::proxy::body::{self, Body, NotRead};
use crate::proxy::caller::Caller;
use crate::proxy::dispatch::{Served, served, within};
use crate::proxy::method::{Method, Proxy};
use crate::sync::BoxFuture;

/// Serves the handlers of a backend over HTTP: a `tower::Service` for axum, hyper and what else takes one.
///
/// The last segment of the path is the handler's [name](Method::name): mounted below `/centrifugo`, `connect` is at
/// `/centrifugo/connect`. With axum: `Router::new().nest_service("/centrifugo", proxy::http(backend))`.
///
/// | what | status |
/// | --- | --- |
/// | a result, an error or a disconnect | 200 |
/// | a request that cannot be read | 400 |
/// | no right [key](Self::key_header) | 401 |
/// | no such handler, or one that is not implemented and whose client would not learn of it | 404 |
/// | another HTTP method than POST | 405 |
/// | a body above the [limit](Self::max_body) | 413 |
/// | a handler that failed or panicked | 500 |
/// | a handler that took [too long](Self::timeout) | 503 |
///
/// Centrifugo treats every status but 200 as an internal error, unless `status_to_code_transforms` is configured.
pub struct Http<P>(Served<P>);

/// Serves the handlers of a backend over HTTP. See [`Http`].
pub fn http<P: Proxy>(backend: P) -> Http<P> {
    Http(Served::new(backend))
}

impl<P: Proxy> Http<P> {
    /// Refuses calls without this key in this header. Given more than once, any of the keys admits, so that a key can be replaced.
    ///
    /// Tell the server to send it (`http.static_headers`, as [`config`](crate::proxy::config()) prints it). A header of a client
    /// that the server passes on replaces the static one of the same name, so this header must be in neither `http_headers` nor
    /// `emulated_headers`: clients could then send keys themselves, though still not guess one.
    ///
    /// Keys are compared in constant time. With an empty key, or a name that no header can have, all calls are refused.
    #[must_use]
    pub fn key_header(mut self, name: impl AsRef<str>, key: impl AsRef<str>) -> Self {
        self.0.add_key(name.as_ref(), key.as_ref());
        self
    }
}

served!(Http, "body");

impl<P, B> Service<Request<B>> for Http<P>
where
    P: Proxy,
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
        let served = self.0.clone();
        Box::pin(async move { Ok(respond(&served, request).await) })
    }
}

async fn respond<P: Proxy, B: http_body::Body>(served: &Served<P>, request: Request<B>) -> Response<Body> {
    let (mut head, content) = request.into_parts();
    if !served.admits(&mut head.headers) {
        return body::text(StatusCode::UNAUTHORIZED, "no right key");
    }
    let name = head.uri.path().rsplit('/').next().unwrap_or_default();
    let Some(method) = Method::from_name(name) else {
        return body::text(StatusCode::NOT_FOUND, "no such handler");
    };
    if head.method != http::Method::POST {
        let mut response = body::text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let call = async {
        let content = match body::read(content, &head.headers, served.max_body).await {
            Ok(content) => content,
            Err(NotRead::TooLong) => return body::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Err(NotRead::Broken) => return body::text(StatusCode::BAD_REQUEST, "the body ended early"),
        };
        match served.call(method, Form::Json, &content, &Caller::of(std::mem::take(&mut head.headers))).await {
            Ok(answer) => body::json(answer),
            Err(Failed::Unreadable(why)) => body::text(StatusCode::BAD_REQUEST, why),
            Err(Failed::NotEnabled) => body::text(StatusCode::NOT_FOUND, format!("{name} is not enabled")),
            Err(Failed::Internal) => body::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        }
    };
    within(served.timeout, call).await.unwrap_or_else(|| {
        tracing::error!(method = method.name(), "a handler that Centrifugo called took too long");
        body::text(StatusCode::SERVICE_UNAVAILABLE, "the handler took too long")
    })
}
