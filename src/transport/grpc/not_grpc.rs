//! A plain HTTP response where gRPC was expected: of a proxy, or of a server that is not one for gRPC.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use h2::RecvStream;
use http::{HeaderMap, Response, StatusCode, header};

use crate::config::Protocol;
use crate::error::Error;
use crate::transport::grpc::call::STATUS;
use crate::transport::http_status::Refusal;
use crate::transport::page::Secrets;

/// How long the page may take, of which the status alone is enough.
const READING: Duration = Duration::from_secs(1);
/// So much of it is read.
const MAX_PAGE: usize = 16 << 10;

#[derive(thiserror::Error)]
#[error("the response is not gRPC: HTTP status {status}")]
pub(super) struct NotGrpc {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) page: Vec<u8>,
}

/// Omits the headers and the page: a proxy may set a cookie.
impl fmt::Debug for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotGrpc").field(&self.status).finish()
    }
}

/// Whether the response has neither the status nor the content type of gRPC.
pub(super) fn is_not_grpc<T>(response: &Response<T>) -> bool {
    let headers = response.headers();
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], header::HeaderValue::as_bytes);
    let is_grpc = response.status() == StatusCode::OK && content_type.starts_with(b"application/grpc");
    !is_grpc && !headers.contains_key(&STATUS)
}

impl NotGrpc {
    /// Reads the page, up to a limit.
    pub(super) async fn read(response: Response<RecvStream>) -> Self {
        let (head, mut body) = response.into_parts();
        let mut page = Vec::new();
        let reading = async {
            while let Some(Ok(part)) = poll_fn(|cx| body.poll_data(cx)).await {
                // Fails if the stream has ended, which needs no window.
                let _ = body.flow_control().release_capacity(part.len());
                page.extend_from_slice(&part[..part.len().min(MAX_PAGE - page.len())]);
                if page.len() == MAX_PAGE {
                    break;
                }
            }
        };
        // What was read by then is kept.
        let _ = tokio::time::timeout(READING, reading).await;
        Self { status: head.status, headers: head.headers, page }
    }

    pub(super) fn error(&self, secrets: &Secrets) -> Error {
        let Self { status, headers, page } = self;
        let refusal = Refusal { protocol: Protocol::Grpc, status: *status, headers, page };
        if *status == StatusCode::OK {
            return refusal.of_success("the response is HTTP and not gRPC", secrets);
        }
        let error = refusal.error(secrets);
        // How HTTP servers respond where there is no such path, method or content type.
        if matches!(status.as_u16(), 404 | 405 | 415) { error.no_grpc() } else { error }
    }
}
