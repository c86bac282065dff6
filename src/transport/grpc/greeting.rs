//! The first frame of a connection, which proves that the server speaks HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::error::BoxError;
use crate::transport::grpc::driver::Record;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoHttp2 {
    #[cfg(feature = "tls")]
    #[error("the server does not offer HTTP/2 over TLS; is this the port of its gRPC API?")]
    NotOffered,
    #[error("the server does not speak HTTP/2; is this the port of its gRPC API?")]
    NotSpoken,
}

/// The connection ended before there was a first frame.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server closed the connection without sending anything; is this the port of its gRPC API?")]
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
            _ => Err(NoHttp2::NotSpoken),
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
    fn anything_but_a_settings_frame_is_not_http2() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"SSH-2.0-",
            &[0, 0, 8, 6, 0],
            &[0, 0, 0, 4, 1],
            &[0, 0, 0, 4, 0, 0, 0, 0, 3],
        ] {
            assert_eq!(greet(&[bytes]), Some(Err(NoHttp2::NotSpoken)), "{bytes:?}");
            assert_eq!(greet(&bytes.chunks(1).collect::<Vec<_>>()), Some(Err(NoHttp2::NotSpoken)), "{bytes:?}");
        }
    }
}
