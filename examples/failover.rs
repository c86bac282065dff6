//! Two nodes and the HTTP fallback: calls go on while nodes go down.
//!
//! Real nodes share a broker; the in-memory servers here do not, which is enough to see where calls go.

#![allow(clippy::print_stdout, reason = "a program that prints what it sees")]

use centrifugo_api::testing::Server;
use centrifugo_api::transport::BreakerState;
use centrifugo_api::{Client, Config, PublishRequest, Retry};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (one, two, web) = (Server::start().await?, Server::start().await?, Server::start().await?);
    let http = Config::http(web.http_url());
    let grpc = Config::grpc(one.grpc_url()).endpoint(two.grpc_url()).fallback(http);
    let retry = Retry::new().observe(|retry| println!("attempt {} failed: {}", retry.attempt, retry.error));
    let client = Client::new(grpc.retry(retry))?;
    let request = PublishRequest::new("news", json!({"text": "hello"}));

    for _ in 0..10 {
        client.publish(&request).await?;
    }
    assert_eq!(one.applied("news") + two.applied("news"), 10);

    // One node goes down: its calls go to the other.
    one.shutdown().await;
    for _ in 0..10 {
        client.publish(&request).await?;
    }
    assert!(two.applied("news") >= 10);

    // Both are down: calls go over HTTP, until gRPC responds again.
    two.shutdown().await;
    for _ in 0..10 {
        client.publish(&request).await?;
    }
    assert_eq!(web.applied("news"), 10);
    let breaker = client.watch_breaker().map(|state| *state.borrow());
    assert_ne!(breaker, None);
    println!("breaker: {breaker:?} (gRPC is used while it is {:?})", BreakerState::Closed);
    for endpoint in client.endpoints() {
        println!("{} over {}: available {}", endpoint.endpoint, endpoint.transport, endpoint.available);
    }
    Ok(())
}
