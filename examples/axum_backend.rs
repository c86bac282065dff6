//! The backend of a chat in one file: it decides who may connect and subscribe, hands out connection tokens, and publishes. The
//! stand-in plays Centrifugo, and calls the handlers as Centrifugo does.

#![allow(clippy::print_stdout, reason = "a program that prints what it sees")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use centrifugo_api::proxy::endpoint::{self, Denied};
use centrifugo_api::proxy::{
    self, Caller, ConnectRequest, ConnectResult, Proxy, Rejection, SubscribeRequest, SubscribeResult,
};
use centrifugo_api::testing::{Handlers, Server};
use centrifugo_api::token::TokenIssuer;
use centrifugo_api::{Client, Config, PresenceRequest, PublishRequest};
use serde_json::json;
use tokio::net::TcpListener;

/// The application's own sessions, and who may read which room.
#[derive(Clone)]
struct App {
    sessions: Arc<HashMap<&'static str, &'static str>>,
    rooms: Arc<HashMap<&'static str, Vec<&'static str>>>,
}

impl App {
    /// The user that a request belongs to.
    fn user_of(&self, caller: &Caller) -> Option<&'static str> {
        self.sessions.get(caller.header("cookie")?).copied()
    }

    fn may_read(&self, user: &str, channel: &str) -> bool {
        self.rooms.get(channel).is_some_and(|users| users.contains(&user))
    }
}

impl Proxy for App {
    async fn connect(&self, _: ConnectRequest, from: &Caller) -> Result<ConnectResult, Rejection> {
        match self.user_of(from) {
            Some(user) => Ok(ConnectResult::default().info(json!({"name": user})).user(user)),
            None => Err(Rejection::disconnect(4501, "please log in")?),
        }
    }

    async fn subscribe(&self, request: SubscribeRequest, _: &Caller) -> Result<SubscribeResult, Rejection> {
        if self.may_read(&request.user, &request.channel) {
            Ok(SubscribeResult::default().data(json!({"welcome": request.user})))
        } else {
            Err(Rejection::permission_denied())
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = "a long random key, from the environment";
    let app = App {
        sessions: Arc::new(HashMap::from([("session=1", "ann")])),
        rooms: Arc::new(HashMap::from([("lobby", vec!["ann", "bob"]), ("attic", vec!["bob"])])),
    };
    let sessions = app.clone();
    let issuer = TokenIssuer::hmac_sha256("the server's secret, at least 32 bytes long")?;
    let half_an_hour = Duration::from_secs(30 * 60);
    let token = endpoint::connection_token(move |caller| {
        let user = sessions.user_of(&caller).ok_or(Denied::unauthorized());
        let token = user.and_then(|user| Ok(issuer.connection(user).expires_in(half_an_hour).issue()?));
        async move { token }
    });
    let router = Router::new()
        .nest_service("/centrifugo", proxy::http(app).key_header("x-proxy-key", key))
        .route_service("/connection_token", token);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });

    // What to add to Centrifugo's configuration. Cookies of clients reach the handlers, the key's header of a client does not.
    let config = proxy::config::<App>(format!("{url}/centrifugo"));
    println!("{}", config.key_header("x-proxy-key", key).proxied_headers(["Cookie"]).yaml()?);

    let handlers = Handlers::http(format!("{url}/centrifugo")).header("x-proxy-key", key);
    let centrifugo = Server::builder().handlers(handlers).start().await?;
    let client = Client::new(Config::grpc(centrifugo.grpc_url()))?;

    let error = centrifugo.client().connect().await.expect_err("it is refused");
    assert_eq!(error.code(), 4501);
    let mut ann = centrifugo.client().header("cookie", "session=1").connect().await?;
    assert_eq!(&ann.subscribe("lobby", json!({})).await?[..], br#"{"welcome":"ann"}"#);
    assert_eq!(ann.subscribe("attic", json!({})).await.expect_err("it is refused").code(), 103);

    client.publish(PublishRequest::new("lobby", json!({"text": "ann is here"}))).await?;
    let lobby = client.presence(PresenceRequest::new("lobby")).await?;
    println!("{} in the lobby: {:?}", lobby.presence.len(), ann.user());
    assert_eq!(lobby.presence[ann.id()].user, "ann");

    // What the SDK of a client fetches.
    let token = reqwest::Client::new().post(format!("{url}/connection_token")).header("cookie", "session=1");
    println!("{}", token.send().await?.error_for_status()?.text().await?);
    Ok(())
}
