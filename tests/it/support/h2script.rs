//! A gRPC server whose every frame is a script's choice (RFC 9113).

mod reply;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use centrifugo_api::PublishRequest;
use http::HeaderMap;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, Join, Sink};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::port;
use super::tally::{Operation, Server, Tally};

pub(crate) use reply::Reply;
use reply::header_block;

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

/// Follows the script on every connection. The script sends SETTINGS itself.
pub(crate) fn start_bare<F>(script: impl Fn(Connection) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Server::start(move |stream, number, tally| script(Connection::new(stream, number, tally)))
}

/// Responds to every request with what `reply` returns.
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
    /// Anything else, except SETTINGS, which are acknowledged silently.
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

/// One connection of a client. Its futures may be dropped and called again.
pub(crate) struct Connection {
    /// From 0.
    pub(crate) number: usize,
    /// The highest stream that the client has opened.
    pub(crate) highest: u32,
    /// Whether the window is opened for more of a request's body as it arrives.
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
                    // More frames may arrive on a stream before the client sees its reset.
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

    /// Reads until the client closes the connection, and acknowledges nothing.
    pub(crate) async fn ignore(&mut self) -> io::Result<()> {
        loop {
            self.frame().await?;
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

    /// Resets a stream. Later frames on it are ignored.
    pub(crate) async fn reset_stream(&mut self, stream: u32, reason: u32) -> io::Result<()> {
        self.open.remove(&stream);
        self.send(RST_STREAM, 0, stream, &reason.to_be_bytes()).await
    }

    /// Sends a GOAWAY, and ignores streams above `last`.
    pub(crate) async fn goaway(&mut self, last: u32, reason: u32, debug: &[u8]) -> io::Result<()> {
        self.last = last;
        self.open.retain(|stream, _| *stream <= last);
        let payload = [&last.to_be_bytes(), &reason.to_be_bytes(), debug].concat();
        self.send(GOAWAY, 0, 0, &payload).await
    }

    /// Ends a connection as grpc-go does: a GOAWAY for no stream and a PING; when the PING is acknowledged, a GOAWAY for what
    /// has come so far. Gives the requests that arrived in between, which want a response too.
    pub(crate) async fn drain(&mut self) -> io::Result<Vec<Request>> {
        self.goaway(MAX_STREAM, NO_ERROR, b"graceful_stop").await?;
        let events = self.sync().await?;
        self.goaway(self.highest, NO_ERROR, b"graceful_stop").await?;
        let request = |event| if let Event::Request(request) = event { Some(request) } else { None };
        Ok(events.into_iter().filter_map(request).collect())
    }

    /// Sends a PING, and returns the events before its acknowledgement, by which the client has read everything sent before.
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

    /// Responds with headers that never end, until the client closes the connection.
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

/// Decodes HEADERS. h2 exports no decoder, so an h2 server gets a copy of these frames.
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
