//! How long the server takes for a request, to tell which commands would get no response in time.

use std::time::Duration;

use tokio::time::Instant;

/// The server is slow only if it took long for so many requests, one after the other. A single one in less time ends that.
const REQUESTS: usize = 4;

/// The response times of the engine's last requests.
#[derive(Debug, Default)]
pub(super) struct ResponseTimes {
    last: [Duration; REQUESTS],
    next: usize,
    /// When they are too old, so that a request must be sent to know more.
    until: Option<Instant>,
}

impl ResponseTimes {
    pub(super) fn note(&mut self, took: Duration, now: Instant) {
        self.last[self.next] = took;
        self.next = (self.next + 1) % REQUESTS;
        self.until = now.checked_add(2 * self.least());
    }

    fn least(&self) -> Duration {
        self.last.into_iter().min().unwrap_or_default()
    }

    /// How long the next request takes, with a quarter for what varies. Zero if that is not known.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        if self.until.is_some_and(|until| now < until) { self.least() * 5 / 4 } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_is_slow_after_four_slow_responses_and_until_a_fast_one() {
        let (now, mut times) = (Instant::now(), ResponseTimes::default());
        for _ in 0..REQUESTS {
            assert_eq!(times.expected(now), Duration::ZERO);
            times.note(SECOND, now);
        }
        times.note(3 * SECOND, now);
        assert_eq!(times.expected(now), SECOND * 5 / 4);
        times.note(SECOND / 100, now);
        assert_eq!(times.expected(now), SECOND / 80);
    }

    #[test]
    fn response_times_are_forgotten_when_no_response_comes() {
        let (now, mut times) = (Instant::now(), ResponseTimes::default());
        for _ in 0..REQUESTS {
            times.note(SECOND, now);
        }
        assert_eq!(times.expected(now + 2 * SECOND - Duration::from_millis(1)), SECOND * 5 / 4);
        assert_eq!(times.expected(now + 2 * SECOND), Duration::ZERO);
    }
}
