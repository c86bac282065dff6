//! How many connect calls a second the services of this crate answer, beside a bare axum and a bare tonic handler that read the same
//! request and answer the same.
//!
//! The servers run in this process on one worker thread, the callers on another runtime with one thread: 32 connections over HTTP,
//! 4 with 16 streams over gRPC. Rounds alternate, medians are told.
//!
//! ```text
//! cargo run --release --manifest-path benches/handlers/Cargo.toml -- 11
//! ```

mod bare;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use centrifugo_api::proxy::{self, Caller, ConnectRequest, ConnectResult, Proxy, Rejection};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;

const ROUND: Duration = Duration::from_secs(2);
const JSON: &str = r#"{"client":"33dc66e3-f402-48ef-90c5-79230f3062c7","transport":"websocket","protocol":"json","encoding":"json","data":{"case":"ok"},"name":"js","version":"5.2.2"}"#;

struct Backend;

impl Proxy for Backend {
    async fn connect(&self, request: ConnectRequest, _: &Caller) -> Result<ConnectResult, Rejection> {
        Ok(ConnectResult::default().user(request.name).data(request.data))
    }
}

#[derive(Clone, Copy)]
enum Over {
    Http,
    Grpc,
}

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (servers, callers) = (runtime(), runtime());
    let [ours_http, bare_http, ours_grpc, bare_grpc] = servers.block_on(async {
        let listen = || async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let (ours, a) = listen().await;
        let app = axum::Router::new().nest_service("/centrifugo", proxy::http(Backend).key_header("x-key", "sesame"));
        tokio::spawn(async move { axum::serve(ours, app).await });
        let (bare, b) = listen().await;
        let app = axum::Router::new().nest("/centrifugo", axum::Router::new().route("/connect", axum::routing::post(bare::connect)));
        tokio::spawn(async move { axum::serve(bare, app).await });
        let (ours, c) = listen().await;
        let server = tonic::transport::Server::builder();
        let mut with_ours = server.clone();
        let router = with_ours.add_service(proxy::grpc(Backend).key_header("x-key", "sesame"));
        tokio::spawn(async move { router.serve_with_incoming(TcpListenerStream::new(ours)).await });
        let (bare, d) = listen().await;
        let mut with_bare = server;
        let router = with_bare.add_service(bare::Grpc);
        tokio::spawn(async move { router.serve_with_incoming(TcpListenerStream::new(bare)).await });
        [a, b, c, d]
    });
    for (over, name, ours, bare) in [(Over::Http, "axum", ours_http, bare_http), (Over::Grpc, "tonic", ours_grpc, bare_grpc)] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (address, rates) in [ours, bare].into_iter().zip(&mut rates) {
                let rate = callers.block_on(measure(over, address));
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let mut ratios: Vec<_> = rates[0].iter().zip(&rates[1]).map(|(ours, bare)| ours / bare).collect();
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (ours, bare) = (median(&mut rates[0]), median(&mut rates[1]));
        println!("{name}: ours {ours:.0}/s, bare {bare:.0}/s, ratio {:.3} (median of {rounds} rounds)", median(&mut ratios));
    }
}

/// Calls answered a second.
async fn measure(over: Over, address: SocketAddr) -> f64 {
    let until = Instant::now() + ROUND;
    let mut tasks = Vec::new();
    match over {
        Over::Http => {
            for _ in 0..32 {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                tasks.push(tokio::spawn(async move {
                    let mut calls = 0;
                    while Instant::now() < until {
                        let request = http::Request::post("/centrifugo/connect").header("host", "a").header("x-key", "sesame");
                        let request = request.header("content-type", "application/json");
                        let response = sender.send_request(request.body(Full::new(Bytes::from_static(JSON.as_bytes()))).unwrap()).await.unwrap();
                        assert_eq!(response.status(), 200);
                        let body = response.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(&body[..], br#"{"result":{"user":"js","data":{"case":"ok"}}}"#);
                        calls += 1;
                    }
                    calls
                }));
            }
        }
        Over::Grpc => {
            let message = prost::Message::encode_to_vec(&serde_json::from_str::<ConnectRequest>(JSON).unwrap());
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let body = Bytes::from([&[0], &length[..], &message].concat());
            for _ in 0..4 {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                for _ in 0..16 {
                    let (mut sender, body) = (sender.clone(), body.clone());
                    tasks.push(tokio::spawn(async move {
                        let mut calls = 0;
                        while Instant::now() < until {
                            let path = format!("http://{address}/centrifugal.centrifugo.proxy.CentrifugoProxy/Connect");
                            let request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
                            let request = request.header("x-key", "sesame").body(Full::new(body.clone())).unwrap();
                            let response = sender.send_request(request).await.unwrap();
                            let body = response.into_body().collect().await.unwrap();
                            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
                            assert!(body.to_bytes().len() > 20);
                            calls += 1;
                        }
                        calls
                    }));
                }
            }
        }
    }
    let started = Instant::now();
    let mut calls = 0_u32;
    for task in tasks {
        calls += task.await.unwrap();
    }
    f64::from(calls) / started.elapsed().as_secs_f64()
}
