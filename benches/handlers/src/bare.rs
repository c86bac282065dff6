//! The same call by hand: what one writes with axum and serde, and what tonic generates with prost. Neither checks a key, bounds
//! time or catches a panic.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use centrifugo_api::proxy::{ConnectRequest, ConnectResult};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tower_service::Service;

#[derive(Deserialize)]
#[allow(dead_code, reason = "read, as a backend would")]
pub struct Request {
    client: String,
    transport: String,
    protocol: String,
    encoding: String,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Serialize)]
pub struct Response {
    result: Answer,
}

#[derive(Serialize)]
struct Answer {
    user: String,
    data: Option<Box<RawValue>>,
}

pub async fn connect(Json(request): Json<Request>) -> Json<Response> {
    Json(Response { result: Answer { user: request.name, data: request.data } })
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    #[prost(message, optional, tag = "1")]
    result: Option<ConnectResult>,
}

#[derive(Clone)]
pub struct Grpc;

impl tonic::server::NamedService for Grpc {
    const NAME: &'static str = "centrifugal.centrifugo.proxy.CentrifugoProxy";
}

impl Service<http::Request<tonic::body::Body>> for Grpc {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<Envelope, ConnectRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Connect, request).await)
        })
    }
}

struct Connect;

impl tonic::server::UnaryService<ConnectRequest> for Connect {
    type Response = Envelope;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Envelope>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<ConnectRequest>) -> Self::Future {
        Box::pin(async move {
            let request = request.into_inner();
            let result = ConnectResult::default().user(request.name).data(request.data);
            Ok(tonic::Response::new(Envelope { result: Some(result) }))
        })
    }
}
