//! The deadlines of queued commands, earliest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use tokio::time::Instant;

use crate::batching::command::CommandId;

/// Up to this many entries of ended commands are not worth removing.
const FEW_STALE: usize = 1024;

/// The deadlines of commands. Entries of ended commands are removed at the front, or all at once when they are the majority.
///
/// Usually each deadline is later than those before it and goes into a list; a heap has the others.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    in_order: VecDeque<(Instant, CommandId)>,
    others: BinaryHeap<Reverse<(Instant, CommandId)>>,
}

impl Deadlines {
    /// Adds a deadline. Whether it is earlier than all others.
    pub(super) fn push(&mut self, deadline: Instant, id: CommandId) -> bool {
        let is_first = self.next().is_none_or(|first| deadline < first);
        if self.in_order.back().is_none_or(|(last, _)| *last <= deadline) {
            self.in_order.push_back((deadline, id));
        } else {
            self.others.push(Reverse((deadline, id)));
        }
        is_first
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        let others = self.others.peek().map(|Reverse((deadline, _))| *deadline);
        self.in_order.front().map(|(deadline, _)| *deadline).into_iter().chain(others).min()
    }

    /// Removes the command with the earliest deadline, if that is not after `until`.
    pub(super) fn pop(&mut self, until: Instant) -> Option<(Instant, CommandId)> {
        let next = self.next().filter(|deadline| *deadline <= until)?;
        if self.in_order.front().is_some_and(|(deadline, _)| *deadline == next) {
            return self.in_order.pop_front();
        }
        self.others.pop().map(|Reverse(entry)| entry)
    }

    /// Puts back the entries that were removed last, earliest first.
    pub(super) fn put_back(&mut self, removed: Vec<(Instant, CommandId)>) {
        for entry in removed.into_iter().rev() {
            self.in_order.push_front(entry);
        }
    }

    /// Removes entries of ended commands, given how many are live.
    pub(super) fn clean(&mut self, live: usize, is_live: impl Fn(CommandId) -> bool) {
        while self.in_order.front().is_some_and(|(_, id)| !is_live(*id)) {
            self.in_order.pop_front();
        }
        while self.others.peek().is_some_and(|Reverse((_, id))| !is_live(*id)) {
            self.others.pop();
        }
        if self.in_order.len() > FEW_STALE && self.in_order.len() > 2 * live {
            self.in_order.retain(|(_, id)| is_live(*id));
        }
        if self.others.len() > FEW_STALE && self.others.len() > 2 * live {
            self.others.retain(|Reverse((_, id))| is_live(*id));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: u64) -> CommandId {
        CommandId { index: 0, number }
    }

    #[test]
    fn deadlines_pop_earliest_first_and_only_once_passed() {
        let (now, mut deadlines) = (Instant::now(), Deadlines::default());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(deadlines.push(after(2), id(0)));
        assert!(deadlines.push(after(1), id(1)));
        assert!(!deadlines.push(after(3), id(2)));
        assert_eq!((deadlines.pop(now), deadlines.len()), (None, 3));
        let removed = [deadlines.pop(after(2)), deadlines.pop(after(2))].map(Option::unwrap);
        assert_eq!(removed, [(after(1), id(1)), (after(2), id(0))]);
        deadlines.put_back(removed.to_vec());
        assert_eq!([deadlines.pop(after(2)), deadlines.pop(after(2))].map(Option::unwrap), removed);
        assert_eq!((deadlines.pop(after(2)), deadlines.next()), (None, Some(after(3))));
    }

    #[test]
    fn deadlines_of_ended_commands_are_bounded() {
        let (now, mut deadlines) = (Instant::now(), Deadlines::default());
        // The first one stays live, so the others cannot be removed at the front.
        for number in 0..1_000_000 {
            deadlines.push(now + Duration::from_secs(10), id(number));
            deadlines.clean(2, |id| id.number == 0 || id.number == number);
            assert!(deadlines.len() <= FEW_STALE + 1);
        }
        deadlines.clean(0, |_| false);
        assert_eq!(deadlines.len(), 0);
    }
}
