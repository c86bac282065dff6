//! Idempotency keys for publications whose caller gave none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::api::request::Request;
use crate::error::Error;
use crate::wire::body::{Body, BodySize, message_to_json};

/// 128 random bits, in hexadecimal: of one length, and of characters that no broker gives a meaning to.
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; Key::LEN]);

impl Key {
    pub(crate) const LEN: usize = 32;
    /// A key that is written later.
    pub(crate) const EMPTY: Self = Self([b'0'; Self::LEN]);
    /// The number of its field in the requests of `publish` and `broadcast`.
    const TAG: u32 = 6;
    /// The length of its field: the number and the length take a byte each.
    pub(crate) const ENCODED: usize = 2 + Self::LEN;

    /// A new key. `None` if the operating system has no random numbers to give.
    pub(crate) fn new() -> Option<Self> {
        random().map(Self::of)
    }

    fn of(number: u128) -> Self {
        let mut key = [0; Self::LEN];
        for (pair, byte) in key.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            pair[0] = Self::digit(byte >> 4);
            pair[1] = Self::digit(byte & 0xf);
        }
        Self(key)
    }

    pub(crate) fn as_str(&self) -> &str {
        // Hexadecimal digits only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn digit(number: u8) -> u8 {
        b"0123456789abcdef"[usize::from(number & 0xf)]
    }

    /// Writes the key's field in protobuf, which may follow the request's other fields.
    pub(crate) fn push(self, request: &mut Vec<u8>) {
        encode_key(Self::TAG, WireType::LengthDelimited, request);
        encode_varint(self.0.len() as u64, request);
        request.extend_from_slice(&self.0);
    }
}

fn random() -> Option<u128> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    Some(u128::from_be_bytes(random))
}

/// Makes keys for many messages: a random number, and one more for each next key. That costs one system call for all.
#[derive(Debug, Default)]
pub(crate) struct KeySequence {
    first: OnceLock<Option<u128>>,
    made: AtomicU64,
}

impl KeySequence {
    /// The next key. `None` if the operating system has no random numbers to give.
    pub(crate) fn next(&self) -> Option<Key> {
        let first = (*self.first.get_or_init(random))?;
        Some(Key::of(first.wrapping_add(self.made.fetch_add(1, Ordering::Relaxed).into())))
    }
}

/// A clone has another random number, as its keys must differ.
impl Clone for KeySequence {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A key, if it is wanted and the request takes one.
pub(crate) fn key_for(request: &impl Request, wanted: bool) -> Option<Key> {
    if wanted && request.takes_key() { Key::new() } else { None }
}

/// The length of a request with this key, in protobuf.
pub(crate) fn encoded_len(request: &impl Request, key: Option<&Key>) -> usize {
    request.encoded_len() + key.map_or(0, |_| Key::ENCODED)
}

/// Writes a request with this key, in protobuf.
pub(crate) fn write(request: &impl Request, key: Option<Key>, out: &mut Vec<u8>) {
    request.write(out);
    if let Some(key) = key {
        key.push(out);
    }
}

/// A request with a key that it does not hold itself.
pub(crate) struct Keyed<'a, R> {
    pub(crate) request: &'a R,
    pub(crate) key: Key,
}

impl<R: Request> Body for Keyed<'_, R> {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let mut request = Vec::with_capacity(encoded_len(self.request, Some(&self.key)));
        write(self.request, Some(self.key), &mut request);
        Ok(request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        let mut json = message_to_json(self.request)?;
        // An object: its last character is replaced by one more member.
        json.pop();
        json.extend_from_slice(if json.len() == 1 { br#""idempotency_key":""# } else { br#","idempotency_key":""# });
        json.extend_from_slice(&self.key.0);
        json.extend_from_slice(br#""}"#);
        Ok(json.into())
    }

    fn size(&self) -> BodySize {
        self.request.size()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::api::message::{BroadcastRequest, PublishRequest};

    #[test]
    fn a_key_is_where_the_request_would_have_it_in_both_forms() {
        fn check<R: Request + PartialEq + std::fmt::Debug>(request: &R, with_key: impl Fn(&str) -> R) {
            let key = Key::new().unwrap();
            let text = String::from_utf8(key.0.to_vec()).unwrap();
            let (keyed, expected) = (Keyed { request, key }, with_key(&text));
            let protobuf = keyed.to_protobuf().unwrap();
            assert_eq!(R::decode(&protobuf[..]).unwrap(), expected);
            assert_eq!(protobuf.len(), request.encoded_len() + Key::ENCODED);
            assert_eq!(serde_json::from_slice::<R>(&keyed.to_json().unwrap()).unwrap(), expected);
        }
        for publish in [PublishRequest::new("news", serde_json::json!({"a": 1})), PublishRequest::default()] {
            check(&publish, |key| publish.clone().idempotency_key(key));
        }
        let broadcast = BroadcastRequest::new(["a", "b"], serde_json::json!(1));
        check(&broadcast, |key| broadcast.clone().idempotency_key(key));
    }

    #[test]
    fn keys_of_a_sequence_differ_and_those_of_its_clones_do_too() {
        let (one, mut keys) = (KeySequence::default(), HashSet::new());
        for sequence in [&one, &one.clone(), &one.clone()] {
            keys.extend((0..1_000).map(|_| sequence.next().unwrap().0));
        }
        assert_eq!(keys.len(), 3_000);
    }

    #[test]
    fn keys_are_32_hexadecimal_digits_and_differ() {
        let keys: HashSet<_> = (0..1_000_000).map(|_| Key::new().unwrap().0).collect();
        assert_eq!(keys.len(), 1_000_000);
        assert!(keys.iter().flatten().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')));
    }
}
