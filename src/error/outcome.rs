//! What became of a call that failed.

/// What became of a call that failed: whether the server carried it out.
///
/// It is proven, not guessed: `NotSent` means that nothing of the request's body was handed to a connection, or that the
/// server's side of the connection said that it did not process it; `Refused`, that somebody answered and did not carry it
/// out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It certainly never reached the server. A repeat cannot do it twice.
    NotSent,
    /// It was answered, and certainly not carried out. A repeat cannot do it twice.
    Refused,
    /// Nobody on this side knows. Repeat a read, and a publish with the idempotency key of the first attempt.
    Unknown,
    /// It was carried out, and only its answer cannot be used.
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
