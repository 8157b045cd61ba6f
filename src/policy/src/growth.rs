//! How many points each arm grows. Where on the line they are taken is up to the allocation. Probabilities enter as
//! floating-point numbers once per arm; everything after that is integer arithmetic, so that control keeps its floor to
//! the last point.
//!
//! The target of a live arm that is likely better than control is foothold + S·weight, where S is the part of the line
//! that floor and footholds leave. The growth rules differ in the weight. The default is P(best)·max(0, 1 −
//! patience·L/b), where L is the arm's expected loss and b its lift, both on the log scale. Growth cannot be undone,
//! and a better arm can never get the points of another arm. So the rule weighs the arm's present benefit against the
//! cost of being wrong.
//!
//! If the arms lack more points than the allowance (daily cap × time) or than control can give, all are scaled down
//! together.

use core::time::Duration;

use inroad_assignment::{GrowthRule, ThompsonSettings, Width};

use crate::decision_record::HoldReason;

const DAY: Duration = Duration::from_secs(86_400);
/// The share of the line that growth leaves to control until a variation is better than control beyond chance. In
/// simulations 5% delays the proof by weeks, and more than 15% costs more than it gains (docs/decisions/0018).
pub const EVIDENCE_SHARE: f64 = 0.15;
/// Fractional bits of a probability in fixed point, the precision of a double.
const PROBABILITY_BITS: u32 = 53;

/// The input of the growth targets, with one entry per arm, control first.
pub(crate) struct GrowthInput<'a> {
    pub(crate) owned: &'a [Width],
    pub(crate) foothold: &'a [Width],
    pub(crate) floor: Width,
    /// Growth rule, patience, exponent and epsilon.
    pub(crate) settings: &'a ThompsonSettings,
    pub(crate) p_best: &'a [f64],
    /// Expected loss over lift, both on the log scale, 0 or more; 0 for control.
    pub(crate) loss_to_lift: &'a [f64],
    /// Whether the arm may grow: it is live and more likely above control than below.
    pub(crate) eligible: &'a [bool],
}

impl GrowthInput<'_> {
    /// Points that each arm should own in the end, never fewer than it owns now.
    pub(crate) fn targets(&self) -> Vec<u128> {
        let line = Width::LINE.get();
        let mut spare = line.saturating_sub(self.floor.get());
        for foothold in &self.foothold[1..] {
            spare = spare.saturating_sub(foothold.get());
        }
        let mut targets: Vec<u128> = (0..self.owned.len())
            .map(|arm| {
                let owned = self.owned[arm].get();
                if arm == 0 || !self.eligible[arm] {
                    return owned;
                }
                // The product fits into 128 bits, because spare ≤ 2^64 and the weight ≤ 2^53.
                let part = |whole: u128| (whole * to_fixed_point(self.weight(arm))) >> PROBABILITY_BITS;
                let level = self.foothold[arm].get() + part(spare);
                match self.settings.rule {
                    GrowthRule::Fixed => owned,
                    GrowthRule::Chase => owned.max(part(line)),
                    GrowthRule::Weighed | GrowthRule::Level | GrowthRule::TopTwo | GrowthRule::EpsilonGreedy => {
                        owned.max(level)
                    }
                }
            })
            .collect();
        let others: u128 = targets[1..].iter().sum();
        targets[0] = line.saturating_sub(others).max(self.floor.get());
        targets
    }

    /// The weight of an arm by the growth rule, 0..=1.
    fn weight(&self, arm: usize) -> f64 {
        let w = self.p_best[arm];
        match self.settings.rule {
            GrowthRule::Fixed => 0.0,
            GrowthRule::Chase => w,
            GrowthRule::Weighed => w * (1.0 - self.settings.patience * self.loss_to_lift[arm]).max(0.0),
            // Plain multiplication keeps the results of older decisions to the last bit.
            GrowthRule::Level if self.settings.exponent == 2.0 => w * w,
            GrowthRule::Level => libm::pow(w, self.settings.exponent),
            GrowthRule::TopTwo => w * (TOP_TWO_BETA + (1.0 - TOP_TWO_BETA) * self.odds_of_others(arm)),
            GrowthRule::EpsilonGreedy => {
                let leads = self.p_best.iter().enumerate().all(|(k, p)| w > *p || (w == *p && arm <= k));
                if leads { 1.0 - self.settings.epsilon } else { 0.0 }
            }
        }
    }

    /// Σ_{j≠k} w_j/(1−w_j): the probability that arm k comes second, relative to w_k.
    fn odds_of_others(&self, arm: usize) -> f64 {
        let odds = |(k, w): (usize, &f64)| if k == arm { 0.0 } else { w / (1.0 - w).max(f64::EPSILON) };
        self.p_best.iter().enumerate().map(odds).sum()
    }
}

/// Probability that top-two sampling keeps its first choice (Russo, *Simple Bayesian Algorithms for Best Arm
/// Identification*, 2016).
const TOP_TWO_BETA: f64 = 0.5;

/// A probability in fixed point, clamped to 0..=1 and rounded down.
fn to_fixed_point(probability: f64) -> u128 {
    (probability.clamp(0.0, 1.0) * (1_u64 << PROBABILITY_BITS) as f64) as u128
}

/// The points that may change owner: `daily_cap` (0..=1) of the line per day, for the time `elapsed` since the last
/// growth. At most the allowance of one day, or of one tick if ticks are longer, so that unused allowance does not
/// accumulate into a huge step.
pub(crate) fn allowance(daily_cap: f64, elapsed: Duration, tick: Duration) -> Allowance {
    let most = tick.max(DAY);
    let over = |time: Duration| {
        let days = time.as_secs_f64() / DAY.as_secs_f64();
        Width::from_share((daily_cap * days).clamp(0.0, 1.0)).map_or(0, Width::get)
    };
    Allowance { now: over(elapsed.min(most)), most: over(most) }
}

/// How many points may change owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Points accrued so far.
    pub(crate) now: u128,
    /// The most that can ever accrue.
    pub(crate) most: u128,
}

/// Points that each arm gets now: the points that it lacks, scaled to the allowance and to control's headroom, rounded
/// down. A total below `min_step` (0..=1) is not taken, unless no more can ever accrue.
///
/// # Errors
/// The reason why no arm grows.
pub(crate) fn steps(
    owned: &[Width],
    targets: &[u128],
    floor: Width,
    allowance: Allowance,
    min_step: f64,
) -> Result<Vec<Width>, HoldReason> {
    let lacking: Vec<u128> =
        (0..owned.len()).map(|arm| if arm == 0 { 0 } else { targets[arm].saturating_sub(owned[arm].get()) }).collect();
    let total: u128 = lacking.iter().sum();
    let headroom = owned[0].get().saturating_sub(floor.get());
    if total == 0 {
        return Err(HoldReason::NoArmDeservesMore);
    }
    if headroom == 0 {
        return Err(HoldReason::NoHeadroom);
    }
    let given = total.min(allowance.now).min(headroom);
    let smallest = Width::from_share(min_step).unwrap_or(Width::LINE).get().min(allowance.most);
    if given == 0 || given < smallest {
        return Err(if headroom < total.min(allowance.now) {
            HoldReason::NoHeadroom
        } else if allowance.now < total.min(allowance.most) {
            HoldReason::Accruing
        } else {
            HoldReason::BelowMinStep
        });
    }
    let scaled = |lacks: u128| {
        if given == total { lacks } else { mul_div(lacks, given, total) }
    };
    let steps: Vec<Width> = lacking.iter().map(|&lacks| Width::new(scaled(lacks)).unwrap_or(Width::ZERO)).collect();
    Ok(steps)
}

/// ⌊a·b/c⌋ for b < c. Many arms together may lack more than the whole line, so the product can exceed 128 bits. The low
/// bits of both factors are then dropped, which rounds further down.
fn mul_div(a: u128, b: u128, c: u128) -> u128 {
    match a.checked_mul(b) {
        Some(product) => product / c,
        None => ((a >> 8) * (b >> 8) / c) << 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(value: f64) -> Width {
        Width::from_share(value).unwrap()
    }

    #[test]
    fn unused_allowance_is_limited_to_a_day_or_a_tick() {
        let line = Width::LINE.get();
        let tenth = share(0.1).get();
        let now = |cap, elapsed, tick| allowance(cap, elapsed, tick).now;
        assert_eq!(now(0.1, DAY, DAY), tenth);
        assert_eq!(now(0.1, DAY * 9, DAY / 4), tenth);
        assert_eq!(now(0.1, DAY * 9, DAY * 7), share(0.1 * 7.0).get());
        assert_eq!(now(1.0, DAY * 9, DAY * 7), line);
        assert!(now(0.1, DAY / 4, DAY).abs_diff(tenth / 4) < 1 << 16);
        assert_eq!(allowance(0.1, Duration::ZERO, DAY), Allowance { now: 0, most: tenth });
    }

    #[test]
    fn target_of_a_certain_winner_is_all_but_floor_and_other_footholds() {
        let owned = [share(0.8), share(0.1), share(0.1)];
        let growth = GrowthInput {
            owned: &owned,
            foothold: &owned,
            floor: share(0.05),
            settings: &ThompsonSettings::default(),
            p_best: &[0.0, 1.0, 0.0],
            loss_to_lift: &[0.0; 3],
            eligible: &[true, true, true],
        };
        let targets = growth.targets();
        assert_eq!(targets[1], Width::LINE.get() - share(0.05).get() - share(0.1).get());
        assert_eq!(targets[2], share(0.1).get());
        assert_eq!(targets.iter().sum::<u128>(), Width::LINE.get());
        assert_eq!(targets[0], share(0.05).get());
    }

    #[test]
    fn each_growth_rule_has_its_weight() {
        let owned = [share(0.8), share(0.1), share(0.1)];
        let target = |rule, p_best: [f64; 3]| {
            let settings = ThompsonSettings { rule, ..ThompsonSettings::default() };
            let (settings, eligible) = (&settings, &[true, true, true]);
            let (floor, loss_to_lift) = (share(0.05), &[0.0, 0.2, 0.1]);
            let growth = GrowthInput {
                owned: &owned,
                foothold: &owned,
                floor,
                settings,
                p_best: &p_best,
                loss_to_lift,
                eligible,
            };
            growth.targets()[1] as f64 / Width::LINE.get() as f64
        };
        let p_best = [0.1, 0.6, 0.3];
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
        near(target(GrowthRule::Fixed, p_best), 0.1);
        near(target(GrowthRule::Weighed, p_best), 0.1 + 0.75 * 0.6 * (1.0 - 1.5 * 0.2));
        near(target(GrowthRule::Level, p_best), 0.1 + 0.75 * 0.36);
        near(target(GrowthRule::Chase, p_best), 0.6);
        near(target(GrowthRule::EpsilonGreedy, p_best), 0.1 + 0.75 * 0.9);
        near(target(GrowthRule::EpsilonGreedy, [0.1, 0.3, 0.6]), 0.1);
        near(target(GrowthRule::TopTwo, p_best), 0.1 + 0.75 * 0.6 * (0.5 + 0.5 * (0.1 / 0.9 + 0.3 / 0.7)));
        // Top-two sampling of two arms always gives each half.
        near(target(GrowthRule::TopTwo, [0.3, 0.7, 0.0]), 0.1 + 0.75 * 0.5);
    }

    #[test]
    fn hold_reason_names_the_limit_that_applies() {
        let owned = [share(0.06), share(0.94)];
        let line = Width::LINE.get();
        let hold = |target, floor, now, min| {
            let allowance = Allowance { now, most: line };
            steps(&owned, &[0, target], share(floor), allowance, min).err()
        };
        assert_eq!(hold(0, 0.05, line, 0.0), Some(HoldReason::NoArmDeservesMore));
        assert_eq!(hold(line, 0.06, line, 0.0), Some(HoldReason::NoHeadroom));
        assert_eq!(hold(line, 0.059, line, 0.005), Some(HoldReason::NoHeadroom));
        assert_eq!(hold(line, 0.05, line / 1000, 0.005), Some(HoldReason::Accruing));
        assert_eq!(hold(line, 0.05, 0, 0.0), Some(HoldReason::Accruing));
        assert_eq!(hold(owned[1].get() + line / 1000, 0.05, line / 100, 0.005), Some(HoldReason::BelowMinStep));
        assert_eq!(hold(line, 0.05, line, 0.005), None);
    }

    #[test]
    fn daily_cap_below_the_minimum_step_grows_by_the_cap() {
        let owned = [share(0.9), share(0.1)];
        let step_after = |elapsed| {
            steps(&owned, &[0, Width::LINE.get()], share(0.05), allowance(0.003, elapsed, DAY / 24), 0.005)
                .map(|steps| steps[1])
        };
        assert_eq!(step_after(DAY / 2), Err(HoldReason::Accruing));
        assert_eq!(step_after(DAY), Ok(share(0.003)));
    }

    #[test]
    fn product_beyond_128_bits_is_rounded_down() {
        let big = (1_u128 << 64) + 12_345;
        assert!(mul_div(big, big, big + 1) <= big);
        assert!(mul_div(big, big, big + 1) > big - (1 << 24));
    }
}
