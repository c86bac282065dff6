//! An HTTP/1.1 server whose every byte is a script's choice.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::port;
use super::tally::{Operation, Server, Tally};

/// Follows the script on every connection.
pub(crate) fn start<F>(script: impl Fn(Connection) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Server::start(move |stream, number, tally| script(Connection { number, stream, buffer: BytesMut::new(), tally }))
}

/// Responds to every request with what `reply` returns.
pub(crate) fn replying(reply: impl Fn(&Request) -> Reply + Clone + Send + Sync + 'static) -> Server {
    start(move |mut connection| {
        let reply = reply.clone();
        async move { connection.serve_with(reply).await }
    })
}

/// A request whose whole body arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
    /// The number of the request on all connections together, from 0.
    pub(crate) number: usize,
    pub(crate) path: String,
    /// The first line and the headers.
    pub(crate) head: String,
    pub(crate) body: Bytes,
}

impl Request {
    /// The value of a header, whose name is in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    fn operation(&self) -> Operation {
        let request: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        Operation {
            connection: self.connection,
            at: Instant::now(),
            channel: text("channel"),
            idempotency_key: text("idempotency_key"),
            message: self.body.clone(),
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A response: its bytes, and whether the request is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    applied: bool,
    bytes: Vec<u8>,
    delay: Duration,
    /// After every byte.
    pause: Duration,
}

impl Reply {
    /// The result of a publish that went well.
    pub(crate) fn result() -> Self {
        Self::json(200, r#"{"result":{"offset":1,"epoch":"epoch"}}"#).applied()
    }

    /// A status with JSON. The request counts as not applied.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::with(status, &[("content-type", "application/json")], body.as_bytes())
    }

    /// A status, headers and a body, whose length is added. The request counts as not applied.
    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let length = body.len().to_string();
        let headers = [headers, &[("content-length", &length)]].concat();
        Self::raw(&[&head(status, &headers), body].concat())
    }

    /// A chunked body, perhaps without the last chunk.
    pub(crate) fn chunked(status: u16, chunks: &[&str], ends: bool) -> Self {
        let mut bytes = head(status, &[("content-type", "application/json"), ("transfer-encoding", "chunked")]);
        for chunk in chunks.iter().copied().chain(ends.then_some("")) {
            bytes.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
        }
        Self::raw(&bytes)
    }

    /// Any bytes, or none: no response at all.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::default() }
    }

    /// Without its last bytes. The connection stays: what follows is the script's choice.
    pub(crate) fn without_last(mut self, bytes: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - bytes);
        self
    }

    /// Byte by byte, with a pause after each.
    pub(crate) fn trickled(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Some time after the request.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The request is applied, whatever the response says.
    pub(crate) fn applied(mut self) -> Self {
        self.applied = true;
        self
    }

    /// The request is not applied, whatever the response says.
    pub(crate) fn unapplied(mut self) -> Self {
        self.applied = false;
        self
    }
}

/// The head of a response, with these headers and no others.
pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    (head + "\r\n").into_bytes()
}

/// One connection of a client. To drop it is a FIN if everything was read, and a RST otherwise.
pub(crate) struct Connection {
    /// From 0.
    pub(crate) number: usize,
    stream: TcpStream,
    buffer: BytesMut,
    tally: Tally,
}

impl Connection {
    /// The next request, with its whole body. An error when the client has closed the connection.
    pub(crate) async fn request(&mut self) -> io::Result<Request> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
        assert_eq!(header(&head, "transfer-encoding"), None, "the length of a request is known");
        let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < end + length {
            self.read().await?;
        }
        let body = self.buffer.split_to(end + length).split_off(end).freeze();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mut request = Request { connection: self.number, number: 0, path, head, body };
        request.number = self.tally.arrive(request.operation());
        Ok(request)
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the first byte of the next request.
    pub(crate) async fn first_byte(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { self.read().await } else { Ok(()) }
    }

    /// Reads until the client is gone, and sends nothing.
    pub(crate) async fn ignore(&mut self) -> io::Result<()> {
        loop {
            self.read().await?;
        }
    }

    /// Reads nothing, for ever.
    pub(crate) async fn stall(&mut self) -> io::Result<()> {
        std::future::pending().await
    }

    /// Responds to every request with a result, until the client is gone.
    pub(crate) async fn serve(&mut self) -> io::Result<()> {
        self.serve_with(|_| Reply::result()).await
    }

    /// Responds to every request with what `reply` returns, until the client is gone.
    pub(crate) async fn serve_with(&mut self, reply: impl Fn(&Request) -> Reply) -> io::Result<()> {
        loop {
            let request = self.request().await?;
            self.reply(&request, &reply(&request)).await?;
        }
    }

    /// Applies the request, or does not, and responds.
    pub(crate) async fn reply(&mut self, request: &Request, reply: &Reply) -> io::Result<()> {
        if reply.applied {
            self.tally.apply(request.operation());
        }
        if !reply.delay.is_zero() {
            tokio::time::sleep(reply.delay).await;
        }
        if reply.pause.is_zero() {
            return self.write(&reply.bytes).await;
        }
        for byte in &reply.bytes {
            self.write(&[*byte]).await?;
            tokio::time::sleep(reply.pause).await;
        }
        Ok(())
    }

    /// Sends any bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends the same again and again, until the client closes the connection: `x: y\r\n` is a head without an end, and
    /// `1\r\nx\r\n` a chunked body.
    pub(crate) async fn write_forever(&mut self, bytes: &[u8]) -> io::Result<()> {
        let many = bytes.repeat(1 + (16 << 10) / bytes.len());
        loop {
            self.write(&many).await?;
        }
    }

    /// Ends the connection with a FIN.
    pub(crate) async fn finish(self) -> io::Result<()> {
        port::finish(self.stream).await
    }

    /// Ends the connection with a RST.
    pub(crate) fn reset(self) -> io::Result<()> {
        port::reset(self.stream)
    }
}

#[cfg(test)]
mod tests {
    use centrifugo_api::{Client, Config, Error, ErrorKind, PublishRequest};
    use serde_json::json;

    use super::*;
    use crate::support::soon;

    fn client(server: &Server) -> Client {
        Client::new(Config::http(server.api_url()).retry(None)).unwrap()
    }

    async fn publish(client: &Client) -> Result<u64, Error> {
        let request = PublishRequest::new("news", json!({})).idempotency_key("key");
        soon(client.publish(request)).await.map(|result| result.offset)
    }

    #[tokio::test]
    async fn a_script_chooses_each_reply_and_the_tally_counts_what_is_applied() {
        let server = replying(|request| match request.number {
            0 => Reply::json(503, "{}"),
            1 => Reply::with(302, &[("location", "/elsewhere")], b""),
            2 => Reply::with(200, &[("content-type", "text/html")], b"<html>").applied(),
            3 => Reply::result().trickled(Duration::from_millis(1)),
            4 => Reply::chunked(200, &["{\"result\":", "{}}"], true).applied(),
            _ => Reply::result().after(Duration::from_millis(10)),
        });
        let client = client(&server);
        for _ in 0..3 {
            publish(&client).await.unwrap_err();
        }
        for offset in [1, 0, 1] {
            assert_eq!(publish(&client).await.unwrap(), offset);
        }
        let (arrived, applied) = (server.tally.arrived(), server.tally.applied());
        assert_eq!((arrived.len(), applied.len(), server.tally.effects()), (6, 4, 1));
        assert_eq!((&applied[0].channel[..], &applied[0].idempotency_key[..]), ("news", "key"));
        assert_eq!(server.dials(), 1);
    }

    #[tokio::test]
    async fn responses_are_cut_off_by_a_fin_or_a_reset() {
        for reset in [true, false] {
            for reply in
                [Reply::raw(b""), Reply::result().without_last(1), Reply::chunked(200, &["{\"result\":{}}"], false)]
            {
                let server = start(move |mut connection| {
                    let reply = reply.clone().applied();
                    async move {
                        let request = connection.request().await?;
                        assert_eq!(
                            (&request.path[..], request.header("content-type")),
                            ("/api/publish", Some("application/json"))
                        );
                        connection.reply(&request, &reply).await?;
                        if reset { connection.reset() } else { connection.finish().await }
                    }
                });
                assert_eq!(publish(&client(&server)).await.unwrap_err().kind(), ErrorKind::Lost);
                assert_eq!((server.dials(), server.tally.applied().len()), (1, 1));
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_before_anything_is_read() {
        let server = start(|connection| async move { connection.reset() });
        publish(&client(&server)).await.unwrap_err();
        assert!(server.dials() > 0);
        assert_eq!(server.tally.arrived().len(), 0);
    }

    #[tokio::test]
    async fn a_connection_is_closed_exactly_when_it_is_used_again() {
        let server = start(|mut connection| async move {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
            connection.first_byte().await?;
            connection.reset()
        });
        let client = client(&server);
        publish(&client).await.unwrap();
        assert_eq!(server.tally.arrived().len(), 1);
        let second = publish(&client).await;
        assert_eq!(server.tally.applied().len(), 1 + usize::from(second.is_ok()));
    }

    #[tokio::test]
    async fn a_response_that_never_ends_or_never_comes_is_bounded_by_the_client() {
        let cases = [
            (head(200, &[("transfer-encoding", "chunked")]), "4\r\n    \r\n"),
            (head(200, &[("content-length", "99999999999")]), " "),
            (b"HTTP/1.1 200 OK\r\n".to_vec(), "x-more: and more\r\n"),
        ];
        for (first, again) in cases {
            let server = start(move |mut connection| {
                let first = first.clone();
                async move {
                    connection.request().await?;
                    connection.write(&first).await?;
                    connection.write_forever(again.as_bytes()).await
                }
            });
            let config = Config::http(server.api_url()).max_reply_size(1 << 20).retry(None);
            let client = Client::new(config).unwrap();
            let kind = publish(&client).await.unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::TooLarge | ErrorKind::Protocol), "{kind:?}");
        }
        let silent = start(|mut connection| async move { connection.ignore().await });
        let deaf = start(|mut connection| async move { connection.stall().await });
        for server in [silent, deaf] {
            let config = Config::http(server.api_url()).timeout(Duration::from_millis(100)).retry(None);
            let client = Client::new(config).unwrap();
            assert_eq!(publish(&client).await.unwrap_err().kind(), ErrorKind::Timeout);
        }
    }
}
