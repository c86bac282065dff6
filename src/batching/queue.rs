//! The commands that wait to be sent, and which of them share a batch: a state machine without a clock, a task or a lock.
//!
//! The commands of a channel form a list, and each is blocked by the one before it. A command at the head of all its lists is
//! encoded straight into the *open* batch, and is sent with it when the engine [takes](Queue::take) it. A command that is
//! [removed](Queue::remove) or [withdrawn](Queue::withdraw) leaves its lists at once.
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

use crate::batching::command::{Command, CommandId, Link};
use crate::batching::outgoing::{Draft, Load, Member, OutgoingBatch};
use crate::batching::pace::{MIN_COMMANDS, Pace, Run};
use crate::config::batching::Order;

/// So many commands wait for others of their channel, for each that can be sent, that a sequential batch, which takes them along, may be
/// faster whatever the server's engine.
const FEW_CHANNELS: usize = 2;
/// Up to this many entries of ended commands are not worth removing.
const FEW_STALE: usize = 64;

/// The commands that have not ended, with a `T` for each.
#[derive(Debug)]
pub(super) struct Queue<T> {
    order: Order,
    limits: Limits,
    commands: Slab<Queued<T>>,
    /// The last command of each channel, by the hash of its name.
    last: HashMap<u64, usize, BuildIdentityHasher>,
    /// The batch that is sent next, and its number.
    open: Draft,
    number: Wrapping<u32>,
    /// How many commands in the open batch were withdrawn.
    withdrawn: usize,
    /// Commands that are not blocked, and wait only for space in the open batch. Some may have ended.
    ready: VecDeque<CommandId>,
    many_channels: Pace,
    few_channels: Pace,
    /// How many commands are blocked.
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
    /// How many commands block it: the one before it in each of its channels.
    blockers: usize,
    /// How many of these are in the open batch with this number.
    open_blockers: (Wrapping<u32>, usize),
}

#[derive(Debug)]
enum State {
    /// Blocked, or waiting for space: its encoded form.
    Waiting(Vec<u8>),
    /// In the open batch.
    Open,
    /// In a batch that was taken.
    Taken,
}

impl<T> Queued<T> {
    fn id(&self, index: usize) -> CommandId {
        CommandId { index, number: self.number }
    }

    /// Changes the number of its blockers in the open batch with this number.
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
            withdrawn: 0,
            ready: VecDeque::new(),
            many_channels: Pace::new(),
            few_channels: Pace::of_few_channels(),
            blocked: 0,
            next: 0,
        }
    }

    /// Whether there may be a batch to take.
    pub(super) fn has_batch(&self) -> bool {
        !self.open.is_empty() || !self.ready.is_empty()
    }

    /// Whether the open batch is full.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= self.limits.commands || !self.ready.is_empty()
    }

    /// The number of the next command, greater than those of all commands in the queue.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The number of commands that have not ended.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether a command has not ended.
    pub(super) fn contains(&self, id: CommandId) -> bool {
        self.commands.get(id.index).is_some_and(|queued| queued.number == id.number)
    }

    /// The channels of a command that has not ended.
    pub(super) fn channels_of(&self, id: CommandId) -> impl Iterator<Item = u64> + use<'_, T> {
        let queued = self.commands.get(id.index).filter(|queued| queued.number == id.number);
        queued.into_iter().flat_map(|queued| queued.command.links.all()).map(|link| link.channel)
    }

    fn member(&self, id: CommandId, len: usize) -> Member {
        Member::new(id, &self.commands[id.index].command, len)
    }

    /// Adds a command of this length, which `encode` appends.
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

    /// Whether a command may be put into the open batch: it is not blocked, or only by commands in the same sequential batch.
    fn may_join(&self, index: usize, sequential: bool) -> bool {
        let Queued { blockers, open_blockers, .. } = &self.commands[index];
        *blockers == 0 || (sequential && *open_blockers == (self.number, *blockers))
    }

    fn has_space(&self, member: &Member) -> bool {
        let bytes = self.open.encoded_len() + member.encoded_len();
        self.open.is_empty() || (self.open.len() < self.limits.commands && bytes <= self.limits.bytes)
    }

    /// Records that a command is now in the open batch.
    fn opened(&mut self, index: usize) {
        self.commands[index].state = State::Open;
        for at in 0..self.commands[index].command.links.all().len() {
            if let Some(behind) = self.commands[index].command.links.all()[at].behind {
                self.commands[behind].count_open(self.number, 1);
            }
        }
    }

    /// Moves a waiting command into the open batch, if there is space.
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

    /// Moves ready commands into the open batch, until it is full.
    fn fill(&mut self) {
        while let Some(id) = self.ready.front().copied() {
            if self.contains(id) && !self.join(id) {
                break;
            }
            self.ready.pop_front();
        }
    }

    /// Appends to the open batch, which will be sequential, the commands that only its members block.
    fn append_blocked(&mut self) {
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
        self.drop_withdrawn();
        self.fill();
        if self.open.is_empty() {
            return None;
        }
        let alone = self.open.len();
        let load = if self.blocked > FEW_CHANNELS * alone && self.blocked >= MIN_COMMANDS / 2 {
            Load::FewChannels
        } else if alone < MIN_COMMANDS {
            Load::Light
        } else {
            Load::ManyChannels
        };
        let run = match (self.order, load) {
            (Order::Sequential, _) => Run::Sequential,
            (Order::PerChannel, Load::FewChannels) => self.few_channels.next(),
            (_, Load::Light) => self.many_channels.run(),
            _ => self.many_channels.next(),
        };
        if run == Run::Sequential {
            self.append_blocked();
        }
        let draft = self.open.take();
        self.number += 1;
        for member in draft.members() {
            self.commands[member.id.index].state = State::Taken;
        }
        self.fill();
        Some(draft.seal(run == Run::Parallel, load))
    }

    /// Records how long the server took for a batch.
    pub(super) fn responded(&mut self, batch: &OutgoingBatch, took: Duration) {
        let run = if batch.is_parallel() { Run::Parallel } else { Run::Sequential };
        let pace = match batch.load() {
            Load::Light => return,
            Load::ManyChannels => &mut self.many_channels,
            Load::FewChannels => &mut self.few_channels,
        };
        pace.note(run, batch.members().len(), took);
    }

    /// Removes withdrawn commands from the open batch.
    fn drop_withdrawn(&mut self) {
        if self.withdrawn == 0 {
            return;
        }
        self.withdrawn = 0;
        let commands = &self.commands;
        self.open
            .retain(|member| commands.get(member.id.index).is_some_and(|queued| queued.number == member.id.number));
    }

    /// The value of a command that has not ended.
    pub(super) fn get_mut(&mut self, id: CommandId) -> Option<&mut T> {
        let queued = self.commands.get_mut(id.index).filter(|queued| queued.number == id.number)?;
        Some(&mut queued.command.value)
    }

    /// Withdraws all commands that were not taken, and returns their values.
    pub(super) fn withdraw_all(&mut self) -> Vec<(CommandId, T)> {
        (self.open, self.withdrawn, self.blocked) = (Draft::default(), 0, 0);
        self.ready.clear();
        self.number += 1;
        let all = self.commands.iter().filter(|(_, queued)| !matches!(queued.state, State::Taken));
        let ids: Vec<_> = all.map(|(index, queued)| queued.id(index)).collect();
        let withdrawn = ids.into_iter().map(|id| (id, self.commands.remove(id.index).command.value)).collect();
        // In the list of a channel those that were taken are before the others.
        let left: Vec<_> = self.commands.iter().map(|(index, _)| index).collect();
        self.last.clear();
        for index in left {
            for at in 0..self.commands[index].command.links.all().len() {
                let Link { channel, behind, .. } = self.commands[index].command.links.all()[at];
                if behind.is_some_and(|behind| self.commands.contains(behind)) {
                    continue;
                }
                self.commands[index].command.links.all_mut()[at].behind = None;
                self.last.insert(channel, index);
            }
        }
        withdrawn
    }

    /// Withdraws a command and returns its value, unless it was taken.
    pub(super) fn withdraw(&mut self, id: CommandId) -> Option<T> {
        let queued = self.commands.get(id.index).filter(|queued| queued.number == id.number)?;
        match queued.state {
            State::Taken => return None,
            State::Waiting(_) => {}
            State::Open => self.withdrawn += 1,
        }
        let value = self.remove(id);
        // Bounds the memory of withdrawn commands by that of the others.
        if self.withdrawn > FEW_STALE && self.withdrawn > self.open.len() / 2 {
            self.drop_withdrawn();
        }
        if self.ready.len() > FEW_STALE && self.ready.len() > 2 * self.commands.len() {
            let commands = &self.commands;
            self.ready.retain(|id| commands.get(id.index).is_some_and(|queued| queued.number == id.number));
        }
        value
    }

    /// Ends a command and returns its value.
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

    /// Removes a command from the list of a channel.
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

/// For keys that are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct BuildIdentityHasher;

impl BuildHasher for BuildIdentityHasher {
    type Hasher = IdentityHasher;

    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher(0)
    }
}

struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Not called: a `u64` key calls `write_u64`.
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
