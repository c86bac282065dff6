//! Random steps on the health of an endpoint, compared with a model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(Duration),
    /// A trial begins, if it is due.
    BeginTrial,
    /// The trial ends.
    EndTrial(Sign),
    /// Another call ends.
    Note(Sign),
}

fn signs() -> impl Strategy<Value = Sign> {
    prop_oneof![
        2 => Just(Sign::Responded),
        2 => Just(Sign::Unreachable),
        5 => Just(Sign::Lost),
        5 => Just(Sign::TimedOut),
        5 => Just(Sign::Bad),
        1 => Just(Sign::Unreadable),
        3 => Just(Sign::Unprocessed),
        1 => Just(Sign::Nothing),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![4 => 0..2_000_u64, 1 => 2_000..60_000_u64];
    let step = prop_oneof![
        wait.prop_map(|wait| Step::Wait(Duration::from_millis(wait))),
        Just(Step::BeginTrial),
        signs().prop_map(Step::EndTrial),
        signs().prop_map(Step::Note),
    ];
    prop::collection::vec(step, 1..200)
}

/// Silence, and others that respond well.
fn facts(now: Instant) -> Facts {
    Facts { now, silent: true, others_well: true }
}

/// The expected health of an endpoint.
#[derive(Debug, Default)]
struct Model {
    /// Until when it is ejected, and why.
    out: Option<(Instant, Why)>,
    /// Whether a trial is in flight, and whether it still decides.
    trial: Option<bool>,
    lost: u32,
    timeouts: u32,
    bad: u32,
    unprocessed: u32,
    on_probation: bool,
    dials: u32,
    ejections: u32,
    healthy_since: Option<Instant>,
}

impl Model {
    fn counts(&self) -> [u32; 4] {
        [self.lost, self.timeouts, self.bad, self.unprocessed]
    }

    fn reset(&mut self) {
        (self.lost, self.timeouts, self.bad, self.unprocessed) = (0, 0, 0, 0);
    }

    fn standing(&self, now: Instant) -> Standing {
        match (self.out, self.trial) {
            (None, _) => Standing::In,
            (Some(_), Some(true)) => Standing::OnTrial,
            (Some((until, _)), _) if now < until => Standing::Out(until),
            (Some(_), _) => Standing::Due,
        }
    }

    /// Ejects the endpoint, and checks for how long.
    fn set_out(&mut self, why: Why, health: &Health, now: Instant) {
        if self.healthy_since.take().is_some_and(|since| now - since >= Duration::from_secs(10)) {
            (self.dials, self.ejections) = (0, 0);
        }
        let middle = if why == Why::Failing {
            self.ejections += 1;
            self.reset();
            f64::min(f64::from(self.ejections), 3.0)
        } else {
            self.dials += 1;
            f64::min(0.1 * 1.6_f64.powf(f64::from(self.dials - 1)), 1.0)
        };
        let Some(out) = health.out else { panic!("it is not ejected: {self:?}") };
        let real = (out.until - now).as_secs_f64();
        assert!((middle * 0.799..=middle * 1.201).contains(&real), "{real} beside {middle}: {self:?}");
        self.out = Some((out.until, why));
    }

    fn note(&mut self, sign: Sign, trial: bool, health: &mut Health, now: Instant) {
        // A trial decides only if no other call has decided before.
        let decides = trial && self.trial.take() == Some(true);
        let before = (self.out, self.counts());
        let distrusted = health.note(sign, trial, facts(now));
        let (mut ejected, is_in) = (false, self.out.is_none());
        match sign {
            Sign::Responded => {
                self.out = None;
                let bad = self.bad.saturating_sub(1);
                self.reset();
                self.bad = bad;
                self.on_probation &= decides;
                self.healthy_since.get_or_insert(now);
                self.trial = self.trial.map(|_| false);
            }
            Sign::Unreachable if decides || !matches!(self.out, Some((_, Why::Unreachable))) => {
                self.set_out(Why::Unreachable, health, now);
            }
            Sign::Unprocessed => {
                self.unprocessed += 1;
                if decides || (is_in && self.unprocessed >= 3) {
                    self.unprocessed = 0;
                    self.set_out(Why::Refusing, health, now);
                }
            }
            Sign::Bad | Sign::Unreadable => {
                self.bad = MAX_BAD.min(self.bad + if sign == Sign::Bad { 1 } else { 2 });
                (self.lost, self.timeouts, self.unprocessed) = (0, 0, 0);
                if decides || (is_in && (self.on_probation || self.bad >= 5)) {
                    self.on_probation = true;
                    self.set_out(Why::Failing, health, now);
                }
            }
            Sign::Lost | Sign::TimedOut => {
                *(if sign == Sign::Lost { &mut self.lost } else { &mut self.timeouts }) += 1;
                ejected = decides || (is_in && (self.lost >= 3 || self.timeouts >= 5));
                if ejected {
                    self.set_out(Why::Failing, health, now);
                }
            }
            Sign::Unreachable | Sign::Nothing => assert_eq!(before, (self.out, self.counts())),
        }
        assert_eq!(distrusted, ejected, "only connections that stopped responding are distrusted");
    }
}

/// Begins a trial if it is due, as the balancer does.
fn begin_trial(health: &mut Health, now: Instant) -> bool {
    let due = health.standing(now) == Standing::Due;
    if due {
        health.begin_trial();
    }
    due
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn health_follows_its_model(steps in steps(), seed: u64) {
        fastrand::seed(seed);
        let (mut health, mut model, mut now) = (Health::default(), Model::default(), Instant::now());
        for step in steps {
            match step {
                Step::Wait(wait) => now += wait,
                // A trial that no longer decides ends first, or it would be taken for the next one.
                Step::BeginTrial if model.trial == Some(false) => {}
                Step::BeginTrial => {
                    let may = model.standing(now) == Standing::Due;
                    prop_assert_eq!(begin_trial(&mut health, now), may, "one call at a time: {:?}", model);
                    if may {
                        model.trial = Some(true);
                    }
                }
                Step::EndTrial(sign) => {
                    if model.trial.is_some() {
                        model.note(sign, true, &mut health, now);
                    }
                }
                Step::Note(sign) => model.note(sign, false, &mut health, now),
            }
            prop_assert_eq!(health.standing(now), model.standing(now), "after {:?}: {:?}, {:?}", step, health, model);
            prop_assert_eq!(health.why(), model.out.map(|(_, why)| why));
            if health.is_clear() {
                prop_assert!(model.out.is_none() && model.counts() == [0; 4] && !model.on_probation);
            }
        }
        // From any state: after its trial has ended, even without a result, another one is due in time.
        if model.trial.is_some() {
            health.note(Sign::Nothing, true, facts(now));
        }
        now += Duration::from_secs(37);
        prop_assert!(matches!(health.standing(now), Standing::In | Standing::Due), "{:?}", health);
        if begin_trial(&mut health, now) {
            health.note(Sign::Responded, true, facts(now));
        }
        prop_assert_eq!(health.standing(now), Standing::In);
    }

    #[test]
    fn three_losses_or_five_timeouts_in_a_row_eject_an_endpoint(signs in prop::collection::vec(signs(), 1..20)) {
        let (mut health, now) = (Health::default(), Instant::now());
        let (mut lost, mut timeouts) = (0, 0);
        for sign in signs {
            health.note(sign, false, facts(now));
            match sign {
                Sign::Responded => (lost, timeouts) = (0, 0),
                Sign::Lost => lost += 1,
                Sign::TimedOut => timeouts += 1,
                Sign::Unreachable | Sign::Bad | Sign::Unreadable | Sign::Unprocessed => break,
                Sign::Nothing => {}
            }
            let out = lost >= 3 || timeouts >= 5;
            prop_assert_eq!(health.standing(now) != Standing::In, out, "{} lost, {} timed out", lost, timeouts);
            if out {
                break;
            }
        }
    }
}

#[test]
fn there_is_one_trial_at_a_time_whatever_other_calls_report() {
    let (mut health, mut now) = (Health::default(), Instant::now());
    for _ in 0..3 {
        health.note(Sign::Lost, false, facts(now));
    }
    now += Duration::from_secs(2);
    assert!(begin_trial(&mut health, now));
    // A call that the only endpoint gets during its ejection.
    health.note(Sign::Unreachable, false, facts(now));
    now += Duration::from_secs(60);
    assert!(!begin_trial(&mut health, now), "the first is still in progress");
    health.note(Sign::Nothing, true, facts(now));
    assert!(begin_trial(&mut health, now), "the first had no result");
}

#[test]
fn a_trial_counts_as_an_ordinary_call_once_another_has_succeeded() {
    let (mut health, mut now) = (Health::default(), Instant::now());
    health.note(Sign::Unreachable, false, facts(now));
    now += Duration::from_secs(2);
    assert!(begin_trial(&mut health, now));
    health.note(Sign::Responded, false, facts(now));
    health.note(Sign::Lost, true, facts(now));
    assert_eq!(health.standing(now), Standing::In, "a single loss");
}

#[test]
fn timeouts_beside_responses_eject_no_endpoint() {
    let (mut health, now) = (Health::default(), Instant::now());
    for _ in 0..100 {
        health.note(Sign::TimedOut, false, Facts { silent: false, ..facts(now) });
    }
    assert_eq!(health.standing(now), Standing::In);
}

#[test]
fn an_endpoint_that_responds_badly_is_ejected_while_others_respond_well() {
    let (mut health, mut now) = (Health::default(), Instant::now());
    for _ in 0..100 {
        health.note(Sign::Bad, false, Facts { others_well: false, ..facts(now) });
    }
    assert_eq!(health.standing(now), Standing::In, "all respond badly");
    for _ in 0..MAX_BAD {
        health.note(Sign::Responded, false, facts(now));
    }
    for _ in 0..MAX_BAD {
        assert_eq!(health.standing(now), Standing::In);
        health.note(Sign::Bad, false, facts(now));
    }
    // A good response to the trial is not enough: it may respond to that by itself.
    now += Duration::from_secs(2);
    assert!(begin_trial(&mut health, now));
    health.note(Sign::Responded, true, facts(now));
    assert_eq!(health.standing(now), Standing::In);
    health.note(Sign::Bad, false, facts(now));
    assert!(matches!(health.standing(now), Standing::Out(_)));
}
