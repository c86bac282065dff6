//! A real server accepts each kind of token, and refuses each broken one.
//!
//! Ignored unless asked for; they need the server's binary, and start it themselves on free ports:
//!
//! ```text
//! CENTRIFUGO_TEST_BINARY=centrifugo cargo test --all-features --test it -- --ignored token::real
//! ```
//!
//! The clients speak the server's JSON protocol over HTTP streaming, which needs no WebSocket.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use centrifugo_api::message::InfoRequest;
use centrifugo_api::token::{Algorithm, Capability, Jwk, SharedPollSigner, SigningKey, SubscribeOptions, TokenIssuer};
use centrifugo_api::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::keys::{PAIRS, SECRET, hmac};
use crate::real_process::Process;

const MINUTE: Duration = Duration::from_secs(60);

/// A client that sent some commands, and what it got.
struct Connected {
    replies: Vec<Value>,
    /// The connection, which ends when this is dropped.
    _response: reqwest::Response,
}

impl Connected {
    /// Sends commands in one request, and waits for a reply to each, or for the end.
    async fn new(server: &Process, commands: &[Value]) -> Self {
        let body: Vec<_> = commands
            .iter()
            .enumerate()
            .map(|(index, command)| {
                let mut command = command.clone();
                command["id"] = (index + 1).into();
                command.to_string()
            })
            .collect();
        let url = server.http_url().replace("/api", "/connection/http_stream");
        let mut response = reqwest::Client::new().post(url).body(body.join("\n")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut replies, mut text) = (Vec::<Value>::new(), Vec::new());
        while replies.iter().filter(|reply| reply["id"].is_u64()).count() < commands.len() {
            let chunk = timeout(Duration::from_secs(10), response.chunk()).await.expect("the server says nothing");
            let Ok(Some(chunk)) = chunk else { break };
            text.extend_from_slice(&chunk);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = text.drain(..=end).collect();
                if line.len() > 1 {
                    replies.push(serde_json::from_slice(&line).unwrap());
                }
            }
            if replies.iter().any(|reply| !reply["push"]["disconnect"].is_null()) {
                break;
            }
        }
        Self { replies, _response: response }
    }

    async fn connect(server: &Process, token: &str) -> Self {
        Self::new(server, &[json!({"connect": {"token": token}})]).await
    }

    /// Connects, and then subscribes.
    async fn subscribe(server: &Process, connection: &str, channel: &str, subscription: &str) -> Self {
        let subscribe = json!({"subscribe": {"channel": channel, "token": subscription}});
        Self::new(server, &[json!({"connect": {"token": connection}}), subscribe]).await
    }

    /// The reply to a command, by its place from 1.
    fn reply(&self, id: u64) -> &Value {
        let found = self.replies.iter().find(|reply| reply["id"] == id);
        found.unwrap_or_else(|| panic!("no reply to {id}: {:?}", self.replies))
    }

    /// The code of the error of a command, or of the disconnect.
    fn code(&self) -> Option<u64> {
        let code = |reply: &Value| reply["error"]["code"].as_u64().or(reply["push"]["disconnect"]["code"].as_u64());
        self.replies.iter().find_map(code)
    }
}

const INVALID_TOKEN: Option<u64> = Some(3500);
const TOKEN_EXPIRED: Option<u64> = Some(109);
const PERMISSION_DENIED: Option<u64> = Some(103);

/// A server with these settings of `client.token`.
async fn server(token: Value) -> Process {
    Process::start_with(|config| {
        config["client"]["token"] = token;
        config["http_stream"] = json!({"enabled": true});
        config["shared_poll"]["hmac_secret_key"] = SECRET.into();
        for namespace in config["channel"]["namespaces"].as_array_mut().unwrap() {
            if namespace["name"] == "poll" {
                namespace["allow_subscribe_for_client"] = true.into();
            }
        }
    })
    .await
}

fn public_key(of: Algorithm) -> &'static str {
    PAIRS.iter().find(|(algorithm, ..)| *algorithm == of).unwrap().2
}

fn issuer(of: Algorithm) -> TokenIssuer {
    let (algorithm, private, _) = PAIRS.iter().find(|(algorithm, ..)| *algorithm == of).unwrap();
    TokenIssuer::pem(*algorithm, private).unwrap()
}

/// Connects and subscribes with tokens of this issuer.
async fn accepts(server: &Process, issuer: &TokenIssuer, what: &str) {
    let connection = issuer.connection("42").expires_in(MINUTE).issue().unwrap();
    let subscription = issuer.subscription("42", "plain:a").expires_in(MINUTE).issue().unwrap();
    let client = Connected::subscribe(server, &connection, "plain:a", &subscription).await;
    assert_eq!(client.code(), None, "{what}: {:?}", client.replies);
    assert_eq!(client.reply(2)["subscribe"]["expires"], true, "{what}");
    let other = Connected::subscribe(server, &connection, "plain:b", &subscription).await;
    assert_eq!(other.code(), INVALID_TOKEN, "{what}: {:?}", other.replies);
    let none = Connected::subscribe(server, &connection, "plain:a", "").await;
    assert_eq!(none.code(), PERMISSION_DENIED, "{what}: {:?}", none.replies);
}

#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn tokens_of_each_algorithm_are_accepted_with_a_key() {
    let ecdsa: &[Algorithm] = if cfg!(feature = "token-es512") {
        &[Algorithm::Es256, Algorithm::Es384, Algorithm::Es512]
    } else {
        &[Algorithm::Es256, Algorithm::Es384]
    };
    for algorithm in ecdsa {
        let server = server(json!({
            "hmac_secret_key": SECRET, "rsa_public_key": public_key(Algorithm::Rs256),
            "ecdsa_public_key": public_key(*algorithm),
        }))
        .await;
        accepts(&server, &issuer(*algorithm), &algorithm.to_string()).await;
        for of in [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512] {
            accepts(&server, &issuer(of), &of.to_string()).await;
        }
        for issuer in hmac() {
            accepts(&server, &issuer, &format!("{issuer:?}")).await;
        }
        // 6.9.1 takes no key of Ed25519.
        let token = issuer(Algorithm::EdDsa).connection("42").expires_in(MINUTE).issue().unwrap();
        assert_eq!(Connected::connect(&server, &token).await.code(), INVALID_TOKEN);
    }
}

#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn tokens_of_each_algorithm_are_accepted_with_a_key_set_that_rotates() {
    let set = Arc::new(Mutex::new(String::new()));
    let body = Arc::clone(&set);
    let endpoint = Router::new().route("/jwks.json", get(move || async move { body.lock().unwrap().clone() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let endpoint = tokio::spawn(async { axum::serve(listener, endpoint).await });
    let server = server(json!({"jwks_public_endpoint": url})).await;
    let mut published = Vec::<Jwk>::new();
    for (index, (algorithm, private, public)) in PAIRS.iter().enumerate() {
        let name = format!("key-{index}");
        let issuer = TokenIssuer::pem(*algorithm, private).unwrap().key_id(&name);
        // The set as it was: the key is not known yet.
        let token = issuer.connection("42").expires_in(MINUTE).issue().unwrap();
        assert_eq!(Connected::connect(&server, &token).await.code(), INVALID_TOKEN, "{algorithm}");
        let jwks = published.iter().cloned().fold(issuer.clone(), TokenIssuer::publish_key).jwks().unwrap();
        *set.lock().unwrap() = jwks.to_json();
        accepts(&server, &issuer, &algorithm.to_string()).await;
        published.push(Jwk::pem(public).unwrap().key_id(&name).algorithm(*algorithm));
        // The keys before are still there, or remembered.
        let before = TokenIssuer::pem(PAIRS[0].0, PAIRS[0].1).unwrap().key_id("key-0");
        accepts(&server, &before, "key-0").await;
        // Without a name no key is found.
        let unnamed = TokenIssuer::pem(*algorithm, private).unwrap();
        let token = unnamed.connection("42").expires_in(MINUTE).issue().unwrap();
        assert_eq!(Connected::connect(&server, &token).await.code(), INVALID_TOKEN, "{algorithm}");
        // The key of another.
        let other = issuer.key_id(if index == 0 { "key-9" } else { "key-0" });
        let token = other.connection("42").expires_in(MINUTE).issue().unwrap();
        if index > 0 {
            let code = Connected::connect(&server, &token).await.code();
            assert_eq!(code, INVALID_TOKEN, "{algorithm}");
        }
    }
    endpoint.abort();
}

#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn each_claim_means_what_it_says() {
    let server = server(json!({"hmac_secret_key": SECRET, "audience": "ws", "issuer": "shop"})).await;
    let issuer = TokenIssuer::hmac_sha256(SECRET).unwrap().issuer("shop").audience("other").audience("ws");
    let api = Client::new(server.grpc()).unwrap();

    // Ends: of the token, of the connection, and none.
    let connect = async |token: Result<String, _>| {
        let client = Connected::connect(&server, &token.unwrap()).await;
        let result = client.reply(1)["connect"].clone();
        (result["expires"] == true, result["ttl"].as_u64().unwrap_or(0))
    };
    let connection = || issuer.connection("42").expires_in(MINUTE);
    let (expires, ttl) = connect(connection().issue()).await;
    assert!(expires && (58..=60).contains(&ttl), "{ttl}");
    let (expires, ttl) = connect(connection().connection_expires_in(60 * MINUTE).issue()).await;
    assert!(expires && (3598..=3600).contains(&ttl), "{ttl}");
    assert_eq!(connect(connection().connection_never_expires().issue()).await, (false, 0));
    assert_eq!(connect(issuer.connection("42").never_expires().issue()).await, (false, 0));

    // What is known of a user, and the channels of the connection.
    let options = SubscribeOptions::new().info(json!("in here")).data(json!("hello")).presence(true);
    let token = connection()
        .info(json!({"name": "A"}))
        .meta(json!({"plan": "pro"}))
        .channel("news")
        .subscription("orders", options)
        .capability(Capability::new(["news"]).subscribe())
        .label("region", "eu")
        .id("t-1")
        .not_before(SystemTime::now() - MINUTE);
    let client = Connected::connect(&server, &token.issue().unwrap()).await;
    let subs = &client.reply(1)["connect"]["subs"];
    assert!(subs["news"].is_object(), "{subs}");
    assert_eq!(subs["orders"]["data"], "hello");
    let presence = api.presence("orders").await.unwrap().presence;
    let (_, found) = presence.into_iter().next().unwrap();
    assert_eq!(
        (&*found.user, &*found.conn_info, &*found.chan_info),
        ("42", &br#"{"name":"A"}"#[..], &br#""in here""#[..])
    );
    drop(client);

    // The options of a subscription, and the anonymous user.
    let connection = issuer.anonymous_connection().expires_in(MINUTE).issue().unwrap();
    let subscription = issuer
        .anonymous_subscription("room")
        .expires_in(MINUTE)
        .subscription_expires_in(60 * MINUTE)
        .info(json!(7))
        .data(json!({"a": 1}))
        .force_recovery(true)
        .force_positioning(true)
        .join_leave(true)
        .force_push_join_leave(true);
    let client = Connected::subscribe(&server, &connection, "room", &subscription.clone().issue().unwrap()).await;
    let result = &client.reply(2)["subscribe"];
    assert_eq!(
        (&result["data"], &result["recoverable"], &result["positioned"]),
        (&json!({"a": 1}), &json!(true), &json!(true))
    );
    assert!((3598..=3600).contains(&result["ttl"].as_u64().unwrap()), "{result}");
    let presence = api.presence("room").await.unwrap().presence;
    let (_, found) = presence.into_iter().next().unwrap();
    assert_eq!((&*found.user, &*found.chan_info), ("", &b"7"[..]));
    drop(client);
    let of_another_client = subscription.client("c-1").issue().unwrap();
    let client = Connected::subscribe(&server, &connection, "room", &of_another_client).await;
    assert_eq!(client.code(), INVALID_TOKEN);
    let of_another_user = issuer.subscription("1", "plain:a").expires_in(MINUTE).issue().unwrap();
    let client = Connected::subscribe(&server, &connection, "plain:a", &of_another_user).await;
    assert_eq!(client.code(), INVALID_TOKEN);
}

#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn each_broken_token_is_refused() {
    let server = server(json!({"hmac_secret_key": SECRET, "audience": "ws", "issuer": "shop"})).await;
    let issuer = || TokenIssuer::hmac_sha256(SECRET).unwrap().issuer("shop").audience("ws");
    let connection = |issuer: TokenIssuer| issuer.connection("42").expires_in(MINUTE).issue().unwrap();
    let good = connection(issuer());
    assert_eq!(Connected::connect(&server, &good).await.code(), None);
    let now = SystemTime::now();
    let early = now - 60 * MINUTE;
    let other = SigningKey::danger_short_secret(Algorithm::Hs256, "other").unwrap();
    let anonymous = issuer().anonymous_subscription("plain:a").expires_in(MINUTE).issue().unwrap();
    let cases = [
        ("no JWT", "a.b.c".to_owned(), INVALID_TOKEN),
        ("without a signature", good[..=good.rfind('.').unwrap()].to_owned(), INVALID_TOKEN),
        ("changed", format!("{}A{}", &good[..60], &good[61..]), INVALID_TOKEN),
        ("another secret", connection(TokenIssuer::new(other).issuer("shop").audience("ws")), INVALID_TOKEN),
        ("another issuer", connection(TokenIssuer::hmac_sha256(SECRET).unwrap().audience("ws")), INVALID_TOKEN),
        ("another audience", connection(TokenIssuer::hmac_sha256(SECRET).unwrap().issuer("shop")), INVALID_TOKEN),
        ("another algorithm", connection(self::issuer(Algorithm::Es256).issuer("shop").audience("ws")), INVALID_TOKEN),
        ("ended", issuer().connection("42").issued_at(early).expires_in(MINUTE).issue().unwrap(), TOKEN_EXPIRED),
        (
            "not valid yet",
            issuer().connection("42").expires_in(3 * MINUTE).not_before(now + MINUTE).issue().unwrap(),
            TOKEN_EXPIRED,
        ),
        ("for a subscription", anonymous, INVALID_TOKEN),
        (
            "for a channel that is not known",
            issuer().connection("42").expires_in(MINUTE).channel("unknown:a").issue().unwrap(),
            Some(102),
        ),
    ];
    for (what, token, code) in cases {
        let client = Connected::connect(&server, &token).await;
        assert_eq!(client.code(), code, "{what}: {:?}", client.replies);
        if what == "changed" || what == "ended" {
            let verified = issuer().verifier().unwrap().verify(&token);
            assert!(verified.is_err(), "{what}: the server refuses what is accepted here");
        }
    }
    let subscription = issuer().subscription("42", "plain:a").issued_at(early).expires_in(MINUTE).issue().unwrap();
    assert_eq!(Connected::subscribe(&server, &good, "plain:a", &subscription).await.code(), TOKEN_EXPIRED);
    let other = SigningKey::danger_short_secret(Algorithm::Hs256, "other").unwrap();
    let other = TokenIssuer::new(other).issuer("shop").audience("ws");
    let for_another = TokenIssuer::hmac_sha256(SECRET).unwrap().issuer("shop").audience("api");
    for (what, token) in [
        ("a connection token, which names no channel", good.clone()),
        ("another secret", other.subscription("42", "plain:a").expires_in(MINUTE).issue().unwrap()),
        ("another audience", for_another.subscription("42", "plain:a").expires_in(MINUTE).issue().unwrap()),
        ("no JWT", "a.b.c".to_owned()),
    ] {
        let client = Connected::subscribe(&server, &good, "plain:a", &token).await;
        assert_eq!(client.code(), PERMISSION_DENIED, "{what}: {:?}", client.replies);
    }
}

#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn a_signature_of_keys_is_accepted_for_them_only() {
    let server = server(json!({"hmac_secret_key": SECRET})).await;
    let token = TokenIssuer::hmac_sha256(SECRET).unwrap().connection("42").expires_in(MINUTE).issue().unwrap();
    let signer = SharedPollSigner::new(SECRET).unwrap();
    let track = async |signature: String, keys: &[&str]| {
        let items: Vec<_> = keys.iter().map(|key| json!({"key": key})).collect();
        let track = json!({"channel": "poll:prices", "type": 1, "track": [{"signature": signature, "items": items}]});
        let subscribe = json!({"subscribe": {"channel": "poll:prices", "type": 4}});
        let commands = [json!({"connect": {"token": token}}), subscribe, json!({"sub_refresh": track})];
        let client = Connected::new(&server, &commands).await;
        assert!(client.reply(2)["error"].is_null(), "{:?}", client.replies);
        client.code()
    };
    let sign = |user: &str, keys: &[&str]| signer.sign(user, "poll:prices", keys.iter().copied());
    let keys = ["AAPL", "GOOG"];
    assert_eq!(track(sign("42", &keys).expires_in(MINUTE).issue().unwrap(), &keys).await, None);
    assert_eq!(track(sign("42", &keys).never_expires().issue().unwrap(), &keys).await, None);
    for (user, keys) in [("1", &keys[..]), ("42", &["AAPL"]), ("42", &["GOOG", "AAPL"])] {
        let signature = sign(user, keys).expires_in(MINUTE).issue().unwrap();
        assert_eq!(track(signature, &["AAPL", "GOOG"]).await, PERMISSION_DENIED, "{user} {keys:?}");
    }
    let early = SystemTime::now() - 60 * MINUTE;
    let ended = sign("42", &keys).issued_at(early).expires_in(MINUTE).issue().unwrap();
    assert_eq!(track(ended, &keys).await, TOKEN_EXPIRED);
}

/// The open-source server takes API keys only. That calls have a token, and that a server with the key set would take
/// it, is tested in `bearer`: here only that it is refused where it must be, and does no harm where nothing is checked.
#[tokio::test]
#[ignore = "needs the server's binary: see the top of the file"]
async fn a_bearer_token_is_refused_by_the_open_source_server_that_has_a_key() {
    let tokens = || TokenIssuer::hmac_sha256(SECRET).unwrap().audience("api").api_tokens(MINUTE);
    for insecure in [false, true] {
        let server = Process::start_with(|config| {
            if insecure {
                config["http_api"] = json!({"insecure": true});
                config["grpc_api"]["key"] = "".into();
            }
        })
        .await;
        let grpc = Client::new(Config::grpc(server.grpc_url()).bearer_token(tokens())).unwrap();
        let http = Client::new(Config::http(server.http_url()).bearer_token(tokens())).unwrap();
        for client in [grpc, http] {
            let result = client.info(InfoRequest::new()).await;
            assert_eq!(result.is_ok(), insecure, "{result:?}");
            assert!(result.err().is_none_or(|error| error.is_unauthenticated()));
        }
    }
}
