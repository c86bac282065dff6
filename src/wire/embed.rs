//! Which bytes can be embedded in JSON as they are.

use serde_json::value::RawValue;

/// The bytes as JSON that can stand inside other JSON with nothing added and nothing lost, if they are that.
///
/// Space around the value is not JSON's to keep, so bytes that have it are sent in base64 where that is possible.
pub(crate) fn as_inline_json(bytes: &[u8]) -> Option<&RawValue> {
    as_json(bytes).filter(|raw| raw.get().len() == bytes.len() && !is_nested_deeper(bytes, MAX_DEPTH))
}

/// The server reads 10,000 levels in the body of a request, of which the request itself has some.
const MAX_DEPTH: usize = 9_990;

/// Whether JSON is nested more deeply than `levels`.
pub(crate) fn is_nested_deeper(json: &[u8], levels: usize) -> bool {
    // Most JSON has no more brackets than that.
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
    fn what_is_json_goes_inline_byte_for_byte() {
        for text in ["null", "1.10", r#"{"a" : [1, "\ud800"]}"#, "\"\u{2028}<\"", "1e999", r#"{"a":1,"a":2}"#] {
            assert_eq!(as_inline_json(text.as_bytes()).map(RawValue::get), Some(text));
        }
    }

    #[test]
    fn what_is_not_json_or_would_lose_something_does_not() {
        for bytes in [&b""[..], b" 1", b"1\n", b"{", b"\xff", b"\"\xff\"", b"01", b"\"\n\"", b"\xef\xbb\xbf1", b"nul"] {
            assert!(as_inline_json(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_that_the_server_would_refuse_does_not_go_inline() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(as_inline_json(&nested(9_990)).is_some());
        assert!(as_inline_json(&nested(9_991)).is_none());
        let quoted = format!("[{}]", vec![r#""[[\"[\\""#; 5_000].join(","));
        assert!(as_inline_json(quoted.as_bytes()).is_some(), "brackets in strings do not nest");
    }
}
