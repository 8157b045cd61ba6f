//! Second opinions on a lift, by other roads than E3's: if they disagree with it, the effect is not one constant lift,
//! and a person should look before anything is shipped. They steer nothing.

use crate::blocks::{Block, blocks};
use crate::tallies::in_order;
use crate::{EpochTally, Interval, Measure, PolicyError, Posterior};

/// Standard deviations either side of the mean that hold 95% of a normal.
pub const Z_95: f64 = 1.959_963_984_540_054;
/// How many standard errors apart two estimates of one lift may lie.
const DISAGREEMENT: f64 = 2.0;
/// Relative lifts between which the batched interval is looked for.
const LIFT_RANGE: (f64, f64) = (-1.0, 1e4);

/// What others make of the lift of one arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opinion {
    /// Period-weighted: every stretch of time counts by its traffic, in every arm alike. Its estimand does not depend on
    /// when an arm had its traffic.
    pub period: Interval,
    /// The same as a difference of means, arm less control, in the metric's unit.
    pub difference: Interval,
    /// Batched: one standardised contrast a block, combined with fixed weights, so that its errors are normal however
    /// shares were adapted between blocks (Zhang, Janson & Murphy, *Inference for batched bandits*, NeurIPS 2020; weights
    /// of Lehmacher & Wassmer, Biometrics 1999). 95% interval.
    pub batched: Interval,
    /// E3's estimate lies more than two standard errors from the period-weighted or from the batched one, by their errors.
    pub disagrees: bool,
}

/// A second opinion on each arm's lift; none for control and where there are too few events. `flat` is E3 without
/// prior, each arm against control alone.
pub fn opinions(
    measure: Measure,
    arms: usize,
    epochs: &[EpochTally],
    flat: &Posterior,
) -> Result<Vec<Option<Opinion>>, PolicyError> {
    let ordered = in_order(arms, epochs)?;
    let of = |arm: usize| if arm == 0 { None } else { opinion(measure, &ordered, flat, arm) };
    Ok((0..arms).map(of).collect())
}

/// The same on one arm (1..); `ordered` in their own order.
pub(crate) fn opinion(measure: Measure, ordered: &[&EpochTally], flat: &Posterior, arm: usize) -> Option<Opinion> {
    let blocks = blocks(measure, arm, ordered);
    let (mean, variance) = weighted(&blocks)?;
    if mean.iter().any(|mean| *mean <= 0.0) {
        return None;
    }
    let log = libm::log(mean[1] / mean[0]);
    let error = (variance[1] / (mean[1] * mean[1]) + variance[0] / (mean[0] * mean[0])).sqrt();
    let (middle, half) = (mean[1] - mean[0], Z_95 * (variance[0] + variance[1]).sqrt());
    let contrast = Contrast::of(&blocks)?;
    let from_period = (log - flat.mean[arm]).abs() / error;
    let from_batched = contrast.z(libm::expm1(flat.mean[arm])).abs();
    Some(Opinion {
        period: Interval::from_log(log, Z_95 * error),
        difference: Interval { estimate: middle, low: middle - half, high: middle + half },
        batched: contrast.interval(),
        disagrees: from_period > DISAGREEMENT || from_batched > DISAGREEMENT,
    })
}

/// m = Σ w·ȳ_b and V = Σ w²·V_b with w = N_b/N.
fn weighted(blocks: &[Block]) -> Option<([f64; 2], [f64; 2])> {
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

/// Z(L) = Σ a_b·(ȳ_kb − (1+L)·ȳ_0b)/SE_b(L), a_b = √(N_b/N): how many standard errors the blocks together lie from a
/// relative lift L. It falls in L.
struct Contrast<'a> {
    blocks: &'a [Block],
    total: f64,
}

impl<'a> Contrast<'a> {
    fn of(blocks: &'a [Block]) -> Option<Self> {
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

    /// {L : |Z(L)| ≤ 1.96}, and where Z is 0.
    fn interval(&self) -> Interval {
        let reach = |wanted: f64| {
            let (mut low, mut high) = LIFT_RANGE;
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                if self.z(middle) > wanted { low = middle } else { high = middle }
            }
            0.5 * (low + high)
        };
        Interval { estimate: reach(0.0), low: reach(Z_95), high: reach(-Z_95) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArmTally, EpochKey};

    /// One in ten converts in control; `lift` says how many more do in the other arm, which `share` of the units get.
    fn epoch(tick: i64, units: f64, share: f64, lift: f64) -> EpochTally {
        let tally = |units: f64, rate: f64| {
            let n = units.round() as u64;
            ArmTally { first: n, n, s: (units * rate).round() as u64, ..ArmTally::default() }
        };
        let arms = vec![tally(units * (1.0 - share), 0.1), tally(units * share, 0.1 * (1.0 + lift))];
        EpochTally { epoch: EpochKey { tick, revision: 1 }, shares: vec![1.0 - share, share], arms }
    }

    #[test]
    fn what_one_crowded_hour_hides_from_the_period_weighted_the_batched_estimate_sees() {
        // Even days without a lift; lopsided ones with one, when control was large; and an hour of very many units of
        // whom hardly any got the arm.
        let even = (0..5).map(|tick| epoch(tick, 2_000.0, 0.5, 0.0));
        let lopsided = (5..15).map(|tick| epoch(tick, 4_000.0, 0.05, 1.0));
        let crowded = epoch(15, 400_000.0, 0.000_25, 0.0);
        let epochs: Vec<EpochTally> = even.chain(lopsided).chain([crowded]).collect();
        let flat = Posterior { mean: vec![0.0, 0.1], covariance: vec![vec![0.0; 2]; 2] };
        let opinion = opinions(Measure::Conversion, 2, &epochs, &flat).unwrap()[1].unwrap();
        let (low, high) = (libm::log1p(opinion.period.low), libm::log1p(opinion.period.high));
        assert!(low < 0.1 && 0.1 < high, "{opinion:?}");
        assert!(libm::log1p(opinion.batched.low) > 0.1 && opinion.disagrees, "{opinion:?}");
        let agreeing = Posterior { mean: vec![0.0, libm::log1p(opinion.batched.estimate)], ..flat };
        assert!(!opinions(Measure::Conversion, 2, &epochs, &agreeing).unwrap()[1].unwrap().disagrees);
    }
}
