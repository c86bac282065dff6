//! `publish` and `broadcast`.

use serde_json::{Value, json};

use super::{File, TRANSPORTS, finish, over, run, server, with_stdin};

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
async fn a_broadcast_prints_every_response_and_fails_if_one_channel_was_refused() {
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
async fn a_refusal_outweighs_a_reader_that_has_gone() {
    let server = server().await;
    let mut child = over(&server, "grpc", &["broadcast", "nowhere:1", "1"]).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = finish(child);
    assert_eq!(outcome.error(22)["kind"], "partial");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comma_is_a_part_of_a_channel() {
    let server = server().await;
    let result = run(&mut over(&server, "grpc", &["broadcast", "dialog#42,43", "a, b", "1"])).result();
    assert_eq!(result["responses"].as_array().unwrap().len(), 2);
    assert_eq!((server.applied("dialog#42,43"), server.applied("a, b")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_come_from_a_file_or_from_standard_input_a_hundred_thousand_of_them() {
    const CHANNELS: usize = 100_000;
    let server = server().await;
    let names: Vec<_> = (0..CHANNELS).map(|number| format!("of-file-{number}")).collect();
    let file = File::new("channels", names.join("\n").as_bytes());
    let result = run(&mut over(&server, "grpc", &["broadcast", "named", "--channels-from", file.path(), "1"])).result();
    assert_eq!(result["responses"].as_array().unwrap().len(), CHANNELS + 1);
    assert_eq!((server.applied("named"), server.applied("of-file-99999")), (1, 1));
    let mut command = over(&server, "http", &["broadcast", "--channels-from", "-", "1"]);
    let result = with_stdin(&mut command, b"x\r\n\ny\n").result();
    assert_eq!(result["responses"].as_array().unwrap().len(), 2);
    assert_eq!((server.applied("x"), server.applied("y")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arguments_are_channels_when_a_file_has_the_data() {
    let server = server().await;
    let file = File::new("broadcast", b"{\"a\": 1}");
    run(&mut over(&server, "grpc", &["broadcast", "x", "y", "--file", file.path()])).result();
    let request = &server.calls()[0].request;
    assert_eq!((&request["channels"], &request["data"]), (&json!(["x", "y"]), &json!({"a": 1})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_without_channels_or_to_an_empty_one_is_refused() {
    let server = server().await;
    let file = File::new("no-channels", b"\n\n");
    for (arguments, expected) in [
        (&["broadcast", "1"][..], "no channel is given"),
        (&["broadcast", "--channels-from", file.path(), "1"], "no channel is given"),
        (&["broadcast", "news-1", "", "1"], "a channel is empty"),
        (&["broadcast", "--channels-from", "-", "-"], "standard input is named twice"),
    ] {
        let error = run(&mut over(&server, "grpc", arguments)).error(19);
        assert!(error["message"].as_str().unwrap().contains(expected), "{error}");
    }
    assert!(server.calls().is_empty());
}
