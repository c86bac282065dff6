//! Clients that know nothing of the crate: what they send and get is what is on the wire.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a response may take, before a test fails rather than waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What came back over HTTP.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends one request over a connection of its own.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Page, BoxError> {
    http_over(connect(address).await?, address, method, path, headers, body.into()).await
}

pub(crate) async fn http_over<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Page, BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(path);
    request = request.header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let exchange = async {
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (head, body) = response.into_parts();
        Ok(Page { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    };
    let page = tokio::time::timeout(PATIENCE, exchange).await?;
    connection.abort();
    page
}

/// What came back over gRPC.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) code: i32,
    pub(crate) message: String,
    /// Both the headers and the trailers.
    pub(crate) metadata: HeaderMap,
    pub(crate) compressed: bool,
    pub(crate) body: Option<Bytes>,
}

/// A connection for gRPC.
pub(crate) struct Grpc(hyper::client::conn::http2::SendRequest<Full<Bytes>>);

impl Grpc {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, BoxError> {
        Self::over(connect(address).await?).await
    }

    pub(crate) async fn over<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: T) -> Result<Self, BoxError> {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Calls a method by its path, without the first slash.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: impl Into<Bytes>,
        gzip: bool,
    ) -> Result<Response, BoxError> {
        let message = message.into();
        let message = if gzip { pack(&message)? } else { message };
        let mut frame = BytesMut::new();
        frame.put_u8(u8::from(gzip));
        frame.put_u32(u32::try_from(message.len())?);
        frame.put(message);
        self.send(path, metadata, frame.freeze(), gzip).await
    }

    /// Sends bytes as they are for the body.
    pub(crate) async fn send(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        body: Bytes,
        gzip: bool,
    ) -> Result<Response, BoxError> {
        let mut request = Request::builder().method(Method::POST).uri(format!("http://localhost/{path}"));
        request = request.header("te", "trailers");
        if !metadata.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        if gzip {
            request = request.header("grpc-encoding", "gzip");
        }
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let exchange = async {
            self.0.ready().await?;
            let response = self.0.send_request(request.body(Full::new(body))?).await?;
            let (head, body) = response.into_parts();
            let collected = body.collect().await?;
            let mut metadata = head.headers;
            metadata.extend(collected.trailers().cloned().unwrap_or_default());
            let body = collected.to_bytes();
            let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let (code, message) = (text("grpc-status").parse()?, percent_decode(text("grpc-message")));
            let compressed = body.first() == Some(&1);
            let body = match body.len() {
                0 => None,
                _ => Some(if compressed { unpack(&body[5..])? } else { body.slice(5..) }),
            };
            Ok(Response { code, message, metadata, compressed, body })
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }
}

fn pack(bytes: &[u8]) -> io::Result<Bytes> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    io::Write::write_all(&mut packed, bytes)?;
    Ok(packed.finish()?.into())
}

fn unpack(bytes: &[u8]) -> io::Result<Bytes> {
    let mut out = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out)?;
    Ok(out.into())
}

fn percent_decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        if let Some(byte) = byte {
            out.push(byte);
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
