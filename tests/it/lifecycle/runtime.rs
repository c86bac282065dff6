//! One client in several runtimes, in many tasks, and outside any runtime.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use centrifugo_api::message::InfoRequest;
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, ErrorKind, HistoryRequest, PublishRequest};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::support::{BOTH, Over, servers};

/// A stand-in in a runtime of its own, so that it outlives those of the client.
struct Standin {
    server: Server,
    runtime: Runtime,
}

impl Standin {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(servers::standin("api_key"));
        Self { server, runtime }
    }

    /// A client, made outside of any runtime.
    fn client(&self, over: Over) -> Client {
        Client::new(over.config(&self.server).api_key("api_key")).unwrap()
    }

    fn stop(self) {
        self.runtime.block_on(self.server.shutdown());
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn publish(client: &Client, channel: &str) -> u64 {
    client.publish(PublishRequest::new(channel, json!({"n": 1}))).await.unwrap().offset
}

#[test]
fn one_client_works_in_several_runtimes_in_a_row() {
    let standin = Standin::start();
    for over in BOTH {
        let client = standin.client(over);
        let channel = format!("row-{over:?}");
        let mut offset = 0;
        for round in 0..6 {
            let runtime = if round % 2 == 0 {
                one_thread()
            } else {
                Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
            };
            for _ in 0..3 {
                offset += 1;
                assert_eq!(runtime.block_on(publish(&client, &channel)), offset, "{over:?}, round {round}");
            }
        }
        // One that is still there when the next begins, and is used again after it.
        let (older, newer) = (one_thread(), one_thread());
        for runtime in [&older, &newer, &older] {
            offset += 1;
            assert_eq!(runtime.block_on(publish(&client, &channel)), offset, "{over:?}");
        }
    }
    standin.stop();
}

#[test]
fn one_client_works_in_several_runtimes_at_once() {
    let standin = Standin::start();
    for over in BOTH {
        let client = standin.client(over);
        let channel = format!("once-{over:?}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    one_thread().block_on(async {
                        for _ in 0..25 {
                            publish(&client, &channel).await;
                        }
                    });
                });
            }
        });
        assert_eq!(standin.server.applied(&channel), 100, "{over:?}");
    }
    standin.stop();
}

#[test]
fn concurrent_calls_get_their_own_results() {
    let standin = Standin::start();
    for over in BOTH {
        let client = standin.client(over);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let calls: Vec<_> = (0..500)
                .map(|n| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let channel = format!("many-{over:?}-{}", n % 50);
                        (n % 50, publish(&client, &channel).await)
                    })
                })
                .collect();
            let mut responses = Vec::new();
            for call in calls {
                responses.push(call.await.unwrap());
            }
            responses.sort_unstable();
            let expected: Vec<_> = (0..50).flat_map(|n| (1..=10).map(move |offset| (n, offset))).collect();
            assert_eq!(responses, expected, "{over:?}");
        });
    }
    standin.stop();
}

/// Polls a future so many times, and then drops it.
struct Polled<F> {
    future: Option<Pin<Box<F>>>,
    left: usize,
}

impl<F: Future> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            self.future = None;
            return Poll::Ready(None);
        }
        self.left -= 1;
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                if self.left == 0 {
                    // Dropped on the next turn, when the connection has had its own.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

#[test]
fn a_dropped_call_does_not_disturb_the_others() {
    let standin = Standin::start();
    for over in BOTH {
        let client = Arc::new(standin.client(over));
        let channel = format!("plain:dropped-{over:?}");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (dropped, responded) = runtime.block_on(async {
            let (mut dropped, mut responded) = (0, 0);
            for round in 0..40 {
                // Large enough that some are dropped in the middle of their body.
                let data = json!("x".repeat(if round % 2 == 0 { 10 } else { 200_000 }));
                let mut calls = Vec::new();
                for polls in 0..8 {
                    let (client, request) = (Arc::clone(&client), PublishRequest::new(&channel, data.clone()));
                    // Every other call is left alone.
                    let left = if polls % 2 == 0 { usize::MAX } else { polls / 2 + 1 };
                    let future = Box::pin(async move { client.publish(request).await });
                    calls.push((left, tokio::spawn(Polled { future: Some(future), left })));
                }
                for (left, call) in calls {
                    if let Some(result) = call.await.unwrap() {
                        result.unwrap();
                        responded += 1;
                    } else {
                        assert_ne!(left, usize::MAX);
                        dropped += 1;
                    }
                }
            }
            (dropped, responded)
        });
        assert!(dropped > 0, "{over:?}: no call was dropped");
        assert!(responded >= 160, "{over:?}: {responded} calls had a response");
        let applied = standin.server.applied(&channel);
        assert!((responded..=responded + dropped).contains(&applied), "{over:?}: {applied}, {responded}, {dropped}");
    }
    standin.stop();
}

#[test]
fn a_call_outside_a_runtime_is_an_error() {
    let standin = Standin::start();
    for over in BOTH {
        let client = standin.client(over);
        let mut call = pin!(client.info(InfoRequest::new()));
        let Poll::Ready(called) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("{over:?}: the call waits for something that never comes");
        };
        let error = called.unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Invalid, false), "{over:?}");
        assert!(error.to_string().contains("runtime"), "{error}");
        // And it works in one afterwards.
        let history = one_thread().block_on(client.history(HistoryRequest::new("outside"))).unwrap();
        assert_eq!(history.offset, 0);
    }
    standin.stop();
}
