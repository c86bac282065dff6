//! The page of whoever responded with an HTTP status: its text in short, and nothing of what must not be shown.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue};

/// So much of a page is looked at. Its title and its first words are at the beginning.
const READ: usize = 32 << 10;
/// The longest text of a page, in characters.
const LONG: usize = 200;
/// The longest text of a page in the message of an error.
const SHORT: usize = 120;
const REDACTED: &str = "[redacted]";

/// What of a request must not be shown, if a page repeats it.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The keys, tokens and passwords of these headers, and of this `authorization`.
    pub(crate) fn of(headers: &HeaderMap, token: Option<&HeaderValue>) -> Self {
        let mut secrets = Vec::new();
        for value in headers.values().chain(token).filter(|value| value.is_sensitive()) {
            let value = String::from_utf8_lossy(value.as_bytes());
            // After the name of a scheme, as in `Bearer`.
            if let Some((_, credentials)) = value.split_once(' ') {
                let decoded = BASE64_STANDARD.decode(credentials).ok().and_then(|pair| String::from_utf8(pair).ok());
                secrets.extend(
                    decoded.iter().filter_map(|pair| pair.split_once(':')).map(|(_, password)| password.into()),
                );
                secrets.extend(decoded);
                secrets.push(credentials.to_owned());
            }
            secrets.push(value.into_owned());
        }
        // Also as JSON has them.
        let escaped: Vec<_> = secrets.iter().filter_map(|secret| serde_json::to_string(secret).ok()).collect();
        secrets.extend(escaped.iter().map(|json| json[1..json.len() - 1].to_owned()));
        secrets.retain(|secret| !secret.trim().is_empty());
        // What is in another is replaced after it.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    fn longest(&self) -> usize {
        self.0.first().map_or(0, String::len)
    }

    /// The text without secrets, in whatever case they are.
    fn redact(&self, mut text: String) -> String {
        for secret in &self.0 {
            let (mut redacted, mut rest) = (String::new(), &*text);
            while let Some(at) = find(rest, secret) {
                redacted.push_str(&rest[..at]);
                redacted.push_str(REDACTED);
                rest = &rest[at + secret.len()..];
            }
            if !redacted.is_empty() {
                redacted.push_str(rest);
                text = redacted;
            }
        }
        text
    }
}

/// Where the word begins, in upper or lower case.
fn find(text: &str, word: &str) -> Option<usize> {
    // Bytes that are the same but for ASCII letters are whole characters.
    text.as_bytes().windows(word.len()).position(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// The text of a page, at most 200 characters in one line, if it has any.
pub(crate) fn text_of(page: &[u8], secrets: &Secrets) -> Option<String> {
    // A secret across the end is left out as a whole, however it is written.
    let end = if page.len() > READ { READ.saturating_sub(6 * secrets.longest()) } else { page.len() };
    let page = &page[..end];
    if page.contains(&0) {
        return None;
    }
    let text = secrets.redact(String::from_utf8_lossy(page).into_owned());
    let text = secrets.redact(one_line(&without_tags(&text)));
    (!text.is_empty()).then(|| shortened(&text, LONG))
}

/// A message as it was sent, at most 200 characters in one line.
#[cfg(feature = "grpc")]
pub(crate) fn line_of(message: &str, secrets: &Secrets) -> String {
    shortened(&secrets.redact(one_line(message)), LONG)
}

/// The text for the message of an error: shorter, and without what differs from one response to the next, as a request's number.
pub(crate) fn short(text: &str) -> String {
    let is_volatile = |word: &str| word.chars().filter(char::is_ascii_digit).count() >= 4;
    let mut words: Vec<&str> = text.split(' ').map(|word| if is_volatile(word) { "…" } else { word }).collect();
    words.dedup_by(|word, before| *word == "…" && *before == "…");
    shortened(&words.join(" "), SHORT)
}

fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let begin: String = text.chars().take(limit - 1).collect();
    begin.trim_end().to_owned() + "…"
}

/// One space between words, and no character that controls a terminal or the direction of text.
fn one_line(text: &str) -> String {
    let hidden = |c: &char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let shown: String = text.chars().filter(|c| !hidden(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of HTML, as of the title and the body. Other text stays as it is.
fn without_tags(page: &str) -> String {
    let (mut text, mut rest) = (String::new(), page);
    while let Some(begin) = rest.find('<') {
        text.push_str(&rest[..begin]);
        rest = &rest[begin..];
        let is_tag = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        if !is_tag {
            text.push('<');
            rest = &rest[1..];
            continue;
        }
        // What browsers do not show, up to its end.
        let hidden = [("<!--", "-->"), ("<script", "</script"), ("<style", "</style")];
        let end =
            hidden.iter().find(|(begin, _)| rest.get(..begin.len()).is_some_and(|tag| tag.eq_ignore_ascii_case(begin)));
        let skipped = end.map_or(Some(0), |(_, end)| find(rest, end));
        rest = skipped.map_or("", |skipped| &rest[skipped..]);
        rest = rest.split_once('>').map_or("", |(_, rest)| rest);
        text.push(' ');
    }
    text.push_str(rest);
    if text.len() == page.len() { text } else { decoded(&text) }
}

/// The text with the usual character references of HTML decoded.
fn decoded(text: &str) -> String {
    let (mut decoded, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        let reference = after.split_once(';').filter(|(name, _)| name.len() <= 8);
        let character = reference.and_then(|(name, _)| match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some(' '),
            _ => {
                let number = name.strip_prefix('#')?;
                let hex = number.strip_prefix(['x', 'X']).map(|hex| u32::from_str_radix(hex, 16));
                char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)
            }
        });
        decoded.push(character.unwrap_or('&'));
        // What is no reference stays as it is.
        rest = if character.is_some() { reference.map_or("", |(_, after)| after) } else { after };
    }
    decoded + rest
}

#[cfg(test)]
mod tests;
