//! The API over HTTP: paths, keys, pages.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::call::{Batch, Call, Command, Format, error_json};
use super::fault::{Kind, Transport};
use super::json::{self, NotAccepted, Object};
use super::legacy;
use super::listen::{Connection, Io};
use super::methods::is_pro;
use super::node::{Node, Outcome};
use crate::api::method::Method;
use crate::api::request;
use crate::error::ApiError;

pub(super) type Page = Response<Full<Bytes>>;

/// Serves a connection.
pub(super) async fn serve(node: Arc<Node>, io: Io, connection: Connection) {
    let service = service_fn(|request| {
        let (node, connection) = (Arc::clone(&node), connection.clone());
        async move { Ok::<_, Infallible>(respond(&node, request, &connection).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        // A client may close its side after the request.
        .half_close(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    let mut served = pin!(served);
    tokio::select! {
        // The client sees a broken connection by itself.
        _ = served.as_mut() => return,
        () = connection.drained() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

async fn respond(node: &Node, request: Request<Incoming>, connection: &Connection) -> Page {
    let uri = request.uri();
    if let Some(clean) = clean(uri.path()) {
        return redirect(&request, &clean);
    }
    let method = match percent_decode(uri.path()).as_str() {
        "/health" => return page(StatusCode::OK, Some("application/json"), "{}"),
        "/api" => None,
        path => {
            let method = path.strip_prefix("/api/").and_then(Method::from_name);
            // A method of PRO is found only if a fault matches it.
            match method.filter(|method| !is_pro(*method) || node.faults.any_matches(*method, Transport::Http)) {
                Some(method) => Some(method),
                None => return not_found(),
            }
        }
    };
    if request.method() != http::Method::POST {
        return page(StatusCode::METHOD_NOT_ALLOWED, None, "");
    }
    if !may_call(node, request.headers(), uri.query()) {
        return page(StatusCode::UNAUTHORIZED, None, "");
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return internal_error() };
    let body = body.to_bytes();
    if body.len() > node.max_http_body {
        return page(StatusCode::PAYLOAD_TOO_LARGE, None, "");
    }
    let Some(method) = method else { return legacy::respond(node, &head.headers, &body, connection).await };

    let Ok(call) = Call::read(&Json, method, &body) else { return bad_request() };
    match node.execute(&call, Transport::Http, &head.headers, connection).await {
        Outcome::Unsupported => not_found(),
        Outcome::Reply(reply) => match reply.error() {
            Some(error) if node.transport_errors || asks_for_transport_errors(&head.headers) => {
                page(status_of(error), Some("application/json"), error_json(error))
            }
            _ => match reply.json() {
                Ok(json) => page(StatusCode::OK, Some("application/json"), json),
                Err(_) => internal_error(),
            },
        },
        other => instead(other),
    }
}

/// The page of an outcome that is not a reply.
pub(super) fn instead(outcome: Outcome) -> Page {
    match outcome {
        Outcome::Raw(bytes) => page(StatusCode::OK, Some("application/json"), bytes),
        Outcome::Status(Kind::HttpStatus { code, headers, body }) => {
            let mut page = page(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), None, body);
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
                    page.headers_mut().append(name, value);
                }
            }
            page
        }
        _ => internal_error(),
    }
}

fn asks_for_transport_errors(headers: &HeaderMap) -> bool {
    headers.get("x-centrifugo-error-mode").is_some_and(|mode| mode == "transport")
}

fn status_of(error: &ApiError) -> StatusCode {
    match error.code {
        ApiError::UNKNOWN_CHANNEL | ApiError::NOT_FOUND => StatusCode::NOT_FOUND,
        ApiError::BAD_REQUEST | ApiError::NOT_AVAILABLE => StatusCode::BAD_REQUEST,
        ApiError::UNRECOVERABLE_POSITION => StatusCode::RANGE_NOT_SATISFIABLE,
        ApiError::CONFLICT => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether the key is right. The header of its own takes precedence over `authorization`, and that over the query.
fn may_call(node: &Node, headers: &HeaderMap, query: Option<&str>) -> bool {
    let Some(key) = &node.keys.http else { return true };
    if key.is_empty() {
        return false;
    }
    let given = |value: &HeaderValue| value.as_bytes() == key.as_bytes();
    let by_header = match headers.get("x-api-key").filter(|value| !value.is_empty()) {
        Some(value) => given(value),
        None => headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let mut words = value.split_whitespace();
            let scheme = words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("apikey"));
            scheme && words.next() == Some(key) && words.next().is_none()
        }),
    };
    by_header
        || url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .find(|(name, _)| name == "api_key")
            .is_some_and(|(_, value)| value == *key)
}

/// Percent-decodes the path.
fn percent_decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            out.push(byte);
            out.extend(&part.as_bytes()[2..]);
        } else {
            out.push(b'%');
            out.extend(part.as_bytes());
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path without empty and dotted segments, if it has any.
fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    (clean != path && path.starts_with('/')).then_some(clean)
}

fn redirect(request: &Request<Incoming>, path: &str) -> Page {
    let location = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut page = match *request.method() {
        http::Method::GET | http::Method::HEAD => page(
            StatusCode::TEMPORARY_REDIRECT,
            Some("text/html; charset=utf-8"),
            format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", location.replace('&', "&amp;")),
        ),
        _ => page(StatusCode::TEMPORARY_REDIRECT, None, ""),
    };
    if let Ok(location) = location.parse() {
        page.headers_mut().insert(LOCATION, location);
    }
    page
}

pub(super) fn page(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    if let Some(content_type) = content_type {
        page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    page
}

fn text(status: StatusCode, body: &'static str) -> Page {
    let mut page = page(status, Some("text/plain; charset=utf-8"), body);
    page.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    page
}

pub(super) fn bad_request() -> Page {
    text(StatusCode::BAD_REQUEST, "Bad Request\n")
}

fn not_found() -> Page {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

pub(super) fn internal_error() -> Page {
    text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n")
}

/// Requests as JSON.
#[derive(Debug)]
pub(super) struct Json;

impl Format for Json {
    type Error = NotAccepted;

    fn read<R: request::Request>(&self, body: &[u8]) -> Result<R, NotAccepted> {
        json::read(body)
    }

    fn read_batch(&self, body: &[u8]) -> Result<Batch, NotAccepted> {
        let batch: Object = json::read(body)?;
        let mut commands = Vec::new();
        for command in batch.read::<Vec<Option<Object>>>("commands")? {
            commands.push(match command {
                None => Command::Null,
                Some(command) => Command::read(self, |method| {
                    let body = command.get(method.name()).filter(|body| *body != b"null")?;
                    Some(Bytes::copy_from_slice(body))
                })?,
            });
        }
        Ok(Batch { commands, parallel: batch.read("parallel")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded() {
        assert_eq!(percent_decode("/api/%69nfo%2F%zz%"), "/api/info/%zz%");
    }

    #[test]
    fn a_path_is_cleaned_as_the_server_does() {
        assert_eq!(clean("//api/publish").as_deref(), Some("/api/publish"));
        assert_eq!(clean("/api//publish/").as_deref(), Some("/api/publish/"));
        assert_eq!(clean("/a/../api").as_deref(), Some("/api"));
        assert_eq!(clean("/.").as_deref(), Some("/"));
        for path in ["/", "/api", "/api/"] {
            assert_eq!(clean(path), None, "{path}");
        }
    }
}
