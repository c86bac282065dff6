//! Calls over HTTP, with reqwest.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use url::Url;

use crate::api::method::Method;
use crate::config::{self, Common, TokenSource};
use crate::error::{Error, ErrorKind, Form, Outcome, causes};
use crate::sync::BoxFuture;
use crate::sync::per_runtime::PerRuntime;
use crate::transport::call::Call;
use crate::transport::handover::Handover;
use crate::transport::net::headers;
use crate::transport::net::names::Names;
use crate::transport::{Transport, check_len, http_status};
use crate::wire::reply::Reply;

/// The most idle connections kept. With fewer than there are concurrent callers, connections are closed and reopened constantly.
const MAX_IDLE: usize = 1024;
/// TCP keepalive.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// The keepalive interval and timeout of HTTP/2, used over TLS. There all calls share one connection, and a dead one would fail them
/// until the kernel's timeout. Centrifugo does not limit pings over HTTP.
const HTTP2_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long the kernel waits for sent data to be acknowledged.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// The server closes a connection 10 s after it has read a request's head, whatever the caller's deadline.
const RESPONSE_LIMIT: Duration = Duration::from_secs(9);
/// The timeout for reading an error page.
const ERROR_PAGE: Duration = Duration::from_secs(1);
/// The longest error page that is read. The server's own are a line or two.
const MAX_ERROR_PAGE: usize = 64 * 1024;

/// The reqwest implementation of [`Transport`].
pub(crate) struct Http {
    endpoint: Arc<str>,
    names: Names,
    /// Each with the generation of the names that it was made with.
    clients: PerRuntime<(u64, reqwest::Client)>,
    client: ClientSource,
    /// The URL of every method of the schema, parsed once.
    urls: Vec<Url>,
    base: Url,
    headers: HeaderMap,
    token: Option<TokenSource>,
    max_request_size: usize,
    max_reply_size: usize,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Http {
    pub(crate) fn new(config: &Common, settings: &config::Http, url: &Url) -> Result<Self, Error> {
        let mut base = url.clone();
        // Without a slash at the end, `Url::join` would replace the last part of the path.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = headers::headers(config)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A given client has its own resolver.
        let ours = settings.client.is_none();
        let names = if ours { Names::new(url, config.resolver.clone()) } else { Names::unknown() };
        let client = ClientSource::new(config, settings, &names, base.scheme() == "https")?;
        // Built once here, so that errors are returned here.
        client.get()?;
        Ok(Self {
            endpoint: base.as_str().trim_end_matches('/').into(),
            names,
            clients: PerRuntime::new(),
            client,
            urls: Method::ALL.iter().map(|method| join(&base, method.name())).collect::<Result<_, _>>()?,
            base,
            headers,
            token: config.bearer_token.clone(),
            max_request_size: config.max_request_size.unwrap_or(usize::MAX),
            max_reply_size: config.max_reply_size,
        })
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, Error> {
        match call.known_method() {
            // `urls` has one for each method, in the order of the enum.
            Some(method) => Ok(self.urls[method as usize].clone()),
            None => join(&self.base, call.method()),
        }
    }

    async fn call(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let handover = call.handover().track();
        let body = call.to_json()?;
        check_len(Form::Json, body.len(), self.max_request_size)?;
        let mut request = reqwest::Request::new(http::Method::POST, self.url(call)?);
        *request.headers_mut() = self.headers.clone();
        if let Some(source) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, headers::bearer(source).await?);
        }
        let body = TrackedBody { body: Some(body), handover: handover.clone() };
        *request.body_mut() = Some(reqwest::Body::wrap(body));

        let failed = |error: reqwest::Error| error_of(error, &handover);
        let generation = self.names.generation();
        let make = || self.client.get().map(|client| (generation, client));
        let (_, client) = self.clients.get(|(of, _)| *of >= generation, make)?;
        let mut response = client.execute(request).await.map_err(failed)?;
        let status = response.status();
        if status != StatusCode::OK {
            let headers = response.headers().clone();
            // The status alone is enough if the page cannot be read. Boxed to keep the futures of other calls small.
            let page = Box::pin(tokio::time::timeout(ERROR_PAGE, read(&mut response, MAX_ERROR_PAGE))).await;
            let page = page.ok().and_then(Result::ok).flatten().unwrap_or_default();
            return Err(call.handover().judge(http_status::of_http_status(status, &headers, &page)));
        }
        let limit = self.max_reply_size;
        let announced = response.content_length().is_some_and(|length| length > limit as u64);
        // The server has received the call, however the response ends.
        let truncated = |error| truncated(error, call.handover());
        let body = if announced { None } else { read(&mut response, limit).await.map_err(truncated)? };
        body.map(Reply::json).ok_or_else(|| {
            let what = format!("the reply is over `max_reply_size`, {limit} bytes");
            Error::new(ErrorKind::TooLarge, what).with_outcome(Outcome::Unknown)
        })
    }
}

impl Transport for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.endpoint))
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        call.limit_response(RESPONSE_LIMIT);
        Box::pin(self.call(call))
    }

    fn disconnect(&self) {
        self.names.next_generation();
        self.clients.clear();
    }
}

fn join(base: &Url, method: &str) -> Result<Url, Error> {
    base.join(method).map_err(|_| Error::invalid("the endpoint and the method do not form a URL"))
}

/// The source of clients: one made for each runtime, or the one that the application gave.
enum ClientSource {
    Given(reqwest::Client),
    Made {
        names: Names,
        connect_timeout: Duration,
        idle_timeout: Duration,
        #[cfg(feature = "tls")]
        tls: Box<rustls::ClientConfig>,
    },
}

impl ClientSource {
    #[cfg_attr(not(feature = "tls"), allow(clippy::unnecessary_wraps, reason = "only TLS can be set up wrongly"))]
    fn new(config: &Common, settings: &config::Http, names: &Names, https: bool) -> Result<Self, Error> {
        if let Some(client) = &settings.client {
            return Ok(Self::Given(client.clone()));
        }
        #[cfg(feature = "tls")]
        let tls = if https {
            config.tls.build(&[b"h2", b"http/1.1"])?
        } else if config.tls.is_default() {
            // Unused for http://, but without it reqwest reads the system's roots.
            config::tls::Tls::unused()?
        } else {
            return Err(Error::invalid("`tls` is set and the endpoint is http://, so that nothing would be encrypted"));
        };
        let _ = https;
        Ok(Self::Made {
            names: names.clone(),
            connect_timeout: config.connect_timeout,
            idle_timeout: settings.idle_timeout,
            #[cfg(feature = "tls")]
            tls: Box::new(tls),
        })
    }

    fn get(&self) -> Result<reqwest::Client, Error> {
        let made = match self {
            Self::Given(client) => return Ok(client.clone()),
            Self::Made { names, connect_timeout, idle_timeout, .. } => reqwest::Client::builder()
                .dns_resolver(names.clone())
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .tcp_nodelay(true)
                .tcp_keepalive(TCP_KEEPALIVE)
                .http2_keep_alive_interval(HTTP2_KEEPALIVE)
                .http2_keep_alive_timeout(HTTP2_KEEPALIVE)
                .connect_timeout(*connect_timeout)
                .pool_idle_timeout(*idle_timeout)
                .pool_max_idle_per_host(MAX_IDLE),
        };
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let made = made.tcp_user_timeout(TCP_USER_TIMEOUT);
        #[cfg(feature = "tls")]
        let made = match self {
            Self::Made { tls, .. } => made.tls_backend_preconfigured(rustls::ClientConfig::clone(tls)),
            Self::Given(_) => made,
        };
        made.build().map_err(|error| Error::invalid("no HTTP client could be made").with_source(error))
    }
}

/// Reads the whole body, or returns `None` if it is longer than `limit`.
async fn read(response: &mut reqwest::Response, limit: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let Some(first) = response.chunk().await? else { return Ok(Some(Bytes::new())) };
    let Some(second) = response.chunk().await? else { return Ok((first.len() <= limit).then_some(first)) };
    let mut body = BytesMut::from(first);
    body.extend_from_slice(&second);
    while body.len() <= limit {
        match response.chunk().await? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => return Ok(Some(body.freeze())),
        }
    }
    Ok(None)
}

/// A request's body that records when it is handed to the connection.
struct TrackedBody {
    body: Option<Bytes>,
    handover: Handover,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = Revoked;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Revoked>>> {
        if self.body.is_some() && !self.handover.take() {
            return Poll::Ready(Some(Err(Revoked)));
        }
        Poll::Ready(self.body.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}

/// The call ended before its body was sent.
#[derive(Debug, thiserror::Error)]
#[error("the call ended before it was sent")]
struct Revoked;

/// The error of a response that ends early.
fn truncated(error: reqwest::Error, handover: &Handover) -> Error {
    let lost = Error::new(ErrorKind::Lost, "the connection ended before the end of the response");
    handover.judge(if error.is_timeout() { error_of(error, handover) } else { lost.with_source(error.without_url()) })
}

/// The error of a failed exchange. The rules are the table in `docs/errors.md`.
fn error_of(error: reqwest::Error, handover: &Handover) -> Error {
    // Our own error has the endpoint already.
    let error = error.without_url();
    if error.is_connect() {
        let connect = Error::new(ErrorKind::Connect, "no connection could be made");
        return http_status::judge_trust(connect, &error).with_source(error);
    }
    if error.is_timeout() {
        // From a given client; the crate's own sets only a connect timeout.
        let timeout = Error::new(ErrorKind::Timeout, "the timeout of the `reqwest_client` passed");
        return handover.judge(timeout.with_source(error));
    }
    let parse = causes(&error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse);
    let failed = if handover.revoke() {
        let what = "the connection ended before the request was sent; is this the port of the server's HTTP API?";
        Error::new(ErrorKind::Lost, what).with_outcome(Outcome::NotSent)
    } else if causes(&error).any(http_status::never_processed) {
        handover.undo();
        Error::new(ErrorKind::Lost, "the connection ended without a response").with_outcome(Outcome::NotSent)
    } else if parse {
        Error::protocol("the response is not HTTP; is this the port of the server's HTTP API?")
    } else {
        Error::new(ErrorKind::Lost, "the connection ended without a response")
    };
    failed.with_source(error)
}

#[cfg(test)]
#[cfg(feature = "tls")]
mod tests;
