//! The recorded exchanges with a real server: every answer is read as what it says, every request is written as it was
//! recorded, and both transports agree. See `tests/fixtures/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use centrifugo_api::{
    AsRequest, Batch, BroadcastRequest, Call, ChannelsRequest, Client, Disconnect, DisconnectRequest, Error, ErrorKind,
    HistoryRemoveRequest, HistoryRequest, InfoRequest, MapClearRequest, MapPublishRequest, MapReadStateRequest,
    MapReadStreamRequest, MapRemoveRequest, MapStatsRequest, Method, Payload, PresenceRequest, PresenceStatsRequest,
    PublishRequest, RefreshRequest, Reply, Request, RpcRequest, SharedPollPublishRequest, StreamPosition,
    SubscribeOptionOverride, SubscribeRequest, UnsubscribeRequest,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::recorded::{
    GrpcLine, HttpLine, Outcome, Visitor, canonical, grpc_lines, http_lines, request_schema, result_schema,
    with_request,
};
use crate::support::{block_on, client_answering, client_replying};

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

fn failed(kind: ErrorKind, may_have_run: bool) -> Outcome {
    Outcome::Failed { kind, may_have_run }
}

/// What a reply of a batch that holds an error is: 104 says that there is no such command, except to `rpc`.
fn refused_in_batch(error: &Value, command: &Value) -> Outcome {
    match (refused(error), command.get("rpc")) {
        (Outcome::Refused { code: 104, .. }, None) => failed(ErrorKind::Unsupported, false),
        (refused, _) => refused,
    }
}

/// What was recorded as the reply to a command.
enum Recorded<'a> {
    Error(&'a Value),
    Result(&'a str, &'a Value),
}

/// The replies to a batch and what was recorded of each. The errors among them are what was recorded.
fn replies_of<'a>(
    name: &str,
    outcome: &'a Outcome,
    request: &Value,
    response: &'a Value,
) -> Vec<(&'a Outcome, Recorded<'a>)> {
    let Outcome::Replies(replies) = outcome else { panic!("{name}: {outcome:?}") };
    let recorded = response["replies"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(replies.len(), recorded.len(), "{name}");
    let pair = |(at, (reply, recorded)): (usize, (&'a Outcome, &'a Value))| {
        if let Some(error) = recorded.get("error") {
            assert_eq!(*reply, refused_in_batch(error, &request["commands"][at]), "{name}");
            return (reply, Recorded::Error(error));
        }
        let (method, result) = recorded.as_object().unwrap().iter().next().unwrap();
        (reply, Recorded::Result(method, result))
    };
    replies.iter().zip(recorded).enumerate().map(pair).collect()
}

fn refused(error: &Value) -> Outcome {
    let code = error["code"].as_u64().unwrap().try_into().unwrap();
    Outcome::Refused { code, message: error["message"].as_str().unwrap().to_owned() }
}

#[test]
fn every_answer_recorded_over_http_is_read_as_what_it_says() {
    let calls = http_calls();
    assert_eq!(calls.len(), 361);
    let mut seen = BTreeMap::<&str, usize>::new();
    for (method, line) in &calls {
        let outcome = line.outcome(*method);
        let body: Option<Value> = serde_json::from_str(&line.response_body).ok();
        let text = |outcome: &Outcome| match outcome {
            Outcome::Done { json: Some(json), .. } => json.clone(),
            other => panic!("{}: {other:?} to {}", line.name, line.response_body),
        };
        let kind = match (line.status, &body) {
            // The text is compared, so that no field, no default and no digit can be lost unnoticed.
            (200, Some(body)) if *method == Method::Batch => {
                let request: Value = serde_json::from_str(&line.request_body).unwrap();
                let replies = replies_of(&line.name, &outcome, &request, body);
                let written: Vec<_> = replies
                    .iter()
                    .map(|(reply, recorded)| match recorded {
                        Recorded::Error(error) => json!({ "error": error }).to_string(),
                        Recorded::Result(method, _) => format!("{{\"{method}\":{}}}", text(reply)),
                    })
                    .collect();
                if !written.is_empty() {
                    assert_eq!(format!("{{\"replies\":[{}]}}", written.join(",")), line.response_body, "{}", line.name);
                }
                "batch"
            }
            (200, Some(body)) if body.get("error").is_some() => {
                assert_eq!(outcome, refused(&body["error"]), "{}", line.name);
                "error"
            }
            (200, _) => {
                assert_eq!(format!("{{\"result\":{}}}", text(&outcome)), line.response_body, "{}", line.name);
                "result"
            }
            (_, Some(error)) => {
                assert_eq!(outcome, refused(error), "{}", line.name);
                "error as a status"
            }
            (status, None) => {
                let expected = match status {
                    400 => failed(ErrorKind::Invalid, false),
                    401 => failed(ErrorKind::Unauthenticated, false),
                    404 => failed(ErrorKind::Unsupported, false),
                    500 => failed(ErrorKind::Protocol, true),
                    _ => panic!("{}: nobody said what {status} means", line.name),
                };
                assert_eq!(outcome, expected, "{}", line.name);
                "status"
            }
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(
        seen,
        BTreeMap::from([("batch", 14), ("error", 74), ("error as a status", 15), ("result", 207), ("status", 51)])
    );
}

#[test]
fn every_answer_recorded_over_grpc_is_read_as_what_it_says() {
    let calls = grpc_calls();
    assert_eq!(calls.len(), 343);
    let mut seen = BTreeMap::<&str, usize>::new();
    for (method, line) in &calls {
        let outcome = line.outcome(*method);
        let result = |outcome: &Outcome, method: Method| match outcome {
            Outcome::Done { protobuf, .. } => canonical(&result_schema(method), protobuf),
            other => panic!("{}: {other:?}", line.name),
        };
        let kind = match (line.code, &line.response_json) {
            (0, Some(response)) if *method == Method::Batch => {
                for (reply, recorded) in replies_of(&line.name, &outcome, line.request_json.as_ref().unwrap(), response)
                {
                    if let Recorded::Result(method, recorded) = recorded {
                        assert_eq!(result(reply, Method::from_name(method).unwrap()), *recorded, "{}", line.name);
                    }
                }
                "batch"
            }
            (0, Some(response)) if response.get("error").is_some() => {
                assert_eq!(outcome, refused(&response["error"]), "{}", line.name);
                "error"
            }
            (0, Some(response)) => {
                assert_eq!(result(&outcome, *method), response["result"], "{}", line.name);
                "result"
            }
            (_, None) if line.details().is_some() => {
                // The message of the status is that of the error, and each has its own code.
                let code = match line.message.as_str() {
                    "internal server error" => 100,
                    "unknown channel" => 102,
                    "not found" => 104,
                    "bad request" => 107,
                    "not available" => 108,
                    "unrecoverable position" => 112,
                    other => panic!("{}: nobody said which code {other:?} has", line.name),
                };
                assert_eq!(outcome, Outcome::Refused { code, message: line.message.clone() }, "{}", line.name);
                "error as a status"
            }
            (code, _) => {
                let expected = match code {
                    // What was refused is longer than the call made here, so for this one it proves nothing.
                    8 => failed(ErrorKind::TooLarge, true),
                    12 => failed(ErrorKind::Unsupported, false),
                    // All those recorded are "error unmarshalling request".
                    13 => failed(ErrorKind::Invalid, false),
                    16 => failed(ErrorKind::Unauthenticated, false),
                    _ => panic!("{}: nobody said what {code} means", line.name),
                };
                assert_eq!(outcome, expected, "{}", line.name);
                "status"
            }
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(
        seen,
        BTreeMap::from([("batch", 12), ("error", 79), ("error as a status", 15), ("result", 204), ("status", 33)])
    );
}

#[test]
fn calls_by_name_read_the_same_json_as_typed_calls() {
    let mut compared = 0;
    for (method, line) in http_calls().into_iter().filter(|(_, line)| line.status == 200) {
        if let Outcome::Done { json: Some(json), .. } = line.outcome(method) {
            let client = client_replying(Reply::json(line.response_body));
            let by_name = block_on(client.call_json::<Box<RawValue>>(method.name(), json!({})));
            assert_eq!(by_name.unwrap().get(), json, "{}", line.name);
            compared += 1;
        }
    }
    for (method, line) in grpc_calls() {
        let reply = line.response();
        if let (Outcome::Done { json, .. }, Some(reply)) = (line.outcome(method), reply) {
            let by_name = block_on(client_replying(reply).call_json::<Box<RawValue>>(method.name(), json!({})));
            // Bytes that are not JSON have no place in JSON, by name as by type.
            assert_eq!(by_name.ok().map(|result| result.get().to_owned()), json, "{}", line.name);
            compared += 1;
        }
    }
    // As many as there are results above.
    assert_eq!(compared, 207 + 204);
}

/// Where the transports differ, as the README of the fixtures says. Bytes that are not JSON have no place in an answer
/// over HTTP; without a key HTTP is closed and gRPC is open; only gRPC limits a request's size.
const TRANSPORTS_DIFFER: &[&str] = &[
    "batch/one_binary_result_fails_all_over_http",
    "history/binary_data",
    "limits/over",
    "map_read_state/binary",
    "no_key/info_unknown_namespace",
    "no_key/publish",
    "presence/binary_info",
];

#[test]
fn both_transports_tell_the_same_outcome() {
    let grpc: BTreeMap<_, _> =
        grpc_calls().into_iter().map(|(method, line)| (line.name.clone(), (method, line))).collect();
    let mut compared = 0;
    let mut differ = BTreeSet::new();
    for (method, http) in http_calls() {
        let Some((same_method, grpc)) = grpc.get(&http.name) else { continue };
        assert_eq!(method, *same_method, "{}", http.name);
        compared += 1;
        let (over_http, over_grpc) = (masked_outcome(http.outcome(method)), masked_outcome(grpc.outcome(method)));
        if over_http != over_grpc {
            assert!(TRANSPORTS_DIFFER.contains(&&*http.name), "{}: {over_http}, and {over_grpc}", http.name);
            differ.insert(http.name);
        }
    }
    assert_eq!(compared, 318);
    assert_eq!(differ, names(TRANSPORTS_DIFFER));
}

/// An outcome with what differs from server to server taken out.
fn masked_outcome(outcome: Outcome) -> Value {
    match outcome {
        // Half of a surrogate pair is JSON to the server and not to serde_json.
        Outcome::Done { json: Some(json), .. } => masked(parsed(json.replace(r"\ud800", "U+D800").as_bytes())),
        Outcome::Done { json: None, .. } => json!("a result that has no JSON form"),
        Outcome::Replies(replies) => replies.into_iter().map(masked_outcome).collect(),
        other => json!(format!("{other:?}")),
    }
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
    let client = client_answering(move |call: &Call<'_>| {
        *record.lock().unwrap() = Some(Sent { json: call.to_json()?.to_vec(), protobuf: call.to_protobuf()?.to_vec() });
        Err(Error::new(ErrorKind::Connect, "recorded"))
    });
    // To PRO, because a request with its fields goes to no other.
    let error = block_on(send(&client.with_pro(true))).err().unwrap();
    seen.lock().unwrap().take().ok_or(error)
}

/// Reads a request from JSON and sends it.
struct SendJson<'a>(&'a str);

impl Visitor for SendJson<'_> {
    type Out = Option<Result<Sent, Error>>;

    fn visit<R: Request + AsRequest<Request = R>>(self) -> Self::Out {
        let request: R = serde_json::from_str(self.0).ok()?;
        Some(sent(async |client| client.call(request).await))
    }
}

/// Reads a request from JSON and adds it to a batch.
struct PushJson<'a>(&'a mut Batch, &'a str);

impl Visitor for PushJson<'_> {
    type Out = Option<()>;

    fn visit<R: Request + AsRequest<Request = R>>(self) -> Self::Out {
        let request: R = serde_json::from_str(self.1).ok()?;
        self.0.push(request);
        Some(())
    }
}

/// Reads a request from protobuf and sends it.
struct SendProtobuf<'a>(&'a [u8]);

impl Visitor for SendProtobuf<'_> {
    type Out = Option<Result<Sent, Error>>;

    fn visit<R: Request + AsRequest<Request = R>>(self) -> Self::Out {
        let request = R::decode(self.0).ok()?;
        Some(sent(async |client| client.call(request).await))
    }
}

/// The recorded body, read into the request's own type and sent; nothing for a body that is no request.
fn resent(method: Method, body: &str) -> Option<Result<Sent, Error>> {
    if method == Method::Batch {
        return batch_of(body).map(|batch| sent(async |client| client.batch(&batch).await));
    }
    with_request(method, SendJson(body))
}

/// The recorded batch, pushed command by command; nothing if a command does not name exactly one method of the API.
fn batch_of(body: &str) -> Option<Batch> {
    let request: Value = serde_json::from_str(body).unwrap();
    let mut batch = Batch::new().parallel(request["parallel"].as_bool().unwrap_or_default());
    for command in request["commands"].as_array().map_or(&[][..], Vec::as_slice) {
        let mut methods = command.as_object()?.iter();
        let (Some((method, params)), None) = (methods.next(), methods.next()) else { return None };
        with_request(Method::from_name(method)?, PushJson(&mut batch, &params.to_string()))?;
    }
    Some(batch)
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

/// Names grouped by what was found of them.
type Found = BTreeMap<&'static str, BTreeSet<String>>;

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What the client refuses before it is sent, because the server answers as if it were broken.
const REFUSED_HERE: &[&str] = &["history/since_reverse_offset_0"];

/// The server reads names in any case, null for unset, unknown names, and a batch without a list. So does the client, which
/// writes none of them.
fn written_otherwise() -> BTreeMap<String, Value> {
    [
        ("batch/empty", json!({"commands": []})),
        ("http/body_camel_case_key_not_known", json!({"channel": "a", "data": {}})),
        ("http/body_channel_null", json!({"data": {}})),
        ("http/body_keys_case_insensitive", json!({"channel": "plain:a", "data": {}})),
        ("http/body_since_null", json!({"channel": "hist", "limit": 1})),
        ("http/body_tags_null", json!({"channel": "plain:a", "data": {}})),
        ("http/body_unknown_field", json!({"channel": "plain:a", "data": {}})),
    ]
    .map(|(name, written)| (name.to_owned(), written))
    .into()
}

#[test]
fn every_request_recorded_over_http_is_written_as_it_was() {
    let mut found = Found::new();
    let mut otherwise = BTreeMap::new();
    let mut same = 0;
    for (method, line) in http_calls() {
        let kind = match resent(method, &line.request_body) {
            None => "no request",
            Some(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{}: {error}", line.name);
                "refused here"
            }
            Some(Ok(sent)) => {
                // Half of a surrogate pair is JSON to the server, and to serde_json only as long as nobody looks.
                let same_text = sent.json == line.request_body.as_bytes();
                if same_text || parsed(&sent.json) == without_defaults(parsed(line.request_body.as_bytes())) {
                    same += 1;
                } else {
                    otherwise.insert(line.name, parsed(&sent.json));
                }
                continue;
            }
        };
        found.entry(kind).or_default().insert(line.name);
    }
    assert_eq!(found["refused here"], names(REFUSED_HERE));
    // No JSON, or of another type than the server demands: the client's types demand the same.
    let no_request = names(&[
        "batch/empty_command",
        "batch/two_methods_in_one_command",
        "error_mode/http_bad_json",
        "http/auth_missing_bad_body",
        "http/body_array",
        "http/body_bad_json",
        "http/body_bad_json_error_mode_transport",
        "http/body_batch_command_null_method",
        "http/body_batch_null_command",
        "http/body_batch_null_command_parallel",
        "http/body_bool_as_string",
        "http/body_channel_number",
        "http/body_data_invalid_json_inside",
        "http/body_empty",
        "http/body_limit_overflow",
        "http/body_null",
        "http/body_override_plain_bool",
        "http/body_tags_number_value",
        "http/body_trailing_data",
        "http/body_two_objects",
        "http/body_version_float",
        "http/body_version_negative",
        "http/body_version_overflow",
        "http/body_version_string",
    ]);
    assert_eq!(found["no request"], no_request);
    assert_eq!(otherwise, written_otherwise());
    assert_eq!(same, 329);
}

#[test]
fn every_request_recorded_over_grpc_is_written_as_it_was() {
    let http: BTreeMap<_, _> = http_calls().into_iter().map(|(_, line)| (line.name.clone(), line)).collect();
    let mut found = Found::new();
    let (mut same, mut same_again) = (0, 0);
    for (method, line) in grpc_calls() {
        let schema = request_schema(method);
        let kind = if let Some(http) = http.get(&line.name) {
            match resent(method, &http.request_body) {
                None => "no request",
                Some(Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{}: {error}", line.name);
                    "refused here"
                }
                Some(Ok(sent)) => {
                    let recorded = canonical(&schema, &line.request());
                    assert_eq!(Some(&recorded), line.request_json.as_ref(), "{}", line.name);
                    assert_eq!(masked(canonical(&schema, &sent.protobuf)), masked(recorded), "{}", line.name);
                    same += 1;
                    continue;
                }
            }
        } else {
            // Not every request recorded over gRPC only has a JSON form, so these are read from their own bytes.
            match with_request(method, SendProtobuf(&line.request())) {
                None => "no request",
                Some(sent) => {
                    let sent = sent.unwrap_or_else(|error| panic!("{}: {error}", line.name));
                    assert_eq!(Some(&canonical(&schema, &sent.protobuf)), line.request_json.as_ref(), "{}", line.name);
                    same_again += 1;
                    continue;
                }
            }
        };
        found.entry(kind).or_default().insert(line.name);
    }
    assert_eq!(found["refused here"], names(REFUSED_HERE));
    let no_request = names(&[
        "batch/empty_command",
        "batch/two_methods_in_one_command",
        "grpc/invalid_utf8_channel",
        "grpc/malformed_message",
        "grpc/malformed_message_no_key",
        "grpc/wrong_wire_type_for_channel",
    ]);
    assert_eq!(found["no request"], no_request);
    assert_eq!((same, same_again), (315, 21));
}

/// One request, made with constructors and setters, and the name of its recording.
struct Made {
    name: &'static str,
    method: Method,
    sent: Sent,
}

fn made<R: Request + AsRequest<Request = R>>(name: &'static str, request: R) -> Made {
    Made { name, method: R::METHOD, sent: sent(async |client| client.call(request).await).unwrap() }
}

/// Requests that publish.
fn made_to_publish() -> Vec<Made> {
    let mut batch = Batch::new().parallel(true);
    batch.push(PublishRequest::new("bat1", json!({})));
    batch.push(PublishRequest::new("bat2", Payload::default()));
    batch.push(PresenceRequest::new("bat3"));
    batch.push(RpcRequest::new(""));
    let batch = sent(async |client| client.batch(&batch).await).unwrap();
    vec![
        Made { name: "batch/mixed_parallel", method: Method::Batch, sent: batch },
        made(
            "publish/full",
            PublishRequest::new("pub", Payload::raw_json(r#"{"text":"hello","n":1}"#).unwrap())
                .skip_history(false)
                .tags([("a", "1"), ("b", "two")])
                .idempotency_key("idem-full")
                .delta(true)
                .version(7)
                .version_epoch("ve1"),
        ),
        made("publish/b64data", PublishRequest::new("pub", Payload::default()).b64data("eyJ0ZXh0IjoiYjY0In0=")),
        made(
            "broadcast/full",
            BroadcastRequest::new(["bc1", "bc2"], json!({"x": 2}))
                .skip_history(false)
                .tags([("t", "v")])
                .idempotency_key("bk")
                .delta(true)
                .version(3)
                .version_epoch("ve"),
        ),
    ]
}

/// Requests about the connections of users.
fn made_for_connections() -> Vec<Made> {
    const CLIENT: &str = "33f9409b-6cd3-4c36-9891-6354f8013e9f";
    vec![
        made(
            "subscribe/full",
            SubscribeRequest::new("srv-2", "u1")
                .expire_at(1_795_377_880)
                .info(json!({"role": "x"}))
                .client(CLIENT)
                .data(json!({"hello": 1}))
                .recover_since(StreamPosition::new(0, ""))
                .r#override(
                    SubscribeOptionOverride::default()
                        .presence(true)
                        .join_leave(true)
                        .force_recovery(true)
                        .force_positioning(true)
                        .force_push_join_leave(true),
                )
                .session(""),
        ),
        made("subscribe/b64", SubscribeRequest::new("srv-3", "u1").b64info("eyJyIjoxfQ==").b64data("eyJkIjoxfQ==")),
        made("unsubscribe/full", UnsubscribeRequest::new("srv-2", "u1").client(CLIENT).session("")),
        made(
            "disconnect/full",
            DisconnectRequest::new("u1")
                .disconnect(Disconnect::new(4001, "bye"))
                .client(CLIENT)
                .whitelist([""; 0])
                .session(""),
        ),
        made("disconnect/whitelist", DisconnectRequest::new("u1").whitelist([CLIENT])),
        made(
            "refresh/full",
            RefreshRequest::new("u2")
                .client("d6b77fef-9f93-4955-b2fa-0cb99894c2b0")
                .expired(false)
                .expire_at(1_795_374_883)
                .info(json!({"name": "new"}))
                .session(""),
        ),
        made("refresh/expired", RefreshRequest::new("u2").expired(true)),
    ]
}

/// Requests about channels and the server.
fn made_to_ask() -> Vec<Made> {
    vec![
        made("presence/clients", PresenceRequest::new("pres")),
        made("presence_stats/clients", PresenceStatsRequest::new("pres")),
        made("history/since_limit", HistoryRequest::new("hist").limit(1).since(StreamPosition::new(1, "LXBUBfrv"))),
        made(
            "history/since_reverse",
            HistoryRequest::new("hist")
                .limit(HistoryRequest::NO_LIMIT)
                .reverse(true)
                .since(StreamPosition::new(3, "LXBUBfrv")),
        ),
        made("history_remove/ok", HistoryRemoveRequest::new("hist")),
        made("info/clients_counters_lag", InfoRequest::new()),
        made("channels/pattern", ChannelsRequest::new().pattern("news-*")),
        made("rpc/full", RpcRequest::new("ns:do").params(json!({"a": 1}))),
    ]
}

/// Requests of maps and shared polls.
fn made_for_maps() -> Vec<Made> {
    vec![
        made(
            "map_publish/full",
            MapPublishRequest::new("map:m", "k2")
                .data(json!({"v": 2}))
                .stream_data(json!({"d": 2}))
                .tags([("t", "1")])
                .idempotency_key("mi")
                .delta(true)
                .version(4)
                .version_epoch("me")
                .score(9)
                .key_mode("if_new"),
        ),
        made("map_remove/full", MapRemoveRequest::new("map:m", "k2").idempotency_key("mr")),
        made(
            "map_read_state/full",
            MapReadStateRequest::new("map:m")
                .cursor("")
                .limit(10)
                .key("")
                .asc(true)
                .revision_offset(1)
                .revision_epoch("aQwxoSAf"),
        ),
        made("map_read_state/key", MapReadStateRequest::new("map:m").key("k2")),
        made("map_read_state/limit_page_2", MapReadStateRequest::new("map:m").limit(2).cursor("k2")),
        made(
            "map_read_stream/full",
            MapReadStreamRequest::new("map:m").since_offset(1).since_epoch("aQwxoSAf").limit(2).reverse(false),
        ),
        made("map_read_stream/reverse", MapReadStreamRequest::new("map:m").limit(1).reverse(true)),
        made("map_stats/minimal", MapStatsRequest::new("map:m")),
        made("map_clear/minimal", MapClearRequest::new("map:m")),
        made(
            "shared_poll_publish/full",
            SharedPollPublishRequest::new("poll:p", "k", 2).data(json!({"v": 2})).epoch("e"),
        ),
        made("shared_poll_publish/b64data", SharedPollPublishRequest::new("poll:p", "k", 3).b64data("eyJ2IjoyfQ==")),
    ]
}

#[test]
fn constructors_and_setters_make_the_recorded_requests() {
    let http: BTreeMap<_, _> = http_calls().into_iter().map(|(_, line)| (line.name.clone(), line)).collect();
    let grpc: BTreeMap<_, _> = grpc_calls().into_iter().map(|(_, line)| (line.name.clone(), line)).collect();
    let mut methods = BTreeSet::new();
    let made = [made_to_publish(), made_for_connections(), made_to_ask(), made_for_maps()];
    for Made { name, method, sent } in made.into_iter().flatten() {
        let (http, grpc) = (&http[name], &grpc[name]);
        assert_eq!((http.called(), grpc.called()), (Some(method), Some(method)), "{name}");
        assert_eq!(parsed(&sent.json), without_defaults(parsed(http.request_body.as_bytes())), "{name}");
        let schema = request_schema(method);
        let (ours, recorded) = (canonical(&schema, &sent.protobuf), canonical(&schema, &grpc.request()));
        assert_eq!(masked(ours), masked(recorded), "{name}");
        methods.insert(method.name());
    }
    assert_eq!(methods.len(), 21, "every method that the open-source server has");
}
