//! What is shown on a terminal.

use std::fs::File;
use std::io::Read as _;
use std::process::Command;

use centrifugo_api::testing::Fault;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{command, over, server};

/// Runs the command with standard error on a terminal, and returns its exit code and what the terminal shows.
fn on_terminal(command: &mut Command) -> (Option<i32>, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let controller = openpt(flags).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut child = command.stderr(terminal.try_clone().unwrap()).spawn().unwrap();
    let code = child.wait().unwrap().code();
    // The terminal keeps what was written while this end of it is open.
    let mut shown = vec![0; 1 << 16];
    let length = File::from(controller).read(&mut shown).unwrap();
    drop(terminal);
    shown.truncate(length);
    (code, String::from_utf8(shown).unwrap().replace("\r\n", "\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_on_a_terminal_is_a_line_of_what_happened_and_one_of_what_to_do() {
    let server = server().await;
    let url = server.grpc_url();
    let (code, text) = on_terminal(&mut over(&server, "grpc", &["publish", "nowhere:1", "1"]));
    assert_eq!(code, Some(10));
    assert_eq!(
        text,
        format!(
            "error: publish over grpc to {url}: unknown channel (code 102)\n  it did not take effect; configure the \
             channel's namespace on the server, or correct the channel's name\n"
        )
    );
    server.fault(Fault::cut_after().always());
    let (code, text) = on_terminal(&mut over(&server, "grpc", &["publish", "a", "1"]));
    assert_eq!((code, text.lines().count()), (Some(14), 2), "{text}");
    assert!(text.contains("\n  it may have taken effect (3 attempts); "), "{text}");
    assert!(text.contains(" (--idempotency-key "), "{text}");
    let (code, text) = on_terminal(&mut command(&["publish", "a", "--file", "/nowhere"]));
    let expected =
        "error: --file /nowhere: the file cannot be read: No such file or directory (os error 2)\n  check the path\n";
    assert_eq!((code, &*text), (Some(1), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_on_a_terminal_is_json_when_asked_for() {
    let server = server().await;
    let (code, text) = on_terminal(&mut over(&server, "grpc", &["--json", "publish", "nowhere:1", "1"]));
    let error: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &error["error"]["code"]), (Some(10), &102.into()));
}
