//! No call fails that could have succeeded: what callers see of faults that a healthy path leads around.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::BreakerState;
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome, PublishRequest, Publisher, PublisherConfig, Retry};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::port::Port;
use crate::support::proxy::{End, Proxy};
use crate::support::{AT_ONCE, BOTH, Over, SECOND, publish, publish_number, request, soon, start, until, within};

const MS: Duration = Duration::from_millis(1);

/// A stand-in, and a proxy in front of one of its APIs.
async fn node(over: Over) -> (Server, Proxy) {
    let server = start().await;
    let proxy = proxy(over, &server);
    (server, proxy)
}

fn proxy(over: Over, server: &Server) -> Proxy {
    Proxy::to(match over {
        Over::Grpc => server.grpc_addr(),
        Over::Http => server.http_addr(),
    })
}

fn url(over: Over, proxy: &Proxy) -> String {
    match over {
        Over::Grpc => proxy.url(),
        Over::Http => format!("{}/api", proxy.url()),
    }
}

fn two(over: Over, nodes: &[(Server, Proxy); 2]) -> Config {
    over.config_at(&nodes[0].1.url()).endpoint(url(over, &nodes[1].1))
}

/// Callers that publish one message after the other until they are stopped.
struct Callers {
    stop: Arc<AtomicBool>,
    callers: JoinSet<(usize, Vec<Error>)>,
}

impl Callers {
    fn start(client: &Client, number: usize) -> Self {
        let (stop, mut callers) = (Arc::<AtomicBool>::default(), JoinSet::new());
        for _ in 0..number {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            callers.spawn(async move {
                let (mut done, mut errors) = (0, Vec::new());
                while !stop.load(Ordering::SeqCst) {
                    match client.publish(request()).await {
                        Ok(_) => done += 1,
                        Err(error) => errors.push(error),
                    }
                    tokio::time::sleep(2 * MS).await;
                }
                (done, errors)
            });
        }
        Self { stop, callers }
    }

    /// Stops them. How many calls succeeded, and the errors of the others.
    async fn end(self) -> (usize, Vec<Error>) {
        self.stop.store(true, Ordering::SeqCst);
        let all = soon(self.callers.join_all()).await;
        all.into_iter().fold((0, Vec::new()), |(done, mut errors), (more, others)| {
            errors.extend(others);
            (done + more, errors)
        })
    }
}

#[track_caller]
fn assert_none_failed((done, errors): &(usize, Vec<Error>), at_least: usize) {
    assert!(errors.is_empty(), "{} of {done} failed: {:?}", errors.len(), errors.first());
    assert!(*done >= at_least, "only {done} calls");
}

#[tokio::test]
async fn a_node_that_stops_costs_no_call_with_a_short_deadline_and_is_back_when_it_goes_on() {
    for over in BOTH {
        for callers in [1, 16] {
            let nodes = [node(over).await, node(over).await];
            let client = Client::new(two(over, &nodes).timeout(SECOND / 2)).unwrap();
            let calls = Callers::start(&client, callers);
            tokio::time::sleep(SECOND / 2).await;
            nodes[0].1.both(|lane| lane.stalled = true);
            until(|| !client.endpoints()[0].available).await;
            tokio::time::sleep(2 * SECOND).await;
            nodes[0].1.both(|lane| lane.stalled = false);
            within(5 * SECOND, until(|| client.endpoints()[0].available)).await;
            assert_none_failed(&calls.end().await, 100);
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_costs_few_calls_that_must_not_be_repeated() {
    for over in BOTH {
        let nodes = [node(over).await, node(over).await];
        let retry = Retry::new().idempotency_keys(false);
        let client = Client::new(two(over, &nodes).timeout(SECOND / 2).retry(retry)).unwrap();
        let calls = Callers::start(&client, 4);
        tokio::time::sleep(SECOND / 2).await;
        nodes[0].1.both(|lane| lane.stalled = true);
        tokio::time::sleep(4 * SECOND).await;
        let (done, errors) = calls.end().await;
        assert!(done > 500 && errors.len() <= 10, "{done} done, {} failed", errors.len());
        assert!(errors.iter().all(|error| (error.kind(), error.outcome()) == (ErrorKind::Timeout, Outcome::Unknown)));
    }
}

#[tokio::test]
async fn a_grpc_api_that_falls_silent_costs_no_call_while_http_responds() {
    let (server, grpc) = node(Over::Grpc).await;
    let config = Config::grpc(grpc.url()).fallback(Config::http(server.http_url())).timeout(SECOND / 2);
    let client = Client::new(config).unwrap();
    let calls = Callers::start(&client, 4);
    tokio::time::sleep(SECOND / 2).await;
    grpc.both(|lane| lane.stalled = true);
    let mut state = client.watch_breaker().unwrap();
    soon(state.wait_for(|state| *state == BreakerState::Open)).await.unwrap();
    tokio::time::sleep(SECOND).await;
    grpc.both(|lane| lane.stalled = false);
    within(6 * SECOND, state.wait_for(|state| *state == BreakerState::Closed)).await.unwrap();
    assert_none_failed(&calls.end().await, 100);
}

#[tokio::test]
async fn a_publisher_keeps_its_rate_while_one_of_two_nodes_is_silent() {
    let nodes = [node(Over::Grpc).await, node(Over::Grpc).await];
    for (_, proxy) in &nodes {
        proxy.both(|lane| lane.latency = MS);
    }
    let client = Client::new(two(Over::Grpc, &nodes)).unwrap();
    let publisher = Publisher::new(&client, PublisherConfig::new()).unwrap();
    let done = Arc::<AtomicUsize>::default();
    let mut callers = JoinSet::new();
    let stop = Arc::<AtomicBool>::default();
    for caller in 0..8 {
        let (publisher, done, stop) = (publisher.clone(), Arc::clone(&done), Arc::clone(&stop));
        callers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                publisher.publish(PublishRequest::new(format!("news-{caller}"), json!(1))).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    tokio::time::sleep(SECOND / 2).await;
    nodes[0].1.both(|lane| lane.stalled = true);
    until(|| !client.endpoints()[0].available).await;
    // Its batches in flight are sent to the other, and none follows them.
    for _ in 0..10 {
        let before = done.load(Ordering::SeqCst);
        tokio::time::sleep(SECOND / 5).await;
        assert!(done.load(Ordering::SeqCst) > before, "it stands still");
    }
    stop.store(true, Ordering::SeqCst);
    soon(callers.join_all()).await;
}

#[tokio::test]
async fn a_reset_connection_loses_no_call_that_may_be_repeated() {
    for over in BOTH {
        let (server, proxy) = node(over).await;
        proxy.both(|lane| lane.latency = 2 * MS);
        let client = Client::new(over.config_at(&proxy.url())).unwrap();
        let calls = Callers::start(&client, 256);
        for _ in 0..4 {
            tokio::time::sleep(SECOND / 2).await;
            proxy.cut(End::Rst);
        }
        tokio::time::sleep(SECOND / 5).await;
        let calls = calls.end().await;
        assert_none_failed(&calls, 1000);
        assert_eq!(usize::try_from(server.applied("news")), Ok(calls.0));
    }
}

#[tokio::test]
async fn a_storm_of_lost_connections_does_not_double_the_load() {
    for over in BOTH {
        let (server, proxy) = node(over).await;
        // Every response is lost.
        proxy.down(|lane| lane.limit = Some((60, End::Rst)));
        let client = Client::new(over.config_at(&proxy.url()).timeout(2 * SECOND)).unwrap();
        let mut calls = JoinSet::new();
        for number in 0..1000 {
            let client = client.clone();
            calls.spawn(async move { publish_number(&client, number).await.is_err() });
            if number % 64 == 63 {
                soon(calls.join_next()).await;
            }
        }
        soon(calls.join_all()).await;
        let requests = server.calls().len();
        assert!(requests <= 2 * 1000 + 35, "{over:?}: {requests} requests for 1,000 calls");
    }
}

#[tokio::test]
async fn a_restart_of_one_node_after_the_other_loses_no_call() {
    for over in BOTH {
        let nodes = [node(over).await, node(over).await];
        let client = Client::new(two(over, &nodes)).unwrap();
        let calls = Callers::start(&client, 16);
        for turn in 0..4 {
            tokio::time::sleep(SECOND / 2).await;
            let (_, proxy) = &nodes[turn % 2];
            proxy.refuse().await;
            proxy.cut(End::Fin);
            tokio::time::sleep(SECOND).await;
            // The other one goes as soon as this one is back.
            proxy.accept();
        }
        assert_none_failed(&calls.end().await, 100);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_back_gets_calls_within_two_seconds() {
    for over in BOTH {
        let (_server, proxy) = node(over).await;
        proxy.refuse().await;
        let client = Client::new(over.config_at(&proxy.url())).unwrap();
        let down = tokio::time::Instant::now();
        while down.elapsed() < 3 * SECOND {
            publish(&client).await.unwrap_err();
            tokio::time::sleep(10 * MS).await;
        }
        proxy.accept();
        let back = async {
            while publish(&client).await.is_err() {
                tokio::time::sleep(10 * MS).await;
            }
        };
        within(2 * SECOND, back).await;
    }
}

/// Accepts connections at this address and says nothing.
fn silent(address: SocketAddr) -> Port {
    Port::open_at(address, |stream, _| async move {
        let _stream = stream;
        std::future::pending().await
    })
}

#[tokio::test]
async fn a_name_with_a_silent_address_costs_no_call_over_grpc() {
    let server = start().await;
    let port = server.grpc_addr().port();
    // On the loopback, every address of 127.0.0.0/8 is there.
    let others =
        [silent(format!("127.0.0.2:{port}").parse().unwrap()), silent(format!("127.0.0.3:{port}").parse().unwrap())];
    let addresses: Vec<IpAddr> = vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into(), [127, 0, 0, 1].into()];
    let resolver = move |_| {
        let addresses = addresses.clone();
        async move { Ok(addresses) }
    };
    let config = Config::grpc(format!("http://centrifugo.test:{port}")).resolver(resolver).retry(None);
    // Each client begins with another address.
    for _ in 0..3 {
        let client = Client::new(config.clone()).unwrap();
        within(2 * SECOND, client.publish(request())).await.unwrap();
    }
    let client = Client::new(config).unwrap();
    for dials in 1..4 {
        within(2 * SECOND, client.publish(request())).await.unwrap();
        // The connection is made again, and a silent address is not tried first twice.
        client.transport().disconnect();
        assert!(others.iter().all(|other| other.dials() <= 3 + dials));
    }
    assert!(others.iter().any(|other| other.dials() > 0));
}

#[tokio::test]
async fn a_pause_of_the_server_costs_no_call() {
    for over in BOTH {
        let (_server, proxy) = node(over).await;
        let retry = Retry::new().attempt_timeout(SECOND / 2);
        let client = Client::new(over.config_at(&proxy.url()).retry(retry)).unwrap();
        let calls = Callers::start(&client, 64);
        tokio::time::sleep(SECOND / 5).await;
        proxy.both(|lane| lane.stalled = true);
        tokio::time::sleep(2 * SECOND).await;
        proxy.both(|lane| lane.stalled = false);
        tokio::time::sleep(SECOND / 2).await;
        assert_none_failed(&calls.end().await, 100);
    }
}

#[tokio::test]
async fn an_attempt_without_a_successor_is_not_given_up() {
    for over in BOTH {
        let server = start().await;
        // The budget is spent.
        server.fault(match over {
            Over::Grpc => Fault::grpc_status(14, "later").times(60),
            Over::Http => Fault::http_status(503).times(60),
        });
        let retry = crate::support::quick_retry().attempt_timeout(SECOND / 5);
        let client = over.client_with(&server, retry);
        let mut said = false;
        while !said {
            said = publish(&client).await.unwrap_err().message().contains("retry budget is exhausted");
        }
        server.clear_faults();
        server.clear_calls();
        server.fault(Fault::delay(SECOND));
        publish(&client).await.unwrap();
        assert_eq!(server.calls().len(), 1);
    }
}

#[tokio::test]
async fn calls_over_http_use_a_bounded_number_of_connections() {
    let (server, proxy) = node(Over::Http).await;
    for (config, bound) in
        [(Config::http(url(Over::Http, &proxy)), 256), (Config::http(url(Over::Http, &proxy)).max_connections(4), 4)]
    {
        let (client, before) = (Client::new(config).unwrap(), proxy.dials());
        let mut calls = JoinSet::new();
        for number in 0..2000 {
            let client = client.clone();
            calls.spawn(async move { publish_number(&client, number).await });
        }
        for outcome in soon(calls.join_all()).await {
            outcome.unwrap();
        }
        // A connection that is being made goes on when another one comes free first.
        let dials = proxy.dials() - before;
        assert!(dials <= 2 * bound, "{dials} connections of {bound}");
    }
    assert_eq!(server.applied("news"), 4000);
    let error = Client::new(Config::http(server.http_url()).max_connections(0)).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.message().contains("max_connections"), "{error}");
}

#[tokio::test]
async fn a_call_that_waits_for_a_connection_until_its_deadline_was_not_sent() {
    let server = start().await;
    server.fault(Fault::hang_before().always());
    let client = Client::new(Config::http(server.http_url()).max_connections(1).retry(None)).unwrap();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.publish(request()).await }
    });
    until(|| !server.calls().is_empty()).await;
    let error = publish(&client.with_timeout(SECOND / 5)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error:?}");
    // A dropped wait takes no place in the queue.
    first.abort();
    server.clear_faults();
    publish(&client).await.unwrap();
}

#[test]
fn a_runtime_that_ends_with_calls_in_flight_leaves_no_endpoint_out() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let servers = runtime();
    let server = servers.block_on(start());
    for over in BOTH {
        let client = Client::new(over.config(&server).retry(None)).unwrap();
        for _ in 0..20 {
            let ends = runtime();
            for number in 0..32 {
                let client = client.clone();
                ends.spawn(async move { while publish_number(&client, number).await.is_ok() {} });
            }
            ends.block_on(publish(&client)).unwrap();
            ends.shutdown_background();
            servers.block_on(publish(&client)).unwrap();
            assert!(client.endpoints()[0].available);
        }
    }
    servers.block_on(async { drop(server) });
}

/// Run by the next test, in a process of its own with few file descriptors.
#[tokio::test]
#[ignore = "run by another test"]
async fn calls_with_few_descriptors() {
    let client = Client::new(Config::http(std::env::var("HTTP_API_OF_ANOTHER_PROCESS").unwrap())).unwrap();
    let mut calls = JoinSet::new();
    for caller in 0..200 {
        let client = client.clone();
        calls.spawn(async move {
            for _ in 0..5 {
                publish_number(&client, caller).await?;
            }
            Ok::<_, Error>(())
        });
    }
    for outcome in soon(calls.join_all()).await {
        outcome.unwrap();
    }
    assert!(client.endpoints()[0].available);
    // With none left at all, the error says so.
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    client.transport().disconnect();
    let error = client.with_retry(None).publish(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent));
    assert!(error.message().contains("EMFILE"), "{}", error.message());
    assert!(client.endpoints()[0].available);
    drop(files);
    publish(&client).await.unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_out_of_file_descriptors_uses_the_connections_that_it_has() {
    let server = start().await;
    let test = "transport::availability::calls_with_few_descriptors";
    let command = format!("ulimit -n 48 && exec \"$0\" --exact {test} --ignored --test-threads=1");
    let mut child = Command::new("sh");
    child.args(["-c", &command]).arg(std::env::current_exe().unwrap());
    child.env("HTTP_API_OF_ANOTHER_PROCESS", server.http_url());
    let output = tokio::task::spawn_blocking(move || child.output().unwrap());
    let output = within(60 * SECOND, output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(server.applied("news"), 1001);
}

#[tokio::test]
async fn endless_replies_share_a_bounded_memory() {
    for over in BOTH {
        let server = start().await;
        // 700 kB, of at most 1 MiB each and 4 MiB together.
        let history = |number: usize| PublishRequest::new("long", json!(format!("{number}{}", "x".repeat(7000))));
        let plain = over.client(&server);
        for number in 0..100 {
            plain.publish(history(number)).await.unwrap();
        }
        let proxy = proxy(over, &server);
        let client = Client::new(over.config_at(&proxy.url()).max_reply_size(1 << 20).retry(None)).unwrap();
        within(AT_ONCE, client.history(centrifugo_api::HistoryRequest::new("long").limit(-1))).await.unwrap();
        proxy.down(|lane| lane.rate = Some(4 << 20));
        let mut calls = JoinSet::new();
        for _ in 0..12 {
            let client = client.clone();
            calls.spawn(async move {
                let history = centrifugo_api::HistoryRequest::new("long").limit(-1);
                client.history(history).await.map(|history| history.publications.len())
            });
        }
        let outcomes = soon(calls.join_all()).await;
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).inspect(|error| {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Unknown), "{error:?}");
        });
        assert!(refused.count() > 0, "{over:?}");
        assert!(outcomes.iter().any(Result::is_ok), "{over:?}");
        proxy.heal();
        within(AT_ONCE, client.history(centrifugo_api::HistoryRequest::new("long").limit(-1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_call_is_sent_to_two_endpoints_at_most() {
    for over in BOTH {
        let nodes = [node(over).await, node(over).await];
        let client = Client::new(two(over, &nodes)).unwrap();
        for _ in 0..50 {
            publish(&client).await.unwrap();
        }
        for (server, _) in &nodes {
            server.clear_calls();
            server.fault(Fault::delay(SECOND * 2).method(centrifugo_api::Method::Channels).always());
        }
        within(AT_ONCE, client.channels(centrifugo_api::message::ChannelsRequest::new())).await.unwrap();
        let requests = nodes
            .iter()
            .flat_map(|(server, _)| server.calls())
            .filter(|call| call.method == centrifugo_api::Method::Channels);
        assert!(requests.count() <= 2);
    }
}
