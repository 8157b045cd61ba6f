//! The errors of the policy, one variant for each reason that a caller can act on. The server maps them to status
//! codes.

/// Why a policy computation has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// Fewer than two arms, more than [`MAX_ARMS`](crate::MAX_ARMS), or a tally that does not have one entry per arm.
    #[error("expected {expected} arms, found {found}")]
    ArmCount {
        /// Number of arms in the rest of the input, or the nearest limit.
        expected: usize,
        /// Number of arms found.
        found: usize,
    },
    /// A tally that no set of units can produce: more conversions than records, more early conversions than
    /// conversions, or sums that are not finite.
    #[error("epoch {tick}.{revision}, arm {arm}: {s} of {n} records converted, which no set of units can produce")]
    ImpossibleTally {
        /// Calendar tick of the epoch.
        tick: i64,
        /// Revision of the epoch.
        revision: u32,
        /// Index of the arm.
        arm: usize,
        /// Records that converted.
        s: u64,
        /// Records.
        n: u64,
    },
    /// Served shares that are not probabilities with sum 1.
    #[error("epoch {tick}.{revision}: the served shares must be between 0 and 1 and sum to 1, one per arm")]
    ImpossibleShares {
        /// Calendar tick of the epoch.
        tick: i64,
        /// Revision of the epoch.
        revision: u32,
    },
    /// Two tallies of the same epoch, whose order would be undefined.
    #[error("epoch {tick}.{revision} occurs twice; give each epoch once")]
    RepeatedEpoch {
        /// Calendar tick of the epoch.
        tick: i64,
        /// Revision of the epoch.
        revision: u32,
    },
    /// Control cannot be killed, because killed arms serve control.
    #[error("control cannot be killed")]
    ControlKilled,
    /// A setting outside its range.
    #[error("{name} is out of range")]
    Setting {
        /// Name of the setting.
        name: &'static str,
    },
    /// The widths that the arms own do not cover the line exactly once.
    #[error("the arms own {owned} points instead of the whole line")]
    NotAPartition {
        /// Sum of the owned widths.
        owned: u128,
    },
    /// A matrix that must be positive definite is not. The input contains numbers beyond double precision.
    #[error("a covariance matrix is not positive definite")]
    NotPositiveDefinite,
    /// Newton's method did not converge.
    #[error("the estimate did not converge")]
    DidNotConverge,
}
