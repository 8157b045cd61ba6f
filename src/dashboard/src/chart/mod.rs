//! Charts as inline SVG. Functions turn values into markup, so a chart can be viewed without a server and tested
//! without a browser. Every chart has three forms: the drawing, a sentence for screen readers, and a table.
//!
//! Colours come from CSS classes (`v0` is control; the variations cycle through `v1` to `v8`), because pages forbid
//! inline styles. A variation's number is always next to its colour, so colour is never the only distinction.

mod allocation_bar;
mod allocation_over_time;
mod draw;
mod funnel;
mod interval_bar;
mod kills;
mod lift_distribution;
mod lift_over_time;
mod scale;
mod stacked_shares;

#[cfg(test)]
mod tests;

use inroad_assignment::Timestamp;
use inroad_policy::Interval;

pub use allocation_bar::{allocation_bar, small_allocation_bar};
pub use allocation_over_time::allocation_over_time;
pub use funnel::funnel;
pub use interval_bar::interval_bar;
pub use lift_distribution::lift_distributions;
pub use lift_over_time::lifts_over_time;
pub use scale::lift_range;

/// A bucket as a range of the line, where the line runs from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Start of the range.
    pub from: f64,
    /// End of the range.
    pub to: f64,
    /// Owner; 0 is control.
    pub arm: usize,
}

/// A revision marked on a chart over time.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionMark {
    /// When the revision took effect.
    pub at: Timestamp,
    /// Revision number.
    pub number: u64,
    /// Why the revision was made, in a few words.
    pub title: String,
    /// Link to the details.
    pub href: String,
}

/// A period in which an arm served control because it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillPeriod {
    /// The killed arm; none for the whole experiment.
    pub arm: Option<usize>,
    /// Time of the kill.
    pub from: Timestamp,
    /// Time of the restore; none if the kill is still in effect.
    pub until: Option<Timestamp>,
}

/// The estimate of a variation's lift at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiftPoint {
    /// Time of the estimate.
    pub at: Timestamp,
    /// Posterior median with its 95% credible interval.
    pub lift: Interval,
    /// Always-valid interval (confidence sequence).
    pub anytime: Option<Interval>,
}

/// The axes that several lift charts share, so that they can be compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiftAxes {
    /// First time shown.
    pub from: Timestamp,
    /// Last time shown.
    pub until: Timestamp,
    /// Smallest and largest lift; see [`lift_range`].
    pub lifts: (f64, f64),
}
