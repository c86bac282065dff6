//! What waits to be sent, and in which batches it may leave: a state machine without a clock, a task or a lock.
//!
//! The commands of a channel form a list, and each waits for the one before it. Those at the head of all their lists wait for
//! nothing: they are put into the *open* batch, encoded straight into it, and leave with it when somebody [takes](Queue::take)
//! it. A command that is [removed](Queue::remove) or [withdrawn](Queue::withdraw) leaves its lists at once, whatever waits
//! behind it.
//!
//! ```text
//!         push: blocked, or the open batch is full            push: neither
//!                            │                                      │
//!                            ▼       not blocked any more,          ▼
//!                         Waiting ─── and there is space ──────►  Open ──── take ────► Taken
//!                            │        (or, sequential, all that     │                    │
//!                            │        block it are in the batch)    │                    │
//!                            └──────────── withdraw ────────────────┴───► gone ◄─ remove ┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::num::Wrapping;
use std::time::Duration;

use slab::Slab;

use crate::batching::command::{Command, CommandId};
use crate::batching::outgoing::{Draft, Member, OutgoingBatch};
use crate::batching::pace::{Pace, Run};
use crate::config::batching::Order;

/// How many commands may wait for each one in a parallel batch of no more than so few, before they are sent along in a
/// sequential one.
///
/// A batch of a few commands is mostly the way to the server and back. With more, even Redis, which carries out 12,000 commands
/// a second in order, is asked for more of them in parallel.
const FEW_CHANNELS: usize = 4;
const HOT: usize = 8;
/// So many entries for commands that are gone are not worth cleaning up.
const FEW_STALE: usize = 64;

/// The commands that are not over, with a `T` for each.
#[derive(Debug)]
pub(super) struct Queue<T> {
    order: Order,
    limits: Limits,
    commands: Slab<Queued<T>>,
    /// The last command of each channel that has one, by the channel's hash.
    last: HashMap<u64, usize, IsHash>,
    /// The batch that leaves next, and its number.
    open: Draft,
    number: Wrapping<u32>,
    /// How many commands in the open batch were withdrawn.
    holes: usize,
    /// Those that wait for nothing but space in the open batch. Some may be gone by now.
    ready: VecDeque<CommandId>,
    pace: Pace,
    /// How many are blocked by others.
    blocked: usize,
    next: u64,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) commands: usize,
    pub(super) bytes: usize,
}

/// A command in the queue.
#[derive(Debug)]
struct Queued<T> {
    number: u64,
    command: Command<T>,
    state: State,
    /// How many commands are right before it, each in another channel.
    blockers: usize,
    /// How many of these are in the open batch of this number.
    open_blockers: (Wrapping<u32>, usize),
}

#[derive(Debug)]
enum State {
    /// For others, or for space: its encoded form.
    Waiting(Vec<u8>),
    /// In the open batch.
    Open,
    /// Sent, or about to be.
    Taken,
}

impl<T> Queued<T> {
    fn id(&self, index: usize) -> CommandId {
        CommandId { index, number: self.number }
    }

    /// Counts one more, or one less, of its blockers in the open batch of this number.
    fn count_open(&mut self, number: Wrapping<u32>, change: isize) {
        if self.open_blockers.0 != number {
            self.open_blockers = (number, 0);
        }
        self.open_blockers.1 = self.open_blockers.1.saturating_add_signed(change);
    }
}

impl<T: Default> Queue<T> {
    pub(super) fn new(order: Order, limits: Limits) -> Self {
        Self {
            order,
            limits,
            commands: Slab::new(),
            last: HashMap::default(),
            open: Draft::default(),
            number: Wrapping(0),
            holes: 0,
            ready: VecDeque::new(),
            pace: Pace::new(),
            blocked: 0,
            next: 0,
        }
    }

    /// Whether there may be a batch to be taken.
    pub(super) fn has_batch(&self) -> bool {
        !self.open.is_empty() || !self.ready.is_empty()
    }

    /// Whether the open batch can get no longer.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= self.limits.commands || !self.ready.is_empty()
    }

    /// The number of the next command: those that are in the queue now have smaller ones.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many commands are not over.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether a command is not over.
    pub(super) fn contains(&self, id: CommandId) -> bool {
        self.commands.get(id.index).is_some_and(|queued| queued.number == id.number)
    }

    /// The channels of a command that is not over.
    pub(super) fn channels_of(&self, id: CommandId) -> impl Iterator<Item = u64> + use<'_, T> {
        let queued = self.commands.get(id.index).filter(|queued| queued.number == id.number);
        queued.into_iter().flat_map(|queued| queued.command.links.all()).map(|link| link.channel)
    }

    fn member(&self, id: CommandId, len: usize) -> Member {
        Member::new(id, &self.commands[id.index].command, len)
    }

    /// Adds a command of this length, which `encode` writes behind what is there.
    pub(super) fn push(&mut self, command: Command<T>, len: usize, encode: impl FnOnce(&mut Vec<u8>)) -> CommandId {
        let id = self.add(command);
        let member = self.member(id, len);
        if self.may_join(id.index, self.order == Order::Sequential) && self.has_space(&member) {
            self.open.push(member, encode);
            self.opened(id.index);
        } else {
            let mut encoded = Vec::with_capacity(len);
            encode(&mut encoded);
            self.commands[id.index].state = State::Waiting(encoded);
            if self.commands[id.index].blockers == 0 {
                self.ready.push_back(id);
            } else {
                self.blocked += 1;
            }
        }
        id
    }

    /// Adds a command at the end of the list of each of its channels.
    fn add(&mut self, mut command: Command<T>) -> CommandId {
        let number = self.next;
        self.next += 1;
        let index = self.commands.vacant_key();
        let (mut blockers, mut open) = (0, 0);
        for link in command.links.all_mut() {
            link.before = self.last.insert(link.channel, index);
            let Some(before) = link.before else { continue };
            let before = &mut self.commands[before];
            if let Some(link) = before.command.links.of(link.channel) {
                link.behind = Some(index);
            }
            blockers += 1;
            open += usize::from(matches!(before.state, State::Open));
        }
        let (state, open_blockers) = (State::Taken, (self.number, open));
        self.commands.insert(Queued { number, command, state, blockers, open_blockers });
        CommandId { index, number }
    }

    /// Whether a command may be put into the open batch: it is not blocked, or in a sequential one only by such as are there
    /// before it.
    fn may_join(&self, index: usize, sequential: bool) -> bool {
        let Queued { blockers, open_blockers, .. } = &self.commands[index];
        *blockers == 0 || (sequential && *open_blockers == (self.number, *blockers))
    }

    fn has_space(&self, member: &Member) -> bool {
        let bytes = self.open.encoded_len() + member.encoded_len();
        self.open.is_empty() || (self.open.len() < self.limits.commands && bytes <= self.limits.bytes)
    }

    /// Takes note that a command is in the open batch now.
    fn opened(&mut self, index: usize) {
        self.commands[index].state = State::Open;
        for at in 0..self.commands[index].command.links.all().len() {
            if let Some(behind) = self.commands[index].command.links.all()[at].behind {
                self.commands[behind].count_open(self.number, 1);
            }
        }
    }

    /// Puts a command that waited into the open batch, if there is space.
    fn join(&mut self, id: CommandId) -> bool {
        let State::Waiting(encoded) = &self.commands[id.index].state else { return true };
        let member = self.member(id, encoded.len());
        if !self.has_space(&member) {
            return false;
        }
        self.open.push(member, |batch| batch.extend_from_slice(encoded));
        self.opened(id.index);
        true
    }

    /// Puts into the open batch what waits for nothing else.
    fn fill(&mut self) {
        while let Some(id) = self.ready.front().copied() {
            if self.contains(id) && !self.join(id) {
                break;
            }
            self.ready.pop_front();
        }
    }

    /// Puts behind the members of the open batch, which is to be sequential, those that wait for no others.
    fn follow(&mut self) {
        let mut member = 0;
        while member < self.open.len() {
            let index = self.open.members()[member].id.index;
            for at in 0..self.commands[index].command.links.all().len() {
                let Some(behind) = self.commands[index].command.links.all()[at].behind else { continue };
                let id = self.commands[behind].id(behind);
                if matches!(self.commands[behind].state, State::Waiting(_)) && self.may_join(behind, true) {
                    if !self.join(id) {
                        return;
                    }
                    self.blocked -= 1;
                }
            }
            member += 1;
        }
    }

    /// Takes the open batch, and opens another.
    pub(super) fn take(&mut self) -> Option<OutgoingBatch> {
        self.drop_holes();
        self.fill();
        if self.open.is_empty() {
            return None;
        }
        let alone = self.open.len();
        let mut run = match self.order {
            Order::Sequential => Run::Sequential,
            Order::PerChannel | Order::None => self.pace.next(alone),
        };
        let is_hot = alone <= FEW_CHANNELS && self.blocked > HOT * alone;
        if run == Run::Sequential || is_hot {
            self.follow();
            if self.open.len() > alone {
                run = Run::Sequential;
            }
        }
        let draft = self.open.take();
        self.number += 1;
        for member in draft.members() {
            self.commands[member.id.index].state = State::Taken;
        }
        self.fill();
        Some(draft.seal(run == Run::Parallel))
    }

    /// Takes note of how long the server took for a batch.
    pub(super) fn responded(&mut self, batch: &OutgoingBatch, took: Duration) {
        let run = if batch.is_parallel() { Run::Parallel } else { Run::Sequential };
        self.pace.note(run, batch.members().len(), took);
    }

    /// Takes what was withdrawn out of the open batch.
    fn drop_holes(&mut self) {
        if self.holes == 0 {
            return;
        }
        self.holes = 0;
        let commands = &self.commands;
        self.open
            .retain(|member| commands.get(member.id.index).is_some_and(|queued| queued.number == member.id.number));
    }

    /// What is kept for a command that is not over, and whether it has left.
    pub(super) fn get_mut(&mut self, id: CommandId) -> Option<(&mut T, bool)> {
        let queued = self.commands.get_mut(id.index).filter(|queued| queued.number == id.number)?;
        Some((&mut queued.command.value, matches!(queued.state, State::Taken)))
    }

    /// How many commands have left and are not over.
    pub(super) fn taken(&self) -> usize {
        self.commands.iter().filter(|(_, queued)| matches!(queued.state, State::Taken)).count()
    }

    /// Gives up a command that has not left. What was kept for it, or nothing, if it has left.
    pub(super) fn withdraw(&mut self, id: CommandId) -> Option<T> {
        let queued = self.commands.get(id.index).filter(|queued| queued.number == id.number)?;
        match queued.state {
            State::Taken => return None,
            State::Waiting(_) => {}
            State::Open => self.holes += 1,
        }
        let value = self.remove(id);
        // What is kept of those that were withdrawn stays as small as what is kept of the others.
        if self.holes > FEW_STALE && self.holes > self.open.len() / 2 {
            self.drop_holes();
        }
        if self.ready.len() > FEW_STALE && self.ready.len() > 2 * self.commands.len() {
            let commands = &self.commands;
            self.ready.retain(|id| commands.get(id.index).is_some_and(|queued| queued.number == id.number));
        }
        value
    }

    /// Ends a command. What was kept for it.
    pub(super) fn remove(&mut self, id: CommandId) -> Option<T> {
        self.commands.get(id.index).filter(|queued| queued.number == id.number)?;
        let Queued { command, state, blockers, .. } = self.commands.remove(id.index);
        let was_open = matches!(state, State::Open);
        self.blocked -= usize::from(blockers > 0 && matches!(state, State::Waiting(_)));
        for link in command.links.all() {
            self.unlink(link.channel, link.before, link.behind, was_open);
        }
        Some(command.value)
    }

    /// Closes the gap that a command leaves in the list of a channel.
    fn unlink(&mut self, channel: u64, before: Option<usize>, behind: Option<usize>, was_open: bool) {
        let is_open_before = before.is_some_and(|index| matches!(self.commands[index].state, State::Open));
        if let Some(link) = before.and_then(|index| self.commands[index].command.links.of(channel)) {
            link.behind = behind;
        }
        let Some(behind) = behind else {
            match before {
                Some(before) => self.last.insert(channel, before),
                None => self.last.remove(&channel),
            };
            return;
        };
        let number = self.number;
        let next = &mut self.commands[behind];
        if let Some(link) = next.command.links.of(channel) {
            link.before = before;
        }
        next.count_open(number, isize::from(is_open_before) - isize::from(was_open));
        if before.is_some() {
            return;
        }
        next.blockers -= 1;
        if next.blockers > 0 || !matches!(next.state, State::Waiting(_)) {
            return;
        }
        let id = next.id(behind);
        self.blocked -= 1;
        if !self.ready.is_empty() || !self.join(id) {
            self.ready.push_back(id);
        }
    }
}

/// For keys that are hashes.
#[derive(Clone, Copy, Debug, Default)]
struct IsHash;

impl BuildHasher for IsHash {
    type Hasher = TheHash;

    fn build_hasher(&self) -> TheHash {
        TheHash(0)
    }
}

struct TheHash(u64);

impl Hasher for TheHash {
    fn write(&mut self, bytes: &[u8]) {
        // Not called: a `u64` is given whole.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
