//! Maps HTTP statuses and the causes of failed requests to errors, for both transports.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::error::{ApiError, Error, ErrorKind, Outcome};
use crate::transport::hint;
use crate::wire::reply::Reply;

impl Reply {
    /// Makes a reply of an HTTP response of the server, for a transport of your own over HTTP: its body if the status is 200, or
    /// else the error that the status means.
    ///
    /// # Errors
    ///
    /// As the built-in transport has them: see the guide [errors](crate::guide::errors).
    pub fn from_http(status: u16, body: impl Into<Bytes>) -> Result<Self, Error> {
        let body = body.into();
        match StatusCode::from_u16(status) {
            Ok(StatusCode::OK) => Ok(Self::json(body)),
            Ok(status) => Err(of_http_status(status, &HeaderMap::new(), &body)),
            Err(_) => Err(Error::protocol(format!("{status} is not an HTTP status"))),
        }
    }
}

/// The error that an HTTP status other than 200 means. A test compares it with the table in `docs/errors.md`.
pub(crate) fn of_http_status(status: StatusCode, headers: &HeaderMap, page: &[u8]) -> Error {
    // In the server's transport error mode the API error is the body, and its code decides the status. A proxy's page may look
    // like one, so the status must match.
    if let Ok(api) = serde_json::from_slice::<ApiError>(page)
        && api.http_status().contains(&status.as_u16())
    {
        return Error::from(api).with_hint(hint::of_http(headers)).with_http_status(status.as_u16());
    }
    let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
    let said = |text: &str| format!("the server returned HTTP status {}{reason}{text}", status.as_str());
    let refused = |kind, text| Error::new(kind, said(text)).with_outcome(Outcome::Refused);
    let error = match status.as_u16() {
        401 | 403 => refused(ErrorKind::Unauthenticated, ""),
        400 => refused(ErrorKind::Invalid, ": it could not read the request"),
        404 | 405 => {
            refused(ErrorKind::Unsupported, ": no such method, or the URL is not that of the API, which ends in /api")
        }
        413 => refused(ErrorKind::TooLarge, ""),
        429 => refused(ErrorKind::Unavailable, "").overload(),
        // 520 to 527 are of a CDN that cannot reach the server behind it.
        502 | 503 | 520..=527 => Error::new(ErrorKind::Unavailable, said("")),
        // Proxies also return 408 when the server did not respond in time.
        408 | 504 => Error::new(ErrorKind::Timeout, said("")),
        500 => Error::protocol(said(": if this is a read, the data may not be JSON, which only gRPC returns")),
        300..=399 => refused(ErrorKind::Protocol, ": redirects are not followed; give the URL of the API itself"),
        411 | 415 | 431 => refused(ErrorKind::Protocol, ""),
        _ => Error::protocol(said("")),
    };
    error.with_hint(hint::of_http(headers)).with_http_status(status.as_u16())
}

/// Whether the cause proves that the server did not process the request: it said so, or the request was never sent.
pub(crate) fn never_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    #[cfg(feature = "http")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return error.is_canceled();
    }
    error.downcast_ref::<h2::Error>().is_some_and(|error| {
        // h2 gives a GOAWAY of the server only to streams that it says it did not process.
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// `connect`, marked as untrusted if its cause is a failure of TLS.
pub(crate) fn judge_trust(connect: Error, cause: &(dyn std::error::Error + 'static)) -> Error {
    #[cfg(feature = "tls")]
    if let Some(tls) = std::iter::once(cause)
        .chain(crate::error::causes(cause))
        .find_map(|cause| cause.downcast_ref::<rustls::Error>())
    {
        return connect.and(&format!(": {tls}")).untrusted();
    }
    let _ = cause;
    connect
}

#[cfg(test)]
pub(crate) mod tests;
