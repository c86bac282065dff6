use std::sync::Arc;

use crate::batching::engine::Engine;
use crate::batching::outgoing::OutgoingBatch;

/// A permit for one batch in flight. Dropping it passes it on to the next batch.
pub(in crate::batching) struct Slot {
    engine: Arc<Engine>,
    /// Whether its holder has been polled. If it is dropped before that, the runtime has ended.
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

    /// Takes the next batch, or frees the slot if there is none.
    pub(super) fn next(&mut self) -> Option<OutgoingBatch> {
        self.engine.end_too_late();
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
        let has_next = self.runs && state.queue.has_batch();
        state.slots += usize::from(!has_next);
        drop(state);
        if has_next {
            self.engine.send(Self::new(&self.engine));
        } else if !self.runs {
            self.engine.abandon();
        }
    }
}
