//! The errors of a document, collected so that a person sees all of them at once, each with the field that causes it.

use std::fmt::Display;

use thiserror::Error;

/// The largest number of violations in one error.
const MAX_VIOLATIONS: usize = 32;

/// One error in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, as a path into the document: `variations[1].key`.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// All errors in a document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the experiment is not valid: {}", .violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; "))]
pub struct DefinitionError {
    /// At least one violation, at most 32.
    pub violations: Vec<Violation>,
}

/// Collects violations while a document is checked.
#[derive(Default)]
pub(crate) struct ViolationList(Vec<Violation>);

impl ViolationList {
    /// Adds a violation, unless the list is full.
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Display) {
        // A person fixes no more at once, and the error has to fit into the headers of a response.
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push(Violation { field: field.into(), message: message.to_string() });
        }
    }

    /// Adds a violation unless the field is valid.
    pub(crate) fn check(&mut self, is_valid: bool, field: &str, message: impl Display) {
        if !is_valid {
            self.add(field, message);
        }
    }

    /// Returns the value; adds a violation and returns `None` if there is an error instead.
    pub(crate) fn ok_or_add<T, E: Display>(&mut self, field: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.add(field, e)).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_error(self) -> DefinitionError {
        DefinitionError { violations: self.0 }
    }
}
