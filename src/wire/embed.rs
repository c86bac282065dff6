//! Decides which bytes can be embedded in JSON unchanged.

use serde_json::value::RawValue;

/// The bytes as JSON, if they can be embedded unchanged.
///
/// JSON does not preserve space around a value, so bytes with such space are sent in base64 where that is possible.
pub(crate) fn as_inline_json(bytes: &[u8]) -> Option<&RawValue> {
    as_json(bytes).filter(|raw| raw.get().len() == bytes.len() && !is_nested_deeper(bytes, MAX_DEPTH))
}

/// The server reads 10,000 levels of nesting in a request, a few of which the request itself takes.
const MAX_DEPTH: usize = 9_990;

/// Whether JSON is nested more deeply than `levels`.
pub(crate) fn is_nested_deeper(json: &[u8], levels: usize) -> bool {
    // Fast path: most JSON has fewer brackets.
    if json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= levels {
        return false;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest > levels
}

/// The bytes as JSON, without space around the value.
pub(crate) fn as_json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_embedded_byte_for_byte() {
        for text in ["null", "1.10", r#"{"a" : [1, "\ud800"]}"#, "\"\u{2028}<\"", "1e999", r#"{"a":1,"a":2}"#] {
            assert_eq!(as_inline_json(text.as_bytes()).map(RawValue::get), Some(text));
        }
    }

    #[test]
    fn bytes_that_are_not_json_or_would_change_are_not_embedded() {
        for bytes in [&b""[..], b" 1", b"1\n", b"{", b"\xff", b"\"\xff\"", b"01", b"\"\n\"", b"\xef\xbb\xbf1", b"nul"] {
            assert!(as_inline_json(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn json_nested_too_deeply_for_the_server_is_not_embedded() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(as_inline_json(&nested(9_990)).is_some());
        assert!(as_inline_json(&nested(9_991)).is_none());
        let quoted = format!("[{}]", vec![r#""[[\"[\\""#; 5_000].join(","));
        assert!(as_inline_json(quoted.as_bytes()).is_some(), "brackets in strings do not nest");
    }
}
