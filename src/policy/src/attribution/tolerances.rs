//! Which deviations leave a unit in the estimates: an outcome stamped shortly before the exposure, and a short
//! interruption of what is served. And why a unit that does not count is dropped.
//!
//! Both limits are short, because every tolerated deviation dilutes the lift: an outcome before the exposure is no effect
//! of it, and an outcome during a kill is an effect of control. All rules here are functions of points, boundaries,
//! kills and the time of the first exposure (I5).

use std::time::Duration;

use inroad_assignment::{Arm, Point, Timestamp};

use super::{Cell, Exposure, History};

/// How long before the first exposure an outcome may be stamped and still count. The clocks of the systems that report
/// them differ, and some report an exposure only after the page was shown.
pub const OUTCOME_TOLERANCE: Duration = Duration::from_secs(60);

/// The longest time in all for which a unit may be served another arm than that of its first exposure and still count:
/// a hundredth of the time in which it is followed, and never more than a minute.
pub fn interruption_limit(followed: Duration) -> Duration {
    (followed / 100).min(INTERRUPTION_MAX)
}

/// The limit of [`interruption_limit`] for long windows.
const INTERRUPTION_MAX: Duration = Duration::from_secs(60);

impl History<'_> {
    /// The first instant at which outcomes count for a unit that was first exposed at `exposed`: the tolerance before,
    /// but not before the generation started, because nothing earlier can be its effect.
    pub fn counts_from(&self, exposed: Timestamp) -> Timestamp {
        if !self.tolerates {
            return exposed;
        }
        exposed.minus(OUTCOME_TOLERANCE).max(self.generation.started_at).min(exposed)
    }

    /// Whether a unit counts in the estimates of a metric with this window: it is served the arm of its first exposure
    /// throughout, except for a short interruption.
    pub(super) fn counts_unit(&self, point: Point, first: Exposure, window: Duration) -> bool {
        self.generation.serves_except(point, first.arm, (first.at, first.at.plus(window)), self.limit(window))
    }

    fn limit(&self, window: Duration) -> Duration {
        if self.tolerates { interruption_limit(window) } else { Duration::ZERO }
    }

    /// The cell of a unit that does not count, with the reason.
    pub(super) fn dropped_cell(&self, point: Point, first: Exposure, window: Duration) -> Cell {
        let dropped = Cell { dropped: 1, ..Cell::default() };
        if !self.tolerates {
            return dropped;
        }
        let generation = self.generation;
        if generation.ended_at().is_some_and(|end| end <= first.at) {
            return Cell { dropped_after_end: 1, ..dropped };
        }
        let period = (first.at, first.at.plus(window));
        let owner = generation.revision_in_effect(first.at).map_or(Arm::CONTROL, |r| r.allocation.owner(point));
        let exposed_during_kill = first.arm != owner && generation.kills(first.at).served_arm(owner) == first.arm;
        let by_kill = exposed_during_kill || generation.owns_except(point, first.arm, period, self.limit(window));
        Cell { dropped_by_kill: u64::from(by_kill), ..dropped }
    }
}
