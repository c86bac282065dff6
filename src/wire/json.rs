//! The API's messages as JSON, by the rules of the server: the type of a field decides how it is written and read.
//!
//! Names are snake case and match in any case, 64-bit integers are numbers, `bytes` are JSON values embedded as they are,
//! unset fields are left out (but for those the server always writes), `null` is "unset" except in `bytes`, the last of
//! two equal names wins, and unknown names are ignored.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::marker::PhantomData;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::wire::embed;

/// A message in JSON, field by field. `build.rs` writes an implementation for each.
pub(crate) trait Fields: Default + PartialEq {
    /// The name of the message's type.
    const NAME: &'static str;
    /// The names of its fields.
    const NAMES: &'static [&'static str];

    fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;

    /// Reads the value of the field with this index among [`NAMES`](Self::NAMES), or skips it, if there is none.
    fn read_field<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error>;
}

pub(crate) fn serialize<T: Fields, S: Serializer>(message: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    message.write_fields(&mut map)?;
    map.end()
}

/// Writes a field, unless it is unset.
pub(crate) fn write<M: SerializeMap>(map: &mut M, name: &str, value: &impl Value) -> Result<(), M::Error> {
    if value.is_unset() { Ok(()) } else { write_always(map, name, value) }
}

/// Writes a field, as the server writes it even if it is unset.
pub(crate) fn write_always<M: SerializeMap>(map: &mut M, name: &str, value: &impl Value) -> Result<(), M::Error> {
    map.serialize_entry(name, &Write(value))
}

/// Writes bytes, which must be JSON.
pub(crate) fn write_bytes<M: SerializeMap>(map: &mut M, name: &str, bytes: &[u8]) -> Result<(), M::Error> {
    match bytes {
        [] => Ok(()),
        bytes => map.serialize_entry(name, must_be_json(name, bytes)?),
    }
}

/// Writes bytes that are JSON as they are, and others as the field's twin in base64.
pub(crate) fn write_bytes_or_base64<M: SerializeMap>(
    map: &mut M,
    name: &str,
    bytes: &[u8],
    twin_name: &str,
    twin: &str,
) -> Result<(), M::Error> {
    match embed::as_inline_json(bytes) {
        Some(value) => map.serialize_entry(name, value),
        // A twin that is set wins over the field at the server, so there is nothing to add.
        None if bytes.is_empty() || !twin.is_empty() => Ok(()),
        None => map.serialize_entry(twin_name, &base64(bytes)),
    }
}

pub(crate) fn deserialize<'de, T: Fields, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Fields> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object: {}", T::NAME)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut message = T::default();
            while let Some(field) = map.next_key_seed(FieldIndex(T::NAMES))? {
                message.read_field(field, &mut map)?;
            }
            Ok(message)
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// Reads the value of a field.
pub(crate) fn read<'de, T: Value, A: MapAccess<'de>>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Read<T>>()?.0)
}

/// Skips the value of a field.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

/// Reads the name of a field: its index among these, or the number of them, if it is none of them.
struct FieldIndex(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for FieldIndex {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for FieldIndex {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<usize, E> {
        let exact = self.0.iter().position(|field| *field == name);
        let index = exact.or_else(|| self.0.iter().position(|field| field.eq_ignore_ascii_case(name)));
        Ok(index.unwrap_or(self.0.len()))
    }
}

/// A message in a list or a map.
impl<T: Fields + Serialize + DeserializeOwned> Value for T {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Self>::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// The value of a field, as its type decides.
pub(crate) trait Value: Sized + Default {
    /// Whether it has the value that an absent field has.
    fn is_unset(&self) -> bool;
    /// Its size, for a redacted `Debug`.
    fn size(&self) -> usize {
        usize::from(!self.is_unset())
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Scalars and strings: like serde, but `null` is unset.
macro_rules! plain_values {
    ($($type:ty)*) => { $(
        impl Value for $type {
            fn is_unset(&self) -> bool {
                *self == Self::default()
            }
            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.serialize(serializer)
            }
            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Option::<Self>::deserialize(deserializer)?.unwrap_or_default())
            }
        }
    )* };
}
plain_values! { bool i32 i64 u32 u64 String }

impl Value for f64 {
    fn is_unset(&self) -> bool {
        *self == 0.0
    }

    /// Without a point when whole, as the server writes it.
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// 2^53, up to which `f64` represents every whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[allow(clippy::cast_possible_truncation, reason = "whole and within the range of i64")]
        if self.fract() == 0.0 && self.abs() < EXACT {
            serializer.serialize_i64(*self as i64)
        } else {
            serializer.serialize_f64(*self)
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Self>::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// Bytes: a JSON value, embedded.
impl Value for Bytes {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn size(&self) -> usize {
        self.len()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        must_be_json::<S::Error>("value", self)?.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Box::<str>::from(raw).into_string().into())
    }
}

/// A message that may be absent.
impl<T: Serialize + DeserializeOwned> Value for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

/// A list; `null` is an empty one, and in one a value that is unset.
impl<T: Value> Value for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
    fn size(&self) -> usize {
        self.len()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Write))
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Option::<Vec<Read<T>>>::deserialize(deserializer)?;
        Ok(list.unwrap_or_default().into_iter().map(|value| value.0).collect())
    }
}

/// A map from names; `null` is an empty one.
impl<T: Value> Value for BTreeMap<String, T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
    fn size(&self) -> usize {
        self.len()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, value)| (name, Write(value))))
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Option::<BTreeMap<String, Read<T>>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect())
    }
}

/// Writes a field's value.
pub(crate) struct Write<'a, T>(pub(crate) &'a T);

impl<T: Value> Serialize for Write<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

/// Reads a field's value.
pub(crate) struct Read<T>(pub(crate) T);

impl<'de, T: Value> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::read(deserializer).map(Self)
    }
}

/// The redacted `Debug` of a value.
pub(crate) struct Redacted(pub(crate) usize);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[redacted, size {}]", self.0)
    }
}

/// Standard base64 with padding, written without a copy.
pub(crate) fn base64(bytes: &[u8]) -> impl Serialize {
    Displayed(Base64Display::new(bytes, &STANDARD))
}

struct Displayed<T>(T);

impl<T: Display> Serialize for Displayed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The bytes as JSON, for a field that can hold nothing else.
pub(crate) fn must_be_json<'a, E: serde::ser::Error>(field: &str, bytes: &'a [u8]) -> Result<&'a RawValue, E> {
    embed::as_json(bytes).ok_or_else(|| {
        E::custom(format!(
            "`{field}` holds {} bytes that are not JSON, and JSON has no other field for them",
            bytes.len()
        ))
    })
}

/// Decodes what [`base64`] writes, for those who read requests.
#[cfg(any(feature = "testing", feature = "proxy"))]
pub(crate) fn decode_base64(text: &str) -> Option<Bytes> {
    base64::Engine::decode(&STANDARD, text).ok().map(Bytes::from)
}

/// Reads one message from JSON and names the first field it does not know.
pub(crate) fn read_strictly<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let mut unknown = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = serde_ignored::deserialize(&mut deserializer, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    });
    let malformed = |error: serde_json::Error| {
        format!("not JSON of this method's request (line {}, column {})", error.line(), error.column())
    };
    let message = message.map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    match unknown {
        Some(field) => Err(format!("the field `{field}` is not in the schema of this version")),
        None => Ok(message),
    }
}
