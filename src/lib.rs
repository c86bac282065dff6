#![cfg_attr(docsrs, feature(doc_cfg))]
//! A client for the server API of [Centrifugo](https://centrifugal.dev), the real-time messaging server, over gRPC and
//! over HTTP.
//!
//! A backend uses it to publish into channels, to read their history and presence, and to manage the connections of its
//! users: every method of the [server API](https://centrifugal.dev/docs/server/server_api) is here. The same request goes
//! over either transport and comes back with the same result or the same error.
//!
//! ```no_run
//! use centrifugo_api::{Client, Config, HistoryRequest, PublishRequest};
//! use serde_json::{Value, json};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), centrifugo_api::Error> {
//!     let client = Client::new(Config::grpc("http://localhost:10000").api_key("my key"))?;
//!     // or: Client::new(Config::http("http://localhost:8000/api").api_key("my key"))?
//!
//!     let position = client.publish(PublishRequest::new("news", json!({ "text": "hello" }))).await?;
//!     println!("offset {} of epoch {}", position.offset, position.epoch);
//!
//!     let history = client.history(HistoryRequest::new("news").limit(10)).await?;
//!     for publication in history.publications {
//!         println!("{}: {}", publication.offset, publication.json::<Value>()?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Where to find what
//!
//! - [`Client`] has a method for each of the API's; `Config` says where the server is and how to talk to it, `Tls` how
//!   to check its certificate.
//! - [`message`] has the requests and the results; [`Payload`] is what goes into their `bytes` fields.
//! - [`Batch`] carries many calls in one request, [`BroadcastRequest`] the same data to many channels.
//! - [`Publisher`] publishes at a high rate, in order: the messages of many tasks share requests. With [`Batching`] the plain
//!   calls of a client do.
//! - [`Error`] says what went wrong, and its [`Outcome`] whether the call was carried out all the same; [`ErrorKind`] has
//!   the table of what each transport's failures mean.
//! - [`Retry`] says what is repeated, and how often: at most 3 attempts unless set, with idempotency keys that the client
//!   makes. `Config::endpoint` adds further nodes of a cluster, `Config::fallback` HTTP for when gRPC is down.
//! - [`Client::close`] ends a client and says how its last calls ended.
//! - [`Transport`] is how calls travel; implement it for a fake, a recorder or a fault injector.
#![cfg_attr(
    feature = "testing",
    doc = "- [`testing`] is a server to try all this on, in memory and without Centrifugo."
)]
//!
//! # Features
//!
//! | feature | default | what it brings |
//! | --- | --- | --- |
//! | `grpc` | yes | calls over gRPC, with tonic |
//! | `http` | yes | calls over HTTP, with reqwest |
//! | `tls` | yes | `https://` endpoints, with rustls |
//! | `testing` | no | an in-memory server that stands in for Centrifugo in tests |
//! | `cli` | no | the `centrifugo-api` command |
//!
//! The default features build with Rust and the C toolchain that it links with (ring, under `tls`, compiles a little with
//! it): no protoc, no cmake, no OpenSSL.

pub use batch::{Batch, BatchHandle, BatchReplies};
pub use batching::{Batching, Order};
pub use client::Client;
pub use close::CloseSummary;
#[cfg(any(feature = "grpc", feature = "http"))]
pub use config::Config;
pub use error::{ApiError, Error, ErrorKind, Outcome};
pub use message::*;
pub use methods::Method;
pub use payload::Payload;
pub use publisher::{Publisher, PublisherConfig, Ticket};
pub use request::{AsRequest, Message, Request};
pub use retry::{Retry, RetryEvent};
#[cfg(any(feature = "grpc", feature = "http"))]
pub use transport::balancer::{EndpointStatus, LoadBalancing};
#[cfg(any(feature = "grpc", feature = "http"))]
pub use transport::breaker::BreakerState;
#[cfg(all(feature = "tls", any(feature = "grpc", feature = "http")))]
pub use transport::tls::Tls;
pub use transport::{BoxFuture, Call, Reply, Transport, from_fn};

mod attempts;
mod batch;
mod batching;
mod broadcast;
mod client;
mod close;
#[cfg(any(feature = "grpc", feature = "http"))]
mod config;
mod error;
mod idempotency;
pub mod message;
mod methods;
mod payload;
#[cfg(test)]
mod property;
mod publisher;
mod request;
mod retry;
mod split;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod wire;

/// The programs of the README and of the other pages compile.
#[cfg(all(doctest, feature = "grpc", feature = "http", feature = "testing"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/migration.md")]
    struct Migration;
}
