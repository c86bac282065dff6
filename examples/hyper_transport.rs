//! A transport over hyper's pool in the place of reqwest: HTTP/1.1 in clear text. It parses no URL for a call and has no layers
//! that are not used, and so is faster where calls are made one by one.
//!
//! Outcomes are honest: `NotSent` where no connection could be made, `Unknown` where one was. The built-in transport can prove
//! more, because it records when a body is handed to its connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use centrifugo_api::transport::{BoxFuture, Call, Reply, Transport};
use centrifugo_api::{Error, ErrorKind, Method, Outcome};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// The server closes an idle connection after 30 s; a request sent at that moment would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest response that is read.
const MAX_REPLY: usize = 64 << 20;

/// Calls over HTTP with hyper.
#[derive(Debug)]
pub struct HyperTransport {
    endpoint: Arc<str>,
    /// The URI of every method, so that none is parsed for a call.
    uris: Vec<Uri>,
    headers: HeaderMap,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl HyperTransport {
    /// Calls to the API's base URL, like `http://localhost:8000/api`, with its key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the URL or the key cannot be used.
    pub fn new(url: &str, key: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/');
        let uri = |method: &Method| format!("{url}/{}", method.name()).parse();
        let uris = Method::ALL.iter().map(uri).collect::<Result<_, _>>();
        let mut key =
            HeaderValue::from_str(key).map_err(|error| Error::new(ErrorKind::Invalid, "the key").with_source(error))?;
        key.set_sensitive(true);
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json), (HeaderName::from_static("x-api-key"), key)]);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        Ok(Self {
            endpoint: url.into(),
            uris: uris.map_err(|error| Error::new(ErrorKind::Invalid, "the URL").with_source(error))?,
            headers,
            pool: Pool::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build(connector),
        })
    }

    async fn call(&self, call: &Call<'_>) -> Result<Reply, Error> {
        // `uris` has one for each method, in the order of the enum.
        let uri = if let Some(method) = call.known_method() {
            self.uris[method as usize].clone()
        } else {
            let uri = format!("{}/{}", self.endpoint, call.method()).parse();
            uri.map_err(|error: http::uri::InvalidUri| Error::new(ErrorKind::Invalid, "the method").with_source(error))?
        };
        let mut request = Request::post(uri)
            .body(Full::new(call.to_json()?))
            .map_err(|error| Error::new(ErrorKind::Invalid, "the request cannot be sent").with_source(error))?;
        *request.headers_mut() = self.headers.clone();
        let response = self.pool.request(request).await.map_err(|error| {
            let kind = if error.is_connect() { ErrorKind::Connect } else { ErrorKind::Lost };
            let what = if error.is_connect() {
                "no connection could be made"
            } else {
                "the connection ended without a response"
            };
            // hyper's pool repeats a request by itself only if the connection had not begun with it.
            Error::new(kind, what).with_source(error)
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_REPLY).collect().await.map_err(|error| {
            Error::new(ErrorKind::Lost, "the response ended early, or is too long")
                .with_outcome(Outcome::Unknown)
                .with_source(error)
        })?;
        Reply::from_http(status, body.to_bytes())
    }
}

impl Transport for HyperTransport {
    fn name(&self) -> &'static str {
        "hyper"
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.call(call))
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.endpoint))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use centrifugo_api::testing::Server;
    use centrifugo_api::{ApiError, Client, Config, PublishRequest};
    use serde_json::json;

    let server = Server::builder().api_key("sesame").start().await?;
    let config = Config::http(server.http_url());
    let hyper = HyperTransport::new(&server.http_url(), "sesame")?;
    let client = Client::with_transport(hyper).with_config(&config)?;

    let request = PublishRequest::new("news", json!({"text": "hello"}));
    let position = client.publish(&request).await?;
    assert_eq!((position.offset, server.applied("news")), (1, 1));

    let error = client.publish(PublishRequest::new("nowhere:1", json!(1))).await.expect_err("no such namespace");
    assert_eq!((error.code(), error.transport()), (Some(ApiError::UNKNOWN_CHANNEL), Some("hyper")));

    let wrong = HyperTransport::new(&server.http_url(), "wrong")?;
    let error = Client::with_transport(wrong).publish(&request).await.expect_err("the key is wrong");
    assert!(error.is_unauthenticated() && error.http_status() == Some(401), "{error}");

    server.shutdown().await;
    let error = client.publish(&request).await.expect_err("nobody is there");
    assert!(error.is_connect() && error.outcome() == Outcome::NotSent, "{error}");
    Ok(())
}
