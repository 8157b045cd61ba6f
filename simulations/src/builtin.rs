//! The built-in scenarios. Their files in `scenarios/` are compiled into the crate.

use crate::SimulationError;
use crate::scenario::Scenario;

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        const TEXTS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

builtin!(
    "s1",
    "s2",
    "s3",
    "s4",
    "s5",
    "s6",
    "s7",
    "s8",
    "revenue",
    "count",
    "ratio",
    "srm",
    "stale",
    "heterogeneous",
    "aa-revenue",
);

/// The names of all built-in scenarios.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(name, _)| *name)
}

/// The TOML text of a built-in scenario; none if the name is unknown.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A built-in scenario by its name.
///
/// # Errors
///
/// No scenario has this name.
pub fn scenario(name: &str) -> Result<Scenario, SimulationError> {
    let unknown = || SimulationError::UnknownScenario { name: name.to_owned(), known: names().collect() };
    Scenario::from_toml(text(name).ok_or_else(unknown)?)
}
