//! Chooses between parallel and sequential batches where both are correct: whichever is faster. It depends on the server's
//! engine: in memory sequential ones are half as fast again, with Redis parallel ones are five times as fast.

use std::time::Duration;

/// Smaller requests are not measured: they take mostly a round trip.
pub(super) const MIN_COMMANDS: usize = 16;
/// The requests before a trial of the other mode: at first, and at most. The pause grows fourfold while trials fail.
const FIRST_PAUSE: u32 = 16;
const LAST_PAUSE: u32 = 1024;
/// The same at first where requests are long, because those of the other mode are short.
const FIRST_PAUSE_OF_LONG: u32 = 4;
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
    /// The requests until the next trial, between the last one and that, and before the first one.
    left: u32,
    pause: u32,
    first_pause: u32,
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
    /// For requests that have the same commands in both modes.
    pub(super) fn new() -> Self {
        Self::starting_with(Run::Parallel, FIRST_PAUSE)
    }

    /// For requests that are much longer when they are sequential, as most commands wait for others of their channel.
    pub(super) fn of_few_channels() -> Self {
        Self::starting_with(Run::Sequential, FIRST_PAUSE_OF_LONG)
    }

    fn starting_with(run: Run, pause: u32) -> Self {
        Self { run, took: Took::default(), trial: None, left: pause, pause, first_pause: pause }
    }

    /// The mode of the next request, which is not measured.
    pub(super) fn run(&self) -> Run {
        self.run
    }

    /// The mode of the next request.
    pub(super) fn next(&mut self) -> Run {
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
                (self.trial, self.left) = (Some(Trial::default()), self.first_pause.max(TRIAL));
            }
        }
        self.run
    }

    /// Records how long a request took.
    pub(super) fn note(&mut self, run: Run, commands: usize, took: Duration) {
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
                    *self = Self { took, ..Self::starting_with(run, self.first_pause) };
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
            let run = pace.next();
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
    fn a_trial_without_responses_ends() {
        let mut pace = Pace::new();
        for _ in 0..60 {
            if pace.next() == Run::Parallel {
                pace.note(Run::Parallel, 100, Duration::from_millis(1));
            }
        }
        assert!(pace.trial.is_none());
        assert_eq!((pace.run, pace.pause), (Run::Parallel, FIRST_PAUSE * 4));
    }

    #[test]
    fn equal_times_change_nothing() {
        let mut pace = Pace::new();
        send(&mut pace, 1000, 10, 10);
        assert_eq!(pace.run, Run::Parallel);
    }

    #[test]
    fn with_few_channels_the_mode_with_more_commands_a_second_is_chosen() {
        // 10 commands in parallel and 1,000 in sequence: with a round trip of a millisecond, and with Redis on the same machine.
        for (parallel, sequential, faster) in [(1_000, 6_000, Run::Sequential), (200, 80_000, Run::Parallel)] {
            let mut pace = Pace::of_few_channels();
            for _ in 0..100 {
                let run = pace.next();
                let (commands, micros) = if run == Run::Parallel { (10, parallel) } else { (1_000, sequential) };
                pace.note(run, commands, Duration::from_micros(micros));
            }
            assert_eq!(pace.run, faster);
        }
    }
}
