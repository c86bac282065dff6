//! The older form of the API over HTTP: `POST /api` with commands that name their method.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::call::{Call, error_json};
use super::fault::Transport;
use super::http::{Json, Page, bad_request, instead, internal_error, page};
use super::json::{NotAccepted, Object, mend};
use super::listen::Connection;
use super::methods::{bad_request as bad_request_error, is_pro, not_found};
use super::node::{Node, Outcome};
use crate::api::method::Method;
use crate::error::ApiError;

pub(super) async fn respond(node: &Node, headers: &HeaderMap, body: &Bytes, connection: &Connection) -> Page {
    if body.is_empty() {
        return bad_request();
    }
    let mended = std::str::from_utf8(body).is_err().then(|| mend(body));
    let body = mended.as_deref().unwrap_or(body);
    let mut replies: Vec<Vec<u8>> = Vec::new();
    for command in serde_json::Deserializer::from_slice(body).into_iter::<Option<Object>>() {
        // The commands before an invalid one are executed nevertheless.
        let Ok(command) = command else { return bad_request() };
        let command = command.unwrap_or_default();
        let (Ok(id), Ok(method)) = (command.read::<u32>("id"), method(&command)) else { return bad_request() };
        let reply = match read(method, &command) {
            Err(error) => field("error", &error_json(&error)),
            Ok(call) => match node.execute(&call, Transport::Http, headers, connection).await {
                Outcome::Unsupported => field("error", &error_json(&not_found())),
                Outcome::Reply(reply) => match reply.json() {
                    // An object with the error or the result, to which the id is added in front.
                    Ok(json) => json[1..].to_vec(),
                    Err(_) => return internal_error(),
                },
                other => return instead(other),
            },
        };
        let start = if id == 0 { "{".to_owned() } else { format!("{{\"id\":{id},") };
        replies.push([start.as_bytes(), &reply].concat());
    }
    page(StatusCode::OK, Some("application/json"), replies.join(&b'\n'))
}

/// The rest of an object whose first brace is open.
fn field(name: &str, value: &[u8]) -> Vec<u8> {
    super::call::wrap(name, value)[1..].to_vec()
}

/// The method that a command names, in any case, or by its number. Without a method it publishes.
fn method(command: &Object) -> Result<Option<Method>, NotAccepted> {
    /// The numbers of the methods. The server knows no others.
    const NUMBERS: [(i64, Method); 20] = [
        (0, Method::Publish),
        (1, Method::Broadcast),
        (2, Method::Unsubscribe),
        (3, Method::Disconnect),
        (4, Method::Presence),
        (5, Method::PresenceStats),
        (6, Method::History),
        (7, Method::HistoryRemove),
        (8, Method::Channels),
        (9, Method::Info),
        (10, Method::Rpc),
        (11, Method::Subscribe),
        (12, Method::Refresh),
        (33, Method::MapPublish),
        (34, Method::MapRemove),
        (35, Method::MapReadState),
        (36, Method::MapReadStream),
        (37, Method::MapStats),
        (38, Method::MapClear),
        (39, Method::SharedPollPublish),
    ];
    let Some(named) = command.get("method") else { return Ok(Some(Method::Publish)) };
    // The text is compared without decoding its escapes.
    let name = std::str::from_utf8(named).ok().and_then(|named| named.strip_prefix('"')?.strip_suffix('"'));
    if let Some(name) = name {
        return match Method::from_name(&name.to_ascii_lowercase()) {
            Some(Method::Batch) | None => Err(NotAccepted),
            Some(method) => Ok(Some(method).filter(|method| !is_pro(*method))),
        };
    }
    let number: i64 = serde_json::from_slice(named).map_err(|_| NotAccepted)?;
    Ok(NUMBERS.iter().find(|(found, _)| *found == number).map(|(_, method)| *method))
}

fn read(method: Option<Method>, command: &Object) -> Result<Call, ApiError> {
    let method = method.ok_or_else(not_found)?;
    let params = match (command.get("params"), method) {
        (_, Method::Info) => b"{}",
        (Some(params), _) => params,
        (None, _) => return Err(bad_request_error()),
    };
    Call::read(&Json, method, params).map_err(|_| bad_request_error())
}
