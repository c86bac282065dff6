//! `call`, and the options that name the server.

use serde_json::{Value, json};

use super::{KEY, TRANSPORTS, command, over, run, server, with_stdin};

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
    assert_eq!(used(&["--grpc", &grpc], &[("CENTRIFUGO_GRPC", "")]), "grpc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_only_pro_looks_at_is_refused_unless_the_server_is_said_to_be_pro() {
    let server = server().await;
    let call = ["call", "disconnect", r#"{"user":"u1","label_filter":{"key":"app","cmp":"eq","val":"web"}}"#];
    for transport in TRANSPORTS {
        let error = run(&mut over(&server, transport, &call)).error(19);
        assert!(error["message"].as_str().unwrap().contains("`label_filter` is for Centrifugo PRO"), "{error}");
        assert!(error["message"].as_str().unwrap().ends_with("say so with --pro"), "{error}");
        assert!(server.calls().is_empty());
        run(over(&server, transport, &call).arg("--pro")).result();
        server.clear_calls();
    }
}
