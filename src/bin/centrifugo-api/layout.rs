//! JSON on one line or on many.

/// Reformats JSON on one line or on many. Numbers keep their digits, objects their order.
pub(crate) fn lay_out(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0;
    let mut rest = json;
    let break_line = |out: &mut String, depth: usize| {
        if pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                let end = string_end(rest);
                out.push('"');
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            '{' | '[' => {
                out.push(c);
                let inner = rest.trim_ascii_start();
                if inner.starts_with(['}', ']']) {
                    out.push_str(&inner[..1]);
                    rest = &inner[1..];
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(if pretty { ": " } else { ":" }),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Where a string ends, its last quote included, of which the first quote was taken.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laying_out_changes_only_the_space_between_values() {
        let json = "{ \"b\" : [1.10, {}, [ ], 18446744073709551616],\n\"a\":\"x \\\" { , : é\\\\\" }";
        let compact = lay_out(json, false);
        assert_eq!(compact, r#"{"b":[1.10,{},[],18446744073709551616],"a":"x \" { , : é\\"}"#);
        let pretty = "{\n  \"b\": [\n    1.10,\n    {},\n    [],\n    18446744073709551616\n  ],\n  \"a\": \"x \\\" { , : é\\\\\"\n}";
        assert_eq!(lay_out(json, true), pretty);
        assert_eq!(lay_out(pretty, false), compact);
    }
}
