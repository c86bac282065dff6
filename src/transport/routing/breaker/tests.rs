//! Random steps on a breaker, compared with a model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(Duration),
    Note { sign: Sign, usable: bool },
    BeginProbe,
    Probed { succeeds: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![
        4 => 0..3_000_u64,
        2 => 3_000..15_000_u64,
        1 => 15_000..800_000_u64,
    ];
    let sign = prop_oneof![
        1 => Just(Sign::Responded),
        1 => Just(Sign::Nothing),
        1 => Just(Sign::Absent),
        1 => Just(Sign::AllOut),
        8 => Just(Sign::Failed),
    ];
    let step = prop_oneof![
        2 => wait.prop_map(|wait| Step::Wait(Duration::from_millis(wait))),
        4 => (sign, prop::bool::weighted(0.7)).prop_map(|(sign, usable)| Step::Note { sign, usable }),
        1 => Just(Step::BeginProbe),
        1 => prop::bool::weighted(0.3).prop_map(|succeeds| Step::Probed { succeeds }),
    ];
    prop::collection::vec(step, 1..200)
}

/// The expected state of a breaker.
struct Model {
    state: BreakerState,
    /// The failures since the last success or return: when, and whether the fallback was usable.
    failures: Vec<(Instant, bool)>,
    /// Why it is open, and how often in a row it was opened.
    cause: Option<Cause>,
    opened: u32,
    /// When calls last returned to gRPC.
    returned: Option<Instant>,
}

impl Model {
    fn close(&mut self) {
        self.state = BreakerState::Closed;
        self.failures.clear();
    }

    fn open(&mut self, cause: Cause, opened: u32, breaker: &Breaker, now: Instant) {
        let Breaker::Open { until, .. } = breaker else { panic!("it is not open: {breaker:?}") };
        let (shortest, longest) = match cause {
            Cause::Absent => (60.0, 600.0),
            Cause::Outage => (1.0, 3.0),
        };
        let cool_down = f64::min(shortest * f64::from(opened - 1).exp2(), longest);
        let real = (*until - now).as_secs_f64();
        assert!((cool_down * 0.799..=cool_down * 1.201).contains(&real), "{opened}: {real} beside {cool_down}");
        let returned = self.returned;
        *self = Self { state: BreakerState::Open, failures: Vec::new(), cause: Some(cause), opened, returned };
    }

    /// The number of failures in the last 10 seconds.
    fn recent(&self, now: Instant) -> usize {
        self.failures.iter().filter(|(when, _)| now - *when <= Duration::from_secs(10)).count()
    }

    /// Whether the failures must have opened it: the first five within 10 s of each other, or enough in the last 10 s to fill a
    /// window wherever it begins.
    fn must_be_open(&self, now: Instant) -> bool {
        let usable = self.failures.iter().rev().take_while(|(_, usable)| *usable).count();
        let first_five = self.failures.len() == 5 && usable >= 1 && self.recent(now) == 5;
        first_five || (usable >= 9 && self.recent(now) >= 9)
    }

    fn note(&mut self, sign: Sign, usable: bool, breaker: &mut Breaker, now: Instant) {
        let before = breaker.state();
        breaker.note(sign, usable, now);
        let opened = match breaker {
            Breaker::Open { cause, .. } if before == BreakerState::Closed => Some(*cause),
            _ => None,
        };
        if self.state != BreakerState::Closed {
            assert_eq!(opened, None, "it was open already");
            return;
        }
        let expected = match sign {
            Sign::Nothing => None,
            Sign::Responded => {
                self.close();
                None
            }
            Sign::Absent => usable.then_some(Cause::Absent),
            Sign::AllOut => usable.then_some(Cause::Outage),
            Sign::Failed => {
                self.failures.push((now, usable));
                if opened.is_some() {
                    assert!(usable && self.recent(now) >= 5, "after {} failures", self.recent(now));
                } else {
                    assert!(!self.must_be_open(now), "it stays closed after {:?}", self.failures);
                }
                opened.map(|_| Cause::Outage)
            }
        };
        assert_eq!(opened, expected, "after {sign:?}");
        if let Some(cause) = opened {
            let again = self.returned.is_some_and(|returned| now - returned < Duration::from_secs(60));
            self.open(cause, if again { self.opened + 1 } else { 1 }, breaker, now);
        }
    }

    fn begin_probe(&mut self, breaker: &mut Breaker, now: Instant) {
        let due = matches!(breaker, Breaker::Open { until, .. } if now >= *until);
        assert_eq!(breaker.begin_probe(now), due);
        if due {
            assert_eq!(self.state, BreakerState::Open, "there is one probe at a time");
            self.state = BreakerState::HalfOpen;
        }
    }

    fn probed(&mut self, succeeds: bool, breaker: &mut Breaker, now: Instant) {
        breaker.probed(succeeds, now);
        match (self.state, self.cause) {
            (BreakerState::HalfOpen, _) if succeeds => {
                self.close();
                self.returned = Some(now);
            }
            (BreakerState::HalfOpen, Some(cause)) => self.open(cause, self.opened + 1, breaker, now),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_breaker_opens_and_closes_as_its_model_does(steps in steps(), seed: u64) {
        fastrand::seed(seed);
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        let mut model = Model { state: BreakerState::Closed, failures: Vec::new(), cause: None, opened: 0, returned: None };
        for step in steps {
            match step {
                Step::Wait(wait) => now += wait,
                Step::Note { sign, usable } => model.note(sign, usable, &mut breaker, now),
                Step::BeginProbe => model.begin_probe(&mut breaker, now),
                Step::Probed { succeeds } => model.probed(succeeds, &mut breaker, now),
            }
            prop_assert_eq!(breaker.state(), model.state);
        }
        // From any state, one successful probe after the longest cool-down closes it.
        now += Duration::from_secs(721);
        breaker.begin_probe(now);
        breaker.probed(true, now);
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn cool_downs_are_bounded_however_often_probes_fail(opened: u32, absent: bool, seed: u64) {
        fastrand::seed(seed);
        let (cause, longest) = if absent { (Cause::Absent, 720) } else { (Cause::Outage, 72) };
        let now = Instant::now();
        let mut breaker = Breaker::HalfOpen { cause, opened };
        breaker.probed(false, now);
        prop_assert!(!breaker.begin_probe(now), "not at once");
        prop_assert!(breaker.begin_probe(now + Duration::from_secs(longest)));
    }
}
