//! Who sends requests over pooled connections: reqwest, and over TLS the client of hyper that reqwest is built on.
//!
//! reqwest's own TLS is a feature of reqwest. Turned on here it would be on in the whole program, where a `reqwest::Client::new()`
//! for clear text would then panic without a provider of cryptography, or without roots.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use url::Url;

use crate::config::{self, Common};
use crate::error::{BoxError, Error, causes};
use crate::transport::http::TrackedBody;
#[cfg(feature = "tls")]
use crate::transport::http::https::{self, Https};
use crate::transport::net::names::Names;

/// How many headers a response may have: hyper's default, of which it does not count the space anew for each response.
pub(super) const FEW_HEADERS: usize = 100;
/// The limit after a response with more. It costs a twentieth of the CPU of a publish.
pub(super) const MANY_HEADERS: usize = 1_000;
/// TCP keepalive.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the kernel waits for sent data to be acknowledged.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends requests, with the connections of one runtime. A clone shares them.
#[derive(Clone)]
pub(super) enum Pool {
    Reqwest(reqwest::Client),
    #[cfg(feature = "tls")]
    Https(Box<https::Client>),
}

/// How pools are made: the application has given a client, or one is made for each runtime.
pub(super) enum Source {
    Given(reqwest::Client),
    Clear {
        names: Names,
        connect_timeout: Duration,
        idle_timeout: Duration,
        max_connections: usize,
    },
    #[cfg(feature = "tls")]
    Https {
        connector: Https,
        idle_timeout: Duration,
        max_connections: usize,
    },
}

/// Where a method is called.
#[derive(Clone)]
pub(super) struct Target {
    url: Url,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "reqwest takes the URL"))]
    uri: Uri,
}

impl Target {
    pub(super) fn new(base: &Url, method: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid("the endpoint and the method do not form a URL");
        let url = base.join(method).map_err(|_| wrong())?;
        let uri = url.as_str().parse().map_err(|_| wrong())?;
        Ok(Self { url, uri })
    }
}

impl Source {
    #[cfg_attr(not(feature = "tls"), allow(clippy::unnecessary_wraps, reason = "only TLS can be set up wrongly"))]
    pub(super) fn new(common: &Common, settings: &config::Http, names: &Names, base: &Url) -> Result<Self, Error> {
        if let Some(client) = &settings.client {
            return Ok(Self::Given(client.clone()));
        }
        let config::Http { idle_timeout, max_connections, .. } = *settings;
        #[cfg(feature = "tls")]
        if base.scheme() == "https" {
            let connector = Https::new(common, names.clone(), base)?;
            return Ok(Self::Https { connector, idle_timeout, max_connections });
        } else if !common.tls.is_default() {
            return Err(Error::invalid("`tls` is set and the endpoint is http://, so that nothing would be encrypted"));
        }
        let _ = base;
        Ok(Self::Clear { names: names.clone(), connect_timeout: common.connect_timeout, idle_timeout, max_connections })
    }

    pub(super) fn is_ours(&self) -> bool {
        !matches!(self, Self::Given(_))
    }

    /// Makes a pool whose responses may have this many headers, if the client is not given.
    pub(super) fn get(&self, max_headers: usize) -> Result<Pool, Error> {
        match self {
            Self::Given(client) => Ok(Pool::Reqwest(client.clone())),
            Self::Clear { names, connect_timeout, idle_timeout, max_connections } => {
                let made = reqwest::Client::builder()
                    .dns_resolver(names.clone())
                    .redirect(reqwest::redirect::Policy::none())
                    .retry(reqwest::retry::never())
                    .referer(false)
                    .no_proxy()
                    .tcp_nodelay(true)
                    .tcp_keepalive(TCP_KEEPALIVE)
                    .connect_timeout(*connect_timeout)
                    .pool_idle_timeout(*idle_timeout)
                    .pool_max_idle_per_host(*max_connections);
                #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
                let made = made.tcp_user_timeout(TCP_USER_TIMEOUT);
                let made = if max_headers > FEW_HEADERS { made.http1_max_headers(max_headers) } else { made };
                let made = made.build();
                Ok(Pool::Reqwest(
                    made.map_err(|error| Error::invalid("no HTTP client could be made").with_source(error))?,
                ))
            }
            #[cfg(feature = "tls")]
            Self::Https { connector, idle_timeout, max_connections } => {
                Ok(Pool::Https(Box::new(connector.client(*idle_timeout, *max_connections, max_headers))))
            }
        }
    }
}

impl Pool {
    /// Posts a body.
    pub(super) async fn post(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: TrackedBody,
    ) -> Result<Response, Failure> {
        match self {
            Self::Reqwest(client) => {
                let mut request = reqwest::Request::new(http::Method::POST, target.url.clone());
                *request.headers_mut() = headers;
                *request.body_mut() = Some(reqwest::Body::wrap(body));
                client.execute(request).await.map(Response::Reqwest).map_err(Failure::of_reqwest)
            }
            #[cfg(feature = "tls")]
            Self::Https(client) => {
                let mut request = http::Request::new(body);
                (*request.method_mut(), *request.uri_mut()) = (http::Method::POST, target.uri.clone());
                *request.headers_mut() = headers;
                client.request(request).await.map(Response::Https).map_err(Failure::of_hyper)
            }
        }
    }
}

/// A response whose body is not read yet.
pub(super) enum Response {
    Reqwest(reqwest::Response),
    #[cfg(feature = "tls")]
    Https(http::Response<hyper::body::Incoming>),
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Reqwest(response) => response.status(),
            #[cfg(feature = "tls")]
            Self::Https(response) => response.status(),
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Reqwest(response) => response.headers(),
            #[cfg(feature = "tls")]
            Self::Https(response) => response.headers(),
        }
    }

    /// The length of the body, if it is announced.
    pub(super) fn content_length(&self) -> Option<u64> {
        match self {
            Self::Reqwest(response) => response.content_length(),
            #[cfg(feature = "tls")]
            Self::Https(response) => http_body::Body::size_hint(response.body()).exact(),
        }
    }

    /// The next part of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Reqwest(response) => response.chunk().await.map_err(Failure::of_reqwest),
            #[cfg(feature = "tls")]
            Self::Https(response) => https::chunk(response.body_mut()).await.map_err(Failure::of_chunk),
        }
    }
}

/// Why a request has no response.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) is_connect: bool,
    pub(super) is_timeout: bool,
    pub(super) source: BoxError,
}

impl Failure {
    /// Whether the response had more or longer headers than hyper reads.
    pub(super) fn is_of_headers(&self) -> bool {
        // hyper tells it only to servers, but for its text.
        let source: &(dyn std::error::Error + 'static) = &*self.source;
        let mut of_hyper =
            std::iter::once(source).chain(causes(source)).filter_map(<dyn std::error::Error>::downcast_ref);
        of_hyper.any(|error: &hyper::Error| error.is_parse() && error.to_string().contains("too large"))
    }

    pub(super) fn of_reqwest(error: reqwest::Error) -> Self {
        // Our own error has the endpoint already.
        let error = error.without_url();
        Self { is_connect: error.is_connect(), is_timeout: error.is_timeout(), source: error.into() }
    }

    #[cfg(feature = "tls")]
    fn of_hyper(error: hyper_util::client::legacy::Error) -> Self {
        Self { is_connect: error.is_connect(), is_timeout: false, source: error.into() }
    }

    #[cfg(feature = "tls")]
    fn of_chunk(error: hyper::Error) -> Self {
        Self { is_connect: false, is_timeout: false, source: error.into() }
    }
}
