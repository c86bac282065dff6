//! How an error reads.

use std::fmt;

use crate::error::{ApiError, Error, ErrorKind, Inner, Outcome, Verdict, causes};

impl Error {
    /// What to do about it, in one sentence.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.0.kind {
            ErrorKind::Api => self.api().map_or("see the server's documentation", ApiError::advice),
            ErrorKind::Unauthenticated => {
                "check the API key or token against the one this API of the server is configured with"
            }
            ErrorKind::Unsupported => {
                "use a server that has the method (many are in Centrifugo PRO only), and check that the URL names its API"
            }
            ErrorKind::Connect if self.0.verdict == Verdict::Untrusted => {
                "check the server's certificate, the authorities that `tls` trusts, and this side's certificate"
            }
            ErrorKind::Connect => "check the address, that the server's API is enabled there, and TLS",
            ErrorKind::Lost | ErrorKind::Timeout if !self.may_have_run() => "it is safe to repeat",
            ErrorKind::Lost | ErrorKind::Timeout => {
                "repeat a read as it is, and a publish only with the idempotency key of the first attempt"
            }
            ErrorKind::Unavailable => "try again later",
            ErrorKind::TooLarge => "send less at once, or raise the limit on the side that has it",
            ErrorKind::Protocol => {
                "check that the URL names a Centrifugo server API and that nothing in between rewrites answers"
            }
            ErrorKind::Invalid => "correct the request or the configuration",
            ErrorKind::Closed => "make another client",
            ErrorKind::Full => "wait until some of what was published is answered, or publish less",
            ErrorKind::Partial => "look at each of the failures, and repeat those that may succeed",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, outcome, attempts, api, method, transport, endpoint, .. } = &*self.0;
        if let Some(method) = method {
            f.write_str(method)?;
            if let Some(transport) = transport {
                write!(f, " over {transport}")?;
            }
            if let Some(endpoint) = endpoint {
                write!(f, " to {endpoint}")?;
            }
            f.write_str(": ")?;
        }
        match api {
            Some(api) if *kind == ErrorKind::Api => write!(f, "{api}{message}")?,
            _ => f.write_str(message)?,
        }
        if *attempts > 1 {
            write!(f, ", the last of {attempts} attempts")?;
        }
        let fate = match outcome {
            Outcome::NotSent => "it was not sent",
            Outcome::Refused => "it was not carried out",
            Outcome::Unknown => "it may have been carried out",
            Outcome::Done => "it was carried out",
        };
        match method {
            Some(_) => write!(f, "; {fate}; {}", self.advice()),
            None => Ok(()),
        }
    }
}

/// The line of `Display`, and below it the causes and what else is known: what `main` prints of an error that it returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, outcome, attempts, api, http_status, idempotency_key, failures, .. } = &*self.0;
        write!(f, "{self}\n\nkind: {kind:?}, outcome: {outcome:?}, attempts: {attempts}")?;
        if let Some(api) = api {
            write!(f, ", code: {}", api.code)?;
        }
        if let Some(status) = http_status {
            write!(f, ", HTTP status: {status}")?;
        }
        if let Some(key) = idempotency_key {
            write!(f, ", idempotency key: {key}")?;
        }
        for failure in failures {
            write!(f, "\n  {} {}: {}", failure.index(), failure.name(), failure.error())?;
        }
        for (number, cause) in causes(self).enumerate() {
            f.write_str(if number == 0 { "\n\nCaused by:" } else { "" })?;
            write!(f, "\n    {number}: {cause}")?;
        }
        Ok(())
    }
}
