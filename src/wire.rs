//! The envelopes around messages: `{error, result}` around a result, commands and replies of a batch.
//!
//! They are read and written by hand, in both forms, so that nothing has the 39 fields of the schema's `Command` and `Reply`.

pub(crate) mod body;
pub(crate) mod embed;
pub(crate) mod json;
pub(crate) mod reply;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, key_len, skip_field,
};
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::ApiError;

/// The numbers of the fields `error` and `result` in the response of a method.
const ERROR: u32 = 1;
const RESULT: u32 = 2;
/// The number of the field `error` in a reply of a batch.
const REPLY_ERROR: u32 = 2;
/// The numbers of the field `commands` in a batch's request and of `replies` in its response.
const COMMANDS: u32 = 1;
const REPLIES: u32 = 1;

/// The server's result or error for one call or command.
pub(crate) type ServerResult<T> = Result<T, ApiError>;

/// The server's error; one without a code is malformed.
fn refusal<T>(error: ApiError) -> Result<ServerResult<T>, Malformed> {
    if error.code == 0 { Err("the response has an error without a code".into()) } else { Ok(Err(error)) }
}

/// Why bytes cannot be read. It never quotes them.
pub(crate) type Malformed = String;

/// Reads a method's response from protobuf, down to the bytes of the result.
pub(crate) fn response_from_protobuf(body: &Bytes) -> Result<ServerResult<Bytes>, Malformed> {
    error_or_result(body, 0..body.len(), ERROR, RESULT)
}

/// Reads one reply of a batch, which is this range of the response, with its result in the field `tag`.
pub(crate) fn reply_from_protobuf(
    body: &Bytes,
    reply: Range<usize>,
    tag: u32,
) -> Result<ServerResult<Bytes>, Malformed> {
    error_or_result(body, reply, REPLY_ERROR, tag)
}

fn error_or_result(
    body: &Bytes,
    envelope: Range<usize>,
    error_tag: u32,
    result_tag: u32,
) -> Result<ServerResult<Bytes>, Malformed> {
    let (mut error, mut result) = (None, None);
    each_field(body, envelope, |tag, range| {
        if tag == error_tag {
            error = Some(range);
        } else if tag == result_tag {
            result = Some(range);
        }
    })?;
    match (error, result) {
        (Some(error), _) => refusal(message_from_protobuf(body.slice(error))?),
        (None, Some(result)) => Ok(Ok(body.slice(result))),
        (None, None) => Err(NOTHING.into()),
    }
}

const NOTHING: &str = "the response has neither the method's result nor an error";

/// Reads a method's response from JSON.
pub(crate) fn response_from_json<T: DeserializeOwned>(body: &[u8]) -> Result<ServerResult<T>, Malformed> {
    #[derive(Deserialize)]
    struct Response<T> {
        error: Option<ApiError>,
        result: Option<T>,
    }
    match from_json(body)? {
        Response { error: Some(error), .. } => refusal(error),
        Response { error: None, result: Some(result) } => Ok(Ok(result)),
        Response { error: None, result: None } => Err(NOTHING.into()),
    }
}

/// Reads a batch's response from JSON: replies, or an error instead of them.
pub(crate) fn batch_response_from_json<T: DeserializeOwned>(body: &[u8]) -> Result<ServerResult<T>, Malformed> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<ApiError>,
    }
    match from_json(body)? {
        Refusal { error: Some(error) } => refusal(error),
        Refusal { error: None } => from_json(body).map(Ok),
    }
}

/// The field of a batch whose commands may run at the same time. It may stand before the commands.
pub(crate) const PARALLEL: [u8; 2] = [2 << 3, 1];

/// Appends a command, whose request is encoded already, to the protobuf form of a batch.
pub(crate) fn push_encoded_command(tag: u32, request: &[u8], batch: &mut Vec<u8>) {
    open_command(tag, request.len(), batch);
    batch.extend_from_slice(request);
}

/// The length of a command whose request has this length.
pub(crate) fn command_len(tag: u32, body: usize) -> usize {
    let command = key_len(tag) + encoded_len_varint(body as u64) + body;
    key_len(COMMANDS) + encoded_len_varint(command as u64) + command
}

/// Begins a command whose request, of this length, is to follow.
pub(crate) fn open_command(tag: u32, body: usize, batch: &mut Vec<u8>) {
    let command = key_len(tag) + encoded_len_varint(body as u64) + body;
    // The longest tag and length.
    batch.reserve(32 + body);
    open_field(COMMANDS, command, batch);
    open_field(tag, body, batch);
}

/// Appends the tag and the length of a field whose bytes follow. Like prost, but without a loop for short ones.
pub(crate) fn open_field(tag: u32, len: usize, message: &mut Vec<u8>) {
    for number in [u64::from(tag) << 3 | WireType::LengthDelimited as u64, len as u64] {
        match u8::try_from(number) {
            Ok(byte @ ..0x80) => message.push(byte),
            _ => encode_varint(number, message),
        }
    }
}

/// The ranges of the replies in the response to a batch.
pub(crate) type Ranges = Vec<Range<usize>>;

/// Finds the replies in the protobuf form of a batch's response.
pub(crate) fn replies_from_protobuf(body: &[u8], expected: usize) -> Result<Ranges, Malformed> {
    let (mut replies, mut found) = (Vec::with_capacity(expected), 0);
    each_field(body, 0..body.len(), |tag, range| {
        if tag == REPLIES {
            found += 1;
            // Surplus replies are only counted: an empty one takes two bytes in the response, and a range many times that.
            if found <= expected {
                replies.push(range);
            }
        }
    })?;
    same_number(found, expected).map(|()| replies)
}

/// Every command of a batch has one reply.
fn same_number(replies: usize, commands: usize) -> Result<(), Malformed> {
    if replies == commands { Ok(()) } else { Err(format!("the response has {replies} replies to {commands} commands")) }
}

/// Finds the replies in the JSON form of a batch's response, which is returned as UTF-8, or an error instead of them.
pub(crate) fn replies_from_json(mut body: Bytes, expected: usize) -> Result<ServerResult<(Bytes, Ranges)>, Malformed> {
    if std::str::from_utf8(&body).is_err() {
        body = String::from_utf8_lossy(&body).into_owned().into();
    }
    let text = std::str::from_utf8(&body).unwrap_or_default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(BatchResponse { expected, text }).and_then(|read| json.end().map(|()| read));
    let (error, replies) = read.map_err(|error| not_json(&error))?;
    if let Some(error) = error {
        return refusal(error);
    }
    same_number(replies.found, expected)?;
    Ok(Ok((body, replies.ranges)))
}

/// Reads the JSON form of a batch's response, with at most so many replies.
struct BatchResponse<'a> {
    expected: usize,
    text: &'a str,
}

impl<'de> Visitor<'de> for BatchResponse<'_> {
    type Value = (Option<ApiError>, Replies);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch's response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut error, mut replies) = (None, Replies::default());
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match &*name {
                "error" => error = map.next_value()?,
                "replies" => replies = map.next_value_seed(ReplyList { expected: self.expected, text: self.text })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((error, replies))
    }
}

/// How many replies there are, and the ranges of the expected ones in the text.
#[derive(Debug, Default)]
struct Replies {
    found: usize,
    ranges: Ranges,
}

/// Reads a list of replies. Surplus ones are only counted: a short one takes two bytes in the response, and a range many times that.
struct ReplyList<'a> {
    expected: usize,
    text: &'a str,
}

impl<'de> DeserializeSeed<'de> for ReplyList<'_> {
    type Value = Replies;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Replies, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ReplyList<'_> {
    type Value = Replies;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of replies")
    }

    fn visit_none<E>(self) -> Result<Replies, E> {
        Ok(Replies::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Replies, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Replies, A::Error> {
        let mut replies = Replies { found: 0, ranges: Vec::with_capacity(self.expected) };
        while replies.found < self.expected {
            let Some(reply) = list.next_element::<&RawValue>()? else { return Ok(replies) };
            // A `RawValue` borrows from the text.
            let begin = reply.get().as_ptr() as usize - self.text.as_ptr() as usize;
            replies.ranges.push(begin..begin + reply.get().len());
            replies.found += 1;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            replies.found += 1;
        }
        Ok(replies)
    }
}

/// Reads one reply of a batch, whose result stands under the name of the method.
pub(crate) fn reply_from_json<T: DeserializeOwned>(reply: &[u8], method: &str) -> Result<ServerResult<T>, Malformed> {
    struct Reply<'m, T>(&'m str, PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for Reply<'_, T> {
        type Value = (Option<ApiError>, Option<T>);

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a reply")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut error, mut result) = (None, None);
            while let Some(name) = map.next_key::<Cow<'_, str>>()? {
                match &*name {
                    "error" => error = map.next_value()?,
                    name if name == self.0 => result = map.next_value()?,
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok((error, result))
        }
    }

    let mut json = serde_json::Deserializer::from_slice(reply);
    match json.deserialize_map(Reply(method, PhantomData)).map_err(|error| not_json(&error))? {
        (Some(error), _) => refusal(error),
        (None, Some(result)) => Ok(Ok(result)),
        (None, None) => Err(NOTHING.into()),
    }
}

/// Reads a message.
pub(crate) fn message_from_protobuf<T: prost::Message + Default>(bytes: Bytes) -> Result<T, Malformed> {
    T::decode(bytes).map_err(|_| "the response is not a protobuf message of the API".into())
}

/// Reads JSON. Invalid UTF-8, which a publication may contain, is replaced by U+FFFD.
pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    let error = match serde_json::from_slice(body) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if std::str::from_utf8(body).is_err()
        && let Ok(value) = serde_json::from_str(&String::from_utf8_lossy(body))
    {
        return Ok(value);
    }
    Err(not_json(&error))
}

/// serde's own texts quote values, so only the position is kept.
fn not_json(error: &serde_json::Error) -> Malformed {
    format!("the response is not JSON of the API (line {}, column {})", error.line(), error.column())
}

/// Hands the range of every length-delimited field of the message in `range` to `found`; skips the others.
fn each_field(body: &[u8], range: Range<usize>, mut found: impl FnMut(u32, Range<usize>)) -> Result<(), Malformed> {
    let malformed = |_| Malformed::from("the response is not a protobuf message of the API");
    let mut rest = &body[..range.end][range.start..];
    while !rest.is_empty() {
        let (tag, wire) = decode_key(&mut rest).map_err(malformed)?;
        if wire == WireType::LengthDelimited {
            // Most are short.
            let length = match rest {
                [length @ ..0x80, after @ ..] => {
                    rest = after;
                    usize::from(*length)
                }
                _ => usize::try_from(decode_varint(&mut rest).map_err(malformed)?).unwrap_or(usize::MAX),
            };
            if length > rest.len() {
                return Err("the response ends in the middle of a protobuf message".into());
            }
            let begin = range.end - rest.len();
            rest = &rest[length..];
            found(tag, begin..begin + length);
        } else {
            skip_field(wire, tag, &mut rest, DecodeContext::default()).map_err(malformed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublishResult;

    #[test]
    fn a_response_without_a_result_and_without_an_error_is_malformed() {
        assert!(response_from_protobuf(&Bytes::new()).is_err());
        assert!(response_from_json::<PublishResult>(b"{}").is_err());
        assert!(response_from_json::<PublishResult>(br#"{"result":null}"#).is_err());
        assert!(response_from_json::<PublishResult>(b"<html>").is_err());
    }

    #[test]
    fn a_length_beyond_the_end_is_malformed() {
        assert!(response_from_protobuf(&Bytes::from_static(&[0x12, 0x7f, 1])).is_err());
        assert!(response_from_protobuf(&Bytes::from_static(&[0x12])).is_err());
        assert!(replies_from_protobuf(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 1).is_err());
    }

    #[test]
    fn an_unknown_field_is_skipped() {
        let response = response_from_protobuf(&Bytes::from_static(&[0x78, 1, 0x12, 2, 0x08, 5])).unwrap().unwrap();
        assert_eq!(message_from_protobuf::<PublishResult>(response).unwrap().offset, 5);
        let response = response_from_json::<PublishResult>(br#"{"result":{"offset":5,"new":[1]},"new":2}"#);
        assert_eq!(response.unwrap().unwrap().offset, 5);
    }

    #[test]
    fn replies_beyond_the_expected_are_counted_and_not_collected() {
        let text = format!("[0{}]", ",0".repeat(100_000));
        let list = ReplyList { expected: 3, text: &text };
        let replies = list.deserialize(&mut serde_json::Deserializer::from_str(&text)).unwrap();
        assert_eq!((replies.found, replies.ranges.len(), replies.ranges.capacity()), (100_001, 3, 3));
        let error = replies_from_json(format!(r#"{{"replies":{text}}}"#).into(), 3).unwrap_err();
        assert_eq!(error, "the response has 100001 replies to 3 commands");
        for none in [r#"{"replies":null}"#, "{}", r#"{"replies":[]}"#] {
            assert!(replies_from_json(none.into(), 0).is_ok(), "{none}");
        }
        assert!(replies_from_json(r#"{"replies":[]} 1"#.into(), 0).is_err());
    }

    #[test]
    fn invalid_utf8_in_a_body_is_replaced() {
        let body = b"{\"result\":{\"publications\":[{\"data\":\"a\xff\",\"offset\":1}],\"epoch\":\"e\",\"offset\":1}}";
        let history = response_from_json::<crate::api::message::HistoryResult>(body).unwrap().unwrap();
        assert_eq!(history.publications[0].json::<String>().unwrap(), "a\u{fffd}");
    }
}
