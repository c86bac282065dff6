//! HTTP statuses with any body.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::error::RetryAfter;

/// The rows of `docs/errors.md`: their cells.
pub(crate) fn table() -> impl Iterator<Item = [&'static str; 4]> {
    include_str!("../../../docs/errors.md").lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        <[_; 4]>::try_from(cells).ok()
    })
}

/// The kind and the outcome as the table writes them.
pub(crate) fn in_words(error: &Error) -> [String; 2] {
    [format!("{:?}", error.kind()), error.outcome().name().replace('_', " ")]
}

/// The error over HTTP.
fn of_http_status(status: StatusCode, headers: &HeaderMap, page: &[u8]) -> Error {
    Refusal { protocol: Protocol::Http, status, headers, page }.error(&Secrets::default())
}

#[test]
fn statuses_mean_what_the_table_says() {
    let rows: Vec<_> =
        table().filter_map(|[_, status, kind, outcome]| Some((status.parse().ok()?, kind, outcome))).collect();
    assert!(rows.len() >= 12, "{rows:?}");
    for (status, kind, outcome) in rows {
        let error = of_http_status(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b"");
        assert_eq!(in_words(&error), [kind, outcome], "{status}");
    }
}

#[test]
fn the_body_of_a_gateway_is_not_taken_for_an_api_error() {
    let meant = |page: &str| of_http_status(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), page.as_bytes());
    for code in [400, 500, 502, 599] {
        let error = meant(&format!(r#"{{"code":{code},"message":"Internal Server Error"}}"#));
        assert_eq!((error.kind(), error.http_status()), (ErrorKind::Protocol, Some(500)), "{code}");
    }
    for page in [
        r#"{"code":13,"message":"internal","details":[]}"#,
        r#"{"code":100}"#,
        r#"{"code":500}"#,
        r#"{"code":600,"message":""}"#,
    ] {
        assert_eq!(meant(page).kind(), ErrorKind::Protocol, "{page}");
    }
    for code in [100, 399, 600] {
        assert_eq!(meant(&format!(r#"{{"code":{code},"message":"the API's"}}"#)).code(), Some(code));
    }
}

#[cfg(feature = "tls")]
#[test]
fn the_time_is_not_in_the_text_of_a_certificate_that_is_not_valid_now() {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let at = |seconds| rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let told = |certificate| {
        let cause = io::Error::other(rustls::Error::InvalidCertificate(certificate));
        judge_connect(Error::new(ErrorKind::Connect, "no connection could be made"), &cause).message().to_owned()
    };
    let expired = |now| told(ExpiredContext { time: at(now), not_after: at(5) });
    let not_yet = |now| told(NotValidYetContext { time: at(now), not_before: at(50) });
    assert_eq!((expired(10), not_yet(10)), (expired(11), not_yet(11)));
    assert!(expired(10).ends_with("the certificate has expired"), "{}", expired(10));
}

fn pages() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (prop_oneof![95..115_u32, any::<u32>()], any::<bool>()).prop_map(|(code, temporary)| {
            format!(r#"{{"code":{code},"message":"scripted","temporary":{temporary}}}"#).into_bytes()
        }),
    ]
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_status_never_means_not_sent(
        status in 100..1_000_u16,
        page in pages(),
        retry_after in prop_oneof!["[0-9]{0,25}", "[ -~]{0,30}"],
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = HeaderMap::from_iter([(
            http::header::RETRY_AFTER,
            HeaderValue::from_str(&retry_after).unwrap(),
        )]);
        let error = of_http_status(status, &headers, &page);
        prop_assert!(matches!(error.outcome(), Outcome::Refused | Outcome::Unknown), "{:?}", error);
        if error.kind() == ErrorKind::Api {
            let said = serde_json::from_slice::<ApiError>(&page).unwrap();
            prop_assert_eq!(error.api(), Some(&said));
            prop_assert_eq!(error.outcome() == Outcome::Refused, said.is_refusal());
            prop_assert_ne!(said.code, 0);
        } else if status.is_server_error() {
            prop_assert_eq!(error.outcome(), Outcome::Unknown);
        }
        if error.outcome() == Outcome::Refused {
            prop_assert!(!status.is_success() && !status.is_informational());
        }
        let seconds = retry_after.trim().parse().ok();
        let seconds = seconds.map(|seconds| RetryAfter::Wait(std::time::Duration::from_secs(seconds)));
        prop_assert!(seconds.is_none() || error.hint() == seconds);
        prop_assert_ne!(error.hint(), Some(RetryAfter::Never));
        // Whatever it says, it can be told.
        prop_assert!(!error.with_context("publish".into(), "http", None).to_string().is_empty());
    }
}
