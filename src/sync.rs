//! Synchronisation that tokio and std lack: a lock without poisoning, a cancel signal, values for each runtime.

pub(crate) mod cancel;
pub(crate) mod per_runtime;

use std::future::Future;
use std::pin::Pin;
use std::sync::{LockResult, MutexGuard, PoisonError};

/// A boxed future, as [`Transport`](crate::transport::Transport) returns them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A mutex that a panic does not poison: see [`unpoisoned`].
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        unpoisoned(self.0.lock())
    }
}

/// The guard of a lock, whether another thread has panicked with it or not.
///
/// No lock of this crate is held while foreign code runs, and the data behind each is consistent between any two statements.
fn unpoisoned<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}
