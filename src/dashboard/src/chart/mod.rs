//! Plots as inline SVG: values in, markup out, so that a plot can be looked at without a server and tested without a
//! browser. Every plot says the same three times: drawn, in one sentence for who cannot see it, and as a table.
//!
//! Colours come from classes (`v0` is control, `v1` to `v8` go round among variations), because pages forbid inline
//! styles; no arm is told by its colour alone: its number stands beside it.

mod allocation;
mod draw;
mod funnel;
mod killed;
mod lift;
mod posterior;
mod scale;
mod small;
mod strip;
pub mod text;

#[cfg(test)]
mod tests;

use inroad_assignment::Timestamp;
use inroad_policy::Interval;

pub use allocation::allocation_over_time;
pub use funnel::funnel;
pub use lift::lifts_over_time;
pub use posterior::posteriors;
pub use scale::lift_range;
pub use small::interval_bar;
pub use strip::{strip, strip_small};

/// A stretch of the line, 0 to 1, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Where it starts.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// 0 is control.
    pub arm: usize,
}

/// A revision, on a plot over time.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionMark {
    /// When it took effect.
    pub at: Timestamp,
    /// Its number.
    pub number: u64,
    /// What it was, in a few words.
    pub title: String,
    /// Where all of it can be read.
    pub href: String,
}

/// That an arm served control, on a plot over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// Who; none for the whole experiment.
    pub arm: Option<usize>,
    /// When it was killed.
    pub from: Timestamp,
    /// When it was restored; none if it is still killed.
    pub until: Option<Timestamp>,
}

/// What was known of a variation's lift at an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiftPoint {
    /// When.
    pub at: Timestamp,
    /// The posterior's middle and 95%.
    pub lift: Interval,
    /// The confidence sequence.
    pub anytime: Option<Interval>,
}

/// What plots side by side share, so that they can be compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// The first instant.
    pub from: Timestamp,
    /// The last.
    pub until: Timestamp,
    /// Smallest and largest lift; see [`lift_range`].
    pub lifts: (f64, f64),
}
