//! Errors: their fields, their exit codes, and what they never show.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use centrifugo_api::ErrorKind;
use centrifugo_api::testing::{Fault, Server};
use serde_json::json;

use super::{File, KEY, TRANSPORTS, command, finish, over, run, server};
use crate::support::authority::Authority;
use crate::support::servers::ClosedPort;

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
            assert!(!error["message"].as_str().unwrap().contains("take effect"), "{error}");
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

        // The command closes its client with nothing in flight, and has no publisher.
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
        (&["call", "info", "--client-cert", "/nowhere"], "need each other"),
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
        &["call", "info", "--timeout", "0"],
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
            run(&mut command(&["call", "info", &address, &format!("http://127.0.0.1:1?api_key={SECRET}")])),
            run(&mut command(&["call", "info", &address, &with_password])),
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
        for invalid in &outcomes[3..5] {
            assert_eq!(invalid.error(19)["kind"], "invalid");
        }
        assert!(outcomes[5].error(13)["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_the_key_goes_before_the_variable() {
    let server = server().await;
    let file = File::new("good-key", format!("{KEY}\n").as_bytes());
    let arguments = ["call", "info", "--grpc", &server.grpc_url(), "--api-key-file", file.path()];
    run(command(&arguments).env("CENTRIFUGO_API_KEY", "wrong")).result();
    let marked = File::new("marked-key", format!("\u{feff}{KEY}\r\n").as_bytes());
    run(&mut command(&["call", "info", "--grpc", &server.grpc_url(), "--api-key-file", marked.path()])).result();
    let spaced = File::new("spaced-key", format!(" {KEY}\n").as_bytes());
    let error = run(&mut command(&["call", "info", "--api-key-file", spaced.path()])).error(19);
    assert!(error["message"].as_str().unwrap().starts_with("--api-key-file begins or ends with a space"), "{error}");
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
    let error = run(over(&server, "grpc", &["call", "info"]).stdout(full)).error(1);
    assert_eq!(
        (&error["kind"], &error["outcome"], &error["may_have_run"]),
        (&json!("io"), &json!("done"), &json!(true))
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_io_error_with_the_fields_of_every_error() {
    for (option, arguments) in [
        ("--file", &["publish", "a"][..]),
        ("--ca", &["call", "info"]),
        ("--api-key-file", &["call", "info"]),
        ("--channels-from", &["broadcast", "1"]),
    ] {
        let error = run(command(arguments).args([option, "/nowhere"])).error(1);
        let expected = json!({
            "kind": "io", "message": format!("{option} /nowhere: the file cannot be read"), "outcome": "not_sent",
            "may_have_run": false, "attempts": 0, "advice": "check the path",
            "caused_by": ["No such file or directory (os error 2)"],
        });
        assert_eq!(error, expected);
    }
}

#[test]
fn an_error_of_the_configuration_names_the_option_or_the_variable_and_quotes_the_value() {
    let no_certificate = File::new("no-certificate", b"nothing");
    for (arguments, start) in [
        (&["--grpc", "localhost:1"][..], "--grpc: the endpoint `localhost:1` must begin with http:// or https://"),
        (&["--http", "localhost"], "--http: the endpoint `localhost` is no URL"),
        (&["--grpc", "http://a:1/api"], "--grpc: the endpoint `http://a:1/api` of gRPC has a path"),
        (&["--grpc", "http://a:1", "--http", "b", "--fallback"], "--http: the endpoint `b` is no URL"),
        (
            &["--http", "http://a?key=b"],
            "--http: the endpoint has a `?` or a `#`; give the key with CENTRIFUGO_API_KEY",
        ),
        (&["--insecure-skip-verification"], "the default address: --insecure-skip-verification is set and"),
        (&["--api-key", "a\nb"], "--api-key holds a character"),
        (&["--grpc", "https://a", "--ca", no_certificate.path()], "--ca /"),
    ] {
        let error = run(command(&["call", "info"]).args(arguments)).error(19);
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(start), "{message}");
        assert!(!message.contains("a\nb") && !message.contains("allow_clear_text_fallback"), "{message}");
        assert_eq!((&error["attempts"], &error["advice"]), (&json!(0), &json!("correct the command line")));
    }
    let error = run(command(&["call", "info"]).env("CENTRIFUGO_HTTP", "ftp://a")).error(19);
    assert!(error["message"].as_str().unwrap().starts_with("CENTRIFUGO_HTTP: the endpoint `ftp://a`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_option_or_variable_is_refused_by_name() {
    for name in ["--grpc", "--http", "--api-key", "--api-key-file"] {
        let error = run(&mut command(&["call", "info", name, " "])).error(19);
        assert!(error["message"].as_str().unwrap().starts_with(name), "{error}");
        // A file without a name cannot be read at all.
        let code = if name.ends_with("file") { 2 } else { 19 };
        assert_eq!(run(&mut command(&["call", "info", name, ""])).code, Some(code));
    }
    for name in ["CENTRIFUGO_GRPC", "CENTRIFUGO_HTTP", "CENTRIFUGO_API_KEY", "CENTRIFUGO_API_KEY_FILE"] {
        for empty in ["", " "] {
            let error = run(command(&["call", "info"]).env(name, empty)).error(19);
            assert!(error["message"].as_str().unwrap().starts_with(name), "{error}");
            assert_eq!(run(command(&["--help"]).env(name, empty)).code, Some(0));
        }
    }
    let error = run(&mut command(&["call", "info", "--http", "http://localhost:1/api,"])).error(19);
    assert!(error["message"].as_str().unwrap().starts_with("--http has an empty address"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_authentication_says_that_no_key_was_given() {
    let server = server().await;
    for (key, expected) in [(&[][..], "no API key was given"), (&["--api-key", "wrong"], "check the API key")] {
        let call = ["call", "info", "--grpc", &server.grpc_url()];
        let error = run(&mut command(&[&call, key].concat())).error(11);
        assert!(error["advice"].as_str().unwrap().starts_with(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idempotency_key_is_told_when_the_call_may_have_run() {
    let server = server().await;
    server.fault(Fault::cut_after().always());
    let lost = run(&mut over(&server, "grpc", &["publish", "a", "1"])).error(14);
    assert_eq!((lost["idempotency_key"].as_str().unwrap().len(), &lost["attempts"]), (32, &json!(3)));
    server.clear_faults();
    let refused = run(&mut over(&server, "grpc", &["publish", "nowhere:1", "1"])).error(10);
    assert_eq!(refused["idempotency_key"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_names_options_and_no_setters() {
    let identity = Authority::new().issue("127.0.0.1");
    let server = Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let error = run(&mut command(&["call", "info", "--grpc", &server.grpc_url()])).error(13);
    assert!(error["advice"].as_str().unwrap().contains("the authorities that --ca names"), "{error}");
}
