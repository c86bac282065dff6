//! Nodes that get SIGTERM, and calls on their connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use centrifugo_api::{Client, Config, ErrorKind, Outcome, PublishRequest, Retry};
use prost::Message as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{KEY, Load, PUBLISHERS, Process, Sent, counted, failed, print_counts};
use crate::support::proxy::Proxy;
use crate::support::{Over, soon};

/// Ends one of two nodes under load, with this much time on the way to each.
async fn end_one_of_two(over: Over, retry: Retry, latency: Duration) -> Vec<Sent> {
    let (mut ends, stays) = (Process::start().await, Process::start().await);
    let addresses = [&ends, &stays].map(|node| if over == Over::Grpc { node.grpc } else { node.http });
    let proxies = (!latency.is_zero()).then(|| {
        addresses.map(|address| {
            let proxy = Proxy::to(address);
            proxy.both(|lane| lane.latency = latency);
            proxy
        })
    });
    let addresses = proxies.as_ref().map_or(addresses, |proxies| proxies.each_ref().map(|proxy| proxy.address()));
    let [one, other] = addresses.map(|address| format!("http://{address}"));
    let (what, repeats) = (format!("{over:?}, {latency:?} on the way, {retry:?}"), Arc::new(AtomicU64::new(0)));
    let retry = counted(retry, &repeats);
    let config: Config = match over {
        Over::Grpc => Config::grpc(one).endpoint(other).connections(2).into(),
        Over::Http => Config::http(format!("{one}/api")).endpoint(format!("{other}/api")).into(),
    };
    let client = Client::new(config.api_key(KEY).retry(retry)).unwrap();
    let load = Load::start(&client, PUBLISHERS);
    sleep(Duration::from_secs(1)).await;
    ends.signal("TERM");
    let asked = Instant::now();
    let status = soon(ends.ended()).await;
    let took = asked.elapsed();
    sleep(Duration::from_secs(1)).await;
    let all = load.stop().await;
    let repeats = repeats.load(Ordering::Relaxed);
    print_counts(&format!("SIGTERM of one of two over {what}: {status} after {took:.1?}, {repeats} repeats"), &all);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn sigterm_of_a_node_fails_no_call_over_grpc() {
    for latency in [Duration::ZERO, Duration::from_millis(20)] {
        for retry in [Retry::new(), crate::support::once()] {
            assert_eq!(failed(&end_one_of_two(Over::Grpc, retry, latency).await), [""; 0]);
        }
    }
}

/// Over HTTP the server closes idle connections without a warning, and a call may be on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn sigterm_of_a_node_fails_no_call_with_a_key_over_http() {
    for latency in [Duration::ZERO, Duration::from_millis(20)] {
        assert_eq!(failed(&end_one_of_two(Over::Http, Retry::new(), latency).await), [""; 0]);
        for sent in end_one_of_two(Over::Http, Retry::new().idempotency_keys(false), latency).await {
            if let Err(error) = sent.result {
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn the_only_node_may_restart_while_calls_wait_for_it() {
    for signal in ["TERM", "KILL"] {
        let mut server = Process::start().await;
        let repeats = Arc::new(AtomicU64::new(0));
        let retry = counted(Retry::new().wait_for_ready(true), &repeats);
        let client = Client::new(server.config(Over::Grpc).retry(retry)).unwrap();
        let load = Load::start(&client, PUBLISHERS);
        sleep(Duration::from_millis(500)).await;
        server.signal(signal);
        soon(server.ended()).await;
        sleep(Duration::from_millis(500)).await;
        let ready = server.start_again().await;
        sleep(Duration::from_secs(3)).await;
        let all = load.stop().await;
        print_counts(
            &format!("SIG{signal} and a new start, waiting, {} repeats", repeats.load(Ordering::Relaxed)),
            &all,
        );
        assert_eq!(failed(&all), [""; 0]);
        let first = all.iter().map(|sent| sent.ended).filter(|ended| *ended > ready).min().unwrap();
        println!("the first success {:.1?} after the server responded", first - ready);
        assert!(first - ready < Duration::from_secs(2));
    }
}

/// What the server does at SIGTERM with a connection and with a call on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_call_half_sent_at_sigterm_gets_its_response() {
    let mut server = Process::start().await;
    let stream = tokio::net::TcpStream::connect(server.grpc).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        http::Request::post(format!("{}/centrifugal.centrifugo.api.CentrifugoApi/Publish", server.grpc_url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("apikey {KEY}"))
            .body(())
            .unwrap()
    };
    let message = PublishRequest::new("news", json!(1)).encode_to_vec();
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let (first, last) = frame.split_at(8);
    let (response, mut body) = sender.send_request(request(), false).unwrap();
    body.send_data(Bytes::copy_from_slice(first), false).unwrap();
    sleep(Duration::from_millis(200)).await;
    server.signal("TERM");
    sleep(Duration::from_millis(200)).await;
    let asked = Instant::now();
    let next = match soon(sender.clone().ready()).await {
        Ok(mut ready) => match ready.send_request(request(), false) {
            Ok((response, _)) => match soon(response).await {
                Ok(response) => format!("gets {}", response.status()),
                Err(error) => format!("fails: {error}, GOAWAY: {}", error.is_go_away()),
            },
            Err(error) => format!("cannot be sent: {error}, GOAWAY: {}", error.is_go_away()),
        },
        Err(error) => format!("finds the connection ended: {error}, GOAWAY: {}", error.is_go_away()),
    };
    println!("after SIGTERM the next call {next}");
    println!(
        "a new connection: {:?}",
        tokio::net::TcpStream::connect(server.grpc).await.map(drop).map_err(|error| error.kind())
    );
    println!("still running: {}", server.child.try_wait().unwrap().is_none());
    body.send_data(Bytes::copy_from_slice(last), true).unwrap();
    let response = soon(response).await;
    let status = match response {
        Ok(response) => {
            let mut body = response.into_body();
            while let Some(data) = soon(body.data()).await {
                println!("the call that was half sent gets {:?}", data.unwrap());
            }
            soon(body.trailers()).await.unwrap().and_then(|trailers| trailers.get("grpc-status").cloned())
        }
        Err(error) => panic!("the call that was half sent fails: {error}"),
    };
    println!("its status is {status:?}; the connection ended with {:?}", soon(connection).await.unwrap());
    println!("the server ended with {} after {:.1?}", soon(server.ended()).await, asked.elapsed());
    println!("{}", server.log());
    assert_eq!(status.unwrap(), "0");
}

/// The same over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the server's binary"]
async fn a_post_half_sent_at_sigterm_gets_its_response() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut server = Process::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let mut idle = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let post = |body: &str| {
        let length = body.len();
        let head = format!("POST /api/publish HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n");
        format!("{head}content-length: {length}\r\n\r\n{body}")
    };
    let body = r#"{"channel":"news","data":1}"#;
    idle.write_all(post(body).as_bytes()).await.unwrap();
    assert!(soon(idle.read(&mut [0; 4096])).await.unwrap() > 0);
    let request = post(body);
    let (first, last) = request.split_at(request.len() - 5);
    stream.write_all(first.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    server.signal("TERM");
    let asked = Instant::now();
    assert_eq!(soon(idle.read(&mut [0; 4096])).await.unwrap(), 0);
    println!("after SIGTERM an idle connection is closed within {:.1?}", asked.elapsed());
    sleep(Duration::from_millis(200)).await;
    println!("still running: {}", server.child.try_wait().unwrap().is_none());
    stream.write_all(last.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon(stream.read_to_string(&mut response)).await.unwrap();
    println!("the POST that was half sent gets {response:?}");
    println!("the server ended with {} after {:.1?}", soon(server.ended()).await, asked.elapsed());
    assert!(response.starts_with("HTTP/1.1 200 OK"));
}
