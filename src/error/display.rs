//! The text of an error.

use std::fmt;

use crate::error::{ApiError, Error, ErrorKind, Inner, Outcome, Verdict, causes};

impl Error {
    /// What to do about it, in one sentence.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.0.kind {
            ErrorKind::Api => self.api().map_or("see the server's documentation", ApiError::advice),
            ErrorKind::Unauthenticated if self.0.verdict == Verdict::NoClientCertificate => {
                "set `Tls::client_certificate` to one that the proxy in front of the server accepts"
            }
            ErrorKind::Unauthenticated if self.0.verdict == Verdict::Intercepted => {
                "check what the proxy or firewall in front of the server lets through; the API key may be right"
            }
            ErrorKind::Unauthenticated => {
                "check the API key or token against the one this API of the server is configured with"
            }
            ErrorKind::Unsupported => {
                "use a server that has the method (many are in Centrifugo PRO only), and check that the URL is that of its API"
            }
            ErrorKind::Connect if self.0.verdict == Verdict::Untrusted => {
                "check the server's certificate, the authorities that `tls` trusts, and this side's certificate"
            }
            ErrorKind::Connect if self.0.verdict == Verdict::Local => {
                "close connections or raise the limits of this process, as of open files with `ulimit -n`"
            }
            ErrorKind::Connect if self.0.verdict == Verdict::WrongScheme => {
                "give the endpoint with the scheme of the port, or the other port"
            }
            ErrorKind::Connect => "check the address, that the server's API is enabled there, and TLS",
            ErrorKind::Lost | ErrorKind::Timeout if !self.may_have_run() => "it is safe to repeat",
            ErrorKind::Lost | ErrorKind::Timeout => {
                "repeat a read as it is, and a publish only with the idempotency key of the first attempt"
            }
            ErrorKind::Unavailable => "try again later",
            ErrorKind::TooLarge => "send less at once, or raise the limit on the side that has it",
            ErrorKind::Protocol if self.0.outcome == Outcome::Done => {
                "do not repeat it; check the type that the result is read as, and that no proxy rewrites responses"
            }
            ErrorKind::Protocol => {
                "check that the URL is that of a Centrifugo server API and that no proxy rewrites responses"
            }
            ErrorKind::Invalid => "correct the request or the configuration",
            ErrorKind::Closed => "make a new client",
            ErrorKind::Full => "wait for results, publish less, or raise the capacity",
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
        let outcome = match outcome {
            Outcome::NotSent => "it was not sent",
            Outcome::Refused => "it did not take effect",
            Outcome::Unknown if *kind == ErrorKind::Partial => "it may have taken effect in part",
            Outcome::Unknown => "it may have taken effect",
            Outcome::Done => "it took effect",
        };
        match method {
            Some(_) => write!(f, "; {outcome}; {}", self.advice()),
            None => Ok(()),
        }
    }
}

/// The line of `Display`, and below it the details and the causes: what `main` prints of an error that it returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, outcome, attempts, api, http_status, page, idempotency_key, failures, .. } = &*self.0;
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
        if let Some(page) = page {
            write!(f, "\npage: {page}")?;
        }
        for failure in failures {
            write!(f, "\n  {} {}: {}", failure.index(), failure.name(), failure.error())?;
        }
        let mut causes: Vec<_> = causes(self).map(ToString::to_string).collect();
        // An I/O error has the text of what it was made of.
        causes.dedup();
        for (number, cause) in causes.iter().enumerate() {
            f.write_str(if number == 0 { "\n\nCaused by:" } else { "" })?;
            write!(f, "\n    {number}: {cause}")?;
        }
        Ok(())
    }
}
