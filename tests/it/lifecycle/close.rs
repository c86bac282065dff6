//! The end of a client, and of the runtime below it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::{BreakerState, Reply, from_fn};
use centrifugo_api::{
    ApiError, Batch, Client, CloseSummary, Config, Error, ErrorKind, Outcome, PublishRequest, PublishResult, Retry,
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::tally::Server as Script;
use crate::support::{
    BOTH, Over, SECOND, counts, h1script, h2script, request, servers::ClosedPort, soon, start, until, within,
};

/// How much longer than its timeout a close may take, on a machine with much else to do.
const SLACK: Duration = Duration::from_millis(500);

/// So many publications at once, each in its task.
fn publish(client: &Client, number: usize) -> Vec<JoinHandle<Result<PublishResult, Error>>> {
    let publish = |client: Client| async move { client.publish(request()).await };
    (0..number).map(|_| tokio::spawn(publish(client.clone()))).collect()
}

/// The outcomes of the callers, counted as a close counts.
async fn told(calls: Vec<JoinHandle<Result<PublishResult, Error>>>) -> [u64; 4] {
    let mut told = [0; 4];
    for call in calls {
        told[match soon(call).await.unwrap().map_err(|error| error.outcome()) {
            Ok(_) | Err(Outcome::Done) => 0,
            Err(Outcome::Refused) => 1,
            Err(Outcome::NotSent) => 2,
            Err(Outcome::Unknown) => 3,
        }] += 1;
    }
    told
}

/// A close with much time, which has begun when this returns.
fn begin_close(client: &Client) -> JoinHandle<CloseSummary> {
    let client = client.clone();
    let mut closing = Box::pin(async move { client.close(60 * SECOND).await });
    assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    tokio::spawn(closing)
}

/// Waits until so much was published.
async fn applied(server: &Server, number: u64) {
    until(|| server.applied("news") >= number).await;
}

#[tokio::test]
async fn an_idle_client_closes_at_once_and_refuses_later_calls() {
    for over in BOTH {
        let server = start().await;
        let client = over.client(&server);
        client.publish(request()).await.unwrap();
        let clone = client.clone();
        assert_eq!(counts(within(SLACK, client.close(60 * SECOND)).await), [1, 0, 0, 0]);
        server.clear_calls();
        for client in [&client, &clone, &client.with_timeout(SECOND), &client.with_retry(None)] {
            let mut batch = Batch::new();
            batch.push(request());
            let errors = [
                client.publish(request()).await.unwrap_err(),
                client.batch(&batch).await.unwrap_err(),
                client.call_json::<Value>("info", json!({})).await.unwrap_err(),
            ];
            for error in errors {
                let told = (error.kind(), error.outcome(), error.is_transient(), error.attempts());
                assert_eq!(told, (ErrorKind::Closed, Outcome::NotSent, false, 1), "{error:?}");
            }
        }
        assert_eq!((server.calls().len(), server.applied("news")), (0, 1));
    }
}

#[tokio::test]
async fn a_close_waits_for_calls_in_flight_and_refuses_new_ones() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::delay(SECOND / 2).times(5));
        let client = over.client(&server);
        let mut calls = publish(&client, 5);
        applied(&server, 5).await;
        let closing = begin_close(&client);
        calls.extend(publish(&client, 3));
        let told = told(calls).await;
        assert_eq!(told, [5, 0, 3, 0]);
        let closed = within(SLACK, closing).await.unwrap();
        // Those that were refused for the close did not run when it began.
        assert_eq!(counts(closed), [5, 0, 0, 0]);
        assert_eq!(server.applied("news"), 5);
    }
}

/// A client whose transport does what the channel's name says, after the time that it says.
fn scripted_client() -> Client {
    Client::with_transport(from_fn("told", |call| {
        let request: Value = serde_json::from_slice(&call.to_json().unwrap()).unwrap();
        async move {
            let (time, what) = request["channel"].as_str().unwrap().split_once(' ').unwrap();
            tokio::time::sleep(Duration::from_millis(time.parse().unwrap())).await;
            match what {
                "done" => Ok(Reply::result(&PublishResult::default())),
                "refused" => Ok(Reply::error(&ApiError::new(102, "unknown channel"))),
                "nobody" => Err(Error::new(ErrorKind::Connect, "connection refused")),
                "lost" => Err(Error::new(ErrorKind::Lost, "no response")),
                _ => std::future::pending().await,
            }
        }
    }))
}

/// Publishes to that transport.
fn tell(client: &Client, channel: &'static str) -> JoinHandle<Result<PublishResult, Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.publish(PublishRequest::new(channel, json!({}))).await })
}

#[tokio::test(start_paused = true)]
async fn a_close_tells_how_all_calls_of_the_client_ended() {
    let client = scripted_client();
    // Those that have ended before are counted.
    let before = ["1 done", "1 refused", "1 nobody", "1 lost"].map(|channel| tell(&client, channel));
    assert_eq!(told(before.into()).await, [1, 1, 1, 1]);
    let during = [
        ("10 done", 5),
        ("400 done", 3),
        ("20 refused", 4),
        ("30 nobody", 2),
        ("40 lost", 6),
        ("0 never", 7),
        ("600 done", 1),
    ];
    let during = during.into_iter().flat_map(|(channel, number)| (0..number).map(move |_| channel));
    let during: Vec<_> = during.map(|channel| tell(&client, channel)).collect();
    let dropped = tell(&client, "0 never");
    tokio::task::yield_now().await;
    let (aborted, started) = (dropped.abort_handle(), Instant::now());
    tokio::spawn(async move {
        tokio::time::sleep(SECOND / 10).await;
        aborted.abort();
    });
    let closed = client.close(SECOND / 2).await;
    assert!(started.elapsed() <= SECOND / 2 + Duration::from_millis(50), "{:?}", started.elapsed());
    // Unknown: calls that were lost, had no response, were cancelled, or were dropped.
    assert_eq!(counts(closed), [1 + 8, 1 + 4, 1 + 2, 1 + 6 + 7 + 1 + 1]);
    assert_eq!(told(during).await, [8, 4, 2, 6 + 7 + 1]);
    assert!(dropped.await.unwrap_err().is_cancelled());
    // A second close returns the same at once.
    let again = client.close(60 * SECOND).await;
    assert_eq!((again, started.elapsed() < SECOND), (closed, true));
}

#[tokio::test(start_paused = true)]
async fn concurrent_closes_agree() {
    let client = scripted_client();
    let _calls = ["50 done", "100 done", "0 never", "20 refused"].map(|channel| tell(&client, channel));
    tokio::task::yield_now().await;
    let started = Instant::now();
    let close = |timeout| {
        let client = client.clone();
        async move { client.close(timeout).await }
    };
    let (one, two, three, four) =
        tokio::join!(close(SECOND), close(10 * SECOND), close(10 * SECOND), close(Duration::MAX));
    assert!(started.elapsed() <= SECOND + Duration::from_millis(50), "{:?}", started.elapsed());
    assert_eq!(counts(one), [2, 1, 0, 1]);
    assert_eq!([two, three, four], [one; 3]);
}

#[tokio::test]
async fn a_close_under_load_counts_the_outcomes_of_the_callers() {
    for over in BOTH {
        let server = start().await;
        let client = over.client(&server);
        server.fault(Fault::hang_after().times(7));
        server.fault(Fault::delay(SECOND / 3).times(20));
        let calls = publish(&client, 27);
        applied(&server, 27).await;
        let closed = within(SECOND + SLACK, client.close(SECOND)).await;
        assert_eq!(counts(closed), [20, 0, 0, 7]);
        assert_eq!(told(calls).await, [20, 0, 0, 7]);
        assert_eq!(server.applied("news"), 27);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_close_during_traffic_counts_only_calls_that_ran() {
    for round in 0..2000 {
        let client = Client::with_transport(from_fn("quick", |_| async {
            tokio::task::yield_now().await;
            Ok(Reply::result(&PublishResult::default()))
        }));
        let stop = Arc::<AtomicBool>::default();
        let caller = || {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Many that are refused follow each other without a pause.
                    for _ in 0..50 {
                        match client.publish(request()).await {
                            Ok(_) => done += 1,
                            Err(error) => assert_eq!(error.outcome(), Outcome::NotSent, "{error:?}"),
                        }
                    }
                    tokio::task::yield_now().await;
                }
                done
            })
        };
        let callers: Vec<_> = (0..8).map(|_| caller()).collect();
        tokio::task::yield_now().await;
        let closed = soon(client.close(60 * SECOND)).await;
        let others = closed.refused + closed.not_sent + closed.unknown;
        assert_eq!(others, 0, "{round}: {closed:?}");
        stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        for caller in callers {
            done += caller.await.unwrap();
        }
        assert_eq!(closed.done, done, "{round}");
        assert_eq!(client.close(Duration::ZERO).await, closed);
    }
}

#[tokio::test]
async fn a_close_waits_no_longer_than_its_timeout_for_a_silent_server() {
    for over in BOTH {
        for timeout in [Duration::ZERO, SECOND / 5] {
            let server = start().await;
            server.fault(Fault::hang_after().always());
            let client = over.client(&server);
            let calls = publish(&client, 10);
            applied(&server, 10).await;
            let closed = within(timeout + SLACK, client.close(timeout)).await;
            assert_eq!(counts(closed), [0, 0, 0, 10]);
            for call in calls {
                let error = soon(call).await.unwrap().unwrap_err();
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown), "{error:?}");
                assert!(error.endpoint().is_some());
            }
            assert_eq!(server.applied("news"), 10);
        }
    }
}

#[tokio::test]
async fn calls_cancelled_before_they_are_sent_were_not_sent() {
    for over in BOTH {
        let server = start().await;
        let waiting = over.config(&server).bearer_token(std::future::pending);
        let client = Client::new(waiting).unwrap();
        let calls = publish(&client, 5);
        tokio::time::sleep(SECOND / 20).await;
        let closed = within(SLACK, client.close(Duration::ZERO)).await;
        assert_eq!(counts(closed), [0, 0, 5, 0]);
        assert_eq!(told(calls).await, [0, 0, 5, 0]);
        assert_eq!(server.applied("news"), 0);
    }
}

#[tokio::test]
async fn a_close_ends_a_call_in_backoff_with_its_last_error() {
    let minute = Duration::from_secs(60);
    for over in BOTH {
        let closed = ClosedPort::new();
        let config = over.config_at(&closed.url());
        let retry = Retry::new().attempts(100).backoff(minute, minute);
        let client = Client::new(config.retry(retry).timeout(100 * minute)).unwrap();
        let calls = publish(&client, 5);
        tokio::time::sleep(SECOND / 10).await;
        let closed = within(SECOND / 10 + SLACK, client.close(SECOND / 10)).await;
        assert_eq!(counts(closed), [0, 0, 5, 0]);
        assert_eq!(told(calls).await, [0, 0, 5, 0]);
    }
}

/// Polls a call until the server has it, and then no more.
async fn poll_until_applied(call: &mut (impl Future<Output = Result<PublishResult, Error>> + Unpin), server: &Server) {
    soon(async {
        while server.applied("news") == 0 {
            let polled = std::pin::Pin::new(&mut *call).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn calls_that_are_not_polled_do_not_delay_a_close() {
    for over in BOTH {
        let server = start().await;
        server.fault(Fault::hang_after().always());
        let client = over.client(&server);
        let mut call = pin!(client.publish(request()));
        poll_until_applied(&mut call, &server).await;
        let closed = within(SECOND / 10 + SLACK, client.close(SECOND / 10)).await;
        assert_eq!(counts(closed), [0, 0, 0, 1]);
        // When it is polled after all, it has the same outcome.
        let error = soon(call).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown), "{error:?}");
        assert_eq!(counts(client.close(Duration::ZERO).await), [0, 0, 0, 1]);
    }
}

/// A runtime with a thread of its own.
fn elsewhere() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A good server that counts the connections that have ended.
fn counting_ends(over: Over, ends: &Arc<AtomicUsize>) -> Script {
    let ends = Arc::clone(ends);
    let ended = move |end: io::Result<()>| {
        ends.fetch_add(1, Ordering::SeqCst);
        end
    };
    match over {
        Over::Grpc => h2script::start(move |mut connection| {
            let ended = ended.clone();
            async move { ended(connection.serve().await) }
        }),
        Over::Http => h1script::start(move |mut connection| {
            let ended = ended.clone();
            async move { ended(connection.serve().await) }
        }),
    }
}

/// Waits until so many connections have ended, and as few tasks are left.
async fn all_ended(ends: &AtomicUsize, number: usize, tasks: usize) {
    let metrics = Handle::current().metrics();
    until(|| ends.load(Ordering::SeqCst) >= number && metrics.num_alive_tasks() <= tasks).await;
}

/// Calls a server in another runtime, and sees what is left when the client is closed, or its last handle dropped.
fn leaves_nothing(over: Over, closes: bool) {
    let (servers, ends) = (elsewhere(), Arc::default());
    let server = servers.block_on(async { counting_ends(over, &ends) });
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let config: Config = match over {
            Over::Grpc => Config::grpc(server.url()).connections(3).into(),
            Over::Http => Config::http(server.api_url()).into(),
        };
        let client = Client::new(config).unwrap();
        assert_eq!(told(publish(&client, 50)).await, [50, 0, 0, 0]);
        assert!(server.dials() > 0);
        let clone = client.clone();
        drop(client);
        assert_eq!(clone.publish(request()).await.unwrap().offset, 1);
        if closes {
            clone.close(SECOND).await;
            all_ended(&ends, server.dials(), tasks).await;
        }
        drop(clone);
        all_ended(&ends, server.dials(), tasks).await;
    });
    servers.block_on(async { drop(server) });
}

#[test]
fn dropping_the_last_clone_leaves_no_task_and_no_connection() {
    for over in BOTH {
        leaves_nothing(over, false);
    }
}

#[test]
fn a_close_leaves_no_task_and_no_connection() {
    for over in BOTH {
        leaves_nothing(over, true);
    }
}

#[test]
fn a_client_with_a_fallback_leaves_nothing_behind() {
    let (servers, ends) = (elsewhere(), Arc::default());
    let server = servers.block_on(async { counting_ends(Over::Http, &ends) });
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (closed, tasks) = (ClosedPort::new(), Handle::current().metrics().num_alive_tasks());
        let client = Client::new(Config::grpc(closed.url()).fallback(Config::http(server.api_url()))).unwrap();
        client.publish(request()).await.unwrap();
        let mut state = client.watch_breaker().unwrap();
        assert_eq!(*state.borrow_and_update(), BreakerState::Open);
        drop(client);
        all_ended(&ends, server.dials(), tasks).await;
        assert!(soon(state.changed()).await.is_err());
    });
    servers.block_on(async { drop(server) });
}

#[tokio::test]
async fn a_client_dropped_while_connecting_leaves_nothing_behind() {
    let silent = h2script::start_bare(|mut connection| async move { connection.ignore().await });
    let tasks = Handle::current().metrics().num_alive_tasks();
    let client = Client::new(Config::grpc(silent.url()).connect_timeout(SECOND / 2)).unwrap();
    let calls = publish(&client, 3);
    soon(silent.dialed(1)).await;
    for call in &calls {
        call.abort();
    }
    drop((client, calls));
    let metrics = Handle::current().metrics();
    // The server's tasks too, which end with its connection.
    within(3 * SECOND, until(|| metrics.num_alive_tasks() <= tasks)).await;
}

#[test]
fn a_runtime_that_ends_during_calls_leaves_no_call_hanging() {
    for over in BOTH {
        let servers = elsewhere();
        let server = servers.block_on(start());
        server.fault(Fault::hang_after().times(10));
        let (client, ends) = (over.client(&server), elsewhere());
        let calls = ends.block_on(async { publish(&client, 10) });
        servers.block_on(applied(&server, 10));
        ends.shutdown_timeout(5 * SECOND);
        servers.block_on(async {
            for call in calls {
                assert!(soon(call).await.unwrap_err().is_cancelled());
            }
            // The client goes on in another runtime.
            within(SECOND, client.publish(request())).await.unwrap();
            assert_eq!(counts(within(SLACK, client.close(60 * SECOND)).await), [1, 0, 0, 10]);
            server.shutdown().await;
        });
    }
}

#[test]
fn a_runtime_that_ends_during_calls_leaves_no_close_hanging() {
    for over in BOTH {
        let servers = elsewhere();
        let server = servers.block_on(start());
        server.fault(Fault::hang_after().times(10));
        let (client, ends) = (over.client(&server), elsewhere());
        let calls = ends.block_on(async { publish(&client, 10) });
        servers.block_on(applied(&server, 10));
        let closing = {
            let _inside = servers.enter();
            begin_close(&client)
        };
        ends.shutdown_timeout(5 * SECOND);
        servers.block_on(async {
            for call in calls {
                assert!(soon(call).await.unwrap_err().is_cancelled());
            }
            assert_eq!(counts(within(SECOND, closing).await.unwrap()), [0, 0, 0, 10]);
            server.shutdown().await;
        });
    }
}

#[tokio::test]
async fn a_panic_of_an_observer_ends_its_call_only() {
    let server = start().await;
    for over in BOTH {
        server.fault(Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many")));
        let client = over.client(&server);
        let panics = client.with_retry(Retry::new().observe(|_| panic!("on purpose")));
        let call = tokio::spawn(async move { panics.publish(request()).await });
        assert!(soon(call).await.unwrap_err().is_panic());
        client.publish(request()).await.unwrap();
        assert_eq!(counts(within(SLACK, client.close(60 * SECOND)).await), [1, 0, 0, 1]);
    }
}
