//! JSON as Go's `encoding/json` reads and writes it, where that differs from `serde_json`.

use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::embed;

/// The nesting depth at which the server refuses JSON.
const MAX_DEPTH: usize = 10_000;

/// Whether the server accepts the bytes as JSON: strings need not be UTF-8.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok() && !embed::is_nested_deeper(bytes, MAX_DEPTH)
}

/// Calls `visit` for every byte, with whether it is part of a string (its quotes included).
fn scan(text: &[u8], mut visit: impl FnMut(u8, bool)) {
    let (mut inside, mut escaped) = (false, false);
    for &byte in text {
        let was_inside = inside;
        if escaped {
            escaped = false;
        } else if inside && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            inside = !inside;
        }
        visit(byte, was_inside || inside);
    }
}

/// Writes JSON again as the server does: no space between tokens, and `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub(super) fn compact(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    scan(text, |byte, in_string| match byte {
        b' ' | b'\t' | b'\n' | b'\r' if !in_string => {}
        b'<' => out.extend(br"\u003c"),
        b'>' => out.extend(br"\u003e"),
        b'&' => out.extend(br"\u0026"),
        0xa8 | 0xa9 if out.ends_with(&[0xe2, 0x80]) => {
            out.truncate(out.len() - 2);
            out.extend(if byte == 0xa8 { br"\u2028" } else { br"\u2029" });
        }
        _ => out.push(byte),
    });
    out
}

/// A request with what the server accepts in strings and `serde_json` refuses replaced as the server replaces it.
///
/// It replaces in payloads too, which the server keeps as they are. The text is therefore changed only if `serde_json`
/// refused it.
pub(super) fn mend(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let take = match surrogate(rest) {
            None => rest.chars().nth(1).map_or(1, |escaped| 1 + escaped.len_utf8()),
            Some(high) if high < 0xdc00 && surrogate(&rest[6..]).is_some_and(|low| low >= 0xdc00) => 12,
            Some(_) => {
                let _ = write!(out, "\u{fffd}");
                rest = &rest[6..];
                continue;
            }
        };
        out.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    out.push_str(rest);
    out.into_bytes()
}

/// The surrogate that the text begins with, as an escape.
fn surrogate(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4).filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok().filter(|code| (0xd800..0xe000).contains(code))
}

/// Decodes a whole text as the server does: `null` is the zero value.
pub(super) fn read<T: serde::de::DeserializeOwned + Default>(text: &[u8]) -> Result<T, NotAccepted> {
    if embed::is_nested_deeper(text, MAX_DEPTH) {
        return Err(NotAccepted);
    }
    match serde_json::from_slice::<Option<T>>(text) {
        Ok(value) => Ok(value.unwrap_or_default()),
        Err(_) if is_json(text) => {
            serde_json::from_slice::<Option<T>>(&mend(text)).map(Option::unwrap_or_default).map_err(|_| NotAccepted)
        }
        Err(_) => Err(NotAccepted),
    }
}

/// The text is not JSON, or not of the type expected.
#[derive(Debug)]
pub(super) struct NotAccepted;

/// An object whose values are decoded later; names in lower case, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// The last value of this name.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        Some(self.0.iter().rev().find(|(found, _)| found == name)?.1.get().as_bytes())
    }

    /// The last value of this name, decoded.
    pub(super) fn read<T: serde::de::DeserializeOwned + Default>(&self, name: &str) -> Result<T, NotAccepted> {
        self.get(name).map_or_else(|| Ok(T::default()), read)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    object.0.push((name.to_ascii_lowercase(), value));
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_again_json_has_no_space_and_no_html() {
        let text = "{ \"a <\" : [1,\t\"x & \\\" >\u{2028}\"],\n\"b\":\"\u{2026}\"}";
        assert_eq!(
            String::from_utf8(compact(text.as_bytes())).unwrap(),
            "{\"a \\u003c\":[1,\"x \\u0026 \\\" \\u003e\\u2028\"],\"b\":\"\u{2026}\"}"
        );
    }

    #[test]
    fn broken_text_in_strings_is_replaced_not_refused() {
        assert_eq!(read::<String>(b"\"a\xffb\"").unwrap(), "a\u{fffd}b");
        assert_eq!(read::<String>(br#""a\ud800b\\ud800\ud83d\ude00""#).unwrap(), "a\u{fffd}b\\ud800\u{1f600}");
        assert!(read::<String>(b"\xff").is_err());
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(is_json(&nested(10_000)));
        assert!(!is_json(&nested(10_001)));
    }

    #[test]
    fn the_last_of_two_names_wins_in_any_case() {
        let object: Object = read(br#"{"A":1,"a":2,"b":null}"#).unwrap();
        assert_eq!(object.read::<u32>("a").unwrap(), 2);
        assert_eq!(object.read::<u32>("b").unwrap(), 0);
    }
}
