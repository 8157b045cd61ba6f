//! The answer to "which variation?": an [`Assignment`] with its [`Reason`].

use super::ServedVariation;
use crate::allocation::Arm;
use crate::hash::Digest;
use crate::line::Point;

/// Why a unit gets its variation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The allocation decides: the unit gets the owner of its point.
    Split,
    /// An override applies. No exposure is recorded.
    Override,
    /// The unit is not in the audience: control.
    NotInAudience,
    /// The variation, or the whole experiment, is killed: control.
    Killed,
    /// The experiment is paused: the allocation decides, and no exposure is recorded.
    Paused,
    /// The experiment has not started: control.
    NotStarted,
    /// The experiment is concluded: the shipped variation.
    Concluded,
    /// The experiment is archived: the shipped variation.
    Archived,
    /// The experiment does not exist: the caller uses its default.
    UnknownExperiment,
    /// The context has no unit key, or it is neither text nor a whole number: control.
    NoUnit,
    /// The unit key is empty or too long: control.
    InvalidUnit,
    /// The client has not received a snapshot yet: the caller uses its default.
    NotReady,
}

impl Reason {
    /// The name in logs and tables, in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Override => "override",
            Self::NotInAudience => "not_in_audience",
            Self::Killed => "killed",
            Self::Paused => "paused",
            Self::NotStarted => "not_started",
            Self::Concluded => "concluded",
            Self::Archived => "archived",
            Self::UnknownExperiment => "unknown_experiment",
            Self::NoUnit => "no_unit",
            Self::InvalidUnit => "invalid_unit",
            Self::NotReady => "not_ready",
        }
    }
}

/// The variation that a unit gets, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment<'s> {
    /// The variation; `None` if the experiment is not known, so that the caller uses its default.
    pub variation: Option<&'s ServedVariation>,
    /// The index of the variation.
    pub arm: Arm,
    /// Why the unit gets it.
    pub reason: Reason,
    /// The generation that the answer is based on; 0 before the first.
    pub generation: u32,
    /// The revision that the answer is based on; 0 before the first.
    pub revision: u32,
    /// The digest of the unit; `None` if the answer does not depend on its point.
    pub digest: Option<Digest>,
    /// Whether to record an exposure when the variation is shown to the unit.
    pub records_exposure: bool,
}

impl Assignment<'_> {
    /// The answer for an unknown experiment: no variation.
    pub fn unknown(reason: Reason) -> Self {
        Self {
            variation: None,
            arm: Arm::CONTROL,
            reason,
            generation: 0,
            revision: 0,
            digest: None,
            records_exposure: false,
        }
    }

    /// The point of the unit; `None` if the answer does not depend on it.
    pub fn point(&self) -> Option<Point> {
        self.digest.map(|d| d.point())
    }
}
