//! How many messages a second does a publisher with `Order::PerChannel` send, by the number of channels and the round trip?
//!
//! The server is the crate's stand-in, or the one that `CENTRIFUGO_TEST_GRPC` and `CENTRIFUGO_TEST_API_KEY` name, behind a proxy that
//! delays what passes. Prints a table.
//!
//! `cargo bench --all-features --bench order -- [--seconds 3]`

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use centrifugo_api::config::Order;
use centrifugo_api::testing::{Namespace, Server};
use centrifugo_api::{Client, Config, PublishRequest, Publisher, PublisherConfig, Retry};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

const CHANNELS: [usize; 14] = [1, 2, 3, 4, 5, 8, 10, 15, 16, 32, 64, 256, 1000, 10_000];
/// The round trips, in milliseconds.
const ROUND_TRIPS: [u64; 4] = [0, 1, 5, 50];

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().collect();
    let is_test = args.iter().any(|arg| arg == "--test");
    let seconds = args.iter().position(|arg| arg == "--seconds").and_then(|at| args.get(at + 1)?.parse().ok());
    let time = if is_test { Duration::from_millis(20) } else { Duration::from_secs(seconds.unwrap_or(3)) };
    let server = Server::builder().namespace(Namespace::new("plain")).start().await?;
    let to = match std::env::var("CENTRIFUGO_TEST_GRPC") {
        Ok(url) => url.trim_start_matches("http://").parse()?,
        Err(_) => server.grpc_addr(),
    };
    print_line("channels", ROUND_TRIPS.map(|milliseconds| format!("{milliseconds} ms")));
    for channels in CHANNELS {
        let mut rates = Vec::new();
        for milliseconds in ROUND_TRIPS {
            let address = delayed(to, Duration::from_millis(milliseconds) / 2).await?;
            rates.push(format!("{}", rate(address, channels, time).await?));
        }
        print_line(&channels.to_string(), rates);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the table is what this is for")]
fn print_line(first: &str, others: impl IntoIterator<Item = String>) {
    let others: Vec<_> = others.into_iter().map(|other| format!("{other:>9}")).collect();
    println!("| {first:>8} | {} |", others.join(" | "));
}

/// Messages a second.
async fn rate(address: SocketAddr, channels: usize, time: Duration) -> Result<u64, Box<dyn Error>> {
    let mut config = Config::grpc(format!("http://{address}")).retry(Retry::new().idempotency_keys(false));
    if let Ok(key) = std::env::var("CENTRIFUGO_TEST_API_KEY") {
        config = config.api_key(key);
    }
    let publisher = Publisher::new(&Client::new(config)?, PublisherConfig::new().order(Order::PerChannel))?;
    let names: Vec<_> = (0..channels).map(|channel| format!("plain:order_{channel}")).collect();
    let data = Bytes::from_static(br#"{"text":"hello everybody"}"#);
    let began = Instant::now();
    for channel in names.iter().cycle() {
        if began.elapsed() >= time {
            break;
        }
        drop(publisher.enqueue(PublishRequest::new(channel.as_str(), data.clone())).await?);
    }
    // Those in the queue by now are not counted.
    let done = publisher.close(Duration::ZERO).await.done;
    Ok((u128::from(done) * 1000 / began.elapsed().as_millis().max(1)).try_into()?)
}

/// A proxy on a free port that passes everything on after this time.
async fn delayed(to: SocketAddr, delay: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(to).await else { continue };
            if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
                continue;
            }
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass(from_client, to_server, delay));
            tokio::spawn(pass(from_server, to_client, delay));
        }
    });
    Ok(address)
}

async fn pass(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    let (late, mut due) = mpsc::channel::<(Instant, Bytes)>(1024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if late.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                return;
            }
        }
    });
    while let Some((at, bytes)) = due.recv().await {
        if !delay.is_zero() {
            sleep_until(at).await;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
