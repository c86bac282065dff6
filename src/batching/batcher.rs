//! Plain calls that share requests.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
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

/// Lets the plain calls of a client share requests.
pub(crate) struct Batcher {
    batching: Batching,
    engines: PerRuntime<Kept>,
}

/// An engine, which a task of its runtime owns: so it ends with the runtime, whose files it would keep open otherwise.
#[derive(Clone)]
struct Kept {
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
                let kept = Kept { engine: Arc::downgrade(&engine), _client: Arc::new(of_client) };
                // For this call, if the runtime is ending.
                new = Some(Arc::clone(&engine));
                tokio::spawn(async move {
                    let _ = gone.await;
                    drop(engine);
                });
                Ok::<_, Infallible>(kept)
            };
            let Ok(kept) = self.engines.get(|kept| kept.engine.strong_count() > 0, make);
            // It may have gone just now.
            if let Some(engine) = kept.engine.upgrade() {
                drop(new);
                return engine;
            }
        }
    }

    /// Sends a call by itself if there is a slot, and with others if not. Clients with other retries or deadlines share the engine.
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

/// A command that somebody waits for. Dropped before it has left, it is withdrawn; after that it goes on.
pub(super) struct Awaited {
    accepted: Accepted,
    done: bool,
}

impl Awaited {
    pub(super) fn new(accepted: Accepted) -> Self {
        Self { accepted, done: false }
    }

    /// Its result.
    pub(super) async fn result<T: Message>(mut self, method: Method, expected: usize) -> Result<T, Error> {
        if let Some(inline) = &self.accepted.inline {
            poll_fn(|cx| inline.poll(cx)).await;
        }
        let settled = (&mut self.accepted.settled).await;
        self.done = true;
        self.accepted.read(settled.unwrap_or_else(|_| Err(forgotten())), method, expected)
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

/// The error of a command that ended without a result and without an error, which does not happen.
pub(super) fn forgotten() -> Error {
    Error::new(ErrorKind::Closed, "the call was forgotten").with_outcome(Outcome::Unknown)
}
