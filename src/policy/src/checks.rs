//! Reasons to doubt an estimate that are not in its standard error: outcomes that arrive later in one arm than in
//! another, and lifts that fade. They know tallies by epoch, and say so; they steer nothing.

use std::time::Duration;

use inroad_assignment::Timestamp;
use serde::{Deserialize, Serialize};

use crate::tallies::in_order;
use crate::{EpochTally, Estimator, Interval, Measure, PolicyError, Prior, normal_cdf};

/// A check speaks at this probability of a false alarm, over all arms together.
const ALARM: f64 = 0.01;
/// Early and late halves are compared only where both saw so many events in every arm.
const EVENTS_MIN: u64 = 10;

/// The epochs whose units have all been followed to the end of their window at `now`, less `lag` for what is reported
/// late: what a final report counts. `tick` is the length of a calendar tick.
#[must_use]
pub fn mature(
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

/// How soon an arm's outcomes come, beside control's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DelayCheck {
    /// Of the arm's units with an outcome, the part whose first came within a quarter of the window, 0 to 1.
    pub early: f64,
    /// The same for control.
    pub control_early: f64,
    /// Of the difference being chance, two-sided.
    pub p_value: f64,
    /// The delays differ: young cohorts favour the faster arm, so this metric should be read from mature ones only.
    pub differs: bool,
}

/// Whether outcomes come as soon in each arm as in control. `epochs` should be [`mature`] ones. None for control, and
/// for arms without outcomes.
pub fn check_delay(arms: usize, epochs: &[EpochTally]) -> Result<Vec<Option<DelayCheck>>, PolicyError> {
    let mut counts = vec![(0_u64, 0_u64); arms];
    for epoch in in_order(arms, epochs)? {
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

/// An arm's lift in the first and in the second half of what is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NoveltyCheck {
    /// With its 95% interval.
    pub early: Interval,
    /// With its 95% interval.
    pub late: Interval,
    /// Of the difference being chance, two-sided.
    pub p_value: f64,
    /// The lift has changed: fading novelty, or users who had to learn.
    pub changed: bool,
}

/// Whether lifts stand still: the epochs are cut where half of the events lie on each side, and each half is estimated
/// by itself (E3, no prior). None for control, and where either half says too little.
pub fn check_novelty(
    measure: Measure,
    arms: usize,
    epochs: &[EpochTally],
) -> Result<Vec<Option<NoveltyCheck>>, PolicyError> {
    let ordered = in_order(arms, epochs)?;
    let events = |epoch: &EpochTally| epoch.arms.iter().map(|arm| arm.s).sum::<u64>();
    let half = ordered.iter().map(|epoch| events(epoch)).sum::<u64>() / 2;
    let mut seen = 0;
    let cut = ordered.iter().take_while(|epoch| {
        seen += events(epoch);
        seen <= half
    });
    let (early, late) = ordered.split_at(cut.count());
    let of = |part: &[&EpochTally]| part.iter().map(|epoch| (*epoch).clone()).collect::<Vec<_>>();
    let (early, late) = (of(early), of(late));
    let mut estimator = Estimator::default();
    let first = estimator.fit_each(measure, arms, &early, Prior::Flat)?;
    let second = estimator.fit_each(measure, arms, &late, Prior::Flat)?;
    let total = |part: &[EpochTally], arm: usize| part.iter().map(|epoch| epoch.arms[arm].s).sum::<u64>();
    let check = |arm: usize| {
        let told = |part: &[EpochTally]| total(part, arm) >= EVENTS_MIN && total(part, 0) >= EVENTS_MIN;
        if arm == 0 || !told(&early) || !told(&late) {
            return None;
        }
        let error = (first.covariance[arm][arm] + second.covariance[arm][arm]).sqrt();
        let p_value = two_sided((first.mean[arm] - second.mean[arm]) / error);
        Some(NoveltyCheck {
            early: Interval::credible(&first, arm),
            late: Interval::credible(&second, arm),
            p_value,
            changed: p_value * ((arms - 1) as f64) < ALARM,
        })
    };
    Ok((0..arms).map(check).collect())
}

fn two_sided(z: f64) -> f64 {
    2.0 * normal_cdf(-z.abs())
}
