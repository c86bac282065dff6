//! Testing code that publishes: what it sends, and what it does when the server does not respond as it should.

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{ApiError, Client, Config, Error, PublishRequest};
use serde_json::json;

/// The code to test: tells the customer of an order, and says whether it could.
async fn notify(client: &Client, order: u64, state: &str) -> Result<bool, Error> {
    let request = PublishRequest::new(format!("order-{order}"), json!({"state": state}))
        .idempotency_key(format!("{order}-{state}"));
    match client.publish(request).await {
        Ok(_) => Ok(true),
        // It did not get there. Whoever opens the page sees the state anyway.
        Err(error) if error.is_transient() => Ok(false),
        Err(error) => Err(error),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().api_key("sesame").start().await?;
    let client = Client::new(Config::grpc(server.grpc_url()).api_key("sesame"))?;

    assert!(notify(&client, 17, "paid").await?);
    let call = &server.calls()[0];
    assert_eq!(call.request["channel"], "order-17");
    assert_eq!(call.request["data"], json!({"state": "paid"}));

    // The same state again is published once.
    assert!(notify(&client, 17, "paid").await?);
    assert_eq!(server.applied("order-17"), 1);

    // A response that is lost is no harm: the call is repeated with its key.
    server.fault(Fault::cut_after());
    assert!(notify(&client, 17, "sent").await?);
    assert_eq!(server.applied("order-17"), 2);

    // A server that is down is no error of the order,
    server.fault(Fault::grpc_status(14, "unavailable").always());
    assert!(!notify(&client, 17, "delivered").await?);

    // and a wrong configuration is.
    server.clear_faults();
    server.fault(Fault::api_error(ApiError::new(ApiError::UNKNOWN_CHANNEL, "unknown channel")));
    let error = notify(&client, 17, "delivered").await.expect_err("it is told");
    assert_eq!(error.code(), Some(ApiError::UNKNOWN_CHANNEL));
    Ok(())
}
