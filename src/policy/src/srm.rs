//! Sample ratio mismatch: do the first exposures fall on the arms as the served shares say? If not, units are being
//! lost or misrouted, and no estimate made from the rest may move traffic. It knows counts and shares, not outcomes.
//!
//! Shares change, so expectations are summed over epochs, never taken from the shares of the day. Arms that were served
//! nothing in an epoch (killed ones) take no part in it.

use core::time::Duration;

use inroad_assignment::Timestamp;
use serde::{Deserialize, Serialize};

use crate::gamma::chi_squared_tail;
use crate::normal::normal_cdf;
use crate::tallies::in_order;
use crate::{EpochKey, EpochTally, PolicyError, dense};

/// Pseudo-count that the plug-in shares are shrunk towards the served ones with.
const SHRINKAGE: f64 = 2000.0;
/// Cells that expect fewer exposures make χ² a poor approximation; they are dropped, and their degree of freedom.
const EXPECTED_MIN: f64 = 5.0;
/// Evidence at which a person is told.
const ALARM: f64 = 100.0;
/// M at which growth freezes by itself.
const FREEZE: f64 = 1000.0;
/// What of the evidence M is given to begin with; the looks have the rest.
const CONTINUOUS: f64 = 0.2;
/// Weeks after the generation's first exposures, and what of the evidence is given to the look at their end: together
/// with `CONTINUOUS` 1. Most to four weeks, which is how long experiments commonly run.
const LOOKS: [(u64, f64); 5] = [(1, 0.05), (2, 0.1), (4, 0.5), (8, 0.1), (16, 0.05)];
const WEEK_US: u128 = 7 * 86_400 * 1_000_000;
/// Keeps evidence finite: beyond it nothing is said that has not been said.
const LOG_EVIDENCE_MAX: f64 = 600.0;

/// How loudly the continuous check speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SrmAlarm {
    /// Evidence below 100.
    Quiet,
    /// Evidence ≥ 100 once: at most one experiment in a hundred says so wrongly, however often it is looked at.
    Alarm,
    /// M ≥ 1000 once: growth freezes.
    Freeze,
}

/// The sample ratio of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// χ² = dᵀΣ⁻d with d = O − Σ_e N_e·q_e and Σ = Σ_e N_e·(diag q_e − q_e·q_eᵀ).
    pub chi_squared: f64,
    /// Arms that expect at least five exposures, minus one.
    pub degrees_of_freedom: usize,
    /// Of `chi_squared`, for one look. For looking every tick there is `log_evidence`.
    pub p_value: f64,
    /// The smallest per-epoch Pearson p-value, after Holm: has a single epoch gone wrong?
    pub epoch_p_value: f64,
    /// The epoch it belongs to.
    pub worst_epoch: Option<EpochKey>,
    /// ln M, the plug-in e-process at the last epoch.
    pub log_evidence: f64,
    /// The largest ln M so far. Ville's inequality covers it, and what has been seen stays seen.
    pub peak_log_evidence: f64,
    /// The largest evidence so far of M and the scheduled looks together: 100 or more is an alarm.
    pub evidence: f64,
    /// What the peaks amount to.
    pub alarm: SrmAlarm,
}

/// Check the first exposures of a generation against its served shares, as known at `now`, with ticks of length `tick`.
/// Epochs without shares are passed over.
///
/// What freezes growth is M, a predictable plug-in e-process in the manner of Lindon & Malek (*Anytime-valid inference for
/// multinomial count data*, NeurIPS 2022), for shares that change: with r_k = (O_k + c)/(E_k + c) from earlier epochs
/// only and q̃ ∝ q_e·r, log M grows by Σ_k n_ke·ln(q̃_k/q_ke); c = 2000.
///
/// What tells a person is M and a few scheduled looks together. An e-process pays for being looked at all the time: one
/// that knew the loss beforehand would still find only four in five losses that a single test finds nine in ten of. So the
/// evidence is a mixture, E = w₀·M + Σ_j w_j·e_j, with Σw = 1. e_j is 1 until the j-th mark has passed, and then the
/// all-or-nothing e-value 1{p_j ≤ α_j}/α_j of one test at error α_j = w_j/100, which alone makes an alarm. Each term's
/// expectation is its weight, so E is a non-negative martingale (at most one, where a test is conservative) and by
/// Ville's inequality comes to 100 with a probability of at most 1%, in all of time (mixtures of e-values: Vovk & Wang,
/// *E-values: calibration, combination and applications*, Annals of Statistics 2021). The test asks whether any one arm
/// has lost units: p_j = K·min_k Φ(d_k/√Σ_kk), after Bonferroni.
pub fn check_sample_ratio(
    arms: usize,
    epochs: &[EpochTally],
    tick: Duration,
    now: Timestamp,
) -> Result<SampleRatio, PolicyError> {
    // The e-process looks back only, so the epochs come in their own order.
    let mut known = in_order(arms, epochs)?;
    known.retain(|epoch| !epoch.shares.is_empty());

    let (chi_squared, degrees_of_freedom) = collapsed(arms, &known);
    let (epoch_p_value, worst_epoch) = worst(&known);
    let Evidence { log_m, peak_log_m, peak } = evidence(arms, &known, tick, now);
    let alarm = if peak_log_m >= libm::log(FREEZE) {
        SrmAlarm::Freeze
    } else if peak >= ALARM {
        SrmAlarm::Alarm
    } else {
        SrmAlarm::Quiet
    };
    Ok(SampleRatio {
        chi_squared,
        degrees_of_freedom,
        p_value: chi_squared_tail(chi_squared, degrees_of_freedom),
        epoch_p_value,
        worst_epoch,
        log_evidence: log_m,
        peak_log_evidence: peak_log_m,
        evidence: peak,
        alarm,
    })
}

/// Exposures (count, share) of the arms that were served anything, and their total.
fn served(epoch: &EpochTally) -> (impl Iterator<Item = (usize, f64, f64)> + '_, f64) {
    let cells = || {
        let arms = epoch.arms.iter().zip(&epoch.shares).enumerate();
        arms.filter(|(_, (_, share))| **share > 0.0).map(|(k, (arm, share))| (k, arm.first as f64, *share))
    };
    (cells(), cells().map(|(_, count, _)| count).sum())
}

/// χ² over all epochs together, and its degrees of freedom.
fn collapsed(arms: usize, epochs: &[&EpochTally]) -> (f64, usize) {
    let mut expected = vec![0.0; arms];
    let mut difference = vec![0.0; arms];
    let mut sigma = vec![0.0; arms * arms];
    for epoch in epochs {
        let (cells, total) = served(epoch);
        for (k, count, share) in cells {
            expected[k] += total * share;
            difference[k] += count - total * share;
            sigma[k * arms + k] += total * share;
            for j in 0..arms {
                sigma[k * arms + j] -= total * share * epoch.shares[j];
            }
        }
    }
    // Differences add up to nothing, so one arm is redundant: the largest, for the best-conditioned rest.
    let reference = (1..arms).fold(0, |best, arm| if expected[arm] > expected[best] { arm } else { best });
    let kept: Vec<usize> = (0..arms).filter(|&arm| arm != reference && expected[arm] >= EXPECTED_MIN).collect();
    let mut factor: Vec<f64> = kept
        .iter()
        .flat_map(|&row| kept.iter().map(move |&column| (row, column)))
        .map(|(r, c)| sigma[r * arms + c])
        .collect();
    if kept.is_empty() || !dense::factor(&mut factor, kept.len()) {
        return (0.0, 0);
    }
    let d: Vec<f64> = kept.iter().map(|&arm| difference[arm]).collect();
    let mut x = d.clone();
    dense::solve(&factor, kept.len(), &mut x);
    (d.iter().zip(&x).map(|(d, x)| d * x).sum::<f64>().max(0.0), kept.len())
}

/// Holm's first step over the epochs: the smallest p-value times their number.
fn worst(epochs: &[&EpochTally]) -> (f64, Option<EpochKey>) {
    let mut tested = 0;
    let (mut smallest, mut at) = (1.0, None);
    for epoch in epochs {
        let (cells, total) = served(epoch);
        let (mut chi_squared, mut kept) = (0.0, 0);
        for (_, count, share) in cells.filter(|(_, _, share)| total * share >= EXPECTED_MIN) {
            chi_squared += (count - total * share) * (count - total * share) / (total * share);
            kept += 1;
        }
        if kept < 2 {
            continue;
        }
        tested += 1;
        let p_value = chi_squared_tail(chi_squared, kept - 1);
        if p_value < smallest || at.is_none() {
            (smallest, at) = (p_value, Some(epoch.epoch));
        }
    }
    ((smallest * f64::from(tested.max(1))).min(1.0), at)
}

/// What has been seen of M and of the looks.
struct Evidence {
    /// ln M after the last epoch.
    log_m: f64,
    /// Its peak.
    peak_log_m: f64,
    /// The peak of M and the looks together.
    peak: f64,
}

fn evidence(arms: usize, epochs: &[&EpochTally], tick: Duration, now: Timestamp) -> Evidence {
    let mut observed = vec![SHRINKAGE; arms];
    let mut expected = vec![SHRINKAGE; arms];
    let mut variance = vec![0.0; arms];
    let mut looks = Looks::new(epochs, tick);
    let (mut log_m, mut peak_log_m, mut peak) = (0.0_f64, 0.0_f64, 0.0_f64);
    for epoch in epochs {
        looks.settle(epoch.epoch.tick, || loss_p_value(&observed, &expected, &variance));
        peak = peak.max(looks.with(log_m));
        let (cells, total) = served(epoch);
        let cells: Vec<(usize, f64, f64)> = cells.collect();
        let norm: f64 = cells.iter().map(|&(k, _, share)| share * observed[k] / expected[k]).sum();
        for &(k, count, _) in &cells {
            log_m += count * libm::log(observed[k] / expected[k] / norm);
        }
        peak_log_m = peak_log_m.max(log_m);
        peak = peak.max(looks.with(log_m));
        for &(k, count, share) in &cells {
            observed[k] += count;
            expected[k] += total * share;
            variance[k] += total * share * (1.0 - share);
        }
    }
    looks.settle(now.tick(tick), || loss_p_value(&observed, &expected, &variance));
    peak = peak.max(looks.with(log_m));
    Evidence { log_m, peak_log_m, peak }
}

/// Whether any one arm has fewer exposures than it should, after Bonferroni. The normal's lower tail is the heavier one
/// where exposures are few.
fn loss_p_value(observed: &[f64], expected: &[f64], variance: &[f64]) -> f64 {
    let (mut tested, mut lowest) = (0, f64::INFINITY);
    for ((observed, expected), variance) in observed.iter().zip(expected).zip(variance) {
        if expected - SHRINKAGE >= EXPECTED_MIN && *variance > 0.0 {
            tested += 1;
            lowest = lowest.min((observed - expected) / variance.sqrt());
        }
    }
    if tested == 0 { 1.0 } else { (f64::from(tested) * normal_cdf(lowest)).min(1.0) }
}

/// The scheduled looks, in their order.
struct Looks {
    /// The first tick after each mark.
    marks: Vec<(i64, f64)>,
    /// How many have passed.
    passed: usize,
    /// What the looks come to: their weights, those that have passed by their e-values.
    evidence: f64,
}

impl Looks {
    fn new(epochs: &[&EpochTally], tick: Duration) -> Self {
        let first = epochs.first().map_or(i64::MAX, |epoch| epoch.epoch.tick);
        // A look at the end of a tick, whatever the length of ticks.
        let ticks = |weeks: u64| (u128::from(weeks) * WEEK_US).div_ceil(tick.as_micros().max(1));
        let mark = |&(weeks, weight): &(u64, f64)| {
            (first.saturating_add(i64::try_from(ticks(weeks)).unwrap_or(i64::MAX)), weight)
        };
        Self { marks: LOOKS.iter().map(mark).collect(), passed: 0, evidence: LOOKS.iter().map(|(_, w)| w).sum() }
    }

    /// Looks at what is known if a mark lies before `tick`.
    fn settle(&mut self, tick: i64, p_value: impl Fn() -> f64) {
        while let Some(&(_, weight)) = self.marks.get(self.passed).filter(|(mark, _)| *mark <= tick) {
            self.passed += 1;
            self.evidence += if p_value() <= weight / ALARM { ALARM - weight } else { -weight };
        }
    }

    /// Together with M.
    fn with(&self, log_m: f64) -> f64 {
        // Weights that come and go leave a rounding behind.
        CONTINUOUS * libm::exp(log_m.min(LOG_EVIDENCE_MAX)) + self.evidence.max(0.0)
    }
}
