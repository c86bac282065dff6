//! What the crate asks of a request, and users do not see.

use crate::api::request::check::Problem;
use crate::error::{ApiError, Error};
use crate::wire::body::Message;

/// The part of [`Request`] that is private; `R` is the request's result.
pub trait Hooks<R>: Message {
    /// Whether the client makes it repeatable with an idempotency key of its own.
    const KEYED: bool;

    /// Fails if it must not be sent.
    fn check(&self) -> Result<(), Problem>;

    /// Appends its protobuf form, as `encode_raw` does.
    fn write(&self, out: &mut Vec<u8>) {
        self.encode_raw(out);
    }

    /// The number of results that it asks for: one for each channel of a broadcast.
    fn expected_results(&self) -> usize;

    /// Its channels.
    fn channels(&self) -> &[String];

    /// Whether the client may add an idempotency key, which does not change the result.
    fn takes_key(&self) -> bool;

    /// The requests that it is split into after it has failed with this error, the last first; or the error, if it cannot be
    /// split or that would not help.
    fn split(&self, error: Error) -> Result<Vec<Self>, Error> {
        Err(error)
    }

    /// Adds the result of such a part to that of those before it.
    fn append_part(_whole: &mut R, _part: &Self, _result: Result<R, Error>) {}

    /// The part of the request that failed and is to be tried again, if only a part failed.
    fn failed_part(&self, _result: &R, _repeatable: bool) -> Option<FailedPart<Self>> {
        None
    }

    /// Replaces the results at these indices by those of such a retry.
    fn merge_retry(_whole: &mut R, _indices: &[usize], _result: Result<R, Error>) {}
}

/// A part of a request, and the indices of its results in the whole.
#[derive(Debug)]
pub struct FailedPart<R> {
    pub(crate) request: R,
    pub(crate) indices: Vec<usize>,
    /// Why it failed.
    pub(crate) error: ApiError,
}
