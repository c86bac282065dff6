//! An outgoing batch of one command, sent by its caller's future: saves a task, and wake-ups across threads.
//!
//! Others must not depend on a future that its owner may not poll. So the send moves to a task as soon as another command, a
//! wait for capacity, a flush or a close depends on it, its deadline passes, or the caller's future is dropped.
//!
//! ```text
//! accept ──► polled by its caller ── done ───────────────────────────────────► ended
//!                   │                                                            ▲
//!                   └─ spawn: others depend on it, or the caller is gone ─► a task
//! ```
//!
//! `spawn` may be called from another thread while the caller polls. The future is then taken out of its place, and the caller
//! spawns it after the poll.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::sync::{BoxFuture, Mutex};

pub(super) struct InlineSend {
    runtime: Handle,
    /// The send, and the waker of the caller, which waits for nothing else.
    state: Mutex<(Option<BoxFuture<'static, ()>>, Option<Waker>)>,
    /// Whether the send is to move to a task.
    spawned: AtomicBool,
}

impl InlineSend {
    pub(super) fn new(runtime: Handle, send: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        let state = Mutex::new((Some(Box::pin(send) as _), None));
        Arc::new(Self { runtime, state, spawned: AtomicBool::new(false) })
    }

    /// Polls the send. Ready when it is done or has moved to a task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Not locked during the poll, which may call `spawn`.
        let (send, _waker) = std::mem::take(&mut *self.state.lock());
        let Some(mut send) = send else { return Poll::Ready(()) };
        if send.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        *self.state.lock() = (Some(send), Some(cx.waker().clone()));
        if self.spawned.load(Ordering::SeqCst) {
            self.spawn();
        }
        Poll::Pending
    }

    /// Moves the send to a task.
    pub(super) fn spawn(&self) {
        self.spawned.store(true, Ordering::SeqCst);
        // During a poll it is not here, and `poll` checks `spawned` afterwards.
        let (send, caller) = std::mem::take(&mut *self.state.lock());
        if let Some(send) = send {
            self.runtime.spawn(send);
        }
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}
