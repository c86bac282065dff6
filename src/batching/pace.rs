//! Whether the server is asked to run the commands of a request at the same time or one after the other, where either will
//! do: whichever is faster. It depends on its engine: in memory one after the other is half as fast again, with Redis
//! at the same time is five times as fast.

use std::time::Duration;

/// With fewer commands a request is mostly the way to the server and back.
const FEW: usize = 16;
/// After so many requests the other way is tried, then after four times as many, and so on up to the last, as long as it is not
/// faster.
const FIRST_PAUSE: u32 = 16;
const LAST_PAUSE: u32 = 1024;
/// How many requests a trial has. The first is sent by itself, beside others that run the old way, and shows only whether the
/// rest is worth its while.
const TRIAL: u32 = 9;
/// The other way must be faster by this to be taken: less is chance.
const CLEARLY: f64 = 0.9;
/// A way that is so much slower so far is not tried further.
const HOPELESS: f64 = 3.0;
/// What the requests before the last one count for.
const WEIGHT: f64 = 0.75;

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

/// Finds out which way is faster.
#[derive(Debug)]
pub(super) struct Pace {
    run: Run,
    /// Of the requests that were run so; recent ones count for more.
    took: Took,
    trial: Option<Trial>,
    /// How many requests until the next trial, and how many it was from the last one.
    left: u32,
    pause: u32,
}

/// The other way is tried.
#[derive(Debug, Default)]
struct Trial {
    begun: u32,
    ended: u32,
    took: Took,
}

/// How long requests took, and how many commands they had: one of few commands says little.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    seconds: f64,
    commands: f64,
}

impl Took {
    /// How long a command took, in seconds.
    fn per_command(self) -> f64 {
        self.seconds / self.commands
    }

    /// The requests so far, those before the last one counted for `weight`, and one more.
    fn and(self, weight: f64, request: Self) -> Self {
        Self { seconds: self.seconds * weight + request.seconds, commands: self.commands * weight + request.commands }
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { run: Run::Parallel, took: Took::default(), trial: None, left: FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    /// How to run the next request, of so many commands.
    pub(super) fn next(&mut self, commands: usize) -> Run {
        if commands < FEW {
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
                // Some of its requests have no response.
                self.goes_on();
            } else {
                (self.trial, self.left) = (Some(Trial::default()), FIRST_PAUSE);
            }
        }
        self.run
    }

    /// Takes note of how long a request took.
    pub(super) fn note(&mut self, run: Run, commands: usize, took: Duration) {
        if commands < FEW {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a request has thousands of commands at most")]
        let request = Took { seconds: took.as_secs_f64(), commands: commands as f64 };
        match &mut self.trial {
            None if run == self.run => self.took = self.took.and(WEIGHT, request),
            Some(trial) if run != self.run => {
                trial.ended += 1;
                let takes = self.took.per_command();
                // The first is sent beside others, and only shows whether to go on.
                let took = if trial.ended == 1 { request } else { trial.took.and(1.0, request) };
                if took.per_command() > takes * HOPELESS {
                    self.goes_on();
                } else if trial.ended == TRIAL && took.per_command() < takes * CLEARLY {
                    *self = Self { run, took, ..Self::new() };
                } else if trial.ended == TRIAL {
                    self.goes_on();
                } else if trial.ended > 1 {
                    trial.took = took;
                }
            }
            // Beside a trial, or of one that is over.
            _ => {}
        }
    }

    /// Ends a trial that brought nothing.
    fn goes_on(&mut self) {
        self.trial = None;
        self.pause = (self.pause * 4).min(LAST_PAUSE);
        self.left = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends so many requests of 100 commands to a server that takes so long for a command in either way. How many were parallel.
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
    fn the_faster_way_is_found_and_the_other_is_tried_less_and_less() {
        let mut pace = Pace::new();
        assert_eq!(send(&mut pace, 10_000, 15, 80), 10_000 - 12, "with Redis");
        let mut pace = Pace::new();
        let parallel = send(&mut pace, 10_000, 8, 5);
        assert_eq!(pace.run, Run::Sequential, "in memory");
        assert!(parallel < 200, "{parallel}");
    }

    #[test]
    fn it_changes_when_the_server_does() {
        let mut pace = Pace::new();
        send(&mut pace, 100, 8, 5);
        assert_eq!(pace.run, Run::Sequential);
        send(&mut pace, 5000, 15, 80);
        assert_eq!(pace.run, Run::Parallel);
        send(&mut pace, 20_000, 8, 5);
        assert_eq!(pace.run, Run::Sequential);
    }

    #[test]
    fn small_requests_do_not_make_the_faster_way_look_slow() {
        let mut pace = Pace::new();
        for _ in 0..FIRST_PAUSE - 1 {
            assert_eq!(pace.next(1000), Run::Parallel);
            pace.note(Run::Parallel, 1000, Duration::from_millis(15));
            pace.note(Run::Parallel, FEW, Duration::from_millis(3));
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
    fn what_is_as_fast_or_too_short_to_tell_changes_nothing() {
        let mut pace = Pace::new();
        send(&mut pace, 1000, 10, 10);
        assert_eq!(pace.run, Run::Parallel);
        for _ in 0..1000 {
            assert_eq!(pace.next(FEW - 1), Run::Parallel);
            pace.note(Run::Sequential, FEW - 1, Duration::ZERO);
        }
    }
}
