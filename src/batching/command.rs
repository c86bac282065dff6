//! A command as the queue knows it: what it is of, and how it is linked with others of its channels.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use tokio::time::Instant;

use crate::api::method::Method;
use crate::config::batching::Order;
use crate::config::retry::Retry;

/// A command's index, and its number, by which it is told from a later one with the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommandId {
    pub(super) index: usize,
    pub(super) number: u64,
}

/// A command, and what is kept for it until it is over.
#[derive(Debug)]
pub(super) struct Command<T> {
    pub(super) method: Method,
    /// Whether it may take effect twice.
    pub(super) repeatable: bool,
    /// When its caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Its retries, if they are not those of the engine.
    pub(super) retry: Option<Arc<Retry>>,
    pub(super) links: Links,
    pub(super) value: T,
}

/// A command's neighbours among those of one channel.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The hash of the channel's name: two channels of the same hash only wait for each other in vain.
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

    /// The link of a channel, if the command is of it.
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

/// Makes links of channels' names.
#[derive(Debug)]
pub(super) struct Hashes(Option<RandomState>);

impl Hashes {
    pub(super) fn new(order: Order) -> Self {
        Self((order != Order::None).then(RandomState::new))
    }

    /// Links, without neighbours yet, of these channels, if their order counts.
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
