//! What is repeated, how often, when, and with which key.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server, Transport as Front};
use centrifugo_api::{
    ApiError, Batch, BoxFuture, BroadcastRequest, Call, Client, Config, DisconnectRequest, Error, ErrorKind,
    HistoryRemoveRequest, HistoryRequest, InfoRequest, LoadBalancing, MapClearRequest, MapPublishRequest, Method,
    Outcome, PublishRequest, PublishResult, Reply, Retry, RpcRequest, SubscribeRequest, Transport,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::proxy::Proxy;
use crate::support::{
    BOTH, Over, SECOND, assert_error, client_answering, publish, quick_retry, request, servers::Nobody, start,
};
use crate::support::{h1script, soon, within};

/// An answer that says to come back later, though the call may have been carried out.
fn unavailable(over: Over) -> Fault {
    match over {
        Over::Grpc => Fault::grpc_status(14, "later"),
        Over::Http => Fault::http_status(503),
    }
}

/// The keys of the publications that a server was asked for.
fn keys(server: &Server) -> Vec<String> {
    let key = |request: &Value| request["idempotency_key"].as_str().unwrap_or_default().to_owned();
    server.calls().iter().map(|call| key(&call.request)).collect()
}

/// The repeats that a client made: the attempt that failed, why, and how long until the next.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u32, ErrorKind, Duration)>>>);

impl Seen {
    fn by(&self, retry: Retry) -> Retry {
        let seen = self.clone();
        retry.observe(move |retry| {
            seen.0.lock().unwrap().push((retry.attempt, retry.error.kind(), retry.wait));
        })
    }

    fn attempts(&self) -> Vec<u32> {
        self.0.lock().unwrap().iter().map(|(attempt, ..)| *attempt).collect()
    }

    fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().iter().map(|(.., wait)| *wait).collect()
    }
}

#[tokio::test]
async fn a_call_is_repeated_until_it_succeeds_and_every_repeat_is_told() {
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
async fn a_call_has_as_many_attempts_as_it_was_given() {
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

#[tokio::test(start_paused = true)]
async fn waits_are_spread_below_a_bound_that_doubles() {
    let mut sums = [Duration::ZERO; 6];
    for _ in 0..200 {
        let seen = Seen::default();
        let retry = Retry::new().attempts(7).backoff(Duration::from_millis(100), SECOND);
        let client = client_answering(|_| Err(Error::new(ErrorKind::Unavailable, "later")));
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

#[tokio::test]
async fn every_attempt_on_every_endpoint_and_transport_has_the_same_key() {
    let (one, other) = (start().await, start().await);
    for server in [&one, &other] {
        server.fault(Fault::cut_after().transport(Front::Grpc).always());
        server.fault(Fault::cut_after().transport(Front::Http));
    }
    let http = Config::http(one.http_url()).endpoint(other.http_url());
    let grpc = Config::grpc(one.grpc_url()).endpoint(other.grpc_url());
    let client = Client::new(grpc.fallback(http).retry(quick_retry().attempts(20))).unwrap();
    publish(&client).await.unwrap();
    let mut keys = [keys(&one), keys(&other)].concat();
    assert!(keys.len() > 4, "{keys:?}");
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0].len() == 32 && keys[0].bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{keys:?}");
    for server in [&one, &other] {
        assert!(server.applied("news") <= 1);
        assert!(server.calls().iter().any(|call| call.transport == Front::Grpc));
    }
    let over_http = [one.calls(), other.calls()].concat().iter().any(|call| call.transport == Front::Http);
    assert!(over_http);

    // And each call has another one.
    one.clear_calls();
    other.clear_calls();
    publish(&client).await.unwrap();
    let next = [self::keys(&one), self::keys(&other)].concat();
    assert_ne!(next[0], keys[0]);
}

#[tokio::test]
async fn a_key_of_the_callers_own_is_kept() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::cut_after().times(2));
        let client = over.client_with(&server, quick_retry());
        soon(client.publish(request().idempotency_key("my own"))).await.unwrap();
        assert_eq!(keys(&server), ["my own"; 3]);
        assert_eq!(server.applied("news"), 1);
        server.clear_calls();
        soon(client.broadcast(BroadcastRequest::new(["news"], json!(1)).idempotency_key("mine"))).await.unwrap();
        assert_eq!(keys(&server), ["mine"]);
    }
}

/// The ways to have no keys, of which only the second repeats anything.
fn keyless() -> [(Retry, u32); 2] {
    [(Retry::off(), 1), (quick_retry().idempotency_keys(false), 3)]
}

#[tokio::test]
async fn without_keys_a_publish_that_may_have_run_is_not_repeated() {
    for over in BOTH {
        for (retry, _) in keyless() {
            for fault in [Fault::cut_after(), unavailable(over), Fault::api_error(ApiError::new(100, "broker"))] {
                let server = start().await;
                server.fault(fault);
                let error = publish(&over.client_with(&server, retry.clone())).await.unwrap_err();
                assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{error:?}");
                assert_eq!(keys(&server), [""]);
                assert!(server.applied("news") <= 1);
            }
        }
    }
}

#[tokio::test]
async fn without_keys_a_publish_that_was_not_carried_out_is_repeated() {
    for over in BOTH {
        for (retry, attempts) in keyless() {
            // Refused for overload, by the API.
            let server = start().await;
            server.fault(Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")).always());
            let error = publish(&over.client_with(&server, retry.clone())).await.unwrap_err();
            assert_error(&error, ErrorKind::Api, Outcome::Refused, attempts);
            assert_eq!((keys(&server), server.applied("news")), (vec![String::new(); attempts as usize], 0));

            // Not sent, as there is nobody.
            let nobody = Nobody::new();
            let config = over.config_at(&nobody.url());
            let error = publish(&Client::new(config.retry(retry)).unwrap()).await.unwrap_err();
            assert_error(&error, ErrorKind::Connect, Outcome::NotSent, attempts);
        }
    }
    // And by a proxy over HTTP.
    let server = start().await;
    server.fault(Fault::http_status(429).times(2));
    publish(&Over::Http.client_with(&server, quick_retry().idempotency_keys(false))).await.unwrap();
    assert_eq!((keys(&server), server.applied("news")), (vec![String::new(); 3], 1));
}

#[tokio::test]
async fn a_read_is_repeated() {
    for over in BOTH {
        let server = start().await;
        for (retry, attempts) in keyless() {
            server.fault(Fault::cut_after().times(2));
            let client = over.client_with(&server, retry);
            let well = soon(client.history(HistoryRequest::new("news"))).await;
            assert_eq!(well.is_ok(), attempts == 3, "{well:?}");
            server.clear_faults();
        }
    }
}

#[tokio::test]
async fn what_must_not_happen_twice_is_not_repeated_after_it_may_have_run() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        server.fault(Fault::cut_after().always());
        let errors = [
            soon(client.subscribe(SubscribeRequest::new("news", "me"))).await.map(drop),
            soon(client.disconnect(DisconnectRequest::new("me"))).await.map(drop),
            soon(client.history_remove(HistoryRemoveRequest::new("news"))).await.map(drop),
            soon(client.rpc(RpcRequest::new("pay"))).await.map(drop),
            soon(client.map_clear(MapClearRequest::new("map:a"))).await.map(drop),
            // It takes a key, and is not given one.
            soon(client.map_publish(MapPublishRequest::new("map:a", "key"))).await.map(drop),
        ];
        for error in errors {
            assert_error(&error.unwrap_err(), ErrorKind::Lost, Outcome::Unknown, 1);
        }
        assert_eq!(server.calls().len(), 6);

        // But it is after it certainly did not.
        server.clear_faults();
        server.clear_calls();
        server.fault(Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")).times(2));
        soon(client.disconnect(DisconnectRequest::new("me"))).await.unwrap();
        assert_eq!(server.calls().len(), 3);
    }
}

#[tokio::test]
async fn errors_that_stay_are_not_repeated() {
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
async fn a_call_ends_early_with_its_last_real_error_when_the_next_wait_would_pass_the_deadline() {
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
async fn the_wait_that_a_grpc_server_asks_for_is_waited_within_bounds() {
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
async fn a_pushback_is_waited_and_not_only_told() {
    let server = start().await;
    server.fault(Fault::grpc_status(14, "later").header("grpc-retry-pushback-ms", "300"));
    let started = Instant::now();
    publish(&Over::Grpc.client_with(&server, quick_retry())).await.unwrap();
    let took = started.elapsed();
    assert!((Duration::from_millis(300)..3 * SECOND).contains(&took), "{took:?}");
    assert_eq!(server.applied("news"), 1);
}

/// A client over a transport that counts what it is asked, and that fails while it is told to.
fn failing(retry: Retry) -> (Client, Arc<AtomicUsize>, Arc<Mutex<Option<ErrorKind>>>) {
    let (asked, fails) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(Some(ErrorKind::Unavailable))));
    let (count, with) = (Arc::clone(&asked), Arc::clone(&fails));
    let client = client_answering(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        match *with.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "it fails")),
            None => Ok(Reply::result(&PublishResult::default())),
        }
    });
    (client.with_retry(retry), asked, fails)
}

#[tokio::test(start_paused = true)]
async fn repeats_are_few_when_everything_fails() {
    const CALLS: usize = 1000;
    let (client, asked, fails) = failing(Retry::new().attempts(10));
    let mut without_budget = 0;
    for _ in 0..CALLS {
        let error = client.publish(request()).await.unwrap_err();
        without_budget += usize::from(error.to_string().contains("not repeated because too many calls lately were"));
    }
    let requests = asked.swap(0, Ordering::Relaxed);
    assert!((CALLS + 30..=CALLS + 35).contains(&requests), "{requests}");
    assert!(without_budget >= CALLS - 5, "{without_budget}");

    // It fails fast then.
    let started = Instant::now();
    client.publish(request()).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::ZERO);

    // Each 14 calls that succeed at once pay for another repeat, and clones pay from the same purse.
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
async fn a_server_that_always_fails_is_asked_hardly_more_often_than_it_is_called() {
    for over in BOTH {
        let server = start().await;
        server.fault(unavailable(over).always());
        let client = over.client_with(&server, quick_retry().attempts(10));
        for _ in 0..150 {
            publish(&client).await.unwrap_err();
        }
        let requests = server.calls().len();
        assert!(requests <= 150 + 35, "{requests}");
        // As many successes as would pay for 7 repeats.
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
async fn a_call_that_waits_for_the_server_ends_well_when_it_is_there() {
    for over in BOTH {
        let server = start().await;
        let (target, path) = match over {
            Over::Grpc => (server.grpc_addr(), ""),
            Over::Http => (server.http_addr(), "/api"),
        };
        let proxy = Proxy::to(target);
        proxy.refuse().await;
        let url = format!("{}{path}", proxy.url());
        let config = if over == Over::Grpc { Config::grpc(url) } else { Config::http(url) };
        let seen = Seen::default();
        // Waiting costs no attempt, and nothing of the budget.
        let retry = seen.by(Retry::off().wait_for_ready(true).backoff(Duration::from_millis(10), SECOND / 5));
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
async fn the_attempts_of_a_call_that_waits_are_numbered_and_their_waits_grow() {
    let seen = Seen::default();
    let retry = Retry::off().wait_for_ready(true).backoff(Duration::from_millis(100), SECOND);
    let (client, asked, fails) = failing(seen.by(retry));
    *fails.lock().unwrap() = Some(ErrorKind::Connect);
    let error = client.with_timeout(10 * SECOND).publish(request()).await.unwrap_err();
    let asked = u32::try_from(asked.load(Ordering::Relaxed)).unwrap();
    assert_error(&error, ErrorKind::Connect, Outcome::NotSent, asked);
    assert_eq!(seen.attempts(), (1..asked).collect::<Vec<_>>());
    // At about 500 ms each.
    assert!((10..60).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_call_that_one_endpoint_does_not_answer_in_time_goes_to_another() {
    for over in BOTH {
        for balance in [LoadBalancing::LeastBusy, LoadBalancing::Priority] {
            let (silent, good) = (start().await, start().await);
            silent.fault(Fault::hang_before().always());
            let config = over.config(&silent).endpoint(over.url(&good));
            let retry = quick_retry().attempts(2).attempt_timeout(Some(Duration::from_millis(150)));
            let client = Client::new(config.balance(balance).retry(retry)).unwrap();
            for published in 1..=12 {
                within(SECOND, client.publish(request())).await.unwrap();
                assert_eq!(good.applied("news"), published, "{over:?} {balance:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_attempt_that_must_be_the_last_has_all_the_time_there_is() {
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
async fn a_refusal_after_an_attempt_that_may_have_run_does_not_make_it_undone() {
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
    // Nor does an attempt that found nobody.
    let attempt = AtomicUsize::new(0);
    let client = client_answering(move |_| match attempt.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Error::new(ErrorKind::Lost, "it was sent")),
        _ => Err(Error::new(ErrorKind::Connect, "nobody is there")),
    });
    let error = publish(&client.with_retry(quick_retry())).await.unwrap_err();
    assert_error(&error, ErrorKind::Connect, Outcome::Unknown, 3);
}

/// A client whose broadcasts are answered one after the other, and what it asked for.
fn broadcaster(answers: Vec<Result<Value, Error>>, retry: Retry) -> (Client, Arc<Mutex<Vec<Value>>>) {
    let (asked, answers) = (Arc::<Mutex<Vec<Value>>>::default(), Mutex::new(answers.into_iter()));
    let asking = Arc::clone(&asked);
    let client = client_answering(move |call| {
        asking.lock().unwrap().push(serde_json::from_slice(&call.to_json().unwrap()).unwrap());
        let answer = answers.lock().unwrap().next().expect("it was asked too often");
        answer.map(|responses| Reply::json(json!({"result": {"responses": responses}}).to_string()))
    });
    (client.with_retry(retry), asked)
}

fn channels(request: &Value) -> Vec<&str> {
    request["channels"].as_array().unwrap().iter().map(|channel| channel.as_str().unwrap()).collect()
}

fn abcd() -> BroadcastRequest {
    BroadcastRequest::new(["a", "b", "c", "d"], json!({"n": 1}))
}

fn offset(offset: u64) -> Value {
    json!({"result": {"offset": offset}})
}

fn failure(code: u32) -> Value {
    json!({"error": {"code": code, "message": "no"}})
}

/// The offset of each channel, or the code of its error.
fn joined(result: &centrifugo_api::BroadcastResult) -> Vec<Result<u64, u32>> {
    let one = |response: &centrifugo_api::PublishResponse| match &response.error {
        Some(error) => Err(error.code),
        None => Ok(response.result.as_ref().unwrap().offset),
    };
    result.responses.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_channels_that_failed_are_broadcast_to_again_with_the_same_key() {
    let answers = vec![
        Ok(json!([offset(1), failure(111), failure(102), failure(100)])),
        Ok(json!([failure(100), offset(4)])),
        Ok(json!([offset(2)])),
    ];
    let (client, asked) = broadcaster(answers, quick_retry());
    let result = client.broadcast(abcd()).await.unwrap();
    assert_eq!(joined(&result), [Ok(1), Ok(2), Err(102), Ok(4)]);
    let asked = asked.lock().unwrap();
    assert_eq!(channels(&asked[0]), ["a", "b", "c", "d"]);
    assert_eq!(channels(&asked[1]), ["b", "d"]);
    assert_eq!(channels(&asked[2]), ["b"]);
    let keys: Vec<_> = asked.iter().map(|request| request["idempotency_key"].as_str().unwrap()).collect();
    assert!(keys[0].len() == 32 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(asked.iter().all(|request| request["data"] == json!({"n": 1})));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_fails_to_the_end_keeps_its_error() {
    let fails = || Ok(json!([failure(111)]));
    let (client, asked) =
        broadcaster(vec![Ok(json!([offset(1), failure(111), offset(3), offset(4)])), fails(), fails()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(111), Ok(3), Ok(4)]);
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_only_the_channels_are_broadcast_to_again_that_certainly_got_nothing() {
    let answers = vec![Ok(json!([failure(100), failure(111), offset(3), failure(100)])), Ok(json!([offset(2)]))];
    let (client, asked) = broadcaster(answers, quick_retry().idempotency_keys(false));
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Err(100), Ok(2), Ok(3), Err(100)]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!((asked.len(), channels(&asked[1])), (2, vec!["b"]));
    assert_eq!(asked[1].get("idempotency_key"), None);

    let (client, asked) = broadcaster(vec![Ok(json!([failure(111), offset(2), offset(3), offset(4)]))], Retry::off());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Err(111), Ok(2), Ok(3), Ok(4)]);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_unknown_outcome_is_told_for_its_channels_only() {
    // Without a key, so that it is not repeated again.
    let lost = || Err(Error::new(ErrorKind::Lost, "no answer"));
    let first = || Ok(json!([offset(1), failure(111), failure(102), failure(111)]));
    let (client, asked) = broadcaster(vec![first(), lost()], quick_retry().idempotency_keys(false));
    let result = client.broadcast(abcd()).await.unwrap();
    assert_eq!(joined(&result), [Ok(1), Err(100), Err(102), Err(100)]);
    for (place, error) in result.failed().filter(|(place, _)| *place != 2) {
        assert!(error.temporary && error.message.contains("unknown how that ended"), "{place}: {error}");
        assert!(Error::from(error.clone()).may_have_run());
    }
    assert_eq!(asked.lock().unwrap().len(), 2);

    // With one it is, as often as there are attempts.
    let (client, asked) = broadcaster(vec![first(), lost(), lost()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(100), Err(102), Err(100)]);
    assert_eq!(asked.lock().unwrap().len(), 3);

    // One that was not sent changes nothing.
    let nobody = || Err(Error::new(ErrorKind::Connect, "nobody is there"));
    let (client, _) = broadcaster(vec![first(), nobody(), nobody()], quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(111), Err(102), Err(111)]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_with_too_few_answers_shifts_none() {
    let answers = vec![Ok(json!([offset(1), failure(111), offset(3), failure(111)])), Ok(json!([offset(2)]))];
    let (client, _) = broadcaster(answers, quick_retry());
    assert_eq!(joined(&client.broadcast(abcd()).await.unwrap()), [Ok(1), Err(100), Ok(3), Err(100)]);
}

fn two(keys: bool) -> Batch {
    let mut batch = Batch::new().idempotency_keys(keys);
    batch.push(request());
    batch.push(BroadcastRequest::new(["a", "b"], json!(2)));
    batch
}

#[tokio::test]
async fn a_batch_with_keys_is_repeated_as_a_whole_and_one_without_is_not() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        server.fault(Fault::cut_after().times(2));
        let batch = two(true);
        assert_eq!(within(5 * SECOND, client.batch(&batch)).await.unwrap().len(), 2);
        let calls = server.calls();
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| call.request == calls[0].request));
        for command in ["publish", "broadcast"] {
            let commands = calls[0].request["commands"].as_array().unwrap();
            let key = commands.iter().find_map(|found| found[command]["idempotency_key"].as_str()).unwrap();
            assert_eq!(key.len(), 32);
        }
        assert_eq!(["news", "a", "b"].map(|channel| server.applied(channel)), [1; 3]);
        // The keys are the batch's: once more has no effect.
        within(5 * SECOND, client.batch(&batch)).await.unwrap();
        assert_eq!(server.applied("news"), 1);

        server.clear_calls();
        server.fault(Fault::cut_after());
        let error = within(5 * SECOND, client.batch(&two(false))).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 1);
        assert_eq!((server.calls().len(), server.applied("news")), (1, 2));

        // It is if it was certainly not carried out, or if it only reads.
        let mut reads = Batch::new();
        reads.push(HistoryRequest::new("news"));
        reads.push(InfoRequest::new());
        server.clear_calls();
        server.fault(Fault::cut_after());
        within(5 * SECOND, client.batch(&reads)).await.unwrap();
        assert_eq!(server.calls().len(), 2);
        // One command is enough to forbid it.
        reads.push(RpcRequest::new("pay"));
        server.fault(Fault::cut_after());
        let error = within(5 * SECOND, client.batch(&reads)).await.unwrap_err();
        assert_eq!(error.attempts(), 1);
    }
    let server = start().await;
    server.fault(Fault::http_status(429));
    within(5 * SECOND, Over::Http.client_with(&server, quick_retry()).batch(&two(false))).await.unwrap();
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_call_given_as_json_is_repeated_by_the_same_rules() {
    // The method, its parameters, and whether it is repeated after it may have been carried out.
    let cases = [
        ("info", json!({}), true),
        ("history", json!({"channel": "news"}), true),
        ("publish", json!({"channel": "news", "data": 1, "idempotency_key": "mine"}), true),
        ("publish", json!({"channel": "news", "data": 1}), false),
        ("disconnect", json!({"user": "me"}), false),
        ("history_remove", json!({"channel": "news"}), false),
        ("batch", json!({"commands": [{"info": {}}, {"history": {"channel": "news"}}]}), true),
        ("batch", json!({"commands": [{"info": {}}, {"disconnect": {"user": "me"}}]}), false),
        ("batch", json!({"commands": [{"publish": {"channel": "a", "data": 1, "idempotency_key": "k"}}]}), true),
    ];
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        for (method, params, repeats) in &cases {
            server.clear_calls();
            server.fault(Fault::cut_after());
            let called = within(5 * SECOND, client.call_json::<Value>(method, params)).await;
            assert_eq!(called.is_ok(), *repeats, "{over:?} {method} {params}: {called:?}");
            let calls = server.calls();
            assert_eq!(calls.len(), 1 + usize::from(*repeats));
            assert!(calls.iter().all(|call| call.request == calls[0].request));
            // Certainly not carried out, it is repeated in any case.
            server.clear_calls();
            // Over gRPC, nothing that the stand-in answers says so of a whole batch.
            if *method != "batch" || over == Over::Http {
                server.fault(match over {
                    Over::Grpc => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")),
                    Over::Http => Fault::http_status(429),
                });
                within(5 * SECOND, client.call_json::<Value>(method, params)).await.unwrap();
                assert_eq!(server.calls().len(), 2);
            }
        }
    }
}

#[tokio::test]
async fn a_method_that_the_schema_does_not_know_is_not_repeated_after_it_may_have_run() {
    let server = h1script::replying(|_| h1script::Reply::json(503, "").applied());
    let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
    let error = soon(client.call_json::<Value>("new_method", json!({}))).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, Outcome::Unknown, 1);
    assert_eq!(server.tally.applied().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_when_the_server_may_have_forgotten_the_key() {
    let minute = Duration::from_secs(60);
    let started = Instant::now();
    let last = Arc::new(Mutex::new(Duration::ZERO));
    let begun = Arc::clone(&last);
    let client = client_answering(move |_| {
        *begun.lock().unwrap() = started.elapsed();
        Err(Error::new(ErrorKind::Lost, "no answer"))
    });
    let retry = Retry::new().attempts(1000).backoff(minute, minute);
    let client = client.with_retry(retry).with_timeout(60 * minute);
    let error = client.publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error:?}");
    assert!(error.attempts() > 3 && !error.message().contains("too many"), "{error:?}");
    let last = *last.lock().unwrap();
    assert!(last < 4 * minute && started.elapsed() < 4 * minute, "{last:?}");
}

/// Answers nothing: the first call fails after a while, and the next ones never end.
#[derive(Debug, Default)]
struct Stuck(AtomicUsize);

impl Transport for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    fn send<'a>(&'a self, _: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        let is_first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
        Box::pin(async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(200)).await;
            Err(Error::new(ErrorKind::Lost, "no answer"))
        })
    }
}

#[tokio::test]
async fn a_broadcast_that_names_a_channel_twice_publishes_twice() {
    for over in BOTH {
        let server = start().await;
        let client = over.client_with(&server, quick_retry());
        client.broadcast(BroadcastRequest::new(["a", "b", "a"], json!(1))).await.unwrap();
        assert_eq!((server.applied("a"), server.applied("b")), (2, 1));
    }
}

#[tokio::test]
async fn the_key_of_a_publish_that_may_have_run_is_in_its_error() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::cut_after().times(3));
        let client = over.client_with(&server, quick_retry());
        let error = publish(&client).await.unwrap_err();
        assert_error(&error, ErrorKind::Lost, Outcome::Unknown, 3);
        let key = error.idempotency_key().unwrap().to_owned();
        client.publish(request().idempotency_key(key)).await.unwrap();
        assert_eq!((server.applied("news"), server.calls().len()), (1, 4));
        let error =
            client.publish(PublishRequest::new("nowhere:a", json!(1)).idempotency_key("mine")).await.unwrap_err();
        assert_eq!(error.idempotency_key(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_repeat_ends_before_the_server_has_forgotten_the_key() {
    let started = Instant::now();
    let retry = Retry::new().attempts(2).attempt_timeout(None);
    let client = Client::with_transport(Stuck::default()).with_retry(retry).with_timeout(Duration::from_secs(3600));
    let error = client.publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    assert!((200..300).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_certainly_did_not_run_is_repeated_however_late() {
    let minute = Duration::from_secs(60);
    let started = Instant::now();
    let client = client_answering(move |_| match started.elapsed() {
        early if early < 10 * minute => Err(Error::new(ErrorKind::Connect, "nobody is there")),
        _ => Ok(Reply::result(&PublishResult::default())),
    });
    let retry = Retry::off().wait_for_ready(true).backoff(minute, minute);
    let client = client.with_retry(retry).with_timeout(60 * minute);
    client.publish(request()).await.unwrap();
    assert!(started.elapsed() < 12 * minute);
}

#[tokio::test]
async fn an_error_names_the_endpoint_that_did_not_answer() {
    for over in BOTH {
        let (nobody, silent) = (Nobody::new(), start().await);
        silent.fault(Fault::hang_after().always());
        let (config, name, there) = match over {
            Over::Grpc => (Config::grpc(nobody.url()).endpoint(silent.grpc_url()), "grpc", silent.grpc_url()),
            Over::Http => {
                let first = Config::http(format!("{}/api", nobody.url()));
                (first.endpoint(silent.http_url()), "http", silent.http_url())
            }
        };
        let config = config.balance(LoadBalancing::Priority).retry(Retry::off()).timeout(SECOND / 2);
        let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
        assert_eq!((error.transport(), error.endpoint()), (Some(name), Some(&there[..])));
    }
    // The fallback's too.
    let (nobody, silent) = (Nobody::new(), start().await);
    silent.fault(Fault::hang_after().method(Method::Publish).always());
    let config = Config::grpc(nobody.url()).fallback(Config::http(silent.http_url()));
    let error = publish(&Client::new(config.retry(Retry::off()).timeout(SECOND / 2)).unwrap()).await.unwrap_err();
    assert_eq!((error.transport(), error.endpoint()), (Some("http"), Some(&silent.http_url()[..])), "{error:?}");
}
