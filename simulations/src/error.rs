//! What a simulation can refuse, by what whoever wrote the scenario can do about it.

use inroad_assignment::experiment::ChangeError;
use inroad_assignment::{AllocationError, DefinitionError, KeyError};
use inroad_policy::PolicyError;
use thiserror::Error;

/// Why a scenario could not be read or run.
#[derive(Debug, Error)]
pub enum SimulationError {
    /// The text is no TOML, or has a field that scenarios do not have; the message names it and its line.
    #[error("the scenario cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// A field holds what no world can have.
    #[error("{field}: {message}")]
    Field {
        /// Where, as a path into the scenario: `arms[1].lift`.
        field: String,
        /// What, and what to do.
        message: String,
    },
    /// A row of a log holds what no log can have.
    #[error("row {row}: {message}")]
    Row {
        /// Which, from 1.
        row: u64,
        /// What, and what to do.
        message: String,
    },
    /// No scenario of this name comes with the crate.
    #[error("there is no scenario {0:?}: give one of {names}", names = crate::builtin::names().collect::<Vec<_>>().join(", "))]
    Unknown(String),
    /// The scenario makes no experiment.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A key is malformed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A change was refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Shares make no allocation.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The threads could not be started.
    #[error("the threads of the simulation could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The results could not be written.
    #[error("the results could not be written: {0}")]
    Csv(#[from] csv::Error),
    /// The results could not be written.
    #[error("the results could not be written: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
}

impl SimulationError {
    /// Finds fault with one field.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}
