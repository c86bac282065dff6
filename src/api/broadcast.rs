//! The result of a broadcast, and what becomes of one that succeeded in some of its channels.

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

/// What became of a broadcast, channel by channel.
///
/// It is a success even if every channel failed: [`all_ok`](Self::all_ok) makes an error of that.
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
    /// What happened in each channel, in the order of the request's `channels`: where the publication stands, or why
    /// that channel has none.
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
        /// For a value that no call has returned: the client refuses an answer like that.
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

    /// The failed channels' indices, and why they failed.
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

/// The channels to try again: those that failed and may succeed in another attempt that can do no harm.
pub(crate) fn failed_part(
    request: &BroadcastRequest,
    result: &BroadcastResult,
    repeatable: bool,
) -> Option<FailedPart<BroadcastRequest>> {
    let again = |error: &ApiError| error.is_transient() && (error.is_refusal() || repeatable);
    let failed: Vec<_> = result.errors().filter(|(_, error)| again(error)).collect();
    let (_, error) = failed.first()?;
    let indices: Vec<_> = failed.iter().map(|(index, _)| *index).collect();
    // As many answers as channels were asked for: that is checked before.
    let channels = indices.iter().filter_map(|index| request.channels.get(*index)).cloned().collect();
    let error = (*error).clone();
    Some(FailedPart { request: BroadcastRequest { channels, ..request.clone() }, indices, error })
}

/// The broadcasts to some of the channels each that it goes in, the last first.
pub(crate) fn split(request: &BroadcastRequest, error: Error) -> Result<Vec<BroadcastRequest>, Error> {
    let size = |form, channel: &String| match form {
        Form::Protobuf => prost::encoding::string::encoded_len(CHANNELS, channel),
        // Text has a JSON form, and here a comma.
        Form::Json => serde_json::to_string(channel).map_or(0, |json| json.len() + 1),
    };
    let sizes = |form| Ok(request.channels.iter().map(|channel| size(form, channel)).collect());
    let parts = split::ranges(error, request.channels.len(), sizes)?;
    let without = BroadcastRequest { channels: Vec::new(), ..request.clone() };
    let to = |part: Range<usize>| BroadcastRequest { channels: request.channels[part].to_vec(), ..without.clone() };
    Ok(parts.into_iter().map(to).collect())
}

/// Adds what became of the next of these parts. If it failed, so did each of its channels.
pub(crate) fn append_part(
    result: &mut BroadcastResult,
    part: &BroadcastRequest,
    answer: Result<BroadcastResult, Error>,
) {
    let failed = |error: Error| match error.api() {
        // What it promises can be taken back by an attempt before.
        Some(api) if !(api.is_refusal() && error.may_have_run()) => api.clone(),
        _ if error.may_have_run() => unknown("it is unknown how the request with this channel ended", error),
        _ => ApiError::new(ApiError::INTERNAL, format!("the request with this channel was not carried out: {error}")),
    };
    match answer {
        Ok(answer) => result.responses.extend(answer.responses),
        Err(error) => {
            let response = PublishResponse { error: Some(failed(error)), result: None };
            result.responses.extend(part.channels.iter().map(|_| response.clone()));
        }
    }
}

/// What can be said of a channel of which nobody knows whether it was published to.
fn unknown(what: &str, why: impl Display) -> ApiError {
    ApiError { temporary: true, ..ApiError::new(ApiError::INTERNAL, format!("{what}: {why}")) }
}

/// Says of the channels that were refused now, and may not have been before, that nobody knows.
pub(crate) fn withdraw_refusals(result: &mut BroadcastResult) {
    // What is refused for good was refused before, too.
    let refused = |error: &&mut ApiError| error.is_refusal() && error.is_transient();
    for error in result.responses.iter_mut().filter_map(|response| response.error.as_mut()).filter(refused) {
        *error = unknown("an earlier attempt ended without a response, and the last one with this", &*error);
    }
}

/// Puts what became of those channels in the index of how they had failed.
pub(crate) fn merge_retry(result: &mut BroadcastResult, indices: &[usize], answer: Result<BroadcastResult, Error>) {
    let mut set = |index: usize, response| {
        if let Some(slot) = result.responses.get_mut(index) {
            *slot = response;
        }
    };
    match answer {
        Ok(answer) => indices.iter().zip(answer.responses).for_each(|(index, response)| set(*index, response)),
        // They failed as they had failed before.
        Err(error) if matches!(error.outcome(), Outcome::NotSent | Outcome::Refused) => {}
        // The repeat may have been carried out, which the earlier error would deny.
        Err(error) => {
            let unknown = unknown("the channel was tried again, and it is unknown how that ended", error);
            for index in indices {
                set(*index, PublishResponse { error: Some(unknown.clone()), result: None });
            }
        }
    }
}
