//! Calls without a request type: explicit batches, and calls given as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::batch::Batch;
use crate::api::method::Method;
use crate::api::raw::RawCall;
use crate::api::replies::BatchReplies;
use crate::call::Core;
use crate::call::attempts::Attempts;
use crate::error::Error;

impl Core {
    /// Sends a batch, in several requests if it is too large for one.
    pub(crate) async fn batch(&self, batch: &Batch) -> Result<BatchReplies, Error> {
        let name = Method::Batch.name();
        let batch = &batch
            .check(self.pro)
            .and_then(|()| batch.with_keys(self.retry.makes_keys()))
            .map_err(|error| self.with_context(error, name))?;
        let all = batch.all();
        let mut attempts = Attempts::new(self, name, Some(Method::Batch), all.is_repeatable())?;
        let mut replies = BatchReplies::to(batch);
        let mut waiting = vec![all];
        while let Some(part) = waiting.pop() {
            let sent = match attempts.begin_part(part.is_repeatable()) {
                Ok(()) => attempts.run(&part, |_, reply| part.read(reply)).await,
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(response) => {
                    let response = response.from(self.origin(attempts.endpoint())).after(attempts.may_have_run());
                    replies.add(&part, Ok(response));
                    continue;
                }
                Err(error) => error,
            };
            match part.split(error) {
                Ok(parts) => waiting.extend(parts),
                Err(error) => {
                    let skipped = Error::after_failed_part(&error);
                    replies.add(&part, Err(error));
                    if !batch.is_parallel() {
                        waiting.drain(..).rev().for_each(|part| replies.add(&part, Err(skipped.echo())));
                    }
                }
            }
        }
        let replies = replies.unless_all_failed();
        attempts.end(replies.as_ref().map_or_else(Error::outcome, BatchReplies::outcome));
        replies
    }

    /// Makes a call given as JSON.
    pub(crate) async fn call_json<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let call = RawCall::new(method, &params).and_then(|call| call.check(self.pro).map(|()| call));
        let call = call.map_err(|error| self.with_context(error, method))?;
        let mut attempts = Attempts::new(self, method, Method::from_name(method), call.is_repeatable())?;
        attempts.run(&call, |_, reply| call.read(reply)).await
    }
}
