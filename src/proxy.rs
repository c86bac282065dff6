//! Handlers that Centrifugo calls, over HTTP and over gRPC, and the endpoints that client SDKs call.
//!
//! Centrifugo asks a backend whether a client may connect, subscribe or publish
//! ([event proxy](https://centrifugal.dev/docs/server/proxy)). Implement [`Proxy`], and serve it with [`http()`], or with `grpc`
//! (feature `proxy-grpc`): the handlers are the same. [`config()`] prints the server's configuration for them. [`endpoint`] has
//! the services from which client SDKs fetch tokens and signatures.
//!
//! Data is JSON, embedded as it is, in both directions. Where the server is told `binary_encoding`, it is any bytes: a request's
//! `data` is decoded already, and what is not JSON goes back in base64.

mod answer;
mod body;
mod caller;
mod config;
pub(crate) mod dispatch;
pub mod endpoint;
#[cfg(feature = "proxy-grpc")]
mod grpc;
mod http;
pub mod message;
mod method;
mod rejection;

#[cfg(feature = "testing")]
pub(crate) use answer::Answer;
pub use body::Body;
pub use caller::Caller;
pub use config::{ServerConfig, config};
#[cfg(feature = "proxy-grpc")]
pub use grpc::{Grpc, grpc};
pub use http::{Http, http};
#[doc(inline)]
pub use message::{
    ConnectRequest, ConnectResult, MapPublishRequest, MapPublishResult, MapRemoveRequest, MapRemoveResult,
    NotifyCacheEmptyRequest, NotifyCacheEmptyResult, NotifyChannelStateRequest, NotifyChannelStateResult,
    PublishRequest, PublishResult, RefreshRequest, RefreshResult, RpcRequest, RpcResult, SharedPollRefreshRequest,
    SharedPollRefreshResult, SubRefreshRequest, SubRefreshResult, SubscribeOptions, SubscribeRequest, SubscribeResult,
};
pub use method::{Method, Proxy};
pub use rejection::Rejection;
