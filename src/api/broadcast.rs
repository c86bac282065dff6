//! The result of a broadcast; how a broadcast is split, and how failed channels are retried.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, message, skip_field};

use crate::api::message::{BroadcastRequest, PublishResponse, PublishResult};
use crate::api::request::hooks::FailedPart;
use crate::api::split;
use crate::error::{ApiError, Error, Failure, Form, Outcome};

/// The number of the field `channels`.
const CHANNELS: u32 = 1;

/// The results of a broadcast, channel by channel.
///
/// A broadcast succeeds even if every channel failed: [`all_ok`](Self::all_ok) makes an error of that.
#[derive(Clone, Default, PartialEq)]
#[must_use = "a broadcast succeeds even if its channels fail: look at `all_ok` or `failed`"]
pub struct BroadcastResult {
    /// The result of each channel, in the order of the request's `channels`.
    pub responses: Vec<PublishResponse>,
    /// The names of the channels that failed, in that order.
    failed: Vec<Box<str>>,
}

/// The number of the field `responses`.
const RESPONSES: u32 = 1;

/// As prost derives it, without the names, which do not travel.
impl prost::Message for BroadcastResult {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(RESPONSES, &self.responses, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RESPONSES => message::merge_repeated(wire_type, &mut self.responses, buf, context),
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(RESPONSES, &self.responses)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl From<Vec<PublishResponse>> for BroadcastResult {
    fn from(responses: Vec<PublishResponse>) -> Self {
        Self { responses, failed: Vec::new() }
    }
}

impl BroadcastResult {
    /// The result of each channel, in the order of the request's `channels`: the position of the publication, or why there is
    /// none.
    ///
    #[doc = example!()]
    /// let request = BroadcastRequest::new(["news-1", "news-2"], json!({"text": "hello"}));
    /// let result = client.broadcast(&request).await?;
    /// for (channel, outcome) in request.channels.iter().zip(result.iter()) {
    ///     match outcome {
    ///         Ok(position) => println!("{channel}: offset {}", position.offset),
    ///         Err(error) => println!("{channel}: {error}"),
    ///     }
    /// }
    #[doc = end_of_example!()]
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<&PublishResult, &ApiError>> {
        /// Only in a value that no call has returned: the client refuses such a response.
        static NOTHING: ApiError = ApiError { code: 0, message: String::new(), temporary: false };
        self.responses.iter().map(|response| match (&response.error, &response.result) {
            (None, Some(position)) => Ok(position),
            (error, _) => Err(error.as_ref().unwrap_or(&NOTHING)),
        })
    }

    /// The channels that failed, and why.
    ///
    /// The names are those of the request, if the result comes from a call.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &ApiError)> {
        self.errors()
            .enumerate()
            .map(|(number, (_, error))| (self.failed.get(number).map_or("", |name| &**name), error))
    }

    /// Fails unless every channel got the publication.
    ///
    #[doc = example!()]
    /// let request = BroadcastRequest::new(["news-1", "news-2"], serde_json::json!({"text": "hello"}));
    /// client.broadcast(request).await?.all_ok()?;
    #[doc = end_of_example!()]
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Partial`](crate::ErrorKind::Partial) when a channel failed: [`Error::failures`] has each, with its own error.
    pub fn all_ok(&self) -> Result<(), Error> {
        let failures = self.failures();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::partial("broadcast", "channels", self.responses.len(), failures))
        }
    }

    pub(crate) fn failures(&self) -> Vec<Failure> {
        let named = self.errors().zip(self.failed());
        named.map(|((index, error), (name, _))| Failure::new(index, name.into(), Error::from(error.clone()))).collect()
    }

    /// The indices of the channels that failed, and why.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (usize, &ApiError)> {
        self.responses.iter().enumerate().filter_map(|(index, response)| Some((index, response.error.as_ref()?)))
    }

    /// Keeps the names of the channels that failed, of those that the request has.
    pub(crate) fn name_failed(&mut self, channels: &[String]) {
        self.failed = self.errors().map(|(index, _)| channels.get(index).map_or("", |name| name).into()).collect();
    }
}

/// Whether a channel is named more than once.
pub(crate) fn repeats_a_channel(request: &BroadcastRequest) -> bool {
    let mut seen = HashSet::with_capacity(request.channels.len());
    !request.channels.iter().all(|channel| seen.insert(channel.as_str()))
}

/// The channels to try again: those with a transient error, if a repeat can do no harm.
pub(crate) fn failed_part(
    request: &BroadcastRequest,
    result: &BroadcastResult,
    repeatable: bool,
) -> Option<FailedPart<BroadcastRequest>> {
    let again = |error: &ApiError| error.is_transient() && (error.is_refusal() || repeatable);
    let failed: Vec<_> = result.errors().filter(|(_, error)| again(error)).collect();
    let (_, error) = failed.first()?;
    let indices: Vec<_> = failed.iter().map(|(index, _)| *index).collect();
    // There are as many results as channels: that is checked before.
    let channels = indices.iter().filter_map(|index| request.channels.get(*index)).cloned().collect();
    let error = (*error).clone();
    Some(FailedPart { request: BroadcastRequest { channels, ..request.clone() }, indices, error })
}

/// The broadcasts, to some of the channels each, that it is split into: the last first.
pub(crate) fn split(request: &BroadcastRequest, error: Error) -> Result<Vec<BroadcastRequest>, Error> {
    let size = |form, channel: &String| match form {
        Form::Protobuf => prost::encoding::string::encoded_len(CHANNELS, channel),
        // Text has a JSON form. With the comma.
        Form::Json => serde_json::to_string(channel).map_or(0, |json| json.len() + 1),
    };
    let sizes = |form| Ok(request.channels.iter().map(|channel| size(form, channel)).collect());
    let parts = split::ranges(error, request.channels.len(), sizes)?;
    let without = BroadcastRequest { channels: Vec::new(), ..request.clone() };
    let to = |part: Range<usize>| BroadcastRequest { channels: request.channels[part].to_vec(), ..without.clone() };
    Ok(parts.into_iter().map(to).collect())
}

/// Adds the result of the next of these parts. If it failed, so did each of its channels.
pub(crate) fn append_part(
    result: &mut BroadcastResult,
    part: &BroadcastRequest,
    part_result: Result<BroadcastResult, Error>,
) {
    let failed = |error: Error| match error.api() {
        // Not if an earlier attempt may have taken effect after all.
        Some(api) if !(api.is_refusal() && error.may_have_run()) => api.clone(),
        _ if error.may_have_run() => unknown("the outcome of the request with this channel is unknown", error),
        _ => ApiError::new(ApiError::INTERNAL, format!("the request with this channel did not take effect: {error}")),
    };
    match part_result {
        Ok(part) => result.responses.extend(part.responses),
        Err(error) => {
            let response = PublishResponse { error: Some(failed(error)), result: None };
            result.responses.extend(part.channels.iter().map(|_| response.clone()));
        }
    }
}

/// The error of a channel whose outcome is unknown.
fn unknown(what: &str, why: impl Display) -> ApiError {
    ApiError { temporary: true, ..ApiError::new(ApiError::INTERNAL, format!("{what}: {why}")) }
}

/// Makes the outcome of channels unknown that were refused now, and may not have been before.
pub(crate) fn withdraw_refusals(result: &mut BroadcastResult) {
    // What is refused for good was refused before, too.
    let refused = |error: &&mut ApiError| error.is_refusal() && error.is_transient();
    for error in result.responses.iter_mut().filter_map(|response| response.error.as_mut()).filter(refused) {
        *error = unknown("the outcome is unknown: an earlier attempt got no response, and the last one this", &*error);
    }
}

/// Replaces the results at these indices by those of the retry.
pub(crate) fn merge_retry(result: &mut BroadcastResult, indices: &[usize], retried: Result<BroadcastResult, Error>) {
    let mut set = |index: usize, response| {
        if let Some(slot) = result.responses.get_mut(index) {
            *slot = response;
        }
    };
    match retried {
        Ok(retried) => indices.iter().zip(retried.responses).for_each(|(index, response)| set(*index, response)),
        // Nothing has changed.
        Err(error) if matches!(error.outcome(), Outcome::NotSent | Outcome::Refused) => {}
        // The retry may have taken effect, which the earlier error would deny.
        Err(error) => {
            let unknown = unknown("the outcome of the retry of this channel is unknown", error);
            for index in indices {
                set(*index, PublishResponse { error: Some(unknown.clone()), result: None });
            }
        }
    }
}
