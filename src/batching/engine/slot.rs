//! The right to have a batch in flight.

use std::sync::Arc;

use crate::batching::engine::Engine;
use crate::batching::outgoing::OutgoingBatch;

/// The right to have one batch in flight.
pub(in crate::batching) struct Slot {
    engine: Arc<Engine>,
    /// Whether it is held by something that runs. If not even that, its runtime has ended.
    runs: bool,
    returned: bool,
}

impl Slot {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine), runs: false, returned: false }
    }

    pub(in crate::batching) fn runs(&mut self) {
        self.runs = true;
    }

    /// The next batch. Without one, the slot is free.
    pub(super) fn next(&mut self) -> Option<OutgoingBatch> {
        let mut state = self.engine.state();
        let batch = state.queue.take();
        if batch.is_none() {
            state.slots += 1;
            self.returned = true;
        }
        batch
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.returned {
            return;
        }
        let mut state = self.engine.state();
        let goes_on = self.runs && state.queue.has_batch();
        state.slots += usize::from(!goes_on);
        drop(state);
        if goes_on {
            self.engine.send(Self::new(&self.engine));
        } else if !self.runs {
            self.engine.abandon();
        }
    }
}
