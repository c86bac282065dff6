//! The first program: publishes into a channel over gRPC and over HTTP, and reads the channel's history back.
//!
//! `cargo run --example publish`, with a server that has both APIs on their default ports (`docker compose up` starts one),
//! and its key in `CENTRIFUGO_API_KEY`.

#![allow(clippy::print_stdout, reason = "a program that prints what it sees")]

use std::env;

use centrifugo_api::{Client, Config, Error, HistoryRequest, PublishRequest};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let key = env::var("CENTRIFUGO_API_KEY").unwrap_or_else(|_| "api_key".into());
    let grpc = env::var("CENTRIFUGO_GRPC").unwrap_or_else(|_| "http://localhost:10000".into());
    let http = env::var("CENTRIFUGO_HTTP").unwrap_or_else(|_| "http://localhost:8000/api".into());

    // The same request goes over either transport.
    let request = PublishRequest::new("news", json!({ "text": "hello" })).tags([("lang", "en")]);
    let transports: [Config; 2] = [Config::grpc(grpc).into(), Config::http(http).into()];
    for config in transports {
        let client = Client::new(config.api_key(&key))?;
        let position = client.publish(&request).await?;
        println!("published over {}: offset {}, epoch {}", client.transport().name(), position.offset, position.epoch);

        let history = client.history(HistoryRequest::new("news").limit(2).reverse(true)).await?;
        for publication in history.publications {
            println!("  {}: {}", publication.offset, publication.json::<Value>()?);
        }
    }
    Ok(())
}
