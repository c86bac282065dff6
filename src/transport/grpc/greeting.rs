//! The first frame of a connection, which proves that the server speaks HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::config::Protocol;
use crate::error::{BoxError, Error, ErrorKind};
use crate::transport::grpc::driver::Record;
use crate::transport::http_status::Refusal;
use crate::transport::page::{self, Secrets};

/// The header of a frame: its length, type, flags and stream. See RFC 9113, section 4.1.
const HEADER: usize = 9;
const SETTINGS: u8 = 4;

/// Reports whether the first bytes read are an HTTP/2 SETTINGS frame, and records when anything was read.
#[derive(Debug)]
pub(super) struct Greeted<I> {
    io: I,
    record: Arc<Record>,
    seen: Vec<u8>,
    report: Option<oneshot::Sender<Result<(), NoHttp2>>>,
}

/// The server does not speak HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoHttp2 {
    #[cfg(feature = "tls")]
    #[error("the server does not offer HTTP/2 over TLS; is this the port of its gRPC API?")]
    NotOffered,
    /// With the beginning of what it sent instead.
    #[error("the server does not speak HTTP/2; is this the port of its gRPC API? With TLS it needs https://")]
    NotSpoken(Bytes),
}

impl NoHttp2 {
    pub(super) fn error(&self, secrets: &Secrets) -> Error {
        let error = |what: String| Error::new(ErrorKind::Connect, what).no_grpc();
        let said = match self {
            Self::NotSpoken(said) => said,
            #[cfg(feature = "tls")]
            Self::NotOffered => return error(self.to_string()),
        };
        if said.starts_with(&TLS_ALERT) {
            return error(SPEAKS_TLS.to_owned());
        }
        let page = response(said).and_then(|(status, page)| {
            let refusal = Refusal { protocol: Protocol::Grpc, status, headers: &HeaderMap::new(), page };
            let meant = refusal.error(secrets);
            Some((meant.is_wrong_scheme(), meant.page()?.to_owned()))
        });
        match page {
            Some((true, page)) => error(SPEAKS_TLS.to_owned()).with_page(Some(page)),
            Some((false, page)) => {
                error(format!("{self}; it sent the page \"{}\"", page::short(&page))).with_page(Some(page))
            }
            None => error(self.to_string()),
        }
    }
}

/// The first bytes of an alert, which a server for TLS sends to whom does not begin a handshake.
const TLS_ALERT: [u8; 2] = [21, 3];
const SPEAKS_TLS: &str = "this port speaks TLS; give the endpoint as https://";

/// The status and the page of a response in HTTP/1.
fn response(said: &[u8]) -> Option<(StatusCode, &[u8])> {
    let status = StatusCode::from_bytes(said.strip_prefix(b"HTTP/1.")?.get(2..5)?).ok()?;
    let head = said.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((status, &said[head + 4..]))
}

/// The connection ended before there was a first frame.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the server closed the connection without sending anything; is this the port of its gRPC API? With TLS it needs https://"
)]
pub(crate) struct NoGreeting;

impl<I> Greeted<I> {
    pub(super) fn new(io: I, record: Arc<Record>) -> (Self, oneshot::Receiver<Result<(), NoHttp2>>) {
        let (report, greeting) = oneshot::channel();
        (Self { io, record, seen: Vec::new(), report: Some(report) }, greeting)
    }

    fn inspect(&mut self, read: &[u8]) {
        let missing = HEADER.saturating_sub(self.seen.len());
        self.seen.extend_from_slice(&read[..read.len().min(missing)]);
        let greeting = match self.seen[..] {
            [_, _, _, SETTINGS, 0, 0, 0, 0, 0] => Ok(()),
            [_, _, _] | [_, _] | [_] | [] => return,
            // A prefix of the header of a SETTINGS frame.
            [_, _, _, SETTINGS, ref rest @ ..] if rest.len() < HEADER - 4 && rest.iter().all(|byte| *byte == 0) => {
                return;
            }
            // The rest of this read is usually all that it sends.
            _ => Err(NoHttp2::NotSpoken([&self.seen, &read[read.len().min(missing)..]].concat().into())),
        };
        if let Some(report) = self.report.take() {
            // The receiver is gone if the dial has timed out.
            let _ = report.send(greeting);
        }
        self.seen = Vec::new();
    }
}

/// Waits for the first frame.
pub(super) async fn wait(greeting: oneshot::Receiver<Result<(), NoHttp2>>) -> Result<(), BoxError> {
    match greeting.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(NoGreeting.into()),
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Greeted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.record.hear();
            if self.report.is_some() {
                self.inspect(&buffer.filled()[before..]);
            }
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Greeted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greet(parts: &[&[u8]]) -> Option<Result<(), NoHttp2>> {
        let (mut greeted, mut greeting) = Greeted::new((), Arc::new(Record::new()));
        for part in parts {
            greeted.inspect(part);
        }
        greeting.try_recv().ok()
    }

    #[test]
    fn a_settings_frame_is_a_greeting_however_it_is_split() {
        let settings: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 64, 0];
        assert_eq!(greet(&[settings]), Some(Ok(())));
        assert_eq!(greet(&settings.chunks(1).collect::<Vec<_>>()), Some(Ok(())));
        assert_eq!(greet(&[&settings[..8]]), None);
    }

    #[test]
    fn what_the_server_sent_instead_is_told() {
        let told = |said: &'static [u8]| NoHttp2::NotSpoken(said.into()).error(&Secrets::default());
        let go = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        let nginx = b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<html>The plain HTTP request was sent to HTTPS port</html>";
        for said in [&go[..], nginx, b"\x15\x03\x01\0\x02\x02\x46"] {
            let error = told(said);
            assert_eq!(error.message(), SPEAKS_TLS);
            assert!(
                error.is_connect() && error.is_no_grpc() && !error.may_have_run() && !error.is_transient(),
                "{error:?}"
            );
        }
        assert_eq!(told(go).page(), Some("Client sent an HTTP request to an HTTPS server."));
        let other = told(b"HTTP/1.1 403 Forbidden\r\n\r\n<title>Blocked</title>");
        assert!(other.message().ends_with("; it sent the page \"Blocked\""), "{other}");
        for said in
            [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 400", b"HTTP/1.1 999999\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
        {
            assert_eq!(told(said).message(), NoHttp2::NotSpoken(Bytes::new()).to_string());
        }
    }

    #[test]
    fn anything_but_a_settings_frame_is_not_http2() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"SSH-2.0-",
            &[0, 0, 8, 6, 0],
            &[0, 0, 0, 4, 1],
            &[0, 0, 0, 4, 0, 0, 0, 0, 3],
        ] {
            assert_eq!(greet(&[bytes]), Some(Err(NoHttp2::NotSpoken(bytes.into()))), "{bytes:?}");
            let split = greet(&bytes.chunks(1).collect::<Vec<_>>());
            assert!(matches!(split, Some(Err(NoHttp2::NotSpoken(_)))), "{bytes:?}");
        }
    }
}
