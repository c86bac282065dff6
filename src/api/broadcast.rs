//! A broadcast that succeeded in some of its channels.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;

use crate::api::message::{BroadcastRequest, BroadcastResult, PublishResponse};
use crate::api::request::Part;
use crate::api::split;
use crate::error::{ApiError, Error, Form, Outcome};

/// The number of the field `channels`.
const CHANNELS: u32 = 1;

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
) -> Option<Part<BroadcastRequest>> {
    let again = |error: &ApiError| error.is_transient() && (error.is_refusal() || repeatable);
    let failed: Vec<_> = result.failed().filter(|(_, error)| again(error)).collect();
    let (_, error) = failed.first()?;
    let places: Vec<_> = failed.iter().map(|(place, _)| *place).collect();
    // As many answers as channels were asked for: that is checked before.
    let channels = places.iter().filter_map(|place| request.channels.get(*place)).cloned().collect();
    let error = (*error).clone();
    Some(Part { request: BroadcastRequest { channels, ..request.clone() }, places, error })
}

/// The broadcasts to some of the channels each that it goes in, the last first.
pub(crate) fn divide(request: &BroadcastRequest, error: Error) -> Result<Vec<BroadcastRequest>, Error> {
    let size = |form, channel: &String| match form {
        Form::Protobuf => prost::encoding::string::encoded_len(CHANNELS, channel),
        // Text has a JSON form, and here a comma.
        Form::Json => serde_json::to_string(channel).map_or(0, |json| json.len() + 1),
    };
    let sizes = |form| Ok(request.channels.iter().map(|channel| size(form, channel)).collect());
    let parts = split::divide(error, request.channels.len(), sizes)?;
    let without = BroadcastRequest { channels: Vec::new(), ..request.clone() };
    let to = |part: Range<usize>| BroadcastRequest { channels: request.channels[part].to_vec(), ..without.clone() };
    Ok(parts.into_iter().map(to).collect())
}

/// Adds what became of the next of these parts. If it failed, so did each of its channels.
pub(crate) fn append(result: &mut BroadcastResult, part: &BroadcastRequest, answer: Result<BroadcastResult, Error>) {
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
pub(crate) fn doubt(result: &mut BroadcastResult) {
    // What is refused for good was refused before, too.
    let refused = |error: &&mut ApiError| error.is_refusal() && error.is_transient();
    for error in result.responses.iter_mut().filter_map(|response| response.error.as_mut()).filter(refused) {
        *error = unknown("an earlier attempt ended without an answer, and the last one with this", &*error);
    }
}

/// Puts what became of those channels in the place of how they had failed.
pub(crate) fn join(result: &mut BroadcastResult, places: &[usize], answer: Result<BroadcastResult, Error>) {
    let mut set = |place: usize, response| {
        if let Some(slot) = result.responses.get_mut(place) {
            *slot = response;
        }
    };
    match answer {
        Ok(answer) => places.iter().zip(answer.responses).for_each(|(place, response)| set(*place, response)),
        // They failed as they had failed before.
        Err(error) if matches!(error.outcome(), Outcome::NotSent | Outcome::Refused) => {}
        // The repeat may have been carried out, which the earlier error would deny.
        Err(error) => {
            let unknown = unknown("the channel was tried again, and it is unknown how that ended", error);
            for place in places {
                set(*place, PublishResponse { error: Some(unknown.clone()), result: None });
            }
        }
    }
}
