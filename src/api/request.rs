//! What makes a message a request: its method, its result, its constructor, and the checks before it is sent.

use bytes::Bytes;

use crate::api::method::Method;
use crate::api::methods::for_each_method;
use crate::api::payload::Payload;
use crate::api::{broadcast, message};
use crate::error::{ApiError, Error};
use crate::wire::body::{Body, Message, message_to_json, sealed::Sealed};
use crate::wire::json::Value as _;

/// A request of the server API, for [`Client::call`](crate::Client::call) and [`Batch::push`](crate::Batch::push).
///
/// The requests of all methods implement it, and nothing else can.
pub trait Request: Message {
    /// The method it calls.
    const METHOD: Method;

    /// What the server answers.
    type Reply: Message;

    /// Whether sending it again, after an attempt that may have been carried out, can do no harm.
    ///
    /// Reads can be repeated; a publish can with an idempotency key, which servers know from version 5.2 on and keep for
    /// 5 minutes.
    fn is_repeatable(&self) -> bool;

    /// Whether the client makes it repeatable with an idempotency key of its own.
    #[doc(hidden)]
    const KEYED: bool;

    #[doc(hidden)]
    fn check(&self) -> Result<(), Problem>;

    /// Appends its protobuf form, as `encode_raw` does.
    #[doc(hidden)]
    fn write(&self, out: &mut Vec<u8>) {
        self.encode_raw(out);
    }

    /// How many answers it asks for: one for each channel of a broadcast.
    #[doc(hidden)]
    fn answers(&self) -> usize;

    /// The channels that it names.
    #[doc(hidden)]
    fn channels(&self) -> &[String];

    /// Whether such a key would leave the result as it is.
    #[doc(hidden)]
    fn takes_key(&self) -> bool {
        Self::KEYED && !self.is_repeatable()
    }

    /// The requests that it goes in after it has ended with this error, the last first; or the error, if it cannot be
    /// divided or that would not help.
    #[doc(hidden)]
    fn divide(&self, error: Error) -> Result<Vec<Self>, Error> {
        Err(error)
    }

    /// Adds what became of such a part to what became of those before it.
    #[doc(hidden)]
    fn append(_reply: &mut Self::Reply, _part: &Self, _answer: Result<Self::Reply, Error>) {}

    /// What of the request failed and may be tried again, if the rest did not fail.
    #[doc(hidden)]
    fn failed_part(&self, _reply: &Self::Reply, _repeatable: bool) -> Option<Part<Self>> {
        None
    }

    /// Puts what became of that part in its places.
    #[doc(hidden)]
    fn join(_reply: &mut Self::Reply, _places: &[usize], _answer: Result<Self::Reply, Error>) {}
}

/// A part of a request, and the places of its answers in the whole.
#[derive(Debug)]
pub struct Part<R> {
    pub(crate) request: R,
    pub(crate) places: Vec<usize>,
    /// Why it is tried again.
    pub(crate) error: ApiError,
}

/// A request, or a reference to one, so that a call can take either.
pub trait AsRequest {
    /// The request.
    type Request: Request;

    /// A reference to it.
    fn as_request(&self) -> &Self::Request;
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
            type Reply = message::$reply;
            const KEYED: bool = requests!(@keyed $repeat);

            fn is_repeatable(&self) -> bool {
                requests!(@repeat self $repeat $($key)?)
            }

            fn check(&self) -> Result<(), Problem> {
                $(check::$check(self)?;)?
                Ok(())
            }

            fn answers(&self) -> usize {
                requests!(@answers self $request)
            }

            fn channels(&self) -> &[String] {
                requests!(@channels self $($field)*)
            }

            requests! { @parts $request }
        }

        impl AsRequest for message::$request {
            type Request = Self;
            fn as_request(&self) -> &Self {
                self
            }
        }

        impl AsRequest for &message::$request {
            type Request = message::$request;
            fn as_request(&self) -> &message::$request {
                self
            }
        }

        requests! { @new $request { $($field: $type),* } }
    )+)+ };

    (@reply BroadcastResult) => {
        impl Sealed for message::BroadcastResult {
            fn answers(&self) -> Option<usize> {
                let complete = self.responses.iter().all(|response| match &response.error {
                    Some(error) => error.code != 0,
                    None => response.result.is_some(),
                });
                complete.then_some(self.responses.len())
            }

            fn doubt(&mut self) {
                broadcast::doubt(self);
            }
        }
    };
    (@reply $reply:ident) => { impl Sealed for message::$reply {} };
    (@answers $self:ident BroadcastRequest) => { $self.channels.len() };
    (@answers $self:ident $request:ident) => { 1 };

    (@channels $self:ident channel $($rest:ident)*) => { std::slice::from_ref(&$self.channel) };
    (@channels $self:ident channels $($rest:ident)*) => { &$self.channels };
    (@channels $self:ident $($rest:ident)*) => { &[] };

    (@parts PublishRequest) => {
        fn write(&self, out: &mut Vec<u8>) {
            write::publish(self, out);
        }
    };
    (@parts BroadcastRequest) => {
        fn write(&self, out: &mut Vec<u8>) {
            write::broadcast(self, out);
        }

        fn takes_key(&self) -> bool {
            // The server publishes once for a key and a channel, and a channel may be meant more than once.
            Self::KEYED && !self.is_repeatable() && !broadcast::repeats_a_channel(self)
        }

        fn divide(&self, error: Error) -> Result<Vec<Self>, Error> {
            broadcast::divide(self, error)
        }

        fn append(reply: &mut Self::Reply, part: &Self, answer: Result<Self::Reply, Error>) {
            broadcast::append(reply, part, answer);
        }

        fn failed_part(&self, reply: &Self::Reply, repeatable: bool) -> Option<Part<Self>> {
            broadcast::failed_part(self, reply, repeatable)
        }

        fn join(reply: &mut Self::Reply, places: &[usize], answer: Result<Self::Reply, Error>) {
            broadcast::join(reply, places, answer);
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

    (@take String) => { impl Into<String> };
    (@take Payload) => { impl Into<Payload> };
    (@take Strings) => { impl IntoIterator<Item = impl Into<String>> };
    (@take u64) => { u64 };
    (@take $message:ident) => { impl Into<message::$message> };
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
}

/// Why a request is not sent.
#[derive(Clone, Debug)]
pub enum Problem {
    /// The server would answer as if it were broken.
    Invalid(&'static str),
    /// Only Centrifugo PRO does what the field says; the open-source server ignores the field.
    ProOnly(&'static str),
}

impl Problem {
    /// The error it is, for a server that is `pro` or is not.
    pub(crate) fn error(&self, pro: bool) -> Result<(), Error> {
        match self {
            Self::Invalid(text) => Err(Error::invalid(*text)),
            Self::ProOnly(_) if pro => Ok(()),
            Self::ProOnly(field) => Err(Error::invalid(format!(
                "`{field}` is for Centrifugo PRO: an open-source server ignores it and acts on all connections of the \
                 user; if the server is PRO, say so with `Config::pro`"
            ))),
        }
    }
}

/// The protobuf form of the requests that are made most. prost appends a clone of `Bytes`, and the first clone of those that
/// were a `Vec` is an allocation.
mod write {
    use prost::encoding::{bool, btree_map, string, uint64};

    use crate::api::message::{BroadcastRequest, PublishRequest};
    use crate::wire::open_field;

    /// Appends fields in the order of their numbers, those without a value left out.
    macro_rules! write {
        ($out:ident $type:ident $request:ident $($number:literal $field:ident $kind:ident,)*) => {
            // Every field, so that a new one is not forgotten.
            let $type { $($field),* } = $request;
            $(write!(@$kind $out $number $field);)*
        };
        (@string $out:ident $number:literal $field:ident) => {
            if !$field.is_empty() {
                bytes($number, $field.as_bytes(), $out);
            }
        };
        (@strings $out:ident $number:literal $field:ident) => {
            for value in $field {
                bytes($number, value.as_bytes(), $out);
            }
        };
        (@bytes $out:ident $number:literal $field:ident) => {
            if !$field.is_empty() {
                bytes($number, $field, $out);
            }
        };
        (@bool $out:ident $number:literal $field:ident) => {
            if *$field {
                bool::encode($number, $field, $out);
            }
        };
        (@uint64 $out:ident $number:literal $field:ident) => {
            if *$field != 0 {
                uint64::encode($number, $field, $out);
            }
        };
        (@map $out:ident $number:literal $field:ident) => {
            if !$field.is_empty() {
                let (encode, len) = (string::encode, string::encoded_len);
                btree_map::encode(encode, len, encode, len, $number, $field, $out);
            }
        };
    }

    fn bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
        open_field(number, bytes.len(), out);
        out.extend_from_slice(bytes);
    }

    pub(super) fn publish(request: &PublishRequest, out: &mut Vec<u8>) {
        write! { out PublishRequest request
            1 channel string, 2 data bytes, 3 b64data string, 4 skip_history bool, 5 tags map, 6 idempotency_key string,
            7 delta bool, 8 version uint64, 9 version_epoch string,
        }
    }

    pub(super) fn broadcast(request: &BroadcastRequest, out: &mut Vec<u8>) {
        write! { out BroadcastRequest request
            1 channels strings, 2 data bytes, 3 b64data string, 4 skip_history bool, 5 tags map, 6 idempotency_key string,
            7 delta bool, 8 version uint64, 9 version_epoch string,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::api::payload::Payload;
        use crate::api::request::Request;

        #[test]
        fn what_is_written_is_what_prost_writes() {
            fn check<R: Request>(request: &R) {
                let mut written = Vec::new();
                request.write(&mut written);
                assert_eq!(written, request.encode_to_vec());
            }
            let data = || Payload::binary(vec![b'1'; 300]);
            let publish = PublishRequest::new("a", data()).b64data("b").tags([("c", "d"), ("", "")]);
            let publish = publish.skip_history(true).idempotency_key("e").delta(true).version(300).version_epoch("f");
            check(&publish);
            check(&PublishRequest::default());
            let broadcast = BroadcastRequest::new(["a", "", "b"], data()).b64data("b").tags([("c", "d"), ("", "")]);
            let broadcast = broadcast.skip_history(true).idempotency_key("e").delta(true).version(300);
            check(&broadcast.version_epoch("f"));
            check(&BroadcastRequest::default());
        }
    }
}

/// What is wrong with a request and can be told before it is sent.
mod check {
    use super::Problem;
    use crate::api::message::{
        DisconnectRequest, HistoryRequest, RefreshRequest, SubscribeRequest, UnsubscribeRequest,
    };

    /// The fields that only PRO looks at. Ignored, they widen what a call does.
    macro_rules! pro_fields {
        ($($name:ident $request:ident;)*) => { $(
            pub(super) fn $name(request: &$request) -> Result<(), Problem> {
                if request.label_filter.is_some() {
                    Err(Problem::ProOnly("label_filter"))
                } else if request.all_users {
                    Err(Problem::ProOnly("all_users"))
                } else {
                    Ok(())
                }
            }
        )* };
    }
    pro_fields! {
        subscribe SubscribeRequest;
        unsubscribe UnsubscribeRequest;
        disconnect DisconnectRequest;
        refresh RefreshRequest;
    }

    pub(super) fn history(request: &HistoryRequest) -> Result<(), Problem> {
        match &request.since {
            Some(since) if request.reverse && since.offset == 0 => Err(Problem::Invalid(
                "`reverse` needs a `since` with an offset above 0, or no `since` at all: before offset 0 there is nothing, \
                 and the server answers such a request with error 100",
            )),
            _ => Ok(()),
        }
    }
}
