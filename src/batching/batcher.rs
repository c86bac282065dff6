//! Combines the calls of a client into batches.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::api::method::Method;
use crate::api::request::Request;
use crate::batching::accepted::Accepted;
use crate::batching::engine::Engine;
use crate::call::Core;
use crate::call::typed::TypedCall;
use crate::config::batching::{Batching, Order};
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::per_runtime::PerRuntime;
use crate::wire::body::Message;

/// Combines the calls of a client into batches.
pub(crate) struct Batcher {
    batching: Batching,
    engines: PerRuntime<EngineRef>,
}

/// An engine, owned by a task of its runtime, so that it is dropped with the runtime and keeps no sockets open.
#[derive(Clone)]
struct EngineRef {
    engine: Weak<Engine>,
    /// Dropped with the client, which ends the task.
    _client: Arc<oneshot::Sender<Infallible>>,
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.batching.fmt(f)
    }
}

impl Batcher {
    pub(crate) fn new(batching: Batching) -> Arc<Self> {
        Arc::new(Self { batching, engines: PerRuntime::new() })
    }

    /// The engine of this runtime.
    fn engine(&self, core: &Core) -> Arc<Engine> {
        loop {
            let mut new = None;
            let make = || {
                let runtime = Handle::current();
                let engine = Engine::new(core.clone(), &self.batching, Order::None, None, runtime);
                let (of_client, gone) = oneshot::channel();
                let kept = EngineRef { engine: Arc::downgrade(&engine), _client: Arc::new(of_client) };
                // Kept for this call, in case the runtime is shutting down.
                new = Some(Arc::clone(&engine));
                tokio::spawn(async move {
                    let _ = gone.await;
                    drop(engine);
                });
                Ok::<_, Infallible>(kept)
            };
            let Ok(kept) = self.engines.get(|kept| kept.engine.strong_count() > 0, make);
            // Its runtime may have ended meanwhile.
            if let Some(engine) = kept.engine.upgrade() {
                drop(new);
                return engine;
            }
        }
    }

    /// Sends a call by itself if a slot is free, or else in a batch. Clones with other retries or deadlines share the engine.
    pub(crate) async fn send<R: Request>(&self, core: &Core, call: &mut TypedCall<'_, R>) -> Result<R::Result, Error> {
        let engine = self.engine(core);
        let deadline = call.attempts.deadline();
        let sent = match engine.accept(call.request, call.key, deadline, &core.retry, true) {
            Ok(accepted) => Awaited::new(accepted).result(R::METHOD, call.request.expected_results()).await,
            Err(error) => Err(error),
        };
        call.attempts.end_with(sent)
    }
}

/// A command whose caller waits for it. Dropping it withdraws a command that has not been sent; one in flight goes on.
pub(super) struct Awaited {
    accepted: Accepted,
    done: bool,
}

impl Awaited {
    pub(super) fn new(accepted: Accepted) -> Self {
        Self { accepted, done: false }
    }

    /// Waits for the result.
    pub(super) async fn result<T: Message>(mut self, method: Method, expected: usize) -> Result<T, Error> {
        let Accepted { inline, settled, .. } = &mut self.accepted;
        let mut sends = inline.as_ref();
        let settled = poll_fn(|cx| {
            if sends.is_some_and(|inline| inline.poll(cx).is_ready()) {
                sends = None;
            }
            Pin::new(&mut *settled).poll(cx)
        })
        .await;
        if let Some(inline) = sends {
            // Its deadline has passed.
            inline.spawn();
        }
        self.done = true;
        self.accepted.read(settled.unwrap_or_else(|_| Err(no_result())), method, expected)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        match &self.accepted.inline {
            _ if self.done => {}
            Some(inline) => inline.spawn(),
            None => {
                self.accepted.withdraw();
            }
        }
    }
}

/// The error of a command that ended with neither a result nor an error, which would be a bug.
pub(super) fn no_result() -> Error {
    Error::new(ErrorKind::Closed, "the call ended without a result").with_outcome(Outcome::Unknown)
}
