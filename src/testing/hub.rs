//! The state of the channels: streams, idempotency keys, presence, and counts of publications.
//!
//! Nothing runs in the background: expired entries are removed at the next access. The clock is tokio's, which a test can
//! pause.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::map::Maps;
use super::namespace::Namespace;
use crate::api::message::{ClientInfo, Publication};

/// How long the server remembers an idempotency key.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

/// A position in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) epoch: String,
}

/// A publication and its conditions.
#[derive(Clone, Debug, Default)]
pub(super) struct Publish {
    pub(super) data: Bytes,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) skip_history: bool,
    pub(super) idempotency_key: String,
    pub(super) version: u64,
    pub(super) version_epoch: String,
}

/// The publications to read.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// Negative: all.
    pub(super) limit: i32,
    pub(super) since: Option<Position>,
    pub(super) reverse: bool,
}

/// Why a stream cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// The request is invalid, which the server reports as an internal error.
    Internal,
    /// The position is of another epoch.
    Unrecoverable,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    streams: HashMap<String, Stream>,
    keys: Keys,
    presence: BTreeMap<String, BTreeMap<String, ClientInfo>>,
    applied: HashMap<String, u64>,
    pub(super) maps: Maps,
}

/// The publications of one channel.
#[derive(Debug)]
struct Stream {
    epoch: String,
    top: u64,
    kept: VecDeque<Publication>,
    version: u64,
    version_epoch: String,
    /// When the publications expire.
    expires: Option<Instant>,
    /// When the stream with its epoch expires.
    removed: Instant,
}

impl Stream {
    fn new(removed: Instant) -> Self {
        Self {
            epoch: epoch(),
            top: 0,
            kept: VecDeque::new(),
            version: 0,
            version_epoch: String::new(),
            expires: None,
            removed,
        }
    }

    fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch.clone() }
    }
}

impl Hub {
    /// Publishes into a stream and returns the position of the publication.
    pub(super) fn publish(&mut self, channel: &str, namespace: &Namespace, publish: Publish) -> Position {
        let key = (!publish.idempotency_key.is_empty()).then_some(publish.idempotency_key.as_str());
        if let Some(first) = key.and_then(|key| self.keys.get(channel, key)) {
            return first;
        }
        let mut position = Position::default();
        if namespace.has_history() && !publish.skip_history {
            let now = Instant::now();
            let stream = self.stream(channel, namespace);
            // Even a stale publication renews the expiry of the others.
            stream.expires = Some(now + namespace.history_ttl);
            let same_epoch = publish.version_epoch.is_empty() || publish.version_epoch == stream.version_epoch;
            if publish.version > 0 && same_epoch && publish.version <= stream.version {
                return stream.position();
            }
            stream.top += 1;
            stream.kept.push_back(Publication {
                data: publish.data,
                info: None,
                offset: stream.top,
                tags: publish.tags,
            });
            while stream.kept.len() > namespace.history_size {
                stream.kept.pop_front();
            }
            stream.version = publish.version;
            stream.version_epoch = publish.version_epoch;
            position = stream.position();
        }
        if let Some(key) = key {
            self.keys.put(channel, key, position.clone());
        }
        self.count(channel);
        position
    }

    /// Reads a stream. Reading creates a stream that does not exist, so that its epoch is stable.
    pub(super) fn history(
        &mut self,
        channel: &str,
        namespace: &Namespace,
        range: &Range,
    ) -> Result<(Vec<Publication>, Position), ReadError> {
        if range.reverse && range.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(ReadError::Internal);
        }
        let stream = self.stream(channel, namespace);
        let position = stream.position();
        if range.since.as_ref().is_some_and(|since| !since.epoch.is_empty() && since.epoch != position.epoch) {
            return Err(ReadError::Unrecoverable);
        }
        let offsets = stream.kept.iter().map(|publication| publication.offset);
        let chosen = choose(offsets, stream.top, range.since.as_ref().map(|since| since.offset), range);
        Ok((chosen.into_iter().filter_map(|index| stream.kept.get(index).cloned()).collect(), position))
    }

    /// Removes the publications of a stream and keeps its position.
    pub(super) fn history_remove(&mut self, channel: &str, namespace: &Namespace) {
        self.drop_expired(channel);
        if let Some(stream) = self.streams.get_mut(channel) {
            stream.kept.clear();
            stream.removed = Instant::now() + namespace.history_meta_ttl;
        }
    }

    /// Returns the stream of a channel, created if absent, without expired entries, and renews its expiry.
    fn stream(&mut self, channel: &str, namespace: &Namespace) -> &mut Stream {
        self.drop_expired(channel);
        let removed = Instant::now() + namespace.history_meta_ttl;
        let stream = self.streams.entry(channel.to_owned()).or_insert_with(|| Stream::new(removed));
        stream.removed = removed;
        stream
    }

    fn drop_expired(&mut self, channel: &str) {
        let now = Instant::now();
        if let Some(stream) = self.streams.get_mut(channel) {
            if stream.removed <= now {
                self.streams.remove(channel);
            } else if stream.expires.is_some_and(|expires| expires <= now) {
                stream.kept.clear();
                stream.expires = None;
            }
        }
    }

    /// Counts a publication, for [`applied`](Self::applied).
    pub(super) fn count(&mut self, channel: &str) {
        *self.applied.entry(channel.to_owned()).or_default() += 1;
    }

    /// The number of publications applied to a channel.
    pub(super) fn applied(&self, channel: &str) -> u64 {
        self.applied.get(channel).copied().unwrap_or_default()
    }

    pub(super) fn join(&mut self, channel: String, client: String, info: ClientInfo) {
        self.presence.entry(channel).or_default().insert(client, info);
    }

    pub(super) fn leave(&mut self, channel: &str, client: &str) {
        if let Some(clients) = self.presence.get_mut(channel) {
            clients.remove(client);
            if clients.is_empty() {
                self.presence.remove(channel);
            }
        }
    }

    /// The clients in a channel.
    pub(super) fn presence(&self, channel: &str) -> BTreeMap<String, ClientInfo> {
        self.presence.get(channel).cloned().unwrap_or_default()
    }

    /// The channels that have clients, with the number of clients.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&str, usize)> {
        self.presence.iter().map(|(channel, clients)| (channel.as_str(), clients.len()))
    }

    /// The numbers of clients, users, channels and subscriptions.
    pub(super) fn counts(&self) -> [usize; 4] {
        let clients: BTreeSet<&str> = self.presence.values().flatten().map(|(client, _)| client.as_str()).collect();
        let users: BTreeSet<&str> = self.presence.values().flatten().map(|(_, info)| info.user.as_str()).collect();
        let subscriptions = self.presence.values().map(BTreeMap::len).sum();
        [clients.len(), users.len(), self.presence.len(), subscriptions]
    }
}

/// The kept offsets to read, as indexes in the order of the result.
///
/// Forward from an expired position it begins with the oldest kept; backward from one it reads nothing.
pub(super) fn choose(
    kept: impl ExactSizeIterator<Item = u64> + DoubleEndedIterator,
    top: u64,
    since: Option<u64>,
    range: &Range,
) -> Vec<usize> {
    let last = kept.len();
    let mut offsets = kept.enumerate();
    let all: Vec<usize> = match (since, range.reverse) {
        (None, false) => (0..last).collect(),
        (None, true) => (0..last).rev().collect(),
        // The sums wrap in the server too.
        (Some(since), false) if since.wrapping_add(1) > top => Vec::new(),
        (Some(since), false) => {
            let first = offsets.find(|(_, offset)| *offset == since.wrapping_add(1)).map_or(0, |(index, _)| index);
            (first..last).collect()
        }
        (Some(since), true) => match offsets.find(|(_, offset)| *offset == since.wrapping_sub(1)) {
            Some((first, _)) => (0..=first).rev().collect(),
            None => Vec::new(),
        },
    };
    let limit = usize::try_from(range.limit).unwrap_or(usize::MAX);
    all.into_iter().take(limit).collect()
}

/// The idempotency keys of each channel, with the position of the first publication.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<String, HashMap<String, (Position, Instant)>>);

impl Keys {
    pub(super) fn get(&self, channel: &str, key: &str) -> Option<Position> {
        let (position, expires) = self.0.get(channel)?.get(key)?;
        (*expires > Instant::now()).then(|| position.clone())
    }

    pub(super) fn put(&mut self, channel: &str, key: &str, position: Position) {
        let expires = Instant::now() + IDEMPOTENCY_TTL;
        let keys = self.0.entry(channel.to_owned()).or_default();
        // Expired keys are removed now and then.
        if keys.len() >= 1024 && keys.len().is_power_of_two() {
            keys.retain(|_, (_, expires)| *expires > Instant::now());
        }
        keys.insert(key.to_owned(), (position, expires));
    }

    pub(super) fn forget(&mut self, channel: &str) {
        self.0.remove(channel);
    }
}

/// An unpredictable number.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// A new UUID, version 4.
pub(super) fn uuid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

/// A new epoch: eight letters.
pub(super) fn epoch() -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut left = random();
    let letter = |left: &mut u64| {
        let index = *left % 52;
        *left /= 52;
        char::from(LETTERS[usize::try_from(index).unwrap_or_default()])
    };
    (0..8).map(|_| letter(&mut left)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> Namespace {
        Namespace::new("").history(2, Duration::from_secs(300))
    }

    fn publish(key: &str, version: u64) -> Publish {
        Publish { data: Bytes::from_static(b"1"), idempotency_key: key.into(), version, ..Publish::default() }
    }

    fn read(hub: &mut Hub, since: Option<u64>, limit: i32, reverse: bool) -> Vec<u64> {
        let since = since.map(|offset| Position { offset, epoch: String::new() });
        let range = Range { limit, since, reverse };
        let (publications, _) = hub.history("a", &namespace(), &range).unwrap();
        publications.iter().map(|publication| publication.offset).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn history_goes_after_its_time_and_the_position_after_the_longer_one() {
        let (mut hub, namespace) = (Hub::default(), namespace().history_meta_ttl(Duration::from_secs(1000)));
        let first = hub.publish("a", &namespace, publish("", 0));
        tokio::time::advance(Duration::from_secs(299)).await;
        assert_eq!(read(&mut hub, None, -1, false), [1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (publications, position) = hub.history("a", &namespace, &Range { limit: -1, ..Range::default() }).unwrap();
        assert_eq!((publications.len(), &position), (0, &first));

        tokio::time::advance(Duration::from_secs(999)).await;
        let next = hub.publish("a", &namespace, publish("", 0));
        assert_eq!((next.offset, &next.epoch), (2, &first.epoch), "the read before let the stream live on");
        tokio::time::advance(Duration::from_secs(1000)).await;
        let anew = hub.publish("a", &namespace, publish("", 0));
        assert_eq!(anew.offset, 1);
        assert_ne!(anew.epoch, first.epoch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_remembered_for_five_minutes_in_its_channel() {
        let (mut hub, namespace) = (Hub::default(), namespace());
        let first = hub.publish("a", &namespace, publish("k", 0));
        tokio::time::advance(Duration::from_millis(299_999)).await;
        assert_eq!(hub.publish("a", &namespace, publish("k", 0)), first);
        assert_eq!((hub.applied("a"), hub.applied("b")), (1, 0));
        hub.publish("b", &namespace, publish("k", 0));
        assert_eq!(hub.applied("b"), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(hub.publish("a", &namespace, publish("k", 0)).offset, 2);
    }

    #[tokio::test]
    async fn a_stale_version_is_not_published_and_stores_no_key() {
        let (mut hub, namespace) = (Hub::default(), namespace());
        assert_eq!(hub.publish("a", &namespace, publish("", 5)).offset, 1);
        assert_eq!(hub.publish("a", &namespace, publish("k", 5)).offset, 1);
        assert_eq!(hub.publish("a", &namespace, publish("", 0)).offset, 2, "and that resets the version");
        assert_eq!(hub.publish("a", &namespace, publish("k", 1)).offset, 3);
        let other = Publish { version_epoch: "e".into(), ..publish("", 1) };
        assert_eq!(hub.publish("a", &namespace, other.clone()).offset, 4);
        assert_eq!(hub.publish("a", &namespace, other).offset, 4);
        assert_eq!(hub.applied("a"), 4);
    }

    #[tokio::test]
    async fn a_skipped_history_has_no_position_but_counts() {
        let mut hub = Hub::default();
        let skipped = Publish { skip_history: true, ..publish("k", 7) };
        assert_eq!(hub.publish("a", &namespace(), skipped), Position::default());
        assert_eq!(hub.publish("a", &namespace(), publish("k", 0)), Position::default());
        assert_eq!(hub.applied("a"), 1);
    }

    #[tokio::test]
    async fn what_is_trimmed_is_no_gap_forward_and_nothing_backward() {
        let mut hub = Hub::default();
        for _ in 0..4 {
            hub.publish("a", &namespace(), publish("", 0));
        }
        assert_eq!(read(&mut hub, Some(1), -1, false), [3, 4]);
        assert_eq!(read(&mut hub, Some(3), -1, false), [4]);
        assert_eq!(read(&mut hub, Some(4), -1, false), [0; 0]);
        assert_eq!(read(&mut hub, Some(u64::MAX), -1, false), [3, 4]);
        assert_eq!(read(&mut hub, Some(4), -1, true), [3]);
        assert_eq!(read(&mut hub, Some(2), -1, true), [0; 0]);
        assert_eq!(read(&mut hub, None, 1, true), [4]);
        assert_eq!(read(&mut hub, None, 0, false), [0; 0]);
        let since = |offset, epoch: &str| Range {
            limit: -1,
            since: Some(Position { offset, epoch: epoch.into() }),
            reverse: offset == 0,
        };
        assert_eq!(hub.history("a", &namespace(), &since(0, "")).unwrap_err(), ReadError::Internal);
        assert_eq!(hub.history("a", &namespace(), &since(1, "other")).unwrap_err(), ReadError::Unrecoverable);
    }

    #[test]
    fn an_epoch_is_eight_letters() {
        let (one, other) = (epoch(), epoch());
        assert!(one.len() == 8 && one.bytes().all(|byte| byte.is_ascii_alphabetic()), "{one}");
        assert_ne!(one, other);
    }
}
