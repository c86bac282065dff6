//! The engine's state, under its lock.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::batching::accepted::Settled;
use crate::batching::command::CommandId;
use crate::batching::deadlines::Deadlines;
use crate::batching::inline::InlineSend;
use crate::batching::queue::Queue;
use crate::batching::response_times::ResponseTimes;
use crate::call::close::CloseSummary;
use crate::error::Outcome;

pub(super) struct State {
    pub(super) queue: Queue<Waiting>,
    /// The number of free slots.
    pub(super) slots: usize,
    pub(super) closed: bool,
    /// Inline sends. Some may be done.
    pub(super) inline: Vec<Arc<InlineSend>>,
    /// The deadlines of commands that are not sent inline.
    pub(super) deadlines: Deadlines,
    pub(super) response_times: ResponseTimes,
    /// How many callers wait for capacity.
    pub(super) capacity_demands: usize,
    /// The ended commands by outcome.
    pub(super) totals: CloseSummary,
    watchers: Vec<Watcher>,
}

/// What is kept of a command until it ends.
#[derive(Default)]
pub(in crate::batching) struct Waiting {
    /// `None` once its caller has its result.
    pub(super) reply: Option<oneshot::Sender<Settled>>,
    /// The bytes of capacity that it holds.
    pub(super) bytes: usize,
}

/// A `flush` or `close` that waits until the commands with smaller numbers have ended.
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
            response_times: ResponseTimes::default(),
            capacity_demands: 0,
            totals: CloseSummary::default(),
            watchers: Vec::new(),
        }
    }

    /// Watches the commands that have not ended, if there are any.
    pub(super) fn watch(&mut self) -> Option<oneshot::Receiver<()>> {
        let left = self.queue.len();
        if left == 0 {
            return None;
        }
        let (done, over) = oneshot::channel();
        self.watchers.push(Watcher { before: self.queue.next(), left, done });
        Some(over)
    }

    /// Counts a command that has ended. Returns the watchers that waited only for this one.
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
