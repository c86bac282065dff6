//! Maps HTTP statuses and the causes of failed requests to errors, for both transports.

#[cfg(feature = "tls")]
use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::config::Protocol;
use crate::error::{ApiError, Error, ErrorKind, Outcome};
use crate::transport::hint;
use crate::transport::page::{self, Secrets};
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
            Ok(status) => {
                let refusal = Refusal { protocol: Protocol::Http, status, headers: &HeaderMap::new(), page: &body };
                Err(refusal.error(&Secrets::default()))
            }
            Err(_) => Err(Error::protocol(format!("{status} is not an HTTP status"))),
        }
    }
}

/// A response that failed a call by its HTTP status, over either transport.
pub(crate) struct Refusal<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// As much of the body as was read.
    pub(crate) page: &'a [u8],
}

impl Refusal<'_> {
    /// The error that the status means. A test compares it with the table in `docs/errors.md`.
    pub(crate) fn error(&self, secrets: &Secrets) -> Error {
        let Self { status, headers, .. } = *self;
        // In the server's transport error mode the API error is the body, and its code decides the status. A proxy's page may look
        // like one, so the status must match.
        if let Ok(api) = serde_json::from_slice::<ApiError>(self.page)
            && api.http_status().contains(&status.as_u16())
        {
            return Error::from(api).with_hint(hint::of_http(headers)).with_http_status(status.as_u16());
        }
        let page = self.page_text(secrets);
        let error = self.meaning(page.as_deref());
        self.with_page(error, page).with_hint(hint::of_http(headers)).with_http_status(status.as_u16())
    }

    /// The error of a response with the status 200 that is something else than what was asked for.
    #[cfg(feature = "grpc")]
    pub(crate) fn of_success(&self, what: &'static str, secrets: &Secrets) -> Error {
        self.with_page(Error::protocol(what), self.page_text(secrets))
    }

    fn page_text(&self, secrets: &Secrets) -> Option<String> {
        if content_encoding(self.headers).is_some() { None } else { page::text_of(self.page, secrets) }
    }

    fn with_page(&self, error: Error, page: Option<String>) -> Error {
        let error = match (content_encoding(self.headers), &page) {
            (Some(encoding), _) => {
                error.and(&format!(", with a page that has the `content-encoding` {encoding}, which was not asked for"))
            }
            (None, Some(page)) if !self.is_of_server(page) => {
                error.and(&format!(", with the page \"{}\"", page::short(page)))
            }
            _ => error,
        };
        error.with_page(page)
    }

    fn meaning(&self, page: Option<&str>) -> Error {
        let status = self.status;
        let said = |who: &str, text: &str| {
            let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
            format!("{who} returned HTTP status {}{reason}{text}", status.as_str())
        };
        let refused_by = |who, kind, text| Error::new(kind, said(who, text)).with_outcome(Outcome::Refused);
        let refused = |kind, text| refused_by("the server", kind, text);
        let says = |text: &str| page.is_some_and(|page| page.contains(text));
        let is_of_server = page.is_none_or(|page| self.is_of_server(page));
        let is_grpc = self.protocol == Protocol::Grpc;
        match status.as_u16() {
            400 if says("HTTP request was sent to HTTPS") || says("HTTP request to an HTTPS server") => {
                refused(ErrorKind::Connect, ": this port speaks TLS; give the endpoint as https://").wrong_scheme()
            }
            // 495 and 496 are nginx's own, which it sends as 400.
            400 | 495 | 496 if status != StatusCode::BAD_REQUEST || says("SSL certificate") => {
                let what = ": it wants a client certificate, and got none that it accepts";
                refused_by("a proxy", ErrorKind::Unauthenticated, what).no_client_certificate()
            }
            401 | 403 if !is_of_server => {
                refused_by("something in front of the server", ErrorKind::Unauthenticated, "").intercepted()
            }
            401 | 403 => refused(ErrorKind::Unauthenticated, ""),
            400 if is_of_server => refused(ErrorKind::Invalid, ": it could not read the request"),
            400 => refused(ErrorKind::Invalid, ""),
            404 | 405 | 415 if is_grpc => {
                let kind = if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                    ErrorKind::Protocol
                } else {
                    ErrorKind::Unsupported
                };
                refused(kind, ": is this the port of the server's gRPC API?")
            }
            404 | 405 => refused(
                ErrorKind::Unsupported,
                ": no such method, or the URL is not that of the API, which ends in /api",
            ),
            415 => refused(ErrorKind::Protocol, ": is this the port of the server's HTTP API?"),
            413 => refused(ErrorKind::TooLarge, ""),
            429 => refused(ErrorKind::Unavailable, "").overload(),
            // 520 to 527 are of a CDN that cannot reach the server behind it.
            502 | 503 | 520..=527 => Error::new(ErrorKind::Unavailable, said("the server", "")),
            // Proxies also return 408 when the server did not respond in time.
            408 | 504 => Error::new(ErrorKind::Timeout, said("the server", "")),
            500 if is_of_server && !is_grpc => {
                let text = ": if this is a read, the data may not be JSON, which only gRPC returns";
                Error::protocol(said("the server", text))
            }
            300..=399 => refused(ErrorKind::Protocol, ": redirects are not followed; give the URL of the API itself"),
            411 | 431 => refused(ErrorKind::Protocol, ""),
            _ => Error::protocol(said("the server", "")),
        }
    }

    /// Whether the page may be Centrifugo's, whose pages are the name of the status or empty.
    fn is_of_server(&self, page: &str) -> bool {
        let reason = self.status.canonical_reason().unwrap_or_default();
        page.eq_ignore_ascii_case(reason) || (self.status == StatusCode::NOT_FOUND && page == "404 page not found")
    }
}

/// The `content-encoding` of a response, if it has one. None is ever asked for.
pub(crate) fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(http::header::CONTENT_ENCODING)?;
    let name = encoding.to_str().unwrap_or_default().trim();
    let is_name = !name.is_empty() && name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_graphic());
    (!name.eq_ignore_ascii_case("identity"))
        .then(|| if is_name { format!("`{name}`") } else { "of no name".to_owned() })
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

/// `connect`, marked as what its cause proves: TLS has failed, or this process has no file descriptor or port for a connection.
pub(crate) fn judge_connect(connect: Error, cause: &(dyn std::error::Error + 'static)) -> Error {
    let chain = || std::iter::once(cause).chain(crate::error::causes(cause));
    #[cfg(feature = "tls")]
    if let Some(tls) = chain().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        if matches!(tls, rustls::Error::InvalidMessage(_)) {
            let what = "this port does not speak TLS; give the endpoint as http://";
            return Error::new(ErrorKind::Connect, what).wrong_scheme();
        }
        return connect.and(&format!(": {}", why_untrusted(tls))).untrusted();
    }
    let lacks = chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).find_map(lacks);
    match lacks {
        Some(what) => connect.and(": ").and(what).local(),
        None => connect,
    }
}

/// What is wrong in TLS, in words that are the same whenever it is tried: rustls tells the time for a certificate that has expired.
#[cfg(feature = "tls")]
fn why_untrusted(error: &rustls::Error) -> Cow<'static, str> {
    use rustls::CertificateError::{ExpiredContext, ExpiredRevocationListContext, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(ExpiredContext { .. }) => "the certificate has expired".into(),
        rustls::Error::InvalidCertificate(NotValidYetContext { .. }) => "the certificate is not valid yet".into(),
        rustls::Error::InvalidCertificate(ExpiredRevocationListContext { .. }) => {
            "the revocation list has expired".into()
        }
        other => other.to_string().into(),
    }
}

/// What this side lacks for a connection, if that is the cause.
fn lacks(error: &io::Error) -> Option<&'static str> {
    // The same numbers on all systems of the Unix family; the last is of Windows.
    const EMFILE: [i32; 2] = [24, 10_024];
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(code) if EMFILE.contains(&code) => Some("this process has no file descriptor left (EMFILE)"),
        Some(ENFILE) => Some("this machine has no file descriptor left (ENFILE)"),
        _ if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Some("this machine has no address or port left for it (EADDRNOTAVAIL)")
        }
        _ if error.kind() == io::ErrorKind::OutOfMemory => Some("this machine has no memory left for it (ENOMEM)"),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
