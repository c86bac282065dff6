//! Client for the server API of [Centrifugo](https://centrifugal.dev), the real-time messaging server, over gRPC and HTTP.

pub use batch::{Batch, BatchReplies, Handle};
pub use client::Client;
#[cfg(any(feature = "grpc", feature = "http"))]
pub use config::Config;
pub use error::{ApiError, Error, ErrorKind};
pub use message::*;
pub use methods::Method;
pub use payload::Payload;
pub use request::{AsRequest, Message, Request};
#[cfg(feature = "tls")]
pub use transport::tls::Tls;
pub use transport::{BoxFuture, Call, Reply, Transport, from_fn};

mod batch;
mod client;
#[cfg(any(feature = "grpc", feature = "http"))]
mod config;
mod error;
pub mod message;
mod methods;
mod payload;
mod request;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod wire;
