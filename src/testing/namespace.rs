//! Namespaces: the settings of channels, found by the prefix of the channel's name.

use std::time::Duration;

use super::json;

/// The settings of channels whose names begin with `name:`, or of channels without a namespace.
///
/// The defaults are the server's: no history, no presence, channels are streams.
///
/// ```
/// # use std::time::Duration;
/// use centrifugo_api::testing::{DataFormat, MapMode, Namespace};
///
/// let chat = Namespace::new("chat").history(100, Duration::from_secs(300)).presence(true);
/// let events = Namespace::new("events").data_format(DataFormat::JsonObject);
/// let cursors = Namespace::new("cursors").map(MapMode::Ephemeral { key_ttl: Duration::from_secs(60) });
/// ```
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(super) name: String,
    pub(super) history_size: usize,
    pub(super) history_ttl: Duration,
    pub(super) history_meta_ttl: Duration,
    pub(super) presence: bool,
    pub(super) data_format: DataFormat,
    pub(super) kind: Kind,
}

/// The kind of a namespace's channels.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Stream,
    Map(Map),
    SharedPoll { publish_enabled: bool },
}

/// The settings of map channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) mode: MapMode,
    pub(super) stream_size: usize,
    pub(super) stream_ttl: Duration,
}

/// What the map channels of a namespace keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapMode {
    /// Keys stay until removed; changes can be read as a stream.
    Persistent,
    /// Keys expire; changes can be read as a stream.
    Recoverable {
        /// How long a key is kept after it was last set.
        key_ttl: Duration,
    },
    /// Keys expire; there is no stream, and offsets are 0.
    Ephemeral {
        /// How long a key is kept after it was last set.
        key_ttl: Duration,
    },
}

/// The form that the data of publications must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataFormat {
    /// Any bytes, but not none.
    #[default]
    Any,
    /// JSON.
    Json,
    /// A JSON object.
    JsonObject,
    /// Any bytes, or none.
    Binary,
}

impl Namespace {
    /// Creates a namespace. [`Builder::without_namespace`](super::Builder::without_namespace) ignores the name.
    pub fn new(name: impl Into<String>) -> Self {
        /// `channel.history_meta_ttl` of the server: 30 days.
        const META_TTL: Duration = Duration::from_secs(720 * 60 * 60);
        Self {
            name: name.into(),
            history_size: 0,
            history_ttl: Duration::ZERO,
            history_meta_ttl: META_TTL,
            presence: false,
            data_format: DataFormat::Any,
            kind: Kind::Stream,
        }
    }

    /// Keeps the last `size` publications of a channel for `ttl` after the last one. None if either is zero.
    #[must_use]
    pub fn history(mut self, size: usize, ttl: Duration) -> Self {
        self.history_size = size;
        self.history_ttl = ttl;
        self
    }

    /// Sets how long a channel's offset and epoch are kept after its last use. 30 days unless set.
    #[must_use]
    pub fn history_meta_ttl(mut self, ttl: Duration) -> Self {
        self.history_meta_ttl = ttl;
        self
    }

    /// Turns presence on or off.
    #[must_use]
    pub fn presence(mut self, presence: bool) -> Self {
        self.presence = presence;
        self
    }

    /// Sets the form of data that is accepted.
    #[must_use]
    pub fn data_format(mut self, format: DataFormat) -> Self {
        self.data_format = format;
        self
    }

    /// Makes the channels maps (`subscription_type: map`).
    #[must_use]
    pub fn map(mut self, mode: MapMode) -> Self {
        // Size and TTL are the server's defaults.
        self.kind = Kind::Map(Map { mode, stream_size: 100, stream_ttl: Duration::from_secs(60) });
        self
    }

    /// Sets how many changes the stream of a map keeps, and for how long after the last one. 100 and 60 s unless set.
    /// Ignored unless the channels are maps with a stream.
    #[must_use]
    pub fn map_stream(mut self, size: usize, ttl: Duration) -> Self {
        if let Kind::Map(map) = &mut self.kind {
            map.stream_size = size;
            map.stream_ttl = ttl;
        }
        self
    }

    /// Makes the channels shared polls (`subscription_type: shared_poll`), with or without publishing.
    #[must_use]
    pub fn shared_poll(mut self, publish_enabled: bool) -> Self {
        self.kind = Kind::SharedPoll { publish_enabled };
        self
    }

    pub(super) fn has_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }

    pub(super) fn accepts(&self, data: &[u8]) -> bool {
        match self.data_format {
            DataFormat::Any => !data.is_empty(),
            DataFormat::Json => json::is_json(data),
            DataFormat::JsonObject => json::is_json(data) && data.trim_ascii_start().starts_with(b"{"),
            DataFormat::Binary => true,
        }
    }
}

/// The namespace in a channel's name, if it has one.
pub(super) fn name_of(channel: &str) -> Option<&str> {
    let (name, _) = channel.strip_prefix('$').unwrap_or(channel).split_once(':')?;
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_stands_before_the_first_colon_and_after_one_dollar() {
        assert_eq!(name_of("a"), None);
        assert_eq!(name_of(":a"), None);
        assert_eq!(name_of("$chat:a:b"), Some("chat"));
        assert_eq!(name_of("$$chat:a"), Some("$chat"));
    }

    #[test]
    fn a_data_format_refuses_what_it_names() {
        let of = |format| Namespace::new("").data_format(format);
        assert!(!of(DataFormat::Any).accepts(b"") && of(DataFormat::Any).accepts(b"\xff"));
        assert!(!of(DataFormat::Json).accepts(b"{bad") && of(DataFormat::Json).accepts(b" [1]"));
        assert!(!of(DataFormat::JsonObject).accepts(b"[1]") && of(DataFormat::JsonObject).accepts(b" {}"));
        assert!(of(DataFormat::Binary).accepts(b""));
    }
}
