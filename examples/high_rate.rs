//! Publishes 20,000 messages of 8 tasks with a `Publisher`, in order per channel, and waits for all of them.

#![allow(clippy::print_stdout, reason = "a program that prints what it sees")]

use std::time::{Duration, Instant};

use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, PublishRequest, Publisher, PublisherConfig, Retry};
use serde_json::json;
use tokio::task::JoinSet;

const TASKS: u64 = 8;
const EACH: u64 = 2_500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start().await?;
    // At this rate the server would keep many idempotency keys; here a duplicate would do no harm.
    let retry = Retry::new().idempotency_keys(false);
    let client = Client::new(Config::grpc(server.grpc_url()).retry(retry))?;
    let publisher = Publisher::new(&client, PublisherConfig::new().max_messages(5_000))?;

    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let publisher = publisher.clone();
        tasks.spawn(async move {
            for number in 0..EACH {
                // Waits while the publisher's capacity is used up, and not for the result.
                publisher.enqueue(PublishRequest::new(format!("prices-{task}"), json!(number))).await?;
            }
            Ok::<_, centrifugo_api::Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let closed = publisher.close(Duration::from_secs(30)).await;
    println!("{closed:?} in {:?}", started.elapsed());
    assert_eq!(closed.done, TASKS * EACH);
    Ok(())
}
