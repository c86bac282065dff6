//! The errors of failed exchanges, depending on the handover.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

/// The error of an exchange with a server that handles its connection so.
async fn failed(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Failure {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/info", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    exchange(&url, Duration::from_secs(10)).await
}

/// The error of an exchange with a silent server.
async fn unanswered() -> Failure {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    exchange(&format!("http://{}/api/info", listener.local_addr().unwrap()), Duration::from_millis(100)).await
}

async fn exchange(url: &str, timeout: Duration) -> Failure {
    let client = reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap();
    Failure::of_reqwest(match client.post(url).body("{}").send().await {
        Ok(response) => response.bytes().await.unwrap_err(),
        Err(error) => error,
    })
}

fn respond(bytes: &'static [u8]) -> impl FnOnce(std::net::TcpStream) + Send {
    move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
    }
}

/// A handover in each of its states: unused, pending, taken, revoked.
fn record(state: u8) -> Handover {
    let call = Handover::default();
    if state > 0 {
        let body = call.track();
        match state {
            1 => {}
            2 => assert!(body.take()),
            _ => assert!(body.revoke()),
        }
    }
    call
}

#[tokio::test]
async fn a_failed_exchange_means_not_sent_only_with_proof() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for state in 0..4 {
        for case in 0..8 {
            let error = match case {
                0 => exchange("no url", Duration::MAX).await,
                1 => exchange(&format!("http://{closed}/"), Duration::from_secs(10)).await,
                2 => failed(drop).await,
                3 => failed(respond(b"")).await,
                4 => failed(respond(b"SSH-2.0-OpenSSH\r\n\r\n")).await,
                5 => failed(respond(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{")).await,
                6 => failed(respond(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")).await,
                _ => unanswered().await,
            };
            let connect = error.is_connect;
            assert_eq!(connect, case == 1);
            // hyper may see the end of the connection before it takes the request.
            let never_sent =
                causes(&*error.source).filter_map(|cause| cause.downcast_ref()).any(hyper::Error::is_canceled);
            assert!(!never_sent || matches!(case, 2 | 3), "{case}: {error:?}");
            let error = error_of(error, &record(state));
            let unsent = matches!(state, 1 | 3);
            assert_eq!(
                error.outcome() == Outcome::NotSent,
                connect || unsent || never_sent,
                "{case}, {state}: {error:?}"
            );
            assert!(error.outcome() != Outcome::Refused && error.outcome() != Outcome::Done, "{case}, {state}");
            let kind = match case {
                1 => ErrorKind::Connect,
                7 => ErrorKind::Timeout,
                4 if !unsent => ErrorKind::Protocol,
                _ => ErrorKind::Lost,
            };
            assert_eq!(error.kind(), kind, "{case}, {state}: {error:?}");
        }
    }
}
