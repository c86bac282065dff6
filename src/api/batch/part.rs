//! Commands of a batch that are sent in one request.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::batch::Batch;
use crate::api::batch::commands::{Command, Commands, Kind};
use crate::api::batch::json::{command_from_json, to_json, write_json};
use crate::api::replies::BatchResponse;
use crate::api::split;
use crate::error::{Error, Form};
use crate::wire;
use crate::wire::body::{Body, BodySize};
use crate::wire::reply::{Reply, ReplyBody};

#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(super) batch: &'a Batch,
    pub(in crate::api) range: Range<usize>,
}

impl Part<'_> {
    fn commands(&self) -> &[Command] {
        &self.batch.commands.list[self.range.clone()]
    }

    /// Whether all of them may take effect twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.commands().iter().all(|command| command.repeatable)
    }

    /// The parts that it is split into after it has failed with this error, the last first; or the error, if that would not
    /// help.
    pub(crate) fn split(&self, error: Error) -> Result<Vec<Self>, Error> {
        let first = self.range.start;
        let parts = split::ranges(error, self.range.len(), |form| self.sizes(form))?;
        let part = |range: Range<usize>| Self { batch: self.batch, range: first + range.start..first + range.end };
        Ok(parts.into_iter().map(part).collect())
    }

    /// The length of each command in a form of the request.
    fn sizes(&self, form: Form) -> Result<Vec<usize>, Error> {
        let mut one = Vec::new();
        let size = |index| {
            one.clear();
            let part = Self { batch: self.batch, range: index..index + 1 };
            match form {
                Form::Protobuf => part.write_protobuf(&mut one)?,
                // With the comma.
                Form::Json => part.write_json(&mut one).map(|()| one.push(b','))?,
            }
            Ok(one.len())
        };
        self.range.clone().map(size).collect()
    }

    /// Reads the response to it.
    pub(crate) fn read(&self, reply: Reply) -> Result<BatchResponse, Error> {
        let (form, found) = match reply.body() {
            ReplyBody::Protobuf(body) => {
                let replies = wire::replies_from_protobuf(&body, self.range.len());
                (Form::Protobuf, replies.map(|replies| (body, replies)))
            }
            ReplyBody::Json(body) => match wire::replies_from_json(body, self.range.len()) {
                Ok(Ok(found)) => (Form::Json, Ok(found)),
                Ok(Err(error)) => return Err(error.into()),
                Err(malformed) => (Form::Json, Err(malformed)),
            },
        };
        let (body, replies) = found.map_err(Error::protocol)?;
        Ok(BatchResponse { form, body, replies, transport: "", endpoint: None, outcome_unknown: false })
    }

    /// Appends the commands as a `BatchRequest` in protobuf holds them.
    fn write_protobuf(&self, request: &mut Vec<u8>) -> Result<(), Error> {
        let Commands { encoded, .. } = &*self.batch.commands;
        let mut copied = self.batch.commands.begin(self.range.start);
        for command in self.commands() {
            if let Kind::Json { method, params } = &command.kind {
                request.extend_from_slice(&encoded[copied..command.end]);
                copied = command.end;
                let (tag, body) = command_from_json(method, params.get())?;
                wire::push_encoded_command(tag, &body, request);
            }
        }
        request.extend_from_slice(&encoded[copied..self.batch.commands.begin(self.range.end)]);
        Ok(())
    }

    /// Appends the commands as the list in JSON holds them.
    fn write_json(&self, json: &mut Vec<u8>) -> Result<(), Error> {
        let encoded = self.batch.encoded();
        write_json(json, self.commands(), Command::method, |command, json| match &command.kind {
            Kind::Encoded { method, len, .. } => {
                method.request_to_json(encoded.slice(command.end - len..command.end), json)
            }
            Kind::Json { params, .. } => {
                json.extend_from_slice(params.get().as_bytes());
                Ok(())
            }
        })
    }
}

impl Batch {
    /// The encoded commands, of which each is then a slice.
    fn encoded(&self) -> Bytes {
        struct Encoded(Arc<Commands>);

        impl AsRef<[u8]> for Encoded {
            fn as_ref(&self) -> &[u8] {
                &self.0.encoded
            }
        }

        Bytes::from_owner(Encoded(Arc::clone(&self.commands)))
    }
}

impl Body for Part<'_> {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        let (commands, parallel) = (&self.batch.commands, self.batch.parallel);
        let is_encoded = self.commands().iter().all(|command| matches!(command.kind, Kind::Encoded { .. }));
        if is_encoded && (self.range.start == 0 || !parallel) {
            let begin = if parallel { 0 } else { commands.begin(self.range.start) };
            return Ok(self.batch.encoded().slice(begin..commands.begin(self.range.end)));
        }
        let mut request = if parallel { wire::PARALLEL.to_vec() } else { Vec::new() };
        self.write_protobuf(&mut request)?;
        Ok(request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        let commands = &self.batch.commands;
        let encoded = commands.begin(self.range.end) - commands.begin(self.range.start);
        to_json(encoded, self.batch.parallel, |json| self.write_json(json))
    }

    fn size(&self) -> BodySize {
        let commands = &self.batch.commands;
        let bytes = commands.begin(self.range.end) - commands.begin(self.range.start);
        BodySize { bytes, channels: self.range.len() }
    }
}
