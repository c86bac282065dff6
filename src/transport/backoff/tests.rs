//! Bounds and spread of the waits.

use proptest::prelude::*;

use super::*;

const DURATIONS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_secs(2),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

fn durations() -> impl Strategy<Value = Duration> {
    let random = (any::<u64>(), 0..1_000_000_000_u32, 0..64_u32);
    prop_oneof![
        prop::sample::select(&DURATIONS[..]),
        random.prop_map(|(seconds, nanos, shift)| Duration::new(seconds >> shift, nanos)),
        (0..10_000_000_u64).prop_map(Duration::from_micros),
    ]
}

fn attempts() -> impl Strategy<Value = u32> {
    prop_oneof![0..40_u32, any::<u32>(), Just(u32::MAX)]
}

/// The bound of the wait after so many failures, in seconds.
fn bound(failed: u32, first: Duration, longest: Duration) -> f64 {
    f64::min(first.as_secs_f64() * f64::from(failed.max(1) - 1).exp2(), longest.as_secs_f64())
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_wait_is_within_its_bounds(failed in attempts(), first in durations(), longest in durations(), seed: u64) {
        fastrand::seed(seed);
        let wait = retry(failed, first, longest);
        prop_assert!(wait <= longest, "{:?} is over {:?}", wait, longest);
        prop_assert!(wait >= SHORTEST_RETRY.min(longest), "{:?} is no wait", wait);
        prop_assert!(wait > Duration::ZERO || longest == Duration::ZERO);
        let bound = bound(failed, first, longest).max(SHORTEST_RETRY.as_secs_f64());
        prop_assert!(wait.as_secs_f64() <= bound * 1.000_001, "{:?} is over {}", wait, bound);
    }

    #[test]
    fn a_dial_is_within_its_bounds(failed in attempts(), seed: u64) {
        fastrand::seed(seed);
        let wait = dial(failed).as_secs_f64();
        let middle = f64::min(0.1 * 1.6_f64.powf(f64::from(failed.max(1) - 1)), 1.0);
        prop_assert!((middle * 0.799..=middle * 1.201).contains(&wait), "{} beside {}", wait, middle);
    }
}

/// The greatest distance between how `samples` are distributed and a uniform distribution over 0 to 1.
fn distance_from_uniform(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let number = f64::from(u32::try_from(samples.len()).unwrap());
    let steps = (0..).map(|index: u32| (f64::from(index) / number, f64::from(index + 1) / number));
    let distances = samples.iter().zip(steps).map(|(at, (before, after))| (at - before).abs().max((at - after).abs()));
    distances.fold(0.0, f64::max)
}

/// The distance of 1,000 uniform samples is over this once in 100,000 times: sqrt(ln(2 / 1e-5) / 2 / 1000).
const FAR: f64 = 0.0782;

#[test]
fn the_waits_of_many_clients_disperse() {
    for failed in [1, 2, 6, 40] {
        let (first, longest) = (Duration::from_secs(50), Duration::from_secs(2_000));
        let bound = bound(failed, first, longest);
        let waits = (0..1_000).map(|client| {
            fastrand::seed(client);
            // Clients differ in their seeds, and each has drawn numbers before.
            fastrand::u64(..);
            retry(failed, first, longest).as_secs_f64() / bound
        });
        let distance = distance_from_uniform(waits.collect());
        assert!(distance < FAR, "after {failed} failures: {distance}");
    }
}

#[test]
fn the_dials_of_many_clients_disperse() {
    fastrand::seed(7);
    for failed in [1, 5, 1_000] {
        let middle = f64::min(0.1 * 1.6_f64.powf(f64::from(failed - 1)), 1.0);
        let dials = (0..1_000).map(|_| (dial(failed).as_secs_f64() / middle - 0.8) / 0.4);
        let distance = distance_from_uniform(dials.collect());
        assert!(distance < FAR, "after {failed} failures: {distance}");
    }
}

#[test]
fn the_measure_finds_what_is_not_dispersed() {
    fastrand::seed(7);
    assert!(distance_from_uniform((0..1_000).map(|_| fastrand::f64().powi(2)).collect()) > FAR);
    assert!(distance_from_uniform((0..1_000).map(|_| 0.5 + fastrand::f64() / 2.0).collect()) > FAR);
}
