//! The command, as a shell sees it, against the stand-in: a file for each subcommand, and one for errors.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use centrifugo_api::testing::{Namespace, Server};
use serde_json::Value;

mod bench;
mod call;
mod errors;
mod help;
mod publish;
mod serve;
#[cfg(unix)]
mod terminal;
mod token;

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
    for variable in ["CENTRIFUGO_GRPC", "CENTRIFUGO_HTTP", "CENTRIFUGO_API_KEY", "CENTRIFUGO_API_KEY_FILE"] {
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
