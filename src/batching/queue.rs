//! What waits to be sent, and in which requests it may leave: a state machine without a clock, a task or a lock.
//!
//! A command waits for the latest earlier one of each of its channels. The commands that wait for nothing are put into the
//! *open* parcel, encoded straight into it, and leave with it when somebody [takes](Queue::take) it. A command is over when it
//! is [removed](Queue::remove): then those that waited for it go on.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::Wrapping;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::api::method::Method;
use crate::batching::outgoing::{Draft, Member, OutgoingBatch};
use crate::batching::pace::{Pace, Run};
use crate::config::batching::Order;

/// How many commands may wait for each one in a parallel parcel of no more than so few, before they are sent along in a
/// sequential one.
///
/// A parcel of a few commands is mostly the way to the server and back. With more, even Redis, which carries out 12,000 commands
/// a second in order, is asked for more of them in parallel.
const FEW_CHANNELS: usize = 4;
const HOT: usize = 8;

/// The commands that are not over, with a `T` for each.
#[derive(Debug)]
pub(super) struct Queue<T> {
    order: Order,
    limits: Limits,
    commands: Slab<Queued<T>>,
    /// The latest command of each channel that has one, by the channel's hash: two channels of the same hash only wait for
    /// each other in vain.
    latest: HashMap<u64, usize, IsHash>,
    /// The parcel that leaves next.
    open: Draft,
    /// Those of the open parcel that were withdrawn.
    holes: usize,
    /// The number of the open parcel.
    number: Wrapping<u32>,
    /// Those that wait for nothing but room in the open parcel. Some may be gone by now.
    ready: VecDeque<Ticket>,
    pace: Pace,
    /// How many are neither over nor withdrawn.
    live: usize,
    /// How many wait for others.
    waiting: usize,
    next: u64,
}

/// What a parcel may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) commands: usize,
    pub(super) bytes: usize,
}

/// A command's place, and its number, by which it is told from a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    place: usize,
    pub(super) number: u64,
}

/// A command, and what is kept for it until it is over.
#[derive(Debug)]
pub(super) struct Command<T> {
    pub(super) method: Method,
    /// Whether it may be carried out twice.
    pub(super) repeatable: bool,
    /// When nobody waits for it any more.
    pub(super) deadline: Option<Instant>,
    pub(super) channels: Channels,
    pub(super) value: T,
}

/// The channels that a command is of, as their hashes.
#[derive(Clone, Debug, Default)]
pub(super) enum Channels {
    #[default]
    None,
    One(u64),
    Many(Box<[u64]>),
}

impl Channels {
    fn iter(&self) -> impl Iterator<Item = u64> + use<'_> {
        let all: &[u64] = match self {
            Self::None => &[],
            Self::One(channel) => std::slice::from_ref(channel),
            Self::Many(channels) => channels,
        };
        all.iter().copied()
    }
}

/// Makes channels of names.
#[derive(Debug)]
pub(super) struct Hashes(Option<RandomState>);

impl Hashes {
    pub(super) fn new(order: Order) -> Self {
        Self((order != Order::None).then(RandomState::new))
    }

    /// The channels of these names, if their order counts.
    pub(super) fn of(&self, names: &[String]) -> Channels {
        match (&self.0, names) {
            (None, _) | (_, []) => Channels::None,
            (Some(hashes), [name]) => Channels::One(hashes.hash_one(name)),
            (Some(hashes), names) => Channels::Many(names.iter().map(|name| hashes.hash_one(name)).collect()),
        }
    }
}

/// A command in the queue.
#[derive(Debug)]
struct Queued<T> {
    number: u64,
    command: Command<T>,
    state: State,
    /// How many earlier commands it waits for, once for each channel that they share.
    blockers: usize,
    /// How many of these are in the parcel of this number.
    along: (Wrapping<u32>, usize),
    /// Those that wait for it, once for each channel that they share.
    successors: Vec<usize>,
}

#[derive(Debug)]
enum State {
    /// For others, or for room: its encoded form.
    Waiting(Vec<u8>),
    /// In the open parcel.
    Open,
    /// On its way.
    Taken,
    /// Withdrawn or ended, and there only for those that wait for their turn behind it: until it leaves the open parcel, and
    /// until those are over that it waited for itself.
    Gone,
}

impl<T: Default> Queue<T> {
    pub(super) fn new(order: Order, limits: Limits) -> Self {
        Self {
            order,
            limits,
            commands: Slab::new(),
            latest: HashMap::default(),
            open: Draft::default(),
            holes: 0,
            number: Wrapping(0),
            ready: VecDeque::new(),
            pace: Pace::new(),
            live: 0,
            waiting: 0,
            next: 0,
        }
    }

    /// Whether there may be a parcel to be taken. Behind a command that was withdrawn another may wait, so these count.
    pub(super) fn has_parcel(&self) -> bool {
        !self.open.is_empty() || !self.ready.is_empty()
    }

    /// Whether the open parcel can get no longer.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= self.limits.commands || !self.ready.is_empty()
    }

    /// The number of the next command: those that are in the queue now have smaller ones.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many commands are neither over nor withdrawn.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// The channels of a command that is not over.
    pub(super) fn channels_of(&self, ticket: Ticket) -> impl Iterator<Item = u64> + use<'_, T> {
        let queued = self.commands.get(ticket.place).filter(|queued| queued.number == ticket.number);
        queued.into_iter().flat_map(|queued| queued.command.channels.iter())
    }

    fn member(&self, ticket: Ticket, len: usize) -> Member {
        Member::new(ticket, &self.commands[ticket.place].command, len)
    }

    /// Adds a command of this length, which `encode` writes behind what is there.
    pub(super) fn push(&mut self, command: Command<T>, len: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Ticket {
        let ticket = self.add(command);
        let member = self.member(ticket, len);
        if self.may_join(ticket.place, self.order == Order::Sequential) && self.has_room(&member) {
            self.open.push(member, encode);
            self.opened(ticket.place);
        } else {
            let mut encoded = Vec::with_capacity(len);
            encode(&mut encoded);
            self.commands[ticket.place].state = State::Waiting(encoded);
            if self.commands[ticket.place].blockers == 0 {
                self.ready.push_back(ticket);
            } else {
                self.waiting += 1;
            }
        }
        ticket
    }

    fn add(&mut self, command: Command<T>) -> Ticket {
        let number = self.next;
        self.next += 1;
        self.live += 1;
        let place = self.commands.vacant_key();
        let (mut blockers, mut along) = (0, 0);
        for channel in command.channels.iter() {
            let Some(before) = self.latest.insert(channel, place) else { continue };
            // A broadcast may name a channel twice.
            if before == place {
                continue;
            }
            let before = &mut self.commands[before];
            before.successors.push(place);
            blockers += 1;
            along += usize::from(matches!(before.state, State::Open));
        }
        let (state, along) = (State::Taken, (self.number, along));
        self.commands.insert(Queued { number, command, state, blockers, along, successors: Vec::new() });
        Ticket { place, number }
    }

    /// Whether a command may be put into the open parcel: it waits for none, or in a sequential one only for such as are
    /// there before it.
    fn may_join(&self, place: usize, sequential: bool) -> bool {
        let Queued { blockers, along, .. } = &self.commands[place];
        *blockers == 0 || (sequential && *along == (self.number, *blockers))
    }

    fn has_room(&self, member: &Member) -> bool {
        let bytes = self.open.encoded_len() + member.encoded_len();
        self.open.is_empty() || (self.open.len() < self.limits.commands && bytes <= self.limits.bytes)
    }

    /// Takes note that a command is in the open parcel now.
    fn opened(&mut self, place: usize) {
        let number = self.number;
        self.commands[place].state = State::Open;
        self.for_successors(place, |successor| {
            if successor.along.0 != number {
                successor.along = (number, 0);
            }
            successor.along.1 += 1;
        });
    }

    fn for_successors(&mut self, place: usize, mut change: impl FnMut(&mut Queued<T>)) {
        let successors = std::mem::take(&mut self.commands[place].successors);
        for successor in &successors {
            change(&mut self.commands[*successor]);
        }
        self.commands[place].successors = successors;
    }

    /// Puts a command that waited into the open parcel, if there is room.
    fn join(&mut self, ticket: Ticket) -> bool {
        let State::Waiting(encoded) = &self.commands[ticket.place].state else { return true };
        let member = self.member(ticket, encoded.len());
        if !self.has_room(&member) {
            return false;
        }
        self.open.push(member, |batch| batch.extend_from_slice(encoded));
        self.opened(ticket.place);
        true
    }

    /// Puts into the open parcel what waits for nothing else.
    fn fill(&mut self) {
        while let Some(ticket) = self.ready.front().copied() {
            let is_there = self.commands.get(ticket.place).is_some_and(|command| command.number == ticket.number);
            if is_there && !self.join(ticket) {
                break;
            }
            self.ready.pop_front();
        }
    }

    /// Puts behind the members of the open parcel, which is to be sequential, those that wait for no others.
    fn follow(&mut self) {
        let mut index = 0;
        while index < self.open.len() {
            let place = self.open.members()[index].ticket.place;
            for at in 0..self.commands[place].successors.len() {
                let successor = self.commands[place].successors[at];
                let ticket = Ticket { place: successor, number: self.commands[successor].number };
                if matches!(self.commands[successor].state, State::Waiting(_)) && self.may_join(successor, true) {
                    if !self.join(ticket) {
                        return;
                    }
                    self.waiting -= 1;
                }
            }
            index += 1;
        }
    }

    /// Takes the open parcel, and opens another.
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
        let is_hot = alone <= FEW_CHANNELS && self.waiting > HOT * alone;
        if run == Run::Sequential || is_hot {
            self.follow();
            if self.open.len() > alone {
                run = Run::Sequential;
            }
        }
        let draft = self.open.take();
        self.number += 1;
        for member in draft.members() {
            self.commands[member.ticket.place].state = State::Taken;
        }
        self.fill();
        Some(draft.seal(run == Run::Parallel))
    }

    /// Takes note of how long the server took for a parcel.
    pub(super) fn answered(&mut self, parcel: &OutgoingBatch, took: Duration) {
        let run = if parcel.is_parallel() { Run::Parallel } else { Run::Sequential };
        self.pace.note(run, parcel.members().len(), took);
    }

    /// Takes what was withdrawn out of the open parcel.
    fn drop_holes(&mut self) {
        if self.holes == 0 {
            return;
        }
        self.holes = 0;
        let mut gone = Vec::new();
        let commands = &self.commands;
        self.open.retain(|member| {
            let stays = matches!(commands[member.ticket.place].state, State::Open);
            if !stays {
                gone.push(member.ticket);
            }
            stays
        });
        for ticket in gone {
            self.remove(ticket);
        }
    }

    /// The commands that are neither over nor withdrawn: whether each is still to leave, its deadline, and what is kept for it.
    pub(super) fn live(&mut self) -> impl Iterator<Item = (Ticket, bool, Option<Instant>, &mut T)> {
        let live = self.commands.iter_mut().filter(|(_, queued)| !matches!(queued.state, State::Gone));
        live.map(|(place, Queued { number, command, state, .. })| {
            let ticket = Ticket { place, number: *number };
            (ticket, !matches!(state, State::Taken), command.deadline, &mut command.value)
        })
    }

    /// Gives up a command that has not left. What was kept for it, or nothing, if it has left.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> Option<T> {
        let queued = self.get(ticket)?;
        match queued.state {
            State::Taken | State::Gone => None,
            State::Waiting(_) => {
                self.waiting -= usize::from(queued.blockers > 0);
                self.remove(ticket)
            }
            State::Open => {
                self.holes += 1;
                let number = self.number;
                // What waits for it does not follow it.
                self.for_successors(ticket.place, |successor| {
                    successor.along.1 -= usize::from(successor.along.0 == number);
                });
                self.live -= 1;
                let queued = &mut self.commands[ticket.place];
                queued.state = State::Gone;
                Some(std::mem::take(&mut queued.command.value))
            }
        }
    }

    fn get(&mut self, ticket: Ticket) -> Option<&mut Queued<T>> {
        self.commands.get_mut(ticket.place).filter(|queued| queued.number == ticket.number)
    }

    /// Ends a command. What was kept for it.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let queued = self.get(ticket)?;
        let value = match std::mem::replace(&mut queued.state, State::Gone) {
            State::Gone => None,
            State::Waiting(_) | State::Open | State::Taken => Some(std::mem::take(&mut queued.command.value)),
        };
        let waits = queued.blockers > 0;
        self.live -= usize::from(value.is_some());
        if !waits {
            self.forget(ticket.place);
        }
        value
    }

    /// Forgets a command that is gone and waits for nothing: those that waited for it wait for one less.
    fn forget(&mut self, place: usize) {
        // Mostly there is but one, and nothing to allocate.
        let (mut next, mut over) = (Some(place), Vec::new());
        while let Some(place) = next.take().or_else(|| over.pop()) {
            let Queued { command, successors, .. } = self.commands.remove(place);
            for channel in command.channels.iter() {
                if self.latest.get(&channel) == Some(&place) {
                    self.latest.remove(&channel);
                }
            }
            for place in successors {
                let successor = &mut self.commands[place];
                successor.blockers -= 1;
                if successor.blockers > 0 {
                    continue;
                }
                let ticket = Ticket { place, number: successor.number };
                match successor.state {
                    State::Gone => over.push(place),
                    State::Waiting(_) => {
                        self.waiting -= 1;
                        if !self.ready.is_empty() || !self.join(ticket) {
                            self.ready.push_back(ticket);
                        }
                    }
                    State::Open | State::Taken => {}
                }
            }
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
