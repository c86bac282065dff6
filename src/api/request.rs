//! What makes a message a request: its method, its result, its constructor, and its checks.

pub(crate) mod check;
mod encode;
pub(crate) mod hooks;

use std::borrow::Borrow;

use bytes::Bytes;

use crate::api::broadcast::{self, BroadcastResult};
use crate::api::message;
use crate::api::method::Method;
use crate::api::methods::for_each_method;
use crate::api::payload::Payload;
use crate::api::request::check::Problem;
use crate::api::request::hooks::{FailedPart, Hooks};
use crate::error::Error;
use crate::wire::body::{Body, BodySize, Message, message_to_json, sealed::Sealed};
use crate::wire::json::Value as _;

/// A request of the server API, for [`Client::call`](crate::Client::call) and [`Batch::push`](crate::Batch::push).
///
/// The requests of all methods implement it, and nothing else can.
pub trait Request: Message + Hooks<<Self as Request>::Result> {
    /// The method it calls.
    const METHOD: Method;

    /// The method's result.
    type Result: Message;

    /// Whether it may take effect twice: whether an attempt whose outcome is unknown can be repeated without harm.
    ///
    /// Reads can be repeated; a publish can with an idempotency key, which servers have from version 5.2 on, for 5 minutes.
    fn is_repeatable(&self) -> bool;
}

/// What a call takes: a request, a reference to one, or only a channel's name, if the request needs nothing else.
///
#[doc = example!()]
/// let request = PresenceRequest::new("news");
/// client.presence(&request).await?;
/// client.presence(request).await?;
/// client.presence("news").await?;
#[doc = end_of_example!()]
pub trait IntoRequest<R: Request> {
    /// The request, or a reference to it.
    fn into_request(self) -> impl Borrow<R> + Send + Sync;
}

impl<R: Request> IntoRequest<R> for R {
    fn into_request(self) -> impl Borrow<R> + Send + Sync {
        self
    }
}

impl<R: Request> IntoRequest<R> for &R {
    fn into_request(self) -> impl Borrow<R> + Send + Sync {
        self
    }
}

macro_rules! requests {
    ($($(#[$group:meta])* impl { $(
        $(#[$doc:meta])*
        $rpc:ident => $name:ident($request:ident { $($field:ident: $type:ident),* }) -> $reply:ident,
            repeat $repeat:ident $($key:ident)? $(, check $check:ident)?;
    )+ })+) => { $($(
        impl Sealed for message::$request {}
        requests! { @reply $reply }

        impl Request for message::$request {
            const METHOD: Method = Method::$rpc;
            type Result = message::$reply;

            fn is_repeatable(&self) -> bool {
                requests!(@repeat self $repeat $($key)?)
            }
        }

        impl Hooks<message::$reply> for message::$request {
            const KEYED: bool = requests!(@keyed $repeat);

            fn check(&self) -> Result<(), Problem> {
                $(check::$check(self)?;)?
                Ok(())
            }

            fn takes_key(&self) -> bool {
                requests!(@takes_key self $request)
            }

            fn expected_results(&self) -> usize {
                requests!(@expected self $request)
            }

            fn channels(&self) -> &[String] {
                requests!(@channels self $($field)*)
            }

            requests! { @parts $request }
        }

        requests! { @new $request { $($field: $type),* } }
        requests! { @of_channel $request { $($field: $type),* } }
    )+)+ };

    (@reply BroadcastResult) => {
        impl Sealed for message::BroadcastResult {
            fn results(&self) -> Option<usize> {
                let complete = self.responses.iter().all(|response| match &response.error {
                    Some(error) => error.code != 0,
                    None => response.result.is_some(),
                });
                complete.then_some(self.responses.len())
            }

            fn withdraw_refusals(&mut self) {
                broadcast::withdraw_refusals(self);
            }

            fn name_failed(&mut self, channels: &[String]) {
                self.name_failed(channels);
            }
        }
    };
    (@reply $reply:ident) => { impl Sealed for message::$reply {} };
    (@expected $self:ident BroadcastRequest) => { $self.channels.len() };
    (@expected $self:ident $request:ident) => { 1 };

    (@channels $self:ident channel $($rest:ident)*) => { std::slice::from_ref(&$self.channel) };
    (@takes_key $self:ident BroadcastRequest) => {
        // The server publishes once for a key and a channel, and a channel may be meant more than once.
        Self::KEYED && !$self.is_repeatable() && !broadcast::repeats_a_channel($self)
    };
    (@takes_key $self:ident $request:ident) => { Self::KEYED && !$self.is_repeatable() };

    (@channels $self:ident channels $($rest:ident)*) => { &$self.channels };
    (@channels $self:ident $($rest:ident)*) => { &[] };

    (@parts PublishRequest) => {
        fn write(&self, out: &mut Vec<u8>) {
            encode::publish(self, out);
        }
    };
    (@parts BroadcastRequest) => {
        fn write(&self, out: &mut Vec<u8>) {
            encode::broadcast(self, out);
        }

        fn split(&self, error: Error) -> Result<Vec<Self>, Error> {
            broadcast::split(self, error)
        }

        fn append_part(whole: &mut BroadcastResult, part: &Self, result: Result<BroadcastResult, Error>) {
            broadcast::append_part(whole, part, result);
        }

        fn failed_part(&self, result: &BroadcastResult, repeatable: bool) -> Option<FailedPart<Self>> {
            broadcast::failed_part(self, result, repeatable)
        }

        fn merge_retry(whole: &mut BroadcastResult, indices: &[usize], result: Result<BroadcastResult, Error>) {
            broadcast::merge_retry(whole, indices, result);
        }
    };
    (@parts $request:ident) => {};

    (@keyed keyed) => { true };
    (@keyed $other:ident) => { false };
    (@repeat $self:ident keyed $key:ident) => { !$self.$key.is_unset() };
    (@repeat $self:ident always) => { true };
    (@repeat $self:ident never) => { false };
    (@repeat $self:ident with $key:ident) => { !$self.$key.is_unset() };

    (@new $request:ident {}) => {
        impl message::$request {
            /// A request for all there is; the setters narrow it.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }
        }
    };
    (@new $request:ident { $($field:ident: $type:ident),+ }) => {
        impl message::$request {
            /// A request with what the server requires; the setters give the rest.
            pub fn new($($field: requests!(@take $type)),+) -> Self {
                Self::default()$(.$field($field))+
            }
        }
    };

    (@of_channel $request:ident { channel: String }) => {
        impl IntoRequest<message::$request> for &str {
            fn into_request(self) -> impl Borrow<message::$request> + Send + Sync {
                message::$request::new(self)
            }
        }

        impl IntoRequest<message::$request> for &String {
            fn into_request(self) -> impl Borrow<message::$request> + Send + Sync {
                message::$request::new(self)
            }
        }
    };
    (@of_channel $request:ident { $($field:ident: $type:ident),* }) => {};

    (@take String) => { impl Into<String> };
    (@take Payload) => { impl Into<Payload> };
    (@take Strings) => { impl IntoIterator<Item = impl Into<String>> };
    (@take u64) => { u64 };
    (@take $message:ident) => { message::$message };
}

for_each_method!(requests);

impl<T: Request> Body for T {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let mut request = Vec::with_capacity(self.encoded_len());
        self.write(&mut request);
        Ok(request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        message_to_json(self).map(Bytes::from)
    }

    fn size(&self) -> BodySize {
        BodySize { bytes: self.encoded_len(), channels: self.channels().len() }
    }
}
