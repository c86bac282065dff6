//! Nodes that are killed or stopped, and random faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::{Client, Error, Outcome, PublishRequest, Retry};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{KEY, Load, PUBLISHERS, Process, Sent, counted, failed, history, print_counts};
use crate::soak::{self, Addresses};
use crate::support::{BOTH, Over, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_killed_server_leaves_outcomes_true_and_is_reconnected_to() {
    for over in BOTH {
        for keys in [true, false] {
            let mut server = Process::start().await;
            let repeats = Arc::new(AtomicU64::new(0));
            let retry = counted(Retry::new().idempotency_keys(keys), &repeats);
            let client = Client::new(server.config(over).retry(retry)).unwrap();
            let load = Load::start(&client, PUBLISHERS);
            sleep(Duration::from_secs(1)).await;
            server.signal("KILL");
            soon(server.ended()).await;
            sleep(Duration::from_secs(1)).await;
            let ready = server.start_again().await;
            sleep(Duration::from_secs(3)).await;
            let all = load.stop().await;
            let repeats = repeats.load(Ordering::Relaxed);
            print_counts(&format!("SIGKILL and a new start over {over:?}, keys {keys}, {repeats} repeats"), &all);
            for error in all.iter().filter_map(|sent| sent.result.as_ref().err()) {
                assert!(matches!(error.outcome(), Outcome::NotSent | Outcome::Unknown), "{error}");
            }
            let found = all.iter().filter(|sent| sent.result.is_ok() && sent.ended > ready).map(|sent| sent.ended);
            let found = found.min().unwrap() - ready;
            println!("the first success {found:.1?} after the server responded");
            assert!(found < Duration::from_secs(2));
            // Its history is empty after the restart, so only later calls can be compared.
            let mut history = history(&server, PUBLISHERS).await;
            for sent in all.iter().filter(|sent| sent.started > ready) {
                let times = history.remove(&sent.id).unwrap_or_default();
                match sent.result.as_ref().map_err(Error::outcome) {
                    Ok(_) => assert_eq!(times, 1),
                    Err(Outcome::NotSent | Outcome::Refused) => assert_eq!(times, 0),
                    Err(Outcome::Unknown | Outcome::Done) => assert!(times <= 1),
                }
            }
            assert!(history.values().all(|times| *times == 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn calls_leave_a_node_that_is_stopped_and_return_to_it() {
    let (stopped, goes_on) = (Process::start().await, Process::start().await);
    let repeats = Arc::new(AtomicU64::new(0));
    let retry = counted(Retry::new(), &repeats);
    let config = stopped.config(Over::Grpc).endpoint(goes_on.grpc_url()).retry(retry);
    let client = Client::new(config).unwrap();
    let load = Load::start(&client, PUBLISHERS);
    sleep(Duration::from_secs(1)).await;
    stopped.signal("STOP");
    let stopped_at = Instant::now();
    sleep(Duration::from_secs(12)).await;
    assert!(!client.endpoints()[0].available);
    stopped.signal("CONT");
    let goes_on_at = Instant::now();
    while !client.endpoints()[0].available {
        assert!(goes_on_at.elapsed() < Duration::from_secs(15));
        sleep(Duration::from_millis(5)).await;
    }
    println!("the node is back {:.1?} after SIGCONT", goes_on_at.elapsed());
    sleep(Duration::from_secs(1)).await;
    let all = load.stop().await;
    print_counts(&format!("SIGSTOP of one of two, {} repeats", repeats.load(Ordering::Relaxed)), &all);
    let slow = all.iter().filter(|sent| sent.took() > Duration::from_secs(1));
    let (at_first, later): (Vec<_>, Vec<_>) =
        slow.partition(|sent| sent.started < stopped_at + Duration::from_millis(3_500));
    println!("over 1 s: {} at first, {} later", at_first.len(), later.len());
    assert_eq!(failed(&all), [""; 0]);
    // One at a time tries the node that is stopped.
    assert!(later.len() < 12, "{}", later.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary, and takes two minutes"]
async fn a_post_after_the_server_closed_the_connection_is_not_lost() {
    const CALLERS: usize = 32;
    let server = Process::start().await;
    let config = server.http().retry(None);
    let next = AtomicU64::new(0);
    let next = &next;
    // One that closes idle connections in time, and two that do so when the server does, or later.
    let clients = [None, Some(30), Some(60)].map(|idle| match idle {
        None => (idle, Client::new(config.clone()).unwrap()),
        Some(seconds) => (idle, Client::new(config.clone().idle_timeout(Duration::from_secs(seconds))).unwrap()),
    });
    let told = Mutex::new(Vec::new());
    let all = &told;
    for cycle in 0..4 {
        if cycle > 0 {
            // The first of them at the moment when the server closes them: it begins to count with its response.
            sleep(Duration::from_millis([0, 29_999, 30_000, 31_000][cycle])).await;
        }
        let calls = clients.iter().flat_map(|(idle, client)| {
            (0..CALLERS).map(move |_| async move {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let started = Instant::now();
                let result = client.publish(PublishRequest::new("load-0", json!({"id": id}))).await;
                all.lock().unwrap().push((*idle, Sent { id, started, ended: Instant::now(), result }));
            })
        });
        join_all(calls).await;
    }
    let history = history(&server, 1).await;
    let all = told.into_inner().unwrap();
    for idle in [None, Some(30), Some(60)] {
        let of: Vec<_> = all.iter().filter(|(of, _)| *of == idle).map(|(_, sent)| sent).collect();
        let count = |outcome: Option<Outcome>| {
            of.iter().filter(|sent| sent.result.as_ref().err().map(Error::outcome) == outcome).count()
        };
        println!(
            "idle_timeout {idle:?}: {} ok, {} not sent, {} unknown",
            count(None),
            count(Some(Outcome::NotSent)),
            count(Some(Outcome::Unknown))
        );
        for sent in of {
            let times = history.get(&sent.id).copied().unwrap_or_default();
            match &sent.result {
                Ok(_) => assert_eq!(times, 1),
                Err(error) => {
                    assert!(idle.is_some(), "{error}");
                    assert!(times <= u64::from(error.may_have_run()), "{times} times: {error}");
                }
            }
        }
    }
}

/// Polls them all at once, in this task.
async fn join_all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary, and takes a minute: see tests/it/soak.rs"]
async fn a_process_under_random_faults_has_what_was_confirmed() {
    let server = Process::start().await;
    let addresses = Addresses { grpc: server.grpc, http: server.http, key: Some(KEY.into()) };
    soak::run_on(&addresses).await;
}
