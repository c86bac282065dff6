//! A batch of one command that its caller's own future sends: that saves a task, and wake-ups across threads.
//!
//! But others must not have to wait for a future that its owner does not poll. So as soon as somebody waits (for a slot, a turn,
//! capacity, or the end), or the future is dropped, a task goes on with it.
//!
//! ```text
//! accept ──► polled by its caller ── done ──────────────────────────────► over
//!                   │                                                       ▲
//!                   └─ spawn: somebody waits, or the caller is dropped ─► a task
//! ```
//!
//! `spawn` may come from another thread while the caller polls: then the future is not in its place, and the caller spawns it
//! when it is back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::sync::{BoxFuture, Mutex};

pub(super) struct InlineSend {
    runtime: Handle,
    /// The send, and the way to wake the caller, who otherwise waits for nothing else.
    state: Mutex<(Option<BoxFuture<'static, ()>>, Option<Waker>)>,
    /// Whether a task is to go on with it.
    spawned: AtomicBool,
}

impl InlineSend {
    pub(super) fn new(runtime: Handle, send: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        let state = Mutex::new((Some(Box::pin(send) as _), None));
        Arc::new(Self { runtime, state, spawned: AtomicBool::new(false) })
    }

    /// Goes on with it. Ready when it is done, or a task goes on with it.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Not locked while it is polled, which may be what spawns it. The waker is dropped with it, once it is done.
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

    /// Has a task go on with it.
    pub(super) fn spawn(&self) {
        self.spawned.store(true, Ordering::SeqCst);
        // While it is polled it is not there, and whoever polls it looks at `spawned` afterwards.
        let (send, caller) = std::mem::take(&mut *self.state.lock());
        if let Some(send) = send {
            self.runtime.spawn(send);
        }
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}
