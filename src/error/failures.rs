//! The error of a call that failed in parts.

use std::fmt::Write as _;

use crate::error::{Error, ErrorKind, Outcome};

/// So many parts are named in the text of an error; the others are counted.
const NAMED: usize = 3;

/// A channel of a broadcast or a command of a batch that failed.
#[derive(Debug)]
pub struct Failure {
    index: usize,
    name: String,
    error: Error,
}

impl Failure {
    pub(crate) fn new(index: usize, name: String, error: Error) -> Self {
        Self { index, name, error }
    }

    /// Its index, among the channels of the broadcast or the commands of the batch.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The channel; of a command in a batch the method, with the channel if it has one: `"publish news"`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn into_error(self) -> Error {
        self.error
    }

    /// Why it failed.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl Error {
    /// The error of a call of which these parts failed, of so many: `what` names them in the plural.
    pub(crate) fn partial(method: &'static str, what: &str, total: usize, failures: Vec<Failure>) -> Self {
        let mut text = format!("{} of {total} {what} failed: ", failures.len());
        for (number, Failure { name, error, .. }) in failures.iter().take(NAMED).enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}{name}: {}", error.message());
            if let Some(code) = error.code() {
                let _ = write!(text, " ({code})");
            }
        }
        if failures.len() > NAMED {
            let _ = write!(text, " and {} more", failures.len() - NAMED);
        }
        // If a part took effect, or may have, so may the whole.
        let outcomes = || failures.iter().map(|failure| failure.error.outcome());
        let outcome = if failures.len() < total || outcomes().any(|outcome| !proves_no_effect(outcome)) {
            Outcome::Unknown
        } else if outcomes().all(|outcome| outcome == Outcome::NotSent) {
            Outcome::NotSent
        } else {
            Outcome::Refused
        };
        let mut error = Self::new(ErrorKind::Partial, text).with_outcome(outcome);
        error.0.method = Some(method.into());
        error.0.failures = failures;
        error
    }
}

fn proves_no_effect(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::NotSent | Outcome::Refused)
}
