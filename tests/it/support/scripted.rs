//! Servers that respond to every call with the one response they were given, byte for byte, on a free port of the loopback.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP/1.1 server, given the status, the headers and the body of its responses. Returns the base URL of its API.
pub(crate) async fn http(status: u16, headers: &[(String, String)], body: &[u8]) -> String {
    let mut response = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers.iter().filter(|(name, _)| name != "connection") {
        write!(response, "{name}: {value}\r\n").unwrap();
    }
    let response = [response.as_bytes(), b"\r\n", body].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            respond_over_http(stream, &response).await.unwrap();
        }
    });
    url
}

/// Reads one request to its end, so that closing the connection cannot cut the response off.
async fn respond_over_http(stream: TcpStream, response: &[u8]) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    stream.write_all(response).await?;
    stream.shutdown().await
}

/// A gRPC server, given the status, the message and the details of its responses, which have trailers only. Returns its URL.
pub(crate) async fn grpc(code: u32, message: &str, details: Option<&[u8]>) -> String {
    let mut trailers = HeaderMap::new();
    let mut add = |name: &'static str, value: String| {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    };
    add("content-type", "application/grpc".into());
    add("grpc-status", code.to_string());
    add("grpc-message", percent_encoded(message));
    if let Some(details) = details {
        use base64::Engine as _;
        add("grpc-status-details-bin", base64::engine::general_purpose::STANDARD_NO_PAD.encode(details));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let trailers = trailers.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut response = Response::new(());
                    *response.headers_mut() = trailers.clone();
                    // The connection must be driven for the request's body to arrive.
                    tokio::spawn(async move {
                        drain(request.into_body()).await;
                        respond.send_response(response, true).unwrap();
                    });
                }
            });
        }
    });
    url
}

/// A gRPC server that refuses every call before it looks at it. Returns its URL.
pub(crate) async fn grpc_refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    url
}

/// Reads a request to its end, so that the client has certainly sent it when the response arrives.
async fn drain(mut body: h2::RecvStream) {
    while let Some(Ok(data)) = body.data().await {
        let data: Bytes = data;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
}

/// A message as gRPC sends it: printable ASCII but for `%`, and the rest as `%XX`.
fn percent_encoded(message: &str) -> String {
    message.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02X}").unwrap(),
        }
        text
    })
}
