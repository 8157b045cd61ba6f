//! The error for a message that was refused.

use inroad_assignment::served::ServedError;
use thiserror::Error;

/// Why a message was refused. The sender must correct the message; sending it again does not help.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WireError {
    /// A field has an invalid value, or a required value is missing.
    #[error("{field}: {message}")]
    Field {
        /// The path of the field in the message: `variations[1].payload`.
        field: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The message exceeds a limit.
    #[error("{field} {what}, over the limit of {max}: {remedy}")]
    OverLimit {
        /// The path of the field in the message.
        field: String,
        /// What exceeds the limit, as a predicate of the field: "has too many values".
        what: &'static str,
        /// The limit.
        max: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// Each field is valid, but together they do not make an experiment that can be served.
    #[error(transparent)]
    InvalidExperiment(#[from] ServedError),
}

impl WireError {
    /// The error for one field: what is wrong, and what to do.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Field { field: field.into(), message: message.to_string() }
    }

    /// The same error with its path continued outwards: `path` is the field that contains the message with the error.
    #[must_use]
    pub fn within(self, path: &str) -> Self {
        let join = |field: String| if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") };
        match self {
            Self::Field { field, message } => Self::Field { field: join(field), message },
            Self::OverLimit { field, what, max, remedy } => Self::OverLimit { field: join(field), what, max, remedy },
            other => other,
        }
    }
}
