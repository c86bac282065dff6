//! Calls of a backend's handlers, as the server makes them: once, within a time, over HTTP or gRPC.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::proxy::{Answer, Method};

/// Where the handlers of a backend are, and how the server calls them.
///
/// ```
/// use centrifugo_api::testing::Handlers;
///
/// let handlers = Handlers::http("http://127.0.0.1:3000/centrifugo").header("x-proxy-key", "key");
/// let handlers = Handlers::grpc("127.0.0.1:3001").header("x-proxy-key", "key");
/// ```
///
/// `Debug` shows no header.
#[derive(Clone)]
#[must_use = "give it to `Builder::handlers`"]
pub struct Handlers {
    endpoint: String,
    grpc: bool,
    headers: Vec<(String, String)>,
    timeout: Duration,
    pub(super) binary: bool,
    pub(super) include_meta: bool,
}

impl Handlers {
    fn new(endpoint: String, grpc: bool) -> Self {
        Self {
            endpoint,
            grpc,
            headers: Vec::new(),
            // The server's default.
            timeout: Duration::from_secs(1),
            binary: false,
            include_meta: false,
        }
    }

    /// Handlers over HTTP: `http://HOST:PORT/PATH`, below which each has its name.
    pub fn http(url: impl Into<String>) -> Self {
        Self::new(url.into(), false)
    }

    /// Handlers over gRPC: `HOST:PORT`, or `grpc://HOST:PORT`.
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        Self::new(endpoint.into(), true)
    }

    /// Sends this header (over gRPC: metadata) with every call, as `static_headers` and `static_metadata` do. A header of the
    /// client with the same name replaces it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets after which time a call is given up. 1 s unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends data in base64 (`binary_encoding`).
    pub fn binary(mut self, binary: bool) -> Self {
        self.binary = binary;
        self
    }

    /// Sends the `meta` of the connection (`include_connection_meta`).
    pub fn include_meta(mut self, include: bool) -> Self {
        self.include_meta = include;
        self
    }

    /// Calls a handler once. The text says why there is no answer.
    pub(super) async fn call<R, T>(
        &self,
        method: Method,
        request: &R,
        of_client: &HeaderMap,
    ) -> Result<Answer<T>, String>
    where
        R: prost::Message + Serialize,
        T: prost::Message + Default + fmt::Debug + Serialize + DeserializeOwned,
    {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| "a header has no valid value".to_owned())?);
        }
        for name in of_client.keys() {
            headers.remove(name);
        }
        headers.extend(of_client.clone());
        let call = async {
            if self.grpc {
                self.call_grpc(method, request.encode_to_vec(), headers).await
            } else {
                let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
                self.call_http(method, body, headers).await
            }
        };
        let answer = tokio::time::timeout(self.timeout, call);
        let answer = answer.await.map_err(|_| format!("no answer within {:?}", self.timeout))??;
        if self.grpc {
            prost::Message::decode(answer).map_err(|error| error.to_string())
        } else {
            serde_json::from_slice(&answer).map_err(|error| format!("not JSON of this answer: {error}"))
        }
    }

    async fn call_http(&self, method: Method, body: Vec<u8>, headers: HeaderMap) -> Result<Bytes, String> {
        let rest = self.endpoint.strip_prefix("http://").ok_or("the stand-in calls only http:// and grpc://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let slash = if path.is_empty() { "" } else { "/" };
        let mut request = Request::post(format!("/{}{slash}{}", path.trim_end_matches('/'), method.name()))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, HeaderValue::try_from(host).map_err(|error| error.to_string())?);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(dial(host).await?))
            .await
            .map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("unexpected HTTP status code: {}", response.status().as_u16()));
        }
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        drop(connection);
        Ok(body.to_bytes())
    }

    async fn call_grpc(&self, method: Method, message: Vec<u8>, headers: HeaderMap) -> Result<Bytes, String> {
        let host = self.endpoint.strip_prefix("grpc://").unwrap_or(&self.endpoint).trim_end_matches('/');
        let path = format!("http://{host}/centrifugal.centrifugo.proxy.CentrifugoProxy/{}", method.grpc_name());
        let length = u32::try_from(message.len()).map_err(|_| "the request is too long".to_owned())?;
        let mut body = BytesMut::with_capacity(5 + message.len());
        body.put_u8(0);
        body.put_u32(length);
        body.put(&message[..]);
        let mut request = Request::post(path).body(Full::new(body.freeze())).map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        let timeout = HeaderValue::try_from(format!("{}m", self.timeout.as_millis().clamp(1, 99_999_999)));
        for (name, value) in [
            ("content-type", HeaderValue::from_static("application/grpc")),
            ("te", HeaderValue::from_static("trailers")),
            ("grpc-timeout", timeout.map_err(|error| error.to_string())?),
        ] {
            request.headers_mut().insert(name, value);
        }
        let io = TokioIo::new(dial(host).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        drop(connection);
        match trailers.get("grpc-status").and_then(|status| status.to_str().ok()) {
            Some("0") => {}
            Some(status) => {
                let message = trailers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
                return Err(format!("gRPC status {status}: {message}"));
            }
            None => return Err(format!("no gRPC response: HTTP status {}", head.status.as_u16())),
        }
        let body = body.to_bytes();
        if body.first() != Some(&0) || body.len() < 5 {
            return Err("no message in the gRPC response".to_owned());
        }
        Ok(body.slice(5..))
    }
}

/// Shows the endpoint only.
impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

async fn dial(host: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(host).await.map_err(|error| format!("{host}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Ends the task of a connection, and so the connection, when it is dropped.
struct Connection(tokio::task::AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
