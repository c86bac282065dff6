//! How long to wait before another try.

use std::time::Duration;

/// No repeat follows sooner.
const SHORTEST_RETRY: Duration = Duration::from_millis(5);

/// Before the next attempt of a call, when so many have failed: anything up to a bound that doubles from `first` to
/// `longest`. See <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
pub(crate) fn retry(failed: u32, first: Duration, longest: Duration) -> Duration {
    let bound = first.saturating_mul(1 << failed.saturating_sub(1).min(30)).min(longest);
    bound.mul_f64(fastrand::f64()).max(SHORTEST_RETRY.min(longest))
}

#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) use of_endpoints::{dial, spread};

#[cfg(any(feature = "grpc", feature = "http"))]
mod of_endpoints {
    use std::time::Duration;

    /// Before the next dial: 100 ms, growing by 1.6, up to 10 s.
    const FIRST_DIAL: Duration = Duration::from_millis(100);
    const LONGEST_DIAL: Duration = Duration::from_secs(10);
    const GROWTH: f64 = 1.6;
    /// How far waits that many clients begin together are spread.
    const SPREAD: f64 = 0.2;

    /// Before the next dial, when so many in a row have failed.
    pub(crate) fn dial(failed: u32) -> Duration {
        // Far beyond where it stops to grow.
        let growths = i32::try_from(failed.saturating_sub(1).min(64)).unwrap_or_default();
        spread(LONGEST_DIAL.min(FIRST_DIAL.mul_f64(GROWTH.powi(growths))))
    }

    /// `wait`, a fifth more or less.
    pub(crate) fn spread(wait: Duration) -> Duration {
        wait.mul_f64(1.0 + SPREAD * (2.0 * fastrand::f64() - 1.0))
    }
}

#[cfg(test)]
mod tests;
