//! How far each arm grows, in whole points of the line. It knows widths and probabilities; where on the line
//! the points are taken is the allocation's business. Probabilities enter as floats once, per arm; everything after is
//! integer arithmetic, so that control's floor holds to the last point.
//!
//! Target of a live arm that is likely better than control: foothold + S·weight, with S what floor and footholds leave of the
//! line. The rules differ in how they weigh; the default is P(best)·max(0, 1 − patience·L/b), where L is the expected loss of
//! the arm and b its lift, on the log scale. Growth cannot be undone, and the points that an arm gets are lost to a
//! better one for good: so what it brings now is weighed against what being wrong would cost. Wanting more than the allowance (daily cap × time) or than control's headroom scales all wants down
//! together.

use core::time::Duration;

use inroad_assignment::{GrowthRule, ThompsonSettings, Width};

use crate::HoldReason;

const DAY: Duration = Duration::from_secs(86_400);
/// Fractional bits of a probability in fixed point: a double has no more.
const PROBABILITY_BITS: u32 = 53;

/// What growth depends on, one entry per arm, control first.
pub(crate) struct Wants<'a> {
    pub(crate) owned: &'a [Width],
    pub(crate) foothold: &'a [Width],
    pub(crate) floor: Width,
    /// Rule, exponent and epsilon.
    pub(crate) settings: &'a ThompsonSettings,
    pub(crate) p_best: &'a [f64],
    /// Expected loss over lift, both on the log scale, 0 or more; 0 for control.
    pub(crate) risk: &'a [f64],
    /// Live, and more likely above control than not.
    pub(crate) eligible: &'a [bool],
}

impl Wants<'_> {
    /// Points that each arm should own in the end; never fewer than it does.
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
                // spare ≤ 2^64 and the weight ≤ 2^53: the product fits.
                let part = |whole: u128| (whole * fixed(self.weight(arm))) >> PROBABILITY_BITS;
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

    /// What the rule makes of P(best), 0..=1.
    fn weight(&self, arm: usize) -> f64 {
        let w = self.p_best[arm];
        match self.settings.rule {
            GrowthRule::Fixed => 0.0,
            GrowthRule::Chase => w,
            GrowthRule::Weighed => w * (1.0 - self.settings.patience * self.risk[arm]).max(0.0),
            // The square of old, to the bit.
            GrowthRule::Level if self.settings.exponent == 2.0 => w * w,
            GrowthRule::Level => libm::pow(w, self.settings.exponent),
            GrowthRule::TopTwo => w * (TOP_TWO_BETA + (1.0 - TOP_TWO_BETA) * self.odds_of_others(arm)),
            GrowthRule::EpsilonGreedy => {
                let leads = self.p_best.iter().enumerate().all(|(k, p)| w > *p || (w == *p && arm <= k));
                if leads { 1.0 - self.settings.epsilon } else { 0.0 }
            }
        }
    }

    /// Σ_{j≠k} w_j/(1−w_j): how often another arm leads, redrawn until it does not.
    fn odds_of_others(&self, arm: usize) -> f64 {
        let odds = |(k, w): (usize, &f64)| if k == arm { 0.0 } else { w / (1.0 - w).max(f64::EPSILON) };
        self.p_best.iter().enumerate().map(odds).sum()
    }
}

/// How often top-two keeps its first choice (Russo, *Simple Bayesian Algorithms for Best Arm Identification*, 2016).
const TOP_TWO_BETA: f64 = 0.5;

/// A number in 0..=1 in fixed point, rounded down.
fn fixed(probability: f64) -> u128 {
    (probability.clamp(0.0, 1.0) * (1_u64 << PROBABILITY_BITS) as f64) as u128
}

/// The points that may change hands: `daily_cap` (0..=1) of the line per day, over `elapsed` since the last chance to grow,
/// but never more than one day's worth, or one tick's if ticks are longer: what nobody used must not add up to a landslide.
pub(crate) fn allowance(daily_cap: f64, elapsed: Duration, tick: Duration) -> Allowance {
    let most = tick.max(DAY);
    let over = |time: Duration| {
        let days = time.as_secs_f64() / DAY.as_secs_f64();
        Width::from_share((daily_cap * days).clamp(0.0, 1.0)).map_or(0, Width::get)
    };
    Allowance { now: over(elapsed.min(most)), most: over(most) }
}

/// How many points may change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// By now.
    pub(crate) now: u128,
    /// However long nothing grows.
    pub(crate) most: u128,
}

/// Points to give to each arm: what it lacks, scaled to the allowance and to control's headroom, rounded down. A step
/// below `min_step` (0..=1) is not taken, unless the allowance is all that can ever accrue.
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
        return Err(HoldReason::NobodyDeserves);
    }
    if headroom == 0 {
        return Err(HoldReason::NoHeadroom);
    }
    let given = total.min(allowance.now).min(headroom);
    let worth_it = Width::from_share(min_step).unwrap_or(Width::LINE).get().min(allowance.most);
    if given == 0 || given < worth_it {
        return Err(if headroom < total.min(allowance.now) {
            HoldReason::NoHeadroom
        } else if allowance.now < total.min(allowance.most) {
            HoldReason::Accruing
        } else {
            HoldReason::BelowMinStep
        });
    }
    let scaled = |want: u128| {
        if given == total { want } else { mul_div(want, given, total) }
    };
    let steps: Vec<Width> = lacking.iter().map(|&want| Width::new(scaled(want)).unwrap_or(Width::ZERO)).collect();
    Ok(steps)
}

/// ⌊a·b/c⌋ for b < c. Wants of many arms may together exceed the line, so the product need not fit in 128 bits; the low
/// bits of both then go, which rounds further down.
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
    fn an_unused_allowance_does_not_add_up() {
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
    fn a_certain_winner_is_owed_all_but_the_floor_and_the_other_footholds() {
        let owned = [share(0.8), share(0.1), share(0.1)];
        let wants = Wants {
            owned: &owned,
            foothold: &owned,
            floor: share(0.05),
            settings: &ThompsonSettings::default(),
            p_best: &[0.0, 1.0, 0.0],
            risk: &[0.0; 3],
            eligible: &[true, true, true],
        };
        let targets = wants.targets();
        assert_eq!(targets[1], Width::LINE.get() - share(0.05).get() - share(0.1).get());
        assert_eq!(targets[2], share(0.1).get());
        assert_eq!(targets.iter().sum::<u128>(), Width::LINE.get());
        assert_eq!(targets[0], share(0.05).get());
    }

    #[test]
    fn every_rule_has_its_own_weight() {
        let owned = [share(0.8), share(0.1), share(0.1)];
        let target = |rule, p_best: [f64; 3]| {
            let settings = ThompsonSettings { rule, ..ThompsonSettings::default() };
            let (settings, eligible) = (&settings, &[true, true, true]);
            let (floor, risk) = (share(0.05), &[0.0, 0.2, 0.1]);
            let wants = Wants { owned: &owned, foothold: &owned, floor, settings, p_best: &p_best, risk, eligible };
            wants.targets()[1] as f64 / Width::LINE.get() as f64
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
        // Two arms by top-two are always half and half.
        near(target(GrowthRule::TopTwo, [0.3, 0.7, 0.0]), 0.1 + 0.75 * 0.5);
    }

    #[test]
    fn the_reason_for_a_hold_is_the_one_that_binds() {
        let owned = [share(0.06), share(0.94)];
        let line = Width::LINE.get();
        let hold = |target, floor, now, min| {
            let allowance = Allowance { now, most: line };
            steps(&owned, &[0, target], share(floor), allowance, min).err()
        };
        assert_eq!(hold(0, 0.05, line, 0.0), Some(HoldReason::NobodyDeserves));
        assert_eq!(hold(line, 0.06, line, 0.0), Some(HoldReason::NoHeadroom));
        assert_eq!(hold(line, 0.059, line, 0.005), Some(HoldReason::NoHeadroom));
        assert_eq!(hold(line, 0.05, line / 1000, 0.005), Some(HoldReason::Accruing));
        assert_eq!(hold(line, 0.05, 0, 0.0), Some(HoldReason::Accruing));
        assert_eq!(hold(owned[1].get() + line / 1000, 0.05, line / 100, 0.005), Some(HoldReason::BelowMinStep));
        assert_eq!(hold(line, 0.05, line, 0.005), None);
    }

    #[test]
    fn a_cap_below_the_least_step_grows_by_the_cap() {
        let owned = [share(0.9), share(0.1)];
        let of = |elapsed| {
            steps(&owned, &[0, Width::LINE.get()], share(0.05), allowance(0.003, elapsed, DAY / 24), 0.005)
                .map(|steps| steps[1])
        };
        assert_eq!(of(DAY / 2), Err(HoldReason::Accruing));
        assert_eq!(of(DAY), Ok(share(0.003)));
    }

    #[test]
    fn products_beyond_128_bits_round_down() {
        let big = (1_u128 << 64) + 12_345;
        assert!(mul_div(big, big, big + 1) <= big);
        assert!(mul_div(big, big, big + 1) > big - (1 << 24));
    }
}
