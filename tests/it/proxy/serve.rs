//! Serves a `tower` service on a free port, and keeps what goes through it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tower_service::Service;

/// Calls and answers, as they are in the fixtures.
pub(crate) type Log = Arc<Mutex<Vec<Value>>>;

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

/// Serves over HTTP/1.1, or over HTTP/2 with prior knowledge.
pub(crate) async fn serve<S, B>(service: S, h2: bool) -> (SocketAddr, Log)
where
    S: Service<http::Request<Full<Bytes>>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Log::default();
    let kept = Arc::clone(&log);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (service, kept) = (service.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (service, kept) = (service.clone(), Arc::clone(&kept));
                    async move { Ok::<_, Infallible>(pass(service, request, h2, &kept).await) }
                });
                let io = TokioIo::new(stream);
                if h2 {
                    _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await;
                } else {
                    _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    (address, log)
}

async fn pass<S, B>(mut service: S, request: http::Request<hyper::body::Incoming>, h2: bool, log: &Log) -> Answer
where
    S: Service<http::Request<Full<Bytes>>, Response = http::Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: std::fmt::Debug,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (path, headers) = (head.uri.path().to_owned(), headers(&head.headers));
    let answer = service.call(http::Request::from_parts(head, Full::new(body.clone()))).await.unwrap();
    let (head, answer) = answer.into_parts();
    let collected = answer.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let content = collected.to_bytes();
    let mut line = json!({"path": path, "headers": headers});
    if h2 {
        line["request_hex"] = hex(body.get(5..).unwrap_or_default()).into();
        let status = trailers.as_ref().unwrap_or(&head.headers);
        line["code"] = status["grpc-status"].to_str().unwrap().parse::<i64>().unwrap().into();
        line["response_hex"] = hex(content.get(5..).unwrap_or_default()).into();
    } else {
        line["request_body"] = String::from_utf8(body.to_vec()).unwrap().into();
        line["status"] = head.status.as_u16().into();
        line["response_body"] = String::from_utf8(content.to_vec()).unwrap().into();
    }
    log.lock().unwrap().push(line);
    let body = Full::new(content).with_trailers(async move { trailers.map(Ok) });
    http::Response::from_parts(head, body.boxed())
}

fn headers(headers: &http::HeaderMap) -> Map<String, Value> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
