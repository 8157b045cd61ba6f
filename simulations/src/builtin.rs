//! The scenarios that come with the crate, by name.

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

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(name, _)| *name)
}

/// A scenario's TOML.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A scenario by its name.
pub fn scenario(name: &str) -> Result<Scenario, SimulationError> {
    Scenario::from_toml(text(name).ok_or_else(|| SimulationError::Unknown(name.to_owned()))?)
}
