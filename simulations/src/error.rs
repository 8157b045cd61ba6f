//! Errors of reading, running and writing a simulation. Each message names the field or row to correct.

use inroad_assignment::experiment::ChangeError;
use inroad_assignment::{AllocationError, DefinitionError, KeyError};
use inroad_policy::PolicyError;
use thiserror::Error;

/// Why a scenario could not be read or run.
#[derive(Debug, Error)]
pub enum SimulationError {
    /// The text is not TOML, or has an unknown key. The message names the key and its line.
    #[error("the scenario cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// The value of a field is out of range.
    #[error("{field}: {message}")]
    Field {
        /// Path of the field in the scenario, such as `arms[1].lift`.
        field: String,
        /// What is wrong, and which values are allowed.
        message: String,
    },
    /// A row of a log is not valid.
    #[error("row {row}: {message}")]
    Row {
        /// Number of the row, from 1.
        row: u64,
        /// What is wrong, and which values are allowed.
        message: String,
    },
    /// No built-in scenario has this name.
    #[error("there is no built-in scenario {name:?}. Use one of {}", known.join(", "))]
    UnknownScenario {
        /// The name that was asked for.
        name: String,
        /// The names of all built-in scenarios.
        known: Vec<&'static str>,
    },
    /// The experiment of the scenario is not valid.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A key is malformed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A change of the experiment was refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The shares are not a valid allocation.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The policy could not decide, or an estimate failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The threads could not be started.
    #[error("the threads of the simulation could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The CSV file could not be written.
    #[error("the results could not be written: {0}")]
    Csv(#[from] csv::Error),
    /// The Parquet file could not be written.
    #[error("the results could not be written: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
}

impl SimulationError {
    /// An error about one field.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}

/// The smallest value accepted where a value must be above 0.
pub(crate) const ABOVE_ZERO: f64 = 1e-9;

/// Refuses a value outside `low..=high`. NaN is always refused.
pub(crate) fn check_range(field: &str, value: f64, low: f64, high: f64) -> Result<(), SimulationError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let range =
        if low == ABOVE_ZERO { format!("above 0 and at most {high}") } else { format!("between {low} and {high}") };
    Err(SimulationError::field(field, format!("{value} is not {range}")))
}
