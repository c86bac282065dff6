//! What an endpoint has shown: how long its responses usually take, and since when it has been silent.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What is usual at an endpoint that has not responded yet. A call that waits twice as long has timed out.
const UNKNOWN: Duration = Duration::from_millis(100);
/// An endpoint with calls in flight is silent after this many times its usual response time, and no earlier than the shortest time,
/// which is longer than the pauses of a healthy server.
const SILENT: u32 = 4;
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
/// Deadlines under so many times the usual response time are no sign against an endpoint.
const TIMED_OUT: u32 = 2;
/// One of so many response times is measured: reading the clock costs more than all else here.
const SAMPLED: u64 = 8;
/// The weights of a new response time in the mean and in the deviation, as in RFC 6298, and the deviations added to the mean.
const MEAN: u64 = 8;
const DEVIATION: u64 = 4;
const DEVIATIONS: u64 = 4;

/// The responses of one endpoint. Concurrent updates may lose one, which changes little.
#[derive(Debug)]
pub(super) struct Pulse {
    epoch: Instant,
    in_flight: AtomicUsize,
    /// When the first of the calls in flight began, when the first call after the last response began, and when that came, in
    /// nanoseconds since `epoch`.
    busy_since: AtomicU64,
    asked: AtomicU64,
    heard: AtomicU64,
    /// The mean of the response times in nanoseconds, and how much they differ from it. 0: none yet.
    mean: AtomicU64,
    deviation: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        let (in_flight, busy_since, asked, heard, mean, deviation) = <_>::default();
        Self { epoch: Instant::now(), in_flight, busy_since, asked, heard, mean, deviation }
    }

    /// A time as nanoseconds since `epoch`.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a call that begins, at a time in nanoseconds since `epoch`.
    pub(super) fn begin(&self, now: u64) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy_since.store(now, Ordering::Relaxed);
        }
        if self.heard.load(Ordering::Relaxed) >= self.asked.load(Ordering::Relaxed) {
            self.asked.store(now, Ordering::Relaxed);
        }
    }

    /// Counts a call that ends.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records a response to a call that began then, and measures some. As its time counts when the call began, which is late enough.
    pub(super) fn respond(&self, began: u64) {
        self.heard.fetch_max(began, Ordering::Relaxed);
        if began.is_multiple_of(SAMPLED) || self.mean.load(Ordering::Relaxed) == 0 {
            self.measure(self.nanos(Instant::now()).saturating_sub(began).max(1));
        }
    }

    fn measure(&self, took: u64) {
        let mean = self.mean.load(Ordering::Relaxed);
        if mean == 0 {
            self.mean.store(took, Ordering::Relaxed);
            self.deviation.store(took / 2, Ordering::Relaxed);
            return;
        }
        let deviation = self.deviation.load(Ordering::Relaxed);
        self.deviation.store(deviation - deviation / DEVIATION + mean.abs_diff(took) / DEVIATION, Ordering::Relaxed);
        self.mean.store((mean - mean / MEAN + took / MEAN).max(1), Ordering::Relaxed);
    }

    /// How long a response takes at most, usually. `None` if there was none.
    pub(super) fn usual(&self) -> Option<Duration> {
        match self.mean.load(Ordering::Relaxed) {
            0 => None,
            mean => Some(Duration::from_nanos(mean + DEVIATIONS * self.deviation.load(Ordering::Relaxed))),
        }
    }

    /// After what time without a response the endpoint counts as silent.
    pub(super) fn patience(&self) -> Duration {
        self.usual().unwrap_or(UNKNOWN).saturating_mul(SILENT).max(SHORTEST_SILENCE)
    }

    /// Whether there has been no response for an unusually long time, though calls are in flight.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.in_flight() > 0 && self.is_unheard(self.busy_since.load(Ordering::Relaxed), now)
    }

    /// Whether there has been no response for an unusually long time to a call that began then.
    pub(super) fn is_silent_since(&self, began: u64, now: Instant) -> bool {
        self.is_unheard(began, now)
    }

    /// Whether there has been no response for an unusually long time, to one call after the other.
    pub(super) fn has_fallen_silent(&self, now: Instant) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        self.heard.load(Ordering::Relaxed) <= asked && self.is_unheard(asked, now)
    }

    fn is_unheard(&self, began: u64, now: Instant) -> bool {
        let since = began.max(self.heard.load(Ordering::Relaxed));
        self.nanos(now).saturating_sub(since) >= nanos(self.patience())
    }

    /// Whether a call that has waited for so long says something about the endpoint.
    pub(super) fn is_timeout(&self, waited: Duration) -> bool {
        waited >= self.usual().unwrap_or(UNKNOWN).saturating_mul(TIMED_OUT)
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Responses that took so long.
    fn responding(took: Duration) -> Pulse {
        let pulse = Pulse::new();
        (0..100).for_each(|_| pulse.measure(nanos(took)));
        pulse
    }

    #[test]
    fn the_usual_time_follows_the_responses() {
        assert_eq!(Pulse::new().usual(), None);
        let pulse = responding(10 * MS);
        assert!((10 * MS..12 * MS).contains(&pulse.usual().unwrap()), "{:?}", pulse.usual());
        (0..100).for_each(|_| pulse.measure(nanos(MS)));
        assert!((MS..3 * MS).contains(&pulse.usual().unwrap()), "{:?}", pulse.usual());
        pulse.measure(nanos(Duration::from_secs(u64::from(u32::MAX))));
        assert!(pulse.usual().unwrap() > 100 * MS);
    }

    #[test]
    fn an_endpoint_is_silent_only_with_a_call_in_flight_and_after_its_usual_time() {
        let (pulse, now) = (responding(100 * MS), Instant::now());
        let at = |ms: u32| pulse.nanos(now + ms * MS);
        assert!(!pulse.is_silent(now + 10_000 * MS), "nothing is asked of it");
        pulse.begin(at(1_000));
        assert!(!pulse.is_silent(now + 1_300 * MS));
        assert!(pulse.is_silent(now + 1_600 * MS));
        pulse.respond(at(1_500));
        assert!(!pulse.is_silent(now + 1_700 * MS));
        pulse.end();
        assert!(!pulse.is_silent(now + 10_000 * MS));
    }

    #[test]
    fn calls_that_follow_each_other_without_a_response_are_one_silence() {
        let (pulse, now) = (responding(100 * MS), Instant::now());
        for start in [1_000_u32, 1_100, 1_200] {
            pulse.begin(pulse.nanos(now + start * MS));
            assert!(!pulse.has_fallen_silent(now + (start + 50) * MS));
            pulse.end();
        }
        assert!(pulse.has_fallen_silent(now + 1_600 * MS));
        pulse.respond(pulse.nanos(now + 1_550 * MS));
        assert!(!pulse.has_fallen_silent(now + 1_600 * MS));
    }

    #[test]
    fn a_deadline_near_the_usual_time_is_no_sign() {
        assert!(!Pulse::new().is_timeout(20 * MS) && Pulse::new().is_timeout(200 * MS), "before it has responded");
        let pulse = responding(100 * MS);
        assert!(!pulse.is_timeout(150 * MS) && pulse.is_timeout(300 * MS));
    }
}
