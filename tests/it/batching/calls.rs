//! A client with batching.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use centrifugo_api::message::InfoRequest;
use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::{
    Batching, BroadcastRequest, Client, Config, Error, ErrorKind, HistoryRequest, Method, Outcome, PresenceRequest,
    PublishRequest, Retry,
};
use serde_json::json;
use tokio::time::Instant;

use crate::api::suite;
use crate::support::fake::{Fake, Sent};
use crate::support::{
    BOTH, SECOND, assert_fails, numbered, poll_once, quick_retry, settle, soon, spawn_publish, within,
};

fn one_by_one(fake: &Arc<Fake>) -> Client {
    fake.client().with_batching(Batching::new().in_flight(1)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn sequential_calls_are_not_batched() {
    for in_flight in 1..3 {
        let fake = Fake::new(|sent: Sent| async move { sent.done() });
        let client = fake.client().with_batching(Batching::new().in_flight(in_flight)).unwrap();
        for number in 0..3 {
            client.publish(numbered(number)).await.unwrap();
        }
        assert_eq!(fake.sent().iter().map(|sent| &*sent.method).collect::<Vec<_>>(), ["publish"; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_share_requests() {
    for in_flight in [1, 2, 5] {
        let (fake, permits) = Fake::held(Sent::done);
        let client = fake.client().with_batching(Batching::new().in_flight(in_flight)).unwrap();
        let calls: Vec<_> = (0..512)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    match number % 3 {
                        0 => client.publish(numbered(number)).await.map(drop),
                        1 => client.history(HistoryRequest::new("news")).await.map(drop),
                        _ => client.with_timeout(60 * SECOND).presence(PresenceRequest::new("news")).await.map(drop),
                    }
                })
            })
            .collect();
        settle().await;
        assert_eq!(fake.most(), in_flight);
        permits.add_permits(100);
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let sent = fake.sent();
        assert!(fake.most() == in_flight && sent.len() <= in_flight + 2, "{} requests", sent.len());
        let published: BTreeSet<_> =
            sent.iter().flat_map(|sent| &sent.commands).filter_map(|(_, request)| request["data"].as_u64()).collect();
        assert_eq!(published, (0..512).filter(|number| number % 3 == 0).collect());
        assert!(sent.iter().all(|sent| sent.parallel == (sent.method == "batch")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_polled_delays_no_other() {
    for in_flight in 1..4 {
        let fake = Fake::new(|sent: Sent| async move {
            tokio::time::sleep(SECOND).await;
            sent.done()
        });
        let client = fake.client().with_batching(Batching::new().in_flight(in_flight)).unwrap();
        let kept: Vec<_> = (0..10).map(|number| poll_once(client.publish(numbered(number)))).collect();
        within(60 * SECOND, client.publish(numbered(10))).await.unwrap();
        for call in kept {
            call.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_own_deadline() {
    let (fake, _permits) = Fake::held(Sent::done);
    let client = one_by_one(&fake);
    let began = Instant::now();
    let mut calls = Vec::new();
    for seconds in [7, 3, 5, 1] {
        let client = client.with_timeout(Duration::from_secs(seconds));
        calls.push(tokio::spawn(async move {
            let error = client.publish(numbered(0)).await.unwrap_err();
            assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, Duration::from_secs(seconds)));
            let at = (error.method(), error.transport(), error.endpoint());
            assert_eq!(at, (Some("publish"), Some("fake"), Some("here")));
            error.outcome()
        }));
        settle().await;
    }
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    // The first was sent, and the others waited for it until it was over.
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::NotSent, Outcome::NotSent, Outcome::NotSent]);
    assert_eq!(fake.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_queued_is_not_sent() {
    let (fake, permits) = Fake::held(Sent::done);
    let client = one_by_one(&fake);
    let left = poll_once(client.publish(numbered(0)));
    settle().await;
    let mut waits: Vec<_> = (1..10).map(|number| poll_once(client.publish(numbered(number)))).collect();
    waits.drain(..8);
    permits.add_permits(10);
    left.await.unwrap();
    waits.pop().unwrap().await.unwrap();
    assert_eq!(fake.data(), [[0], [9]]);
}

#[tokio::test(start_paused = true)]
async fn a_close_sends_queued_calls_and_cancels_the_rest() {
    for linger in [None, Some(10 * SECOND)] {
        let (fake, permits) = Fake::held(Sent::done);
        let batching = Batching::new().in_flight(1);
        let batching = linger.map_or(batching, |linger| batching.linger(linger));
        let client = fake.client().with_batching(batching).unwrap();
        let calls = |range: std::ops::Range<usize>| -> Vec<_> {
            let call = |number| {
                let client = client.clone();
                tokio::spawn(async move { client.publish(numbered(number)).await })
            };
            range.map(call).collect()
        };
        let first = calls(0..1);
        tokio::time::sleep(11 * SECOND).await;
        assert_eq!(fake.sent().len(), 1);
        let rest = calls(1..10);
        settle().await;
        permits.add_permits(1);
        let began = Instant::now();
        let closed = client.close(SECOND).await;
        assert!(began.elapsed() <= SECOND + Duration::from_millis(30), "{:?}", began.elapsed());
        let (unknown, not_sent) = if linger.is_some() { (0, 9) } else { (9, 0) };
        assert_eq!((closed.done, closed.not_sent, closed.unknown), (1, not_sent, unknown), "{linger:?}");
        for call in first {
            call.await.unwrap().unwrap();
        }
        for call in rest {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(
                (error.kind(), error.method(), error.transport()),
                (ErrorKind::Closed, Some("publish"), Some("fake"))
            );
            assert_eq!(error.outcome(), if unknown > 0 { Outcome::Unknown } else { Outcome::NotSent });
        }
    }

    let (fake, permits) = Fake::held(Sent::done);
    let client = one_by_one(&fake);
    let calls: Vec<_> = (0..10).map(|number| spawn_publish(&client, number)).collect();
    settle().await;
    let mut close = poll_once(client.close(60 * SECOND));
    assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_fails(client.publish(numbered(11)).await, ErrorKind::Closed, Outcome::NotSent);
    permits.add_permits(10);
    assert_eq!(close.await.done, 10);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_with_other_retries_share_requests_and_only_those_with_retries_are_repeated() {
    let (fake, permits) = Fake::held(|sent| match sent.commands.len() {
        2 => Err(Error::new(ErrorKind::Connect, "nobody is there")),
        _ => sent.done(),
    });
    let client = one_by_one(&fake).with_retry(quick_retry());
    let busy = spawn_publish(&client, 0);
    settle().await;
    let (with, without) = (spawn_publish(&client, 1), spawn_publish(&client.with_retry(None), 2));
    settle().await;
    permits.add_permits(10);
    busy.await.unwrap().unwrap();
    with.await.unwrap().unwrap();
    let error = assert_fails(without.await.unwrap(), ErrorKind::Connect, Outcome::NotSent);
    assert_eq!((error.attempts(), error.method()), (1, Some("publish")));
    assert_eq!(fake.data(), [vec![json!(0)], vec![json!(1), json!(2)], vec![json!(1)]]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_ends_the_calls_of_its_request_only() {
    let fake = Fake::new(|sent: Sent| async move {
        tokio::time::sleep(SECOND).await;
        let busy = || Err(centrifugo_api::ApiError::new(111, "busy"));
        sent.each(|data| if *data == 0 { busy() } else { Ok(json!({})) })
    });
    for in_flight in 1..4 {
        let retry = Retry::new().observe(|_| panic!("of the observer"));
        let client = fake.client().with_retry(retry).with_batching(Batching::new().in_flight(in_flight)).unwrap();
        let calls: Vec<_> = [1, 2, 0, 3, 4].map(|number| spawn_publish(&client, number)).into_iter().collect();
        for (number, call) in [1, 2, 0, 3, 4].into_iter().zip(calls) {
            match (number, call.await) {
                // Its reason is known, unless the panic was its caller's own.
                (0, Err(panic)) => assert!(panic.is_panic()),
                (0, Ok(result)) => {
                    let error = result.unwrap_err();
                    let ends = [(ErrorKind::Api, Outcome::Refused), (ErrorKind::Closed, Outcome::Unknown)];
                    assert!(ends.contains(&(error.kind(), error.outcome())), "{error:?}");
                }
                (_, result) => result.unwrap().unwrap(),
            }
        }
        let calls: Vec<_> = (1..9).map(|number| spawn_publish(&client, number)).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn calls_share_requests_with_those_of_other_callers() {
    let server = Server::start().await.unwrap();
    let batching = Batching::new().in_flight(1);
    let client = Client::new(Config::grpc(server.grpc_url()).batching(batching)).unwrap();
    let _others = suite::other_callers(&client);
    for number in 0..20 {
        soon(client.publish(numbered(number))).await.unwrap();
    }
    let apart = server.calls().iter().filter(|call| call.method == Method::Publish).count();
    assert!(apart < 5, "{apart} of 20 calls had a request to themselves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_has_its_own_result_over_both_transports() {
    for over in BOTH {
        let server = Server::start().await.unwrap();
        let config = over.config(&server);
        let client = Client::new(config.batching(Batching::new().in_flight(1)).retry(None)).unwrap();
        server.fault(Fault::delay(SECOND / 5));
        let calls: Vec<_> = (0..512)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(soon(async move {
                    match number % 6 {
                        0 => assert!(client.publish(numbered(number)).await.unwrap().offset > 0),
                        1 => drop(client.history(HistoryRequest::new("news").limit(1)).await.unwrap()),
                        2 => {
                            let error = client.publish(PublishRequest::new("", json!(1))).await.unwrap_err();
                            assert_eq!((error.code(), error.method()), (Some(107), Some("publish")));
                        }
                        3 => {
                            let error = client.history(HistoryRequest::new("nope:a")).await.unwrap_err();
                            assert_eq!((error.code(), error.method()), (Some(102), Some("history")));
                        }
                        4 => assert_eq!(client.info(InfoRequest::new()).await.unwrap().nodes.len(), 1),
                        _ => {
                            let request = BroadcastRequest::new(["news", "nope:a"], json!(number));
                            let result = client.broadcast(request).await.unwrap();
                            assert_eq!(result.responses.len(), 2);
                        }
                    }
                }))
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert!(server.calls().len() < 10, "{}", server.calls().len());
        assert_eq!(server.applied("news"), (0..512).filter(|number| matches!(number % 6, 0 | 5)).count() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_queued_call_have_the_full_attempt_timeout() {
    let fake = Fake::new(|sent: Sent| async move {
        let channels = sent.commands[0].1["channels"].as_array().unwrap().len();
        if channels > 1 {
            return Err(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused));
        }
        tokio::time::sleep(SECOND).await;
        Ok(vec![Ok(json!({"responses": [{"result": {}}]}))])
    });
    let client = fake.client().with_retry(Retry::new().attempt_timeout(Some(3 * SECOND)));
    let client = client.with_batching(Batching::new().linger(5 * SECOND)).unwrap();
    client.broadcast(BroadcastRequest::new(["a", "b"], json!(1))).await.unwrap().all_ok().unwrap();
    assert_eq!(fake.sent().len(), 3);
}

#[test]
#[cfg(target_os = "linux")]
fn runtimes_that_have_ended_leave_no_open_files() {
    let fake = Fake::new(|sent: Sent| async move { sent.done() });
    let client = one_by_one(&fake);
    // Of runtimes: other tests open sockets meanwhile.
    let is_of_runtime = |link: std::path::PathBuf| link.to_string_lossy().starts_with("anon_inode:");
    let files = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|file| std::fs::read_link(file.path()).is_ok_and(is_of_runtime)).count()
    };
    let before = files();
    for number in 0..200 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.publish(numbered(number))).unwrap();
    }
    let after = files();
    assert!(after < before + 200, "{before} before, {after} after");
}
