//! Calls over HTTP.

#[cfg(feature = "tls")]
mod https;
mod pool;

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use url::Url;

use crate::api::method::Method;
use crate::config::{self, Common, Protocol, TokenSource};
use crate::error::{Error, ErrorKind, Form, Outcome, causes};
use crate::sync::BoxFuture;
use crate::sync::per_runtime::PerRuntime;
use crate::transport::call::Call;
use crate::transport::handover::Handover;
use crate::transport::http::pool::{FEW_HEADERS, Failure, MANY_HEADERS, Pool, Response, Source, Target};
use crate::transport::http_status::Refusal;
use crate::transport::net::headers;
use crate::transport::net::limit::Limit;
use crate::transport::net::memory::{Held, OutOfMemory, ReplyMemory};
use crate::transport::net::names::Names;
use crate::transport::page::Secrets;
use crate::transport::{Transport, check_len, http_status};
use crate::wire::reply::Reply;

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
    pools: PerRuntime<(u64, Pool)>,
    source: Source,
    /// How many headers a response may have.
    max_headers: AtomicUsize,
    /// The requests in flight, each of which uses a connection.
    in_flight: Limit,
    memory: ReplyMemory,
    /// The URL of every method of the schema, parsed once.
    targets: Vec<Target>,
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
    pub(crate) fn new(config: &Common, settings: &config::Http, url: &Url, memory: ReplyMemory) -> Result<Self, Error> {
        if settings.max_connections == 0 {
            return Err(Error::invalid("`max_connections` is 0, so that no call could be sent"));
        }
        let mut base = url.clone();
        // Without a slash at the end, `Url::join` would replace the last part of the path.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = headers::headers(config)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Some proxies compress for whoever does not say this.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        // A clone then need not grow for those that are added to each request.
        headers.reserve(8);
        // A given client has its own resolver.
        let ours = settings.client.is_none();
        let names = if ours { Names::new(url, config.resolver.clone()) } else { Names::unknown() };
        let source = Source::new(config, settings, &names, &base)?;
        // Made once here, so that errors are returned here.
        source.get(FEW_HEADERS)?;
        Ok(Self {
            endpoint: base.as_str().trim_end_matches('/').into(),
            names,
            pools: PerRuntime::new(),
            source,
            max_headers: FEW_HEADERS.into(),
            in_flight: Limit::new(settings.max_connections),
            memory,
            targets: Method::ALL.iter().map(|method| Target::new(&base, method.name())).collect::<Result<_, _>>()?,
            base,
            headers,
            token: config.bearer_token.clone(),
            max_request_size: config.max_request_size.unwrap_or(usize::MAX),
            max_reply_size: config.max_reply_size,
        })
    }

    /// The error of a response with too many headers. The next may have more.
    fn over_headers(&self, failure: Failure, limit: usize) -> Error {
        if !self.source.is_ours() {
            let what = "the headers of the response are over the limit of the `reqwest_client`";
            return Error::protocol(what).with_source(failure.source);
        }
        let what = format!("the headers of the response are over the limit: {limit} of them, or 400 KiB");
        let error = Error::protocol(what).with_source(failure.source);
        if limit == MANY_HEADERS {
            return error;
        }
        self.max_headers.store(MANY_HEADERS, Ordering::Relaxed);
        self.pools.clear();
        error.remedied()
    }

    fn target(&self, call: &Call<'_>) -> Result<Cow<'_, Target>, Error> {
        match call.known_method() {
            // There is one for each method, in the order of the enum.
            Some(method) => Ok(Cow::Borrowed(&self.targets[method as usize])),
            None => Target::new(&self.base, call.method()).map(Cow::Owned),
        }
    }

    /// Sends a call as soon as a connection may be used for it.
    async fn call(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let mut handover = call.handover().track();
        let body = call.to_json()?;
        check_len(Form::Json, body.len(), self.max_request_size)?;
        loop {
            let permit = if let Some(permit) = self.in_flight.try_acquire() {
                permit
            } else {
                let permit = self.in_flight.acquire().await;
                call.limit_response(call.began().elapsed() + RESPONSE_LIMIT);
                permit
            };
            match self.exchange(call, body.clone(), &handover).await {
                // Others may get on with the connections that there are; so may this call, once one is free.
                Err(error) if error.is_local() && permit.lower() => handover = call.handover().track(),
                sent => return sent,
            }
        }
    }

    async fn exchange(&self, call: &Call<'_>, body: Bytes, handover: &Handover) -> Result<Reply, Error> {
        let mut headers = self.headers.clone();
        let token = match &self.token {
            Some(source) => Some(headers::bearer(source).await?),
            None => None,
        };
        headers.extend(token.clone().map(|token| (AUTHORIZATION, token)));
        let body = TrackedBody { body: Some(body), handover: handover.clone() };
        let generation = self.names.generation();
        let max_headers = self.max_headers.load(Ordering::Relaxed);
        let make = || self.source.get(max_headers).map(|pool| (generation, pool));
        let (_, pool) = self.pools.get(|(of, _)| *of >= generation, make)?;
        let target = self.target(call)?;
        let sent = pool.post(&target, headers, body).await;
        let mut response = sent.map_err(|failure| {
            if failure.is_of_headers() { self.over_headers(failure, max_headers) } else { error_of(failure, handover) }
        })?;
        call.set_responding();
        let status = response.status();
        if status != StatusCode::OK {
            let headers = response.headers().clone();
            // The status alone is enough if the page cannot be read. Boxed to keep the futures of other calls small.
            let mut held = self.memory.hold();
            let read = read(&mut response, MAX_ERROR_PAGE, &mut held);
            let page = Box::pin(tokio::time::timeout(ERROR_PAGE, read)).await;
            let page = page.ok().and_then(Result::ok).flatten().unwrap_or_default();
            let refusal = Refusal { protocol: Protocol::Http, status, headers: &headers, page: &page };
            return Err(call.handover().judge(refusal.error(&Secrets::of(&self.headers, token.as_ref()))));
        }
        if let Some(encoding) = http_status::content_encoding(response.headers()) {
            let what = format!("the response has the `content-encoding` {encoding}, which was not asked for");
            return Err(Error::protocol(what));
        }
        let limit = self.max_reply_size;
        let announced = response.content_length().is_some_and(|length| length > limit as u64);
        // The server has received the call, however the response ends.
        let truncated = |error| match error {
            Unread::Lost(error) => truncated(error, call.handover()),
            Unread::OutOfMemory(error) => error.into(),
        };
        let mut held = self.memory.hold();
        let body = if announced { None } else { read(&mut response, limit, &mut held).await.map_err(truncated)? };
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
        self.pools.clear();
    }
}

/// Why a body is not read to its end.
enum Unread {
    Lost(Failure),
    OutOfMemory(OutOfMemory),
}

/// Reads the whole body, or returns `None` if it is longer than `limit`.
async fn read(response: &mut Response, limit: usize, held: &mut Held) -> Result<Option<Bytes>, Unread> {
    let Some(first) = response.chunk().await.map_err(Unread::Lost)? else { return Ok(Some(Bytes::new())) };
    let Some(second) = response.chunk().await.map_err(Unread::Lost)? else {
        return Ok((first.len() <= limit).then_some(first));
    };
    let mut body = BytesMut::from(first);
    body.extend_from_slice(&second);
    held.grow(body.len()).map_err(Unread::OutOfMemory)?;
    while body.len() <= limit {
        match response.chunk().await.map_err(Unread::Lost)? {
            Some(chunk) => {
                held.grow(chunk.len()).map_err(Unread::OutOfMemory)?;
                body.extend_from_slice(&chunk);
            }
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
fn truncated(failure: Failure, handover: &Handover) -> Error {
    let lost = Error::new(ErrorKind::Lost, "the connection ended before the end of the response");
    handover.judge(if failure.is_timeout { error_of(failure, handover) } else { lost.with_source(failure.source) })
}

/// The error of a failed exchange. The rules are the table in `docs/errors.md`.
fn error_of(failure: Failure, handover: &Handover) -> Error {
    let Failure { is_connect, is_timeout, source: error } = failure;
    if is_connect {
        let connect = Error::new(ErrorKind::Connect, "no connection could be made");
        return http_status::judge_connect(connect, &*error).with_source(error);
    }
    if is_timeout {
        // From a given client; the crate's own sets only a connect timeout.
        let timeout = Error::new(ErrorKind::Timeout, "the timeout of the `reqwest_client` passed");
        return handover.judge(timeout.with_source(error));
    }
    let of_hyper = || chain(&*error).filter_map(|cause| cause.downcast_ref::<hyper::Error>());
    let parse = of_hyper().any(hyper::Error::is_parse);
    // The task of the connection was dropped with its runtime.
    let is_local = of_hyper().any(hyper::Error::is_user);
    let failed = if handover.revoke() {
        let what = "the connection ended before the request was sent; is this the port of the server's HTTP API?";
        Error::new(ErrorKind::Lost, what).with_outcome(Outcome::NotSent)
    } else if chain(&*error).any(http_status::never_processed) {
        handover.undo();
        Error::new(ErrorKind::Lost, "the connection ended without a response").with_outcome(Outcome::NotSent)
    } else if parse {
        Error::protocol(
            "the response is not HTTP; is this the port of the server's HTTP API, and does it not speak TLS?",
        )
    } else {
        Error::new(ErrorKind::Lost, "the connection ended without a response")
    };
    let failed = if is_local { failed.local() } else { failed };
    failed.with_source(error)
}

/// The error and its causes.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::once(error).chain(causes(error))
}

#[cfg(test)]
mod tests;
