//! A web service that publishes what it is sent, and shuts down gracefully: it stops to accept requests, and then closes the
//! client, which waits for the calls in flight.

#![allow(clippy::print_stdout, reason = "a program that prints what it sees")]

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, Error, ErrorKind, Payload, PublishRequest, PublishResult};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

async fn publish(
    State(client): State<Client>,
    Path(channel): Path<String>,
    Json(message): Json<Value>,
) -> Result<Json<PublishResult>, (StatusCode, String)> {
    let request = PublishRequest::new(channel, Payload::from(message));
    client.publish(request).await.map(Json).map_err(|error| (status_of(&error), error.to_string()))
}

fn status_of(error: &Error) -> StatusCode {
    match error.kind() {
        ErrorKind::Api | ErrorKind::Invalid | ErrorKind::TooLarge => StatusCode::BAD_REQUEST,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn serve(listener: TcpListener, client: Client, stop: oneshot::Receiver<()>) -> std::io::Result<()> {
    let app = Router::new().route("/publish/{channel}", post(publish)).with_state(client.clone());
    // In a service `stop` would be `tokio::signal::ctrl_c()`.
    axum::serve(listener, app).with_graceful_shutdown(async { drop(stop.await) }).await?;
    let closed = client.close(Duration::from_secs(5)).await;
    println!("{} calls done, {} of unknown outcome", closed.done, closed.unknown);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let centrifugo = Server::start().await?;
    let client = Client::new(Config::grpc(centrifugo.grpc_url()))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/publish", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel();
    let service = tokio::spawn(serve(listener, client, stopped));

    // What a caller of the service sees.
    // With the feature `tls` of the crate, reqwest wants to be told of a provider, used or not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let browser = reqwest::Client::new();
    let send = |channel: &str| {
        let body = json!({"text": "hello"}).to_string();
        browser.post(format!("{url}/{channel}")).header("content-type", "application/json").body(body).send()
    };
    let response = send("news").await?;
    assert_eq!(response.status(), 200);
    let position: PublishResult = serde_json::from_str(&response.text().await?)?;
    assert_eq!((position.offset, centrifugo.applied("news")), (1, 1));
    assert_eq!(send("nowhere:1").await?.status(), 400);

    let _ = stop.send(());
    service.await??;
    Ok(())
}
