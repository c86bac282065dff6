//! The handlers over gRPC.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::{Request, Response};
use tonic::Status;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tower_service::Service;

use crate::proxy::answer::{Failed, Form};
use crate::proxy::caller::Caller;
use crate::proxy::dispatch::{Served, served, within};
use crate::proxy::method::{Method, Proxy};
use crate::sync::BoxFuture;

const SERVICE: &str = "centrifugal.centrifugo.proxy.CentrifugoProxy";

/// Serves the handlers of a backend over gRPC: `tonic::transport::Server::builder().add_service(proxy::grpc(backend))`.
///
/// | what | gRPC status |
/// | --- | --- |
/// | a result, an error or a disconnect | `OK` |
/// | a request that cannot be read | `INVALID_ARGUMENT` |
/// | no right [key](Self::key_header) | `UNAUTHENTICATED` |
/// | no such handler, or one that is not implemented and whose client would not learn of it | `UNIMPLEMENTED` |
/// | a message above the [limit](Self::max_body) | `OUT_OF_RANGE` |
/// | a handler that failed or panicked | `INTERNAL` |
/// | a handler that took [too long](Self::timeout) | `DEADLINE_EXCEEDED` |
pub struct Grpc<P>(Served<P>);

/// Serves the handlers of a backend over gRPC. See [`Grpc`].
#[cfg_attr(docsrs, doc(cfg(feature = "proxy-grpc")))]
pub fn grpc<P: Proxy>(backend: P) -> Grpc<P> {
    Grpc(Served::new(backend))
}

impl<P: Proxy> Grpc<P> {
    /// Refuses calls without this key in this metadata. See [`Http::key_header`](crate::proxy::Http::key_header); the server sends
    /// it if told so in `grpc.static_metadata`.
    #[must_use]
    pub fn key_header(mut self, name: impl AsRef<str>, key: impl AsRef<str>) -> Self {
        self.0.add_key(name.as_ref(), key.as_ref());
        self
    }
}

served!(Grpc, "message");

impl<P> tonic::server::NamedService for Grpc<P> {
    const NAME: &'static str = SERVICE;
}

impl<P, B> Service<Request<B>> for Grpc<P>
where
    P: Proxy,
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let served = self.0.clone();
        Box::pin(async move {
            if !served.admits(request.headers_mut()) {
                return Ok(Status::unauthenticated("no right key").into_http());
            }
            let name = request.uri().path().rsplit('/').next().unwrap_or_default();
            let Some(method) = Method::ALL.iter().copied().find(|method| method.grpc_name() == name) else {
                return Ok(Status::unimplemented("no such handler").into_http());
            };
            let mut grpc = tonic::server::Grpc::new(Plain)
                .accept_compressed(CompressionEncoding::Gzip)
                .apply_max_message_size_config(Some(served.max_body), None);
            let timeout = served.timeout;
            let call = grpc.unary(Call { served, method }, request);
            Ok(within(timeout, call).await.unwrap_or_else(|| {
                tracing::error!(method = method.name(), "a handler that Centrifugo called took too long");
                Status::deadline_exceeded("the handler took too long").into_http()
            }))
        })
    }
}

/// One call, once its message is read.
struct Call<P> {
    served: Served<P>,
    method: Method,
}

impl<P: Proxy> Service<tonic::Request<Bytes>> for Call<P> {
    type Response = tonic::Response<Bytes>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (served, method) = (self.served.clone(), self.method);
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            match served.call(method, Form::Protobuf, &message, &Caller::of(metadata.into_headers())).await {
                Ok(answer) => Ok(tonic::Response::new(answer)),
                Err(Failed::Unreadable(why)) => Err(Status::invalid_argument(why)),
                Err(Failed::NotEnabled) => Err(Status::unimplemented(format!("{} is not enabled", method.grpc_name()))),
                Err(Failed::Internal) => Err(Status::internal("internal error")),
            }
        })
    }
}

/// Passes the bytes of messages through.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
