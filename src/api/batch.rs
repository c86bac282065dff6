//! Many calls in one request.

use std::borrow::{Borrow as _, Cow};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::api::idempotency::{self, Key, KeySequence};
use crate::api::method::Method;
use crate::api::replies::Answers;
use crate::api::request::check::Problem;
use crate::api::request::{IntoRequest, Request};
use crate::api::split;
use crate::error::{Error, Form};
use crate::wire;
use crate::wire::body::{Body, BodySize};
use crate::wire::reply::{Reply, ReplyBody};

/// Commands of any kind that travel to the server in one request, or in as few as their length allows.
///
/// The server runs them in order, or with [`parallel`](Self::parallel) at the same time, and answers every one: a command
/// that fails does not stop the others. A batch is a value like any request: it can be sent again, and over either
/// transport.
///
#[doc = example!()]
/// use centrifugo_api::{Batch, Client, HistoryRequest, PublishRequest};
/// use serde_json::json;
///
/// let mut batch = Batch::new();
/// let published = batch.push(PublishRequest::new("news", json!({"text": "hello"})));
/// let history = batch.push(HistoryRequest::new("news").limit(10));
///
/// let replies = client.batch(&batch).await?; // fails when the request as a whole did
/// let published = replies.get(published)?; // fails when this command did
/// let history = replies.get(history)?;
/// println!("offset {}, {} publications", published.offset, history.publications.len());
#[doc = end_of_example!()]
///
/// A batch may have any length. A request may not: over gRPC it has 4 MiB at most unless `Config::max_request_size` says
/// otherwise, over HTTP as much as proxies let through. A batch that is over the limit goes in several requests, one after
/// the other and in order, and its handles work as ever. Commands are not divided: one that is over the limit of this client
/// all by itself is [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and then nothing of the batch is sent.
///
/// See the server's page on [batching](https://centrifugal.dev/docs/server/server_api#batch).
#[derive(Clone)]
pub struct Batch {
    /// By which its handles are known. Clones share it.
    pub(super) id: u64,
    /// Shared with what was sent of it and with the answers to that.
    pub(super) commands: Arc<Commands>,
    parallel: bool,
    /// Whether publications that have no key are given one.
    keys: bool,
    /// The first request that must not be sent, with its method. Told when the batch is sent.
    problem: Option<(Method, Problem)>,
}

impl Default for Batch {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            commands: Arc::default(),
            parallel: false,
            keys: true,
            problem: None,
        }
    }
}

#[derive(Clone)]
pub(super) struct Commands {
    /// The commands as the schema's `BatchRequest` holds them, ready to be sent over gRPC. Before them stands
    /// `parallel`, which is left out where it is not wanted.
    encoded: Vec<u8>,
    pub(super) list: Vec<Command>,
}

/// A key that is to be filled in when the batch is sent.
const NO_KEY: Key = Key::EMPTY;

impl Default for Commands {
    fn default() -> Self {
        Self { encoded: wire::PARALLEL.to_vec(), list: Vec::new() }
    }
}

impl Commands {
    /// Adds the command that `encoded` now ends with, and returns its index.
    fn add(&mut self, once: bool, keyed: bool, kind: Kind) -> usize {
        self.list.push(Command { end: self.encoded.len(), once, keyed, kind });
        self.list.len() - 1
    }

    /// The same commands with new keys.
    fn keyed(&self) -> Result<Self, Error> {
        let (mut commands, keys) = (self.clone(), KeySequence::default());
        for command in commands.list.iter().filter(|command| command.keyed) {
            let key =
                keys.next().ok_or_else(|| Error::invalid("no random numbers for idempotency keys could be had"))?;
            commands.encoded[command.end - Key::LEN..command.end].copy_from_slice(key.as_str().as_bytes());
        }
        Ok(commands)
    }

    /// The same commands without the places for keys.
    fn without_keys(&self) -> Self {
        let mut commands = Self { encoded: Vec::with_capacity(self.encoded.len()), list: Vec::new() };
        commands.encoded.extend(wire::PARALLEL);
        for (index, command) in self.list.iter().enumerate() {
            let mut kind = command.kind.clone();
            match &mut kind {
                Kind::Encoded { method, len, .. } if command.keyed => {
                    let begin = command.end - *len;
                    *len -= Key::ENCODED;
                    let request = &self.encoded[begin..begin + *len];
                    wire::push_encoded_command(
                        method.command_tag().unwrap_or_default(),
                        request,
                        &mut commands.encoded,
                    );
                }
                _ => commands.encoded.extend_from_slice(&self.encoded[self.begin(index)..command.end]),
            }
            commands.add(command.once || command.keyed, false, kind);
        }
        commands
    }

    /// Where a command begins in `encoded`, or would.
    fn begin(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(wire::PARALLEL.len(), |before| self.list[before].end)
    }
}

/// What the commands are of, for errors.
impl Commands {
    /// The channels of a command.
    pub(super) fn channels(&self, index: usize) -> Vec<String> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Channels {
            channel: String,
            channels: Vec<String>,
        }
        let mut json = Vec::new();
        let command = &self.list[index];
        let text = match &command.kind {
            Kind::Encoded { method, len, .. } => {
                let request = Bytes::copy_from_slice(&self.encoded[command.end - len..command.end]);
                // A request that has no JSON form is shown without its channel.
                let _ = method.request_to_json(request, &mut json);
                &json[..]
            }
            Kind::Json { params, .. } => params.get().as_bytes(),
        };
        let Channels { channel, mut channels } = serde_json::from_slice(text).unwrap_or_default();
        if !channel.is_empty() {
            channels.push(channel);
        }
        channels
    }

    /// The method of a command, and its channel if it has one.
    pub(super) fn name(&self, index: usize) -> String {
        let method = self.list[index].method();
        match &self.channels(index)[..] {
            [channel] => format!("{method} {channel}"),
            _ => method.to_owned(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Command {
    /// Where it ends in `encoded`.
    end: usize,
    /// Whether it must not be carried out twice.
    once: bool,
    /// Whether it ends with an idempotency key, to be filled in when the batch is sent.
    keyed: bool,
    pub(super) kind: Kind,
}

#[derive(Clone)]
pub(super) enum Kind {
    /// Of the schema: the body of the request is this long, and asks for so many answers.
    Encoded { method: Method, len: usize, answers: usize },
    /// Given as JSON, and not in `encoded`; over gRPC it is translated when it is sent.
    Json { method: Box<str>, params: Box<RawValue> },
}

impl Command {
    pub(super) fn method(&self) -> &str {
        match &self.kind {
            Kind::Encoded { method, .. } => method.name(),
            Kind::Json { method, .. } => method,
        }
    }

    /// Its method and the field of its result, if the schema has it.
    pub(super) fn known(&self) -> Option<(Method, u32)> {
        let method = match &self.kind {
            Kind::Encoded { method, .. } => Some(*method),
            Kind::Json { method, .. } => Method::from_name(method),
        }?;
        Some((method, method.command_tag()?))
    }

    pub(super) fn method_of_error(&self) -> Cow<'static, str> {
        match &self.kind {
            Kind::Encoded { method, .. } => method.name().into(),
            Kind::Json { method, .. } => method.to_string().into(),
        }
    }

    pub(super) fn answers(&self) -> usize {
        match self.kind {
            Kind::Encoded { answers, .. } => answers,
            Kind::Json { .. } => 1,
        }
    }
}

/// Shows the methods and no payload.
impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("commands", &self.commands.list.iter().map(Command::method).collect::<Vec<_>>())
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// Which reply of a batch belongs to a command, and what type it has.
pub struct BatchHandle<T: ?Sized> {
    pub(super) batch: u64,
    pub(super) index: usize,
    /// The method, unless the command was given as JSON.
    pub(super) method: Option<Method>,
    reply: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Clone for BatchHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for BatchHandle<T> {}

impl<T: ?Sized> std::fmt::Debug for BatchHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BatchHandle").field(&self.index).finish()
    }
}

impl<T: ?Sized> BatchHandle<T> {
    pub(super) fn new(batch: u64, index: usize, method: Option<Method>) -> Self {
        Self { batch, index, method, reply: PhantomData }
    }
}

impl Batch {
    /// An empty batch, whose commands will run in order.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the server run the commands at the same time, up to 1,024 of them, in no order.
    ///
    /// Faster with a Redis engine, no faster in memory. A batch that goes in several requests is parallel within each.
    #[must_use]
    pub fn parallel(mut self, parallel: bool) -> Self {
        self.parallel = parallel;
        self
    }

    /// Sets whether every `publish` and `broadcast` that is [pushed](Self::push) from now on, and has no idempotency key, is given
    /// one when the batch is sent. On unless set, and off for a client without retries. Commands given as JSON stay as they
    /// are.
    ///
    /// A request that failed without a response is repeated only if each of its commands may be carried out twice; with keys,
    /// publications may. Sending the batch again makes other keys, and publishes again. See
    /// [`Retry::idempotency_keys`](crate::Retry::idempotency_keys) on what they cost.
    #[must_use]
    pub fn idempotency_keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Adds a command. Its reply is fetched with the handle.
    pub fn push<R: Request>(&mut self, request: impl IntoRequest<R>) -> BatchHandle<R::Reply> {
        let (method, request) = (R::METHOD, request.into_request());
        let request: &R = request.borrow();
        self.check_command(Some(method), || request.check());
        let key = (self.keys && request.takes_key()).then_some(NO_KEY);
        let once = key.is_none() && !request.is_repeatable();
        let len = idempotency::encoded_len(request, key.as_ref());
        // Only `Method::Batch` has no tag, and no request has that method.
        let tag = method.command_tag().unwrap_or_default();
        let commands = Arc::make_mut(&mut self.commands);
        wire::open_command(tag, len, &mut commands.encoded);
        idempotency::write(request, key, &mut commands.encoded);
        let index =
            commands.add(once, key.is_some(), Kind::Encoded { method, len, answers: request.expected_results() });
        BatchHandle::new(self.id, index, Some(method))
    }

    /// Adds a command by its name, with its parameters in JSON, such as the schema of this version may not know.
    ///
    /// Over gRPC the schema must know it after all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the parameters cannot be written as JSON or the name is no name.
    pub fn push_json(&mut self, method: &str, params: impl serde::Serialize) -> Result<BatchHandle<RawValue>, Error> {
        check_method_name(method)?;
        let params = serde_json::value::to_raw_value(&params)
            .map_err(|_| Error::invalid("the command's parameters cannot be written as JSON"))?;
        let known = Method::from_name(method);
        self.check_command(known, || known.map_or(Ok(()), |known| known.check_json(params.get().as_bytes())));
        let once = !known.is_some_and(|known| known.is_repeatable_json(params.get().as_bytes()));
        let index = Arc::make_mut(&mut self.commands).add(once, false, Kind::Json { method: method.into(), params });
        Ok(BatchHandle::new(self.id, index, None))
    }

    /// Remembers the first command that must not be sent.
    fn check_command(&mut self, method: Option<Method>, check: impl FnOnce() -> Result<(), Problem>) {
        if let (None, Some(method)) = (&self.problem, method)
            && let Err(problem) = check()
        {
            self.problem = Some((method, problem));
        }
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.list.len()
    }

    /// Whether there are none. The server accepts an empty batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.list.is_empty()
    }

    /// The batch as it is sent: with new keys in the places for them, or without these.
    pub(crate) fn with_keys(&self, wanted: bool) -> Result<Self, Error> {
        let mut batch = self.clone();
        if !self.commands.list.iter().any(|command| command.keyed) {
            return Ok(batch);
        }
        let commands = if wanted { self.commands.keyed()? } else { self.commands.without_keys() };
        batch.commands = Arc::new(commands);
        Ok(batch)
    }

    pub(crate) fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// Why the batch must not be sent, if so.
    pub(crate) fn check(&self, pro: bool) -> Result<(), Error> {
        match &self.problem {
            Some((method, problem)) => problem.error(pro).map_err(|error| error.in_method(method.name())),
            None => Ok(()),
        }
    }

    /// What goes in one request, if it is not too large for one.
    pub(crate) fn all(&self) -> Part<'_> {
        Part { batch: self, range: 0..self.len() }
    }
}

/// Commands of a batch that go in one request.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    batch: &'a Batch,
    pub(super) range: Range<usize>,
}

impl Part<'_> {
    fn commands(&self) -> &[Command] {
        &self.batch.commands.list[self.range.clone()]
    }

    /// Whether all of it may be carried out twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.commands().iter().any(|command| command.once)
    }

    /// The parts that it goes in after it has ended with this error, the last first; or the error, if that would not help.
    pub(crate) fn divide(&self, error: Error) -> Result<Vec<Self>, Error> {
        let first = self.range.start;
        let parts = split::divide(error, self.range.len(), |form| self.sizes(form))?;
        let part = |range: Range<usize>| Self { batch: self.batch, range: first + range.start..first + range.end };
        Ok(parts.into_iter().map(part).collect())
    }

    /// How long each command is in a form of the request.
    fn sizes(&self, form: Form) -> Result<Vec<usize>, Error> {
        let mut one = Vec::new();
        let size = |index| {
            one.clear();
            let part = Self { batch: self.batch, range: index..index + 1 };
            match form {
                Form::Protobuf => part.write_protobuf(&mut one)?,
                // With the comma.
                Form::Json => part.write_json(&mut one).map(|()| one.push(b','))?,
            }
            Ok(one.len())
        };
        self.range.clone().map(size).collect()
    }

    /// Reads the answer to it.
    pub(crate) fn read(&self, reply: Reply) -> Result<Answers, Error> {
        let (format, found) = match reply.body() {
            ReplyBody::Protobuf(body) => {
                let replies = wire::replies_from_protobuf(&body, self.range.len());
                (Form::Protobuf, replies.map(|replies| (body, replies)))
            }
            ReplyBody::Json(body) => match wire::replies_from_json(body, self.range.len()) {
                Ok(Ok(found)) => (Form::Json, Ok(found)),
                Ok(Err(error)) => return Err(error.into()),
                Err(malformed) => (Form::Json, Err(malformed)),
            },
        };
        let (body, replies) = found.map_err(Error::protocol)?;
        Ok(Answers { form: format, body, replies, transport: "", endpoint: None, outcome_unknown: false })
    }

    /// Appends the commands as a `BatchRequest` in protobuf holds them.
    fn write_protobuf(&self, request: &mut Vec<u8>) -> Result<(), Error> {
        let Commands { encoded, .. } = &*self.batch.commands;
        let mut copied = self.batch.commands.begin(self.range.start);
        for command in self.commands() {
            if let Kind::Json { method, params } = &command.kind {
                request.extend_from_slice(&encoded[copied..command.end]);
                copied = command.end;
                let (tag, body) = from_json(method, params.get())?;
                wire::push_encoded_command(tag, &body, request);
            }
        }
        request.extend_from_slice(&encoded[copied..self.batch.commands.begin(self.range.end)]);
        Ok(())
    }

    /// Appends the commands as the list in JSON holds them.
    fn write_json(&self, json: &mut Vec<u8>) -> Result<(), Error> {
        let encoded = self.batch.encoded();
        write_json(json, self.commands(), Command::method, |command, json| match &command.kind {
            Kind::Encoded { method, len, .. } => {
                method.request_to_json(encoded.slice(command.end - len..command.end), json)
            }
            Kind::Json { params, .. } => {
                json.extend_from_slice(params.get().as_bytes());
                Ok(())
            }
        })
    }
}

impl Batch {
    /// The encoded commands, of which each is then a slice.
    fn encoded(&self) -> Bytes {
        struct Encoded(Arc<Commands>);

        impl AsRef<[u8]> for Encoded {
            fn as_ref(&self) -> &[u8] {
                &self.0.encoded
            }
        }

        Bytes::from_owner(Encoded(Arc::clone(&self.commands)))
    }
}

impl Body for Part<'_> {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let (commands, parallel) = (&self.batch.commands, self.batch.parallel);
        let is_encoded = self.commands().iter().all(|command| matches!(command.kind, Kind::Encoded { .. }));
        if is_encoded && (self.range.start == 0 || !parallel) {
            let begin = if parallel { 0 } else { commands.begin(self.range.start) };
            return Ok(self.batch.encoded().slice(begin..commands.begin(self.range.end)));
        }
        let mut request = if parallel { wire::PARALLEL.to_vec() } else { Vec::new() };
        self.write_protobuf(&mut request)?;
        Ok(request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        let commands = &self.batch.commands;
        let encoded = commands.begin(self.range.end) - commands.begin(self.range.start);
        to_json(encoded, self.batch.parallel, |json| self.write_json(json))
    }

    fn size(&self) -> BodySize {
        let commands = &self.batch.commands;
        let bytes = commands.begin(self.range.end) - commands.begin(self.range.start);
        BodySize { bytes, channels: self.range.len() }
    }
}

/// A batch in JSON, whose commands have this length in protobuf.
pub(crate) fn to_json(
    encoded: usize,
    parallel: bool,
    commands: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<Bytes, Error> {
    let mut json = Vec::with_capacity(encoded * 2 + 64);
    json.extend_from_slice(br#"{"commands":["#);
    commands(&mut json)?;
    json.extend_from_slice(if parallel { br#"],"parallel":true}"# } else { b"]}" });
    Ok(json.into())
}

/// Appends commands as a batch in JSON lists them.
pub(crate) fn write_json<'a, T>(
    json: &mut Vec<u8>,
    commands: &'a [T],
    method: impl Fn(&'a T) -> &'a str,
    request: impl Fn(&'a T, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    for (index, command) in commands.iter().enumerate() {
        json.extend_from_slice(if index == 0 { br#"{""# } else { br#",{""# });
        json.extend_from_slice(method(command).as_bytes());
        json.extend_from_slice(br#"":"#);
        request(command, json)?;
        json.push(b'}');
    }
    Ok(())
}

/// The name of a method becomes a part of a path and a key in JSON.
pub(crate) fn check_method_name(name: &str) -> Result<(), Error> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if fits {
        Ok(())
    } else {
        Err(Error::invalid("a method's name has lower-case letters, digits and underscores, at most 64"))
    }
}

/// Makes the checks of the commands of a batch that is given as JSON, whatever else it holds. It is read as the server
/// reads it: names in any case, `null` as nothing, more than one method in a command.
pub(crate) fn check_json(batch: &str, pro: bool) -> Result<(), Error> {
    type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;
    let Ok(batch) = serde_json::from_str::<Object<'_>>(batch) else { return Ok(()) };
    let lists = batch.iter().filter(|(name, _)| name.eq_ignore_ascii_case("commands"));
    for (_, list) in lists {
        let Ok(commands) = serde_json::from_str::<Vec<Option<Object<'_>>>>(list.get()) else { continue };
        for (name, params) in commands.into_iter().flatten().flatten() {
            let name = name.to_ascii_lowercase();
            if let Some(method) = Method::from_name(&name) {
                let checked = method.check_json(params.get().as_bytes());
                checked.or_else(|problem| problem.error(pro)).map_err(|error| error.in_method(&name))?;
            }
        }
    }
    Ok(())
}

/// Parameters as the server reads them: `null` is an object without fields.
pub(crate) fn object(params: &str) -> &str {
    if params == "null" { "{}" } else { params }
}

/// Translates a raw command, for a transport that speaks protobuf.
pub(crate) fn from_json(method: &str, params: &str) -> Result<(u32, Vec<u8>), Error> {
    let known = Method::from_name(method).and_then(|method| Some((method, method.command_tag()?)));
    let Some((method, tag)) = known else {
        return Err(Error::invalid(format!(
            "the schema of this version has no method `{method}`, and gRPC carries no other; over HTTP it can be called"
        )));
    };
    let request = method
        .request_from_json(object(params).as_bytes())
        .map_err(|error| Error::invalid(error).in_method(method.name()))?;
    Ok((tag, request))
}
