//! Backoff: how long to wait before another attempt or dial.

use std::time::Duration;

/// The shortest wait before a repeat.
const SHORTEST_RETRY: Duration = Duration::from_millis(5);
/// The wait before the next dial grows from 100 ms by 1.6 up to a second, so that a server that is back is soon found.
const FIRST_DIAL: Duration = Duration::from_millis(100);
const LONGEST_DIAL: Duration = Duration::from_secs(1);
const GROWTH: f64 = 1.6;
const SPREAD: f64 = 0.2;

/// The wait before the next attempt of a call after `failed` ones: full jitter, up to a bound that doubles from `first` to
/// `longest`. See <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
pub(crate) fn retry(failed: u32, first: Duration, longest: Duration) -> Duration {
    let bound = first.saturating_mul(1 << failed.saturating_sub(1).min(30)).min(longest);
    bound.mul_f64(fastrand::f64()).max(SHORTEST_RETRY.min(longest))
}

/// The wait before the next dial after `failed` ones in a row.
pub(crate) fn dial(failed: u32) -> Duration {
    // The wait stops growing long before 64.
    let growths = i32::try_from(failed.saturating_sub(1).min(64)).unwrap_or_default();
    spread(LONGEST_DIAL.min(FIRST_DIAL.mul_f64(GROWTH.powi(growths))))
}

/// The wait until an endpoint's backoff is over, and a few milliseconds so that not all calls come at once.
pub(crate) fn ready(wait: Duration) -> Duration {
    wait + SHORTEST_RETRY.mul_f64(fastrand::f64())
}

/// The wait before a call that the server did not process is sent again, for the `number`th time: none at first, as the connection
/// only ended.
pub(crate) fn resend(number: u32) -> Duration {
    const AT_ONCE: u32 = 3;
    const LONGEST: Duration = Duration::from_millis(100);
    if number <= AT_ONCE { Duration::ZERO } else { retry(number - AT_ONCE, SHORTEST_RETRY, LONGEST) }
}

/// Adds jitter of up to a fifth more or less, so that clients do not act in step.
pub(crate) fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + SPREAD * (2.0 * fastrand::f64() - 1.0))
}

#[cfg(test)]
mod tests;
