//! Values that belong to the tokio runtime they were made in, one for each.
//!
//! A connection is driven by a task, and a task by its runtime: used from another one, it stops working as soon as its
//! own is not running. So a client that several runtimes use (a test suite has one for every test) keeps its connections
//! apart.

use std::sync::RwLock;

use tokio::runtime::{Handle, Id};

use crate::sync::unpoisoned;

/// More than run at once, where there is one for each core: with fewer, each call of one would cost another its connections.
/// What is forgotten, of those that have ended, costs little memory until then.
const MAX_RUNTIMES: usize = 512;

/// One `T` for each runtime that asked for it lately.
#[derive(Debug)]
pub(crate) struct PerRuntime<T>(RwLock<Vec<(Id, T)>>);

impl<T: Clone> PerRuntime<T> {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    /// The `T` of the current runtime, made now if there is none that is still `good`. Must be called in a runtime.
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

    /// Forgets all.
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
    fn a_runtime_gets_back_its_own() {
        let all = PerRuntime::new();
        let runtimes: Vec<_> = (0..128).map(|_| Builder::new_current_thread().build().unwrap()).collect();
        for _ in 0..2 {
            for (number, runtime) in runtimes.iter().enumerate() {
                assert_eq!(runtime.block_on(async { all.get(|_| true, || Ok::<_, Infallible>(number)) }), Ok(number));
            }
        }
    }

    #[test]
    fn runtimes_that_come_and_go_leave_a_bounded_number_behind() {
        let all = PerRuntime::new();
        for number in 0..MAX_RUNTIMES + 10 {
            let runtime = Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(async { all.get(|_| true, || Ok::<_, Infallible>(number)) }), Ok(number));
        }
        assert_eq!(all.0.read().unwrap().len(), MAX_RUNTIMES);
    }
}
