//! A cancel signal, and futures that end with it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// A cancel signal, to be polled or awaited.
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

/// Waits until the condition holds. It is checked again at each notification.
pub(crate) async fn wait_until(notify: &Notify, condition: impl Fn() -> bool) {
    loop {
        let mut notified = pin!(notify.notified());
        if condition() {
            return;
        }
        notified.as_mut().await;
    }
}

/// The future's output, unless `stop` ends first.
pub(crate) fn unless<F: Future, S: Future>(future: F, stop: S) -> Unless<F, S> {
    Unless { future, stop }
}

/// The future's output, or the end that has passed. `end` is called after each poll, as it may become earlier. A future that is
/// ready at once needs no timer.
pub(crate) fn in_time<F: Future, E: Fn() -> Option<Instant>>(future: F, end: E) -> InTime<F, E> {
    InTime { future, end, timer: None }
}

// Written by hand, because an `async fn` stores each future argument twice.
pin_project! {
    pub(crate) struct Unless<F, S> {
        #[pin]
        future: F,
        #[pin]
        stop: S,
    }
}

pin_project! {
    pub(crate) struct InTime<F, E> {
        #[pin]
        future: F,
        end: E,
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<F: Future, S: Future> Future for Unless<F, S> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => this.stop.poll(cx).map(|_| None),
        }
    }
}

impl<F: Future, E: Fn() -> Option<Instant>> Future for InTime<F, E> {
    type Output = Result<F::Output, Instant>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let Some(end) = (this.end)() else { return Poll::Pending };
        if this.timer.is_none() {
            this.timer.set(Some(sleep_until(end)));
        }
        let Some(mut timer) = this.timer.as_pin_mut() else { return Poll::Pending };
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.poll(cx).map(|()| Err(end))
    }
}
