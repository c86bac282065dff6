//! A client of Centrifugo over WebSocket, in JSON.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

pub(crate) struct WebSocket {
    stream: BufReader<TcpStream>,
    lines: Vec<Value>,
    id: u64,
}

impl WebSocket {
    pub(crate) async fn open(server: SocketAddr, headers: &str) -> Self {
        let mut stream = BufReader::new(TcpStream::connect(server).await.unwrap());
        let head = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Self { stream, lines: Vec::new(), id: 0 }
    }

    async fn send(&mut self, text: &str) {
        let length = u16::try_from(text.len()).unwrap();
        // A final text frame with a length of two bytes and an empty mask.
        let mut frame = vec![0x81, 0xfe];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next message, or how the connection ended.
    pub(crate) async fn next(&mut self) -> Result<Value, Value> {
        loop {
            if !self.lines.is_empty() {
                return Ok(self.lines.remove(0));
            }
            let Ok(first) = self.stream.read_u8().await else { return Err(json!("ended")) };
            let length = match self.stream.read_u8().await.unwrap() {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => usize::try_from(self.stream.read_u64().await.unwrap()).unwrap(),
                length => usize::from(length),
            };
            let mut content = vec![0; length];
            self.stream.read_exact(&mut content).await.unwrap();
            if first & 0x0f == 8 {
                let code = u16::from_be_bytes([content[0], content[1]]);
                return Err(json!([code, String::from_utf8_lossy(&content[2..])]));
            }
            let text = String::from_utf8(content).unwrap();
            self.lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if self.lines.iter().any(|line| *line == json!({})) {
                self.lines.retain(|line| *line != json!({}));
                self.send("{}").await;
            }
        }
    }

    /// Sends a command and returns its reply, without its number, or how the connection ended.
    pub(crate) async fn call(&mut self, name: &str, request: Value) -> Value {
        self.id += 1;
        let id = self.id;
        self.send(&json!({"id": id, name: request}).to_string()).await;
        loop {
            match self.next().await {
                Ok(mut reply) if reply["id"] == id => {
                    reply.as_object_mut().unwrap().remove("id");
                    return reply;
                }
                Ok(_) => {}
                Err(closed) => return json!({"closed": closed}),
            }
        }
    }

    /// What the server sends on its own within this time.
    pub(crate) async fn within(&mut self, time: Duration) -> Value {
        match tokio::time::timeout(time, self.next()).await {
            Err(_) => Value::Null,
            Ok(Ok(message)) => message,
            Ok(Err(closed)) => json!({"closed": closed}),
        }
    }
}
