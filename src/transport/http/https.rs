//! HTTP over TLS: hyper's client, with connections that are dialled as those of gRPC are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower_service::Service;
use url::Url;

use crate::config::Common;
use crate::error::{BoxError, Error};
use crate::sync::BoxFuture;
use crate::transport::http::TrackedBody;
use crate::transport::http::pool::FEW_HEADERS;
use crate::transport::net::dial::Dial;
use crate::transport::net::names::Names;

/// The keepalive interval and timeout of HTTP/2. There all calls share one connection, and a dead one would fail them until the
/// kernel's timeout. Centrifugo does not limit pings over HTTP.
const HTTP2_KEEPALIVE: Duration = Duration::from_secs(5);

pub(super) type Client = legacy::Client<Https, TrackedBody>;

/// Dials one host over TLS.
#[derive(Clone, Debug)]
pub(super) struct Https(Arc<Dial>);

impl Https {
    pub(super) fn new(common: &Common, names: Names, base: &Url) -> Result<Self, Error> {
        let origin: Uri = base.as_str().parse().map_err(|_| Error::invalid("the endpoint is not a URI"))?;
        Ok(Self(Arc::new(Dial::new(&origin, names, common, &[b"h2", b"http/1.1"])?)))
    }

    pub(super) fn client(&self, idle_timeout: Duration, max_idle: usize, max_headers: usize) -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        if max_headers > FEW_HEADERS {
            builder.http1_max_headers(max_headers);
        }
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle_timeout)
            .pool_max_idle_per_host(max_idle)
            .http2_keep_alive_interval(HTTP2_KEEPALIVE)
            .http2_keep_alive_timeout(HTTP2_KEEPALIVE)
            .build(self.clone())
    }

    async fn connect(self) -> Result<Stream, BoxError> {
        let dial = &self.0;
        let connect = |address| {
            let dial = Arc::clone(dial);
            async move {
                let tcp = dial.tcp(address).await?;
                let tls = dial.tls().ok_or("the endpoint is not https")?;
                Ok(Stream(TokioIo::new(tls.connect(tcp).await?)))
            }
        };
        dial.in_time(dial.race(connect)).await?
    }
}

impl Service<Uri> for Https {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection, of which hyper asks whether it speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let is_http2 = self.0.inner().get_ref().1.alpn_protocol() == Some(b"h2");
        if is_http2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The next part of a body.
pub(super) async fn chunk(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.transpose()? {
            None => return Ok(None),
            // Others are trailers.
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
