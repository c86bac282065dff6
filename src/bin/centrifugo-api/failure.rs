//! Why the command fails: its exit code, and the error as two lines for people or as a line of JSON for programs.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use centrifugo_api::token::TokenError;
use centrifugo_api::{Error, ErrorKind, Failure as Part, Outcome};
use serde::Serialize;

/// Something on this machine failed: a file, a process, standard output.
const IO: u8 = 1;

/// The exit codes of errors that have a kind. 2 is clap's, for a command line that cannot be read.
const EXIT_CODES: [(u8, ErrorKind, &str); ErrorKind::ALL.len()] = [
    (10, ErrorKind::Api, "the server understood the request and refused it"),
    (11, ErrorKind::Unauthenticated, "the server did not accept the API key"),
    (12, ErrorKind::Unsupported, "the server has no such method"),
    (13, ErrorKind::Connect, "no connection could be made"),
    (14, ErrorKind::Lost, "the connection ended without a response"),
    (15, ErrorKind::Timeout, "the deadline passed"),
    (16, ErrorKind::Unavailable, "something on the way cannot serve the call now"),
    (17, ErrorKind::TooLarge, "a request or a reply is over a size limit"),
    (18, ErrorKind::Protocol, "the response is not what the API describes"),
    (19, ErrorKind::Invalid, "the request, the configuration or a token is wrong"),
    (20, ErrorKind::Closed, "the client was closed"),
    (21, ErrorKind::Full, "the publisher's capacity is used up"),
    (22, ErrorKind::Partial, "some channels of a broadcast failed"),
];

/// Why the command ends without success.
pub(crate) enum Failure {
    /// A call failed, or could not be made of what was given.
    Call(Error),
    /// The server would refuse a token.
    Token(TokenError),
    /// Something on this machine failed.
    Io { what: String, error: io::Error, outcome: Outcome },
    /// The reader of standard output has closed it.
    ReaderGone,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Call(Error::new(ErrorKind::Invalid, message.into()))
    }

    /// A failure of this machine before anything was sent.
    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error, outcome: Outcome::NotSent }
    }

    /// The same failure after the call succeeded.
    pub(crate) fn after_call(self) -> Self {
        match self {
            Self::Io { what, error, .. } => Self::Io { what, error, outcome: Outcome::Done },
            other => other,
        }
    }
}

/// How the error is shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    /// As JSON, whatever standard error is.
    pub(crate) json: bool,
    /// No API key was given.
    pub(crate) without_key: bool,
}

/// Prints the error, if there is one, and returns the exit code.
pub(crate) fn finish(outcome: &Result<(), Failure>, shown: Shown) -> ExitCode {
    let (code, mut report) = match outcome {
        // As in `ls | head`: that the reader has closed the pipe is not a failure.
        Ok(()) | Err(Failure::ReaderGone) => return ExitCode::SUCCESS,
        Err(Failure::Call(error)) => (exit_code(error.kind()), Report::of_call(error)),
        Err(Failure::Token(error)) => (exit_code(ErrorKind::Invalid), Report::of_token(*error)),
        Err(Failure::Io { what, error, outcome }) => (IO, Report::of_io(what, error, *outcome)),
    };
    // The page is of something in front of the server, which does not ask for the key.
    if shown.without_key && report.kind == ErrorKind::Unauthenticated.name() && report.page.is_none() {
        report.advice = "no API key was given: set CENTRIFUGO_API_KEY, or use --api-key-file".into();
    }
    let mut stderr = io::stderr();
    let text = if shown.json || !stderr.is_terminal() { report.json() } else { report.text() };
    // Standard error is closed, so this cannot be reported.
    let _ = writeln!(stderr, "{text}");
    ExitCode::from(code)
}

fn exit_code(kind: ErrorKind) -> u8 {
    EXIT_CODES.iter().find(|(_, other, _)| *other == kind).map_or(IO, |(code, ..)| *code)
}

/// The exit codes, for the help.
pub(crate) fn exit_codes() -> String {
    let mut text = String::from("Errors and exit codes:\n");
    let mut line = |code: u8, kind: &str, meaning: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {code:>2}  {kind:<15}  {meaning}");
    };
    line(0, "", "it worked, in every channel and for every message");
    line(IO, "io", "a file, a process or standard output failed");
    line(2, "", "the command line cannot be read (explained in plain text)");
    for (code, kind, meaning) in EXIT_CODES {
        line(code, kind.name(), meaning);
    }
    text.push_str(
        "\nOn a terminal an error is two lines of text: what happened, and what to do. Elsewhere, or\n\
         with --json, it is one line of JSON on standard error: {\"error\":{\"kind\":…,\"message\":…,\n\
         \"outcome\":…,\"may_have_run\":…,\"attempts\":…,\"advice\":…}}, with the server's `code`, and with\n\
         `method`, `transport`, `endpoint`, `page`, `failures` and `caused_by` where there are such.",
    );
    text
}

/// The fields of an error.
#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(serialize_with = "name")]
    outcome: Outcome,
    may_have_run: bool,
    attempts: u32,
    /// The key with which the call can be made again, if it may have run.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    advice: Cow<'static, str>,
    /// Of whoever responded with an HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a str>,
    /// The channels of a broadcast that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailedChannel<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    caused_by: Vec<String>,
}

#[derive(Serialize)]
struct FailedChannel<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    message: &'a str,
    #[serde(serialize_with = "name")]
    outcome: Outcome,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn name<S: serde::Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.name())
}

impl<'a> FailedChannel<'a> {
    fn of(part: &'a Part) -> Self {
        let error = part.error();
        Self { channel: part.name(), code: error.code(), message: error.message(), outcome: error.outcome() }
    }
}

impl<'a> Report<'a> {
    fn of_call(error: &'a Error) -> Self {
        let causes = std::iter::successors(error.source(), |&error| error.source());
        Self {
            kind: error.kind().name(),
            code: error.code(),
            message: in_options(error.message()).into_owned(),
            method: error.method(),
            transport: error.transport(),
            endpoint: error.endpoint(),
            outcome: error.outcome(),
            may_have_run: error.may_have_run(),
            // An error without a method is of the arguments: no call was made.
            attempts: if error.method().is_some() { error.attempts() } else { 0 },
            idempotency_key: error.idempotency_key().filter(|_| error.may_have_run()),
            advice: match error.kind() {
                ErrorKind::Invalid if error.method().is_none() => "correct the command line".into(),
                _ => in_options(error.advice()),
            },
            page: error.page(),
            failures: error.failures().iter().map(FailedChannel::of).collect(),
            caused_by: causes.map(ToString::to_string).collect(),
        }
    }

    /// Only for a token that was given on the command line.
    fn of_token(error: TokenError) -> Self {
        let advice = match error {
            TokenError::Expired => "issue a new one; how long it is good is its claim `exp`",
            TokenError::NotYetValid => "wait, or issue one without `nbf`; are the clocks right?",
            TokenError::Malformed => "check that it was copied as a whole",
            TokenError::Issuer | TokenError::Audience => "compare the claim with the server's configuration",
            _ => "compare the key with the server's configuration",
        };
        Self {
            kind: ErrorKind::Invalid.name(),
            message: error.to_string(),
            advice: advice.into(),
            ..Self::nothing_sent()
        }
    }

    fn nothing_sent() -> Self {
        Self {
            kind: "",
            code: None,
            message: String::new(),
            method: None,
            transport: None,
            endpoint: None,
            outcome: Outcome::NotSent,
            may_have_run: false,
            attempts: 0,
            idempotency_key: None,
            advice: Cow::Borrowed(""),
            page: None,
            failures: Vec::new(),
            caused_by: Vec::new(),
        }
    }

    fn of_io(what: &str, error: &io::Error, outcome: Outcome) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "check the permissions",
            io::ErrorKind::AddrInUse => "choose another address, or end the process that listens there",
            io::ErrorKind::StorageFull => "free some space",
            _ => "check the file, the device or the process",
        };
        Self {
            kind: "io",
            message: what.to_owned(),
            outcome,
            may_have_run: outcome == Outcome::Done,
            attempts: u32::from(outcome == Outcome::Done),
            advice: advice.into(),
            caused_by: vec![error.to_string()],
            ..Self::nothing_sent()
        }
    }

    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a Report<'a>,
        }
        // Numbers, strings and lists always have a JSON form.
        serde_json::to_string(&Envelope { error: self }).unwrap_or_default()
    }

    /// What happened, and what to do: a line each.
    fn text(&self) -> String {
        let mut text = String::from("error: ");
        // Writing to a string does not fail.
        if let (Some(method), Some(transport)) = (self.method, self.transport) {
            let _ = write!(text, "{method} over {transport}");
            if let Some(endpoint) = self.endpoint {
                let _ = write!(text, " to {endpoint}");
            }
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if let (Some(code), true) = (self.code, self.failures.is_empty()) {
            let _ = write!(text, " (code {code})");
        }
        if let Some(root) = self.caused_by.last().filter(|root| !self.message.contains(*root)) {
            let _ = write!(text, ": {root}");
        }
        text.push_str("\n  ");
        if self.method.is_some() {
            text.push_str(match self.outcome {
                Outcome::NotSent => "it was not sent",
                Outcome::Refused => "it did not take effect",
                Outcome::Unknown if !self.failures.is_empty() => "it may have taken effect in part",
                Outcome::Unknown => "it may have taken effect",
                Outcome::Done => "it took effect",
            });
            if self.attempts > 1 {
                let _ = write!(text, " ({} attempts)", self.attempts);
            }
            text.push_str("; ");
        }
        text.push_str(&self.advice);
        if let Some(key) = self.idempotency_key {
            let _ = write!(text, " (--idempotency-key {key})");
        }
        text
    }
}

/// A text of the library in the words of the command line: options in place of setters.
fn in_options(text: &str) -> Cow<'static, str> {
    const OPTIONS: [(&str, &str); 7] = [
        ("set `Tls::client_certificate` to one that", "give --client-cert and --client-key a certificate that"),
        ("`Config::pro`", "--pro"),
        ("`tls` trusts", "--ca names"),
        ("`ca_certificates`", "--ca"),
        ("the key of `client_certificate`", "--client-key"),
        ("`client_certificate` and its key", "--client-cert and --client-key"),
        ("; if that is meant, say so with `allow_clear_text_fallback`", ""),
    ];
    OPTIONS.iter().fold(text.to_owned(), |text, (setter, option)| text.replace(setter, option)).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_an_exit_code_of_its_own() {
        let codes: BTreeSet<u8> = ErrorKind::ALL.iter().map(|kind| exit_code(*kind)).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(codes.iter().all(|code| ![0, IO, 2].contains(code)), "{codes:?}");
    }

    #[test]
    fn an_error_in_text_is_what_happened_and_what_to_do() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::new(ErrorKind::Connect, "no connection could be made").with_source(refused);
        let text = Report::of_call(&error).text();
        let expected = "error: no connection could be made: connection refused\n  check the address, that the server's API \
                        is enabled there, and TLS";
        assert_eq!(text, expected);
        let missing = Report::of_io("--file x cannot be read", &io::ErrorKind::NotFound.into(), Outcome::NotSent);
        assert_eq!(missing.text(), "error: --file x cannot be read: entity not found\n  check the path");
    }

    #[test]
    fn every_error_has_the_same_fields() {
        let call = Error::new(ErrorKind::Lost, "it was lost");
        let io = Report::of_io("it cannot be read", &io::ErrorKind::NotFound.into(), Outcome::Done);
        for report in [Report::of_call(&call), io] {
            let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
            for field in ["kind", "message", "outcome", "may_have_run", "attempts", "advice"] {
                assert!(!json["error"][field].is_null(), "{field} of {json}");
            }
        }
    }

    #[test]
    fn texts_name_options_and_no_setters() {
        for (text, expected) in [
            ("the authorities that `tls` trusts", "the authorities that --ca names"),
            ("say so with `Config::pro`", "say so with --pro"),
            ("`ca_certificates` holds no certificate in PEM", "--ca holds no certificate in PEM"),
        ] {
            assert_eq!(in_options(text), expected);
        }
    }
}
