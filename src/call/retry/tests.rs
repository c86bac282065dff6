//! Which failures are retried, and what retries cost.

use std::sync::Arc;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::error::ApiError;

const KINDS: &[ErrorKind] = ErrorKind::ALL;
const OUTCOMES: [Outcome; 4] = [Outcome::NotSent, Outcome::Refused, Outcome::Unknown, Outcome::Done];

/// Any duration, from zero to the maximum.
fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        1 => Just(Duration::ZERO),
        1 => Just(Duration::from_secs(u64::MAX)),
        1 => Just(Duration::MAX),
        2 => (0..400_000_u64).prop_map(Duration::from_millis),
        1 => (any::<u64>(), 0..1_000_000_000_u32, 0..64_u32)
            .prop_map(|(seconds, nanos, shift)| Duration::new(seconds >> shift, nanos)),
    ]
}

fn hints() -> impl Strategy<Value = Option<RetryAfter>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(RetryAfter::Never)),
        3 => durations().prop_map(|wait| Some(RetryAfter::Wait(wait))),
    ]
}

prop_compose! {
    fn errors()(
        kind in prop::sample::select(KINDS),
        outcome in prop::option::of(prop::sample::select(&OUTCOMES[..])),
        api in prop::option::of((prop_oneof![Just(0_u32), 98..116_u32, any::<u32>()], any::<bool>())),
        verdict in 0..5_u8,
        hint in hints(),
    ) -> Error {
        let error = match api {
            Some((code, temporary)) => Error::from(ApiError { temporary, ..ApiError::new(code, "scripted") }),
            None => Error::new(kind, "scripted"),
        };
        let error = match outcome {
            Some(outcome) => error.with_outcome(outcome),
            None => error,
        };
        let error = judged(error, verdict);
        match hint {
            Some(RetryAfter::Wait(wait)) => error.with_retry_after(wait),
            hint => error.with_hint(hint),
        }
    }
}

/// Marks an error as a transport does.
#[cfg(all(feature = "grpc", feature = "tls"))]
fn judged(error: Error, verdict: u8) -> Error {
    match verdict {
        0 => error.untrusted(),
        1 => error.no_grpc(),
        2 => error.overload(),
        _ => error,
    }
}

#[cfg(not(all(feature = "grpc", feature = "tls")))]
fn judged(error: Error, _: u8) -> Error {
    error
}

prop_compose! {
    fn retries()(
        attempts in prop_oneof![0..6_u32, any::<u32>(), Just(u32::MAX)],
        first in durations(),
        longest in durations(),
        attempt_timeout in prop::option::of(durations()),
        keys: bool,
        wait: bool,
    ) -> Retry {
        Retry::new()
            .attempts(attempts)
            .backoff(first, longest)
            .attempt_timeout(attempt_timeout)
            .idempotency_keys(keys)
            .wait_for_ready(wait)
    }
}

/// A failed call. `began` is milliseconds before now, `deadline` after now.
#[derive(Clone, Debug)]
struct Case {
    error: Arc<Error>,
    earlier_may_have_run: bool,
    attempts: u32,
    repeatable: bool,
    began: u64,
    deadline: Option<i64>,
    poor: bool,
}

prop_compose! {
    fn cases()(
        error in errors(),
        earlier_may_have_run: bool,
        attempts in prop_oneof![0..6_u32, any::<u32>(), Just(u32::MAX)],
        repeatable: bool,
        began in prop_oneof![Just(0_u64), 0..300_000_u64],
        deadline in prop::option::of(prop_oneof![-1_000..20_000_i64, Just(i64::MAX / 1_000_000)]),
        poor in prop::bool::weighted(0.1),
    ) -> Case {
        Case { error: Arc::new(error), earlier_may_have_run, attempts, repeatable, began, deadline, poor }
    }
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn every_retry_is_allowed_affordable_and_within_the_deadline(retry in retries(), case in cases(), seed: u64) {
        fastrand::seed(seed);
        let Case { error, earlier_may_have_run, attempts, repeatable, poor, .. } = case;
        // An `Instant` cannot be before the start of the clock, which may have been recent.
        let started = Instant::now() + Duration::from_secs(1_000);
        let now = started + Duration::from_millis(case.began);
        let deadline = case.deadline.map(|deadline| match u64::try_from(deadline) {
            Ok(left) => now + Duration::from_millis(left),
            Err(_) => now - Duration::from_millis(deadline.unsigned_abs()),
        });
        let may_have_run = earlier_may_have_run || error.may_have_run();
        let budget = Budget::new();
        if poor {
            while budget.spend(Cause::Other) {}
            while budget.spend(Cause::Overload) {}
        }
        let before = budget.spent.load(Ordering::Relaxed);
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let retry = retry.observe(move |retrying| *tell.lock().unwrap() = Some(retrying.wait));
        let failed = Failed {
            method: "publish", error: &error, may_have_run, attempt: attempts, counted: attempts, repeatable, started, now, deadline,
            paid: false, endpoint: 1, began: now,
        };
        let next = retry.next(&failed, &budget);
        let waits = retry.wait_for_ready && error.kind() == ErrorKind::Connect && error.outcome() == Outcome::NotSent;
        let paid = budget.spent.load(Ordering::Relaxed) - before;
        let wait = match next {
            Next::After(wait) => wait,
            Next::Stop | Next::NoBudget => {
                prop_assert_eq!(next == Next::NoBudget, poor && next != Next::Stop);
                prop_assert_eq!((paid, *told.lock().unwrap()), (0, None), "without a retry nothing is spent or observed");
                return Ok(());
            }
        };
        prop_assert_eq!(*told.lock().unwrap(), Some(wait));
        prop_assert!(error.is_transient(), "not transient: {:?}", error);
        prop_assert!(!may_have_run || repeatable, "it would take effect twice");
        prop_assert_ne!(error.outcome(), Outcome::Done);
        prop_assert_ne!(error.hint(), Some(RetryAfter::Never));
        prop_assert!(attempts < retry.attempts || waits);
        prop_assert!(!poor || waits);
        let overload = error.is_overload();
        prop_assert_eq!(paid, if waits { 0 } else if overload { 5 } else { 14 });
        let next = now + wait;
        prop_assert!(deadline.is_none_or(|deadline| next < deadline));
        prop_assert!(!may_have_run || next < started + Duration::from_secs(240), "its key may be forgotten");
        // Between the shortest backoff, and the longest plus the hint.
        let longest = {
            let doubled = retry.first.as_secs_f64() * f64::from(attempts.max(1) - 1).exp2();
            doubled.min(retry.longest.as_secs_f64()).max(0.005)
        };
        let hint = if let Some(RetryAfter::Wait(hint)) = error.hint() { hint } else { Duration::ZERO };
        prop_assert!(wait >= Duration::from_millis(5).min(retry.longest));
        prop_assert!(wait.as_secs_f64() <= longest * 1.000_001 + hint.as_secs_f64().min(5.0));
        prop_assert!(wait >= hint.min(Duration::from_secs(5)));
    }

    #[test]
    fn a_transient_failure_is_retried_if_repeatable_or_without_effect(repeatable: bool, attempts in 1..3_u32, seed: u64) {
        fastrand::seed(seed);
        let now = Instant::now();
        for error in [
            Error::new(ErrorKind::Connect, ""),
            Error::new(ErrorKind::Lost, "").with_outcome(Outcome::NotSent),
            Error::new(ErrorKind::Unavailable, "").with_outcome(Outcome::Refused),
            ApiError::new(ApiError::TOO_MANY_REQUESTS, "").into(),
            Error::new(ErrorKind::Lost, ""),
            Error::new(ErrorKind::Timeout, ""),
            ApiError::new(ApiError::INTERNAL, "").into(),
        ] {
            let may_have_run = error.may_have_run();
            let deadline = Some(now + Duration::from_secs(10));
            let failed = Failed {
                method: "publish",
                error: &error,
                may_have_run,
                attempt: attempts,
                counted: attempts,
                repeatable,
                started: now,
                now,
                deadline,
                paid: false,
                endpoint: 1,
                began: now,
            };
            let next = Retry::new().next(&failed, &Budget::new());
            prop_assert_eq!(matches!(next, Next::After(_)), repeatable || !may_have_run, "{:?}", error);
        }
    }

    #[test]
    fn the_last_attempt_has_no_limit(retry in retries(), failed in prop_oneof![0..6_u32, Just(u32::MAX)]) {
        let patience = retry.patience(failed, BodySize::default());
        let limit = retry.attempt_timeout.filter(|_| failed < retry.attempts - 1);
        prop_assert_eq!(patience, limit);
    }

    #[test]
    fn a_budget_is_never_overdrawn(steps in prop::collection::vec(0..3_u8, 1..2_000)) {
        let budget = Budget::new();
        let mut tokens = 500_u64;
        let (mut repeats, mut successes) = (0, 0);
        for step in steps {
            let (cause, price) = if step == 0 { (Cause::Other, 14) } else { (Cause::Overload, 5) };
            if step == 2 {
                budget.earn();
                tokens = (tokens + 1).min(500);
                successes += 1;
            } else {
                let spent = budget.spend(cause);
                prop_assert_eq!(spent, tokens >= price);
                if spent {
                    tokens -= price;
                    repeats += u64::from(step == 0);
                }
            }
            prop_assert_eq!(budget.spent.load(Ordering::Relaxed), 500 - tokens);
            prop_assert!(repeats <= (500 + successes) / 14);
        }
    }
}

#[test]
fn a_budget_shared_by_threads_is_never_overdrawn() {
    const THREADS: u64 = 4;
    const TURNS: u64 = 20_000;
    let budget = Budget::new();
    let run = |number: u64| {
        fastrand::seed(number);
        let (mut repeats, mut successes) = (0, 0);
        for _ in 0..TURNS {
            if fastrand::u32(..10) == 0 {
                repeats += u64::from(budget.spend(Cause::Other));
            } else {
                budget.earn();
                successes += 1;
            }
            assert!(budget.spent.load(Ordering::Relaxed) <= 500);
        }
        (repeats, successes)
    };
    let (repeats, successes) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || run(number))).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.fold((0, 0), |(repeats, successes), (more, others)| (repeats + more, successes + others))
    });
    assert!(repeats <= (500 + successes) / 14, "{repeats} repeats for {successes} successes");
    let spent = budget.spent.load(Ordering::Relaxed);
    assert!(14 * repeats <= spent + successes);
    // One call in ten asks for a retry, so nearly the whole budget is spent.
    assert!(repeats >= successes / 14 - 35, "{repeats} repeats for {successes} successes");
}

#[test]
fn a_full_budget_pays_for_35_retries() {
    let budget = Budget::new();
    assert_eq!((0..100).filter(|_| budget.spend(Cause::Other)).count(), 35);
    assert_eq!((0..100).filter(|_| budget.spend(Cause::Overload)).count(), 2, "10 tokens are left, at 5 each");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_paid_for_once() {
    let budget = Budget::new();
    let mut losses = 0;
    for _ in 0..100 {
        let lost = Cause::Loss { endpoint: 1, began: Instant::now() };
        tokio::time::advance(Duration::from_millis(1)).await;
        let paid = (0..256).filter(|_| budget.spend(lost)).count();
        assert!(paid == 0 || paid == 256, "{paid}");
        losses += u32::from(paid > 0);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(losses, 35);
    budget.refund();
    assert!(
        budget.spend(Cause::Loss { endpoint: 2, began: Instant::now() }),
        "that of another endpoint is another one"
    );
    assert!(!budget.spend(Cause::Loss { endpoint: 1, began: Instant::now() }));
}

#[test]
fn all_calls_in_flight_may_be_repeated_after_a_pause() {
    let (budget, pause) = (Budget::new(), Cause::Pause { in_flight: 256 });
    assert_eq!((0..1000).filter(|_| budget.spend(pause)).count(), 35 + 255);
    assert!(!budget.spend(Cause::Pause { in_flight: 1 }), "and nothing is left when they have ended");
    budget.refund();
    assert!(budget.spend(pause));
    assert!(!budget.spend(Cause::Overload), "it does not grow for a server that is overloaded");
}

/// With `wait_for_ready` attempts do not count against the limit, but an observer sees their real number.
#[tokio::test(start_paused = true)]
async fn an_observer_sees_attempts_numbered_from_1() {
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&numbers);
    let retry = Retry::new().wait_for_ready(true).observe(move |retrying| tell.lock().unwrap().push(retrying.attempt));
    let client = crate::client::Client::with_transport(crate::transport::from_fn("fake", |_| {
        std::future::ready(Err(Error::new(ErrorKind::Connect, "")))
    }))
    .with_retry(retry)
    .with_timeout(Duration::from_secs(1));
    let error = client.info(crate::api::message::InfoRequest::new()).await.unwrap_err();
    let numbers = numbers.lock().unwrap();
    let expected: Vec<_> = (1..error.attempts()).collect();
    assert!(numbers.len() > 3);
    assert_eq!(*numbers, expected);
}

#[test]
fn an_attempt_has_more_time_for_more_bytes_and_channels() {
    let retry = Retry::new();
    let after = |bytes, channels| retry.patience(0, BodySize { bytes, channels }).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(after(1_000, 1), seconds(3) + Duration::from_micros(50));
    // 5.6 s at 600 kB/s, and 4.1 s on two cores.
    assert_eq!(after(3 << 20, 1), seconds(15) + Duration::from_micros(50));
    assert_eq!(after(5_000_000, 300_000), seconds(3 + 19 + 15));
    assert!(after(usize::MAX, usize::MAX) > seconds(1 << 20));
    let off = Retry::new().attempt_timeout(None);
    assert_eq!(off.patience(0, BodySize { bytes: 1 << 30, channels: 1 }), None);
}

#[test]
fn a_backoff_of_years_ends_the_call() {
    let (now, retry, budget) = (Instant::now(), Retry::new().backoff(Duration::MAX, Duration::MAX), Budget::new());
    let error = Error::new(ErrorKind::Connect, "");
    for _ in 0..100 {
        let failed = Failed {
            method: "publish",
            error: &error,
            may_have_run: false,
            attempt: 1,
            counted: 1,
            repeatable: true,
            started: now,
            now,
            deadline: None,
            paid: false,
            endpoint: 1,
            began: now,
        };
        assert_eq!(retry.next(&failed, &budget), Next::Stop);
    }
}
