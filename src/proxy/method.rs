//! The table of handlers, and the trait made of it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::proxy::caller::Caller;
#[allow(clippy::wildcard_imports, reason = "every request and every result")]
use crate::proxy::message::*;
use crate::proxy::rejection::Rejection;

/// A line is a handler: its name over gRPC, its name over HTTP, its messages, and whether the client learns of an error.
/// Elsewhere an answer without a result is taken for "expired" or ignored, so that failures have to be those of the transport.
macro_rules! for_each_handler {
    ($expand:ident) => {
        $expand! {
            /// Decides whether a client without a token may connect, and as which user
            /// ([connect proxy](https://centrifugal.dev/docs/server/proxy#connect-proxy)).
            Connect "Connect" connect(ConnectRequest) -> ConnectResult, tells_client true;
            /// Decides whether a connection goes on when it is about to expire
            /// ([refresh proxy](https://centrifugal.dev/docs/server/proxy#refresh-proxy)).
            ///
            /// The server reads no errors here: any [`Rejection`] but an internal one ends the connection, as
            /// [`expired`](RefreshResult::expired) does. After an internal one the connection goes on for 60 s.
            Refresh "Refresh" refresh(RefreshRequest) -> RefreshResult, tells_client false;
            /// Decides whether a client may subscribe to a channel
            /// ([subscribe proxy](https://centrifugal.dev/docs/server/proxy#subscribe-proxy)).
            Subscribe "Subscribe" subscribe(SubscribeRequest) -> SubscribeResult, tells_client true;
            /// Decides whether a client may publish into a channel, and what
            /// ([publish proxy](https://centrifugal.dev/docs/server/proxy#publish-proxy)).
            Publish "Publish" publish(PublishRequest) -> PublishResult, tells_client true;
            /// Responds to a call of a client ([RPC proxy](https://centrifugal.dev/docs/server/proxy#rpc-proxy)).
            Rpc "RPC" rpc(RpcRequest) -> RpcResult, tells_client true;
            /// Decides whether a subscription goes on when it is about to expire
            /// ([sub refresh proxy](https://centrifugal.dev/docs/server/proxy#sub-refresh-proxy)).
            ///
            /// As in [`refresh`](Self::refresh) any [`Rejection`] but an internal one ends the subscription.
            SubRefresh "SubRefresh" sub_refresh(SubRefreshRequest) -> SubRefreshResult, tells_client false;
            /// Decides whether a client may publish into a map, and what
            /// ([map subscriptions](https://centrifugal.dev/docs/server/map_subscriptions)).
            ///
            /// Centrifugo v6.9.1 then publishes, and still tells the client error 107, "bad request".
            MapPublish "MapPublish" map_publish(MapPublishRequest) -> MapPublishResult, tells_client true;
            /// Decides whether a client may remove a key from a map
            /// ([map subscriptions](https://centrifugal.dev/docs/server/map_subscriptions)).
            ///
            /// Centrifugo v6.9.1 then removes it, and still tells the client error 107, "bad request".
            MapRemove "MapRemove" map_remove(MapRemoveRequest) -> MapRemoveResult, tells_client true;
            /// Returns the current state of keys that clients watch, for channels that poll
            /// ([shared poll](https://centrifugal.dev/docs/server/shared_poll)).
            ///
            /// The error is logged by the server; no client learns of it.
            SharedPollRefresh "SharedPollRefresh" shared_poll_refresh(SharedPollRefreshRequest) -> SharedPollRefreshResult,
                tells_client false;
            /// Fills the empty cache of a channel. Centrifugo PRO only.
            NotifyCacheEmpty "NotifyCacheEmpty" notify_cache_empty(NotifyCacheEmptyRequest) -> NotifyCacheEmptyResult,
                tells_client false;
            /// Learns of channels that got their first subscriber or lost their last one. Centrifugo PRO only.
            NotifyChannelState "NotifyChannelState" notify_channel_state(NotifyChannelStateRequest)
                -> NotifyChannelStateResult, tells_client false;
        }
    };
}
pub(crate) use for_each_handler;

macro_rules! method_enum {
    ($($(#[$doc:meta])* $rpc:ident $grpc:literal $name:ident($request:ident) -> $result:ident, tells_client $tells:literal;)+) => {
        /// A handler that Centrifugo can call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Method {
            $(
                #[doc = concat!("See [`Proxy::", stringify!($name), "`].")]
                $rpc,
            )+
        }

        impl Method {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$rpc,)+];

            /// The name in paths over HTTP and in the server's configuration: `sub_refresh`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rpc => stringify!($name),)+ }
            }

            /// The name over gRPC: `SubRefresh`.
            #[must_use]
            pub const fn grpc_name(self) -> &'static str {
                match self { $(Self::$rpc => $grpc,)+ }
            }

            /// Whether an error in the answer reaches the client.
            pub(crate) const fn tells_client(self) -> bool {
                match self { $(Self::$rpc => $tells,)+ }
            }

            /// Whether `P` has a handler of its own for it.
            pub(crate) fn is_implemented_by<P: Proxy>(self) -> bool {
                match self { $(Self::$rpc => is_own(P::$name),)+ }
            }
        }

        /// The handlers of a backend that Centrifugo calls. Implement those that you need.
        ///
        /// A handler is an `async fn`. One that is not implemented answers "not available" (error 108) or, where no client
        /// would learn of that, fails with HTTP status 404 or gRPC status `UNIMPLEMENTED`; it is also left out of the
        /// [configuration](crate::proxy::config()).
        ///
        /// ```
        /// use centrifugo_api::proxy::{Caller, ConnectRequest, ConnectResult, Proxy, Rejection};
        /// use serde_json::json;
        ///
        /// #[derive(Clone)]
        /// struct Backend;
        ///
        /// impl Proxy for Backend {
        ///     async fn connect(&self, request: ConnectRequest, from: &Caller) -> Result<ConnectResult, Rejection> {
        ///         match from.header("cookie") {
        ///             Some("session=1") => Ok(ConnectResult::default().user("42").info(json!({"name": "Ann"}))),
        ///             _ => Err(Rejection::disconnect(4501, "please log in")?),
        ///         }
        ///     }
        /// }
        ///
        /// let service = centrifugo_api::proxy::http(Backend).key_header("x-proxy-key", "a long random key");
        /// ```
        ///
        /// A handler whose time is up, or whose connection to the server is gone, is dropped where it waits. One that panics
        /// fails as with [`Rejection::internal`], which is logged and has no effect on other calls.
        ///
        /// The experimental handlers of streams, `SubscribeUnidirectional` and `SubscribeBidirectional`, are left out.
        pub trait Proxy: Send + Sync + 'static {
            $(
                $(#[$doc])*
                fn $name(
                    &self,
                    request: $request,
                    from: &Caller,
                ) -> impl Future<Output = Result<$result, Rejection>> + Send {
                    let _ = (request, from);
                    NotEnabled(PhantomData)
                }
            )+
        }

        impl<P: Proxy> Proxy for Arc<P> {
            $(
                fn $name(
                    &self,
                    request: $request,
                    from: &Caller,
                ) -> impl Future<Output = Result<$result, Rejection>> + Send {
                    P::$name(self, request, from)
                }
            )+
        }
    };
}
for_each_handler!(method_enum);

impl Method {
    /// The handlers that `P` implements.
    pub fn implemented_by<P: Proxy>() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|method| method.is_implemented_by::<P>())
    }

    /// The handler with this name over HTTP.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }
}

/// The future of a handler that is not implemented.
///
/// It alone has no size: any other holds at least the request or the state of an `async` block. That tells, without a call, which
/// handlers a type implements.
struct NotEnabled<T>(PhantomData<fn() -> T>);

impl<T> Future for NotEnabled<T> {
    type Output = Result<T, Rejection>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(Rejection::not_enabled()))
    }
}

/// Whether a handler is not the provided one.
fn is_own<'a, P: 'a, R, F>(_: impl FnOnce(&'a P, R, &'a Caller) -> F) -> bool {
    size_of::<F>() != 0
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    struct Some;

    impl Proxy for Some {
        async fn rpc(&self, _: RpcRequest, _: &Caller) -> Result<RpcResult, Rejection> {
            Ok(RpcResult::default())
        }

        fn refresh(
            &self,
            _: RefreshRequest,
            _: &Caller,
        ) -> impl Future<Output = Result<RefreshResult, Rejection>> + Send {
            std::future::ready(Ok(RefreshResult::default()))
        }
    }

    #[test]
    fn what_is_implemented_is_known_without_a_call() {
        assert!(Method::implemented_by::<Some>().eq([Method::Refresh, Method::Rpc]));
        assert!(Method::implemented_by::<Arc<Some>>().eq([Method::Refresh, Method::Rpc]));
    }

    #[test]
    fn the_table_has_the_calls_of_the_schema() {
        let schema = include_bytes!(concat!(env!("OUT_DIR"), "/proxy_schema.bin"));
        let pool = DescriptorPool::decode(&schema[..]).unwrap();
        let service = pool.get_service_by_name("centrifugal.centrifugo.proxy.CentrifugoProxy").unwrap();
        let mut schema: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
        let mut table: Vec<_> = Method::ALL.iter().map(|method| method.grpc_name()).collect();
        schema.sort();
        table.sort_unstable();
        assert_eq!(table, schema);
    }
}
