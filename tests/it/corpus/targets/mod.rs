//! What the fuzzer runs, and the tests over the corpus: each target takes any bytes and panics when something is wrong.

mod differential;
mod exchange;
mod grpc;
mod handlers;
mod http;
mod replies;
#[cfg(feature = "token")]
mod tokens;

use std::future::Future;

use centrifugo_api::{ApiError, Error};

type Target = fn(&[u8]);

/// The targets by name.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("reply_protobuf", replies::protobuf),
    ("reply_json", replies::json),
    ("grpc_exchange", grpc::exchange),
    ("http_exchange", http::exchange),
    ("error_details", exchange::error_details),
    ("differential", differential::run),
    ("proxy_calls", handlers::calls),
    #[cfg(feature = "token")]
    ("token", tokens::run),
];

/// The list of requests, for a macro that does something with each.
macro_rules! for_each_request {
    ($visit:ident) => {
        $visit! {
            PublishRequest BroadcastRequest SubscribeRequest UnsubscribeRequest DisconnectRequest RefreshRequest
            ConnectionsRequest PresenceRequest PresenceStatsRequest HistoryRequest HistoryRemoveRequest InfoRequest
            ChannelsRequest RpcRequest MapPublishRequest MapRemoveRequest MapReadStateRequest MapReadStreamRequest
            MapStatsRequest MapClearRequest SharedPollPublishRequest UpdateUserStatusRequest GetUserStatusRequest
            DeleteUserStatusRequest BlockUserRequest UnblockUserRequest RevokeTokenRequest InvalidateUserTokensRequest
            DeviceRegisterRequest DeviceUpdateRequest DeviceRemoveRequest DeviceListRequest DeviceTopicListRequest
            DeviceTopicUpdateRequest UserTopicListRequest UserTopicUpdateRequest SendPushNotificationRequest
            UpdatePushStatusRequest CancelPushRequest
        }
    };
}
use for_each_request;

/// The bytes of a run, taken apart from the front. Past the end there are only zeroes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes of length, the higher first, and as many bytes, or all that are left.
    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A few of something, until the input ends.
    fn several<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.byte() % 8).map_while(|_| (!self.0.is_empty()).then(|| one(self))).collect()
    }

    fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[usize::from(self.byte()) % these.len()]
    }
}

/// Runs a call over a transport of a closure, which never waits.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    thread_local! {
        /// The client wants one around it.
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    }
    RUNTIME.with(|runtime| runtime.block_on(call))
}

/// Whether the server refused the call with a code that says that nothing was applied.
fn is_refusal(error: &ApiError) -> bool {
    [102, 104, 107, 108, 111, 112, 113].contains(&error.code)
}

/// Looks at an error as a program would.
fn show(error: &Error) -> String {
    format!("{error} {error:?} {} {} {}", error.message(), error.advice(), error.is_transient())
}
