//! The server's hints about when to retry.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::error::RetryAfter;

/// `Retry-After`: seconds, or a date.
pub(super) fn of_http(headers: &HeaderMap) -> Option<RetryAfter> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date in the past means no wait.
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(RetryAfter::Wait(wait))
}

/// `grpc-retry-pushback-ms`: milliseconds; a negative value or one that is not a number forbids a retry.
/// See <https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback>.
#[cfg(feature = "grpc")]
pub(super) fn of_pushback(text: &[u8]) -> RetryAfter {
    let milliseconds = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    milliseconds.map_or(RetryAfter::Never, |milliseconds| RetryAfter::Wait(Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(value: &str) -> Option<RetryAfter> {
        of_http(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(http("7"), Some(RetryAfter::Wait(Duration::from_secs(7))));
        assert_eq!(http("Wed, 21 Oct 2015 07:28:00 GMT"), Some(RetryAfter::Wait(Duration::ZERO)));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let Some(RetryAfter::Wait(wait)) = http(&later) else { panic!("{later} is not understood") };
        assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
        for nonsense in ["", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(http(nonsense), None, "{nonsense}");
        }
        assert_eq!(of_http(&HeaderMap::new()), None);
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn a_negative_pushback_forbids_a_retry() {
        assert_eq!(of_pushback(b"250"), RetryAfter::Wait(Duration::from_millis(250)));
        for never in ["-1", "", "soon", "1.5"] {
            assert_eq!(of_pushback(never.as_bytes()), RetryAfter::Never, "{never}");
        }
        assert_eq!(of_pushback(b"\xff"), RetryAfter::Never);
    }
}
