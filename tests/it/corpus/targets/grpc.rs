//! Any response in HTTP/2: status, headers, data, trailers, and how the stream or the connection ends.

use std::future::poll_fn;
use std::io::Write as _;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use centrifugo_api::{ApiError, Config, Error};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Input;
use super::exchange::{self, CLIENTS, Now, RUN, SECOND, Server};

#[derive(Default)]
struct Script {
    gzip: bool,
    status: StatusCode,
    headers: HeaderMap,
    chunks: Vec<Bytes>,
    trailers: HeaderMap,
    ending: Ending,
}

#[derive(Clone, Copy, Default)]
enum Ending {
    #[default]
    Trailers,
    /// After the data or, if there is none, after the headers.
    EndOfStream,
    Reset(Reason),
    /// The server refuses the stream unprocessed, and then sends nothing.
    Refused,
    /// The server announces the end of the connection and ends it.
    GoAway(Reason),
    /// The server announces the end of the connection, and ends the stream too.
    Shutdown,
    /// The connection ends without a frame.
    Abort,
    Silence,
}

const NAMES: &[&str] = &[
    "content-type",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-encoding",
    "grpc-accept-encoding",
    "content-length",
    "x-from-server",
    "some-bin",
    "grpc-retry-pushback-ms",
    "retry-after",
];

const REASONS: &[Reason] = &[
    Reason::NO_ERROR,
    Reason::PROTOCOL_ERROR,
    Reason::INTERNAL_ERROR,
    Reason::FLOW_CONTROL_ERROR,
    Reason::STREAM_CLOSED,
    Reason::FRAME_SIZE_ERROR,
    Reason::REFUSED_STREAM,
    Reason::CANCEL,
    Reason::ENHANCE_YOUR_CALM,
];

pub(crate) fn exchange(data: &[u8]) {
    let mut input = Input(data);
    let call = input.byte();
    let script = Script {
        gzip: call & 0x80 != 0,
        status: StatusCode::from_u16(exchange::status(&mut input)).expect("three digits"),
        headers: headers(&mut input),
        chunks: input.several(chunk),
        trailers: headers(&mut input),
        ending: match input.byte() {
            0 => Ending::Trailers,
            1 => Ending::EndOfStream,
            2 => Ending::Refused,
            3 => Ending::Shutdown,
            4 => Ending::Abort,
            5 => Ending::Silence,
            byte if byte % 2 == 0 => Ending::Reset(input.one_of(REASONS)),
            _ => Ending::GoAway(input.one_of(REASONS)),
        },
    };
    run(call, script);
}

/// A status with details, which are the rest of the input, bare or as an error of the API should stand there. Returns the
/// error of the API that is in them, if that is known.
pub(super) fn with_details(call: u8, input: &mut Input<'_>) -> (Vec<Error>, Option<ApiError>) {
    let (code, bare) = (input.byte() % 17, input.byte() & 1 == 1);
    let mut details = Vec::new();
    if bare {
        details.extend_from_slice(input.0);
    } else {
        let mut any = Vec::new();
        prost::encoding::string::encode(
            1,
            &"type.googleapis.com/centrifugal.centrifugo.api.Error".to_owned(),
            &mut any,
        );
        prost::encoding::bytes::encode(2, &input.0.to_vec(), &mut any);
        prost::encoding::bytes::encode(3, &any, &mut details);
    }
    let mut headers = grpc_headers();
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    let details = STANDARD_NO_PAD.encode(details);
    headers.insert("grpc-status-details-bin", details.parse().expect("base64 is ASCII"));
    let errors = run(call, Script { headers, ending: Ending::EndOfStream, ..Script::default() });
    let expected = if bare { errors.first().and_then(Error::api).cloned() } else { ApiError::decode(input.0).ok() };
    (errors, expected)
}

fn run(call: u8, script: Script) -> Vec<Error> {
    thread_local!(static SERVER: Server<Script> = Server::start(serve));
    SERVER.with(|server| server.exchange(call, script))
}

fn grpc_headers() -> HeaderMap {
    [(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))].into_iter().collect()
}

/// The headers of gRPC, to which others are added, or which others replace.
fn headers(input: &mut Input<'_>) -> HeaderMap {
    let mut headers = if input.byte() & 1 == 0 { grpc_headers() } else { HeaderMap::new() };
    for (name, value) in input.several(|input| (input.byte(), input.bytes())) {
        let (name, value) = match NAMES.get(usize::from(name)) {
            Some(name) => (Some(HeaderName::from_static(name)), HeaderValue::from_bytes(value)),
            // Details and other binary values, as they should be.
            None if name % 4 == 0 => {
                let value = STANDARD_NO_PAD.encode(value);
                (Some(HeaderName::from_static("grpc-status-details-bin")), HeaderValue::try_from(value))
            }
            None if name % 4 == 1 => {
                (Some(HeaderName::from_static("grpc-status")), HeaderValue::try_from((name / 4 % 18).to_string()))
            }
            // A name and a value in one.
            None => {
                let split = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
                let (name, value) = value.split_at(split);
                (HeaderName::from_bytes(name).ok(), HeaderValue::from_bytes(value.get(1..).unwrap_or_default()))
            }
        };
        if let (Some(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Bytes as they are, a message, or a compressed message.
fn chunk(input: &mut Input<'_>) -> Bytes {
    match input.byte() % 4 {
        0 => input.bytes().to_vec().into(),
        1 => message(0, input.bytes()),
        2 => message(1, input.bytes()),
        _ => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(input.bytes()).expect("memory");
            message(1, &gzip.finish().expect("memory"))
        }
    }
}

fn message(compressed: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len()).expect("a short one").to_be_bytes();
    [&[compressed], &length[..], body].concat().into()
}

impl exchange::Script for Script {
    fn config(&self, address: &str) -> Config {
        Config::grpc(format!("http://{address}")).gzip(self.gzip).into()
    }

    fn says_no(&self) -> bool {
        let statuses = |headers: &HeaderMap| {
            let all = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
            all("grpc-status").any(|code| {
                // UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, INVALID_ARGUMENT; RESOURCE_EXHAUSTED and INTERNAL
                // with the words of grpc-go.
                matches!(code, b"16" | b"7" | b"12" | b"3")
                    || code == b"8" && all("grpc-message").any(|text| text.starts_with(b"grpc"))
                    || code == b"13"
                        && all("grpc-message").any(|text| text.len() >= "error unmarshalling request".len())
            })
        };
        // The server says "not processed"; a response that is still to come does not contradict it.
        let refused = self.status.is_informational() && matches!(self.ending, Ending::Reset(Reason::REFUSED_STREAM));
        refused || exchange::is_no(self.status.as_u16()) || statuses(&self.headers) || statuses(&self.trailers)
    }
}

async fn serve(stream: TcpStream, now: Now<Script>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let (tell, mut told) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            call = connection.accept() => {
                let Some(Ok((request, respond))) = call else { return };
                // The connection must be driven for the request's body to arrive.
                tokio::spawn(respond_to(request, respond, now.clone(), tell.clone()));
            }
            Some(ending) = told.recv() => match ending {
                Ending::GoAway(reason) => connection.abrupt_shutdown(reason),
                Ending::Shutdown => connection.graceful_shutdown(),
                _ => return,
            },
        }
    }
}

/// Ends early when the client has gone.
async fn respond_to(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    now: Now<Script>,
    tell: mpsc::UnboundedSender<Ending>,
) -> Option<()> {
    let run = now.run(request.headers().get(RUN)?.as_bytes())?;
    let is_second = request.uri().path().ends_with("/PresenceStats");
    debug_assert_eq!(SECOND, "presence_stats");
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
    }
    let good;
    let script = if is_second {
        run.second.store(true, Ordering::Relaxed);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut stats = Vec::new();
        prost::encoding::uint32::encode(1, &CLIENTS, &mut stats);
        let mut response = Vec::new();
        prost::encoding::bytes::encode(2, &stats, &mut response);
        good = Script { headers: grpc_headers(), chunks: vec![message(0, &response)], trailers, ..Script::default() };
        &good
    } else if let Ending::Refused = run.script.ending {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    } else {
        run.first.store(true, Ordering::Relaxed);
        &run.script
    };

    let mut response = Response::new(());
    *response.status_mut() = script.status;
    *response.headers_mut() = script.headers.clone();
    let at_end = |chunk: usize| chunk == script.chunks.len() && matches!(script.ending, Ending::EndOfStream);
    let mut stream = respond.send_response(response, at_end(0)).ok()?;
    for (index, chunk) in script.chunks.iter().enumerate() {
        stream.send_data(chunk.clone(), at_end(index + 1)).ok()?;
    }
    // The connection writes what there is: a reset would take it back.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    match script.ending {
        Ending::Trailers => stream.send_trailers(script.trailers.clone()).ok()?,
        Ending::Reset(reason) => stream.send_reset(reason),
        Ending::Shutdown => {
            tell.send(script.ending).ok()?;
            stream.send_data(Bytes::new(), true).ok()?;
        }
        Ending::GoAway(_) | Ending::Abort => tell.send(script.ending).ok()?,
        Ending::EndOfStream | Ending::Refused | Ending::Silence => {}
    }
    // Until the client gives up, if it has to.
    if matches!(script.ending, Ending::Silence | Ending::GoAway(_)) {
        let _ = poll_fn(|context| stream.poll_reset(context)).await;
    }
    Some(())
}
