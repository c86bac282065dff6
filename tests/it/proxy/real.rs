//! A real Centrifugo calls the handlers, over HTTP and over gRPC, for clients over WebSocket.
//!
//! Ignored unless asked for; needs the server's binary:
//!
//! ```text
//! CENTRIFUGO_TEST_BINARY=centrifugo cargo test --all-features --test it -- --ignored real_centrifugo
//! ```
//!
//! With `CENTRIFUGO_TEST_RECORD=1` it also writes what it saw to `tests/fixtures/proxy/`.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use centrifugo_api::proxy::{self, ServerConfig};
use centrifugo_api::token::SharedPollSigner;
use serde_json::{Value, json};

use super::backend::Backend;
use super::serve::{Log, serve};
use super::websocket::WebSocket;

const KEY: &str = "a key of the proxy";

/// A server in a process of its own. It is killed when this is dropped.
pub(crate) struct Centrifugo {
    child: Child,
    directory: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Centrifugo {
    /// Starts one with this configuration, which is given in one of the forms that can be printed.
    pub(crate) async fn start(printed: Value) -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("centrifugo-api-proxy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = json!({
            "http_server": {"address": "127.0.0.1", "port": address.port()},
            "health": {"enabled": true},
            "http_api": {"key": "api_key"},
            "shared_poll": {"hmac_secret_key": "shared_poll_secret"},
            // Subscriptions are looked at this often.
            "client": {"presence_update_interval": "1s", "expired_sub_close_delay": "1s"},
            "channel": {
                "without_namespace": {"presence": true, "history_size": 10, "history_ttl": "60s"},
                "namespaces": [
                    {
                        "name": "map", "subscription_type": "map", "allow_subscribe_for_client": true,
                        "map": {"mode": "ephemeral", "key_ttl": "60s", "publish_proxy_enabled": true, "remove_proxy_enabled": true},
                    },
                    {
                        "name": "poll", "subscription_type": "shared_poll", "allow_subscribe_for_client": true,
                        "shared_poll": {"refresh_interval": "200ms"},
                    },
                ],
            },
        });
        merge(&mut config, printed);
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let binary = std::env::var_os("CENTRIFUGO_TEST_BINARY");
        let binary = binary.expect("CENTRIFUGO_TEST_BINARY is not set: see tests/it/proxy/real.rs");
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CENTRIFUGO_")) {
            command.env_remove(name);
        }
        command.arg("--config").arg(directory.join("config.json")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Self { child, directory, address };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "{}", server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap()
    }
}

impl Drop for Centrifugo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn merge(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (name, value) in from {
                merge(to.entry(name).or_insert(Value::Null), value);
            }
        }
        (to, from) => *to = from,
    }
}

/// Runs every case, and returns what the client saw of each with what the backend was asked for it.
async fn run(server: &Centrifugo, log: &Log) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut keep = |name: String, client: Value| {
        let calls = std::mem::take(&mut *log.lock().unwrap());
        for mut line in calls {
            line["name"] = name.clone().into();
            line["client"] = client.clone();
            lines.push(line);
        }
    };
    for case in [
        "ok",
        "anonymous",
        "full",
        "headers",
        "binary",
        "not_json_meta",
        "error",
        "temporary",
        "disconnect",
        "final",
        "invalid",
        "internal",
        "panic",
        "slow",
    ] {
        let mut socket = WebSocket::open(server.address, "Cookie: session=1\r\nX-Proxy-Key: stolen\r\n").await;
        let headers = json!({"x-emulated": "e", "x-proxy-key": "stolen", "cookie": "forged"});
        let reply = socket.call("connect", json!({"data": {"case": case}, "headers": headers, "name": "test"})).await;
        keep(format!("connect/{case}"), reply);
    }
    for case in ["ok", "full", "binary", "error", "temporary", "disconnect", "final", "internal", "panic", "slow"] {
        let mut socket = connected(server, log).await;
        let reply = socket.call("subscribe", json!({"channel": case, "data": {"d": 1}})).await;
        keep(format!("subscribe/{case}"), reply);
    }
    for case in ["ok", "full", "unkept", "error", "disconnect", "internal", "panic", "slow"] {
        let mut socket = connected(server, log).await;
        let reply = socket.call("publish", json!({"channel": case, "data": {"n": [1.0, 2]}})).await;
        keep(format!("publish/{case}"), reply);
    }
    for case in ["echo", "meta", "none", "binary", "error", "disconnect", "internal", "panic", "slow"] {
        let mut socket =
            if case == "meta" { connected_as(server, log, "full").await } else { connected(server, log).await };
        let reply = socket.call("rpc", json!({"method": case, "data": {"p": "ä\u{1F600}"}})).await;
        keep(format!("rpc/{case}"), reply);
    }
    for case in ["ok", "renamed", "error", "disconnect", "internal"] {
        let mut socket = connected(server, log).await;
        let publish = json!({"channel": "map:a", "type": 1, "key": case, "data": {"v": 1}});
        let reply = socket.call("publish", publish).await;
        keep(format!("map_publish/{case}"), reply);
        let mut socket = connected(server, log).await;
        let remove = json!({"channel": "map:a", "type": 1, "key": case, "removed": true});
        let reply = socket.call("publish", remove).await;
        keep(format!("map_remove/{case}"), reply);
    }
    for case in ["ok", "expired", "error", "disconnect", "internal"] {
        let mut socket = WebSocket::open(server.address, "").await;
        socket.call("connect", json!({"data": {"case": format!("refresh-{case}")}})).await;
        log.lock().unwrap().clear();
        let seen = socket.within(Duration::from_millis(2500)).await;
        keep(format!("refresh/{case}"), seen);
        let mut socket = connected(server, log).await;
        socket.call("subscribe", json!({"channel": format!("expiring-{case}")})).await;
        log.lock().unwrap().clear();
        let seen = socket.within(Duration::from_millis(5500)).await;
        keep(format!("sub_refresh/{case}"), seen);
    }
    let mut socket = connected(server, log).await;
    socket.call("subscribe", json!({"channel": "poll:prices", "type": 4})).await;
    log.lock().unwrap().clear();
    let keys = ["AAPL", "gone"];
    let signer = SharedPollSigner::danger_short_secret("shared_poll_secret").unwrap();
    let signature = signer.sign("ok", "poll:prices", keys).expires_in(Duration::from_secs(60)).issue().unwrap();
    let items: Vec<_> = keys.iter().map(|key| json!({"key": key})).collect();
    let track = json!({"channel": "poll:prices", "type": 1, "track": [{"signature": signature, "items": items}]});
    let reply = socket.call("sub_refresh", track).await;
    let seen = socket.within(Duration::from_secs(1)).await;
    drop(socket);
    log.lock().unwrap().truncate(2);
    keep("shared_poll_refresh/ok".into(), json!([reply, seen]));
    lines
}

/// A client that is connected as the user `ok`.
async fn connected(server: &Centrifugo, log: &Log) -> WebSocket {
    connected_as(server, log, "ok").await
}

async fn connected_as(server: &Centrifugo, log: &Log, user: &str) -> WebSocket {
    let mut socket = WebSocket::open(server.address, "").await;
    let reply = socket.call("connect", json!({"data": {"case": user}})).await;
    assert!(reply["connect"].is_object(), "{reply}\n{}", server.log());
    log.lock().unwrap().clear();
    socket
}

/// The cases of a server that sends data in base64.
async fn run_binary(server: &Centrifugo, log: &Log) -> Vec<Value> {
    let mut lines = Vec::new();
    log.lock().unwrap().clear();
    for (name, command, request) in [
        ("connect", "connect", json!({"data": {"case": "full"}})),
        ("subscribe", "subscribe", json!({"channel": "full", "data": {"d": 1}})),
        ("publish", "publish", json!({"channel": "full", "data": {"n": 1}})),
        ("rpc", "rpc", json!({"method": "echo", "data": {"p": "ä"}})),
        ("map_publish", "publish", json!({"channel": "map:a", "type": 1, "key": "ok", "data": {"v": 1}})),
    ] {
        let mut socket = match name {
            "connect" => WebSocket::open(server.address, "").await,
            _ => connected_as(server, log, "full").await,
        };
        let client = socket.call(command, request).await;
        for mut line in std::mem::take(&mut *log.lock().unwrap()) {
            line["name"] = format!("{name}/base64").into();
            line["client"] = client.clone();
            lines.push(line);
        }
    }
    lines
}

fn printed(config: &ServerConfig) -> Value {
    serde_json::from_str(&config.json().unwrap()).unwrap()
}

fn config(endpoint: String) -> ServerConfig {
    proxy::config::<Backend>(endpoint)
        .key_header("x-proxy-key", KEY)
        .proxied_headers(["Cookie"])
        .emulated_headers(["X-Emulated"])
        .include_meta(true)
}

fn check(lines: &[Value]) {
    let client = |name: &str| {
        let line = lines.iter().find(|line| line["name"] == name);
        &line.unwrap_or_else(|| panic!("{name} was not called"))["client"]
    };
    assert_eq!(
        client("connect/headers")["connect"]["data"],
        json!({"cookie": "session=1", "emulated": "e", "key": null})
    );
    assert_eq!(client("connect/full")["connect"]["data"], json!([1, null, "x"]));
    for method in ["connect", "subscribe", "publish", "rpc", "map_publish", "map_remove"] {
        assert_eq!(client(&format!("{method}/error"))["error"], json!({"code": 1042, "message": "no, because"}));
        assert_eq!(client(&format!("{method}/disconnect"))["closed"], json!([4242, "go away"]), "{method}");
        assert_eq!(client(&format!("{method}/internal"))["error"]["code"], 100, "{method}");
    }
    for method in ["connect", "subscribe", "publish", "rpc"] {
        for case in ["panic", "slow"] {
            assert_eq!(client(&format!("{method}/{case}"))["error"]["code"], 100, "{method}/{case}");
        }
    }
    for rejected in ["expired", "error", "disconnect"] {
        assert_eq!(client(&format!("refresh/{rejected}"))["closed"][0], 3005, "{rejected}");
        let unsubscribed = client(&format!("sub_refresh/{rejected}"));
        assert_eq!(unsubscribed["push"]["unsubscribe"]["code"], 2501, "{rejected}: {unsubscribed}");
    }
    // The server carries out what a client may do to a map, and then tells the client 107.
    for case in ["map_publish/ok", "map_publish/base64", "map_remove/ok"] {
        assert!(matches!(client(case)["error"]["code"].as_u64(), None | Some(107)), "{case}: {}", client(case));
    }
    for method in ["connect", "subscribe", "publish", "rpc"] {
        assert!(client(&format!("{method}/base64"))["error"].is_null(), "{}", client(&format!("{method}/base64")));
    }
    assert_eq!(client("rpc/meta")["rpc"]["data"], json!({"plan": "gold"}));
    for goes_on in ["refresh/ok", "refresh/internal", "sub_refresh/ok", "sub_refresh/internal"] {
        assert!(client(goes_on).is_null() || client(goes_on)["closed"].is_null(), "{goes_on}: {}", client(goes_on));
    }
}

fn record(file: &str, lines: &[Value]) {
    if std::env::var_os("CENTRIFUGO_TEST_RECORD").is_some() {
        let text = lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n");
        std::fs::write(format!("{}/tests/fixtures/proxy/{file}", env!("CARGO_MANIFEST_DIR")), text).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a real Centrifugo: see tests/it/proxy/real.rs"]
async fn a_real_centrifugo_calls_the_handlers_over_http() {
    let (address, log) = serve(proxy::http(Backend).key_header("X-Proxy-Key", KEY), false).await;
    let config = config(format!("http://{address}/centrifugo"));
    let server = Centrifugo::start(printed(&config)).await;
    let mut lines = run(&server, &log).await;
    let server = Centrifugo::start(printed(&config.binary(true))).await;
    lines.extend(run_binary(&server, &log).await);
    record("http.ndjson", &lines);
    check(&lines);
}

#[tokio::test]
#[ignore = "needs a real Centrifugo: see tests/it/proxy/real.rs"]
async fn a_real_centrifugo_calls_the_handlers_over_grpc() {
    let (address, log) = serve(proxy::grpc(Backend).key_header("X-Proxy-Key", KEY), true).await;
    let config = config(format!("grpc://{address}"));
    let server = Centrifugo::start(printed(&config)).await;
    let mut lines = run(&server, &log).await;
    let server = Centrifugo::start(printed(&config.binary(true))).await;
    lines.extend(run_binary(&server, &log).await);
    record("grpc.ndjson", &lines);
    check(&lines);
}
