//! How long a client waits before the next attempt.

use std::time::Duration;

use centrifugo_api::testing::Fault;
use centrifugo_api::{Error, ErrorKind, Outcome, Retry};
use prost::Message as _;
use tokio::time::Instant;

use super::Seen;
use crate::support::{Over, SECOND, assert_error, client_responding, publish, quick_retry, request, start, within};

#[tokio::test(start_paused = true)]
async fn backoff_is_jittered_below_a_bound_that_doubles() {
    let mut sums = [Duration::ZERO; 6];
    for _ in 0..200 {
        let seen = Seen::default();
        let retry = Retry::new().attempts(7).backoff(Duration::from_millis(100), SECOND);
        let client = client_responding(|_| Err(Error::new(ErrorKind::Unavailable, "later")));
        client.with_retry(seen.by(retry)).publish(request()).await.unwrap_err();
        let waits = seen.waits();
        for ((wait, bound), sum) in waits.iter().zip([100, 200, 400, 800, 1000, 1000]).zip(&mut sums) {
            assert!((Duration::from_millis(5)..=Duration::from_millis(bound)).contains(wait), "{waits:?}");
            *sum += *wait;
        }
    }
    // Each is half its bound on average; a tenth more or less is 4 standard deviations and a half.
    for (sum, bound) in sums.iter().zip([100, 200, 400, 800, 1000, 1000]) {
        let mean = sum.as_millis() / 200;
        assert!((bound * 4 / 10..bound * 6 / 10).contains(&mean), "{mean} of {bound}");
    }
}

/// What a client does after such a status: how long it says it waits, or its error.
async fn after_status(headers: &[(&str, &str)], details: &[u8]) -> Result<Duration, Error> {
    let server = start().await;
    let fault = Fault::grpc_status(14, "later").body(details.to_vec()).always();
    server.fault(headers.iter().fold(fault, |fault, (name, value)| fault.header(*name, *value)));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let bound = Duration::from_millis(100);
    let retry = Retry::new().backoff(bound, bound).observe(move |retry| tell.send(retry.wait).unwrap());
    let client = Over::Grpc.client_with(&server, retry);
    let publishing = tokio::spawn(async move { publish(&client).await });
    if let Some(wait) = within(5 * SECOND, told.recv()).await {
        publishing.abort();
        return Ok(wait);
    }
    assert_eq!(server.calls().len(), 1);
    Err(publishing.await.unwrap().unwrap_err())
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`.
fn retry_info(seconds: i64, nanos: i32) -> Vec<u8> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Status {
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, tag = "1")]
        delay: Option<Delay>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    let value = RetryInfo { delay: Some(Delay { seconds, nanos }) }.encode_to_vec();
    let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
    Status { details: vec![Any { type_url, value }] }.encode_to_vec()
}

#[tokio::test]
async fn a_grpc_pushback_sets_the_backoff_within_bounds() {
    let backoff = Duration::from_millis(100);
    let pushback = |text| [("grpc-retry-pushback-ms", text)];
    assert_eq!(after_status(&pushback("1500"), b"").await.unwrap(), Duration::from_millis(1500));
    assert_eq!(after_status(&[], &retry_info(2, 5_000_000)).await.unwrap(), Duration::from_millis(2005));
    // Of the two, the one that the protocol has.
    assert_eq!(after_status(&pushback("700"), &retry_info(2, 0)).await.unwrap(), Duration::from_millis(700));
    for wait in
        [after_status(&pushback("3600000"), b"").await, after_status(&[], &retry_info(i64::MAX, i32::MAX)).await]
    {
        assert!((5 * SECOND..=5 * SECOND + backoff).contains(wait.as_ref().unwrap()), "{wait:?}");
    }
    let soon = [
        after_status(&pushback("0"), b"").await,
        after_status(&[], &retry_info(-1, 0)).await,
        after_status(&[], b"\xff no message").await,
    ];
    for wait in soon {
        assert!(wait.as_ref().is_ok_and(|wait| *wait <= backoff), "{wait:?}");
    }
    for never in ["-1", "soon", ""] {
        let error = after_status(&pushback(never), &retry_info(1, 0)).await.unwrap_err();
        assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, 1);
        assert_eq!(error.retry_after(), None);
    }
}

#[tokio::test]
async fn a_pushback_is_waited_for() {
    let server = start().await;
    server.fault(Fault::grpc_status(14, "later").header("grpc-retry-pushback-ms", "300"));
    let started = Instant::now();
    publish(&Over::Grpc.client_with(&server, quick_retry())).await.unwrap();
    let took = started.elapsed();
    assert!((Duration::from_millis(300)..3 * SECOND).contains(&took), "{took:?}");
    assert_eq!(server.applied("news"), 1);
}
