//! A gRPC server whose every frame is a script's choice (RFC 9113).

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use centrifugo_api::{PublishRequest, PublishResult};
use http::HeaderMap;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, Join, Sink};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::port;
use super::tally::{Operation, Server, Tally};

/// Types of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// Flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// Settings.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
/// Reasons for resets and GOAWAY.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The highest number of a stream that there is.
pub(crate) const MAX_STREAM: u32 = u32::MAX >> 1;
const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const MAX_FRAME: usize = 16 * 1024;

/// Follows the script on every connection, once the usual SETTINGS are sent.
pub(crate) fn start<F>(script: impl Fn(Connection) -> F + Clone + Send + Sync + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    start_at("127.0.0.1:0".parse().unwrap(), script)
}

/// The same, at an address of the caller's choice.
pub(crate) fn start_at<F>(
    address: SocketAddr,
    script: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> Server
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Server::start_at(address, move |stream, number, tally| {
        let (mut connection, script) = (Connection::new(stream, number, tally), script.clone());
        async move {
            connection.settings(&[]).await?;
            script(connection).await
        }
    })
}

/// Follows the script on every connection. SETTINGS are the script's affair too.
pub(crate) fn start_bare<F>(script: impl Fn(Connection) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Server::start(move |stream, number, tally| script(Connection::new(stream, number, tally)))
}

/// Answers every request as told.
pub(crate) fn replying(reply: impl Fn(&Request) -> Reply + Clone + Send + Sync + 'static) -> Server {
    start(move |mut connection| {
        let reply = reply.clone();
        async move { connection.serve_with(reply).await }
    })
}

/// A frame, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Bytes,
}

/// What the client did.
#[derive(Debug)]
pub(crate) enum Event {
    /// It opened a stream. The request's body is still to come.
    Opened(u32),
    /// The whole of a request arrived.
    Request(Request),
    /// It reset a stream, for this reason.
    Reset(u32, u32),
    /// It sent a PING of its own, which was acknowledged.
    Pinged,
    /// Anything else, but for SETTINGS of its own, which are acknowledged without a word.
    Other(Frame),
}

/// A request whose whole body arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) stream: u32,
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
    /// The number of the request on all connections together, from 0.
    pub(crate) number: usize,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// The message, without gRPC's 5 bytes before it.
    pub(crate) message: Bytes,
}

impl Request {
    pub(crate) fn publish(&self) -> PublishRequest {
        PublishRequest::decode(&self.message[..]).unwrap()
    }

    fn operation(&self) -> Operation {
        let request = if self.path.ends_with("/Publish") { self.publish() } else { PublishRequest::default() };
        Operation {
            connection: self.connection,
            at: Instant::now(),
            channel: request.channel,
            idempotency_key: request.idempotency_key,
            message: self.message.clone(),
        }
    }
}

/// An answer: whether the request is carried out, and the frames that say so, or do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    applied: bool,
    frames: Vec<(u8, u8, Vec<u8>)>,
}

impl Reply {
    /// No answer at all.
    pub(crate) fn hang() -> Self {
        Self::default()
    }

    /// The result of a publish that went well.
    pub(crate) fn result() -> Self {
        let mut result = PublishResult::default();
        (result.offset, result.epoch) = (1, "epoch".into());
        let result = result.encode_to_vec();
        Self::message(&[&[0x12, u8::try_from(result.len()).unwrap()], &result[..]].concat())
    }

    /// A message of the script's making, and status 0.
    pub(crate) fn message(message: &[u8]) -> Self {
        Self::head().data(message).headers(&[(b"grpc-status", b"0")], END_STREAM).applied()
    }

    /// A status, and nothing besides. The request counts as not carried out.
    pub(crate) fn status(code: u32, message: &str) -> Self {
        Self::status_with(code, message, &[])
    }

    /// A status with more headers.
    pub(crate) fn status_with(code: u32, message: &str, more: &[(&[u8], &[u8])]) -> Self {
        let code = code.to_string();
        let mut headers: Vec<(&[u8], &[u8])> = vec![(b":status", b"200"), (b"content-type", b"application/grpc")];
        headers.extend_from_slice(&[(b"grpc-status", code.as_bytes()), (b"grpc-message", message.as_bytes())]);
        headers.extend_from_slice(more);
        Self::default().headers(&headers, END_STREAM)
    }

    /// The head of an answer and a message, and then a reset in the place of the trailers.
    pub(crate) fn cut(reason: u32) -> Self {
        Self::head().data(b"").then_reset(reason).applied()
    }

    /// A reset.
    pub(crate) fn reset(reason: u32) -> Self {
        Self::default().then_reset(reason)
    }

    /// The headers that come before a message.
    pub(crate) fn head() -> Self {
        Self::default().headers(&[(b":status", b"200"), (b"content-type", b"application/grpc")], 0)
    }

    /// Adds a block of headers, of any size: as many CONTINUATION frames as it takes.
    pub(crate) fn headers(mut self, headers: &[(&[u8], &[u8])], flags: u8) -> Self {
        let block = header_block(headers);
        let last = block.chunks(MAX_FRAME).count().saturating_sub(1);
        for (n, part) in block.chunks(MAX_FRAME).enumerate() {
            let (kind, flags) = if n == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
            self.frames.push((kind, flags | if n == last { END_HEADERS } else { 0 }, part.to_vec()));
        }
        self
    }

    /// Adds a message, framed as gRPC does. That the client has room for a long one is not looked at.
    pub(crate) fn data(mut self, message: &[u8]) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        self.frames.extend(framed.chunks(MAX_FRAME).map(|part| (DATA, 0, part.to_vec())));
        self
    }

    /// Adds the end of the answer, without trailers.
    pub(crate) fn end(mut self) -> Self {
        self.frames.push((DATA, END_STREAM, Vec::new()));
        self
    }

    /// Adds a reset.
    pub(crate) fn then_reset(mut self, reason: u32) -> Self {
        self.frames.push((RST_STREAM, 0, reason.to_be_bytes().to_vec()));
        self
    }

    /// The request is carried out, whatever is said.
    pub(crate) fn applied(mut self) -> Self {
        self.applied = true;
        self
    }

    /// The request is not carried out, whatever is said.
    pub(crate) fn unapplied(mut self) -> Self {
        self.applied = false;
        self
    }
}

/// Headers as HPACK has them (RFC 7541), each written out: without indices and without Huffman's code.
fn header_block(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128 + 128).unwrap());
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend_from_slice(text);
        }
    }
    block
}

/// One connection of a client. What waits for the client may be dropped and called again.
pub(crate) struct Connection {
    /// From 0.
    pub(crate) number: usize,
    /// The highest stream that the client has opened.
    pub(crate) highest: u32,
    /// Whether room is made for more of a request's body as it arrives.
    pub(crate) opens_window: bool,
    /// The last stream that it is not too late for.
    last: u32,
    stream: TcpStream,
    buffer: BytesMut,
    tally: Tally,
    heads: Option<Heads>,
    open: HashMap<u32, (String, HeaderMap, BytesMut)>,
}

impl Connection {
    fn new(stream: TcpStream, number: usize, tally: Tally) -> Self {
        let (buffer, open) = (BytesMut::new(), HashMap::new());
        Self { number, highest: 0, opens_window: true, last: MAX_STREAM, stream, buffer, tally, heads: None, open }
    }

    /// The next frame, whatever it is.
    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            if self.heads.is_none() && self.buffer.len() >= PREFACE {
                self.heads = Some(Heads::new(&self.buffer.split_to(PREFACE)).await);
            }
            if let (true, Some(&[a, b, c, kind, flags, ..])) = (self.heads.is_some(), self.buffer.first_chunk::<9>()) {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= 9 + length {
                    let mut stream = self.buffer.split_to(9).split_off(5);
                    let payload = self.buffer.split_to(length).freeze();
                    return Ok(Frame { kind, flags, stream: stream.get_u32() & MAX_STREAM, payload });
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What the client does next. An error when it has closed the connection.
    pub(crate) async fn next(&mut self) -> io::Result<Event> {
        loop {
            let frame = self.frame().await?;
            let id = frame.stream;
            match frame.kind {
                SETTINGS | PING if frame.flags & ACK == 0 => {
                    let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                    self.send(frame.kind, ACK, 0, payload).await?;
                    if frame.kind == PING {
                        return Ok(Event::Pinged);
                    }
                }
                HEADERS | CONTINUATION => {
                    let head = self.heads.as_mut().unwrap().read(&frame).await;
                    if let Some((path, headers)) = head.filter(|_| id <= self.last) {
                        self.highest = id;
                        self.open.insert(id, (path, headers, BytesMut::new()));
                        return Ok(Event::Opened(id));
                    }
                }
                DATA => {
                    assert_eq!(frame.flags & PADDED, 0, "nobody pads");
                    if self.opens_window && !frame.payload.is_empty() {
                        let length = u32::try_from(frame.payload.len()).unwrap();
                        self.window_update(0, length).await?;
                        self.window_update(id, length).await?;
                    }
                    // Of a stream that the client did not know yet to be reset, there may be more.
                    let Some((_, _, body)) = self.open.get_mut(&id) else { continue };
                    body.extend_from_slice(&frame.payload);
                    if frame.flags & END_STREAM != 0 {
                        return Ok(Event::Request(self.arrived(id)));
                    }
                }
                RST_STREAM => {
                    self.open.remove(&id);
                    return Ok(Event::Reset(id, (&frame.payload[..]).get_u32()));
                }
                _ => return Ok(Event::Other(frame)),
            }
        }
    }

    fn arrived(&mut self, stream: u32) -> Request {
        let (path, headers, mut body) = self.open.remove(&stream).unwrap();
        let message = body.split_off(5).freeze();
        let mut request = Request { stream, connection: self.number, number: 0, path, headers, message };
        request.number = self.tally.arrive(request.operation());
        request
    }

    /// The next stream that the client opens. Its body has not been looked at.
    pub(crate) async fn opened(&mut self) -> io::Result<u32> {
        loop {
            if let Event::Opened(stream) = self.next().await? {
                return Ok(stream);
            }
        }
    }

    /// The next request whose whole body arrives.
    pub(crate) async fn request(&mut self) -> io::Result<Request> {
        loop {
            if let Event::Request(request) = self.next().await? {
                return Ok(request);
            }
        }
    }

    /// The next so many requests.
    pub(crate) async fn requests(&mut self, number: usize) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        while requests.len() < number {
            requests.push(self.request().await?);
        }
        Ok(requests)
    }

    /// The next PING of the client, which is acknowledged.
    pub(crate) async fn pinged(&mut self) -> io::Result<()> {
        while !matches!(self.next().await?, Event::Pinged) {}
        Ok(())
    }

    /// Reads until the client is gone, and says nothing: what has to be acknowledged is not.
    pub(crate) async fn ignore(&mut self) -> io::Result<()> {
        loop {
            self.frame().await?;
        }
    }

    /// Reads nothing, for ever.
    pub(crate) async fn stall(&mut self) -> io::Result<()> {
        std::future::pending().await
    }

    /// Answers every request as a good server does, until the client is gone.
    pub(crate) async fn serve(&mut self) -> io::Result<()> {
        self.serve_with(|_| Reply::result()).await
    }

    /// Answers every request as told, until the client is gone.
    pub(crate) async fn serve_with(&mut self, reply: impl Fn(&Request) -> Reply) -> io::Result<()> {
        loop {
            let request = self.request().await?;
            self.reply(&request, &reply(&request)).await?;
        }
    }

    /// Carries the request out, or does not, and answers it.
    pub(crate) async fn reply(&mut self, request: &Request, reply: &Reply) -> io::Result<()> {
        if reply.applied {
            self.tally.apply(request.operation());
        }
        for (kind, flags, payload) in &reply.frames {
            self.send(*kind, *flags, request.stream, payload).await?;
        }
        Ok(())
    }

    /// Sends any frame.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame_bytes(kind, flags, stream, payload)).await
    }

    /// Sends any bytes.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn settings(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let payload = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        self.send(SETTINGS, 0, 0, &payload.collect::<Vec<u8>>()).await
    }

    /// For a stream, or with 0 for the connection.
    pub(crate) async fn window_update(&mut self, stream: u32, more: u32) -> io::Result<()> {
        self.send(WINDOW_UPDATE, 0, stream, &more.to_be_bytes()).await
    }

    /// Resets a stream. What the client still sends on it is no request.
    pub(crate) async fn reset_stream(&mut self, stream: u32, reason: u32) -> io::Result<()> {
        self.open.remove(&stream);
        self.send(RST_STREAM, 0, stream, &reason.to_be_bytes()).await
    }

    /// Says that the connection will end, and that no stream above `last` is or will be looked at. It is so.
    pub(crate) async fn goaway(&mut self, last: u32, reason: u32, debug: &[u8]) -> io::Result<()> {
        self.last = last;
        self.open.retain(|stream, _| *stream <= last);
        let payload = [&last.to_be_bytes(), &reason.to_be_bytes(), debug].concat();
        self.send(GOAWAY, 0, 0, &payload).await
    }

    /// Ends a connection as grpc-go does: a GOAWAY for no stream and a PING; when the PING is answered, a GOAWAY for what
    /// has come so far. Gives the requests that arrived in between, which want an answer too.
    pub(crate) async fn drain(&mut self) -> io::Result<Vec<Request>> {
        self.goaway(MAX_STREAM, NO_ERROR, b"graceful_stop").await?;
        let events = self.sync().await?;
        self.goaway(self.highest, NO_ERROR, b"graceful_stop").await?;
        let request = |event| if let Event::Request(request) = event { Some(request) } else { None };
        Ok(events.into_iter().filter_map(request).collect())
    }

    /// Sends a PING, and tells what the client did before it answered: what was sent earlier, it has read by then.
    pub(crate) async fn sync(&mut self) -> io::Result<Vec<Event>> {
        self.send(PING, 0, 0, &[1, 6, 1, 8, 0, 3, 3, 9]).await?;
        let mut events = Vec::new();
        loop {
            match self.next().await? {
                Event::Other(frame) if frame.kind == PING => return Ok(events),
                event => events.push(event),
            }
        }
    }

    /// Answers with headers that never end, until the client has had enough.
    pub(crate) async fn endless_headers(&mut self, stream: u32) -> io::Result<()> {
        let block = header_block(&[(b"x-more", &[b'x'; 1000])]);
        self.send(HEADERS, 0, stream, &header_block(&[(b":status", b"200")])).await?;
        loop {
            self.send(CONTINUATION, 0, stream, &block).await?;
        }
    }

    /// Ends the connection with a FIN. To drop it does the same only if everything was read.
    pub(crate) async fn finish(self) -> io::Result<()> {
        port::finish(self.stream).await
    }

    /// Ends the connection with a RST.
    pub(crate) fn reset(self) -> io::Result<()> {
        port::reset(self.stream)
    }
}

/// A frame as it is sent.
pub(crate) fn frame_bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads what is packed into HEADERS. h2 has no decoder to give away, so a server of its own gets a copy of these frames.
struct Heads {
    copy: DuplexStream,
    server: h2::server::Connection<Join<DuplexStream, Sink>, Bytes>,
}

impl Heads {
    async fn new(preface: &[u8]) -> Self {
        let (mut copy, reads) = tokio::io::duplex(1 << 20);
        // RFC 9113 wants SETTINGS first.
        copy.write_all(&[preface, &frame_bytes(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let server = h2::server::handshake(tokio::io::join(reads, tokio::io::sink())).await.unwrap();
        Self { copy, server }
    }

    /// The path and the headers, when they are complete.
    async fn read(&mut self, frame: &Frame) -> Option<(String, HeaderMap)> {
        let bytes = frame_bytes(frame.kind, frame.flags, frame.stream, &frame.payload);
        self.copy.write_all(&bytes).await.unwrap();
        if frame.flags & END_HEADERS == 0 {
            return None;
        }
        let (request, _) = self.server.accept().await.unwrap().unwrap();
        Some((request.uri().path().to_owned(), request.headers().clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use centrifugo_api::{Client, Config, Error, ErrorKind, Retry};
    use serde_json::json;
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;
    use crate::support::soon;

    fn client(server: &Server) -> Client {
        Client::new(Config::grpc(server.url()).retry(Retry::off())).unwrap()
    }

    async fn publish(client: &Client) -> Result<u64, Error> {
        let request = PublishRequest::new("news", json!({})).idempotency_key("key");
        client.publish(request).await.map(|result| result.offset)
    }

    #[tokio::test]
    async fn a_script_chooses_each_reply_and_the_tally_knows_what_was_carried_out() {
        let server = replying(|request| match request.number {
            0 => Reply::status(14, "busy"),
            1 => Reply::status(0, "").applied(),
            2 => Reply::reset(INTERNAL_ERROR),
            3 => Reply::cut(NO_ERROR),
            4 => Reply::status_with(13, "bad", &[(b"grpc-status-details-bin", b"not base64 \xff")]),
            _ => Reply::result(),
        });
        let client = client(&server);
        for kind in [ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::Lost] {
            assert_eq!(publish(&client).await.unwrap_err().kind(), kind);
        }
        publish(&client).await.unwrap_err();
        publish(&client).await.unwrap_err();
        assert_eq!(publish(&client).await.unwrap(), 1);
        let (arrived, applied) = (server.tally.arrived(), server.tally.applied());
        assert_eq!((arrived.len(), applied.len(), server.tally.effects()), (6, 3, 1));
        assert_eq!((&applied[0].channel[..], &applied[0].idempotency_key[..]), ("news", "key"));
        assert_eq!(server.dials(), 1);
    }

    #[tokio::test]
    async fn the_path_and_the_headers_of_a_request_are_read() {
        let server = start(|mut connection| async move {
            for _ in 0..3 {
                let request = connection.request().await?;
                assert_eq!(request.path, "/centrifugal.centrifugo.api.CentrifugoApi/Publish");
                assert_eq!(request.headers["authorization"], "apikey a key");
                connection.reply(&request, &Reply::result()).await?;
            }
            connection.ignore().await
        });
        let client = Client::new(Config::grpc(server.url()).api_key("a key")).unwrap();
        for _ in 0..3 {
            publish(&client).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_stream_is_refused_before_its_body_is_read() {
        let server = start(|mut connection| async move {
            let stream = connection.opened().await?;
            connection.reset_stream(stream, REFUSED_STREAM).await?;
            connection.serve().await
        });
        let well = soon(publish(&client(&server))).await.map_err(|error| assert!(!error.may_have_run(), "{error:?}"));
        assert_eq!(server.tally.arrived().len(), usize::from(well.is_ok()));
    }

    #[tokio::test]
    async fn streams_up_to_the_last_one_of_a_goaway_finish() {
        let server = start(|mut connection| async move {
            if connection.number > 0 {
                return connection.serve().await;
            }
            let requests = connection.requests(20).await?;
            let last = requests[9].stream;
            connection.goaway(last, NO_ERROR, b"bye").await?;
            for request in &requests[..10] {
                connection.reply(request, &Reply::result()).await?;
            }
            connection.finish().await
        });
        let client = client(&server);
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let client = client.clone();
            calls.spawn(async move { publish(&client).await });
        }
        let outcomes = soon(calls.join_all()).await;
        let (well, badly): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert!(well.len() >= 10);
        assert_eq!(server.tally.applied().len(), well.len());
        assert!(badly.into_iter().all(|outcome| !outcome.unwrap_err().may_have_run()));
    }

    #[tokio::test]
    async fn a_connection_is_drained_as_grpc_go_does() {
        let server = start(|mut connection| async move {
            let first = connection.request().await?;
            let mut requests = connection.drain().await?;
            requests.insert(0, first);
            for request in &requests {
                connection.reply(request, &Reply::result()).await?;
            }
            connection.finish().await
        });
        let client = client(&server);
        for dials in 1..5 {
            soon(publish(&client)).await.unwrap();
            assert_eq!(server.dials(), dials);
        }
    }

    #[tokio::test]
    async fn one_stream_at_a_time_and_a_window_that_opens_late_are_the_scripts_choice() {
        static TAKEN: Notify = Notify::const_new();
        let server = start(|mut connection| async move {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
            connection.settings(&[(MAX_CONCURRENT_STREAMS, 1), (INITIAL_WINDOW_SIZE, 0)]).await?;
            connection.sync().await?;
            TAKEN.notify_one();
            connection.opened().await?;
            // Neither the body of this call, nor the other call.
            let events = connection.sync().await?;
            assert!(!events.iter().any(|event| matches!(event, Event::Opened(_) | Event::Request(_))), "{events:?}");
            connection.settings(&[(INITIAL_WINDOW_SIZE, 65535)]).await?;
            connection.serve().await
        });
        let client = client(&server);
        publish(&client).await.unwrap();
        soon(TAKEN.notified()).await;
        let (one, other) = tokio::join!(soon(publish(&client)), soon(publish(&client)));
        one.and(other).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_answered_by_one_that_says_nothing_or_reads_nothing() {
        let silent = start_bare(|mut connection| async move { connection.ignore().await });
        let deaf = start_bare(|mut connection| async move { connection.stall().await });
        for server in [silent, deaf] {
            let config = Config::grpc(server.url()).timeout(Duration::from_millis(200)).retry(Retry::off());
            let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
            assert_eq!(server.dials(), 1);
        }
    }

    #[tokio::test]
    async fn headers_may_be_huge_many_or_without_an_end() {
        let huge = vec![b'x'; 1 << 20];
        let many: Vec<(&[u8], &[u8])> = vec![(b"x-one", b"of many"); 5000];
        let replies = [Reply::status_with(0, "", &[(b"x-huge", &huge[..])]), Reply::status_with(0, "", &many)];
        for reply in replies {
            let server = replying(move |_| reply.clone());
            soon(publish(&client(&server))).await.unwrap_err();
            assert_eq!(server.tally.arrived().len(), 1);
        }
        let endless = start(|mut connection| async move {
            let request = connection.request().await?;
            connection.endless_headers(request.stream).await
        });
        soon(publish(&client(&endless))).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_connection_ends_with_a_fin_or_a_reset() {
        for reset in [true, false] {
            let server = start(move |mut connection| async move {
                connection.request().await?;
                if reset { connection.reset() } else { connection.finish().await }
            });
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            // A GET of `/`, out of the static table, and an empty message.
            let head = frame_bytes(HEADERS, END_HEADERS, 1, &[0x82, 0x84, 0x86, 0x41, 1, b'x']);
            let body = frame_bytes(DATA, END_STREAM, 1, &[0; 5]);
            stream.write_all(&[&preface[..], &head, &body].concat()).await.unwrap();
            let end = soon(tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
            assert_eq!(end.is_err(), reset, "{end:?}");
        }
    }
}
