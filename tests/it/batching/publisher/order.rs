//! The order of messages, as the server keeps it.

use std::collections::BTreeMap;
use std::time::Duration;

use centrifugo_api::config::Order;
use centrifugo_api::testing::{Fault, Namespace, Server, Transport as Front};
use centrifugo_api::{
    ApiError, Batching, BroadcastRequest, Client, Config, DisconnectRequest, HistoryRequest, Publisher, PublisherConfig,
};
use serde_json::{Value, json};

use super::{ORDERS, enqueue, message};
use crate::support::{BOTH, Over, SECOND, quick_retry, servers::Setup, within};

/// What each channel was published, as the server keeps it.
async fn kept(client: &Client, channel: &str) -> Vec<Value> {
    let history = client.history(HistoryRequest::new(channel).limit(HistoryRequest::NO_LIMIT)).await.unwrap();
    history.publications.iter().map(|publication| publication.json().unwrap()).collect()
}

/// Publishes from many tasks and looks at the history of each channel: the messages of each task in their order, each once.
async fn publish_in_order(
    client: &Client,
    config: PublisherConfig,
    order: Order,
    channel: impl Fn(usize) -> String,
    tasks: usize,
    each: usize,
) {
    let publisher = Publisher::new(client, config.order(order)).unwrap();
    // A task has a channel of its own to publish to, which it may share with others.
    let handles: Vec<_> = (0..tasks)
        .map(|task| {
            let (publisher, channel) = (publisher.clone(), channel(task));
            tokio::spawn(async move {
                let mut tickets = Vec::new();
                for number in 0..each {
                    tickets.push(publisher.enqueue(message(&channel, json!([task, number]))).await.unwrap());
                }
                for (number, ticket) in tickets.into_iter().enumerate() {
                    ticket.await.unwrap_or_else(|error| panic!("{task}, {number}: {error:?}"));
                }
                channel
            })
        })
        .collect();
    let mut channels = Vec::new();
    for handle in handles {
        channels.push(within(120 * SECOND, handle).await.unwrap());
    }
    channels.sort();
    channels.dedup();
    let mut all = 0;
    for channel in channels {
        let mut of_task: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for data in kept(client, &channel).await {
            of_task.entry(data[0].as_u64().unwrap()).or_default().push(data[1].as_u64().unwrap());
            all += 1;
        }
        for (task, mut numbers) in of_task {
            if order == Order::None {
                numbers.sort_unstable();
            }
            assert_eq!(numbers, (0..each as u64).collect::<Vec<_>>(), "{channel}, {task}, {order:?}");
        }
    }
    assert_eq!(all, tasks * each);
    assert_eq!(crate::support::counts(publisher.close(SECOND).await), [(tasks * each) as u64, 0, 0, 0]);
}

fn zipf(task: usize) -> usize {
    // Half of the tasks share one channel, a quarter of them another, and so on.
    ((task + 1).trailing_zeros() as usize).min(8)
}

async fn server() -> Server {
    let history = Namespace::new("").history(1_000_000, Duration::from_secs(3600));
    Server::builder().without_namespace(history).without_records().start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_channel_keeps_the_order_of_its_messages() {
    for over in BOTH {
        for order in ORDERS {
            let server = server().await;
            let client = Client::new(over.config(&server)).unwrap();
            let publisher = PublisherConfig::new;
            publish_in_order(&client, publisher(), order, |task| format!("each {task}"), 50, 20).await;
            publish_in_order(&client, publisher(), order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
            publish_in_order(&client, publisher(), order, |_| "one".into(), 20, 50).await;
            let small = Batching::new().in_flight(4).max_commands(5).max_bytes(300);
            let publisher = publisher().batching(small).max_messages(50);
            publish_in_order(&client, publisher, order, |task| format!("small {}", zipf(task)), 64, 20).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_survives_retries_and_lost_connections() {
    for over in BOTH {
        for order in ORDERS {
            let server = server().await;
            let retry = quick_retry().attempt_timeout(None).attempts(20);
            let client = Client::new(over.config(&server).retry(retry)).unwrap();
            for number in 0..12 {
                server.fault(match number % 4 {
                    0 => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "slow")).after(number),
                    1 => Fault::cut_after().after(number),
                    2 => Fault::cut_before().after(number),
                    _ => Fault::delay(Duration::from_millis(20)).after(number),
                });
            }
            let publisher = PublisherConfig::new().idempotency_keys(true).batching(Batching::new().max_commands(20));
            publish_in_order(&client, publisher, order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_survives_the_switch_to_the_fallback_and_back() {
    for order in [Order::PerChannel, Order::Sequential] {
        let server = server().await;
        let grpc = Config::grpc(server.grpc_url()).fallback(Config::http(server.http_url()));
        let client = Client::new(grpc.retry(quick_retry().attempt_timeout(None).attempts(20))).unwrap();
        server.fault(Fault::cut_after().transport(Front::Grpc).after(3).times(200));
        let publisher = PublisherConfig::new().idempotency_keys(true).batching(Batching::new().max_commands(20));
        publish_in_order(&client, publisher, order, |task| format!("zipf {}", zipf(task)), 64, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_keeps_the_order_of_each_of_its_channels() {
    for over in BOTH {
        for order in [Order::PerChannel, Order::Sequential] {
            let server = server().await;
            let client = Client::new(over.config(&server)).unwrap();
            let batching = Batching::new().in_flight(4).max_commands(8);
            let publisher = Publisher::new(&client, PublisherConfig::new().order(order).batching(batching)).unwrap();
            let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            let mut tickets = Vec::new();
            let mut broadcasts = Vec::new();
            let mut random = fastrand::Rng::with_seed(1);
            for number in 0..500_u64 {
                let channel = |number: usize| format!("channel {number}");
                if random.u8(..4) == 0 {
                    // Perhaps one of them twice.
                    let channels: Vec<_> = (0..random.usize(1..4)).map(|_| channel(random.usize(..5))).collect();
                    for channel in &channels {
                        expected.entry(channel.clone()).or_default().push(number);
                    }
                    let ticket = publisher.try_enqueue(BroadcastRequest::new(channels, json!(number))).unwrap();
                    broadcasts.push(ticket);
                } else {
                    let channel = channel(random.usize(..5));
                    tickets.push(enqueue(&publisher, &channel, number));
                    expected.entry(channel).or_default().push(number);
                }
                if random.u8(..10) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let info = publisher.try_enqueue(DisconnectRequest::new("nobody")).unwrap();
            for ticket in tickets {
                within(60 * SECOND, ticket).await.unwrap();
            }
            for ticket in broadcasts {
                assert_eq!(within(60 * SECOND, ticket).await.unwrap().failed().count(), 0);
            }
            info.await.unwrap();
            for (channel, expected) in expected {
                let kept: Vec<_> =
                    kept(&client, &channel).await.iter().map(|number| number.as_u64().unwrap()).collect();
                assert_eq!(kept, expected, "{over:?}, {order:?}, {channel}");
            }
        }
    }
}

async fn real_order(over: Over) {
    for order in ORDERS {
        let setup = Setup::real(over);
        let client = setup.client();
        // A channel keeps 100.
        let name = setup.channel("");
        let config = PublisherConfig::new();
        publish_in_order(&client, config, order, |task| format!("{name}-{}", task / 2), 200, 50).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real server: see tests/it/support/servers.rs"]
async fn real_server_grpc_keeps_the_order() {
    real_order(Over::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real server: see tests/it/support/servers.rs"]
async fn real_server_http_keeps_the_order() {
    real_order(Over::Http).await;
}
