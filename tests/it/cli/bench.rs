//! `bench`.

use std::fs;

use centrifugo_api::ApiError;
use centrifugo_api::testing::Fault;
use serde_json::{Value, json};

use super::{File, KEY, TRANSPORTS, command, over, run, server};

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
    for text in
        ["40 publications of 26 bytes to 7 channels", "the stand-in", "messages per second", "batches of 16", "HTTP"]
    {
        assert!(svg.contains(text), "`{text}` is not in the picture");
    }
    assert!(svg.contains("prefers-color-scheme:dark") && !svg.contains("busy before"), "{svg}");
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
        assert!(outcome.stdout.starts_with("40 publications") && !outcome.stdout.contains("msgs/s"), "{outcome:?}");
    }
    let server = server().await;
    let elsewhere = [&SMALL[..], &["--channel-prefix", "nowhere:"]].concat();
    assert_eq!(run(&mut over(&server, "grpc", &elsewhere)).error(10)["code"], 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_loads_a_server_that_only_the_environment_names_when_told_to() {
    let server = server().await;
    let (grpc, http) = (server.grpc_url(), server.http_url());
    let in_environment = |arguments: &[&str]| {
        let mut command = command(&[&SMALL[..], arguments].concat());
        command.envs([("CENTRIFUGO_GRPC", &*grpc), ("CENTRIFUGO_HTTP", &*http), ("CENTRIFUGO_API_KEY", KEY)]);
        run(&mut command)
    };
    let table = in_environment(&[]);
    assert!(table.stdout.contains("\nserver: the stand-in"), "{table:?}");
    assert!(table.stdout.contains("\nCENTRIFUGO_GRPC and CENTRIFUGO_HTTP: not used; --server-from-env"), "{table:?}");
    assert_eq!(in_environment(&["--json"]).result()["server"]["kind"], "stand-in");
    assert!(server.calls().is_empty());
    let named = in_environment(&["--json", "--http", &http]).result();
    assert_eq!(named["server"], json!({ "kind": "given", "version": "6.9.1 OSS", "http": http }));
    assert!(server.calls().iter().all(|call| call.transport.name() == "http"));
    let told = in_environment(&["--json", "--server-from-env"]).result();
    assert_eq!((&told["server"]["grpc"], &told["server"]["http"]), (&json!(grpc), &json!(http)));
}

#[test]
fn a_bench_of_one_round_has_no_range() {
    let one = [&SMALL[..9], &["--rounds", "1", "--transport", "http"]].concat();
    let table = run(&mut command(&one)).stdout;
    assert!(table.contains("1 round\n"), "{table}");
    assert!(!table.contains("range") && !table.contains(".."), "{table}");
}
