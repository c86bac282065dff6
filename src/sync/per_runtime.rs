//! One value for each tokio runtime.
//!
//! A connection is driven by a task of its runtime, and stops working when that is not running. So a client that several runtimes
//! use (a test suite has one for every test) keeps connections for each of them.

use std::sync::RwLock;

use tokio::runtime::{Handle, Id};

use crate::sync::unpoisoned;

/// The most runtimes with a value. More than run at once even with one for each core; beyond that, runtimes would evict each
/// other's connections. Values of ended runtimes take little memory until they are evicted.
const MAX_RUNTIMES: usize = 512;

/// One `T` for each of the latest runtimes.
#[derive(Debug)]
pub(crate) struct PerRuntime<T>(RwLock<Vec<(Id, T)>>);

impl<T: Clone> PerRuntime<T> {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    /// The `T` of the current runtime, made now if there is none that is `good`. Must be called in a runtime.
    pub(crate) fn get<E>(&self, good: impl Fn(&T) -> bool, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let id = Handle::current().id();
        let of_runtime = |all: &[(Id, T)]| {
            all.iter().find(|(owner, value)| *owner == id && good(value)).map(|(_, value)| value.clone())
        };

        if let Some(value) = of_runtime(&unpoisoned(self.0.read())) {
            return Ok(value);
        }
        let mut all = unpoisoned(self.0.write());
        if let Some(value) = of_runtime(&all) {
            return Ok(value);
        }
        let value = make()?;
        all.retain(|(owner, _)| *owner != id);
        if all.len() == MAX_RUNTIMES {
            all.remove(0);
        }
        all.push((id, value.clone()));
        Ok(value)
    }

    /// The values of all runtimes.
    #[cfg(feature = "grpc")]
    pub(crate) fn all(&self) -> Vec<T> {
        unpoisoned(self.0.read()).iter().map(|(_, value)| value.clone()).collect()
    }

    /// Drops all values.
    pub(crate) fn clear(&self) {
        unpoisoned(self.0.write()).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn each_runtime_keeps_its_value() {
        let all = PerRuntime::new();
        let runtimes: Vec<_> = (0..128).map(|_| Builder::new_current_thread().build().unwrap()).collect();
        for _ in 0..2 {
            for (number, runtime) in runtimes.iter().enumerate() {
                assert_eq!(runtime.block_on(async { all.get(|_| true, || Ok::<_, Infallible>(number)) }), Ok(number));
            }
        }
    }

    #[test]
    fn values_of_ended_runtimes_are_bounded() {
        let all = PerRuntime::new();
        for number in 0..MAX_RUNTIMES + 10 {
            let runtime = Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(async { all.get(|_| true, || Ok::<_, Infallible>(number)) }), Ok(number));
        }
        assert_eq!(all.0.read().unwrap().len(), MAX_RUNTIMES);
    }
}
