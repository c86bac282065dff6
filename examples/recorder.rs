//! A transport that records every call and its reply, around the built-in route over gRPC: deadline, retries, endpoints and
//! close are those of the configuration.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::testing::{Fault, Server};
use centrifugo_api::transport::{BoxFuture, Call, Reply, Route, Transport};
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome, PublishRequest, PublishResult};
use serde_json::json;

/// The method of each attempt, and the offset or the error that it ended with.
type Log = Arc<Mutex<Vec<(String, Result<u64, ErrorKind>)>>>;

#[derive(Debug)]
struct Recorder {
    inner: Route,
    log: Log,
}

impl Transport for Recorder {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            let sent = self.inner.send(call).await;
            let result = match &sent {
                Ok(reply) => reply.decode::<PublishResult>().map(|result| result.offset).map_err(|error| error.kind()),
                Err(error) => Err(error.kind()),
            };
            self.log.lock().expect("no panic while it is locked").push((call.method().to_owned(), result));
            sent
        })
    }

    fn inner(&self) -> Option<&dyn Transport> {
        Some(&self.inner)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start().await?;
    let config = Config::grpc(server.grpc_url()).timeout(Duration::from_millis(500));
    let log = Log::default();
    let recorder = Recorder { inner: config.transport()?, log: Arc::clone(&log) };
    let client = Client::with_transport(recorder).with_config(&config)?;
    let request = PublishRequest::new("news", json!({"text": "hello"}));

    // The retries are the configuration's: the first response is lost, and the call is repeated.
    server.fault(Fault::cut_after());
    client.publish(&request).await?;
    let attempts = log.lock().expect("no panic while it is locked").clone();
    assert_eq!(attempts, [("publish".to_owned(), Err(ErrorKind::Lost)), ("publish".to_owned(), Ok(1))]);

    // So is the deadline,
    server.fault(Fault::hang_after().always());
    let error = client.publish(&request).await.expect_err("nobody responds");
    assert!(error.is_timeout() && error.outcome() == Outcome::Unknown, "{error}");

    // and the status.
    assert_eq!(client.endpoints().len(), 1);
    Ok(())
}
