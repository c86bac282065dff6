//! The retry budget, and calls that wait for a server to be ready.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::transport::Reply;
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome, PublishResult, Retry};
use tokio::time::Instant;

use super::{Seen, unavailable};
use crate::support::proxy::Proxy;
use crate::support::{
    BOTH, Over, SECOND, assert_error, client_responding, publish, quick_retry, request, soon, start, within,
};

/// A client over a transport that counts its calls, and that fails while it is set to.
fn failing(retry: Retry) -> (Client, Arc<AtomicUsize>, Arc<Mutex<Option<ErrorKind>>>) {
    let (asked, fails) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(Some(ErrorKind::Unavailable))));
    let (count, with) = (Arc::clone(&asked), Arc::clone(&fails));
    let client = client_responding(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        match *with.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "it fails")),
            None => Ok(Reply::result(&PublishResult::default())),
        }
    });
    (client.with_retry(retry), asked, fails)
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_retries_when_every_call_fails() {
    const CALLS: usize = 1000;
    let (client, asked, fails) = failing(Retry::new().attempts(10));
    let mut without_budget = 0;
    for _ in 0..CALLS {
        let error = client.publish(request()).await.unwrap_err();
        without_budget += usize::from(error.to_string().contains("the retry budget is exhausted"));
    }
    let requests = asked.swap(0, Ordering::Relaxed);
    assert!((CALLS + 30..=CALLS + 35).contains(&requests), "{requests}");
    assert!(without_budget >= CALLS - 5, "{without_budget}");

    // It fails fast then.
    let started = Instant::now();
    client.publish(request()).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::ZERO);

    // Each 14 calls that succeed at once pay for another retry, and clones share the budget.
    for successes in [13_usize, 1, 14 * 3] {
        *fails.lock().unwrap() = None;
        for _ in 0..successes {
            client.publish(request()).await.unwrap();
        }
        asked.store(0, Ordering::Relaxed);
        *fails.lock().unwrap() = Some(ErrorKind::Unavailable);
        for _ in 0..10 {
            client.clone().with_timeout(SECOND * 1000).publish(request()).await.unwrap_err();
        }
        let repeats = asked.load(Ordering::Relaxed) - 10;
        assert!(repeats <= successes.div_ceil(14), "{repeats} repeats after {successes} successes");
    }
}

#[tokio::test]
async fn the_budget_bounds_requests_to_a_server_that_always_fails() {
    for over in BOTH {
        let server = start().await;
        server.fault(unavailable(over).always());
        let client = over.client_with(&server, quick_retry().attempts(10));
        for _ in 0..150 {
            publish(&client).await.unwrap_err();
        }
        let requests = server.calls().len();
        assert!(requests <= 150 + 35, "{requests}");
        // As many successes as would pay for 7 retries.
        server.clear_faults();
        server.clear_calls();
        for _ in 0..100 {
            publish(&client).await.unwrap();
        }
        server.fault(unavailable(over).always());
        for _ in 0..100 {
            publish(&client).await.unwrap_err();
        }
        let requests = server.calls().len();
        assert!(requests <= 200 + 100 / 14 + 1, "{requests}");
    }
}

#[tokio::test]
async fn a_call_that_waits_for_ready_succeeds_when_the_server_is_up() {
    for over in BOTH {
        let server = start().await;
        let (target, path) = match over {
            Over::Grpc => (server.grpc_addr(), ""),
            Over::Http => (server.http_addr(), "/api"),
        };
        let proxy = Proxy::to(target);
        proxy.refuse().await;
        let url = format!("{}{path}", proxy.url());
        let config: Config = if over == Over::Grpc { Config::grpc(url).into() } else { Config::http(url).into() };
        let seen = Seen::default();
        // Waiting costs no attempt, and nothing of the budget.
        let retry = seen.by(crate::support::once().wait_for_ready(true).backoff(Duration::from_millis(10), SECOND / 5));
        let client = Client::new(config.timeout(20 * SECOND).retry(retry)).unwrap();
        let impatient = publish(&client.with_timeout(SECOND / 2)).await.unwrap_err();
        assert_eq!((impatient.kind(), impatient.outcome()), (ErrorKind::Connect, Outcome::NotSent), "{impatient:?}");
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { soon(client.publish(request())).await })
            })
            .collect();
        tokio::time::sleep(SECOND / 2).await;
        proxy.accept();
        for call in calls {
            within(5 * SECOND, call).await.unwrap().unwrap();
        }
        assert_eq!((server.applied("news"), server.calls().len()), (10, 10));
        assert!(seen.attempts().len() > 10);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_of_a_call_that_waits_for_ready_are_numbered_and_back_off() {
    let seen = Seen::default();
    let retry = crate::support::once().wait_for_ready(true).backoff(Duration::from_millis(100), SECOND);
    let (client, asked, fails) = failing(seen.by(retry));
    *fails.lock().unwrap() = Some(ErrorKind::Connect);
    let error = client.with_timeout(10 * SECOND).publish(request()).await.unwrap_err();
    let asked = u32::try_from(asked.load(Ordering::Relaxed)).unwrap();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, asked);
    assert_eq!(seen.attempts(), (1..asked).collect::<Vec<_>>());
    // At about 500 ms each.
    assert!((10..60).contains(&asked), "{asked}");
}
