//! The handlers of a chat over gRPC: who may connect and subscribe. The stand-in plays Centrifugo, and calls them as Centrifugo
//! does.

use centrifugo_api::proxy::{
    self, Caller, ConnectRequest, ConnectResult, Proxy, Rejection, SubscribeRequest, SubscribeResult,
};
use centrifugo_api::testing::{Handlers, Server};
use centrifugo_api::{Client, Config, PresenceRequest, PublishRequest};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

struct App;

impl Proxy for App {
    async fn connect(&self, _: ConnectRequest, from: &Caller) -> Result<ConnectResult, Rejection> {
        match from.header("cookie").and_then(|cookie| cookie.strip_prefix("session=")) {
            Some(user) => Ok(ConnectResult::default().user(user).info(json!({"name": user}))),
            None => Err(Rejection::disconnect(4501, "please log in")?),
        }
    }

    async fn subscribe(&self, request: SubscribeRequest, _: &Caller) -> Result<SubscribeResult, Rejection> {
        if request.channel == "lobby" { Ok(SubscribeResult::default()) } else { Err(Rejection::permission_denied()) }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = "a long random key, from the environment";
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("grpc://{}", listener.local_addr()?);
    let service = proxy::grpc(App).key_header("x-proxy-key", key);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await });

    // What to add to Centrifugo's configuration.
    let config = proxy::config::<App>(&endpoint).key_header("x-proxy-key", key).proxied_headers(["Cookie"]);
    println!("{}", config.yaml()?);

    let centrifugo = Server::builder().handlers(Handlers::grpc(endpoint).header("x-proxy-key", key)).start().await?;
    let client = Client::new(Config::grpc(centrifugo.grpc_url()))?;
    assert_eq!(centrifugo.client().connect().await.unwrap_err().code(), 4501);
    let mut ann = centrifugo.client().header("cookie", "session=ann").connect().await?;
    ann.subscribe("lobby", json!({})).await?;
    assert_eq!(ann.subscribe("inbox", json!({})).await.unwrap_err().code(), 103);
    client.publish(PublishRequest::new("lobby", json!({"text": "ann is here"}))).await?;
    let lobby = client.presence(PresenceRequest::new("lobby")).await?;
    println!("{} in the lobby", lobby.presence.len());
    assert_eq!(lobby.presence[ann.id()].user, "ann");
    Ok(())
}
