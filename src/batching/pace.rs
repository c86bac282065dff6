//! Chooses between parallel and sequential batches where both are correct: whichever is faster. It depends on the server's
//! engine: in memory sequential ones are half as fast again, with Redis parallel ones are five times as fast.

use std::time::Duration;

/// Smaller requests are not measured: they take mostly a round trip.
const MIN_COMMANDS: usize = 16;
/// The requests before a trial of the other mode: at first, and at most. The pause grows fourfold while trials fail.
const FIRST_PAUSE: u32 = 16;
const LAST_PAUSE: u32 = 1024;
/// The requests of a trial. The first runs beside requests of the present mode, and only decides whether to go on.
const TRIAL: u32 = 9;
/// The other mode must take at most this share of the time to be chosen; less of a gain is noise.
const MAX_RATIO: f64 = 0.9;
/// A trial ends early when the other mode takes more than this many times as long.
const ABORT_RATIO: f64 = 3.0;
/// The weight of earlier requests at each new one.
const DECAY: f64 = 0.75;

/// How the commands of a request are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Parallel,
    Sequential,
}

impl Run {
    fn other(self) -> Self {
        match self {
            Self::Parallel => Self::Sequential,
            Self::Sequential => Self::Parallel,
        }
    }
}

/// Measures which mode is faster.
#[derive(Debug)]
pub(super) struct Pace {
    run: Run,
    /// The requests in this mode, recent ones weighted more.
    took: Took,
    trial: Option<Trial>,
    /// The requests until the next trial, and between the last one and that.
    left: u32,
    pause: u32,
}

/// A trial of the other mode.
#[derive(Debug, Default)]
struct Trial {
    begun: u32,
    ended: u32,
    took: Took,
}

/// How long requests took, and how many commands they had.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    seconds: f64,
    commands: f64,
}

impl Took {
    /// The seconds per command.
    fn per_command(self) -> f64 {
        self.seconds / self.commands
    }

    /// Adds a request, with the earlier ones multiplied by `weight`.
    fn plus(self, weight: f64, request: Self) -> Self {
        Self { seconds: self.seconds * weight + request.seconds, commands: self.commands * weight + request.commands }
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { run: Run::Parallel, took: Took::default(), trial: None, left: FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    /// The mode of the next request, with so many commands.
    pub(super) fn next(&mut self, commands: usize) -> Run {
        if commands < MIN_COMMANDS {
            return self.run;
        }
        if let Some(trial) = &mut self.trial
            && trial.begun < if trial.ended == 0 { 1 } else { TRIAL }
        {
            trial.begun += 1;
            return self.run.other();
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            if self.trial.is_some() {
                // Some requests of the trial got no response.
                self.fail_trial();
            } else {
                (self.trial, self.left) = (Some(Trial::default()), FIRST_PAUSE);
            }
        }
        self.run
    }

    /// Records how long a request took.
    pub(super) fn note(&mut self, run: Run, commands: usize, took: Duration) {
        if commands < MIN_COMMANDS {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a request has thousands of commands at most")]
        let request = Took { seconds: took.as_secs_f64(), commands: commands as f64 };
        match &mut self.trial {
            None if run == self.run => self.took = self.took.plus(DECAY, request),
            Some(trial) if run != self.run => {
                trial.ended += 1;
                let takes = self.took.per_command();
                let took = if trial.ended == 1 { request } else { trial.took.plus(1.0, request) };
                if took.per_command() > takes * ABORT_RATIO {
                    self.fail_trial();
                } else if trial.ended == TRIAL && took.per_command() < takes * MAX_RATIO {
                    *self = Self { run, took, ..Self::new() };
                } else if trial.ended == TRIAL {
                    self.fail_trial();
                } else if trial.ended > 1 {
                    trial.took = took;
                }
            }
            // A request in the present mode during a trial, or one of an earlier trial.
            _ => {}
        }
    }

    /// Ends a trial without a change of mode.
    fn fail_trial(&mut self) {
        self.trial = None;
        self.pause = (self.pause * 4).min(LAST_PAUSE);
        self.left = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends requests of 100 commands to a server that takes so many µs per command in each mode. Returns how many were parallel.
    fn send(pace: &mut Pace, requests: usize, parallel: u64, sequential: u64) -> usize {
        let mut number = 0;
        for _ in 0..requests {
            let run = pace.next(100);
            number += usize::from(run == Run::Parallel);
            let micros = if run == Run::Parallel { parallel } else { sequential };
            pace.note(run, 100, Duration::from_micros(micros * 100));
        }
        number
    }

    #[test]
    fn the_faster_mode_is_chosen_and_trials_become_rare() {
        let mut pace = Pace::new();
        assert_eq!(send(&mut pace, 10_000, 15, 80), 10_000 - 12, "with Redis");
        let mut pace = Pace::new();
        let parallel = send(&mut pace, 10_000, 8, 5);
        assert_eq!(pace.run, Run::Sequential, "in memory");
        assert!(parallel < 200, "{parallel}");
    }

    #[test]
    fn the_mode_changes_when_the_server_does() {
        let mut pace = Pace::new();
        send(&mut pace, 100, 8, 5);
        assert_eq!(pace.run, Run::Sequential);
        send(&mut pace, 5000, 15, 80);
        assert_eq!(pace.run, Run::Parallel);
        send(&mut pace, 20_000, 8, 5);
        assert_eq!(pace.run, Run::Sequential);
    }

    #[test]
    fn small_requests_do_not_make_the_faster_mode_look_slow() {
        let mut pace = Pace::new();
        for _ in 0..FIRST_PAUSE - 1 {
            assert_eq!(pace.next(1000), Run::Parallel);
            pace.note(Run::Parallel, 1000, Duration::from_millis(15));
            pace.note(Run::Parallel, MIN_COMMANDS, Duration::from_millis(3));
        }
        let sequential = (0..100).filter(|_| {
            let run = pace.next(1000);
            pace.note(run, 1000, Duration::from_millis(if run == Run::Parallel { 15 } else { 80 }));
            run == Run::Sequential
        });
        assert_eq!(sequential.count(), 2, "the first of each trial");
    }

    #[test]
    fn a_trial_without_responses_ends() {
        let mut pace = Pace::new();
        for _ in 0..60 {
            if pace.next(100) == Run::Parallel {
                pace.note(Run::Parallel, 100, Duration::from_millis(1));
            }
        }
        assert!(pace.trial.is_none());
        assert_eq!((pace.run, pace.pause), (Run::Parallel, FIRST_PAUSE * 4));
    }

    #[test]
    fn equal_times_and_small_requests_change_nothing() {
        let mut pace = Pace::new();
        send(&mut pace, 1000, 10, 10);
        assert_eq!(pace.run, Run::Parallel);
        for _ in 0..1000 {
            assert_eq!(pace.next(MIN_COMMANDS - 1), Run::Parallel);
            pace.note(Run::Sequential, MIN_COMMANDS - 1, Duration::ZERO);
        }
    }
}
