//! A call with a typed request.

use crate::api::idempotency::{self, Key, Keyed};
use crate::api::replies::checked;
use crate::api::request::Request;
use crate::call::Core;
use crate::call::attempts::Attempts;
use crate::error::{Error, Outcome};
use crate::wire::body::{Body, sealed::Sealed as _};

/// A call that has begun, to be sent [alone](send) or by a batcher and then [finished](Self::finish).
pub(crate) struct TypedCall<'a, R> {
    pub(crate) request: &'a R,
    pub(crate) key: Option<Key>,
    pub(crate) attempts: Attempts<'a>,
    repeatable: bool,
}

impl<'a, R: Request> TypedCall<'a, R> {
    /// Checks the request, generates its idempotency key if it takes one, and counts the call.
    pub(crate) fn begin(core: &'a Core, request: &'a R) -> Result<Self, Error> {
        let method = R::METHOD;
        core.check(request).map_err(|error| core.with_context(error, method.name()))?;
        let key = idempotency::key_for(request, core.retry.makes_keys());
        let repeatable = key.is_some() || request.is_repeatable();
        let attempts = Attempts::new(core, method.name(), Some(method), repeatable)?;
        Ok(Self { request, key, attempts, repeatable })
    }

    /// Ends the call: sends a request that was too large in parts, and failed parts again.
    pub(crate) async fn finish(mut self, sent: Result<R::Result, Error>) -> Result<R::Result, Error> {
        let sent = match sent {
            Err(error) => self.split(error).await,
            sent => sent,
        };
        let mut reply = sent.map_err(|error| error.with_key(self.key.as_ref().map(Key::as_str)))?;
        while let Some(part) = self.request.failed_part(&reply, self.repeatable) {
            if self.attempts.again(part.error.into()).await.is_err() {
                break;
            }
            let result = send(&mut self.attempts, &part.request, self.key).await;
            let failed = result.is_err();
            R::merge_retry(&mut reply, &part.indices, result);
            if failed {
                break;
            }
        }
        reply.name_failed(self.request.channels());
        self.attempts.end(Outcome::Done);
        Ok(reply)
    }

    /// Sends the request in parts, if it can be split.
    async fn split(&mut self, error: Error) -> Result<R::Result, Error> {
        let (parts, tried) = (self.request.split(error)?, self.attempts.counts());
        // Boxed to keep the futures of other calls small.
        let sent = Box::pin(send_parts(&mut self.attempts, parts, self.key)).await;
        self.attempts.raise_counts(tried);
        sent
    }
}

/// Sends a request in one piece, with retries.
pub(crate) async fn send<R: Request>(
    attempts: &mut Attempts<'_>,
    request: &R,
    key: Option<Key>,
) -> Result<R::Result, Error> {
    let keyed = key.map(|key| Keyed { request, key });
    let body: &dyn Body = match &keyed {
        Some(keyed) => keyed,
        None => request,
    };
    let asked = request.expected_results();
    attempts.run(body, |may_have_run, reply| checked(asked, may_have_run, reply.read()?)).await
}

/// Sends the parts of a request from the end of the list, each with its own attempts.
async fn send_parts<R: Request>(
    attempts: &mut Attempts<'_>,
    mut waiting: Vec<R>,
    key: Option<Key>,
) -> Result<R::Result, Error> {
    let (mut whole, repeatable) = (None, attempts.is_repeatable());
    while let Some(part) = waiting.pop() {
        let sent = match attempts.begin_part(repeatable) {
            Ok(()) => send(attempts, &part, key).await,
            Err(error) => Err(error),
        };
        let result = match sent {
            Ok(reply) => Ok(reply),
            Err(error) => match part.split(error) {
                Ok(parts) => {
                    waiting.extend(parts);
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        match &mut whole {
            // The call fails if its first part does.
            None => whole = Some(result?),
            Some(whole) => R::append_part(whole, &part, result),
        }
    }
    Ok(whole.unwrap_or_default())
}
