//! Bounds the memory of the replies that a client reads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Outcome};

/// So many replies of the longest length may be read at once, over all endpoints of a client.
const LONGEST: usize = 4;
/// Shorter replies are not counted.
const SHORT: usize = 64 * 1024;

/// The memory of the replies that are being read. A clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct ReplyMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    used: AtomicUsize,
    limit: usize,
}

/// The memory of one reply, released when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    memory: ReplyMemory,
    read: usize,
    counted: usize,
}

/// The replies that are being read use too much memory together.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the replies being read are over {LONGEST} times `max_reply_size`, {limit} bytes together")]
pub(crate) struct OutOfMemory {
    limit: usize,
}

impl From<OutOfMemory> for Error {
    fn from(error: OutOfMemory) -> Self {
        Self::new(ErrorKind::TooLarge, error.to_string()).with_outcome(Outcome::Unknown)
    }
}

impl ReplyMemory {
    pub(crate) fn new(max_reply_size: usize) -> Self {
        Self(Arc::new(Inner { used: AtomicUsize::new(0), limit: max_reply_size.saturating_mul(LONGEST) }))
    }

    pub(crate) fn hold(&self) -> Held {
        Held { memory: self.clone(), read: 0, counted: 0 }
    }
}

impl Held {
    /// Counts more bytes of the reply.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        self.read = self.read.saturating_add(bytes);
        if self.read <= SHORT {
            return Ok(());
        }
        let (inner, more) = (&self.memory.0, self.read - self.counted);
        let add = |used: usize| used.checked_add(more).filter(|used| *used <= inner.limit);
        if inner.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            return Err(OutOfMemory { limit: inner.limit });
        }
        self.counted = self.read;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.memory.0.used.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_replies_share_the_memory_and_short_ones_need_none() {
        let memory = ReplyMemory::new(SHORT);
        let mut all: Vec<_> = (0..100).map(|_| memory.hold()).collect();
        assert!(all.iter_mut().all(|held| held.grow(SHORT).is_ok()));
        assert!(all[0].grow(SHORT).is_ok() && all[1].grow(SHORT).is_ok());
        assert!(all[2].grow(1).is_err());
        all.clear();
        assert!(memory.hold().grow(4 * SHORT).is_ok());
        assert!(memory.hold().grow(4 * SHORT + 1).is_err());
    }
}
