//! The API's messages as JSON, by the rules of the server: the type of a field decides how it is written and read.
//!
//! Names are snake case and match in any case, 64-bit integers are numbers, `bytes` are JSON values embedded as they are,
//! unset fields are left out (but for those the server always writes), `null` is "unset" except in `bytes`, the last of
//! two equal names wins, and unknown names are ignored.

use std::collections::BTreeMap;
use std::fmt::Display;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::ApiError;
use crate::wire::embed;

/// Gives a message its JSON form, and a `Debug` that shows no payload and no secret.
///
/// `build.rs` writes one line for each field: its name in Rust and in JSON; `always` when the server writes it even if
/// zero; `redacted` when its value must not be shown; `raw` when it holds bytes, with the name of its base64 twin if any.
macro_rules! message {
    ($name:ident { $($field:ident $json:literal $written:ident $shown:ident $kind:ident $($twin:ident)?;)* }) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                #[allow(unused_imports, reason = "a message without fields writes none")]
                use serde::ser::SerializeMap as _;
                #[allow(unused_mut, reason = "a message without fields writes none")]
                let mut map = serializer.serialize_map(None)?;
                $(crate::wire::json::message!(@write map self $field $json $written $kind $($twin)?);)*
                map.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[allow(non_camel_case_types, reason = "named as the fields are")]
                enum Field { $($field,)* __unknown }

                impl crate::wire::json::FieldName for Field {
                    fn find(name: &str) -> Self {
                        match name {
                            $($json => Self::$field,)*
                            $(_ if name.eq_ignore_ascii_case($json) => Self::$field,)*
                            _ => Self::__unknown,
                        }
                    }
                }

                struct Fields;

                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("an object: ", stringify!($name)))
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        #[allow(unused_mut, reason = "a message without fields stays as it is")]
                        let mut message = $name::default();
                        while let Some(crate::wire::json::Name(field)) = map.next_key()? {
                            match field {
                                $(Field::$field => {
                                    message.$field = map.next_value::<crate::wire::json::Read<_>>()?.0;
                                })*
                                Field::__unknown => {
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(message)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        }

        impl crate::wire::json::Value for $name {
            fn is_unset(&self) -> bool {
                *self == Self::default()
            }
            fn write<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(self, serializer)
            }
            fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(<Option<Self> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                #[allow(unused_imports, unused_mut, reason = "a message without fields shows none")]
                use crate::wire::json::Value as _;
                #[allow(unused_mut, reason = "a message without fields shows none")]
                let mut message = f.debug_struct(stringify!($name));
                $(if !self.$field.is_unset() {
                    message.field($json, crate::wire::json::message!(@show self $field $shown));
                })*
                message.finish()
            }
        }
    };

    (@show $self:ident $field:ident shown) => { &$self.$field };
    (@show $self:ident $field:ident redacted) => { &crate::wire::json::Redacted($self.$field.size()) };

    (@write $map:ident $self:ident $field:ident $json:literal always plain) => {
        $map.serialize_entry($json, &crate::wire::json::Write(&$self.$field))?;
    };
    (@write $map:ident $self:ident $field:ident $json:literal set plain) => {
        if !crate::wire::json::Value::is_unset(&$self.$field) {
            $map.serialize_entry($json, &crate::wire::json::Write(&$self.$field))?;
        }
    };
    (@write $map:ident $self:ident $field:ident $json:literal set raw $($twin:ident)?) => {
        if !$self.$field.is_empty() {
            match crate::wire::embed::as_inline_json(&$self.$field) {
                Some(value) => $map.serialize_entry($json, value)?,
                None => crate::wire::json::message!(@not_json $map $self $field $json $($twin)?),
            }
        }
    };

    (@not_json $map:ident $self:ident $field:ident $json:literal $twin:ident) => {
        // A twin that is set already wins over the field at the server, so there is nothing to add.
        if $self.$twin.is_empty() {
            $map.serialize_entry(stringify!($twin), &crate::wire::json::base64(&$self.$field))?;
        }
    };
    (@not_json $map:ident $self:ident $field:ident $json:literal) => {
        $map.serialize_entry($json, crate::wire::json::must_be_json($json, &$self.$field)?)?
    };
}
pub(crate) use message;

// The one message that is not in a generated file, as it stands below this room.
message! { ApiError {
    code "code" always shown plain;
    message "message" always shown plain;
    temporary "temporary" set shown plain;
} }

/// The value of a field, as its type decides.
pub(crate) trait Value: Sized + Default {
    /// Whether it has the value that an absent field has.
    fn is_unset(&self) -> bool;
    /// How much it holds, for a `Debug` that must not say what.
    fn size(&self) -> usize {
        usize::from(!self.is_unset())
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Scalars and strings: as serde does, but `null` is unset.
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
        /// 2^53, up to which every whole number has its own `f64`.
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

/// The fields of a message, found by name.
pub(crate) trait FieldName {
    fn find(name: &str) -> Self;
}

/// Reads the name of a field without keeping the text.
pub(crate) struct Name<T>(pub(crate) T);

impl<'de, T: FieldName> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);

        impl<T: FieldName> serde::de::Visitor<'_> for Text<T> {
            type Value = Name<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<T>, E> {
                Ok(Name(T::find(name)))
            }
        }

        deserializer.deserialize_identifier(Text(std::marker::PhantomData))
    }
}

/// What `Debug` shows of a value that must not be shown.
pub(crate) struct Redacted(pub(crate) usize);

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// The bytes as JSON, for a field that can carry nothing else.
pub(crate) fn must_be_json<'a, E: serde::ser::Error>(field: &str, bytes: &'a [u8]) -> Result<&'a RawValue, E> {
    embed::as_json(bytes).ok_or_else(|| {
        E::custom(format!(
            "`{field}` holds {} bytes that are not JSON, and JSON has no other field for them",
            bytes.len()
        ))
    })
}

/// Decodes what [`base64`] writes, for the stand-in server.
#[cfg(feature = "testing")]
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
    let place = |error: serde_json::Error| {
        format!("not JSON of this method's request (line {}, column {})", error.line(), error.column())
    };
    let message = message.map_err(place)?;
    deserializer.end().map_err(place)?;
    match unknown {
        Some(field) => Err(format!("the field `{field}` is not in the schema of this version")),
        None => Ok(message),
    }
}
