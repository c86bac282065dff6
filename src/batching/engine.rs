//! Sends queued commands, at most `in_flight` batches at once. Commands queue up while all slots are in use.
//!
//! ```text
//! slot:   free ── accept: there is a batch ──► held by a task ── no batch is left ──► free
//!                                │                 ▲      │
//!                                │                 └──────┘ the next batch, after a yield
//!                                └── or by an inline send ── done ──► free, or a task if there is a batch
//! ```
//!
//! Locks: no lock of this module is taken while `Engine::state` is held. Sends are spawned, results delivered and capacity
//! released after it is unlocked.

mod expiry;
mod slot;
mod state;

use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::idempotency::{self, Key};
use crate::api::request::Request;
use crate::batching::accepted::{Accepted, Settled};
use crate::batching::capacity::{self, Capacity};
use crate::batching::command::{Command, CommandId, Hashes};
use crate::batching::delivery::{Delivery, deliver, deliver_in};
pub(super) use crate::batching::engine::expiry::DEADLINE_BEFORE_SENT;
use crate::batching::engine::expiry::end_expired;
pub(super) use crate::batching::engine::slot::Slot;
use crate::batching::engine::state::State;
pub(super) use crate::batching::engine::state::Waiting;
use crate::batching::inline::InlineSend;
use crate::batching::outgoing::OutgoingBatch;
use crate::batching::queue::{Limits, Queue};
use crate::call::Core;
use crate::call::close::{CloseSummary, GRACE, Running};
use crate::config::batching::{Batching, Order};
use crate::config::retry::Retry;
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::Mutex;
use crate::sync::cancel::{Cancel, unless};

/// The error text of a command that is in the queue when the client or the publisher is closed.
const CLOSED_BEFORE_SENT: &str = "the client or the publisher was closed before the call was sent";

/// Sends the commands of one client in one runtime.
pub(super) struct Engine {
    core: Core,
    runtime: Handle,
    linger: Option<Duration>,
    /// Whether the commands are calls that the client's gate counts already.
    of_calls: bool,
    capacity: Option<Arc<Capacity>>,
    hashes: Hashes,
    state: Mutex<State>,
    /// Ends the linger: the open batch is full, or the engine is closed.
    full: Notify,
    /// Notified of a deadline that is earlier than all others.
    earlier: Arc<Notify>,
    /// The task that ends commands at their deadlines.
    deadline_task: OnceLock<AbortHandle>,
    /// Cancels batches in flight.
    cancel: Cancel,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(task) = self.deadline_task.get() {
            task.abort();
        }
    }
}

impl Engine {
    pub(super) fn new(
        core: Core,
        batching: &Batching,
        order: Order,
        capacity: Option<Arc<Capacity>>,
        runtime: Handle,
    ) -> Arc<Self> {
        let Batching { in_flight, max_commands, max_bytes, linger } = *batching;
        let limits = Limits { commands: max_commands, bytes: max_bytes };
        Arc::new(Self {
            core,
            runtime,
            linger,
            of_calls: capacity.is_none(),
            capacity,
            hashes: Hashes::new(order),
            state: Mutex::new(State::new(Queue::new(order, limits), in_flight)),
            full: Notify::new(),
            earlier: Arc::default(),
            deadline_task: OnceLock::new(),
            cancel: Cancel::default(),
        })
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn with_queue<R>(&self, look: impl FnOnce(&Queue<Waiting>) -> R) -> R {
        look(&self.state().queue)
    }

    /// Accepts a request that holds capacity. It is sent inline, by its caller's future, if the caller waits, a slot is free and
    /// nothing else is queued; otherwise in a task.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] when the engine is closed.
    pub(super) fn accept<R: Request>(
        self: &Arc<Self>,
        request: &R,
        key: Option<Key>,
        deadline: Option<Instant>,
        retry: &Arc<Retry>,
        waits: bool,
    ) -> Result<Accepted, Error> {
        let (reply, settled) = oneshot::channel();
        let len = idempotency::encoded_len(request, key.as_ref());
        let command = Command {
            method: R::METHOD,
            repeatable: key.is_some() || request.is_repeatable(),
            deadline,
            retry: (!Arc::ptr_eq(retry, &self.core.retry)).then(|| Arc::clone(retry)),
            links: self.hashes.of(request.channels()),
            value: Waiting { reply: Some(reply), bytes: len },
        };
        let accepted = |id, inline| Accepted { engine: Arc::clone(self), id, settled, inline };
        let mut state = self.state();
        if state.closed {
            drop(state);
            self.release([len]);
            return Err(capacity::closed());
        }
        let is_alone = state.capacity_demands == 0 && !state.queue.has_batch();
        let is_inline = waits && state.slots > 0 && is_alone && self.linger.is_none() && self.is_in_runtime();
        let id = state.queue.push(command, len, |encoded| idempotency::write(request, key, encoded));
        let is_full = self.linger.is_some() && state.queue.is_full();
        let sends = state.slots > 0 && state.queue.has_batch();
        state.slots -= usize::from(sends);
        if is_inline
            && sends
            && let Some(batch) = state.queue.take()
        {
            let send = deliver_in(Delivery::inline(self, batch), Slot::new(self));
            let inline = InlineSend::new(self.runtime.clone(), send);
            state.inline.retain(|inline| Arc::strong_count(inline) > 1);
            state.inline.push(Arc::clone(&inline));
            return Ok(accepted(id, Some(inline)));
        }
        let is_earlier = deadline.is_some_and(|deadline| state.deadlines.push(deadline, id));
        spawn_inline(state);
        if is_earlier {
            self.deadline_task.get_or_init(|| {
                let task = end_expired(Arc::downgrade(self), Arc::clone(&self.earlier));
                self.runtime.spawn(task).abort_handle()
            });
            self.earlier.notify_one();
        }
        if sends {
            self.send(Slot::new(self));
        } else if is_full {
            self.full.notify_waiters();
        }
        Ok(accepted(id, None))
    }

    /// Whether the caller is in the engine's runtime.
    fn is_in_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id())
    }

    /// Sends nothing inline until the guard is dropped, because a caller waits for capacity.
    pub(super) fn demand_capacity(&self) -> CapacityDemand<'_> {
        let mut state = self.state();
        state.capacity_demands += 1;
        spawn_inline(state);
        CapacityDemand(self)
    }

    /// Sends queued batches in a task.
    fn send(self: &Arc<Self>, slot: Slot) {
        self.runtime.spawn(Arc::clone(self).send_all(slot));
    }

    /// Sends what is no longer blocked, if a slot is free.
    pub(super) fn send_unblocked(self: &Arc<Self>) {
        let mut state = self.state();
        let sends = state.slots > 0 && state.queue.has_batch();
        state.slots -= usize::from(sends);
        drop(state);
        if sends {
            self.send(Slot::new(self));
        }
    }

    /// Sends batch after batch, until none is left.
    async fn send_all(self: Arc<Self>, mut slot: Slot) {
        slot.runs();
        loop {
            if let Some(linger) = self.linger {
                self.linger(linger).await;
            }
            let Some(batch) = slot.next() else { return };
            deliver(Delivery::new(&self, batch)).await;
            // Callers that just got results may add commands to the next batch.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for more commands, until the open batch is full or the engine is closed.
    async fn linger(&self, linger: Duration) {
        let full = async {
            loop {
                let notified = self.full.notified();
                {
                    let state = self.state();
                    if state.queue.is_full() || state.closed {
                        return;
                    }
                }
                notified.await;
            }
        };
        let cancelled = self.core.gate().cancel().wait();
        unless(unless(tokio::time::sleep(linger), full), cancelled).await;
    }

    /// Counts a batch of a publisher as a call of its client.
    pub(super) fn begin_batch(&self) -> Result<Option<Running<'_>>, Error> {
        let gate = self.core.gate();
        if self.cancel.is_set() || gate.cancel().is_set() {
            return Err(Error::new(ErrorKind::Closed, CLOSED_BEFORE_SENT));
        }
        if self.of_calls { Ok(None) } else { gate.enter().map(Some) }
    }

    /// Records that the server has responded to a batch that was sent then.
    pub(super) fn responded(&self, batch: &OutgoingBatch, sent: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        state.response_times.note(now - sent, now);
        state.queue.responded(batch, now - sent);
    }

    /// Ends a command that has not been sent. Whether there was one.
    pub(super) fn end_unsent(&self, id: CommandId, error: Option<Error>) -> bool {
        let mut state = self.state();
        let Some(waiting) = state.queue.withdraw(id) else { return false };
        let done = state.over(id, Outcome::NotSent);
        state.clean_deadlines();
        drop(state);
        self.release([waiting.bytes]);
        if let (Some(reply), Some(error)) = (waiting.reply, error) {
            // The receiver may be gone.
            let _ = reply.send(Err(error));
        }
        notify(done);
        true
    }

    /// Ends commands with their results.
    pub(super) fn settle(&self, settled: impl ExactSizeIterator<Item = (CommandId, Settled)>) {
        let (mut ended, mut done) = (Vec::with_capacity(settled.len()), Vec::new());
        let mut state = self.state();
        for (id, settled) in settled {
            let outcome = settled.as_ref().map_or_else(Error::outcome, |_| Outcome::Done);
            if let Some(waiting) = state.queue.remove(id) {
                done.extend(state.over(id, outcome));
                ended.push((waiting, settled));
            }
        }
        state.clean_deadlines();
        drop(state);
        self.release(ended.iter().map(|(waiting, _)| waiting.bytes));
        for (waiting, settled) in ended {
            // The receiver may be gone.
            let _ = waiting.reply.map(|reply| reply.send(settled));
        }
        notify(done);
    }

    fn release(&self, lens: impl IntoIterator<Item = usize>) {
        if let Some(capacity) = &self.capacity {
            capacity.release(lens);
        }
    }

    /// Ends every queued command, because the runtime has ended.
    fn abandon(self: &Arc<Self>) {
        loop {
            let batch = self.state().queue.take();
            let Some(batch) = batch else { return };
            Delivery::new(self, batch)
                .fail(Error::new(ErrorKind::Closed, "the runtime ended before the call was sent"));
        }
    }

    /// Watches the commands that have not ended, and moves inline sends to tasks.
    fn watch(&self, closes: bool) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        state.closed |= closes;
        let watch = state.watch();
        spawn_inline(state);
        watch
    }

    /// The ended commands by outcome.
    fn totals(&self) -> CloseSummary {
        self.state().totals
    }

    /// Waits until the present commands have ended. Returns all ended commands by outcome.
    pub(super) async fn flush(&self) -> CloseSummary {
        if let Some(over) = self.watch(false) {
            // The sender is dropped only with the engine.
            let _ = over.await;
        }
        self.totals()
    }

    /// Accepts no more, waits until the present commands have ended, and cancels what is left after `timeout`.
    pub(super) async fn close(&self, timeout: Duration) -> CloseSummary {
        let watch = self.watch(true);
        if let Some(capacity) = &self.capacity {
            capacity.close();
        }
        // Ends the linger.
        self.full.notify_waiters();
        let Some(mut over) = watch else { return self.totals() };
        let in_time = match Instant::now().checked_add(timeout) {
            Some(until) => tokio::time::timeout_at(until, &mut over).await.is_ok(),
            None => (&mut over).await.is_ok(),
        };
        if !in_time {
            self.cancel.set();
            self.withdraw_all();
            // Those in flight that have not ended by then count as unknown.
            let _ = tokio::time::timeout(GRACE, over).await;
        }
        let state = self.state();
        CloseSummary { unknown: state.totals.unknown + state.queue.len() as u64, ..state.totals }
    }

    /// Ends every command that was not taken.
    fn withdraw_all(&self) {
        let mut state = self.state();
        let withdrawn = state.queue.withdraw_all();
        let (mut ended, mut done) = (Vec::with_capacity(withdrawn.len()), Vec::new());
        for (id, waiting) in withdrawn {
            done.extend(state.over(id, Outcome::NotSent));
            ended.push(waiting);
        }
        state.clean_deadlines();
        drop(state);
        self.fail(ended, || Error::new(ErrorKind::Closed, CLOSED_BEFORE_SENT));
        notify(done);
    }

    /// Returns an error to the callers of commands that have ended.
    fn fail(&self, ended: Vec<Waiting>, error: impl Fn() -> Error) {
        self.release(ended.iter().map(|waiting| waiting.bytes));
        for reply in ended.into_iter().filter_map(|waiting| waiting.reply).filter(|reply| !reply.is_closed()) {
            // The receiver may be gone by now.
            let _ = reply.send(Err(error()));
        }
    }
}

/// Moves inline sends to tasks.
fn spawn_inline(mut state: MutexGuard<'_, State>) {
    let inline = std::mem::take(&mut state.inline);
    drop(state);
    for send in inline {
        send.spawn();
    }
}

fn notify(done: Vec<oneshot::Sender<()>>) {
    for done in done {
        // The receiver may be gone.
        let _ = done.send(());
    }
}

/// A caller that waits for capacity.
pub(super) struct CapacityDemand<'a>(&'a Engine);

impl Drop for CapacityDemand<'_> {
    fn drop(&mut self) {
        self.0.state().capacity_demands -= 1;
    }
}
