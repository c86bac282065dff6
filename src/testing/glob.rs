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
        parse(&mut pattern.chars().peekable(), false)
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut starts = vec![false; text.len() + 1];
        starts[0] = true;
        self.ends(&text, starts)[text.len()]
    }

    /// Where a match can end that begins at one of `starts`, which takes a step for each part and position.
    fn ends(&self, text: &[char], starts: Vec<bool>) -> Vec<bool> {
        self.0.iter().fold(starts, |starts, part| match part {
            Part::Any => {
                let reached = |reached: &mut bool, starts| {
                    *reached |= starts;
                    Some(*reached)
                };
                starts.into_iter().scan(false, reached).collect()
            }
            Part::Either(either) => {
                let mut ends = vec![false; starts.len()];
                for glob in either {
                    let found = glob.ends(text, starts.clone());
                    ends.iter_mut().zip(found).for_each(|(end, found)| *end |= found);
                }
                ends
            }
            one => {
                let matched = starts.iter().zip(text).map(|(starts, found)| *starts && one.is(*found));
                std::iter::once(false).chain(matched).collect()
            }
        })
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

impl Part {
    fn is(&self, found: char) -> bool {
        #[cfg(test)]
        tests::count_step();
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
    use std::cell::Cell;

    use super::*;

    thread_local!(static STEPS: Cell<usize> = const { Cell::new(0) });

    /// Counts the comparisons of a character, which must stay few.
    pub(super) fn count_step() {
        STEPS.set(STEPS.get() + 1);
        assert!(STEPS.get() < 10_000, "too many steps");
    }

    #[test]
    fn a_pattern_of_many_stars_takes_few_steps() {
        let text = "a".repeat(60);
        for pattern in ["*a".repeat(30) + "b", "{*,a*}".repeat(30) + "b", "{a,{a,{a,b}*}*}*".repeat(10) + "b"] {
            STEPS.set(0);
            assert!(!Glob::new(&pattern).unwrap().matches(&text), "{pattern}");
        }
        STEPS.set(0);
    }

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
