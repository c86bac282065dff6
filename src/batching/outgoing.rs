//! A batch to be sent, and the result of each of its commands.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::api::batch::json;
use crate::api::method::Method;
use crate::api::replies::error_of_command;
use crate::batching::command::{Command, CommandId};
use crate::config::retry::Retry;
use crate::error::{Error, Form};
use crate::wire;
use crate::wire::body::{Body, BodySize};
use crate::wire::reply::{Reply, ReplyBody};

/// A command in a batch.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: CommandId,
    pub(super) method: Method,
    /// Whether it may take effect twice.
    pub(super) repeatable: bool,
    /// When its caller's deadline passes.
    pub(super) deadline: Option<Instant>,
    /// Its retry settings, if they differ from the engine's.
    pub(super) retry: Option<Arc<Retry>>,
    /// The length of its request, and the end of that in the batch.
    len: usize,
    end: usize,
}

impl Member {
    /// The length of the command in a batch.
    pub(super) fn encoded_len(&self) -> usize {
        wire::command_len(self.tag(), self.len)
    }

    /// The number of the method's field in a batch. Only `Method::Batch` has none, and no request has that method.
    fn tag(&self) -> u32 {
        self.method.command_tag().unwrap_or_default()
    }

    pub(super) fn new<T>(id: CommandId, command: &Command<T>, len: usize) -> Self {
        let Command { method, repeatable, deadline, ref retry, .. } = *command;
        let retry = retry.clone();
        Self { id, method, repeatable, deadline, retry, len, end: 0 }
    }
}

/// A batch that still gets commands.
#[derive(Debug)]
pub(super) struct Draft {
    /// `parallel`, which is skipped for a sequential batch, and the commands of the schema's `BatchRequest`.
    encoded: Vec<u8>,
    members: Vec<Member>,
}

impl Default for Draft {
    fn default() -> Self {
        Self { encoded: wire::PARALLEL.to_vec(), members: Vec::new() }
    }
}

impl Draft {
    pub(super) fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Adds a command, whose request `encode` writes.
    pub(super) fn push(&mut self, mut member: Member, encode: impl FnOnce(&mut Vec<u8>)) {
        wire::open_command(member.tag(), member.len, &mut self.encoded);
        encode(&mut self.encoded);
        member.end = self.encoded.len();
        self.members.push(member);
    }

    /// Keeps some of the commands.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Member) -> bool) {
        let encoded = std::mem::take(&mut self.encoded);
        self.encoded = retain(&mut self.members, &encoded, keep);
    }

    /// Takes the batch, and allocates as much for the next.
    pub(super) fn take(&mut self) -> Self {
        let mut encoded = Vec::with_capacity(self.encoded.len());
        encoded.extend(wire::PARALLEL);
        std::mem::replace(self, Self { encoded, members: Vec::with_capacity(self.members.len()) })
    }

    pub(super) fn seal(self, parallel: bool, load: Load) -> OutgoingBatch {
        OutgoingBatch { encoded: self.encoded.into(), members: self.members, parallel, load }
    }
}

/// Keeps some of the commands. Returns their encoded form.
fn retain(members: &mut Vec<Member>, encoded: &[u8], mut keep: impl FnMut(&Member) -> bool) -> Vec<u8> {
    let mut kept = Vec::with_capacity(encoded.len());
    kept.extend(wire::PARALLEL);
    let mut start = wire::PARALLEL.len();
    members.retain_mut(|member| {
        let command = start..member.end;
        start = member.end;
        let stays = keep(member);
        if stays {
            kept.extend_from_slice(&encoded[command]);
            member.end = kept.len();
        }
        stays
    });
    kept
}

/// Commands that are sent together. A single one is sent as an ordinary call.
#[derive(Debug)]
pub(super) struct OutgoingBatch {
    encoded: Bytes,
    members: Vec<Member>,
    parallel: bool,
    load: Load,
}

/// What waited when a batch was taken, which decides what its time is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Too little to measure.
    Light,
    /// Commands of many channels.
    ManyChannels,
    /// Mostly commands that wait for others of their channel.
    FewChannels,
}

impl OutgoingBatch {
    /// What waited when it was taken.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether the server may run its commands at the same time.
    pub(super) fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// Whether all of its commands may take effect twice.
    pub(super) fn is_repeatable(&self) -> bool {
        self.members.iter().all(|member| member.repeatable)
    }

    /// The method that it is sent as.
    pub(super) fn method(&self) -> Method {
        match &self.members[..] {
            [member] => member.method,
            _ => Method::Batch,
        }
    }

    /// Takes the members.
    pub(super) fn take(&mut self) -> Vec<Member> {
        std::mem::take(&mut self.members)
    }

    /// Keeps some of the commands.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Member) -> bool) {
        self.encoded = retain(&mut self.members, &self.encoded, keep).into();
    }

    /// Keeps the first half of the commands and returns the rest.
    pub(super) fn split(&mut self) -> Self {
        let half = self.members.len() / 2;
        let mut rest = Self {
            encoded: self.encoded.clone(),
            members: self.members.clone(),
            parallel: self.parallel,
            load: self.load,
        };
        let mut index = 0;
        rest.retain(|_| {
            index += 1;
            index > half
        });
        index = 0;
        self.retain(|_| {
            index += 1;
            index <= half
        });
        rest
    }

    /// The result or error of each command, in the form of the response.
    pub(super) fn read(&self, reply: Reply) -> Result<Vec<Result<ReplyBody, Error>>, Error> {
        if let [_] = &self.members[..] {
            return Ok(vec![Ok(reply.result_body()?)]);
        }
        let number = self.members.len();
        let (form, (body, replies)) = match reply.body() {
            ReplyBody::Protobuf(body) => {
                let replies = wire::replies_from_protobuf(&body, number).map_err(Error::protocol)?;
                (Form::Protobuf, (body, replies))
            }
            ReplyBody::Json(body) => (Form::Json, wire::replies_from_json(body, number).map_err(Error::protocol)??),
        };
        let read = |(reply, member): (Range<usize>, &Member)| {
            let result = match form {
                Form::Protobuf => {
                    wire::reply_from_protobuf(&body, reply, member.tag()).map(|result| result.map(ReplyBody::Protobuf))
                }
                Form::Json => wire::reply_from_json::<Box<RawValue>>(&body[reply], member.method.name())
                    .map(|result| result.map(ReplyBody::raw_json)),
            };
            result.map_err(Error::protocol)?.map_err(|api| error_of_command(member.method.name(), api))
        };
        Ok(replies.into_iter().zip(&self.members).map(read).collect())
    }
}

impl Body for OutgoingBatch {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        Ok(match &self.members[..] {
            [member] => self.encoded.slice(member.end - member.len..member.end),
            _ if self.parallel => self.encoded.clone(),
            _ => self.encoded.slice(wire::PARALLEL.len()..),
        })
    }

    fn size(&self) -> BodySize {
        BodySize { bytes: self.encoded.len(), channels: self.members.len() }
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        let request = |member: &Member, json: &mut Vec<u8>| {
            let request = self.encoded.slice(member.end - member.len..member.end);
            member.method.request_to_json(request, json)
        };
        if let [member] = &self.members[..] {
            let mut json = Vec::with_capacity(member.len * 2 + 64);
            request(member, &mut json)?;
            return Ok(json.into());
        }
        json::to_json(self.encoded.len(), self.parallel, |json| {
            json::write_json(json, &self.members, |member| member.method.name(), request)
        })
    }
}
