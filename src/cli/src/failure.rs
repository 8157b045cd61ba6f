//! How a command fails: the message on standard error, as text or JSON, and the exit code.

use std::fmt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use inroad_assignment::DefinitionError;
use inroad_assignment::definition::Violation;
use inroad_wire::status::reason_of;
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::StatusExt;

/// The command line, or a file that it names, is invalid. Exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A [`UsageError`], as an [`anyhow::Error`].
pub(crate) fn usage_error(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(UsageError(message.into()))
}

/// All errors in the experiments that a file declares.
#[derive(Debug)]
pub(crate) struct InvalidDefinitions(pub(crate) Vec<Violation>);

impl fmt::Display for InvalidDefinitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "nothing was applied: {n} error{} to fix", if n == 1 { "" } else { "s" })
    }
}

impl std::error::Error for InvalidDefinitions {}

/// The server refused the only event of a command.
#[derive(Debug)]
pub(crate) struct RefusedEvent {
    /// The reason code, in UPPER_SNAKE.
    pub(crate) reason: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl fmt::Display for RefusedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the event was refused: {} ({})", self.message, self.reason)
    }
}

impl std::error::Error for RefusedEvent {}

/// An error as it is written to standard error.
struct Report {
    code: &'static str,
    /// The server's reason code, for programs.
    reason: Option<String>,
    message: String,
    violations: Vec<(String, String)>,
    exit: u8,
}

impl Report {
    fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        let field_and_message = |v: &Violation| (v.field.clone(), v.message.clone());
        if let Some(status) = error.chain().find_map(|e| e.downcast_ref::<Status>()) {
            let violations = status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
            let context: Vec<String> = error.chain().take_while(|e| !e.is::<Status>()).map(|e| e.to_string()).collect();
            let message = context.into_iter().chain([status_message(status)]).collect::<Vec<_>>().join(": ");
            // The message usually contains a single violation already.
            let violations = violations.into_iter().filter(|v| !message.contains(&v.description));
            let violations = violations.map(|v| (v.field, v.description)).collect();
            return Self { code: code_name(status), reason: reason_of(status), message, violations, exit: 1 };
        }
        if let Some(invalid) = error.downcast_ref::<InvalidDefinitions>() {
            return Self {
                code: "INVALID_ARGUMENT",
                reason: None,
                message,
                violations: invalid.0.iter().map(field_and_message).collect(),
                exit: 1,
            };
        }
        if let Some(invalid) = error.downcast_ref::<DefinitionError>() {
            let violations = invalid.violations.iter().map(field_and_message).collect();
            let message = "the experiment is not valid".to_owned();
            return Self { code: "INVALID_ARGUMENT", reason: None, message, violations, exit: 1 };
        }
        let (code, exit) = if error.is::<UsageError>() { ("USAGE", 2) } else { ("FAILED", 1) };
        Self { code, reason: None, message, violations: Vec::new(), exit }
    }

    fn json(&self, suggestion: Option<&str>) -> Value {
        let violations = self.violations.iter().map(|(field, message)| json!({"field": field, "message": message}));
        let violations: Vec<Value> = violations.collect();
        let mut error =
            json!({"code": self.code, "reason": self.reason, "message": self.message, "violations": violations});
        if let Some(suggestion) = suggestion {
            error["suggestion"] = json!(suggestion);
        }
        json!({"error": error})
    }

    fn text(&self, suggestion: Option<&str>) -> String {
        let violations = self.violations.iter().map(|(field, message)| format!("\n  {field}: {message}"));
        let suggestion = suggestion.map(|key| format!("\n  did you mean {key:?}?"));
        format!("inroad: {}{}", self.message, violations.chain(suggestion).collect::<String>())
    }
}

/// The message of a status. One that the transport made has a source; its "transport error" explains nothing, so its causes
/// are added, and what to do.
fn status_message(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let is_from_transport = source.is_some();
    let mut message = status.message().to_owned();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = inner.source();
    }
    if !is_from_transport {
        message
    } else if message.starts_with("Timeout expired") {
        "no answer arrived in time. Run the command again, with a longer --timeout if it has one.".to_owned()
    } else {
        format!(
            "the connection to the server failed ({message}). Check that it is an Inroad server and that it runs, then try again."
        )
    }
}

/// The name of a status code in gRPC.
fn code_name(status: &Status) -> &'static str {
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

/// Whether the reader of the output has closed the pipe, which is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints an error on standard error, with a similar key if there is one, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error, suggestion: Option<&str>, json: bool) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let report = Report::of(error);
    if json {
        eprintln!("{}", report.json(suggestion));
    } else {
        eprintln!("{}", report.text(suggestion));
    }
    ExitCode::from(report.exit)
}

/// Messages of the parsers in Rust's standard library and in clap, and what to say instead.
const PARSER_MESSAGES: [(&str, &str); 8] = [
    ("invalid digit found in string", "not a whole number"),
    ("cannot parse integer from empty string", "not a whole number"),
    ("number too large to fit in target type", "too large"),
    ("invalid float literal", "not a number"),
    ("cannot parse float from empty string", "not a number"),
    ("invalid socket address syntax", "not an address. Use the form 127.0.0.1:7070"),
    ("is not in 1..18446744073709551615", "is not 1 or more"),
    ("..=", " to "),
];

/// Clap's message about an invalid command line, in plain words.
fn usage_message(error: &clap::Error) -> String {
    let message = error.to_string();
    match error.kind() {
        ErrorKind::ValueValidation => {
            PARSER_MESSAGES.iter().fold(message, |message, (parser, plain)| message.replace(parser, plain))
        }
        // Clap reads variables as well, and does not say which one is wrong.
        ErrorKind::InvalidUtf8 => {
            message.replace("one or more arguments", "one or more arguments, or in an INROAD_ environment variable")
        }
        _ => message,
    }
}

/// The command, flag or value that clap suggests after a typo.
fn suggested_word(error: &clap::Error) -> Option<&str> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(word.as_str()),
        ContextValue::Strings(words) => words.first().map(String::as_str),
        _ => None,
    })
}

/// Clap's message about an invalid command line, as JSON.
fn usage_error_json(error: &clap::Error) -> Value {
    let message = usage_message(error);
    // The first paragraph; its further lines name the missing arguments or the valid values.
    let lines: Vec<&str> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = lines.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let report = Report { code: "USAGE", reason: None, message, violations: Vec::new(), exit: 2 };
    report.json(suggested_word(error))
}

/// Prints clap's message about an invalid command line, or its help, and returns the exit code.
pub(crate) fn report_usage_error(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        eprintln!("{}", usage_error_json(error));
    } else if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidUtf8) {
        eprint!("{}", usage_message(error));
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
    fn status_keeps_its_code_and_context() {
        let error = anyhow::Error::new(Status::not_found("no such experiment")).context("cannot grow");
        let report = Report::of(&error);
        assert_eq!((report.code, report.exit), ("NOT_FOUND", 1));
        assert_eq!(report.message, "cannot grow: no such experiment");
    }

    #[test]
    fn usage_error_exits_with_two() {
        let report = Report::of(&usage_error("give a unit"));
        assert_eq!((report.code, report.exit, report.message.as_str()), ("USAGE", 2, "give a unit"));
    }

    #[test]
    fn violations_are_listed_by_field() {
        let violations = vec![Violation { field: "key".to_owned(), message: "is empty".to_owned() }];
        let report = Report::of(&anyhow::Error::new(InvalidDefinitions(violations)));
        let json = report.json(None);
        assert_eq!(json["error"]["violations"][0]["field"], "key");
        assert_eq!(json["error"]["message"], "nothing was applied: 1 error to fix");
        assert!(json["error"].get("suggestion").is_none());
        assert_eq!(report.text(None), "inroad: nothing was applied: 1 error to fix\n  key: is empty");
    }

    #[test]
    fn suggestion_follows_the_message() {
        let report = Report::of(&anyhow::Error::new(Status::not_found("there is no experiment \"chekout\"")));
        let text = report.text(Some("checkout"));
        assert_eq!(text, "inroad: there is no experiment \"chekout\"\n  did you mean \"checkout\"?");
        assert_eq!(report.json(Some("checkout"))["error"]["suggestion"], "checkout");
    }

    fn invalid_command_line(words: &[&str]) -> clap::Error {
        let number = clap::Arg::new("n").long("number").value_parser(clap::value_parser!(u16).range(1..=9));
        let share = clap::Arg::new("s").long("share").value_parser(clap::value_parser!(f64));
        let kind = clap::Arg::new("k").long("kind").value_parser(["uniform", "other"]);
        let command = clap::Command::new("inroad").args([number, share, kind]).subcommand(clap::Command::new("apply"));
        command.try_get_matches_from([&["inroad"], words].concat()).unwrap_err()
    }

    #[test]
    fn invalid_value_is_reported_in_plain_words() {
        for (words, expected) in [
            (["--number", "two"], "not a whole number"),
            (["--number", "12"], "12 is not in 1 to 9"),
            (["--share", "much"], "not a number"),
        ] {
            let error = invalid_command_line(&words);
            assert!(usage_message(&error).contains(expected), "{}", usage_message(&error));
        }
    }

    #[test]
    fn usage_error_as_json_has_the_suggestion() {
        for (words, similar) in
            [(&["aply"][..], "apply"), (&["--nummer", "1"], "--number"), (&["--kind", "unifrm"], "uniform")]
        {
            let json = usage_error_json(&invalid_command_line(words));
            assert_eq!(
                (&json["error"]["code"], &json["error"]["suggestion"]),
                (&json!("USAGE"), &json!(similar)),
                "{json}"
            );
        }
        let json = usage_error_json(&invalid_command_line(&["--number", "two"]));
        assert!(json["error"].get("suggestion").is_none(), "{json}");
    }

    #[test]
    fn usage_error_as_json_names_missing_arguments_and_valid_values() {
        let needed = clap::Arg::new("unit").long("unit").required(true);
        let kind = clap::Arg::new("k").long("kind").value_parser(["uniform", "other"]);
        let command = clap::Command::new("inroad").args([needed, kind]);
        let message = |words: &[&str]| {
            let error = command.clone().try_get_matches_from([&["inroad"], words].concat()).unwrap_err();
            usage_error_json(&error)["error"]["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(message(&[]), "the following required arguments were not provided: --unit <unit>");
        assert!(message(&["--unit", "a", "--kind", "x"]).ends_with("[possible values: uniform, other]"));
    }

    #[test]
    fn failed_connection_says_what_to_do() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let mut status = Status::unknown("transport error");
        status.set_source(std::sync::Arc::new(reset));
        assert!(status_message(&status).starts_with("the connection to the server failed (transport error: "));
        let mut status = Status::cancelled("Timeout expired");
        status.set_source(std::sync::Arc::new(std::io::Error::other("transport error")));
        assert!(status_message(&status).starts_with("no answer arrived in time"));
        assert_eq!(status_message(&Status::unknown("sent by the server")), "sent by the server");
    }

    #[test]
    fn closed_pipe_is_no_failure() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::new(gone)));
        let other = Err::<(), _>(std::io::Error::other("x")).context("y").unwrap_err();
        assert!(!is_broken_pipe(&other));
    }
}
