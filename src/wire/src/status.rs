//! Errors as gRPC statuses: a code, a message that says what to do, and details for programs.
//!
//! Details are sent in headers, whose size is limited. So long texts are shortened, and if there are many errors, only
//! the first are listed and the rest are counted.

use std::collections::HashMap;
use std::time::Duration;

use inroad_assignment::definition::DefinitionError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::WireError;

/// The domain of the reasons in error details.
pub const DOMAIN: &str = "inroad.dev";

const MAX_MESSAGE_BYTES: usize = 1024;
const MAX_VIOLATIONS_BYTES: usize = 3 * 1024;

/// A status with a reason in UPPER_SNAKE, from which programs recognise the error.
pub fn status(code: Code, reason: &'static str, message: impl AsRef<str>) -> Status {
    with_details(code, reason, message.as_ref(), ErrorDetails::new())
}

/// INVALID_ARGUMENT with the invalid fields and what is wrong with each.
pub fn invalid_argument<F: Into<String>, M: AsRef<str>>(
    reason: &'static str,
    message: impl AsRef<str>,
    violations: impl IntoIterator<Item = (F, M)>,
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_bad_request(limit_violations(violations.into_iter().map(|(f, m)| (f.into(), m))));
    with_details(Code::InvalidArgument, reason, message.as_ref(), details)
}

/// INVALID_ARGUMENT for invalid fields; the message contains the first error.
pub fn invalid_fields<F: Into<String>, M: Into<String>>(errors: impl IntoIterator<Item = (F, M)>) -> Status {
    let errors: Vec<(String, String)> = errors.into_iter().map(|(f, m)| (f.into(), m.into())).collect();
    let message = match errors.as_slice() {
        [] => "the request is not valid".to_owned(),
        [(field, message)] => format!("{field}: {message}"),
        [(field, message), ..] => format!("{} errors; the first is {field}: {message}", errors.len()),
    };
    invalid_argument("INVALID_FIELD", message, errors)
}

/// INVALID_ARGUMENT for a definition, with every error at its field.
pub fn invalid_definition(error: &DefinitionError) -> Status {
    invalid_fields(error.violations.iter().map(|v| (v.field.as_str(), v.message.as_str())))
}

/// RESOURCE_EXHAUSTED with the time to wait before trying again.
pub fn resource_exhausted(reason: &'static str, message: impl AsRef<str>, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(retry_after));
    with_details(Code::ResourceExhausted, reason, message.as_ref(), details)
}

/// UNAVAILABLE with the time to wait before trying again.
pub fn unavailable(reason: &'static str, message: impl AsRef<str>, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(retry_after));
    with_details(Code::Unavailable, reason, message.as_ref(), details)
}

fn with_details(code: Code, reason: &'static str, message: &str, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, truncate(message, MAX_MESSAGE_BYTES), details)
}

/// The text, shortened to at most `max` bytes between two characters.
fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= max.saturating_sub('…'.len_utf8())).last();
    format!("{}…", &text[..end.unwrap_or(0)])
}

/// As many violations as fit, and the number of the others.
fn limit_violations<M: AsRef<str>>(violations: impl Iterator<Item = (String, M)>) -> Vec<FieldViolation> {
    let (mut listed, mut bytes, mut left) = (Vec::new(), 0, 0usize);
    for (field, message) in violations {
        let (field, message) = (truncate(&field, 256), truncate(message.as_ref(), 512));
        bytes += field.len() + message.len();
        if left == 0 && bytes <= MAX_VIOLATIONS_BYTES {
            listed.push(FieldViolation::new(field, message));
        } else {
            left += 1;
        }
    }
    if left > 0 {
        listed.push(FieldViolation::new("", format!("and {left} more: fix these first")));
    }
    listed
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        match error {
            WireError::Field { field, message } => invalid_fields([(field, message)]),
            WireError::OverLimit { field, .. } => invalid_argument("TOO_MUCH", &message, [(field, &message)]),
            WireError::InvalidExperiment(_) => status(Code::InvalidArgument, "INVALID_SNAPSHOT", message),
        }
    }
}

/// How long the server asks the caller to wait before trying again.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// The reason from which programs recognise the error; `None` if the status is not from Inroad.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// The text of an error for a person: the message, one line for each violation that is not in the message already, and
/// when to try again.
pub fn describe_status(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    // If there is one violation, the message already contains it.
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
