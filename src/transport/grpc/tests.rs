//! Errors of every failure over gRPC: never "not sent" without proof.

use std::fmt;
use std::io;
use std::sync::LazyLock;

use http::Request;
use proptest::prelude::*;
use tokio::io::duplex;

use http::StatusCode;

use super::*;
use crate::config::Protocol;
use crate::transport::http_status::Refusal;
use crate::transport::http_status::tests::{in_words, table};

type Cause = Arc<dyn StdError + Send + Sync>;

/// What a chain of causes ends in, and whether it proves that the server did not process the call.
#[derive(Clone)]
struct Root {
    what: String,
    cause: Cause,
    proof: bool,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// An error that another one caused.
#[derive(Debug)]
struct Wrapped(Cause);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something failed")
    }
}

impl StdError for Wrapped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

fn post() -> Request<()> {
    Request::post("http://localhost/").body(()).unwrap()
}

/// The error of a call whose stream the server resets, or that was sent after a GOAWAY.
async fn from_server(reason: h2::Reason, go_away: bool) -> h2::Error {
    let (client, server) = duplex(64 * 1024);
    tokio::spawn(async move {
        let mut server = h2::server::handshake(server).await.unwrap();
        if go_away {
            server.abrupt_shutdown(reason);
        }
        while let Some(Ok((_, mut respond))) = server.accept().await {
            respond.send_reset(reason);
        }
    });
    let (mut client, connection) = h2::client::handshake(client).await.unwrap();
    let (response, _) = client.send_request(post(), true).unwrap();
    tokio::spawn(connection);
    response.await.unwrap_err()
}

/// The error of a call on a connection that has ended.
async fn never_sent() -> h2::Error {
    let (client, _server) = duplex(1024);
    let (mut client, connection) = h2::client::handshake(client).await.unwrap();
    drop(connection);
    client.send_request(post(), true).map(drop).unwrap_err()
}

/// Failures as h2, tonic and std report them.
static ROOTS: LazyLock<Vec<Root>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut roots = Vec::new();
    let mut add = |what: String, cause: Cause, proof| roots.push(Root { what, cause, proof });
    runtime.block_on(async {
        for number in 0..=14 {
            let reason = h2::Reason::from(number);
            let reset = from_server(reason, false).await;
            assert!(reset.is_reset() && reset.is_remote(), "{reset:?}");
            add(format!("reset by the server: {reason:?}"), Arc::new(reset), reason == h2::Reason::REFUSED_STREAM);
            let go_away = from_server(reason, true).await;
            assert!(go_away.is_go_away() && go_away.is_remote(), "{go_away:?}");
            add(format!("sent away by the server: {reason:?}"), Arc::new(go_away), true);
            add(format!("h2's own {reason:?}"), Arc::new(h2::Error::from(reason)), false);
        }
        // The handover proves this one, not the error.
        add("never sent".into(), Arc::new(never_sent().await), false);
        // Once a response has begun, the server has received the call.
        let refused = from_server(h2::Reason::REFUSED_STREAM, true).await;
        add("truncated".into(), Arc::new(Truncated(Some(refused))), false);
    });
    for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof] {
        add(kind.to_string(), Arc::new(io::Error::from(kind)), false);
    }
    add("words".into(), Arc::new(io::Error::other("operation was canceled: connection refused")), false);
    add("a status".into(), Arc::new(Status::unavailable("tcp connect error")), false);
    roots
});

/// Wraps the root in layers, each a `Wrapped` or a `Status`.
fn below(root: &Root, layers: &[u8]) -> Cause {
    layers.iter().fold(Arc::clone(&root.cause), |cause, layer| match layer {
        0 => Arc::new(Wrapped(cause)),
        1 => Arc::new(io::Error::other(Wrapped(cause))),
        _ => {
            let mut status = Status::cancelled("operation was canceled");
            status.set_source(cause);
            Arc::new(status)
        }
    })
}

fn codes() -> impl Strategy<Value = Code> {
    (0..18_i32).prop_map(Code::from)
}

fn messages() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => ".{0,40}",
        3 => prop::sample::select(vec![
            "",
            "unknown service centrifugal.centrifugo.api.CentrifugoApi",
            "unknown method Foo for service centrifugal.centrifugo.api.CentrifugoApi",
            "grpc: received message larger than max (20 vs. 10)",
            "grpc: received message larger than max (99999999999999999999999 vs. 10)",
            "grpc: received message larger than max (",
            "trying to send message larger than max (9 vs. 8)",
            "grpc: error unmarshalling request: proto: cannot parse",
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
            "Service was not ready: connection closed",
            "Timeout expired",
            "operation was canceled",
            "tcp connect error",
            "error reading a body from connection",
            "h2 protocol error: http2 error",
        ])
        .prop_map(String::from),
    ]
}

/// A `google.rpc.Status` with one detail, or anything.
fn details() -> impl Strategy<Value = Vec<u8>> {
    let any_of = |url: &str, value: &[u8]| {
        let mut any = Vec::new();
        prost::encoding::string::encode(1, &url.to_owned(), &mut any);
        prost::encoding::bytes::encode(2, &value.to_vec(), &mut any);
        let mut status = Vec::new();
        prost::encoding::bytes::encode(3, &any, &mut status);
        status
    };
    let api = (prop_oneof![95..115_u32, any::<u32>()], any::<bool>()).prop_map(move |(code, temporary)| {
        let error = ApiError { temporary, ..ApiError::new(code, "scripted") };
        any_of("type.googleapis.com/centrifugal.centrifugo.api.Error", &error.encode_to_vec())
    });
    let delay = (any::<i64>(), any::<i32>()).prop_map(move |(seconds, nanos)| {
        let (mut delay, mut info) = (Vec::new(), Vec::new());
        prost::encoding::int64::encode(1, &seconds, &mut delay);
        prost::encoding::int32::encode(2, &nanos, &mut delay);
        prost::encoding::bytes::encode(1, &delay, &mut info);
        any_of("type.googleapis.com/google.rpc.RetryInfo", &info)
    });
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..30), 2 => api, 1 => delay]
}

/// A status that a server sent, perhaps asking to wait.
fn sent_by_server(code: Code, message: &str, details: &[u8], pushback: Option<&str>) -> Status {
    let mut headers = HeaderMap::new();
    headers.insert("x-from-server", HeaderValue::from_static("1"));
    if let Some(pushback) = pushback {
        headers.insert("grpc-retry-pushback-ms", HeaderValue::from_str(pushback).unwrap());
    }
    let details = Bytes::copy_from_slice(details);
    Status::with_details_and_metadata(code, message, details, MetadataMap::from_headers(headers))
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_failed_connection_means_not_sent_only_with_proof(
        root in prop::sample::select(&ROOTS[..]),
        layers in prop::collection::vec(0..3_u8, 0..6),
        code in codes(),
        message in messages(),
        details in details(),
        from_server: bool,
        by_tonic: bool,
        sent: usize,
    ) {
        let cause = below(&root, &layers);
        let status = if by_tonic {
            // As tonic makes it, which depends on its features.
            Status::from_error(Box::new(Wrapped(cause)))
        } else {
            let mut status = Status::with_details(code, message, details.into());
            if from_server {
                status.metadata_mut().insert("x-from-server", "1".parse().unwrap());
            }
            status.set_source(cause);
            status
        };
        let ended = connection_ended(&status);
        let error = error_of(status, sent, Secrets::default);
        prop_assert_eq!(error.kind(), ErrorKind::Lost);
        prop_assert_eq!(error.outcome(), if root.proof { Outcome::NotSent } else { Outcome::Unknown });
        prop_assert!(error.is_transient() && error.code().is_none());
        let reset = root.what.starts_with("reset");
        prop_assert_eq!(ended, !reset, "a reset ends a call and not its connection");
    }

    #[test]
    fn a_response_of_the_server_never_means_not_sent(
        code in codes(),
        message in messages(),
        details in details(),
        pushback in prop::option::of(prop_oneof!["-?[0-9]{0,25}", "[ -~]{0,10}"]),
        sent: usize,
    ) {
        let status = sent_by_server(code, &message, &details, pushback.as_deref());
        let error = error_of(status, sent, Secrets::default);
        prop_assert!(matches!(error.outcome(), Outcome::Refused | Outcome::Unknown), "{:?}", error);
        if let Some(api) = error.api() {
            prop_assert_eq!(error.outcome() == Outcome::Refused, api.is_refusal());
        } else {
            let listed = matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument
            );
            let unread = code == Code::Internal && message.contains("error unmarshalling request");
            let too_long = code == Code::ResourceExhausted && message.contains("received message larger than max");
            prop_assert!(error.outcome() == Outcome::Unknown || listed || unread || too_long, "{:?}", error);
            prop_assert!(!listed || error.outcome() == Outcome::Refused, "{:?}", error);
        }
        if let Some(pushback) = pushback {
            let expected = pushback.trim().parse().map_or(RetryAfter::Never, |milliseconds| {
                RetryAfter::Wait(Duration::from_millis(milliseconds))
            });
            prop_assert_eq!(error.hint(), Some(expected));
        }
        prop_assert!(!error.to_string().is_empty());
    }

    #[test]
    fn a_response_that_cannot_be_decoded_is_a_response(code in codes(), message in messages(), details in details(), sent: usize) {
        let error = error_of(Status::with_details(code, message, details.into()), sent, Secrets::default);
        prop_assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::TooLarge), "{:?}", error);
        prop_assert_eq!(error.outcome(), Outcome::Unknown);
        prop_assert!(!error.is_transient());
    }

    #[test]
    fn a_response_that_is_not_grpc_is_a_response(status in 100..1_000_u16, layers in prop::collection::vec(0..3_u8, 0..4)) {
        let http = StatusCode::from_u16(status).unwrap();
        let cause: Cause = Arc::new(NotGrpc { status: http, headers: HeaderMap::new(), page: Vec::new() });
        let root = Root { what: "not gRPC".into(), cause, proof: false };
        let status = Status::from_error(Box::new(Wrapped(below(&root, &layers))));
        prop_assert!(!connection_ended(&status));
        let error = error_of(status, 1, Secrets::default);
        prop_assert!(matches!(error.outcome(), Outcome::Refused | Outcome::Unknown), "{:?}", error);
        prop_assert_eq!(error.is_no_grpc(), matches!(http.as_u16(), 404 | 405 | 415));
        if http != StatusCode::OK {
            let headers = &HeaderMap::new();
            let over_http = Refusal { protocol: Protocol::Http, status: http, headers, page: b"" };
            let over_http = over_http.error(&Secrets::default());
            prop_assert_eq!((error.kind(), error.outcome()), (over_http.kind(), over_http.outcome()));
        }
    }
}

#[test]
fn codes_mean_what_the_table_says() {
    let mut rows = 0;
    for [cell, _, kind, outcome] in table() {
        let (name, message) = cell.split_once(' ').unwrap_or((cell, "\"\""));
        let code = (1..17).map(Code::from).find(|code| {
            // As Rust writes them, without underscores.
            name.contains('_') | name.chars().all(char::is_uppercase)
                && format!("{code:?}").eq_ignore_ascii_case(&name.replace('_', ""))
        });
        let (Some(code), Some(message)) = (code, message.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')))
        else {
            continue;
        };
        rows += 1;
        let error = error_of(sent_by_server(code, message, b"", None), 1, Secrets::default);
        assert_eq!(in_words(&error), [kind, outcome], "{cell}");
    }
    assert_eq!(rows, 13);
}
