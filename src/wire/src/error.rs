//! Why a message was refused.

use inroad_assignment::served::ServedError;
use thiserror::Error;

/// Why a message cannot be taken: it has to be put right where it was made, sending it again will not help.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WireError {
    /// A field holds what it cannot hold, or lacks what it needs.
    #[error("{field}: {message}")]
    Field {
        /// Where, as a path into the message: `variations[1].payload`.
        field: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// More than a message may carry.
    #[error("{field} {what}, over the limit of {max}: {remedy}")]
    TooMuch {
        /// Where.
        field: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        max: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// The fields are well formed, and together they are no experiment that can be served.
    #[error(transparent)]
    Served(#[from] ServedError),
}

impl WireError {
    /// A field and what is wrong with it.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Field { field: field.into(), message: message.to_string() }
    }

    /// The same error, seen from the message that the erring one is a part of.
    #[must_use]
    pub fn within(self, path: &str) -> Self {
        let join = |field: String| if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") };
        match self {
            Self::Field { field, message } => Self::Field { field: join(field), message },
            Self::TooMuch { field, what, max, remedy } => Self::TooMuch { field: join(field), what, max, remedy },
            whole => whole,
        }
    }
}
