//! Which endpoint is picked.

use std::sync::Barrier;
use std::thread;

use super::*;
use crate::transport::from_fn;

fn fake() -> Box<dyn Transport> {
    Box::new(from_fn("fake", |_| std::future::ready(Ok(Reply::json("")))))
}

/// Balances over two endpoints, the first of which has failed to connect a minute ago.
fn first_is_due(number: usize) -> (Balancer, Instant) {
    let transports = std::iter::repeat_with(fake).take(number).collect();
    let balancer = Balancer::new(transports, LoadBalancing::Priority, 0, false);
    let (past, now) = (Instant::now(), Instant::now() + Duration::from_secs(60));
    let facts = Facts { now: past, silent: false, others_well: false };
    balancer.endpoints[0].note(Sign::Unreachable, false, facts, &balancer);
    (balancer, now)
}

#[test]
fn the_only_endpoint_gets_calls_during_its_trial() {
    let (balancer, now) = first_is_due(1);
    assert_eq!(balancer.pick(&[], NO_ENDPOINT, now), Some((0, true)));
    assert_eq!(balancer.pick(&[], NO_ENDPOINT, now), Some((0, false)));
    // After the trial fails to connect, it gets no calls.
    let facts = Facts { now, silent: false, others_well: false };
    balancer.endpoints[0].note(Sign::Unreachable, true, facts, &balancer);
    assert_eq!(balancer.pick(&[], NO_ENDPOINT, now), None);
}

#[tokio::test]
async fn calls_stay_with_another_endpoint_during_a_trial() {
    let (balancer, now) = first_is_due(2);
    for _ in 0..3 {
        assert_eq!(balancer.pick(&[], NO_ENDPOINT, now), Some((1, false)));
        assert_eq!(balancer.endpoints[0].standing(now), Standing::OnTrial);
    }
    // Until the trial, which runs in the background, has succeeded.
    while balancer.endpoints[0].standing(now) != Standing::In {
        tokio::task::yield_now().await;
    }
    assert_eq!(balancer.pick(&[], NO_ENDPOINT, now), Some((0, false)));
}

#[test]
fn of_concurrent_calls_exactly_one_is_the_trial() {
    const CALLS: usize = 4;
    for _ in 0..500 {
        let (balancer, now) = first_is_due(1);
        let together = Barrier::new(CALLS);
        let pick = || {
            together.wait();
            balancer.pick(&[], NO_ENDPOINT, now)
        };
        let picked: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(pick)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(picked.iter().filter(|picked| **picked == Some((0, true))).count(), 1, "{picked:?}");
        assert_eq!(picked.iter().filter(|picked| **picked == Some((0, false))).count(), CALLS - 1, "{picked:?}");
    }
}

#[test]
fn the_backoff_of_an_endpoint_ends_when_the_last_other_one_is_left_out() {
    let transports = vec![fake(), fake()];
    let balancer = Balancer::new(transports, LoadBalancing::LeastBusy, 0, false);
    let now = Instant::now();
    let facts = Facts { now, silent: false, others_well: false };
    balancer.endpoints[0].note(Sign::Unreachable, false, facts, &balancer);
    assert!(matches!(balancer.endpoints[0].standing(now), Standing::Out(_)));
    balancer.endpoints[1].note(Sign::Unreachable, false, facts, &balancer);
    assert_eq!(balancer.endpoints[0].standing(now), Standing::Due);
    assert_eq!(balancer.pick(&[1], NO_ENDPOINT, now), Some((0, true)));
}

#[test]
fn a_silent_endpoint_gets_no_call_while_another_one_responds() {
    for load_balancing in [LoadBalancing::Priority, LoadBalancing::LeastBusy] {
        let balancer = Balancer::new(vec![fake(), fake()], load_balancing, 0, false);
        let now = Instant::now();
        let at = balancer.endpoints[0].pulse.nanos(now);
        balancer.endpoints[0].pulse.begin(at);
        let later = now + Duration::from_millis(500);
        for _ in 0..20 {
            assert_eq!(balancer.pick(&[], NO_ENDPOINT, later), Some((1, false)), "{load_balancing:?}");
        }
        balancer.endpoints[1].pulse.begin(at);
        assert!(balancer.pick(&[], NO_ENDPOINT, later).is_some(), "if all are silent, they are tried");
    }
}
