//! The results of the commands of a batch.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use crate::api::batch::commands::{Command, Commands, Kind};
use crate::api::batch::part::Part;
use crate::api::batch::{Batch, BatchHandle};
use crate::api::broadcast::BroadcastResult;
use crate::api::method::Method;
use crate::error::{ApiError, Error, ErrorKind, Failure, Form, Outcome};
use crate::wire::body::Message;
use crate::wire::{self, Malformed, Ranges, ServerResult};

/// The error of a command of a batch. 104 means, for any but `rpc`, that the server has no such method.
pub(crate) fn error_of_command(method: &str, api: ApiError) -> Error {
    if api.code != ApiError::NOT_FOUND || method == Method::Rpc.name() {
        return api.into();
    }
    Error::new(ErrorKind::Unsupported, "the server has no such method").with_api(api)
}

/// The results of a batch, command by command.
///
/// A batch succeeds even if every command failed: [`all_ok`](Self::all_ok) makes an error of that.
#[derive(Clone)]
#[must_use = "a batch succeeds even if its commands fail: look at each reply, or at `all_ok`"]
pub struct BatchReplies {
    batch: u64,
    commands: Arc<Commands>,
    /// Each request that was sent, in order: the index behind its last command, and the response.
    parts: Vec<(usize, Result<BatchResponse, Arc<Error>>)>,
}

/// The transport and the address that a response came from.
pub(crate) type Origin = (&'static str, Option<Arc<str>>);

/// The response to one request.
#[derive(Clone)]
pub(crate) struct BatchResponse {
    pub(super) form: Form,
    pub(super) body: Bytes,
    /// The range of each command's reply in `body`.
    pub(super) replies: Ranges,
    pub(super) transport: &'static str,
    pub(super) endpoint: Option<Arc<str>>,
    /// Whether an earlier attempt may have taken effect.
    pub(super) outcome_unknown: bool,
}

impl BatchResponse {
    /// Adds where it came from.
    pub(crate) fn from(self, (transport, endpoint): Origin) -> Self {
        Self { transport, endpoint, ..self }
    }

    /// Adds whether an earlier attempt may have taken effect.
    pub(crate) fn after(self, outcome_unknown: bool) -> Self {
        Self { outcome_unknown, ..self }
    }

    /// One reply in protobuf, down to the bytes of the result, and the method of its command.
    fn reply(&self, command: &Command, range: Range<usize>) -> Result<(Method, ServerResult<Bytes>), Malformed> {
        // Only known methods are sent in protobuf.
        let (method, tag) = command.known().ok_or("the reply is to an unknown method")?;
        Ok((method, wire::reply_from_protobuf(&self.body, range, tag)?))
    }

    /// Whether a reply holds a result, of whatever type.
    fn has_result(&self, command: &Command, range: Range<usize>) -> bool {
        match self.form {
            Form::Json => {
                matches!(wire::reply_from_json::<Box<RawValue>>(&self.body[range], command.method()), Ok(Ok(_)))
            }
            Form::Protobuf => matches!(self.reply(command, range), Ok((_, Ok(_)))),
        }
    }
}

impl BatchReplies {
    /// Those to a batch of which nothing was sent yet.
    pub(crate) fn to(batch: &Batch) -> Self {
        Self { batch: batch.id, commands: Arc::clone(&batch.commands), parts: Vec::new() }
    }

    /// Adds the response to the next part.
    pub(crate) fn add(&mut self, part: &Part<'_>, response: Result<BatchResponse, Error>) {
        self.parts.push((part.range.end, response.map_err(Arc::new)));
    }

    /// The error of the batch as a whole, if every part failed: the first whose outcome is unknown, or the first.
    pub(crate) fn unless_all_failed(self) -> Result<Self, Error> {
        if self.parts.iter().any(|(_, response)| response.is_ok()) {
            return Ok(self);
        }
        let mut failed: Vec<_> = self.parts.into_iter().filter_map(|(_, response)| response.err()).collect();
        let unknown = failed.iter().position(|error| error.may_have_run());
        // A batch has at least one part. None is shared yet.
        let error = failed.swap_remove(unknown.unwrap_or_default());
        Err(Arc::try_unwrap(error).unwrap_or_else(|shared| shared.echo()))
    }

    /// The outcome of the call.
    pub(crate) fn outcome(&self) -> Outcome {
        let unknown = |response: &Result<_, Arc<Error>>| response.as_ref().is_err_and(|error| error.may_have_run());
        if self.parts.iter().any(|(_, response)| unknown(response)) { Outcome::Unknown } else { Outcome::Done }
    }

    /// The result of one command, or the error that the same call would have.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Api`] when the server refused the command, [`ErrorKind::Unsupported`] when it has no such method,
    /// [`ErrorKind::Protocol`] when the reply is not one to this command, [`ErrorKind::Invalid`] when the handle is of another
    /// batch; and, of a batch that was sent in several requests, the error of its part, or [`ErrorKind::Unavailable`] when the
    /// part was not sent because one before it had failed.
    pub fn get<T: Message>(&self, handle: BatchHandle<T>) -> Result<T, Error> {
        self.read(
            handle,
            |command, response, reply| match response.form {
                Form::Json => wire::reply_from_json(&response.body[reply], command.method()),
                Form::Protobuf => match response.reply(command, reply)?.1 {
                    Ok(result) => wire::message_from_protobuf(result).map(Ok),
                    Err(error) => Ok(Err(error)),
                },
            },
            |expected, outcome_unknown, result| {
                let mut result: T = checked(expected, outcome_unknown, result)?;
                if handle.method == Some(Method::Broadcast) {
                    result.name_failed(&self.commands.channels(handle.index));
                }
                Ok(result)
            },
        )
    }

    /// The result of a command that was given as JSON, decoded from JSON.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get). A result that cannot be read as a `T` is [`ErrorKind::Protocol`] with [`Outcome::Done`].
    pub fn get_json<T: DeserializeOwned>(&self, handle: BatchHandle<RawValue>) -> Result<T, Error> {
        self.read(
            handle,
            |command, response, reply| match response.form {
                Form::Json => wire::reply_from_json(&response.body[reply], command.method()),
                Form::Protobuf => match response.reply(command, reply)? {
                    (method, Ok(result)) => result_from_protobuf(method.name(), result).map(Ok),
                    (_, Err(error)) => Ok(Err(error)),
                },
            },
            |_, _, result: Box<RawValue>| read_as(&result),
        )
    }

    fn read<H: ?Sized, R, T>(
        &self,
        handle: BatchHandle<H>,
        read: impl FnOnce(&Command, &BatchResponse, Range<usize>) -> Result<ServerResult<R>, Malformed>,
        check: impl FnOnce(usize, bool, R) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let command = self.commands.list.get(handle.index).filter(|_| handle.batch == self.batch);
        let Some(command) = command else {
            return Err(Error::invalid("the handle is of another batch"));
        };
        let is_other = |expected| !matches!(command.kind, Kind::Encoded { method, .. } if method == expected);
        if handle.method.is_some_and(is_other) {
            return Err(Error::invalid("the handle is of another batch, or of another command"));
        }
        // Every command is in a part, and every response has a reply to each command of its part.
        let part = self.parts.partition_point(|(end, _)| *end <= handle.index);
        let begin = part.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let response = match &self.parts[part].1 {
            Ok(response) => response,
            Err(error) => return Err(error.echo().in_method(command.method())),
        };
        let reply = response.replies[handle.index - begin].clone();
        let error = match read(command, response, reply.clone()) {
            Ok(Ok(result)) => match check(command.expected_results(), response.outcome_unknown, result) {
                Ok(result) => return Ok(result),
                Err(error) => error,
            },
            Ok(Err(api)) => error_of_command(command.method(), api),
            // A result that this side cannot read is a result.
            Err(malformed) if response.has_result(command, reply) => {
                Error::protocol(malformed).with_outcome(Outcome::Done)
            }
            Err(malformed) => Error::protocol(malformed),
        };
        let error = if response.outcome_unknown && !error.may_have_run() { error.outcome_unknown() } else { error };
        Err(error.with_context(command.method_of_error(), response.transport, response.endpoint.clone()))
    }

    fn handle(&self, index: usize) -> BatchHandle<RawValue> {
        BatchHandle::new(self.batch, index, None)
    }

    /// Fails unless every command succeeded, and every channel of a broadcast among them.
    ///
    #[doc = example!()]
    /// let mut batch = Batch::new();
    /// batch.push(PublishRequest::new("news", serde_json::json!({"text": "hello"})));
    /// client.batch(&batch).await?.all_ok()?;
    #[doc = end_of_example!()]
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Partial`] when a command failed: [`Error::failures`] has each, with its own error.
    pub fn all_ok(&self) -> Result<(), Error> {
        let failures: Vec<_> = (0..self.len()).flat_map(|index| self.failures_of(index)).collect();
        if failures.is_empty() { Ok(()) } else { Err(Error::partial("batch", "commands", self.len(), failures)) }
    }

    /// The failure of a command, or of the channels of one that is a broadcast.
    fn failures_of(&self, index: usize) -> Vec<Failure> {
        let command = &self.commands.list[index];
        let name = || self.commands.name(index);
        let is_broadcast = matches!(command.kind, Kind::Encoded { method: Method::Broadcast, .. });
        if is_broadcast {
            let handle = BatchHandle::new(self.batch, index, Some(Method::Broadcast));
            return match self.get::<BroadcastResult>(handle) {
                Ok(result) => {
                    let of_channel = |failure: Failure| {
                        Failure::new(index, format!("broadcast {}", failure.name()), failure.into_error())
                    };
                    result.failures().into_iter().map(of_channel).collect()
                }
                Err(error) => vec![Failure::new(index, name(), error)],
            };
        }
        let read = self.read(
            self.handle(index),
            |command, response, reply| match response.form {
                Form::Json => wire::reply_from_json::<IgnoredAny>(&response.body[reply], command.method())
                    .map(|result| result.map(drop)),
                Form::Protobuf => Ok(response.reply(command, reply)?.1.map(drop)),
            },
            |_, _, ()| Ok(()),
        );
        read.err().map(|error| Failure::new(index, name(), error)).into_iter().collect()
    }

    /// The replies, each as the JSON of its envelope.
    pub(crate) fn to_json(&self) -> Result<Vec<Box<RawValue>>, Error> {
        let mut all = Vec::with_capacity(self.len());
        for (index, command) in self.commands.list.iter().enumerate() {
            let envelope = match self.get_json::<Box<RawValue>>(self.handle(index)) {
                Ok(result) => serde_json::value::to_raw_value(&BTreeMap::from([(command.method(), result)])),
                Err(error) => match error.api() {
                    Some(api) => serde_json::value::to_raw_value(&BTreeMap::from([("error", api)])),
                    None => return Err(error),
                },
            };
            all.push(envelope.map_err(|_| Error::protocol("a reply has no JSON form"))?);
        }
        Ok(all)
    }

    /// How many replies there are: as many as the batch has commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.list.len()
    }

    /// Whether the batch was empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.list.is_empty()
    }
}

/// Shows how many replies there are and no payload.
impl std::fmt::Debug for BatchReplies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchReplies")
            .field("len", &self.len())
            .field("requests", &self.parts.len())
            .finish_non_exhaustive()
    }
}

/// The result, if it has as many results as were asked for. Where an earlier attempt may have taken effect, refusals in it
/// prove nothing.
pub(crate) fn checked<T: Message>(asked: usize, outcome_unknown: bool, mut reply: T) -> Result<T, Error> {
    check_results(asked, &reply)?;
    if outcome_unknown {
        reply.withdraw_refusals();
    }
    Ok(reply)
}

/// Checks that there are as many results as the request asked for.
pub(crate) fn check_results<T: Message>(asked: usize, reply: &T) -> Result<(), Error> {
    match reply.results() {
        Some(results) if results == asked => Ok(()),
        Some(results) => Err(Error::protocol(format!("the response has {results} results instead of {asked}"))),
        None => Err(Error::protocol("a part of the response has neither a result nor an error")),
    }
}

/// Reads a result as this type. The command took effect, whether that is possible or not.
pub(crate) fn read_as<T: DeserializeOwned>(result: &RawValue) -> Result<T, Error> {
    serde_json::from_str(result.get()).map_err(|error| {
        let (line, column, name) = (error.line(), error.column(), std::any::type_name::<T>());
        let what = format!("the result cannot be read as `{name}` (line {line}, column {column})");
        Error::protocol(what).with_outcome(Outcome::Done)
    })
}

/// Reads a result in protobuf as JSON.
pub(crate) fn result_from_protobuf<T: DeserializeOwned>(method: &str, result: Bytes) -> Result<T, Malformed> {
    let method = Method::from_name(method).ok_or("the reply is to an unknown method")?;
    let mut json = Vec::new();
    method.result_to_json(result, &mut json).map_err(|error| {
        format!("the result has no JSON form ({error}); the method called with its own types returns it")
    })?;
    wire::from_json(&json)
}
