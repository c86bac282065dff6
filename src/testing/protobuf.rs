//! Protobuf as the server reads it, where that differs from what prost does.
//!
//! The server takes a field of the wrong wire type for one it does not know, and says what is wrong in its own words.
//! So a message is first compared with the schema, and only what fits is handed to prost.

use std::collections::HashMap;

use bytes::Bytes;

use super::call::{Batch, Command, Format};
use crate::api::method::Method;
use crate::api::request::Request;

/// A field of bytes: its key, its length, and the bytes.
pub(super) fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    put_field(number, body, &mut out);
    out
}

fn put_field(number: u32, body: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(body.len() as u64, out);
    out.extend(body);
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}

/// Why the server does not read a message, in its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str);

const MALFORMED: Refused = Refused("proto: cannot parse invalid wire-format data");
const NOT_UTF8: Refused = Refused("string field contains invalid UTF-8");

/// How many messages may stand in one another: the server's limit, which prost does not reach.
const MAX_DEPTH: usize = 100;

/// Reads requests that fit the schema.
#[derive(Debug)]
pub(super) struct Protobuf;

impl Format for Protobuf {
    type Error = Refused;

    fn read<R: Request>(&self, body: &[u8]) -> Result<R, Refused> {
        R::decode(&filter(&request_of(R::METHOD), body, 0)?[..]).map_err(|_| MALFORMED)
    }

    fn read_batch(&self, body: &[u8]) -> Result<Batch, Refused> {
        let body = filter(&request_of(Method::Batch), body, 0)?;
        let (mut rest, mut batch) = (&body[..], Batch { commands: Vec::new(), parallel: false });
        while let Some((number, value)) = next(&mut rest)? {
            match (number, value) {
                (1, Value::Bytes(command)) => batch.commands.push(self.read_command(command)?),
                (2, Value::Varint(parallel)) => batch.parallel = parallel != 0,
                _ => {}
            }
        }
        Ok(batch)
    }
}

impl Protobuf {
    fn read_command(&self, mut command: &[u8]) -> Result<Command, Refused> {
        let mut fields: HashMap<u32, Vec<u8>> = HashMap::new();
        while let Some((number, value)) = next(&mut command)? {
            if let Value::Bytes(body) = value {
                // A message given twice is one message with the fields of both.
                fields.entry(number).or_default().extend(body);
            }
        }
        Command::read(self, |method| fields.remove(&method.command_tag()?).map(Bytes::from))
    }
}

/// The name of the message that a method takes.
fn request_of(method: Method) -> String {
    let rpc = method.grpc_path().rsplit('/').next().unwrap_or_default();
    format!("{rpc}Request")
}

/// A field's value on the wire.
enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
    Group,
}

/// Takes the next field off the bytes.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, Refused> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (number, kind) = key(bytes)?;
    let value = match kind {
        0 => Value::Varint(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| MALFORMED)?;
            Value::Bytes(take(bytes, length)?)
        }
        3 => {
            skip_group(bytes, number, 0)?;
            Value::Group
        }
        5 => take(bytes, 4).map(|_| Value::Fixed)?,
        _ => return Err(MALFORMED),
    };
    Ok(Some((number, value)))
}

fn key(bytes: &mut &[u8]) -> Result<(u32, u64), Refused> {
    /// The largest number a field can have.
    const MAX: u64 = (1 << 29) - 1;
    let key = varint(bytes)?;
    match u32::try_from(key >> 3) {
        Ok(number) if (1..=MAX).contains(&u64::from(number)) => Ok((number, key & 7)),
        _ => Err(MALFORMED),
    }
}

/// Passes over a group, which no message of the schema has.
fn skip_group(bytes: &mut &[u8], group: u32, depth: usize) -> Result<(), Refused> {
    if depth > MAX_DEPTH {
        return Err(MALFORMED);
    }
    loop {
        let before = *bytes;
        let (number, kind) = key(bytes)?;
        match kind {
            4 if number == group => return Ok(()),
            3 => skip_group(bytes, number, depth + 1)?,
            _ => {
                *bytes = before;
                next(bytes)?;
            }
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Refused> {
    prost::encoding::decode_varint(bytes).map_err(|_| MALFORMED)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Refused> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(MALFORMED)?;
    *bytes = rest;
    Ok(taken)
}

/// What decides whether a value fits a field.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Varint,
    Fixed,
    Bytes,
    String,
    Message(&'static str),
}

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// The fields of a message, by its name.
fn fields(message: &str) -> Option<&'static [(u32, Kind)]> {
    MESSAGES.binary_search_by_key(&message, |(name, _)| name).ok().map(|found| MESSAGES[found].1)
}

/// The message with only the fields that are in the schema.
fn filter(message: &str, mut bytes: &[u8], depth: usize) -> Result<Vec<u8>, Refused> {
    let fields = fields(message).filter(|_| depth < MAX_DEPTH).ok_or(MALFORMED)?;
    let kind_of = |number| fields.iter().find(|(known, _)| *known == number).map(|(_, kind)| *kind);
    let mut out = Vec::with_capacity(bytes.len());
    loop {
        let before = bytes;
        let Some((number, value)) = next(&mut bytes)? else { return Ok(out) };
        let whole = &before[..before.len() - bytes.len()];
        match (kind_of(number), value) {
            (Some(Kind::Message(below)), Value::Bytes(body)) => {
                put_field(number, &filter(below, body, depth + 1)?, &mut out);
            }
            (Some(Kind::String), Value::Bytes(text)) if std::str::from_utf8(text).is_err() => return Err(NOT_UTF8),
            (Some(Kind::String | Kind::Bytes), Value::Bytes(_))
            | (Some(Kind::Varint), Value::Varint(_))
            | (Some(Kind::Fixed), Value::Fixed) => out.extend(whole),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::message::PublishRequest;

    #[test]
    fn the_schema_has_a_request_for_every_method() {
        for method in Method::ALL {
            assert!(fields(&request_of(*method)).is_some(), "{method}");
        }
    }

    #[test]
    fn what_does_not_fit_is_passed_over() {
        // Channel as a number, an unknown field, a group, tags with a key of the wrong type; then data.
        let bytes = b"\x08\x01\xf8\x07\x01\x7b\x08\x01\x7c\x2a\x02\x08\x01\x12\x02{}";
        let request: PublishRequest = Protobuf.read(bytes).unwrap();
        assert_eq!(request.channel, "");
        assert_eq!(request.data, "{}");
        assert_eq!(request.tags.len(), 1);
    }

    #[test]
    fn what_is_broken_is_refused_in_the_servers_words() {
        let read = |bytes: &[u8]| Protobuf.read::<PublishRequest>(bytes).unwrap_err();
        for malformed in [&b"\x0a\xff"[..], b"\x00\x01", b"\x7b\x08\x01", b"\x0c", b"\x0f", b"\x0a\x05ab", &[0xff; 11]]
        {
            assert_eq!(read(malformed), MALFORMED, "{}", malformed.escape_ascii());
        }
        assert_eq!(read(b"\x0a\x02\xff\xfe"), NOT_UTF8);
        let nested = field(1, &field(4, b"\x0a\x01\xff"));
        assert!(matches!(Protobuf.read_batch(&nested), Err(NOT_UTF8)));
    }
}
