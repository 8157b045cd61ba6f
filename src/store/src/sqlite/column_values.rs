//! Converts values of SQLite's columns, and reports values that Inroad cannot have written.

use inroad_assignment::Arm;

use crate::error::StoreError;
use serde::{Deserialize, Serialize};

/// The error for a stored value that cannot be right. `what` names the column.
pub(crate) fn corrupt(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { path: String::new(), detail: format!("{what}: {why}") }
}

/// An arm from its index in a column.
pub(crate) fn arm_from_column(index: i64) -> Result<Arm, StoreError> {
    let arm = usize::try_from(index).ok().and_then(Arm::new);
    arm.ok_or_else(|| corrupt("arm", format!("{index} is not the index of a variation")))
}

/// A limit or a place in the log as SQLite's signed integer; values beyond its range become its maximum.
pub(crate) fn to_sql_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A value as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Database(format!("cannot write JSON: {error}")))
}

/// A value from a column with JSON text; `what` names the column.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| corrupt(what, error))
}
