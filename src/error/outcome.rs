//! Whether a call that failed took effect.

/// Whether a call that failed took effect.
///
/// It is proven, not guessed: `NotSent` means that nothing of the request's body was handed to a connection, or that the
/// server's side of the connection stated that it did not process it; `Refused`, that a response refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It never reached the server. A repeat cannot take effect twice.
    NotSent,
    /// It was refused, and did not take effect. A repeat cannot take effect twice.
    Refused,
    /// The client cannot tell. Repeat a read, and a publish with the idempotency key of the first attempt.
    Unknown,
    /// It took effect, and only its result cannot be read.
    Done,
}

impl Outcome {
    /// The outcome's name in lower case, as the command line prints it: `"not_sent"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Done => "done",
        }
    }
}
