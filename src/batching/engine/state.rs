//! What the engine keeps under its lock.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::batching::accepted::Settled;
use crate::batching::command::CommandId;
use crate::batching::deadlines::Deadlines;
use crate::batching::inline::InlineSend;
use crate::batching::queue::Queue;
use crate::call::close::CloseSummary;
use crate::error::Outcome;

pub(super) struct State {
    pub(super) queue: Queue<Waiting>,
    /// How many more batches may be sent now.
    pub(super) slots: usize,
    pub(super) closed: bool,
    /// Batches that callers send themselves. Some may be done.
    pub(super) inline: Vec<Arc<InlineSend>>,
    /// Of the commands in the background.
    pub(super) deadlines: Deadlines,
    /// How many wait for capacity, which is to come from what is in flight.
    pub(super) draining: usize,
    /// How the commands ended that are over.
    pub(super) totals: CloseSummary,
    /// Those who wait until what there was is over.
    watchers: Vec<Watcher>,
}

/// What is kept of a command until it is over.
#[derive(Default)]
pub(in crate::batching) struct Waiting {
    /// `None` once its caller was told.
    pub(super) reply: Option<oneshot::Sender<Settled>>,
    /// The bytes that it takes of the capacity.
    pub(super) bytes: usize,
}

/// Waits until the commands with smaller numbers are over.
struct Watcher {
    before: u64,
    left: usize,
    done: oneshot::Sender<()>,
}

impl State {
    pub(super) fn new(queue: Queue<Waiting>, slots: usize) -> Self {
        Self {
            queue,
            slots,
            closed: false,
            inline: Vec::new(),
            deadlines: Deadlines::default(),
            draining: 0,
            totals: CloseSummary::default(),
            watchers: Vec::new(),
        }
    }

    /// Watches what is not over now, if anything is.
    pub(super) fn watch(&mut self) -> Option<oneshot::Receiver<()>> {
        let left = self.queue.len();
        if left == 0 {
            return None;
        }
        let (done, over) = oneshot::channel();
        self.watchers.push(Watcher { before: self.queue.next(), left, done });
        Some(over)
    }

    /// Counts a command that is over. Those who have waited for it last.
    pub(super) fn over(&mut self, id: CommandId, outcome: Outcome) -> Vec<oneshot::Sender<()>> {
        self.totals.count(outcome);
        if self.watchers.is_empty() {
            return Vec::new();
        }
        for watcher in self.watchers.iter_mut().filter(|watcher| id.number < watcher.before) {
            watcher.left -= 1;
        }
        self.watchers.extract_if(.., |watcher| watcher.left == 0).map(|watcher| watcher.done).collect()
    }

    pub(super) fn clean_deadlines(&mut self) {
        let Self { deadlines, queue, .. } = self;
        deadlines.clean(queue.len(), |id| queue.contains(id));
    }
}
