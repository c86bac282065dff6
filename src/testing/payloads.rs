//! Encodes results with payloads as JSON: each payload is embedded as the server writes it.

use serde_json::Value;

use super::json;
use crate::api::message;
use crate::wire::body::Message;
use bytes::Bytes;

/// A payload that must be JSON is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotJson;

/// The payloads in a result.
pub(super) trait Payloads {
    fn each(&mut self, _visit: &mut dyn FnMut(&mut Bytes)) {}
}

impl Payloads for message::HistoryResult {
    fn each(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        for publication in &mut self.publications {
            visit(&mut publication.data);
            if let Some(info) = &mut publication.info {
                visit(&mut info.conn_info);
                visit(&mut info.chan_info);
            }
        }
    }
}

impl Payloads for message::PresenceResult {
    fn each(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        for info in self.presence.values_mut() {
            visit(&mut info.conn_info);
            visit(&mut info.chan_info);
        }
    }
}

impl Payloads for message::MapReadStateResult {
    fn each(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        self.entries.iter_mut().for_each(|entry| visit(&mut entry.data));
    }
}

impl Payloads for message::MapReadStreamResult {
    fn each(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        self.entries.iter_mut().for_each(|entry| visit(&mut entry.data));
    }
}

macro_rules! without_payloads {
    ($($result:ident)*) => { $(impl Payloads for message::$result {})* };
}
without_payloads! {
    PublishResult BroadcastResult SubscribeResult UnsubscribeResult DisconnectResult RefreshResult PresenceStatsResult
    HistoryRemoveResult InfoResult RpcResult ChannelsResult MapPublishResult MapRemoveResult MapStatsResult
    MapClearResult SharedPollPublishResult ConnectionsResult UpdateUserStatusResult GetUserStatusResult
    DeleteUserStatusResult BlockUserResult UnblockUserResult RevokeTokenResult InvalidateUserTokensResult
    DeviceRegisterResult DeviceUpdateResult DeviceRemoveResult DeviceListResult DeviceTopicListResult
    DeviceTopicUpdateResult UserTopicListResult UserTopicUpdateResult SendPushNotificationResult
    UpdatePushStatusResult CancelPushResult
}

/// Encodes a result.
///
/// Payloads that the server accepts as JSON need not be UTF-8, which `serde_json` refuses. Each is replaced by a
/// placeholder that occurs nowhere else, and inserted afterwards.
pub(super) fn write<T: Message + Payloads>(result: &T) -> Result<Vec<u8>, NotJson> {
    let mark = format!("{:016x}", super::hub::random());
    let (mut result, mut payloads, mut broken) = (result.clone(), Vec::new(), false);
    result.each(&mut |payload| {
        if !payload.is_empty() {
            broken |= !json::is_json(payload);
            if std::str::from_utf8(payload).is_err() {
                let place = Value::String(format!("{mark}{:016x}", payloads.len())).to_string();
                payloads.push(std::mem::replace(payload, place.into()));
            }
        }
    });
    if broken {
        return Err(NotJson);
    }
    let text = json::compact(&serde_json::to_vec(&result).map_err(|_| NotJson)?);
    let mark = format!("\"{mark}");
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), &text[..]);
    for payload in payloads {
        let at = rest.windows(mark.len()).position(|window| window == mark.as_bytes()).ok_or(NotJson)?;
        out.extend(&rest[..at]);
        out.extend(json::compact(&payload));
        rest = &rest[at + mark.len() + 17..];
    }
    out.extend(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(data: &[&'static [u8]]) -> message::HistoryResult {
        let publication =
            |data: &&'static [u8]| message::Publication { data: Bytes::from_static(data), ..Default::default() };
        message::HistoryResult { publications: data.iter().map(publication).collect(), ..Default::default() }
    }

    #[test]
    fn a_payload_that_is_not_utf8_is_embedded_as_it_is() {
        let written = write(&history(&[b"\"\xff\xfe<\"", b" {} ", b"[ \"\x80\" ]", b""])).unwrap();
        let expected = b"{\"publications\":[{\"data\":\"\xff\xfe\\u003c\"},{\"data\":{}},{\"data\":[\"\x80\"]},{}],\
            \"epoch\":\"\",\"offset\":0}";
        assert_eq!(written.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn a_payload_that_is_not_json_fails_the_whole() {
        assert!(write(&history(&[b"1", b"\xff\x00"])).is_err());
    }
}
