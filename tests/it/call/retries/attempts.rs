//! How many attempts a call has, how long each may take, and what the last error says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::config::LoadBalancing;
use centrifugo_api::testing::Fault;
use centrifugo_api::transport::from_fn;
use centrifugo_api::{ApiError, Client, Config, Error, ErrorKind, Method, Outcome, Retry};
use tokio::time::Instant;

use super::{Seen, unavailable};
use crate::support::{
    BOTH, Over, SECOND, assert_error, client_responding, publish, quick_retry, request, servers::ClosedPort, start,
    within,
};

#[tokio::test]
async fn a_call_is_retried_until_it_succeeds_and_each_retry_is_observed() {
    for over in BOTH {
        let server = start().await;
        server.fault(unavailable(over).times(2));
        let seen = Seen::default();
        let result = publish(&over.client_with(&server, seen.by(Retry::new()))).await.unwrap();
        assert_eq!((result.offset, server.applied("news"), server.calls().len()), (1, 1, 3));
        assert_eq!(seen.attempts(), [1, 2]);
        assert!(seen.0.lock().unwrap().iter().all(|(_, kind, _)| *kind == ErrorKind::Unavailable));
        let waits = seen.waits();
        assert!(waits[0] <= Duration::from_millis(50) && waits[1] <= Duration::from_millis(100), "{waits:?}");
    }
}

#[tokio::test]
async fn a_call_has_the_configured_number_of_attempts() {
    for over in BOTH {
        for attempts in [1, 2, 5] {
            let server = start().await;
            server.fault(unavailable(over).always());
            let seen = Seen::default();
            let client = over.client_with(&server, seen.by(quick_retry().attempts(attempts)));
            let error = publish(&client).await.unwrap_err();
            assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, attempts);
            assert_eq!(server.calls().len(), attempts as usize);
            assert_eq!(seen.attempts(), (1..attempts).collect::<Vec<_>>());
            let said = error.to_string().contains(&format!("the last of {attempts} attempts"));
            assert_eq!(said, attempts > 1, "{error}");
        }
    }
}

#[tokio::test]
async fn permanent_errors_are_not_retried() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        for code in [102, 104, 107, 108, 112, 113] {
            server.fault(Fault::api_error(ApiError::new(code, "no")));
            let error = publish(&client).await.unwrap_err();
            assert_error(&error, ErrorKind::Api, Outcome::Refused, 1);
        }
        assert_eq!((server.calls().len(), server.applied("news")), (6, 0));
        // One that a newer server calls temporary is, whatever its code.
        let temporary = match over {
            Over::Grpc => &b"\x0a\x0a\x08\x89\x06\x12\x03new\x18\x01"[..],
            Over::Http => &br#"{"error":{"code":777,"message":"new","temporary":true}}"#[..],
        };
        server.clear_calls();
        server.fault(Fault::raw_reply(temporary).times(2));
        publish(&client).await.unwrap();
        assert_eq!((server.calls().len(), server.applied("news")), (3, 1));
    }
}

#[tokio::test]
async fn all_attempts_share_one_deadline() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::hang_before().always());
        let retry = quick_retry().attempts(100).attempt_timeout(Some(Duration::from_millis(200)));
        let client = over.client_with(&server, retry).with_timeout(Duration::from_millis(700));
        let started = Instant::now();
        let error = publish(&client).await.unwrap_err();
        let took = started.elapsed();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
        assert!(error.attempts() >= 2 && server.calls().len() == error.attempts() as usize, "{error:?}");
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[tokio::test]
async fn a_call_ends_with_its_last_error_when_the_backoff_would_pass_the_deadline() {
    for over in BOTH {
        let server = start().await;
        let fault = unavailable(over).header("retry-after", "4").header("grpc-retry-pushback-ms", "4000").always();
        server.fault(fault);
        let client = over.client_with(&server, Retry::new()).with_timeout(3 * SECOND);
        let error = within(SECOND, client.publish(request())).await.unwrap_err();
        assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, 1);
        assert_eq!(error.retry_after(), Some(4 * SECOND));
        assert_eq!(server.calls().len(), 1);
    }
}

#[tokio::test]
async fn an_attempt_that_times_out_is_retried_at_another_endpoint() {
    for over in BOTH {
        for balance in [LoadBalancing::LeastBusy, LoadBalancing::Priority] {
            let (silent, good) = (start().await, start().await);
            silent.fault(Fault::hang_before().always());
            let config = over.config(&silent).endpoint(over.url(&good));
            let retry = quick_retry().attempts(2).attempt_timeout(Some(Duration::from_millis(150)));
            let client = Client::new(config.load_balancing(balance).retry(retry)).unwrap();
            for published in 1..=12 {
                within(SECOND, client.publish(request())).await.unwrap();
                assert_eq!(good.applied("news"), published, "{over:?} {balance:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_last_attempt_has_all_the_time_that_is_left() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::delay(Duration::from_millis(500)).always());
        let short = quick_retry().attempt_timeout(Some(Duration::from_millis(100)));
        for retry in [short.clone().attempts(1), short.clone().idempotency_keys(false)] {
            let result = publish(&over.client_with(&server, retry)).await;
            result.unwrap();
        }
        // Twice too late, and then as long as it takes.
        server.clear_calls();
        publish(&over.client_with(&server, short)).await.unwrap();
        assert_eq!(server.calls().len(), 3);
    }
}

#[tokio::test]
async fn a_refusal_after_an_attempt_that_may_have_run_has_an_unknown_outcome() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::cut_after());
        server.fault(match over {
            Over::Grpc => Fault::grpc_status(16, "who are you"),
            Over::Http => Fault::http_status(401),
        });
        let error = publish(&over.client_with(&server, quick_retry())).await.unwrap_err();
        assert_error(&error, ErrorKind::Unauthenticated, Outcome::Unknown, 2);
        assert!(error.may_have_run() && error.message().contains("an earlier attempt"), "{error:?}");
        assert_eq!(server.applied("news"), 1);
    }
    // The same after an attempt that was not sent.
    let attempt = AtomicUsize::new(0);
    let client = client_responding(move |_| match attempt.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Error::new(ErrorKind::Lost, "it was sent")),
        _ => Err(Error::new(ErrorKind::Connect, "connection refused")),
    });
    let error = publish(&client.with_retry(quick_retry())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::Unknown, 3);
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_timeout_is_the_same_whatever_the_backoff_was() {
    for (timeout, text) in [(4, "no response within 4s"), (8, "no response within 8s, the last of 3 attempts")] {
        let client = Client::with_transport(from_fn("silent", |_| std::future::pending()));
        let retry = Retry::new().backoff(SECOND / 2, SECOND).attempts(3);
        let client = client.with_retry(retry).with_timeout(Duration::from_secs(timeout));
        for _ in 0..5 {
            let error = client.publish(request()).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}

#[tokio::test]
async fn an_error_names_the_endpoint_that_did_not_respond() {
    for over in BOTH {
        let (closed, silent) = (ClosedPort::new(), start().await);
        silent.fault(Fault::hang_after().always());
        let (config, name, there): (Config, _, _) = match over {
            Over::Grpc => (Config::grpc(closed.url()).into(), "grpc", silent.grpc_url()),
            Over::Http => (Config::http(format!("{}/api", closed.url())).into(), "http", silent.http_url()),
        };
        let config = config.endpoint(&there);
        let config = config.load_balancing(LoadBalancing::Priority).retry(None).timeout(SECOND / 2);
        let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
        assert_eq!((error.transport(), error.endpoint()), (Some(name), Some(&there[..])));
    }
    // The fallback's too.
    let (closed, silent) = (ClosedPort::new(), start().await);
    silent.fault(Fault::hang_after().method(Method::Publish).always());
    let config = Config::grpc(closed.url()).fallback(Config::http(silent.http_url()));
    let error = publish(&Client::new(config.retry(None).timeout(SECOND / 2)).unwrap()).await.unwrap_err();
    assert_eq!((error.transport(), error.endpoint()), (Some("http"), Some(&silent.http_url()[..])), "{error:?}");
}
