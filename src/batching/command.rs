//! A command in the queue, and its links to others of the same channels.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use tokio::time::Instant;

use crate::api::method::Method;
use crate::config::batching::Order;
use crate::config::retry::Retry;

/// A command's index, and its number, which differs from that of a later command with the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommandId {
    pub(super) index: usize,
    pub(super) number: u64,
}

/// A command, with a value that is kept until it ends.
#[derive(Debug)]
pub(super) struct Command<T> {
    pub(super) method: Method,
    /// Whether it may take effect twice.
    pub(super) repeatable: bool,
    /// When its caller's deadline passes.
    pub(super) deadline: Option<Instant>,
    /// Its retry settings, if they differ from the engine's.
    pub(super) retry: Option<Arc<Retry>>,
    pub(super) links: Links,
    pub(super) value: T,
}

/// A command's neighbours in the list of one channel.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The hash of the channel's name. Channels that collide are ordered as one, which costs only time.
    pub(super) channel: u64,
    /// The indices of the commands before and behind it.
    pub(super) before: Option<usize>,
    pub(super) behind: Option<usize>,
}

/// The links of a command, one for each of its channels, in the order of their hashes.
#[derive(Clone, Debug, Default)]
pub(super) enum Links {
    #[default]
    None,
    One(Link),
    Many(Box<[Link]>),
}

impl Links {
    pub(super) fn all(&self) -> &[Link] {
        match self {
            Self::None => &[],
            Self::One(link) => std::slice::from_ref(link),
            Self::Many(links) => links,
        }
    }

    pub(super) fn all_mut(&mut self) -> &mut [Link] {
        match self {
            Self::None => &mut [],
            Self::One(link) => std::slice::from_mut(link),
            Self::Many(links) => links,
        }
    }

    /// The link of a channel, if the command has that channel.
    pub(super) fn of(&mut self, channel: u64) -> Option<&mut Link> {
        match self {
            Self::None => None,
            Self::One(link) => Some(link).filter(|link| link.channel == channel),
            Self::Many(links) => {
                let index = links.binary_search_by_key(&channel, |link| link.channel).ok()?;
                Some(&mut links[index])
            }
        }
    }
}

/// Makes links from the names of channels.
#[derive(Debug)]
pub(super) struct Hashes(Option<RandomState>);

impl Hashes {
    pub(super) fn new(order: Order) -> Self {
        Self((order != Order::None).then(RandomState::new))
    }

    /// Links of these channels, without neighbours yet. None if there is no order to keep.
    pub(super) fn of(&self, names: &[String]) -> Links {
        let link = |channel| Link { channel, before: None, behind: None };
        match (&self.0, names) {
            (None, _) | (_, []) => Links::None,
            (Some(hashes), [name]) => Links::One(link(hashes.hash_one(name))),
            (Some(hashes), names) => {
                let mut channels: Vec<_> = names.iter().map(|name| hashes.hash_one(name)).collect();
                channels.sort_unstable();
                channels.dedup();
                Links::Many(channels.into_iter().map(link).collect())
            }
        }
    }
}
