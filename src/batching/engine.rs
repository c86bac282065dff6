//! Who sends what waits: at most so many requests at once, each carrying what had gathered while they were all under way.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::idempotency::{self, Key};
use crate::api::method::Method;
use crate::api::replies::checked;
use crate::api::request::Request;
use crate::batching::capacity::{self, Capacity};
use crate::batching::outgoing::{Member, OutgoingBatch};
use crate::batching::queue::{Command, Hashes, Limits, Queue, Ticket};
use crate::call::Core;
use crate::call::attempts::Attempts;
use crate::call::close::{CloseSummary, GRACE};
use crate::config::batching::{Batching, Order};
use crate::error::{Error, ErrorKind, Outcome};
use crate::sync::cancel::{Cancel, unless};
use crate::sync::{BoxFuture, Mutex};
use crate::wire::body::Message;
use crate::wire::reply::ReplyBody;

/// Sends commands, of one client in one runtime.
pub(crate) struct Engine {
    core: Core,
    runtime: Handle,
    linger: Option<Duration>,
    /// Whether the commands are calls of the client, which it counts itself.
    of_calls: bool,
    room: Option<Arc<Capacity>>,
    hashes: Hashes,
    state: Mutex<State>,
    /// Told when nothing more is to be waited for: the open parcel is full, or nothing more is accepted.
    full: Notify,
    /// Told when a deadline is earlier than those before it.
    earlier: Arc<Notify>,
    /// The task that keeps the time of the commands in the background.
    clock: OnceLock<AbortHandle>,
    /// Given when what is under way is to be cut off.
    cancel: Cancel,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.get() {
            clock.abort();
        }
    }
}

struct State {
    queue: Queue<Waiting>,
    /// How many more requests may be sent now.
    slots: usize,
    closed: bool,
    /// What callers carry themselves. Some may be done.
    errands: Vec<Arc<Errand>>,
    /// No command in the background has an earlier deadline.
    earliest: Option<Instant>,
    /// How many wait for room, which is to come from what is under way.
    hurried: usize,
    /// Those who wait until what there was is over.
    watchers: Vec<Watcher>,
    /// How many there were.
    watched: u64,
}

/// What is kept of a command until it is over.
#[derive(Default)]
struct Waiting {
    /// `None` of one that was withdrawn.
    reply: Option<oneshot::Sender<Settled>>,
    /// The bytes that it takes of the room.
    bytes: usize,
}

/// Counts how commands end.
struct Watcher {
    number: u64,
    /// Those with smaller numbers.
    before: u64,
    left: usize,
    ended: CloseSummary,
    done: oneshot::Sender<CloseSummary>,
}

/// What became of a command.
pub(crate) type Settled = Result<Answered, Error>;

/// A result, as the server wrote it, and where it came from.
pub(crate) struct Answered {
    pub(crate) result: ReplyBody,
    /// The number of the endpoint.
    pub(crate) place: usize,
    /// Whether an attempt before the one that was answered may have been carried out.
    pub(crate) in_doubt: bool,
}

/// A command that was accepted.
pub(crate) struct Accepted {
    engine: Arc<Engine>,
    ticket: Ticket,
    pub(crate) settled: oneshot::Receiver<Settled>,
    pub(crate) errand: Option<Arc<Errand>>,
}

impl Accepted {
    /// Gives the command up, if it has not left.
    pub(crate) fn withdraw(&self) -> bool {
        self.engine.withdraw(self.ticket)
    }

    /// Says where an error happened, in the places that are still open.
    pub(crate) fn at(&self, error: Error, method: Method) -> Error {
        self.engine.core.with_context(error, method.name())
    }

    /// Reads what the command ended with.
    pub(crate) fn read<T: Message>(&self, settled: Settled, method: Method, answers: usize) -> Result<T, Error> {
        let Answered { result, place, in_doubt } = settled?;
        let reply = result.read_result().and_then(|reply| checked(answers, in_doubt, reply));
        reply.map_err(|error| self.engine.core.with_endpoint(error, method.name(), place))
    }
}

/// A parcel that the caller of its only command carries: that saves a task, and wake-ups across threads. But nobody else may have
/// to wait for a future that its owner does not poll, so as soon as somebody waits, a task carries it.
pub(crate) struct Errand {
    runtime: Handle,
    /// With the way to wake the caller, who otherwise waits for nothing else.
    carried: Mutex<(Option<BoxFuture<'static, ()>>, Option<Waker>)>,
    /// Whether a task is to carry it.
    handed_over: AtomicBool,
}

impl Errand {
    fn new(runtime: Handle, carried: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        let carried = Mutex::new((Some(Box::pin(carried) as _), None));
        Arc::new(Self { runtime, carried, handed_over: AtomicBool::new(false) })
    }

    /// Goes on with it. Ready when it is done, or a task carries it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Not locked while it is polled, which may be what hands it over. The caller is forgotten with it, once it is done.
        let (carried, _caller) = std::mem::take(&mut *self.carried());
        let Some(mut carried) = carried else { return Poll::Ready(()) };
        if carried.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        *self.carried() = (Some(carried), Some(cx.waker().clone()));
        if self.handed_over.load(Ordering::SeqCst) {
            self.hand_over();
        }
        Poll::Pending
    }

    /// Has a task go on with it.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
        // While it is polled it is not there, and who polls it looks for the sign afterwards.
        let (carried, caller) = std::mem::take(&mut *self.carried());
        if let Some(carried) = carried {
            self.runtime.spawn(carried);
        }
        if let Some(caller) = caller {
            caller.wake();
        }
    }

    fn carried(&self) -> MutexGuard<'_, (Option<BoxFuture<'static, ()>>, Option<Waker>)> {
        self.carried.lock()
    }
}

impl Engine {
    pub(crate) fn new(
        core: Core,
        batching: &Batching,
        order: Order,
        room: Option<Arc<Capacity>>,
        runtime: Handle,
    ) -> Arc<Self> {
        let Batching { in_flight, max_commands, max_bytes, linger } = *batching;
        let limits = Limits { commands: max_commands, bytes: max_bytes };
        let state = State {
            queue: Queue::new(order, limits),
            slots: in_flight,
            closed: false,
            errands: Vec::new(),
            earliest: None,
            hurried: 0,
            watchers: Vec::new(),
            watched: 0,
        };
        Arc::new(Self {
            core,
            runtime,
            linger,
            of_calls: room.is_none(),
            room,
            hashes: Hashes::new(order),
            state: Mutex::new(state),
            full: Notify::new(),
            earlier: Arc::default(),
            clock: OnceLock::new(),
            cancel: Cancel::default(),
        })
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Accepts a request, for which there is room. If its caller waits and nothing is in the way, it is an errand of the
    /// caller's, otherwise it is sent in the background.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] when nothing more is accepted.
    pub(crate) fn accept<R: Request>(
        self: &Arc<Self>,
        request: &R,
        key: Option<Key>,
        deadline: Option<Instant>,
        waits: bool,
    ) -> Result<Accepted, Error> {
        let (reply, settled) = oneshot::channel();
        let len = idempotency::encoded_len(request, key.as_ref());
        let command = Command {
            method: R::METHOD,
            repeatable: key.is_some() || request.is_repeatable(),
            deadline,
            channels: self.hashes.of(request.channels()),
            value: Waiting { reply: Some(reply), bytes: len },
        };
        let accepted = |ticket, errand| Accepted { engine: Arc::clone(self), ticket, settled, errand };
        let mut state = self.state();
        if state.closed {
            drop(state);
            self.release([len]);
            return Err(capacity::closed());
        }
        let is_alone = state.hurried == 0 && !state.queue.has_parcel();
        let is_errand = waits && state.slots > 0 && is_alone && self.linger.is_none() && self.is_here();
        let ticket = state.queue.push(command, len, |encoded| idempotency::write(request, key, encoded));
        let is_full = self.linger.is_some() && state.queue.is_full();
        let sends = state.slots > 0 && state.queue.has_parcel();
        state.slots -= usize::from(sends);
        if is_errand
            && sends
            && let Some(parcel) = state.queue.take()
        {
            let carried = Carried::new(self, parcel, None);
            let errand = Errand::new(self.runtime.clone(), carry(carried, Slot::new(self)));
            state.errands.retain(|errand| Arc::strong_count(errand) > 1);
            state.errands.push(Arc::clone(&errand));
            return Ok(accepted(ticket, Some(errand)));
        }
        let is_earlier = deadline.is_some_and(|deadline| state.earliest.is_none_or(|earliest| deadline < earliest));
        if is_earlier {
            state.earliest = deadline;
        }
        hand_over(state);
        if is_earlier {
            self.clock.get_or_init(|| {
                let clock = keep_time(Arc::downgrade(self), Arc::clone(&self.earlier));
                self.runtime.spawn(clock).abort_handle()
            });
            self.earlier.notify_one();
        }
        if sends {
            self.send(Slot::new(self));
        } else if is_full {
            self.full.notify_waiters();
        }
        Ok(accepted(ticket, None))
    }

    /// Whether the caller is in the engine's runtime.
    fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id())
    }

    /// Nothing is left to callers to carry from here on, as somebody waits for it.
    pub(crate) fn hurry(&self) -> Hurried<'_> {
        let mut state = self.state();
        state.hurried += 1;
        hand_over(state);
        Hurried(self)
    }

    /// Sends what has gathered, in a task of its own.
    fn send(self: &Arc<Self>, slot: Slot) {
        self.runtime.spawn(Arc::clone(self).empty(slot));
    }

    /// Sends what others have made way for, if there is a slot, and whoever made way goes on with something else.
    fn send_others(self: &Arc<Self>) {
        let mut state = self.state();
        let sends = state.slots > 0 && state.queue.has_parcel();
        state.slots -= usize::from(sends);
        drop(state);
        if sends {
            self.send(Slot::new(self));
        }
    }

    /// Sends parcel after parcel, until there is none.
    async fn empty(self: Arc<Self>, mut slot: Slot) {
        slot.runs = true;
        loop {
            if let Some(linger) = self.linger {
                self.linger(linger).await;
            }
            let Some(parcel) = slot.next() else { return };
            deliver(Carried::new(&self, parcel, None)).await;
            // Those who have their answers now may have more to send.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for more.
    async fn linger(&self, linger: Duration) {
        let full = async {
            loop {
                let told = self.full.notified();
                {
                    let state = self.state();
                    if state.queue.is_full() || state.closed {
                        return;
                    }
                }
                told.await;
            }
        };
        let cut = self.core.gate().cancelled();
        unless(unless(tokio::time::sleep(linger), full), cut).await;
    }

    fn withdraw(&self, ticket: Ticket) -> bool {
        self.give_up(ticket, None)
    }

    /// Ends a command that has not left. Whether it had not.
    fn give_up(&self, ticket: Ticket, error: Option<Error>) -> bool {
        let mut state = self.state();
        let Some(waiting) = state.queue.withdraw(ticket) else { return false };
        let over = state.over(ticket, Outcome::NotSent);
        drop(state);
        self.release([waiting.bytes]);
        if let (Some(reply), Some(error)) = (waiting.reply, error) {
            // Nobody may wait for it.
            let _ = reply.send(Err(error));
        }
        over.into_iter().for_each(Watcher::tell);
        true
    }

    /// Ends commands.
    fn settle(&self, settled: impl ExactSizeIterator<Item = (Ticket, Settled)>) {
        let (mut ended, mut watchers) = (Vec::with_capacity(settled.len()), Vec::new());
        let mut state = self.state();
        for (ticket, settled) in settled {
            let outcome = settled.as_ref().map_or_else(Error::outcome, |_| Outcome::Done);
            if let Some(waiting) = state.queue.remove(ticket) {
                watchers.extend(state.over(ticket, outcome));
                ended.push((waiting, settled));
            }
        }
        drop(state);
        self.release(ended.iter().map(|(waiting, _)| waiting.bytes));
        for (waiting, settled) in ended {
            // Nobody may wait for it.
            let _ = waiting.reply.map(|reply| reply.send(settled));
        }
        watchers.into_iter().for_each(Watcher::tell);
    }

    /// Says where an error happened, in the places that are still open.
    fn at(&self, error: Error, member: &Member) -> Error {
        self.core.with_context(error, member.method.name())
    }

    /// Ends for their callers the commands whose time is over: those under way go on. The next deadline.
    fn end_late(&self) -> Option<Instant> {
        let now = Instant::now();
        let late = |outcome, what: &'static str| Error::new(ErrorKind::Timeout, what).with_outcome(outcome);
        let (mut waiting, mut under_way) = (Vec::new(), Vec::new());
        let mut state = self.state();
        let mut earliest = None;
        for (ticket, waits, deadline, value) in state.queue.live() {
            match deadline {
                Some(deadline) if deadline <= now && waits => waiting.push(ticket),
                Some(deadline) if deadline <= now => under_way.extend(value.reply.take()),
                Some(deadline) => {
                    earliest = Some(earliest.map_or(deadline, |earliest: Instant| earliest.min(deadline)));
                }
                None => {}
            }
        }
        state.earliest = earliest;
        drop(state);
        for ticket in waiting {
            self.give_up(ticket, Some(late(Outcome::NotSent, "its time was over before it was sent")));
        }
        for reply in under_way {
            // Nobody may wait for it.
            let _ = reply.send(Err(late(Outcome::Unknown, "no answer came in time")));
        }
        // Not more often than a timer can be told apart.
        earliest.map(|earliest| earliest.max(now + Duration::from_millis(1)))
    }

    fn release(&self, lens: impl IntoIterator<Item = usize>) {
        if let Some(room) = &self.room {
            room.release(lens);
        }
    }

    /// Ends everything that waits, because there is no runtime to send it in.
    fn abandon(self: &Arc<Self>) {
        loop {
            let parcel = self.state().queue.take();
            let Some(parcel) = parcel else { return };
            Carried::new(self, parcel, None)
                .fail(Error::new(ErrorKind::Closed, "the runtime ended before the call was sent"));
        }
    }

    /// Watches what there is now, none of which is left to callers to carry.
    fn watch(&self, closes: bool) -> Option<(u64, oneshot::Receiver<CloseSummary>)> {
        let mut state = self.state();
        state.closed |= closes;
        let watch = state.watch();
        hand_over(state);
        watch
    }

    /// Waits until what there is now is over, and tells how it ended.
    pub(crate) async fn flush(&self) -> CloseSummary {
        match self.watch(false) {
            // Told as the last one is over.
            Some((_, over)) => over.await.unwrap_or_default(),
            None => CloseSummary::default(),
        }
    }

    /// Accepts no more, waits until what there is now is over, and cuts off what is left after `timeout`.
    pub(crate) async fn close(&self, timeout: Duration) -> CloseSummary {
        let watch = self.watch(true);
        if let Some(room) = &self.room {
            room.close();
        }
        // A wait for more is over.
        self.full.notify_waiters();
        let Some((watcher, mut over)) = watch else { return CloseSummary::default() };
        let in_time = match Instant::now().checked_add(timeout) {
            Some(until) => tokio::time::timeout_at(until, &mut over).await.ok(),
            None => Some((&mut over).await),
        };
        if let Some(ended) = in_time {
            return ended.unwrap_or_default();
        }
        self.cancel.set();
        match tokio::time::timeout(GRACE, over).await {
            Ok(ended) => ended.unwrap_or_default(),
            Err(_) => self.state().unwatch(watcher),
        }
    }
}

/// Has tasks go on with what callers carry.
fn hand_over(mut state: MutexGuard<'_, State>) {
    let errands = std::mem::take(&mut state.errands);
    drop(state);
    for errand in errands {
        errand.hand_over();
    }
}

/// Somebody waits for what is under way.
pub(crate) struct Hurried<'a>(&'a Engine);

impl Drop for Hurried<'_> {
    fn drop(&mut self) {
        self.0.state().hurried -= 1;
    }
}

impl State {
    /// Watches what is not over now, if anything is.
    fn watch(&mut self) -> Option<(u64, oneshot::Receiver<CloseSummary>)> {
        let left = self.queue.len();
        if left == 0 {
            return None;
        }
        let (done, over) = oneshot::channel();
        let number = self.watched;
        self.watched += 1;
        self.watchers.push(Watcher { number, before: self.queue.next(), left, ended: CloseSummary::default(), done });
        Some((number, over))
    }

    /// Takes note that a command is over. Those who have waited for it last.
    fn over(&mut self, ticket: Ticket, outcome: Outcome) -> Vec<Watcher> {
        if self.watchers.is_empty() {
            return Vec::new();
        }
        for watcher in self.watchers.iter_mut().filter(|watcher| ticket.number < watcher.before) {
            watcher.left -= 1;
            watcher.ended.count(outcome);
        }
        self.watchers.extract_if(.., |watcher| watcher.left == 0).collect()
    }

    /// Stops watching. What is left is of unknown outcome.
    fn unwatch(&mut self, number: u64) -> CloseSummary {
        let found = self.watchers.iter().position(|watcher| watcher.number == number);
        let Some(index) = found else { return CloseSummary::default() };
        let Watcher { ended, left, .. } = self.watchers.remove(index);
        CloseSummary { unknown: ended.unknown + left as u64, ..ended }
    }
}

impl Watcher {
    fn tell(self) {
        // It may have stopped to wait.
        let _ = self.done.send(self.ended);
    }
}

/// The right to have one request under way.
pub(crate) struct Slot {
    engine: Arc<Engine>,
    /// Whether it is held by something that runs. If not even that, its runtime has ended.
    runs: bool,
    returned: bool,
}

impl Slot {
    fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine), runs: false, returned: false }
    }

    /// The next parcel. Without one, the slot is free.
    fn next(&mut self) -> Option<OutgoingBatch> {
        let mut state = self.engine.state();
        let parcel = state.queue.take();
        if parcel.is_none() {
            state.slots += 1;
            self.returned = true;
        }
        parcel
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.returned {
            return;
        }
        let mut state = self.engine.state();
        let goes_on = self.runs && state.queue.has_parcel();
        state.slots += usize::from(!goes_on);
        drop(state);
        if goes_on {
            self.engine.send(Self::new(&self.engine));
        } else if !self.runs {
            self.engine.abandon();
        }
    }
}

/// Keeps the time of all commands in the background: a timer for each of them would cost an eighth of all that they cost.
async fn keep_time(engine: Weak<Engine>, earlier: Arc<Notify>) {
    loop {
        let Some(next) = engine.upgrade().map(|engine| engine.end_late()) else { return };
        match next {
            Some(next) => {
                unless(tokio::time::sleep_until(next), earlier.notified()).await;
            }
            None => earlier.notified().await,
        }
    }
}

/// Sends one parcel, and frees the slot. Dropped before it runs, it drops the parcel first: the slot is to find what that sets
/// free.
async fn carry(carried: Carried, mut slot: Slot) {
    slot.runs = true;
    deliver(carried).await;
}

/// Sends a parcel until each of its commands is over.
async fn deliver(carried: Carried) {
    let mut work = vec![carried];
    while let Some(mut carried) = work.pop() {
        if let Some(rest) = carried.deliver_or_halve().await {
            work.extend([rest, carried]);
        } else if !work.is_empty() {
            carried.engine.send_others();
        }
    }
}

/// Whether a part of the request may do better: it is too large, or its reply, or one command makes it unfit to be sent.
fn may_be_of_a_part(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Invalid)
}

/// A parcel on its way. Whatever happens, each of its commands ends.
struct Carried {
    engine: Arc<Engine>,
    parcel: OutgoingBatch,
    /// Why its commands failed at the last attempt, if each has its own reason.
    reasons: Vec<Error>,
    /// Since when they may have been carried out, if an attempt ended without an answer.
    in_doubt: Option<Instant>,
}

impl Carried {
    fn new(engine: &Arc<Engine>, parcel: OutgoingBatch, in_doubt: Option<Instant>) -> Self {
        Self { engine: Arc::clone(engine), parcel, reasons: Vec::new(), in_doubt }
    }

    /// Sends a parcel until each of its commands is over, or returns half of it, if it is too much at once.
    async fn deliver_or_halve(&mut self) -> Option<Self> {
        let engine = Arc::clone(&self.engine);
        self.drop_late(1);
        let deadline = self.deadline();
        if self.parcel.is_empty() {
            return None;
        }
        let gate = engine.core.gate();
        if engine.cancel.is_set() || gate.is_cancelled() {
            self.fail(Error::new(ErrorKind::Closed, "it was closed before the call was sent"));
            return None;
        }
        let running = if engine.of_calls { Ok(None) } else { gate.enter().map(Some) };
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                self.fail(error);
                return None;
            }
        };
        let mut attempts = Attempts::of_batch(&engine.core, deadline, self.in_doubt, running, &engine.cancel);
        while !self.parcel.is_empty() {
            let parcel = &self.parcel;
            attempts.resend_as(parcel.method(), parcel.is_repeatable());
            let sent = Instant::now();
            let error = match attempts.attempt(parcel, |reply| parcel.read(reply)).await {
                Ok(answers) => {
                    engine.state().queue.answered(parcel, sent.elapsed());
                    self.settle(answers, &attempts)?
                }
                Err(error) => {
                    let is_shared = parcel.members().len() > 1;
                    if error.may_have_run() {
                        self.in_doubt = Some(attempts.started());
                        self.fail_what_ran_once(&error, attempts.failed() + 1);
                    }
                    if is_shared && may_be_of_a_part(&error) {
                        attempts.end(error.outcome());
                        return Some(Self::new(&engine, self.parcel.split(), self.in_doubt));
                    }
                    error
                }
            };
            if self.parcel.is_empty() {
                attempts.end(error.outcome());
                return None;
            }
            attempts.resend_as(self.parcel.method(), self.parcel.is_repeatable());
            if let Err(error) = attempts.again(error).await {
                self.fail(error);
                return None;
            }
            self.reasons.clear();
            self.in_doubt = attempts.may_have_run().then_some(attempts.started());
            self.drop_late(attempts.failed());
        }
        None
    }

    /// Ends the commands that were answered, but for those that failed and may be tried again. Why, if there are any.
    fn settle(&mut self, answers: Vec<Result<ReplyBody, Error>>, attempts: &Attempts<'_>) -> Option<Error> {
        let (in_doubt, number, place) = (attempts.may_have_run(), attempts.failed() + 1, attempts.endpoint());
        let core = self.engine.core.clone();
        let answered = |result| Answered { result, place, in_doubt };
        let error_of = |member: &Member, error: Error| {
            let error = if in_doubt && !error.may_have_run() { error.outcome_unknown() } else { error };
            core.with_endpoint(error, member.method.name(), place).after_attempts(number)
        };
        let again = self.to_be_tried_again(&answers);
        let members = self.parcel.members().iter().zip(answers);
        if again.is_empty() {
            let settled = members
                .map(|(member, answer)| (member.ticket, answer.map(answered).map_err(|error| error_of(member, error))));
            self.engine.settle(settled);
            self.parcel.take();
            return None;
        }
        let (mut settled, mut reasons) = (Vec::new(), Vec::new());
        for (index, (member, answer)) in members.enumerate() {
            match answer {
                Err(error) if again.contains(&index) => reasons.push(error_of(member, error)),
                Err(error) => settled.push((member.ticket, Err(error_of(member, error)))),
                Ok(result) => settled.push((member.ticket, Ok(answered(result)))),
            }
        }
        self.engine.settle(settled.into_iter());
        self.engine.send_others();
        let mut index = 0..;
        self.parcel.retain(|_| index.next().is_some_and(|index| again.contains(&index)));
        // One of unknown outcome makes it that of the whole.
        let reason = reasons.iter().max_by_key(|reason| reason.may_have_run()).map(Error::echo);
        self.reasons = reasons;
        reason
    }

    /// The commands that failed and may be tried again: that can help, can do no harm, and overtakes nothing.
    fn to_be_tried_again(&self, answers: &[Result<ReplyBody, Error>]) -> HashSet<usize> {
        if answers.iter().all(|answer| answer.as_ref().err().is_none_or(|error| !error.is_transient())) {
            return HashSet::new();
        }
        self.those_in_turn(|index, member| match &answers[index] {
            Err(error) => error.is_transient() && (member.repeatable || !error.may_have_run()),
            Ok(_) => false,
        })
    }

    /// Which of these commands can be sent again, without that they overtake others that are not.
    fn those_in_turn(&self, may_be: impl Fn(usize, &Member) -> bool) -> HashSet<usize> {
        let state = self.engine.state();
        let (mut again, mut over) = (HashSet::new(), HashSet::new());
        for (index, member) in self.parcel.members().iter().enumerate().rev() {
            let channels = || state.queue.channels_of(member.ticket);
            if may_be(index, member) && !channels().any(|channel| over.contains(&channel)) {
                again.insert(index);
            } else {
                over.extend(channels());
            }
        }
        again
    }

    /// Ends the commands whose time is over, after so many attempts.
    fn drop_late(&mut self, attempts: u32) {
        let now = Instant::now();
        let is_late = |_, member: &Member| member.deadline.is_some_and(|deadline| deadline <= now);
        let outcome = if self.in_doubt.is_some() { Outcome::Unknown } else { Outcome::NotSent };
        let late = || Error::new(ErrorKind::Timeout, "its time was over before it was sent").with_outcome(outcome);
        self.fail_those(|| late().after_attempts(attempts), is_late);
    }

    /// When the time of all commands will be over.
    fn deadline(&self) -> Option<Instant> {
        self.parcel
            .members()
            .iter()
            .map(|member| member.deadline)
            .max_by_key(|deadline| (deadline.is_none(), *deadline))?
    }

    /// Ends the commands that may have been carried out and must not be twice, and those that would then overtake them.
    fn fail_what_ran_once(&mut self, error: &Error, attempts: u32) {
        if self.parcel.is_repeatable() {
            return;
        }
        let again = self.those_in_turn(|_, member| member.repeatable);
        self.fail_those(|| error.echo().after_attempts(attempts), |index, _| !again.contains(&index));
    }

    /// Ends some of the commands with an error.
    fn fail_those(&mut self, error: impl Fn() -> Error, which: impl Fn(usize, &Member) -> bool) {
        let numbered = self.parcel.members().iter().enumerate();
        let failed: Vec<_> =
            numbered.filter(|(index, member)| which(*index, member)).map(|(_, member)| *member).collect();
        if failed.is_empty() {
            return;
        }
        self.engine.settle(failed.iter().map(|member| (member.ticket, Err(self.engine.at(error(), member)))));
        self.engine.send_others();
        let mut index = 0..;
        self.parcel.retain(|member| index.next().is_some_and(|index| !which(index, member)));
    }

    /// Ends all that are left: each for its own reason, if it has one, or with this error.
    fn fail(&mut self, error: Error) {
        let takes_back = self.in_doubt.is_some() && !error.may_have_run();
        let error = if takes_back { error.outcome_unknown() } else { error };
        let members = self.parcel.take();
        let reasons = std::mem::take(&mut self.reasons);
        if reasons.len() == members.len() {
            let attempts = error.attempts();
            let settled = members.iter().zip(reasons);
            self.engine.settle(settled.map(|(member, reason)| (member.ticket, Err(reason.after_attempts(attempts)))));
        } else if let [member] = members[..] {
            self.engine.settle(std::iter::once((member.ticket, Err(self.engine.at(error, &member)))));
        } else {
            let settled = members.iter().map(|member| (member.ticket, Err(self.engine.at(error.echo(), member))));
            self.engine.settle(settled);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.parcel.is_empty() {
            let ended = Error::new(ErrorKind::Closed, "what carried the call ended before an answer came");
            self.fail(ended.with_outcome(Outcome::Unknown));
        }
    }
}
