//! The state of map channels: keys with their entries, and a stream of changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::hub::{Keys, Position, Range, ReadError, choose, epoch};
use super::namespace::{Map, MapMode};
use crate::api::message::{MapEntry, MapPublishRequest, MapReadStateRequest};

/// The position of a change, and why it was suppressed if it was.
pub(super) type Change = (Position, Option<&'static str>);

#[derive(Debug, Default)]
pub(super) struct Maps {
    channels: HashMap<String, Channel>,
    keys: Keys,
}

#[derive(Debug)]
struct Channel {
    epoch: String,
    top: u64,
    stream: VecDeque<MapEntry>,
    state: BTreeMap<String, Entry>,
    /// When the stream's entries expire.
    expires: Option<Instant>,
    /// When the channel expires.
    removed: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    shown: MapEntry,
    version: u64,
    version_epoch: String,
    expires: Option<Instant>,
}

impl Map {
    fn key_ttl(&self) -> Option<Duration> {
        match self.mode {
            MapMode::Persistent => None,
            MapMode::Recoverable { key_ttl } | MapMode::Ephemeral { key_ttl } => Some(key_ttl),
        }
    }

    pub(super) fn has_stream(&self) -> bool {
        !matches!(self.mode, MapMode::Ephemeral { .. })
    }

    /// How long a channel is kept after its last use; `None` is for ever.
    fn meta_ttl(&self) -> Option<Duration> {
        match self.mode {
            MapMode::Recoverable { key_ttl } => Some(key_ttl.max(self.stream_ttl * 10)),
            MapMode::Persistent | MapMode::Ephemeral { .. } => None,
        }
    }
}

impl Channel {
    fn new() -> Self {
        Self { epoch: epoch(), top: 0, stream: VecDeque::new(), state: BTreeMap::new(), expires: None, removed: None }
    }

    fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch.clone() }
    }

    /// Appends a change to the stream, if there is one, and sets its offset.
    fn add(&mut self, entry: &mut MapEntry, settings: &Map) {
        if settings.has_stream() {
            self.top += 1;
            entry.offset = self.top;
            self.stream.push_back(entry.clone());
            while self.stream.len() > settings.stream_size {
                self.stream.pop_front();
            }
        }
    }

    /// Expires what is due, in order of time.
    fn catch_up(&mut self, settings: &Map, now: Instant) {
        let mut expired: Vec<(Instant, String)> = self
            .state
            .iter()
            .filter_map(|(key, entry)| Some((entry.expires.filter(|expires| *expires <= now)?, key.clone())))
            .collect();
        expired.sort();
        for (at, key) in expired {
            self.clear_stream(at);
            if let Some(entry) = self.state.remove(&key) {
                let mut removal = removal(key, entry.shown.tags);
                self.add(&mut removal, settings);
            }
        }
        self.clear_stream(now);
    }

    fn clear_stream(&mut self, now: Instant) {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.stream.clear();
            self.expires = None;
        }
    }
}

fn removal(key: String, tags: BTreeMap<String, String>) -> MapEntry {
    MapEntry { key, tags, removed: true, time: unix_ms(), ..MapEntry::default() }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Maps {
    /// Sets a key.
    pub(super) fn publish(&mut self, request: &MapPublishRequest, data: bytes::Bytes, settings: &Map) -> Change {
        let key = &request.key;
        if let Some(first) = self.first(&request.channel, &request.idempotency_key) {
            return (first, Some("idempotency"));
        }
        let (channel, _) = self.channel(&request.channel, settings);
        let before = channel.state.get(key).map(|entry| (entry.version, entry.version_epoch.clone()));
        let suppressed = match &before {
            Some((version, version_epoch))
                if request.version > 0
                    && (request.version_epoch.is_empty() || request.version_epoch == *version_epoch)
                    && request.version <= *version =>
            {
                Some("version")
            }
            Some(_) if request.key_mode == "if_new" => Some("key_exists"),
            None if request.key_mode == "if_exists" => Some("key_not_found"),
            _ => None,
        };
        if suppressed.is_some() {
            return (channel.position(), suppressed);
        }
        let now = Instant::now();
        let mut entry =
            MapEntry { key: key.clone(), data, tags: request.tags.clone(), time: unix_ms(), ..MapEntry::default() };
        channel.expires = settings.has_stream().then(|| now + settings.stream_ttl);
        channel.add(&mut entry, settings);
        // A publication without a version keeps that of the key.
        let (version, version_epoch) = match before {
            Some(before) if request.version == 0 => before,
            _ => (request.version, request.version_epoch.clone()),
        };
        let expires = settings.key_ttl().map(|ttl| now + ttl);
        channel.state.insert(key.clone(), Entry { shown: entry, version, version_epoch, expires });
        let position = channel.position();
        self.remember(&request.channel, &request.idempotency_key, &position);
        (position, None)
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, channel: &str, key: &str, idempotency_key: &str, settings: &Map) -> Change {
        if let Some(first) = self.first(channel, idempotency_key) {
            return (first, Some("idempotency"));
        }
        self.drop_expired(channel, settings);
        let Some(found) = self.channels.get_mut(channel) else {
            return (Position::default(), Some("key_not_found"));
        };
        let Some(entry) = found.state.remove(key) else {
            return (found.position(), Some("key_not_found"));
        };
        found.expires = settings.has_stream().then(|| Instant::now() + settings.stream_ttl);
        found.add(&mut removal(key.to_owned(), entry.shown.tags), settings);
        found.removed = settings.meta_ttl().map(|ttl| Instant::now() + ttl);
        let position = found.position();
        self.remember(channel, idempotency_key, &position);
        (position, None)
    }

    /// Reads the keys, a page of them, and the cursor of the next page.
    pub(super) fn state(
        &mut self,
        request: &MapReadStateRequest,
        settings: &Map,
    ) -> Result<(Vec<MapEntry>, Position, String), ReadError> {
        let (channel, is_new) = self.channel(&request.channel, settings);
        let position = channel.position();
        // A channel that was never used has no offset, so only the epoch can be wrong.
        let revision = (request.revision_offset > 0 && !is_new) || !request.revision_epoch.is_empty();
        if revision && request.revision_epoch != position.epoch {
            return Err(ReadError::Unrecoverable);
        }
        if !request.key.is_empty() {
            let entry = channel.state.get(&request.key).map(|entry| entry.shown.clone());
            return Ok((entry.into_iter().collect(), position, String::new()));
        }
        let mut left = channel
            .state
            .iter()
            .filter(|(key, _)| request.cursor.is_empty() || **key > request.cursor)
            .map(|(_, entry)| entry.shown.clone());
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let page: Vec<MapEntry> = left.by_ref().take(limit).collect();
        let cursor = match page.last() {
            Some(last) if left.next().is_some() => last.key.clone(),
            _ => String::new(),
        };
        Ok((page, position, cursor))
    }

    /// Reads the changes. Unlike in a stream of publications, missing changes are an error.
    pub(super) fn stream(
        &mut self,
        channel: &str,
        range: &Range,
        settings: &Map,
    ) -> Result<(Vec<MapEntry>, Position), ReadError> {
        let (found, is_new) = self.channel(channel, settings);
        let position = found.position();
        if is_new {
            return Ok((Vec::new(), position));
        }
        if range.since.as_ref().is_some_and(|since| !since.epoch.is_empty() && since.epoch != position.epoch) {
            return Err(ReadError::Unrecoverable);
        }
        let since = range.since.as_ref().map(|since| since.offset);
        let chosen = choose(found.stream.iter().map(|entry| entry.offset), found.top, since, range);
        let entries: Vec<MapEntry> = chosen.into_iter().filter_map(|index| found.stream.get(index).cloned()).collect();
        match (since, entries.first()) {
            (Some(since), Some(first)) if !range.reverse && since > 0 && first.offset > since.wrapping_add(1) => {
                Err(ReadError::Unrecoverable)
            }
            _ => Ok((entries, position)),
        }
    }

    /// The number of keys.
    pub(super) fn len(&mut self, channel: &str, settings: &Map) -> usize {
        self.drop_expired(channel, settings);
        self.channels.get(channel).map_or(0, |channel| channel.state.len())
    }

    /// Removes a channel.
    pub(super) fn clear(&mut self, channel: &str) {
        self.channels.remove(channel);
        self.keys.forget(channel);
    }

    fn first(&self, channel: &str, key: &str) -> Option<Position> {
        (!key.is_empty()).then(|| self.keys.get(channel, key)).flatten()
    }

    fn remember(&mut self, channel: &str, key: &str, position: &Position) {
        if !key.is_empty() {
            self.keys.put(channel, key, position.clone());
        }
    }

    /// Returns a channel without expired entries, created if absent (and whether it was), and renews its expiry.
    fn channel(&mut self, channel: &str, settings: &Map) -> (&mut Channel, bool) {
        self.drop_expired(channel, settings);
        let is_new = !self.channels.contains_key(channel);
        let found = self.channels.entry(channel.to_owned()).or_insert_with(Channel::new);
        found.removed = settings.meta_ttl().map(|ttl| Instant::now() + ttl);
        (found, is_new)
    }

    fn drop_expired(&mut self, channel: &str, settings: &Map) {
        let now = Instant::now();
        if let Some(found) = self.channels.get_mut(channel) {
            if found.removed.is_some_and(|removed| removed <= now) {
                self.channels.remove(channel);
            } else {
                found.catch_up(settings, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mode: MapMode) -> Map {
        Map { mode, stream_size: 2, stream_ttl: Duration::from_secs(60) }
    }

    fn set(key: &str) -> MapPublishRequest {
        MapPublishRequest { channel: "m".into(), key: key.into(), ..MapPublishRequest::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_expires_is_a_change_of_its_own() {
        let settings = settings(MapMode::Recoverable { key_ttl: Duration::from_secs(30) });
        let mut maps = Maps::default();
        maps.publish(&set("a"), bytes::Bytes::new(), &settings);
        tokio::time::advance(Duration::from_secs(30)).await;
        let (entries, position) = maps.stream("m", &Range { limit: -1, ..Range::default() }, &settings).unwrap();
        assert_eq!(
            entries.iter().map(|entry| (entry.offset, entry.removed)).collect::<Vec<_>>(),
            [(1, false), (2, true)]
        );
        assert_eq!((position.offset, maps.len("m", &settings)), (2, 0));
        tokio::time::advance(Duration::from_secs(30)).await;
        let (entries, position) = maps.stream("m", &Range { limit: -1, ..Range::default() }, &settings).unwrap();
        assert_eq!((entries.len(), position.offset), (0, 2));
        tokio::time::advance(Duration::from_secs(600)).await;
        let (anew, _) = maps.publish(&set("a"), bytes::Bytes::new(), &settings);
        assert_eq!(anew.offset, 1);
        assert_ne!(anew.epoch, position.epoch);
    }

    #[tokio::test]
    async fn a_publish_without_a_version_keeps_the_keys_version() {
        let settings = settings(MapMode::Persistent);
        let mut maps = Maps::default();
        let versioned = |version| MapPublishRequest { version, ..set("a") };
        assert_eq!(maps.publish(&versioned(4), bytes::Bytes::new(), &settings).1, None);
        assert_eq!(maps.publish(&set("a"), bytes::Bytes::new(), &settings).1, None);
        assert_eq!(maps.publish(&versioned(4), bytes::Bytes::new(), &settings).1, Some("version"));
    }
}
