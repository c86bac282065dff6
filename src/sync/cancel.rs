//! A signal to stop, and futures that end with it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

/// A signal to stop, for those who look and for those who wait.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    is_set: AtomicBool,
    set: Notify,
}

impl Cancel {
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        self.set.notify_waiters();
    }

    pub(crate) async fn wait(&self) {
        wait_until(&self.set, || self.is_set()).await;
    }
}

/// Waits until the condition holds. `notify` wakes those who wait when it may.
pub(crate) async fn wait_until(notify: &Notify, condition: impl Fn() -> bool) {
    loop {
        let notified = notify.notified();
        if condition() {
            return;
        }
        notified.await;
    }
}

/// The future's output, unless `stop` ends first.
pub(crate) async fn unless<F: Future>(future: F, stop: impl Future<Output = ()>) -> Option<F::Output> {
    let (mut future, mut stop) = (pin!(future), pin!(stop));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| None),
    })
    .await
}
