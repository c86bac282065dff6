//! The command, as a shell sees it, against the stand-in.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Namespace, Server};
use centrifugo_api::{ApiError, ErrorKind};
use serde_json::{Value, json};

use crate::support::servers::ClosedPort;

/// Long enough to be found anywhere it should not be.
const KEY: &str = "open-sesame-0123456789";
const TRANSPORTS: [&str; 2] = ["grpc", "http"];

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// The one line of JSON on standard output.
    #[track_caller]
    fn result(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "");
        assert_eq!(self.stdout.matches('\n').count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The one line of JSON on standard error, when the command ended with this code.
    #[track_caller]
    fn error(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        let error: Value = serde_json::from_str(&self.stderr).unwrap();
        error["error"].clone()
    }
}

/// The command, in an environment that says nothing about servers.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_centrifugo-api"));
    for variable in ["CENTRIFUGO_GRPC", "CENTRIFUGO_HTTP", "CENTRIFUGO_API_KEY"] {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> Outcome {
    finish(command.spawn().unwrap())
}

fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The command with the server's address and key, over one transport.
fn over(server: &Server, transport: &str, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("CENTRIFUGO_API_KEY", KEY);
    match transport {
        "grpc" => command.args(["--grpc", &server.grpc_url()]),
        _ => command.args(["--http", &server.http_url()]),
    };
    command
}

fn with_stdin(command: &mut Command, input: &[u8]) -> Outcome {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    finish(child)
}

async fn server() -> Server {
    let chat = Namespace::new("chat").history(10, Duration::from_secs(60));
    Server::builder().api_key(KEY).namespace(chat).start().await.unwrap()
}

/// A file that is gone with this value.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("centrifugo-api-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_and_a_call_print_their_results_as_a_line_of_json() {
    for transport in TRANSPORTS {
        let server = server().await;
        let published = run(&mut over(&server, transport, &["publish", "chat:1", r#"{"text": "hello"}"#])).result();
        assert_eq!(published["offset"], 1);
        let params = r#"{"channel":"chat:1","limit":-1}"#;
        let history = run(&mut over(&server, transport, &["call", "history", params])).result();
        let expected = json!([{"data": {"text": "hello"}, "offset": 1}]);
        assert_eq!(history, json!({"publications": expected, "epoch": published["epoch"], "offset": 1}));
        let calls = server.calls();
        assert_eq!(calls.iter().map(|call| call.transport.name()).collect::<Vec<_>>(), [transport; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_no_parameters_or_those_of_standard_input() {
    for transport in TRANSPORTS {
        let server = server().await;
        let info = run(&mut over(&server, transport, &["call", "info"])).result();
        assert_eq!(info["nodes"][0]["name"], "stand-in");
        let batch =
            br#"{"commands": [{"publish": {"channel": "a", "data": 1}}, {"presence_stats": {"channel": "a"}}]}"#;
        let replies = with_stdin(&mut over(&server, transport, &["call", "batch", "-"]), batch).result();
        assert_eq!(replies["replies"][0]["publish"]["offset"], 1);
        assert_eq!(replies["replies"][1]["presence_stats"], json!({"num_clients": 0, "num_users": 0}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pretty_result_is_the_same_over_many_lines() {
    let server = server().await;
    for transport in TRANSPORTS {
        let plain = ["call", "history", r#"{"channel":"a"}"#];
        let pretty = [&plain[..], &["--pretty"]].concat();
        let pretty = run(&mut over(&server, transport, &pretty));
        assert!(pretty.stdout.starts_with("{\n  \"publications\": [],\n"), "{pretty:?}");
        let value: Value = serde_json::from_str(&pretty.stdout).unwrap();
        assert_eq!(value, run(&mut over(&server, transport, &plain)).result());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_stand_before_the_command_or_after_it() {
    let server = server().await;
    let url = server.http_url();
    for arguments in
        [["--http", &url, "call", "info"], ["call", "--http", &url, "info"], ["call", "info", "--http", &url]]
    {
        run(command(&arguments).env("CENTRIFUGO_API_KEY", KEY)).result();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transport_is_grpc_unless_only_http_has_an_address_or_it_is_chosen() {
    let server = server().await;
    let (grpc, http) = (server.grpc_url(), server.http_url());
    let used = |arguments: &[&str], variables: &[(&str, &str)]| {
        server.clear_calls();
        let mut command = command(&[&["call", "info", "--api-key", KEY], arguments].concat());
        run(command.envs(variables.iter().copied())).result();
        server.calls()[0].transport.name()
    };
    assert_eq!(used(&["--grpc", &grpc, "--http", &http], &[]), "grpc");
    assert_eq!(used(&["--grpc", &grpc, "--http", &http, "--transport", "http"], &[]), "http");
    assert_eq!(used(&["--http", &http], &[]), "http");
    assert_eq!(used(&[], &[("CENTRIFUGO_GRPC", &grpc), ("CENTRIFUGO_HTTP", &http)]), "grpc");
    assert_eq!(used(&[], &[("CENTRIFUGO_HTTP", &http)]), "http");
    assert_eq!(used(&[], &[("CENTRIFUGO_HTTP", &http), ("CENTRIFUGO_GRPC", "")]), "http");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_option_of_a_publish_reaches_the_server() {
    for transport in TRANSPORTS {
        let server = server().await;
        let options =
            "--tag lang=en --tag a=b=c --idempotency-key once --skip-history --delta --version 7 --version-epoch e";
        let arguments: Vec<&str> = ["publish", "a", "-1.50"].into_iter().chain(options.split(' ')).collect();
        run(&mut over(&server, transport, &arguments)).result();
        let expected = json!({
            "channel": "a", "data": -1.5, "tags": {"lang": "en", "a": "b=c"}, "idempotency_key": "once",
            "skip_history": true, "delta": true, "version": 7, "version_epoch": "e",
        });
        assert_eq!(server.calls()[0].request, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_from_the_arguments_a_file_or_standard_input_as_json_text_or_bytes() {
    let server = server().await;
    let file = File::new("data", b"{\"from\": \"a file\"}\n");
    let published = |arguments: &[&str], input: &[u8]| {
        server.clear_calls();
        with_stdin(&mut over(&server, "grpc", &[&["publish", "a"], arguments].concat()), input).result();
        let request = &server.calls()[0].request;
        request.get("data").or(request.get("b64data")).cloned().unwrap()
    };
    assert_eq!(published(&["--file", file.path()], b""), json!({"from": "a file"}));
    assert_eq!(published(&["-"], b" [1]\r\n"), json!([1]));
    assert_eq!(published(&["hello", "--text"], b""), json!("hello"));
    assert_eq!(published(&["-", "--text"], b"two\nlines\n"), json!("two\nlines"));
    assert_eq!(published(&["-", "--binary"], b"\xff\n"), json!("/wo="));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_not_json_is_refused_with_a_hint_and_not_sent() {
    let server = server().await;
    let error = run(&mut over(&server, "grpc", &["publish", "a", "hello"])).error(19);
    assert_eq!(error["kind"], "invalid");
    let message = error["message"].as_str().unwrap();
    assert!(["quote it", "--text", "--file", "`-`", "--binary"].iter().all(|hint| message.contains(hint)), "{message}");
    assert!(server.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_prints_every_answer_and_fails_if_one_channel_was_refused() {
    for transport in TRANSPORTS {
        let server = server().await;
        let result = run(&mut over(&server, transport, &["broadcast", "a", "chat:1", "1"])).result();
        assert_eq!(result["responses"].as_array().unwrap().len(), 2);
        let outcome = run(&mut over(&server, transport, &["broadcast", "a", "nowhere:1", "chat:1", "1"]));
        let error = outcome.error(22);
        assert_eq!((&error["kind"], &error["code"]), (&json!("partial"), &json!(null)));
        assert_eq!((&error["method"], &error["outcome"]), (&json!("broadcast"), &json!("unknown")));
        assert_eq!(error["may_have_run"], true);
        assert_eq!(error["message"], "1 of 3 channels failed: nowhere:1: unknown channel (102)");
        let failure = json!({"channel": "nowhere:1", "code": 102, "message": "unknown channel", "outcome": "refused"});
        assert_eq!(error["failures"], json!([failure]));
        let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(result["responses"][1]["error"]["code"], 102);
        assert_eq!(result["responses"][2]["result"]["offset"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_error_has_its_exit_code_and_says_where_it_happened() {
    for transport in TRANSPORTS {
        let mut seen = BTreeSet::new();
        let mut check = |server: &Server, kind: ErrorKind, code: i32, may_have_run: bool, arguments: &[&str]| {
            let outcome = run(&mut over(server, transport, arguments));
            let error = outcome.error(code);
            assert_eq!(
                (&error["kind"], &error["may_have_run"]),
                (&json!(kind.name()), &json!(may_have_run)),
                "{error}"
            );
            assert_eq!((&error["method"], &error["transport"]), (&json!("publish"), &json!(transport)), "{error}");
            assert!(error["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{error}");
            assert!(!error["message"].as_str().unwrap().is_empty() && error["advice"].is_string(), "{error}");
            assert!(!error["message"].as_str().unwrap().contains("carried out"), "{error}");
            assert_eq!(outcome.stdout, "");
            seen.insert((code, kind.name()));
        };
        let publish = ["publish", "a", "1", "--retries", "0"];
        let faulty = async |fault: Fault| {
            let server = server().await;
            server.fault(fault);
            server
        };
        check(&server().await, ErrorKind::Api, 10, false, &["publish", "nowhere:1", "1"]);
        let other_key = Server::builder().api_key("another").start().await.unwrap();
        check(&other_key, ErrorKind::Unauthenticated, 11, false, &publish);
        let missing = if transport == "grpc" { Fault::grpc_status(12, "unknown") } else { Fault::http_status(404) };
        check(&faulty(missing).await, ErrorKind::Unsupported, 12, false, &publish);
        check(&faulty(Fault::cut_after()).await, ErrorKind::Lost, 14, true, &publish);
        let hurried = [&publish[..], &["--timeout", "2s"]].concat();
        check(&faulty(Fault::hang_after()).await, ErrorKind::Timeout, 15, true, &hurried);
        let busy = if transport == "grpc" { Fault::grpc_status(14, "busy") } else { Fault::http_status(502) };
        check(&faulty(busy).await, ErrorKind::Unavailable, 16, true, &publish);
        let too_large = if transport == "grpc" {
            Fault::grpc_status(8, "grpc: received message larger than max (1 vs. 0)")
        } else {
            Fault::http_status(413)
        };
        check(&faulty(too_large).await, ErrorKind::TooLarge, 17, false, &publish);
        check(&faulty(Fault::raw_reply("\u{7f}no")).await, ErrorKind::Protocol, 18, true, &publish);

        let nobody = ClosedPort::new();
        let url = nobody.url();
        let error = run(&mut command(&["publish", "a", "1", &format!("--{transport}"), &url])).error(13);
        assert_eq!((&error["kind"], &error["may_have_run"]), (&json!("connect"), &json!(false)));
        // In the message if the last attempt came while the endpoint was left out, and among the causes if not.
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(error["attempts"], 3);
        let error = run(&mut command(&["publish", "a", "1", &format!("--{transport}"), "localhost"])).error(19);
        assert_eq!((&error["kind"], &error["may_have_run"]), (&json!("invalid"), &json!(false)));
        seen.extend([(13, "connect"), (19, "invalid")]);

        // The command closes its client with nothing under way, and has no publisher.
        let partial = run(&mut over(&server().await, transport, &["broadcast", "a", "nowhere:1", "1"])).error(22);
        assert_eq!((&partial["kind"], &partial["may_have_run"]), (&json!("partial"), &json!(true)));
        seen.extend([(20, "closed"), (21, "full"), (22, "partial")]);
        assert_eq!(seen.len(), ErrorKind::ALL.len(), "{seen:?}");
        let help = run(&mut command(&["--help"])).stdout;
        for (code, kind) in seen {
            assert!(help.contains(&format!("\n  {code}  {kind} ")), "{code} {kind} is not in the help:\n{help}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_arguments_hold_is_checked_before_anything_is_sent() {
    let server = server().await;
    for (arguments, expected) in [
        (&["call", "info", "["][..], "not JSON (line 1, column 1)"),
        (&["call", "info", "[]"], "not a JSON object"),
        (&["call", "Info"], "a method's name"),
        (&["call", "history", r#"{"chanel":"a"}"#], "`chanel`"),
        (&["publish", "a", "--file", "/nowhere"], "--file, /nowhere, cannot be read"),
        (&["call", "info", "--ca", "/nowhere"], "--ca, /nowhere, cannot be read"),
        (&["call", "info", "--client-cert", "/nowhere"], "need each other"),
        (&["call", "info", "--timeout", "0"], "`timeout` is zero"),
        (&["bench", "--payload", "1"], "--payload"),
    ] {
        let error = run(&mut over(&server, "grpc", arguments)).error(19);
        assert_eq!((&error["kind"], &error["may_have_run"]), (&json!("invalid"), &json!(false)));
        assert!(error["message"].as_str().unwrap().contains(expected), "{error}");
    }
    for arguments in [
        &["call"][..],
        &["publish", "a"],
        &["publish", "a", "1", "--file", "b"],
        &["publish", "a", "1", "--text", "--binary"],
        &["call", "info", "--timeout", "soon"],
        &["serve", "--http", "http://localhost"],
    ] {
        let outcome = run(&mut over(&server, "grpc", arguments));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
    }
    assert!(server.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_never_printed() {
    const SECRET: &str = "not-the-key-9876543210";
    let server = server().await;
    let file = File::new("key", format!("{SECRET}\n").as_bytes());
    let with_password = format!("http://user:{SECRET}@127.0.0.1:1");
    for transport in TRANSPORTS {
        let url = if transport == "grpc" { server.grpc_url() } else { server.http_url() };
        let address = format!("--{transport}");
        let call = ["call", "info", &address, &url];
        let in_variable = |arguments: &[&str]| run(command(arguments).env("CENTRIFUGO_API_KEY", SECRET));
        let outcomes = [
            in_variable(&call),
            run(&mut command(&[&call[..], &["--api-key", SECRET]].concat())),
            run(&mut command(&[&call[..], &["--api-key-file", file.path()]].concat())),
            run(&mut command(&[&call[..], &["--api-key", &format!("{SECRET}\n")]].concat())),
            run(&mut command(&["call", "info", &address, &with_password])),
            run(&mut command(&["call", "info", &address, &format!("http://127.0.0.1:1?api_key={SECRET}")])),
            in_variable(&["--help"]),
            in_variable(&["call", "--help"]),
            in_variable(&["call", "info", "--nonsense"]),
            run(command(&["--help"]).env("CENTRIFUGO_GRPC", &with_password)),
        ];
        for outcome in &outcomes {
            assert!(!outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET), "{outcome:?}");
        }
        for wrong in &outcomes[..3] {
            assert_eq!(wrong.error(11)["kind"], "unauthenticated");
        }
        for invalid in &outcomes[3..6] {
            assert_eq!(invalid.error(19)["kind"], "invalid");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_the_key_goes_before_the_variable() {
    let server = server().await;
    let file = File::new("good-key", format!("{KEY}\n").as_bytes());
    let arguments = ["call", "info", "--grpc", &server.grpc_url(), "--api-key-file", file.path()];
    run(command(&arguments).env("CENTRIFUGO_API_KEY", "wrong")).result();
    let empty = File::new("no-key", b"\n");
    let error = run(&mut command(&["call", "info", "--api-key-file", empty.path()])).error(19);
    assert!(error["message"].as_str().unwrap().contains("is empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_is_no_error() {
    let server = server().await;
    server.fault(Fault::delay(Duration::from_millis(300)));
    let mut child = over(&server, "grpc", &["call", "info"]).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = finish(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_written_is_an_error_of_this_machine() {
    let server = server().await;
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let outcome = run(over(&server, "grpc", &["call", "info"]).stdout(full));
    assert_eq!(outcome.error(1)["kind"], "io");
}

/// Checks the data of a bench, and returns it.
#[track_caller]
fn complete(data: Value, transports: &[&str], messages: u64) -> Value {
    let mut expected: Vec<(String, String)> = Vec::new();
    for way in ["one_by_one 1", "one_by_one 4", "batch 1", "broadcast 1"] {
        expected.extend(transports.iter().map(|transport| (way.to_owned(), (*transport).to_owned())));
    }
    let ways = data["ways"].as_array().unwrap();
    let found = ways.iter().map(|way| {
        let name = format!("{} {}", way["way"].as_str().unwrap(), way["callers"]);
        (name, way["transport"].as_str().unwrap().to_owned())
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
    for way in ways {
        let size = way["messages_per_request"].as_u64().unwrap();
        assert_eq!(way["requests"], json!(messages.div_ceil(size)), "{way}");
        for number in ["messages_per_second", "p50_us", "p99_us", "cpu_us_per_message"] {
            if number == "cpu_us_per_message" && cfg!(not(unix)) {
                continue;
            }
            let [min, median, max] = ["min", "median", "max"].map(|of| way[number][of].as_f64().unwrap());
            assert!(0.0 < min && min <= median && median <= max, "{number} of {way}");
        }
        assert!(way["p50_us"]["median"].as_f64() <= way["p99_us"]["median"].as_f64(), "{way}");
    }
    assert_eq!((&data["messages"], &data["payload_bytes"]), (&json!(messages), &json!(26)));
    data
}

const SMALL: [&str; 11] =
    ["bench", "--messages", "40", "--channels", "7", "--callers", "4", "--batch", "16", "--rounds", "2"];

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_publishes_the_same_in_every_way_and_gives_every_number() {
    let server = server().await;
    let (grpc, http) = (server.grpc_url(), server.http_url());
    let arguments = [&SMALL[..], &["--json", "--grpc", &grpc, "--http", &http]].concat();
    let data = run(command(&arguments).env("CENTRIFUGO_API_KEY", KEY)).result();
    let data = complete(data, &TRANSPORTS, 40);
    let expected = json!({ "kind": "given", "version": "6.9.1 OSS", "grpc": grpc, "http": http });
    assert_eq!(data["server"], expected);
    // Four ways, two transports, a warm-up and two rounds; message 0, 7, 14, … of 40 goes to the first channel.
    assert_eq!(server.applied("bench_0"), 4 * 2 * 3 * 6);
    assert_eq!(server.applied("bench_6"), 4 * 2 * 3 * 5);
    let single = server.calls().into_iter().find(|call| call.method.name() == "publish").unwrap();
    assert_eq!(single.request["data"].to_string().len(), 26);
}

#[test]
fn a_bench_without_a_server_starts_the_stand_in_and_says_so() {
    let chart = File::new("chart.svg", b"");
    let data = run(&mut command(&[&SMALL[..], &["--json", "--chart", chart.path()]].concat())).result();
    let data = complete(data, &TRANSPORTS, 40);
    assert_eq!(data["server"]["kind"], "stand-in");
    let svg = fs::read_to_string(chart.path()).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for text in [
        "40 publications of 26 bytes to 7 channels",
        "the stand-in",
        "messages per second",
        "batches of 16",
        "over HTTP",
    ] {
        assert!(svg.contains(text), "`{text}` is not in the picture");
    }
    // It ended with the bench: nobody listens there any more.
    let url = data["server"]["http"].as_str().unwrap();
    run(&mut command(&["call", "info", "--http", url])).error(13);
}

#[test]
fn a_bench_prints_a_table_for_one_transport_or_both() {
    let table = run(&mut command(&[&SMALL[..], &["--transport", "http", "--runtime", "current"]].concat()));
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", table.stdout);
    assert_eq!(lines[0], "40 publications of 26 bytes to 7 channels");
    assert!(lines[1].starts_with("server: the stand-in, started by this command as process "), "{table:?}");
    let words = table.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("1 thread") && words.contains("medians of 2 rounds"), "{table:?}");
    let head = lines.iter().position(|line| line.starts_with("way ")).unwrap();
    assert!(lines[head].ends_with("CPU/msg"), "{table:?}");
    assert_eq!(
        lines[head + 1..head + 5].iter().filter(|line| line.contains(" http ") && line.ends_with(" µs")).count(),
        4
    );
}

#[test]
fn a_bench_on_both_runtimes_has_a_row_for_each() {
    let arguments = [&SMALL[..], &["--transport", "http", "--runtime", "both"]].concat();
    let data = run(command(&arguments).arg("--json")).result();
    let found = data["ways"].as_array().unwrap().iter().map(|way| way["runtime"].as_str().unwrap());
    assert_eq!(found.collect::<Vec<_>>(), ["multi", "current"].repeat(4));
    let table = run(&mut command(&arguments)).stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    for runtime in [" multi ", " current "] {
        assert_eq!(table.lines().filter(|line| line.contains(&format!(" http{runtime}"))).count(), 4, "{table}");
    }
}

#[test]
fn a_picture_that_cannot_be_written_is_refused_before_anything_is_measured() {
    for (path, code) in [("/no/such/folder/x.svg", 1), ("x.png", 19)] {
        let outcome = run(command(&SMALL).args(["--chart", path]));
        assert!(outcome.error(code)["message"].as_str().unwrap().contains(path));
        assert_eq!(outcome.stdout, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_fails_ends_the_bench_with_its_error() {
    for (transport, method) in [("grpc", "publish"), ("http", "batch"), ("grpc", "broadcast")] {
        let server = server().await;
        let known = centrifugo_api::Method::from_name(method).unwrap();
        server.fault(Fault::api_error(ApiError::new(100, "internal server error")).method(known).after(2));
        let outcome = run(&mut over(&server, transport, &[&SMALL[..], &["--retries", "0"]].concat()));
        let error = outcome.error(10);
        assert_eq!((&error["code"], &error["transport"]), (&json!(100), &json!(transport)));
        assert_eq!(outcome.stdout, "");
    }
    let server = server().await;
    let elsewhere = [&SMALL[..], &["--channel-prefix", "nowhere:"]].concat();
    assert_eq!(run(&mut over(&server, "grpc", &elsewhere)).error(10)["code"], 102);
}

/// A stand-in in a process, with what it printed.
fn serve(arguments: &[&str]) -> (Child, Value) {
    let free = ["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let mut child = command(&[&free, arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

#[test]
fn serve_says_where_it_listens_and_serves_until_it_is_asked_to_end() {
    let namespaces =
        ["--api-key", KEY, "--namespace", "chat:history=2", "--namespace", "scores:map", "--stop-with-stdin"];
    let (mut child, urls) = serve(&namespaces);
    for transport in TRANSPORTS {
        let address = [&format!("--{transport}"), urls[transport].as_str().unwrap()];
        let call = |arguments: &[&str], key: &str| {
            run(command(&[arguments, &address].concat()).env("CENTRIFUGO_API_KEY", key))
        };
        call(&["call", "info"], "wrong").error(11);
        for _ in 0..3 {
            call(&["publish", "chat:1", "{}"], KEY).result();
        }
        let history = call(&["call", "history", r#"{"channel":"chat:1","limit":-1}"#], KEY).result();
        assert_eq!(history["publications"].as_array().unwrap().len(), 2);
        call(&["call", "map_publish", r#"{"channel":"scores:1","key":"a","data":1}"#], KEY).result();
    }
    drop(child.stdin.take());
    assert_eq!(finish(child).code, Some(0));
}

#[cfg(unix)]
#[test]
fn serve_ends_well_when_it_is_terminated_or_interrupted() {
    for signal in ["-TERM", "-INT"] {
        let (child, _) = serve(&[]);
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let outcome = finish(child);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{signal}");
    }
}

#[test]
fn serve_does_not_start_where_somebody_listens_already() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = run(&mut command(&["serve", "--grpc-addr", &address, "--http-addr", "127.0.0.1:0"])).error(1);
    assert_eq!(error["kind"], "io");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_only_pro_looks_at_is_refused_unless_the_server_is_said_to_be_pro() {
    let server = server().await;
    let call = ["call", "disconnect", r#"{"user":"u1","label_filter":{"key":"app","cmp":"eq","val":"web"}}"#];
    for transport in TRANSPORTS {
        let error = run(&mut over(&server, transport, &call)).error(19);
        assert!(error["message"].as_str().unwrap().contains("`label_filter` is for Centrifugo PRO"), "{error}");
        assert!(server.calls().is_empty());
        run(over(&server, transport, &call).arg("--pro")).result();
        server.clear_calls();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_outweighs_a_reader_that_has_gone() {
    let server = server().await;
    let mut child = over(&server, "grpc", &["broadcast", "nowhere:1", "1"]).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = finish(child);
    assert_eq!(outcome.error(22)["kind"], "partial");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comma_is_a_part_of_a_channel_and_channels_can_come_from_a_file() {
    let server = server().await;
    let file = std::env::temp_dir().join(format!("centrifugo-api-channels-{}", std::process::id()));
    let names: Vec<_> = (0..20_000).map(|number| format!("of-file-{number}")).collect();
    std::fs::write(&file, names.join("\n")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let arguments = ["broadcast", "dialog#42,43", "--channels-from", &file, "1"];
    let result = run(&mut over(&server, "grpc", &arguments)).result();
    assert_eq!(result["responses"].as_array().unwrap().len(), 20_001);
    assert_eq!((server.applied("dialog#42,43"), server.applied("of-file-19999")), (1, 1));
    std::fs::remove_file(file).unwrap();
    server.clear_calls();
    for wrong in [&["broadcast", "1"][..], &["broadcast", "news-1", "", "1"]] {
        run(&mut over(&server, "grpc", wrong)).error(19);
    }
    assert!(server.calls().is_empty());
}
