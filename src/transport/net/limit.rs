//! Bounds how many requests are in flight at once; the others wait in order.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// How long after the limit was lowered it is raised again by one.
const RAISE: Duration = Duration::from_secs(1);

/// A limit that is lowered while this side has no file descriptors or ports for more.
#[derive(Debug)]
pub(crate) struct Limit {
    permits: Semaphore,
    /// The limit that was set, and by how much it is lowered.
    most: usize,
    lowered: AtomicUsize,
    epoch: Instant,
    /// When it was changed last, in milliseconds since `epoch`.
    changed: AtomicU64,
}

/// Allows one request. Dropping it lets the next one go.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limit: &'a Limit,
    permit: Option<SemaphorePermit<'a>>,
}

impl Limit {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let (lowered, changed) = <_>::default();
        Self { permits: Semaphore::new(limit), most: limit, lowered, epoch: Instant::now(), changed }
    }

    fn permit<'a>(&'a self, permit: SemaphorePermit<'a>) -> Permit<'a> {
        Permit { limit: self, permit: Some(permit) }
    }

    /// A permit, if there is one now and nobody waits.
    pub(crate) fn try_acquire(&self) -> Option<Permit<'_>> {
        self.permits.try_acquire().ok().map(|permit| self.permit(permit))
    }

    /// Waits for a permit. They are granted in the order in which they were asked for.
    pub(crate) async fn acquire(&self) -> Permit<'_> {
        // It is never closed.
        let permit = self.permits.acquire().await.ok();
        Permit { limit: self, permit }
    }

    /// Raises a lowered limit by one, if that is due.
    fn raise(&self) {
        let (now, changed) = (self.now(), self.changed.load(Ordering::Relaxed));
        let is_due = now.saturating_sub(changed) >= RAISE.as_millis().try_into().unwrap_or(u64::MAX);
        let same = |now| self.changed.compare_exchange(changed, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due && same(now) {
            let less = |lowered: usize| lowered.checked_sub(1);
            if self.lowered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                self.permits.add_permits(1);
            }
        }
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }
}

impl Permit<'_> {
    /// Lowers the limit by this permit, unless it is the last. Whether it was lowered, so that another may come free.
    pub(crate) fn lower(mut self) -> bool {
        let limit = self.limit;
        limit.changed.store(limit.now(), Ordering::Relaxed);
        let more = |lowered: usize| Some(lowered + 1).filter(|lowered| *lowered < limit.most);
        let is_lowered = limit.lowered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if let Some(permit) = self.permit.take().filter(|_| is_lowered) {
            permit.forget();
        }
        is_lowered
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.limit.lowered.load(Ordering::Relaxed) > 0 {
            self.limit.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lowered_limit_is_raised_by_one_a_second_up_to_what_was_set() {
        let limit = Limit::new(3);
        let permits: Vec<_> = (0..3).map(|_| limit.try_acquire().unwrap()).collect();
        assert!(limit.try_acquire().is_none());
        let lowered: Vec<_> = permits.into_iter().map(Permit::lower).collect();
        assert_eq!(lowered, [true, true, false], "one request is always allowed");
        for allowed in [1, 2, 3, 3] {
            let permits: Vec<_> = std::iter::from_fn(|| limit.try_acquire()).collect();
            assert_eq!(permits.len(), allowed);
            tokio::time::advance(RAISE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn permits_are_granted_in_order_and_a_dropped_wait_takes_none() {
        let limit = std::sync::Arc::new(Limit::new(1));
        let first = limit.try_acquire().unwrap();
        let (granted, mut order) = tokio::sync::mpsc::unbounded_channel();
        let waits: Vec<_> = (0..3)
            .map(|number| {
                let (limit, granted) = (std::sync::Arc::clone(&limit), granted.clone());
                tokio::spawn(async move {
                    let _permit = limit.acquire().await;
                    granted.send(number).unwrap();
                })
            })
            .collect();
        tokio::task::yield_now().await;
        waits[1].abort();
        tokio::task::yield_now().await;
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert_eq!((order.recv().await, order.recv().await), (Some(0), Some(2)));
        assert!(limit.try_acquire().is_some());
    }
}
