//! Every interleaving of operations on a shared handover record. Each operation is one atomic step.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// The call starts another body.
    Track,
    /// The server says that it did not process the body with this index, or that is found out otherwise.
    Undo(usize),
    /// The call has ended, or its transport has failed.
    Revoke,
    /// A connection takes the body with this index.
    Take(usize),
}

/// What is to be expected of a record: its bodies and whether they were handed over, and whether the last was revoked.
#[derive(Debug, Default)]
struct Model {
    taken: Vec<bool>,
    revoked: bool,
}

impl Model {
    fn in_hand(&self) -> Option<usize> {
        self.taken.len().checked_sub(1)
    }

    fn add(&mut self) {
        self.taken.push(false);
        self.revoked = false;
    }
}

/// Makes the steps in this order, and compares.
fn run(steps: &[Step]) {
    let call = Handover::default();
    let (mut bodies, mut model) = (Vec::new(), Model::default());
    let mut certainly_not_sent = false;
    for step in steps {
        match *step {
            Step::Track => {
                bodies.push(call.track());
                model.add();
                certainly_not_sent = false;
            }
            Step::Undo(body) => {
                let Some(handover) = bodies.get(body) else { continue };
                handover.undo();
                if model.in_hand() == Some(body) {
                    model.taken[body] = false;
                }
            }
            Step::Revoke => {
                let proven = call.revoke();
                assert_eq!(proven, !model.taken.is_empty() && !model.taken.contains(&true), "{steps:?}: {model:?}");
                model.revoked |= model.taken.last() == Some(&false);
                certainly_not_sent |= proven;
            }
            Step::Take(body) => {
                let Some(handover) = bodies.get(body) else { continue };
                let taken = handover.take();
                let may = model.in_hand() == Some(body) && (model.taken[body] || !model.revoked);
                assert_eq!(taken, may, "{steps:?}: {model:?}");
                assert!(!(taken && certainly_not_sent), "reported as not sent, but handed over: {steps:?}");
                model.taken[body] |= taken;
            }
        }
    }
}

/// Calls `run` with every interleaving of the programs' steps.
fn interleave(programs: &mut [&[Step]], so_far: &mut Vec<Step>, count: &mut u32) {
    if programs.iter().all(|program| program.is_empty()) {
        *count += 1;
        return run(so_far);
    }
    for index in 0..programs.len() {
        let program = programs[index];
        let [first, rest @ ..] = program else { continue };
        programs[index] = rest;
        so_far.push(*first);
        interleave(programs, so_far, count);
        so_far.pop();
        programs[index] = program;
    }
}

#[test]
fn no_interleaving_hands_over_a_body_reported_as_not_sent() {
    const STEPS: [Step; 3] = [Step::Track, Step::Undo(0), Step::Revoke];
    let mut count = 0;
    for (first, second, third) in (0..27).map(|number| (number / 9, number / 3 % 3, number % 3)) {
        let call = [Step::Track, STEPS[first], STEPS[second], STEPS[third]];
        // The call, the connections of its first bodies, and a deadline that somebody else keeps.
        let mut programs: [&[Step]; 4] =
            [&call, &[Step::Take(0), Step::Take(0)], &[Step::Take(1), Step::Take(2)], &[Step::Revoke]];
        interleave(&mut programs, &mut Vec::new(), &mut count);
    }
    assert_eq!(count, 27 * 3_780, "all of them");
}

#[test]
fn two_connections_and_a_call_that_moves_from_one_to_the_other() {
    let mut count = 0;
    let call = [Step::Track, Step::Track, Step::Track, Step::Revoke];
    let mut programs: [&[Step]; 3] = [&call, &[Step::Take(0), Step::Take(1)], &[Step::Take(1), Step::Take(2)]];
    interleave(&mut programs, &mut Vec::new(), &mut count);
    assert_eq!(count, 420);
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn the_record_is_what_its_steps_make_of_it(steps in prop::collection::vec(
        prop_oneof![Just(Step::Track), Just(Step::Revoke), (0..6_usize).prop_map(Step::Take), (0..6_usize).prop_map(Step::Undo)],
        0..40,
    )) {
        run(&steps);
    }

    #[test]
    fn a_record_changes_an_outcome_only_to_one_that_it_proves(
        kind in prop::sample::select(ErrorKind::ALL),
        outcome in prop::sample::select(&[Outcome::NotSent, Outcome::Refused, Outcome::Unknown, Outcome::Done][..]),
        tracked: bool,
        taken: bool,
    ) {
        let call = Handover::default();
        if tracked {
            let body = call.track();
            prop_assert!(!taken || body.take());
        }
        let judged = call.judge(Error::new(kind, "").with_outcome(outcome));
        let proven = tracked && !taken && matches!(outcome, Outcome::Unknown | Outcome::Done);
        prop_assert_eq!((judged.kind(), judged.outcome()), (kind, if proven { Outcome::NotSent } else { outcome }));
    }
}
