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
//!     let request = PublishRequest::new("news", json!({"text": "hello"}));
//!     let position = client.publish(request).await?;
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
//! - [`Client`] has a method for each method of the API; [`Config`] says where the server is and how to talk to it.
//! - [`message`] has the requests and the results of all methods; [`Payload`] is what goes into their `bytes` fields.
//! - [`Batch`] sends many calls in one request, [`BroadcastRequest`] the same data to many channels.
//! - [`Publisher`] publishes at a high rate, in order: the messages of many tasks share requests. With [`Batching`] the plain
//!   calls of a client do.
//! - [`Error`] says what went wrong, and its [`Outcome`] whether the call took effect all the same.
//! - [`Retry`] says what is repeated, and how often: at most 3 attempts unless set, with idempotency keys that the client
//!   makes. [`Config::endpoint`] adds further nodes of a cluster.
//! - [`Client::close`] ends a client and tells how its calls ended.
//! - [`transport::Transport`] is how calls are sent; implement it for a fake, a recorder or a fault injector.
#![cfg_attr(feature = "token", doc = "- [`token`] issues tokens for the clients of your users.")]
#![cfg_attr(
    feature = "proxy",
    doc = "- [`proxy`] has the handlers that Centrifugo calls, and the endpoints that client SDKs call."
)]
#![cfg_attr(
    feature = "testing",
    doc = "- [`testing`] is a server to try all this on, in memory and without Centrifugo."
)]
//!
//! The [guides](guide) have what does not belong to one type: [configuration](guide::configuration),
//! [transports](guide::transports), [errors](guide::errors), [reliability](guide::reliability), [publishing](guide::publisher),
//! [tokens and handlers](guide::backend), [testing](guide::testing), the [command line](guide::cli), [server versions](guide::versions),
//! [surprises](guide::surprises), [performance](guide::performance), [migration](guide::migration).
//!
//! # Features
//!
//! | feature | default | what it brings |
//! | --- | --- | --- |
//! | `grpc` | yes | calls over gRPC, with tonic |
//! | `http` | yes | calls over HTTP, with reqwest |
//! | `tls` | yes | `https://` endpoints, with rustls |
//! | `token` | no | tokens for clients and for the server API, key sets, signatures of shared-poll channels |
//! | `token-es512` | no | `token`, and tokens with ES512 |
//! | `proxy` | no | handlers that Centrifugo calls over HTTP, and the endpoints that client SDKs call |
//! | `proxy-grpc` | no | the same handlers over gRPC, with tonic |
//! | `testing` | no | an in-memory server that stands in for Centrifugo in tests |
//! | `cli` | no | the `centrifugo-api` command |
//!
//! The default features build with Rust and the C toolchain that it links with (ring, under `tls`, compiles a little with
//! it): no protoc, no cmake, no OpenSSL.

#[cfg(not(any(feature = "grpc", feature = "http")))]
compile_error!("centrifugo-api needs a transport: turn on its feature `grpc` or `http`, or both");

pub use crate::api::batch::{Batch, BatchHandle};
pub use crate::api::message::{
    self, BroadcastRequest, BroadcastResult, ClientInfo, DisconnectRequest, HistoryRequest, HistoryResult,
    PresenceRequest, PresenceResult, Publication, PublishRequest, PublishResult, StreamPosition, SubscribeRequest,
    UnsubscribeRequest,
};
pub use crate::api::method::Method;
pub use crate::api::payload::Payload;
pub use crate::api::replies::BatchReplies;
pub use crate::batching::publisher::{Depth, Publisher, Ticket};
pub use crate::call::close::CloseSummary;
pub use crate::client::Client;
#[doc(inline)]
pub use crate::config::Config;
pub use crate::config::batching::Batching;
pub use crate::config::publisher::PublisherConfig;
pub use crate::config::retry::Retry;
pub use crate::error::{ApiError, Error, ErrorKind, Failure, Outcome};

#[macro_use]
mod example;

mod api;
mod batching;
mod call;
mod client;
pub mod config;
mod error;
#[cfg(any(doc, all(doctest, feature = "grpc", feature = "http", feature = "proxy-grpc", feature = "testing")))]
pub mod guide;
#[cfg(test)]
mod property;
#[cfg(feature = "proxy")]
#[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
pub mod proxy;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "token")]
pub mod token;
pub mod transport;
mod wire;

/// The programs of the README compile, and run but for those that need a server.
#[cfg(all(doctest, feature = "grpc", feature = "http", feature = "testing", feature = "token", feature = "proxy"))]
#[doc = include_str!("../README.md")]
struct Readme;
