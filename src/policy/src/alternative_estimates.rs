//! Alternative estimates of a lift, by methods other than E3. If they disagree with E3, the effect is not one constant
//! lift, and a person should investigate before shipping. They do not influence growth.

use crate::e3::Posterior;
use crate::error::PolicyError;
use crate::interval::{Interval, Z_95};
use crate::tallies::{EpochTally, Measure, checked_in_order};
use crate::time_blocks::{Block, blocks};

/// Two estimates of one lift disagree if they are more than this many standard errors apart.
const DISAGREEMENT: f64 = 2.0;
/// Range of relative lifts in which the batched interval is searched.
const LIFT_RANGE: (f64, f64) = (-1.0, 1e4);

/// Estimates of the lift of one arm by other methods. For a measure of differences, all of them are differences from
/// control in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlternativeEstimates {
    /// Period-weighted: every period counts by its total traffic, the same in every arm. The estimated quantity does
    /// not depend on when an arm had its traffic.
    pub period: Interval,
    /// The same as a difference of means, arm minus control, in the metric's unit of measurement.
    pub difference: Interval,
    /// Batched: one standardised contrast per block, combined with fixed weights, so that its errors are normal however
    /// shares were adapted between blocks (Zhang, Janson & Murphy, *Inference for batched bandits*, NeurIPS 2020;
    /// weights of Lehmacher & Wassmer, Biometrics 1999). 95% interval.
    pub batched: Interval,
    /// Whether E3's estimate is more than two standard errors from the period-weighted or from the batched one, by the
    /// standard errors of those two.
    pub disagrees: bool,
}

/// Alternative estimates of each arm's lift. None for control and where there are too few events. `flat` is E3 without
/// prior, each arm against control alone. Fails for impossible tallies.
pub fn alternative_estimates(
    measure: Measure,
    arms: usize,
    epochs: &[EpochTally],
    flat: &Posterior,
) -> Result<Vec<Option<AlternativeEstimates>>, PolicyError> {
    let ordered = checked_in_order(arms, epochs)?;
    let estimates = |arm: usize| if arm == 0 { None } else { estimate_arm(measure, &ordered, flat, arm) };
    Ok((0..arms).map(estimates).collect())
}

/// The same for one arm (1..). `ordered` are the sorted epochs.
pub(crate) fn estimate_arm(
    measure: Measure,
    ordered: &[&EpochTally],
    flat: &Posterior,
    arm: usize,
) -> Option<AlternativeEstimates> {
    let blocks = blocks(measure, arm, ordered);
    let (mean, variance) = weighted_means(&blocks)?;
    if measure.is_difference() {
        return difference_estimates(&blocks, (mean, variance), flat, arm);
    }
    if mean.iter().any(|mean| *mean <= 0.0) {
        return None;
    }
    let log = libm::log(mean[1] / mean[0]);
    let error = (variance[1] / (mean[1] * mean[1]) + variance[0] / (mean[0] * mean[0])).sqrt();
    let (middle, half) = (mean[1] - mean[0], Z_95 * (variance[0] + variance[1]).sqrt());
    let contrast = Contrast::new(&blocks)?;
    let from_period = (log - flat.mean[arm]).abs() / error;
    let from_batched = contrast.z(libm::expm1(flat.mean[arm])).abs();
    Some(AlternativeEstimates {
        period: Interval::from_log(log, Z_95 * error),
        difference: Interval { estimate: middle, low: middle - half, high: middle + half },
        batched: contrast.interval(),
        disagrees: from_period > DISAGREEMENT || from_batched > DISAGREEMENT,
    })
}

/// The same for differences, which need no solver: Z(D) = Σ a_b·(ȳ_kb − ȳ_0b − D)/SE_b is linear in D.
fn difference_estimates(
    blocks: &[Block],
    (mean, variance): ([f64; 2], [f64; 2]),
    flat: &Posterior,
    arm: usize,
) -> Option<AlternativeEstimates> {
    let e3 = flat.mean[arm] * flat.unit?;
    let error = (variance[0] + variance[1]).sqrt();
    let middle = mean[1] - mean[0];
    let total: f64 = blocks.iter().map(|block| block.weight).sum();
    let weight = |block: &Block| (block.weight / total / (block.variance[0] + block.variance[1])).sqrt();
    let weights: f64 = blocks.iter().map(weight).sum();
    let batched = blocks.iter().map(|block| weight(block) * (block.mean[1] - block.mean[0])).sum::<f64>() / weights;
    let around = |middle: f64, half: f64| Interval { estimate: middle, low: middle - half, high: middle + half };
    let period = around(middle, Z_95 * error);
    let disagrees = (middle - e3).abs() > DISAGREEMENT * error || (batched - e3).abs() > DISAGREEMENT / weights;
    let found =
        AlternativeEstimates { period, difference: period, batched: around(batched, Z_95 / weights), disagrees };
    [error, weights, batched].iter().all(|number| number.is_finite()).then_some(found)
}

/// Means m = Σ w·ȳ_b and variances V = Σ w²·V_b, with w = N_b/N.
fn weighted_means(blocks: &[Block]) -> Option<([f64; 2], [f64; 2])> {
    let total: f64 = blocks.iter().map(|block| block.weight).sum();
    if total <= 0.0 {
        return None;
    }
    let (mut mean, mut variance) = ([0.0; 2], [0.0; 2]);
    for block in blocks {
        let weight = block.weight / total;
        for side in 0..2 {
            mean[side] += weight * block.mean[side];
            variance[side] += weight * weight * block.variance[side];
        }
    }
    Some((mean, variance))
}

/// Z(L) = Σ a_b·(ȳ_kb − (1+L)·ȳ_0b)/SE_b(L), a_b = √(N_b/N): the distance, in standard errors, between all blocks
/// together and a relative lift L. Z decreases in L.
struct Contrast<'a> {
    blocks: &'a [Block],
    total: f64,
}

impl<'a> Contrast<'a> {
    fn new(blocks: &'a [Block]) -> Option<Self> {
        let total: f64 = blocks.iter().map(|block| block.weight).sum();
        (total > 0.0).then_some(Self { blocks, total })
    }

    fn z(&self, lift: f64) -> f64 {
        let ratio = 1.0 + lift;
        let part = |block: &Block| {
            let difference = block.mean[1] - ratio * block.mean[0];
            let error = (block.variance[1] + ratio * ratio * block.variance[0]).sqrt();
            (block.weight / self.total).sqrt() * difference / error
        };
        self.blocks.iter().map(part).sum()
    }

    /// The interval {L : |Z(L)| ≤ 1.96}, and as estimate the L with Z(L) = 0.
    fn interval(&self) -> Interval {
        let solve = |wanted: f64| {
            let (mut low, mut high) = LIFT_RANGE;
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                if self.z(middle) > wanted { low = middle } else { high = middle }
            }
            0.5 * (low + high)
        };
        Interval { estimate: solve(0.0), low: solve(Z_95), high: solve(-Z_95) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::{ArmTally, EpochKey};

    /// One unit in ten converts in control. In the other arm, which gets `share` of the units, `lift` more convert.
    fn epoch(tick: i64, units: f64, share: f64, lift: f64) -> EpochTally {
        let tally = |units: f64, rate: f64| {
            let n = units.round() as u64;
            ArmTally { first: n, n, s: (units * rate).round() as u64, ..ArmTally::default() }
        };
        let arms = vec![tally(units * (1.0 - share), 0.1), tally(units * share, 0.1 * (1.0 + lift))];
        EpochTally { epoch: EpochKey { tick, revision: 1 }, shares: vec![1.0 - share, share], arms }
    }

    #[test]
    fn batched_estimate_sees_a_lift_that_one_busy_hour_hides_from_the_period_weighted_one() {
        // Days of equal shares without a lift, days of unequal shares with a lift, and one hour of very many units, few
        // of which got the arm.
        let equal = (0..5).map(|tick| epoch(tick, 2_000.0, 0.5, 0.0));
        let unequal = (5..15).map(|tick| epoch(tick, 4_000.0, 0.05, 1.0));
        let busy = epoch(15, 400_000.0, 0.000_25, 0.0);
        let epochs: Vec<EpochTally> = equal.chain(unequal).chain([busy]).collect();
        let flat = Posterior { mean: vec![0.0, 0.1], covariance: vec![vec![0.0; 2]; 2], unit: None };
        let found = alternative_estimates(Measure::Conversion, 2, &epochs, &flat).unwrap()[1].unwrap();
        let (low, high) = (libm::log1p(found.period.low), libm::log1p(found.period.high));
        assert!(low < 0.1 && 0.1 < high, "{found:?}");
        assert!(libm::log1p(found.batched.low) > 0.1 && found.disagrees, "{found:?}");
        let agreeing = Posterior { mean: vec![0.0, libm::log1p(found.batched.estimate)], ..flat };
        assert!(!alternative_estimates(Measure::Conversion, 2, &epochs, &agreeing).unwrap()[1].unwrap().disagrees);
    }
}
