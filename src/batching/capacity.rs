//! Bounds how many messages and bytes wait at once.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};

/// The bytes counted for a message besides its request.
const OVERHEAD: usize = 64;

/// Capacity for messages, granted in FIFO order. A message holds it until it ends, even if its caller is dropped.
#[derive(Debug)]
pub(super) struct Capacity {
    messages: Semaphore,
    bytes: Semaphore,
    max_messages: usize,
    max_bytes: usize,
}

impl Capacity {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        // The most that a semaphore takes, which is no bound in practice.
        let [max_messages, max_bytes] = [max_messages, max_bytes].map(|max| max.min(Semaphore::MAX_PERMITS));
        Self { messages: Semaphore::new(max_messages), bytes: Semaphore::new(max_bytes), max_messages, max_bytes }
    }

    /// Takes capacity for a message whose request has this length, if there is enough now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] when the message exceeds the whole capacity, [`ErrorKind::Full`] when there is not enough now,
    /// [`ErrorKind::Closed`] when it is closed.
    pub(super) fn try_take(&self, len: usize) -> Result<(), Error> {
        let bytes = self.bytes_of(len)?;
        if self.messages.is_closed() {
            return Err(closed());
        }
        let full = || Error::new(ErrorKind::Full, "the publisher's capacity is used up");
        let bytes = self.bytes.try_acquire_many(bytes).map_err(|_| full())?;
        let message = self.messages.try_acquire().map_err(|_| full())?;
        keep(bytes, message);
        Ok(())
    }

    /// Waits for capacity, until the deadline.
    pub(super) async fn take(&self, len: usize, deadline: Option<Instant>) -> Result<(), Error> {
        let take = async {
            let bytes = self.bytes.acquire_many(self.bytes_of(len)?).await.map_err(|_| closed())?;
            let message = self.messages.acquire().await.map_err(|_| closed())?;
            keep(bytes, message);
            Ok(())
        };
        match deadline {
            None => take.await,
            Some(deadline) => tokio::time::timeout_at(deadline, take).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Full, "the publisher's capacity was still used up at the deadline"))
            }),
        }
    }

    /// Releases the capacity of messages that have ended.
    pub(super) fn release(&self, lens: impl IntoIterator<Item = usize>) {
        let (mut messages, mut bytes) = (0, 0);
        for len in lens {
            messages += 1;
            bytes += len + OVERHEAD;
        }
        self.bytes.add_permits(bytes);
        self.messages.add_permits(messages);
    }

    /// The messages and bytes in use.
    pub(super) fn used(&self) -> (usize, usize) {
        let messages = self.max_messages.saturating_sub(self.messages.available_permits());
        (messages, self.max_bytes.saturating_sub(self.bytes.available_permits()))
    }

    /// Grants no more.
    pub(super) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }

    fn bytes_of(&self, len: usize) -> Result<u32, Error> {
        let bytes = len.saturating_add(OVERHEAD);
        match u32::try_from(bytes) {
            Ok(fits) if bytes <= self.max_bytes => Ok(fits),
            _ => {
                let what = format!("the request has {len} bytes; the publisher's whole capacity is {}", self.max_bytes);
                Err(Error::new(ErrorKind::TooLarge, what))
            }
        }
    }
}

/// Keeps permits until [`Capacity::release`].
fn keep(bytes: SemaphorePermit<'_>, message: SemaphorePermit<'_>) {
    bytes.forget();
    message.forget();
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the publisher was closed before the call")
}

#[cfg(test)]
mod tests;
