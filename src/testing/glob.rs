//! Patterns for names of channels.
//!
//! `*` is any text (it crosses `:` and `.`), `?` one character, `[ab]`, `[a-z]` and `[!ab]` one of some, `{a,b}` one of
//! several patterns, and `\` takes the next character as it is.

/// A pattern.
#[derive(Debug)]
pub(super) struct Glob(Vec<Part>);

#[derive(Debug)]
enum Part {
    One(char),
    Any,
    Some,
    Class { negated: bool, ranges: Vec<(char, char)> },
    Either(Vec<Glob>),
}

impl Glob {
    /// Reads a pattern; none when it is malformed.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let mut chars = pattern.chars().peekable();
        let glob = parse(&mut chars, false)?;
        Some(glob)
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let parts: Vec<&Part> = self.0.iter().collect();
        matches(&parts, &text.chars().collect::<Vec<_>>())
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Reads parts up to the end, or up to the `,` or `}` of the alternatives around. These may be left open.
fn parse(chars: &mut Chars<'_>, inside: bool) -> Option<Glob> {
    let mut parts = Vec::new();
    while let Some(&next) = chars.peek() {
        if inside && (next == ',' || next == '}') {
            return Some(Glob(parts));
        }
        chars.next();
        parts.push(match next {
            '*' => Part::Any,
            '?' => Part::Some,
            '[' => class(chars)?,
            '{' => {
                let mut either = Vec::new();
                loop {
                    either.push(parse(chars, true)?);
                    if chars.next() != Some(',') {
                        break Part::Either(either);
                    }
                }
            }
            '\\' => match chars.next() {
                Some(escaped) => Part::One(escaped),
                None => break,
            },
            other => Part::One(other),
        });
    }
    Some(Glob(parts))
}

/// Reads what stands in brackets: one range, or some characters.
fn class(chars: &mut Chars<'_>) -> Option<Part> {
    let negated = chars.next_if_eq(&'!').is_some();
    let (mut ranges, mut has_range) = (Vec::new(), false);
    loop {
        match chars.next()? {
            ']' if ranges.len() == 1 || (!has_range && !ranges.is_empty()) => {
                return Some(Part::Class { negated, ranges });
            }
            ']' => return None,
            first => {
                let first = if first == '\\' { chars.next()? } else { first };
                let mut last = first;
                if chars.next_if_eq(&'-').is_some() {
                    has_range = true;
                    last = chars.next().filter(|last| *last != ']' && *last >= first)?;
                }
                ranges.push((first, last));
            }
        }
    }
}

fn matches(parts: &[&Part], text: &[char]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return text.is_empty() };
    match part {
        Part::Any => (0..=text.len()).any(|taken| matches(rest, &text[taken..])),
        Part::Either(either) => either.iter().any(|glob| {
            let parts: Vec<&Part> = glob.0.iter().chain(rest.iter().copied()).collect();
            matches(&parts, text)
        }),
        one => text.split_first().is_some_and(|(first, text)| one.is(*first) && matches(rest, text)),
    }
}

impl Part {
    fn is(&self, found: char) -> bool {
        match self {
            Self::One(one) => *one == found,
            Self::Some => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (first..=last).contains(&&found)) != *negated
            }
            Self::Any | Self::Either(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, yes, no) in [
            ("pre*", "presence:lobby", "xpres"),
            ("news-?", "news-1", "news-12"),
            ("{pres,news-?}", "news-1", "pre"),
            ("[ab]x[!0-9]", "bxy", "bx1"),
            ("a{b,{c,d}*}e", "acxxe", "axe"),
            (r"a\*", "a*", "ab"),
            ("*:*.*", "a:b.c", "a:b"),
            ("a,b}", "a,b}", "a"),
            ("{a,b*", "bc", "ac"),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert!(glob.matches(yes) && !glob.matches(no), "{pattern}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_none() {
        for pattern in ["[a", "[]", "[z-a]", "[a-]", "[a-cx-z]"] {
            assert!(Glob::new(pattern).is_none(), "{pattern}");
        }
    }
}
