//! From gRPC to HTTP and back.

mod breaker;
mod config;
mod probes;
mod stays;
mod switches;

use std::sync::Arc;

use centrifugo_api::testing::{Server, Transport as Front};
use centrifugo_api::transport::BreakerState as State;
use centrifugo_api::{Client, Config};

use crate::support::proxy::Proxy;
use crate::support::soon;

/// A client over gRPC with a fallback to `http`, without retries.
fn client(grpc: impl Into<String>, http: &Server) -> Client {
    Client::new(Config::grpc(grpc).fallback(Config::http(http.http_url())).retry(None)).unwrap()
}

fn state(client: &Client) -> State {
    *client.watch_breaker().unwrap().borrow()
}

/// How many calls came over each front.
fn calls(server: &Server) -> (usize, usize) {
    let calls = server.calls();
    let over = |front| calls.iter().filter(|call| call.transport == front).count();
    (over(Front::Grpc), over(Front::Http))
}

/// Waits until the breaker is in this state.
async fn becomes(client: &Client, wanted: State) {
    soon(client.watch_breaker().unwrap().wait_for(|state| *state == wanted)).await.unwrap();
}

/// Remembers every state that the breaker is in.
fn watched(client: &Client) -> (Arc<std::sync::Mutex<Vec<State>>>, tokio::task::JoinHandle<()>) {
    let (seen, mut state) = (Arc::<std::sync::Mutex<Vec<_>>>::default(), client.watch_breaker().unwrap());
    let see = Arc::clone(&seen);
    let watching = tokio::spawn(async move {
        while state.changed().await.is_ok() {
            see.lock().unwrap().push(*state.borrow_and_update());
        }
    });
    (seen, watching)
}

/// A proxy in front of the stand-in's gRPC port, which refuses connections.
async fn absent(server: &Server) -> Proxy {
    let proxy = Proxy::to(server.grpc_addr());
    proxy.refuse().await;
    proxy
}
