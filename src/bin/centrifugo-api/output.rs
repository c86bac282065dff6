//! What the command prints: results on standard output, errors on standard error, and its exit code.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use centrifugo_api::{Error, ErrorKind, Failure as Part};
use serde::Serialize;

/// Something on this machine failed: a file, a process, standard output.
const IO: u8 = 1;

/// The exit codes of errors that have a kind. 2 is clap's, for a command line it cannot read.
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
    (19, ErrorKind::Invalid, "the request or the configuration is wrong"),
    (20, ErrorKind::Closed, "the client was closed"),
    (21, ErrorKind::Full, "the publisher's capacity is used up"),
    (22, ErrorKind::Partial, "some channels of a broadcast failed"),
];

/// Why the command ends without success.
pub(crate) enum Failure {
    /// A call failed, or could not be made of what was given.
    Call(Error),
    /// Something on this machine failed.
    Io { what: String, error: io::Error },
    /// Whoever read the output has seen enough.
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

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }
}

/// Writes one line to standard output.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(line.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::io("standard output cannot be written to", error),
    })
}

/// Reads all of standard input.
pub(crate) fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    match io::Read::read_to_end(&mut io::stdin().lock(), &mut input) {
        Ok(_) => Ok(input),
        Err(error) => Err(Failure::io("standard input cannot be read", error)),
    }
}

/// Prints the error, if there is one, and says how the process ends.
pub(crate) fn finish(outcome: &Result<(), Failure>) -> ExitCode {
    let (code, report) = match outcome {
        // As for `ls | head`: that nobody reads on is no failure of this command.
        Ok(()) | Err(Failure::ReaderGone) => return ExitCode::SUCCESS,
        Err(Failure::Call(error)) => (exit_code(error.kind()), Report::of_call(error)),
        Err(Failure::Io { what, error }) => (IO, Report::of_io(what, error)),
    };
    if let Ok(text) = serde_json::to_string(&Envelope { error: report }) {
        // There is nowhere left to report that standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }
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
        "\nAn error is one line of JSON on standard error: {\"error\":{\"kind\":…,\"message\":…,\"outcome\":…,\"may_have_run\":…,\n\
         \"attempts\":…,\"advice\":…}}, with the server's `code`, and with `method`, `transport`, `endpoint` and `caused_by` where there are such.",
    );
    text
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Report<'a>,
}

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
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    may_have_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    /// With which the call can be made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
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
    outcome: &'static str,
}

impl<'a> FailedChannel<'a> {
    fn of(part: &'a Part) -> Self {
        let error = part.error();
        Self { channel: part.name(), code: error.code(), message: error.message(), outcome: error.outcome().name() }
    }
}

impl<'a> Report<'a> {
    fn of_call(error: &'a Error) -> Self {
        let causes = std::iter::successors(error.source(), |&error| error.source());
        Self {
            kind: error.kind().name(),
            code: error.code(),
            message: error.message().to_owned(),
            method: error.method(),
            transport: error.transport(),
            endpoint: error.endpoint(),
            outcome: Some(error.outcome().name()),
            may_have_run: Some(error.may_have_run()),
            attempts: Some(error.attempts()),
            idempotency_key: error.idempotency_key(),
            advice: error.advice(),
            failures: error.failures().iter().map(FailedChannel::of).collect(),
            caused_by: causes.map(ToString::to_string).collect(),
        }
    }

    fn of_io(what: &str, error: &io::Error) -> Self {
        Self {
            kind: "io",
            code: None,
            message: what.to_owned(),
            method: None,
            transport: None,
            endpoint: None,
            // The call, if there was one, may have gone well.
            outcome: None,
            may_have_run: None,
            attempts: None,
            idempotency_key: None,
            advice: "",
            failures: Vec::new(),
            caused_by: vec![error.to_string()],
        }
    }
}

/// Writes JSON anew, on one line or on many, and changes nothing else: numbers keep their digits, objects their order.
pub(crate) fn lay_out(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0;
    let mut rest = json;
    let break_line = |out: &mut String, depth: usize| {
        if pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                let end = string_end(rest);
                out.push('"');
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            '{' | '[' => {
                out.push(c);
                let inner = rest.trim_ascii_start();
                if inner.starts_with(['}', ']']) {
                    out.push_str(&inner[..1]);
                    rest = &inner[1..];
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(if pretty { ": " } else { ":" }),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Where a string ends, its last quote included, of which the first quote was taken.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
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
    fn laying_out_changes_only_the_space_between_values() {
        let json = "{ \"b\" : [1.10, {}, [ ], 18446744073709551616],\n\"a\":\"x \\\" { , : é\\\\\" }";
        let compact = lay_out(json, false);
        assert_eq!(compact, r#"{"b":[1.10,{},[],18446744073709551616],"a":"x \" { , : é\\"}"#);
        let pretty = "{\n  \"b\": [\n    1.10,\n    {},\n    [],\n    18446744073709551616\n  ],\n  \"a\": \"x \\\" { , : é\\\\\"\n}";
        assert_eq!(lay_out(json, true), pretty);
        assert_eq!(lay_out(pretty, false), compact);
    }
}
