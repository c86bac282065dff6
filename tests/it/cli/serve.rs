//! `serve`.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{KEY, TRANSPORTS, command, finish, run};

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
    assert_eq!((&error["kind"], &error["outcome"]), (&"io".into(), &"not_sent".into()));
    assert!(error["caused_by"][0].as_str().unwrap().contains(&address), "{error}");
    assert!(error["advice"].as_str().unwrap().contains("another address"), "{error}");
}
