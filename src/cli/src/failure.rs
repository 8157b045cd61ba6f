//! How a command fails: what is said on standard error, in words or as JSON, and which exit code the shell sees.

use std::fmt;
use std::process::ExitCode;

use inroad_assignment::DefinitionError;
use inroad_assignment::definition::Violation;
use inroad_wire::status::reason_of;
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::StatusExt;

/// The command line, or a file it names, asks for something that cannot be meant. Exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error, as an [`anyhow::Error`].
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// A file declares experiments with faults in them: all of them.
#[derive(Debug)]
pub(crate) struct Faulty(pub(crate) Vec<Violation>);

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "nothing was applied: {n} fault{} to mend", if n == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Faulty {}

/// What goes out on standard error.
struct Report {
    code: &'static str,
    /// What programs tell errors of the server by.
    reason: Option<String>,
    message: String,
    violations: Vec<(String, String)>,
    exit: u8,
}

impl Report {
    fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        let of = |v: &Violation| (v.field.clone(), v.message.clone());
        if let Some(status) = error.chain().find_map(|e| e.downcast_ref::<Status>()) {
            let violations = status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
            let context: Vec<String> = error.chain().take_while(|e| !e.is::<Status>()).map(|e| e.to_string()).collect();
            let said = said(status);
            let message = context.into_iter().chain([said]).collect::<Vec<_>>().join(": ");
            // A single fault is mostly what the message is about.
            let violations = violations.into_iter().filter(|v| !message.contains(&v.description));
            let violations = violations.map(|v| (v.field, v.description)).collect();
            return Self { code: code_name(status), reason: reason_of(status), message, violations, exit: 1 };
        }
        if let Some(faulty) = error.downcast_ref::<Faulty>() {
            return Self {
                code: "INVALID_ARGUMENT",
                reason: None,
                message,
                violations: faulty.0.iter().map(of).collect(),
                exit: 1,
            };
        }
        if let Some(faulty) = error.downcast_ref::<DefinitionError>() {
            let violations = faulty.violations.iter().map(of).collect();
            let message = "the experiment is not well formed".to_owned();
            return Self { code: "INVALID_ARGUMENT", reason: None, message, violations, exit: 1 };
        }
        let usage = error.is::<Usage>();
        let (code, exit) = if usage { ("USAGE", 2) } else { ("FAILED", 1) };
        Self { code, reason: None, message, violations: Vec::new(), exit }
    }

    fn json(&self) -> Value {
        let violations = self.violations.iter().map(|(field, message)| json!({"field": field, "message": message}));
        let violations: Vec<Value> = violations.collect();
        json!({
            "error": {"code": self.code, "reason": self.reason, "message": self.message, "violations": violations},
        })
    }
}

/// What a status says; tonic's own "transport error" says nothing, what lies behind it does.
fn said(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut message = status.message().to_owned();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = inner.source();
    }
    message
}

/// A status code as the wire spells it.
pub(crate) fn code_name(status: &Status) -> &'static str {
    use tonic::Code;
    match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the reader of our output has gone, which is his right and no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Tells standard error what went wrong, and the shell that it did.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let report = Report::of(error);
    if json {
        eprintln!("{}", report.json());
    } else {
        eprintln!("inroad: {}", report.message);
        for (field, message) in &report.violations {
            eprintln!("  {field}: {message}");
        }
    }
    ExitCode::from(report.exit)
}

/// The same for a command line that clap refused.
pub(crate) fn report_usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        eprintln!("{}", json!({"error": {"code": "USAGE", "reason": null, "message": first, "violations": []}}));
    } else if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_status_keeps_its_code_and_its_context() {
        let error = anyhow::Error::new(Status::not_found("no such experiment")).context("cannot grow");
        let report = Report::of(&error);
        assert_eq!((report.code, report.exit), ("NOT_FOUND", 1));
        assert_eq!(report.message, "cannot grow: no such experiment");
    }

    #[test]
    fn a_usage_error_exits_with_two() {
        let report = Report::of(&usage("give a unit"));
        assert_eq!((report.code, report.exit, report.message.as_str()), ("USAGE", 2, "give a unit"));
    }

    #[test]
    fn violations_are_listed_by_field() {
        let faults = vec![Violation { field: "key".to_owned(), message: "is empty".to_owned() }];
        let json = Report::of(&anyhow::Error::new(Faulty(faults))).json();
        assert_eq!(json["error"]["violations"][0]["field"], "key");
        assert_eq!(json["error"]["message"], "nothing was applied: 1 fault to mend");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::new(gone)));
        let other = Err::<(), _>(std::io::Error::other("x")).context("y").unwrap_err();
        assert!(!is_broken_pipe(&other));
    }
}
