//! The recorded exchanges with a real server: every response is read as what it says, every request is written as it was
//! recorded, and both transports agree. See `tests/fixtures/README.md`.

mod requests;
mod responses;
mod setters;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use centrifugo_api::transport::Call;
use centrifugo_api::{Client, Error, ErrorKind, Method};
use serde_json::{Value, json};

use crate::support::recorded::{GrpcLine, HttpLine, grpc_lines, http_lines};
use crate::support::{block_on, client_responding};

/// Recorded over HTTP, and no call that a client makes: another HTTP method, the older form, other paths, a key in the
/// query.
const NO_HTTP_CALLS: &[&str] = &[
    "error_mode/http_legacy_not_affected",
    "http/auth_query",
    "http/auth_query_with_bad_header",
    "http/health",
    "http/health_post",
    "http/legacy_array_body",
    "http/legacy_batch_not_supported",
    "http/legacy_empty_body",
    "http/legacy_error_mode_ignored",
    "http/legacy_error_with_id",
    "http/legacy_method_missing",
    "http/legacy_method_number",
    "http/legacy_method_pro",
    "http/legacy_method_unknown",
    "http/legacy_params_missing",
    "http/legacy_publish",
    "http/legacy_two_commands",
    "http/method_get",
    "http/method_get_no_key",
    "http/method_head",
    "http/method_options",
    "http/method_put",
    "http/metrics_not_enabled",
    "http/path_double_slash",
    "http/path_root",
    "http/path_trailing_slash",
    "http/path_unknown",
    "http/path_unknown_no_key",
    "http/path_upper",
    "insecure/http_get",
];

/// Recorded over gRPC, and no call that a client makes: other services and methods that do not exist.
const NO_GRPC_CALLS: &[&str] =
    &["grpc/health_service_absent", "grpc/unknown_method", "grpc/unknown_method_no_key", "grpc/unknown_service"];

/// The lines that record a call of a method, and that method. The others are exactly those of `left_out`.
fn calls<L>(
    lines: Vec<L>,
    called: fn(&L) -> Option<Method>,
    name: fn(&L) -> &str,
    left_out: &[&str],
) -> Vec<(Method, L)> {
    let mut others = BTreeSet::new();
    let mut calls = Vec::new();
    for line in lines {
        match called(&line) {
            Some(method) => calls.push((method, line)),
            None => assert!(others.insert(name(&line).to_owned())),
        }
    }
    assert_eq!(others, names(left_out));
    calls
}

fn http_calls() -> Vec<(Method, HttpLine)> {
    calls(http_lines(), HttpLine::called, |line| &line.name, NO_HTTP_CALLS)
}

fn grpc_calls() -> Vec<(Method, GrpcLine)> {
    calls(grpc_lines(), GrpcLine::called, |line| &line.name, NO_GRPC_CALLS)
}

fn masked(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(masked).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| name != "uptime")
            .map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    (
                        "epoch" | "since_epoch" | "revision_epoch" | "uid" | "client" | "time" | "metrics"
                        | "expire_at",
                        Value::String(_) | Value::Number(_) | Value::Object(_),
                    ) => json!("*"),
                    ("whitelist", Value::Array(clients)) => json!(clients.len()),
                    // By client id.
                    ("presence", Value::Object(clients)) => {
                        let mut clients: Vec<_> = clients.into_iter().map(|(_, client)| masked(client)).collect();
                        clients.sort_by_key(Value::to_string);
                        clients.into()
                    }
                    (_, value) => masked(value),
                };
                (name, value)
            })
            .collect(),
        other => other,
    }
}

/// What a request looks like on its way.
struct Sent {
    json: Vec<u8>,
    protobuf: Vec<u8>,
}

/// What `send` hands to the transport, or the error of a request that is not sent.
fn sent<T>(send: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<Sent, Error> {
    let seen = Arc::new(Mutex::new(None));
    let record = Arc::clone(&seen);
    let client = client_responding(move |call: &Call<'_>| {
        *record.lock().unwrap() = Some(Sent { json: call.to_json()?.to_vec(), protobuf: call.to_protobuf()?.to_vec() });
        Err(Error::new(ErrorKind::Connect, "recorded"))
    });
    // To PRO, because a request with its fields goes to no other.
    let error = block_on(send(&client.with_pro(true))).err().unwrap();
    seen.lock().unwrap().take().ok_or(error)
}

/// A request without the fields that say what their absence says. What stands in a field for data is left alone.
fn without_defaults(value: Value) -> Value {
    const DATA: &[&str] = &["data", "info", "params", "stream_data"];
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = if DATA.contains(&&*name) { value } else { without_defaults(value) };
                (name, value)
            })
            .filter(|(name, value)| {
                DATA.contains(&&**name)
                    || !(*value == json!("") || *value == json!(0) || *value == json!(false) || *value == json!([]))
            })
            .collect(),
        Value::Array(values) => values.into_iter().map(without_defaults).collect(),
        other => other,
    }
}

fn parsed(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
