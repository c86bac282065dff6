//! Calls given as JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::api::batch::Batch;
use crate::api::batch::json::{check_json, check_method_name, command_from_json, object};
use crate::api::finite::parameters;
use crate::api::method::Method;
use crate::api::replies::{self, BatchReplies};
use crate::error::{Error, Outcome};
use crate::wire;
use crate::wire::body::{Body, BodySize};
use crate::wire::reply::{Reply, ReplyBody};

/// A call given as JSON.
pub(crate) struct RawCall<'a> {
    method: &'a str,
    params: Box<RawValue>,
}

impl<'a> RawCall<'a> {
    pub(crate) fn new(method: &'a str, params: &impl Serialize) -> Result<Self, Error> {
        check_method_name(method)?;
        Ok(Self { method, params: parameters(params)? })
    }

    /// Makes the checks of a call with its own types.
    pub(crate) fn check(&self, pro: bool) -> Result<(), Error> {
        match Method::from_name(self.method) {
            Some(Method::Batch) => check_json(self.params.get(), pro),
            Some(method) => method.check_json(self.params.get().as_bytes()).or_else(|problem| problem.error(pro)),
            None => Ok(()),
        }
    }

    /// Whether it may take effect twice. Not if it cannot be read.
    pub(crate) fn is_repeatable(&self) -> bool {
        match Method::from_name(self.method) {
            Some(Method::Batch) => self.to_batch().is_ok_and(|batch| batch.all().is_repeatable()),
            Some(method) => method.is_repeatable_json(self.params.get().as_bytes()),
            None => false,
        }
    }

    /// The batch that it is.
    fn to_batch(&self) -> Result<Batch, Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Request {
            commands: Option<Vec<BTreeMap<String, Box<RawValue>>>>,
            parallel: Option<bool>,
        }
        let request: Request = serde_json::from_str(object(self.params.get())).map_err(|_| {
            Error::invalid("a batch is `commands`, a list of objects with one method each, and `parallel`, a boolean")
        })?;
        let mut batch = Batch::new().parallel(request.parallel.unwrap_or_default());
        for command in request.commands.unwrap_or_default() {
            let mut methods = command.into_iter();
            let (Some((method, params)), None) = (methods.next(), methods.next()) else {
                return Err(Error::invalid("a command of a batch has exactly one method"));
            };
            batch.push_json(&method, params)?;
        }
        Ok(batch)
    }

    /// Reads the result, in either form.
    pub(crate) fn read<T: DeserializeOwned>(&self, reply: Reply) -> Result<T, Error> {
        // A result is kept as JSON only to tell one of another type from a response without one.
        self.result(reply.clone()).or_else(|_| replies::read_as(&self.result::<Box<RawValue>>(reply)?))
    }

    fn result<T: DeserializeOwned>(&self, reply: Reply) -> Result<T, Error> {
        let is_batch = self.method == Method::Batch.name();
        match reply.body() {
            ReplyBody::Json(body) => {
                let response =
                    if is_batch { wire::batch_response_from_json(&body) } else { wire::response_from_json(&body) };
                Ok(response.map_err(Error::protocol)??)
            }
            ReplyBody::Protobuf(body) if is_batch => {
                let batch = self.to_batch()?;
                let all = batch.all();
                let mut replies = BatchReplies::to(&batch);
                replies.add(&all, Ok(all.read(Reply::protobuf(body))?));
                let replies = replies.to_json()?;
                // As text, in which numbers keep their digits. Left out when there is none, as the server does.
                let replies: Vec<&str> = replies.iter().map(|reply| reply.get()).collect();
                let list = format!(r#"{{"replies":[{}]}}"#, replies.join(","));
                wire::from_json(if replies.is_empty() { b"{}" } else { list.as_bytes() }).map_err(Error::protocol)
            }
            ReplyBody::Protobuf(body) => {
                let result = wire::response_from_protobuf(&body).map_err(Error::protocol)??;
                replies::result_from_protobuf(self.method, result)
                    .map_err(|malformed| Error::protocol(malformed).with_outcome(Outcome::Done))
            }
        }
    }
}

impl Body for RawCall<'_> {
    fn to_protobuf(&self) -> Result<Bytes, Error> {
        if self.method == Method::Batch.name() {
            return self.to_batch()?.all().to_protobuf();
        }
        command_from_json(self.method, self.params.get()).map(|(_, request)| request.into())
    }

    fn to_json(&self) -> Result<Bytes, Error> {
        Ok(Bytes::copy_from_slice(self.params.get().as_bytes()))
    }

    fn size(&self) -> BodySize {
        BodySize { bytes: self.params.get().len(), channels: 1 }
    }
}
