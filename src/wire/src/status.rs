//! Errors as gRPC carries them: a code, a message that says what to do, and details that programs can read.
//!
//! Details travel in headers, which have limits of their own: long texts are cut, and of many faults the first are
//! listed and the rest counted.

use std::collections::HashMap;
use std::time::Duration;

use inroad_assignment::definition::DefinitionError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::WireError;

/// Who the reasons in error details belong to.
pub const DOMAIN: &str = "inroad.dev";

const MAX_MESSAGE_BYTES: usize = 1024;
const MAX_VIOLATIONS_BYTES: usize = 3 * 1024;

/// An error with a reason, in UPPER_SNAKE, that programs can tell from others.
pub fn status(code: Code, reason: &'static str, message: impl AsRef<str>) -> Status {
    with_details(code, reason, message.as_ref(), ErrorDetails::new())
}

/// INVALID_ARGUMENT, with what is wrong at which field.
pub fn invalid<F: Into<String>, M: AsRef<str>>(
    reason: &'static str,
    message: impl AsRef<str>,
    violations: impl IntoIterator<Item = (F, M)>,
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_bad_request(bounded(violations.into_iter().map(|(f, m)| (f.into(), m))));
    with_details(Code::InvalidArgument, reason, message.as_ref(), details)
}

/// INVALID_ARGUMENT for fields that are not what they have to be; the message tells the first of them.
pub fn invalid_fields<F: Into<String>, M: Into<String>>(faults: impl IntoIterator<Item = (F, M)>) -> Status {
    let faults: Vec<(String, String)> = faults.into_iter().map(|(f, m)| (f.into(), m.into())).collect();
    let message = match faults.as_slice() {
        [] => "the request is not well formed".to_owned(),
        [(field, message)] => format!("{field}: {message}"),
        [(field, message), ..] => format!("{} faults; the first is {field}: {message}", faults.len()),
    };
    invalid("INVALID_FIELD", message, faults)
}

/// INVALID_ARGUMENT for a definition, with every fault at its field.
pub fn invalid_definition(error: &DefinitionError) -> Status {
    invalid_fields(error.violations.iter().map(|v| (v.field.as_str(), v.message.as_str())))
}

/// RESOURCE_EXHAUSTED, with how long to wait before trying again.
pub fn busy(reason: &'static str, message: impl AsRef<str>, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(retry_after));
    with_details(Code::ResourceExhausted, reason, message.as_ref(), details)
}

fn with_details(code: Code, reason: &'static str, message: &str, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, cut(message, MAX_MESSAGE_BYTES), details)
}

/// As much of a text as fits, cut between characters.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= max.saturating_sub('…'.len_utf8())).last();
    format!("{}…", &text[..end.unwrap_or(0)])
}

/// As many faults as fit, and how many more there are.
fn bounded<M: AsRef<str>>(faults: impl Iterator<Item = (String, M)>) -> Vec<FieldViolation> {
    let (mut listed, mut bytes, mut left) = (Vec::new(), 0, 0usize);
    for (field, message) in faults {
        let (field, message) = (cut(&field, 256), cut(message.as_ref(), 512));
        bytes += field.len() + message.len();
        if left == 0 && bytes <= MAX_VIOLATIONS_BYTES {
            listed.push(FieldViolation::new(field, message));
        } else {
            left += 1;
        }
    }
    if left > 0 {
        listed.push(FieldViolation::new("", format!("and {left} more: put these right first")));
    }
    listed
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        match error {
            WireError::Field { field, message } => invalid_fields([(field, message)]),
            WireError::TooMuch { field, .. } => invalid("TOO_MUCH", &message, [(field, &message)]),
            WireError::Served(_) => status(Code::InvalidArgument, "INVALID_SNAPSHOT", message),
        }
    }
}

/// How long a server asks its caller to wait before trying again.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// The reason that programs can tell an error by, if it is one of ours.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// An error told to a person: the message, then a line for each fault that it does not already tell, then when to try
/// again.
pub fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    // A single fault is what the message is about.
    let single = violations.len() == 1 && violations.iter().all(|v| text.contains(&v.description));
    for violation in violations.iter().filter(|_| !single) {
        let FieldViolation { field, description, .. } = violation;
        text.push_str(&if field.is_empty() {
            format!("\n  {description}")
        } else {
            format!("\n  {field}: {description}")
        });
    }
    if let Some(delay) = retry_delay(status) {
        text.push_str(&format!("\n  try again in {delay:?}"));
    }
    text
}
