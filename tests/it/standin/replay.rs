//! The stand-in server against the exchanges recorded from a real one: the same requests, in the same order, to a fresh
//! server with the same configuration, must get the same responses.
//!
//! What differs from run to run is compared by what it stands for: an epoch must be the same one wherever the recording
//! has the same one (and is put into later requests), times need only be there, and of a node only what is not a counter.
//! Exchanges that need subscribers are left out, by the recording's own word (`given`); nothing else is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use centrifugo_api::testing::{DataFormat, MapMode, Namespace, Server};
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::support::raw::{self, Grpc};
use crate::support::recorded::{self, POOL, from_hex};

const CONFIGS: &str = include_str!("../../fixtures/server-configs.json");

/// The headers that the recording has.
const HEADERS: [&str; 6] =
    ["content-type", "x-content-type-options", "location", "allow", "connection", "www-authenticate"];

#[tokio::test]
async fn http_exchanges_match_the_recording() {
    let mut replay = Replay::new(recorded::HTTP);
    while let Some(exchanges) = replay.next_config().await {
        for exchange in &exchanges.list {
            let outcome = http(&exchanges.server, exchange, &mut replay.volatile).await;
            replay.note(exchange, outcome);
        }
    }
    replay.end(355, 36);
}

#[tokio::test]
async fn grpc_exchanges_match_the_recording() {
    let mut replay = Replay::new(recorded::GRPC);
    while let Some(exchanges) = replay.next_config().await {
        let mut client = Grpc::connect(exchanges.server.grpc_addr()).await.unwrap();
        for exchange in &exchanges.list {
            let outcome = grpc(&mut client, exchange, &mut replay.volatile).await;
            replay.note(exchange, outcome);
        }
    }
    replay.end(311, 36);
}

/// What is wrong, in words.
type Outcome = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, live: &T, recorded: &T) -> Outcome {
    if live == recorded { Ok(()) } else { Err(format!("{what}\n    live:     {live:?}\n    recorded: {recorded:?}")) }
}

async fn http(server: &Server, exchange: &Value, volatile: &mut Volatile) -> Outcome {
    let text = |field: &str| exchange[field].as_str().unwrap_or_default();
    let body = volatile.live(text("request_body").as_bytes());
    let headers: Vec<(&str, &str)> = exchange["request_headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    let page = raw::http(server.http_addr(), text("method"), text("method_path"), &headers, body)
        .await
        .map_err(|error| format!("no response: {error}"))?;
    same("status", &Value::from(page.status.as_u16()), &exchange["status"])?;
    let live: BTreeMap<&str, &str> =
        HEADERS.iter().filter_map(|name| Some((*name, page.headers.get(*name)?.to_str().ok()?))).collect();
    same("headers", &serde_json::to_value(live).unwrap(), &exchange["response_headers"])?;

    let recorded = text("response_body").as_bytes();
    // Several values stand after one another in responses of the older form.
    let values = |body| serde_json::Deserializer::from_slice(body).into_iter().flatten().collect::<Vec<Value>>();
    let (mut live, mut wanted) = (values(&page.body), values(recorded));
    for (live, wanted) in live.iter().zip(&wanted) {
        volatile.learn(live, wanted)?;
    }
    if recorded.windows(9).any(|window| window == b"\"metrics\"") {
        live.iter_mut().chain(&mut wanted).for_each(mask);
        let wanted: Vec<u8> = volatile.live(&serde_json::to_vec(&wanted).unwrap());
        return same("body", &serde_json::to_value(live).unwrap(), &serde_json::from_slice(&wanted).unwrap());
    }
    let shown = |body: &[u8]| body.escape_ascii().to_string();
    same("body", &shown(&without_times(&page.body)), &shown(&without_times(&volatile.live(recorded))))
}

async fn grpc(client: &mut Grpc, exchange: &Value, volatile: &mut Volatile) -> Outcome {
    let text = |field: &str| exchange[field].as_str();
    let path = text("rpc").unwrap_or_default();
    let message = volatile.live(&from_hex(text("request_hex").unwrap_or_default()));
    let metadata: Vec<(&str, &str)> = exchange["metadata"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    let gzip = exchange["name"] == "grpc/gzip_request";
    let response =
        client.call(path, &metadata, message, gzip).await.map_err(|error| format!("no response: {error}"))?;
    same("code", &Value::from(response.code), &exchange["code"])?;
    same("message", &Value::from(response.message), &exchange["message"])?;
    let details = response.metadata.get("grpc-status-details-bin").map(|details| {
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(details).expect("the details are base64")
    });
    same("details", &details, &text("status_details_hex").map(from_hex))?;
    same("compressed", &response.compressed, &gzip)?;

    let Some(recorded) = text("response_hex") else { return same("body", &response.body, &None) };
    let body = response.body.ok_or("no body")?;
    let descriptor = path
        .rsplit_once('/')
        .and_then(|(service, name)| POOL.get_service_by_name(service)?.methods().find(|method| method.name() == name));
    let descriptor = descriptor.ok_or("a method that is not in the schema")?.output();
    let decode = |bytes: Bytes| -> Result<Value, String> {
        let message = DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| error.to_string())?;
        if message.unknown_fields().next().is_some() {
            return Err("fields that are not in the schema".into());
        }
        let options = SerializeOptions::new().use_proto_field_name(true);
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())
    };
    let (mut live, mut wanted) = (decode(body.clone())?, exchange["response_json"].clone());
    same("the recording, decoded", &decode(from_hex(recorded).into())?, &wanted)?;
    volatile.learn(&live, &wanted)?;
    wanted = serde_json::from_slice(&volatile.live(wanted.to_string().as_bytes())).unwrap();
    mask(&mut live);
    mask(&mut wanted);
    same("message", &live, &wanted)?;
    // Byte for byte, but where maps (in any order), times and counters are.
    let shown = live.to_string();
    if !["\"tags\"", "\"time\"", "\"nodes\""].iter().any(|name| shown.contains(name)) {
        same("bytes", &body.to_vec(), &volatile.live(&from_hex(recorded)))?;
    }
    Ok(())
}

/// One file of exchanges on its way.
struct Replay {
    /// By configuration, in the order recorded.
    left: Vec<(String, Vec<Value>)>,
    volatile: Volatile,
    compared: usize,
    left_out: usize,
    failures: String,
    failed: usize,
}

struct Exchanges {
    server: Server,
    list: Vec<Value>,
}

impl Replay {
    fn new(file: &str) -> Self {
        let mut exchanges: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        exchanges.sort_by_key(|exchange| exchange["seq"].as_u64());
        let mut left: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut left_out = 0;
        for exchange in exchanges {
            if exchange["given"].is_null() {
                let config = exchange["server_config"].as_str().unwrap().to_owned();
                left.entry(config).or_default().push(exchange);
            } else {
                left_out += 1;
            }
        }
        let left = left.into_iter().collect();
        Self { left, volatile: Volatile::default(), compared: 0, left_out, failures: String::new(), failed: 0 }
    }

    /// Starts a fresh server for the next configuration.
    async fn next_config(&mut self) -> Option<Exchanges> {
        let (config, list) = self.left.pop()?;
        let configs: Value = serde_json::from_str(CONFIGS).unwrap();
        self.volatile = Volatile::default();
        Some(Exchanges { server: server(&configs[&config]).await, list })
    }

    fn note(&mut self, exchange: &Value, outcome: Outcome) {
        self.compared += 1;
        if let Err(why) = outcome {
            self.failed += 1;
            let _ = writeln!(self.failures, "{} (seq {}): {why}", exchange["name"], exchange["seq"]);
        }
    }

    fn end(self, compared: usize, left_out: usize) {
        assert!(self.failures.is_empty(), "{} of {} differ:\n{}", self.failed, self.compared, self.failures);
        assert_eq!((self.compared, self.left_out), (compared, left_out), "exchanges compared and left out");
    }
}

/// What differs from run to run.
#[derive(Default)]
struct Volatile {
    /// From the recording's epochs to those of this run.
    epochs: HashMap<String, String>,
}

impl Volatile {
    /// Takes the recording's bytes for this run: its epochs are replaced.
    fn live(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for at in 0..bytes.len().saturating_sub(7) {
            let found = std::str::from_utf8(&bytes[at..at + 8]).ok().and_then(|text| self.epochs.get(text));
            if let Some(live) = found {
                bytes[at..at + 8].copy_from_slice(live.as_bytes());
            }
        }
        bytes
    }

    /// Pairs the epochs of two responses.
    fn learn(&mut self, live: &Value, recorded: &Value) -> Outcome {
        match (live, recorded) {
            (Value::Object(live), Value::Object(recorded)) => {
                for (name, recorded) in recorded {
                    let Some(live) = live.get(name) else { continue };
                    match (name.as_str(), live, recorded) {
                        ("epoch", Value::String(live), Value::String(recorded)) if !recorded.is_empty() => {
                            if live.len() != 8 || !live.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                                return Err(format!("the epoch {live:?} is not eight letters"));
                            }
                            let known = self.epochs.entry(recorded.clone()).or_insert_with(|| live.clone());
                            same("epoch", live, known)?;
                            if self.epochs.values().filter(|known| *known == live).count() > 1 {
                                return Err(format!("the epoch {live} is not a new one"));
                            }
                        }
                        _ => self.learn(live, recorded)?,
                    }
                }
                Ok(())
            }
            (Value::Array(live), Value::Array(recorded)) => {
                live.iter().zip(recorded).try_for_each(|(live, recorded)| self.learn(live, recorded))
            }
            _ => Ok(()),
        }
    }
}

/// Takes away what no two runs have in common.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("uptime");
            for (name, value) in fields {
                match name.as_str() {
                    "uid" | "metrics" | "time" => *value = Value::Null,
                    _ => mask(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

/// JSON without the digits after `"time":`.
fn without_times(body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for byte in body {
        let digits = out.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let in_time = out[..out.len() - digits].ends_with(b"\"time\":");
        if !(in_time && digits == 1 && byte.is_ascii_digit()) {
            out.push(if in_time && byte.is_ascii_digit() { b'0' } else { *byte });
        }
    }
    out
}

/// A stand-in that is configured as the real server was.
async fn server(config: &Value) -> Server {
    let http = &config["http_api"];
    let grpc = &config["grpc_api"];
    let channel = &config["channel"];
    let mut builder = Server::builder()
        .node_name(config["node"]["name"].as_str().unwrap())
        .without_namespace(namespace(&channel["without_namespace"]))
        .grpc_api_key(grpc["key"].as_str().unwrap_or_default());
    if http["insecure"] != true {
        builder = builder.http_api_key(http["key"].as_str().unwrap_or_default());
    }
    if http["error_mode"] == "transport" {
        builder = builder.error_mode_transport();
    }
    if let Some(size) = grpc["max_receive_message_size"].as_u64() {
        builder = builder.max_grpc_message(usize::try_from(size).unwrap());
    }
    for settings in channel["namespaces"].as_array().unwrap() {
        builder = builder.namespace(namespace(settings));
    }
    builder.start().await.unwrap()
}

fn namespace(settings: &Value) -> Namespace {
    let seconds = |value: &Value| {
        let seconds = value.as_str().unwrap_or("0s").strip_suffix('s').unwrap().parse().unwrap();
        Duration::from_secs(seconds)
    };
    let size = |value: &Value, default| value.as_u64().map_or(default, |size| usize::try_from(size).unwrap());
    let namespace = Namespace::new(settings["name"].as_str().unwrap_or_default())
        .history(size(&settings["history_size"], 0), seconds(&settings["history_ttl"]))
        .presence(settings["presence"] == true)
        .data_format(match settings["publication_data_format"].as_str() {
            Some("json") => DataFormat::Json,
            Some("json_object") => DataFormat::JsonObject,
            Some("binary") => DataFormat::Binary,
            _ => DataFormat::Any,
        });
    match settings["subscription_type"].as_str() {
        Some("map") => {
            let map = &settings["map"];
            let key_ttl = seconds(&map["key_ttl"]);
            let mode = match map["mode"].as_str() {
                Some("recoverable") => MapMode::Recoverable { key_ttl },
                Some("ephemeral") => MapMode::Ephemeral { key_ttl },
                _ => MapMode::Persistent,
            };
            namespace.map(mode).map_stream(size(&map["stream_size"], 100), Duration::from_secs(60))
        }
        Some("shared_poll") => namespace.shared_poll(settings["shared_poll"]["publish_enabled"] == true),
        _ => namespace,
    }
}
