//! What the policy can refuse, by what the caller can do about it. It knows nothing of transports or status codes.

/// Why a policy computation has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// Fewer than two arms, more than [`MAX_ARMS`](crate::MAX_ARMS), or tallies that do not name every arm.
    #[error("expected {expected} arms, found {found}")]
    ArmCount {
        /// How many arms the rest of the input speaks of (or the nearest bound).
        expected: usize,
        /// How many were found.
        found: usize,
    },
    /// A tally that no set of units can produce: more conversions than records, more early ones than all, sums that are
    /// no numbers.
    #[error("epoch {tick}.{revision}, arm {arm}: {s} of {n} records converted")]
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
    /// Served shares that are no probabilities.
    #[error("epoch {tick}.{revision}: the served shares are not a distribution over the arms")]
    ImpossibleShares {
        /// Calendar tick of the epoch.
        tick: i64,
        /// Revision of the epoch.
        revision: u32,
    },
    /// Two tallies of one epoch: which would come first is undefined.
    #[error("epoch {tick}.{revision} occurs twice")]
    RepeatedEpoch {
        /// Calendar tick of the epoch.
        tick: i64,
        /// Revision of the epoch.
        revision: u32,
    },
    /// Control cannot be killed: it is what a killed arm falls back to.
    #[error("control cannot be killed")]
    ControlKilled,
    /// A setting outside its range.
    #[error("{name} is out of range")]
    Setting {
        /// The setting's name.
        name: &'static str,
    },
    /// Owned widths that do not cover the line exactly once.
    #[error("the arms own {owned} points, not the whole line")]
    NotAPartition {
        /// Sum of the owned widths.
        owned: u128,
    },
    /// A matrix that must be positive definite is not: the input holds numbers beyond double precision.
    #[error("a covariance matrix is not positive definite")]
    NotPositiveDefinite,
    /// Newton's method did not settle.
    #[error("the estimate did not converge")]
    DidNotConverge,
}
