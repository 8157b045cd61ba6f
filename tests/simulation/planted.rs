//! Faults that are planted to show that the simulation finds them. Each is a store that breaks its promise in one way.

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Events are acknowledged first and written with the next ones.
    AcknowledgeBeforeCommit,
    /// After a restart, one outcome more is counted than there was.
    CountTwiceAfterRestart,
    /// A revision is stored and published only after it takes effect.
    PublishLate,
    /// After a restart, control has taken back points from a variation.
    ShrinkVariation,
    /// A kill is acknowledged but not stored if another change has just been slow.
    DropKillWhenBusy,
    /// After a restart, the last tick of each experiment is forgotten.
    DecideTwice,
}
