//! Many calls in one request.

pub(super) mod commands;
pub(crate) mod json;
pub(crate) mod part;

use std::borrow::Borrow as _;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::value::RawValue;

use crate::api::batch::commands::{Command, Commands};
use crate::api::batch::part::Part;
use crate::api::finite::parameters;
use crate::api::method::Method;
use crate::api::request::check::Problem;
use crate::api::request::{IntoRequest, Request};
use crate::error::Error;

/// Commands of any kind, sent in one request, or in as few as their length allows.
///
/// The server executes them in order, or with [`parallel`](Self::parallel) at the same time. Each has a result of its own: a
/// command that fails does not stop the others. A batch is a value like any request: it can be sent again, and over either
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
/// otherwise, over HTTP as much as proxies accept. A batch that is over the limit is sent in several requests, one after the
/// other and in order, and its handles stay valid. Commands are not split: one that is over the limit of this client by itself
/// is [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and then nothing of the batch is sent.
///
/// See the server's page on [batching](https://centrifugal.dev/docs/server/server_api#batch).
#[derive(Clone)]
pub struct Batch {
    /// Which batch a handle is of. Clones share it.
    pub(super) id: u64,
    /// Shared with the requests made of it and with their replies.
    pub(super) commands: Arc<Commands>,
    parallel: bool,
    /// Whether publications without a key are given one.
    keys: bool,
    /// Why a request must not be sent, with its method: the error of sending the batch.
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

/// Shows the methods and no payload.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("commands", &self.commands.list.iter().map(Command::method).collect::<Vec<_>>())
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// A command of a batch: gets its result, with its type, from [`BatchReplies::get`](crate::BatchReplies::get).
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

impl<T: ?Sized> fmt::Debug for BatchHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BatchHandle").field(&self.index).finish()
    }
}

impl<T: ?Sized> BatchHandle<T> {
    pub(super) fn new(batch: u64, index: usize, method: Option<Method>) -> Self {
        Self { batch, index, method, reply: PhantomData }
    }
}

impl Batch {
    /// An empty batch, whose commands are executed in order.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the server execute the commands at the same time, up to 1,024 of them, in no order.
    ///
    /// Faster with a Redis engine, no faster in memory. A batch that is sent in several requests is parallel within each.
    #[must_use]
    pub fn parallel(mut self, parallel: bool) -> Self {
        self.parallel = parallel;
        self
    }

    /// Sets whether every `publish` and `broadcast` that is [pushed](Self::push) from now on, and has no idempotency key, is given
    /// one when the batch is sent. On unless set, and off for a client without retries. Commands given as JSON stay as they
    /// are.
    ///
    /// A request that failed without a response is repeated only if each of its commands may take effect twice; with keys,
    /// publications may. Sending the batch again makes other keys, and publishes again. See
    /// [`Retry::idempotency_keys`](crate::Retry::idempotency_keys) on their cost.
    #[must_use]
    pub fn idempotency_keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Adds a command. The handle gets its result from [the replies](crate::BatchReplies::get).
    pub fn push<R: Request>(&mut self, request: impl IntoRequest<R>) -> BatchHandle<R::Result> {
        let (method, request) = (R::METHOD, request.into_request());
        let request: &R = request.borrow();
        self.check_command(Some(method), || request.check());
        let index = Arc::make_mut(&mut self.commands).push(request, self.keys);
        BatchHandle::new(self.id, index, Some(method))
    }

    /// Adds a command by its name, with its parameters in JSON: also one that the schema of this version does not have, but
    /// then over HTTP only.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the parameters cannot be written as JSON, or
    /// when the name is not lower-case letters, digits and underscores.
    pub fn push_json(&mut self, method: &str, params: impl serde::Serialize) -> Result<BatchHandle<RawValue>, Error> {
        json::check_method_name(method)?;
        let params = parameters(&params)?;
        let known = Method::from_name(method);
        self.check_command(known, || known.map_or(Ok(()), |known| known.check_json(params.get().as_bytes())));
        let repeatable = known.is_some_and(|known| known.is_repeatable_json(params.get().as_bytes()));
        let index = Arc::make_mut(&mut self.commands).push_json(method, params, repeatable);
        Ok(BatchHandle::new(self.id, index, None))
    }

    /// Keeps the problem of the first command that must not be sent, and before that of one that only PRO takes.
    fn check_command(&mut self, method: Option<Method>, check: impl FnOnce() -> Result<(), Problem>) {
        if let (None | Some((_, Problem::ProOnly(_))), Some(method)) = (&self.problem, method)
            && let Err(problem) = check()
            && (self.problem.is_none() || matches!(problem, Problem::Invalid(_)))
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

    /// The batch as it is sent: with new keys where there are to be some, or without.
    pub(crate) fn with_keys(&self, wanted: bool) -> Result<Self, Error> {
        if !self.commands.have_keys() {
            return Ok(self.clone());
        }
        let commands = if wanted { self.commands.with_new_keys()? } else { self.commands.without_keys() };
        Ok(Self { commands: Arc::new(commands), ..self.clone() })
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

    /// All commands, as a part that is sent in one request.
    pub(crate) fn all(&self) -> Part<'_> {
        Part { batch: self, range: 0..self.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::message::{Disconnect, DisconnectRequest, HistoryRequest, StreamPosition};

    #[test]
    fn an_invalid_command_behind_one_for_pro_is_refused_on_pro_too() {
        let mut batch = Batch::new();
        batch.push(DisconnectRequest::new("42").all_users(true).disconnect(Disconnect::new(4000, "")));
        batch.push(HistoryRequest::new("news").reverse(true).since(StreamPosition::new(0, "")));
        assert!(batch.check(false).is_err());
        let error = batch.check(true).unwrap_err();
        assert_eq!(error.method(), Some("history"));
    }
}
