//! Any response in HTTP/1.1: status, headers, body, how its length is given, and how the connection ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use centrifugo_api::{ApiError, Config, Error};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Input;
use super::exchange::{self, CLIENTS, Now, RUN, SECOND, Server};

struct Script {
    /// Byte for byte.
    response: Vec<u8>,
    then: Then,
}

enum Then {
    /// Nothing until the next request.
    Keep,
    Close,
}

const NAMES: &[&str] = &[
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "location",
    "retry-after",
    "content-encoding",
    "set-cookie",
    "trailer",
];

pub(crate) fn exchange(data: &[u8]) {
    let mut input = Input(data);
    let (call, kind) = (input.byte(), input.byte() % 8);
    let mut response = format!("HTTP/1.1 {} Scripted\r\n", exchange::status(&mut input)).into_bytes();
    for (name, value) in input.several(|input| (input.byte(), input.bytes())) {
        if let Some(name) = NAMES.get(usize::from(name)) {
            response.extend_from_slice(format!("{name}: ").as_bytes());
        }
        response.extend(value.iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }));
        response.extend_from_slice(b"\r\n");
    }
    let chunks = input.several(Input::bytes);
    let body = chunks.concat();
    let then = match kind {
        // As it should be.
        0 => {
            response.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            response.extend_from_slice(&body);
            Then::Keep
        }
        1 => {
            response.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                response.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                response.extend_from_slice(chunk);
                response.extend_from_slice(b"\r\n");
            }
            response.extend_from_slice(b"0\r\n\r\n");
            Then::Keep
        }
        2 => {
            response.extend_from_slice(b"\r\n");
            response.extend_from_slice(&body);
            Then::Close
        }
        // Less than was promised, and more.
        3 | 4 => {
            response.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len() + 1).as_bytes());
            response.extend_from_slice(&body);
            if kind == 3 { Then::Close } else { Then::Keep }
        }
        5 => {
            response.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len() / 2).as_bytes());
            response.extend_from_slice(&body);
            Then::Close
        }
        // Anything.
        6 => {
            response = body;
            Then::Close
        }
        _ => {
            response = body;
            Then::Keep
        }
    };
    run(call, Script { response, then });
}

/// An error page, which is the rest of the input. Returns the error of the API that it is, if it is one.
pub(super) fn with_page(call: u8, input: &mut Input<'_>) -> (Vec<Error>, Option<ApiError>) {
    let mut status = exchange::status(input);
    if status == 200 {
        status = 500;
    }
    let page = input.0;
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n\r\n", page.len());
    let script = Script { response: [head.as_bytes(), page].concat(), then: Then::Close };
    (run(call, script), serde_json::from_slice(page).ok())
}

fn run(call: u8, script: Script) -> Vec<Error> {
    thread_local!(static SERVER: Server<Script> = Server::start(serve));
    SERVER.with(|server| server.exchange(call, script))
}

impl exchange::Script for Script {
    fn config(&self, address: &str) -> Config {
        Config::http(format!("http://{address}/api")).idle_timeout(Duration::from_secs(30)).into()
    }

    /// Wherever a status stands: behind a `100 Continue` there is another.
    fn says_no(&self) -> bool {
        let is_status = |start: &[u8]| {
            let status = start.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
            status.and_then(|status| status.parse().ok()).is_some_and(exchange::is_no)
        };
        (0..self.response.len()).any(|start| is_status(&self.response[start..]))
    }
}

async fn serve(stream: TcpStream, now: Now<Script>) {
    // Ends when the client has gone.
    let _ = respond_to_all(BufReader::new(stream), now).await;
}

async fn respond_to_all(mut stream: BufReader<TcpStream>, now: Now<Script>) -> std::io::Result<()> {
    loop {
        let (mut length, mut run, mut is_second) = (0, None, None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            is_second.get_or_insert_with(|| line.contains(SECOND));
            if line.is_empty() {
                break;
            }
            match line.to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some((RUN, value)) => run = now.run(value.as_bytes()),
                _ => {}
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
        let Some(run) = run else { return Ok(()) };
        if is_second == Some(true) {
            run.second.store(true, Ordering::Relaxed);
            let body = format!(r#"{{"result":{{"num_clients":{CLIENTS},"num_users":1}}}}"#);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await?;
            continue;
        }
        run.first.store(true, Ordering::Relaxed);
        stream.write_all(&run.script.response).await?;
        if let Then::Close = run.script.then {
            return stream.shutdown().await;
        }
    }
}
