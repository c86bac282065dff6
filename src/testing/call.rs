//! A call of any method over any transport: decodes the request, executes it and encodes the result.

use std::fmt;

use bytes::Bytes;
use serde_json::{Value, json};

use super::methods::{Api, Serve, bad_request, not_found};
use super::payloads::{NotJson, Payloads};
use super::protobuf;
use crate::api::message;
use crate::api::method::Method;
use crate::api::methods::for_each_method;
use crate::api::request::Request;
use crate::error::ApiError;
use crate::wire::body::Message;

/// The form in which requests are decoded.
pub(super) trait Format {
    type Error;

    fn read<R: Request>(&self, body: &[u8]) -> Result<R, Self::Error>;
    fn read_batch(&self, body: &[u8]) -> Result<Batch, Self::Error>;
}

/// The request of one method.
pub(super) trait One: Send + Sync {
    fn method(&self) -> Method;
    fn request(&self) -> Value;
    fn run(&self, api: &Api) -> Result<Box<dyn Answer>, ApiError>;
}

impl<R: Serve> One for R
where
    R::Result: Payloads,
{
    fn method(&self) -> Method {
        R::METHOD
    }

    fn request(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn run(&self, api: &Api) -> Result<Box<dyn Answer>, ApiError> {
        Ok(Box::new(self.serve(api)?))
    }
}

/// The result of one method.
pub(super) trait Answer: Send {
    fn json(&self) -> Result<Vec<u8>, NotJson>;
    fn protobuf(&self) -> Vec<u8>;
}

impl<T: Message + Payloads> Answer for T {
    fn json(&self) -> Result<Vec<u8>, NotJson> {
        super::payloads::write(self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// A request of any method.
pub(super) enum Call {
    One(Box<dyn One>),
    Batch(Batch),
}

/// A batch of commands.
pub(super) struct Batch {
    pub(super) commands: Vec<Command>,
    pub(super) parallel: bool,
}

/// One command of a batch.
pub(super) enum Command {
    /// JSON's `null`.
    Null,
    /// No method is set.
    Nothing,
    One(Box<dyn One>),
}

macro_rules! read_one {
    ($($(#[$group:meta])* impl { $(
        $(#[$doc:meta])*
        $rpc:ident => $name:ident($request:ident { $($field:ident: $type:ty),* }) -> $reply:ident,
            repeat $repeat:ident $($key:ident)? $(, check $check:ident)?;
    )+ })+) => {
        /// Decodes a request of this method; `None` for a batch.
        fn read_one<F: Format>(format: &F, method: Method, body: &[u8]) -> Result<Option<Box<dyn One>>, F::Error> {
            Ok(match method {
                $($(Method::$rpc => Some(Box::new(format.read::<message::$request>(body)?)),)+)+
                Method::Batch => None,
            })
        }
    };
}
for_each_method!(read_one);

impl Call {
    pub(super) fn read<F: Format>(format: &F, method: Method, body: &[u8]) -> Result<Self, F::Error> {
        Ok(match read_one(format, method, body)? {
            Some(one) => Self::One(one),
            None => Self::Batch(format.read_batch(body)?),
        })
    }

    pub(super) fn method(&self) -> Method {
        match self {
            Self::One(one) => one.method(),
            Self::Batch(_) => Method::Batch,
        }
    }

    /// The request as JSON.
    pub(super) fn request(&self) -> Value {
        match self {
            Self::One(one) => one.request(),
            Self::Batch(batch) => {
                let commands: Vec<Value> = batch
                    .commands
                    .iter()
                    .map(|command| match command {
                        Command::Null => Value::Null,
                        Command::Nothing => json!({}),
                        Command::One(one) => json!({ one.method().name(): one.request() }),
                    })
                    .collect();
                if batch.parallel {
                    json!({"commands": commands, "parallel": true})
                } else {
                    json!({"commands": commands})
                }
            }
        }
    }

    /// Executes the call.
    pub(super) fn run(&self, api: &Api) -> Reply {
        match self {
            Self::One(one) => Reply::One(one.run(api)),
            // Parallel commands may run in any order, so they run in sequence here.
            Self::Batch(batch) => Reply::Batch(batch.each(|one| one.run(api))),
        }
    }

    /// The result of a server that refuses everything with this error.
    pub(super) fn refuse(&self, error: &ApiError) -> Reply {
        match self {
            Self::One(_) => Reply::One(Err(error.clone())),
            Self::Batch(batch) => Reply::Batch(batch.each(|_| Err(error.clone()))),
        }
    }
}

type Outcome = Result<Box<dyn Answer>, ApiError>;

impl Batch {
    fn each(&self, mut run: impl FnMut(&dyn One) -> Outcome) -> Vec<(Method, Outcome)> {
        self.commands
            .iter()
            .map(|command| match command {
                Command::Null => (Method::Batch, Err(bad_request())),
                Command::Nothing => (Method::Batch, Err(not_found())),
                Command::One(one) => (one.method(), run(&**one)),
            })
            .collect()
    }
}

impl Command {
    /// Decodes a command, whose methods are fields. Of several methods the first in the server's order counts.
    pub(super) fn read<F: Format>(
        format: &F,
        mut field: impl FnMut(Method) -> Option<Bytes>,
    ) -> Result<Self, F::Error> {
        /// The order in which the server looks for methods. It executes no others.
        const ORDER: [Method; 20] = [
            Method::Publish,
            Method::Broadcast,
            Method::Subscribe,
            Method::Unsubscribe,
            Method::Disconnect,
            Method::History,
            Method::HistoryRemove,
            Method::Presence,
            Method::PresenceStats,
            Method::Info,
            Method::Rpc,
            Method::Refresh,
            Method::Channels,
            Method::MapPublish,
            Method::MapRemove,
            Method::MapReadState,
            Method::MapReadStream,
            Method::MapStats,
            Method::MapClear,
            Method::SharedPollPublish,
        ];
        let others = Method::ALL.iter().filter(|method| !ORDER.contains(method));
        let mut first = None;
        // Every field is decoded, so that an invalid one is found even if it does not count.
        for method in ORDER.iter().chain(others) {
            if let Some(body) = field(*method) {
                let one = read_one(format, *method, &body)?;
                first = first.or(one);
            }
        }
        Ok(first.map_or(Self::Nothing, Self::One))
    }
}

/// What the server returns for a call.
pub(super) enum Reply {
    One(Outcome),
    Batch(Vec<(Method, Outcome)>),
}

impl Reply {
    /// The error, if it is one as a whole.
    pub(super) fn error(&self) -> Option<&ApiError> {
        match self {
            Self::One(Err(error)) => Some(error),
            Self::One(Ok(_)) | Self::Batch(_) => None,
        }
    }

    pub(super) fn json(&self) -> Result<Vec<u8>, NotJson> {
        match self {
            Self::One(Ok(result)) => Ok(wrap("result", &result.json()?)),
            Self::One(Err(error)) => Ok(wrap("error", &error_json(error))),
            Self::Batch(replies) if replies.is_empty() => Ok(b"{}".to_vec()),
            Self::Batch(replies) => {
                let mut list = Vec::from(b"[");
                for (method, outcome) in replies {
                    if list.len() > 1 {
                        list.push(b',');
                    }
                    list.extend(match outcome {
                        Ok(result) => wrap(method.name(), &result.json()?),
                        Err(error) => wrap("error", &error_json(error)),
                    });
                }
                list.push(b']');
                Ok(wrap("replies", &list))
            }
        }
    }

    pub(super) fn protobuf(&self) -> Vec<u8> {
        match self {
            Self::One(Ok(result)) => protobuf::field(2, &result.protobuf()),
            Self::One(Err(error)) => protobuf::field(1, &prost::Message::encode_to_vec(error)),
            Self::Batch(replies) => {
                let one = |(method, outcome): &(Method, Outcome)| match outcome {
                    Ok(result) => protobuf::field(method.command_tag().unwrap_or_default(), &result.protobuf()),
                    Err(error) => protobuf::field(2, &prost::Message::encode_to_vec(error)),
                };
                replies.iter().flat_map(|reply| protobuf::field(1, &one(reply))).collect()
            }
        }
    }
}

/// An object with one field.
pub(super) fn wrap(name: &str, value: &[u8]) -> Vec<u8> {
    [b"{\"", name.as_bytes(), b"\":", value, b"}"].concat()
}

/// The error as the server writes it.
pub(super) fn error_json(error: &ApiError) -> Vec<u8> {
    super::json::compact(&serde_json::to_vec(error).unwrap_or_default())
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", self.method())
    }
}
