//! The commands of a batch, encoded as they are pushed.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::api::idempotency::{self, Key, KeySequence};
use crate::api::method::Method;
use crate::api::request::Request;
use crate::error::Error;
use crate::wire;

#[derive(Clone)]
pub(in crate::api) struct Commands {
    /// The commands as the schema's `BatchRequest` holds them, ready to be sent over gRPC, behind `parallel`, which is left out
    /// unless wanted.
    pub(super) encoded: Vec<u8>,
    pub(in crate::api) list: Vec<Command>,
}

#[derive(Clone)]
pub(in crate::api) struct Command {
    /// The end of its range in `encoded`.
    pub(super) end: usize,
    /// Whether it may take effect twice.
    pub(super) repeatable: bool,
    /// Whether it ends with an idempotency key, which is written when the batch is sent.
    keyed: bool,
    pub(in crate::api) kind: Kind,
}

#[derive(Clone)]
pub(in crate::api) enum Kind {
    /// Of the schema: the length of its request, and how many results it asks for.
    Encoded { method: Method, len: usize, results: usize },
    /// Given as JSON, and not in `encoded`; over gRPC it is translated when it is sent.
    Json { method: Box<str>, params: Box<RawValue> },
}

impl Default for Commands {
    fn default() -> Self {
        Self { encoded: wire::PARALLEL.to_vec(), list: Vec::new() }
    }
}

impl Commands {
    /// Adds a command, with an idempotency key to be written later if one is wanted and it takes one. Its index.
    pub(super) fn push<R: Request>(&mut self, request: &R, with_key: bool) -> usize {
        let key = (with_key && request.takes_key()).then_some(Key::EMPTY);
        let len = idempotency::encoded_len(request, key.as_ref());
        // Only `Method::Batch` has no tag, and no request has that method.
        wire::open_command(R::METHOD.command_tag().unwrap_or_default(), len, &mut self.encoded);
        idempotency::write(request, key, &mut self.encoded);
        let kind = Kind::Encoded { method: R::METHOD, len, results: request.expected_results() };
        self.add(key.is_some() || request.is_repeatable(), key.is_some(), kind)
    }

    /// Adds a command that is given as JSON. Its index.
    pub(super) fn push_json(&mut self, method: &str, params: Box<RawValue>, repeatable: bool) -> usize {
        self.add(repeatable, false, Kind::Json { method: method.into(), params })
    }

    fn add(&mut self, repeatable: bool, keyed: bool, kind: Kind) -> usize {
        self.list.push(Command { end: self.encoded.len(), repeatable, keyed, kind });
        self.list.len() - 1
    }

    /// Whether some of them have a key that is to be written.
    pub(super) fn have_keys(&self) -> bool {
        self.list.iter().any(|command| command.keyed)
    }

    /// The same commands with new keys.
    pub(super) fn with_new_keys(&self) -> Result<Self, Error> {
        let (mut commands, keys) = (self.clone(), KeySequence::default());
        for command in commands.list.iter().filter(|command| command.keyed) {
            let key = keys.next().ok_or_else(|| Error::invalid("the system has no random numbers for keys"))?;
            commands.encoded[command.end - Key::LEN..command.end].copy_from_slice(key.as_str().as_bytes());
        }
        Ok(commands)
    }

    /// The same commands without keys.
    pub(super) fn without_keys(&self) -> Self {
        let mut commands = Self { encoded: Vec::with_capacity(self.encoded.len()), list: Vec::new() };
        commands.encoded.extend(wire::PARALLEL);
        for (index, command) in self.list.iter().enumerate() {
            let mut kind = command.kind.clone();
            match &mut kind {
                Kind::Encoded { method, len, .. } if command.keyed => {
                    *len -= Key::ENCODED;
                    let request = &self.encoded[command.end - Key::ENCODED - *len..command.end - Key::ENCODED];
                    let tag = method.command_tag().unwrap_or_default();
                    wire::push_encoded_command(tag, request, &mut commands.encoded);
                }
                _ => commands.encoded.extend_from_slice(&self.encoded[self.begin(index)..command.end]),
            }
            commands.add(command.repeatable && !command.keyed, false, kind);
        }
        commands
    }

    /// The begin of a command's range in `encoded`; of the number of commands, the end.
    pub(super) fn begin(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(wire::PARALLEL.len(), |before| self.list[before].end)
    }

    /// The channels of a command, for errors.
    pub(in crate::api) fn channels(&self, index: usize) -> Vec<String> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Channels {
            channel: String,
            channels: Vec<String>,
        }
        let mut json = Vec::new();
        let command = &self.list[index];
        let text = match &command.kind {
            Kind::Encoded { method, len, .. } => {
                let request = Bytes::copy_from_slice(&self.encoded[command.end - len..command.end]);
                // A request that has no JSON form is named without its channel.
                let _ = method.request_to_json(request, &mut json);
                &json[..]
            }
            Kind::Json { params, .. } => params.get().as_bytes(),
        };
        let Channels { channel, mut channels } = serde_json::from_slice(text).unwrap_or_default();
        if !channel.is_empty() {
            channels.push(channel);
        }
        channels
    }

    /// The method of a command, and its channel if it has one, for errors.
    pub(in crate::api) fn name(&self, index: usize) -> String {
        let method = self.list[index].method();
        match &self.channels(index)[..] {
            [channel] => format!("{method} {channel}"),
            _ => method.to_owned(),
        }
    }
}

impl Command {
    pub(in crate::api) fn method(&self) -> &str {
        match &self.kind {
            Kind::Encoded { method, .. } => method.name(),
            Kind::Json { method, .. } => method,
        }
    }

    /// Its method and the field of its result, if the schema has it.
    pub(in crate::api) fn known(&self) -> Option<(Method, u32)> {
        let method = match &self.kind {
            Kind::Encoded { method, .. } => Some(*method),
            Kind::Json { method, .. } => Method::from_name(method),
        }?;
        Some((method, method.command_tag()?))
    }

    pub(in crate::api) fn method_of_error(&self) -> Cow<'static, str> {
        match &self.kind {
            Kind::Encoded { method, .. } => method.name().into(),
            Kind::Json { method, .. } => method.to_string().into(),
        }
    }

    /// How many results it asks for: one for each channel of a broadcast.
    pub(in crate::api) fn expected_results(&self) -> usize {
        match self.kind {
            Kind::Encoded { results, .. } => results,
            Kind::Json { .. } => 1,
        }
    }
}
