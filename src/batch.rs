//! Many calls in one request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::idempotency::Key;
use crate::request::Problem;
use crate::transport::{Body, Reply, ReplyBody};
use crate::wire::{self, Answer, Malformed};
use crate::{AsRequest, Error, Message, Method, Request};

/// Commands of any kind that travel to the server in one request.
///
/// The server runs them in order, or with [`parallel`](Self::parallel) at the same time, and answers every one: a command
/// that fails does not stop the others. A batch is a value like any request: it can be sent again, and over either
/// transport.
///
/// ```no_run
/// use centrifugo_api::{Batch, Client, HistoryRequest, PublishRequest};
/// use serde_json::json;
///
/// # async fn f(client: &Client) -> Result<(), centrifugo_api::Error> {
/// let mut batch = Batch::new();
/// let published = batch.push(PublishRequest::new("news", json!({"text": "hello"})));
/// let history = batch.push(HistoryRequest::new("news").limit(10));
///
/// let replies = client.batch(&batch).await?; // fails when the request as a whole did
/// let published = replies.get(published)?; // fails when this command did
/// let history = replies.get(history)?;
/// println!("offset {}, {} publications", published.offset, history.publications.len());
/// # Ok(()) }
/// ```
///
/// A request over gRPC is at most 4 MiB unless the server is configured otherwise, so a batch is, too. See the server's
/// page on [batching](https://centrifugal.dev/docs/server/server_api#batch).
#[derive(Clone, Default)]
pub struct Batch {
    /// The commands as the schema's `BatchRequest` holds them, ready to be sent over gRPC.
    encoded: Vec<u8>,
    commands: Vec<Command>,
    parallel: bool,
    /// Whether to give publications a key that have none.
    keys: bool,
    /// Whether a command must not be carried out twice.
    once: bool,
    /// The first request that must not be sent, with its method. Told when the batch is sent.
    problem: Option<(Method, Problem)>,
}

#[derive(Clone)]
enum Command {
    /// Of the schema: the body of the request ends here in `encoded`, is this long, and asks for so many answers.
    Encoded { method: Method, end: usize, len: usize, answers: usize },
    /// Given as JSON; over gRPC it is translated when it is sent.
    Json { method: Box<str>, params: Box<RawValue> },
}

impl Command {
    fn method(&self) -> &str {
        match self {
            Self::Encoded { method, .. } => method.name(),
            Self::Json { method, .. } => method,
        }
    }
}

/// Shows the methods and no payload.
impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("commands", &self.commands.iter().map(Command::method).collect::<Vec<_>>())
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// Which reply of a batch belongs to a command, and what type it has.
pub struct Handle<T: ?Sized> {
    index: usize,
    /// The method, unless the command was given as JSON.
    method: Option<Method>,
    reply: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Handle<T> {}

impl<T: ?Sized> std::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.index).finish()
    }
}

impl<T: ?Sized> Handle<T> {
    fn new(index: usize, method: Option<Method>) -> Self {
        Self { index, method, reply: PhantomData }
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
    /// Faster with a Redis engine, no faster in memory.
    #[must_use]
    pub fn parallel(mut self, parallel: bool) -> Self {
        self.parallel = parallel;
        self
    }

    /// Gives every `publish` and `broadcast` that is [pushed](Self::push) from now on, and has no idempotency key, one of its
    /// own. Off unless set. Commands given as JSON stay as they are.
    ///
    /// A batch that failed without an answer is repeated only if each of its commands may be carried out twice; with keys,
    /// publications may. The keys stay those of the batch, so sending it twice publishes once, for 5 minutes.
    #[must_use]
    pub fn idempotency_keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Adds a command. Its reply is fetched with the handle.
    #[allow(clippy::needless_pass_by_value, reason = "a request or a reference to one, as everywhere")]
    pub fn push<R: AsRequest>(&mut self, request: R) -> Handle<<R::Request as Request>::Reply> {
        let (method, request) = (R::Request::METHOD, request.as_request());
        self.check_command(Some(method), || request.check());
        let key = if self.keys && request.takes_key() { Key::new() } else { None };
        self.once |= key.is_none() && !request.is_repeatable();
        let len = request.encoded_len() + key.map_or(0, |_| Key::ENCODED);
        // Only `Method::Batch` has no tag, and no request has that method.
        let tag = method.command_tag().unwrap_or_default();
        wire::push_command(tag, len, request, &mut self.encoded);
        if let Some(key) = key {
            key.push(&mut self.encoded);
        }
        self.add(Command::Encoded { method, end: self.encoded.len(), len, answers: request.answers() })
    }

    /// Adds a command by its name, with its parameters in JSON, such as the schema of this version may not know.
    ///
    /// Over gRPC the schema must know it after all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the parameters cannot be written as JSON or the name is no name.
    pub fn push_json(&mut self, method: &str, params: impl serde::Serialize) -> Result<Handle<RawValue>, Error> {
        check_method_name(method)?;
        let params = serde_json::value::to_raw_value(&params)
            .map_err(|_| Error::invalid("the command's parameters cannot be written as JSON"))?;
        let known = Method::from_name(method);
        self.check_command(known, || known.map_or(Ok(()), |known| known.check_json(params.get().as_bytes())));
        self.once |= !known.is_some_and(|known| known.is_repeatable_json(params.get().as_bytes()));
        Ok(self.add(Command::Json { method: method.into(), params }))
    }

    /// Remembers the first command that must not be sent.
    fn check_command(&mut self, method: Option<Method>, check: impl FnOnce() -> Result<(), Problem>) {
        if let (None, Some(method)) = (&self.problem, method)
            && let Err(problem) = check()
        {
            self.problem = Some((method, problem));
        }
    }

    fn add<T: ?Sized>(&mut self, command: Command) -> Handle<T> {
        let method = match command {
            Command::Encoded { method, .. } => Some(method),
            Command::Json { .. } => None,
        };
        self.commands.push(command);
        Handle::new(self.commands.len() - 1, method)
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are none. The server accepts an empty batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Whether all of it may be carried out twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.once
    }

    /// Why the batch must not be sent, if so.
    pub(crate) fn check(&self, pro: bool) -> Result<(), Error> {
        match &self.problem {
            Some((method, problem)) => problem.error(pro).map_err(|error| error.in_method(method.name())),
            None => Ok(()),
        }
    }

    /// Reads the answer to this batch.
    pub(crate) fn read(&self, reply: Reply) -> Result<BatchReplies, Error> {
        let (format, replies) = match reply.body() {
            ReplyBody::Protobuf(body) => (Format::Protobuf, wire::replies_from_protobuf(body, self.len())),
            ReplyBody::Json(body) => match wire::replies_from_json(body, self.len()) {
                Ok(Ok(replies)) => (Format::Json, Ok(replies)),
                Ok(Err(error)) => return Err(error.into()),
                Err(malformed) => (Format::Json, Err(malformed)),
            },
        };
        let replies = replies.map_err(Error::protocol)?;
        let commands = self.commands.iter().map(|command| match command {
            Command::Encoded { method, answers, .. } => {
                Sent { method: Cow::Borrowed(method.name()), answers: *answers }
            }
            Command::Json { method, .. } => Sent { method: Cow::Owned(method.to_string()), answers: 1 },
        });
        Ok(BatchReplies {
            format,
            replies,
            commands: commands.collect(),
            transport: "",
            endpoint: None,
            in_doubt: false,
        })
    }
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

impl Body for Batch {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let mut batch = Vec::with_capacity(self.encoded.len() + 2);
        let mut copied = 0;
        let mut end = 0;
        for command in &self.commands {
            match command {
                Command::Encoded { end: next, .. } => end = *next,
                Command::Json { method, params } => {
                    batch.extend_from_slice(&self.encoded[copied..end]);
                    copied = end;
                    let (tag, request) = from_json(method, params.get())?;
                    wire::push_encoded_command(tag, &request, &mut batch);
                }
            }
        }
        batch.extend_from_slice(&self.encoded[copied..]);
        if self.parallel {
            wire::push_parallel(&mut batch);
        }
        Ok(batch.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        let mut json = Vec::with_capacity(self.encoded.len() * 2);
        // One copy for all commands, of which each is then a slice.
        let encoded = Bytes::copy_from_slice(&self.encoded);
        json.extend_from_slice(br#"{"commands":["#);
        for (index, command) in self.commands.iter().enumerate() {
            json.extend_from_slice(if index == 0 { br#"{""# } else { br#",{""# });
            match command {
                Command::Encoded { method, end, len, .. } => {
                    json.extend_from_slice(method.name().as_bytes());
                    json.extend_from_slice(br#"":"#);
                    method
                        .request_to_json(encoded.slice(end - len..*end), &mut json)
                        .map_err(|error| crate::transport::not_json(error).in_method(method.name()))?;
                }
                Command::Json { method, params } => {
                    json.extend_from_slice(method.as_bytes());
                    json.extend_from_slice(br#"":"#);
                    json.extend_from_slice(params.get().as_bytes());
                }
            }
            json.push(b'}');
        }
        json.extend_from_slice(if self.parallel { br#"],"parallel":true}"# } else { b"]}" });
        Ok(json.into())
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

/// What the server answered to every command of a batch.
#[derive(Clone)]
pub struct BatchReplies {
    format: Format,
    /// One for each command, as the server wrote it.
    replies: Vec<Bytes>,
    commands: Vec<Sent>,
    transport: &'static str,
    endpoint: Option<Arc<str>>,
    /// Whether an attempt before the one that was answered may have been carried out.
    in_doubt: bool,
}

/// What a reply is the reply to.
#[derive(Clone)]
struct Sent {
    method: Cow<'static, str>,
    answers: usize,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Protobuf,
    Json,
}

impl BatchReplies {
    /// The result of one command, or the error that the same call alone would have given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Api`](crate::ErrorKind::Api) when the server refused the command, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it does not know it,
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) when the reply is not one to this command, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the handle is of
    /// another, longer batch.
    pub fn get<T: Message>(&self, handle: Handle<T>) -> Result<T, Error> {
        let mut reply: T = self.read(handle, |method, reply| match self.format {
            Format::Json => wire::reply_from_json(reply, method),
            Format::Protobuf => match wire::reply_from_protobuf(reply.clone(), command_tag(method)?)? {
                Ok(result) => wire::message_from_protobuf(result).map(Ok),
                Err(error) => Ok(Err(error)),
            },
        })?;
        // `read` has found the command.
        let sent = &self.commands[handle.index];
        match check_answers(sent.answers, &reply) {
            Ok(()) => {
                if self.in_doubt {
                    reply.doubt();
                }
                Ok(reply)
            }
            Err(error) => Err(error.at(sent.method.clone(), self.transport, self.endpoint.clone())),
        }
    }

    /// The result of a command that was given as JSON, decoded from JSON.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub fn get_json<T: DeserializeOwned>(&self, handle: Handle<RawValue>) -> Result<T, Error> {
        self.read(handle, |method, reply| match self.format {
            Format::Json => wire::reply_from_json(reply, method),
            Format::Protobuf => match wire::reply_from_protobuf(reply.clone(), command_tag(method)?)? {
                Ok(result) => result_from_protobuf(method, result).map(Ok),
                Err(error) => Ok(Err(error)),
            },
        })
    }

    fn read<H: ?Sized, T>(
        &self,
        handle: Handle<H>,
        read: impl FnOnce(&str, &Bytes) -> Result<Answer<T>, Malformed>,
    ) -> Result<T, Error> {
        let found = (self.replies.get(handle.index), self.commands.get(handle.index));
        let (Some(reply), Some(Sent { method, .. })) = found else {
            return Err(Error::invalid("the handle is of another batch"));
        };
        if handle.method.is_some_and(|expected| expected.name() != method) {
            return Err(Error::invalid("the handle is of another batch, or of another command"));
        }
        let error = match read(method, reply) {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(api)) => Error::of_command(method, api),
            Err(malformed) => Error::protocol(malformed),
        };
        let error = if self.in_doubt && !error.may_have_run() { error.in_doubt() } else { error };
        Err(error.at(method.clone(), self.transport, self.endpoint.clone()))
    }

    /// The replies, each as the JSON of its envelope.
    pub(crate) fn to_json(&self) -> Result<Vec<Box<RawValue>>, Error> {
        let mut all = Vec::with_capacity(self.replies.len());
        for (index, Sent { method, .. }) in self.commands.iter().enumerate() {
            let envelope = match self.get_json::<Box<RawValue>>(Handle::new(index, None)) {
                Ok(result) => serde_json::value::to_raw_value(&BTreeMap::from([(method, result)])),
                Err(error) => match error.api() {
                    Some(api) => serde_json::value::to_raw_value(&BTreeMap::from([("error", api)])),
                    None => return Err(error),
                },
            };
            all.push(envelope.map_err(|_| Error::protocol("a reply has no JSON form"))?);
        }
        Ok(all)
    }

    pub(crate) fn at(mut self, transport: &'static str, endpoint: Option<Arc<str>>) -> Self {
        (self.transport, self.endpoint) = (transport, endpoint);
        self
    }

    /// Says whether an earlier attempt may have been carried out.
    pub(crate) fn after(self, in_doubt: bool) -> Self {
        Self { in_doubt, ..self }
    }

    /// How many replies there are: as many as the batch has commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether the batch was empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }
}

/// Shows how many replies there are and no payload.
impl std::fmt::Debug for BatchReplies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchReplies").field("len", &self.len()).field("format", &self.format).finish_non_exhaustive()
    }
}

/// Whether the result answers all that the request asked.
pub(crate) fn check_answers<T: Message>(asked: usize, reply: &T) -> Result<(), Error> {
    match reply.answers() {
        Some(answers) if answers == asked => Ok(()),
        Some(answers) => Err(Error::protocol(format!("the answer has {answers} results where {asked} were asked for"))),
        None => Err(Error::protocol("a part of the answer has neither a result nor an error")),
    }
}

fn command_tag(method: &str) -> Result<u32, Malformed> {
    // Only known methods are sent in protobuf.
    Method::from_name(method).and_then(Method::command_tag).ok_or_else(|| "the reply is to an unknown method".into())
}

/// Reads a result, given as protobuf, by way of JSON.
pub(crate) fn result_from_protobuf<T: DeserializeOwned>(method: &str, result: Bytes) -> Result<T, Malformed> {
    let method = Method::from_name(method).ok_or("the reply is to an unknown method")?;
    let mut json = Vec::new();
    method.result_to_json(result, &mut json).map_err(|error| {
        format!("the result has no JSON form ({error}); the method called with its own types returns it")
    })?;
    wire::from_json(&json)
}
