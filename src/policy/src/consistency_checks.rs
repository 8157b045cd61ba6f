//! Checks for problems that the standard error of an estimate does not show: outcomes that arrive later in one arm than
//! in another, and lifts that change over time. They warn people and do not influence growth.

use std::time::Duration;

use inroad_assignment::Timestamp;
use serde::{Deserialize, Serialize};

use crate::e3::{Estimator, Prior};
use crate::error::PolicyError;
use crate::interval::Interval;
use crate::normal::normal_cdf;
use crate::tallies::{EpochTally, Measure, checked_in_order};

/// Probability of a false alarm of one check, over all arms together.
const ALARM: f64 = 0.01;
/// Fewest events of the arm and of control in each half for a novelty check.
const EVENTS_MIN: u64 = 10;

/// The epochs whose units have all completed their `window` at `now`, with `lag` to spare for events that are reported
/// late. A final report uses only these. `tick` is the length of a calendar tick.
#[must_use]
pub fn completed_epochs(
    epochs: &[EpochTally],
    tick: Duration,
    window: Duration,
    lag: Duration,
    now: Timestamp,
) -> Vec<EpochTally> {
    let ended = |epoch: &&EpochTally| {
        let end = Timestamp::start_of_tick(epoch.epoch.tick.saturating_add(1), tick);
        end.plus(window).plus(lag) <= now
    };
    epochs.iter().filter(ended).cloned().collect()
}

/// How soon outcomes arrive in an arm, compared with control.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DelayCheck {
    /// Of the arm's units with an outcome, the part whose first outcome came in the first quarter of the window, 0 to
    /// 1.
    pub early: f64,
    /// The same for control.
    pub control_early: f64,
    /// Two-sided p-value of the difference.
    pub p_value: f64,
    /// Whether the delays differ. Recent units then favour the faster arm, so read this metric from completed units
    /// only.
    pub differs: bool,
}

/// Checks whether outcomes arrive as soon in each arm as in control. `epochs` should be [`completed_epochs`]. None for
/// control and for arms without outcomes. Fails for impossible tallies.
pub fn check_delay(arms: usize, epochs: &[EpochTally]) -> Result<Vec<Option<DelayCheck>>, PolicyError> {
    let mut counts = vec![(0_u64, 0_u64); arms];
    for epoch in checked_in_order(arms, epochs)? {
        for (count, arm) in counts.iter_mut().zip(&epoch.arms) {
            count.0 += arm.early;
            count.1 += arm.s;
        }
    }
    let (control_early, control) = counts[0];
    let check = |(arm, &(early, all)): (usize, &(u64, u64))| {
        if arm == 0 || all == 0 || control == 0 {
            return None;
        }
        let (part, control_part) = (early as f64 / all as f64, control_early as f64 / control as f64);
        let pooled = (early + control_early) as f64 / (all + control) as f64;
        let error = (pooled * (1.0 - pooled) * (1.0 / all as f64 + 1.0 / control as f64)).sqrt();
        let z = if error > 0.0 { (part - control_part) / error } else { 0.0 };
        let p_value = two_sided(z);
        let differs = p_value * ((arms - 1) as f64) < ALARM;
        Some(DelayCheck { early: part, control_early: control_part, p_value, differs })
    };
    Ok(counts.iter().enumerate().map(check).collect())
}

/// An arm's lift in the first and in the second half of the events. For a measure of differences: its difference from
/// control, in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NoveltyCheck {
    /// Lift in the first half, with its 95% interval.
    pub early: Interval,
    /// Lift in the second half, with its 95% interval.
    pub late: Interval,
    /// Two-sided p-value of the difference.
    pub p_value: f64,
    /// Whether the lift has changed, because novelty wore off or because users had to learn.
    pub changed: bool,
}

/// Checks whether lifts are constant. The epochs are split into two halves with the same number of events, and each
/// half is estimated separately (E3, no prior). None for control and if either half has too few events. Fails for
/// impossible tallies.
pub fn check_novelty(
    measure: Measure,
    arms: usize,
    epochs: &[EpochTally],
) -> Result<Vec<Option<NoveltyCheck>>, PolicyError> {
    let ordered = checked_in_order(arms, epochs)?;
    let events = |epoch: &EpochTally| epoch.arms.iter().map(|arm| arm.s).sum::<u64>();
    let half = ordered.iter().map(|epoch| events(epoch)).sum::<u64>() / 2;
    let mut counted = 0;
    let cut = ordered.iter().take_while(|epoch| {
        counted += events(epoch);
        counted <= half
    });
    let (early, late) = ordered.split_at(cut.count());
    let owned = |part: &[&EpochTally]| part.iter().map(|epoch| (*epoch).clone()).collect::<Vec<_>>();
    let (early, late) = (owned(early), owned(late));
    let mut estimator = Estimator::default();
    let first = estimator.fit_each_against_control(measure, arms, &early, Prior::Flat)?;
    let second = estimator.fit_each_against_control(measure, arms, &late, Prior::Flat)?;
    let total = |part: &[EpochTally], arm: usize| part.iter().map(|epoch| epoch.arms[arm].s).sum::<u64>();
    let check = |arm: usize| {
        let has_enough = |part: &[EpochTally]| total(part, arm) >= EVENTS_MIN && total(part, 0) >= EVENTS_MIN;
        if arm == 0 || !has_enough(&early) || !has_enough(&late) {
            return None;
        }
        // The halves of a measure of differences each have their own unit.
        let units = (first.unit.unwrap_or(1.0), second.unit.unwrap_or(1.0));
        let error = (units.0 * first.sd(arm)).hypot(units.1 * second.sd(arm));
        let p_value = two_sided((units.0 * first.mean[arm] - units.1 * second.mean[arm]) / error);
        Some(NoveltyCheck {
            early: Interval::central(&first, arm),
            late: Interval::central(&second, arm),
            p_value,
            changed: p_value * ((arms - 1) as f64) < ALARM,
        })
    };
    Ok((0..arms).map(check).collect())
}

fn two_sided(z: f64) -> f64 {
    2.0 * normal_cdf(-z.abs())
}
