//! Sample ratio mismatch (SRM): do the first exposures match the served shares? If not, units are lost or misrouted,
//! and no estimate from the remaining units may move traffic.
//!
//! Shares change over time, so expected counts are summed over epochs and never computed from the latest shares. An arm
//! that was served to no unit in an epoch (a killed one) is ignored in that epoch.

use core::time::Duration;

use inroad_assignment::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chi_squared::chi_squared_tail;
use crate::cholesky;
use crate::error::PolicyError;
use crate::normal::normal_cdf;
use crate::tallies::{EpochKey, EpochTally, checked_in_order};

/// Pseudo-count c that shrinks the plug-in shares towards the served ones.
const SHRINKAGE: f64 = 2000.0;
/// Fewest expected exposures of a cell. χ² is a poor approximation below, so such cells are dropped with their degree
/// of freedom.
const EXPECTED_MIN: f64 = 5.0;
/// Evidence that raises an alarm.
const ALARM: f64 = 100.0;
/// Evidence of the continuous checks, M and G in equal parts, that freezes growth.
const FREEZE: f64 = 1000.0;
/// The mismatches that G tests for each arm: its odds against the other arms, relative to the served ones. The first is
/// an arm that gets almost no exposures.
const ODDS_RATIOS: [f64; 9] = [0.01, 0.25, 0.5, 0.75, 0.9, 0.96, 1.1, 1.5, 3.0];
/// The scheduled checks: weeks after the generation's first exposures, and the weight of the check in the evidence.
/// With [`ContinuousWeights`] the weights sum to 1. The check after four weeks has the largest weight, because most experiments
/// run for about four weeks.
const SCHEDULE: [(u64, f64); 5] = [(1, 0.05), (2, 0.1), (4, 0.5), (8, 0.1), (16, 0.05)];
const WEEK_US: u128 = 7 * 86_400 * 1_000_000;
/// Upper limit of the evidence, which keeps it finite and readable; the alarm is raised long before.
const EVIDENCE_MAX: f64 = 1e15;
/// Evidence above which no number is shown.
const OVERWHELMING: f64 = 1e12;

/// Which continuous checks find a mismatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleRatioRule {
    /// M alone, which learns from earlier epochs. Decision records without a rule were made with this one.
    #[default]
    Learned,
    /// M and G: see [`check_sample_ratio`].
    Mixed,
}

/// The weights of the continuous checks in the evidence.
#[derive(Debug, Clone, Copy)]
struct ContinuousWeights {
    /// Of M, which learns the mismatch from earlier epochs.
    m: f64,
    /// Of G, which tests known mismatches.
    g: f64,
    /// The share of M, and not of G, in the evidence that freezes growth.
    m_in_freeze: f64,
}

impl SampleRatioRule {
    fn weights(self) -> ContinuousWeights {
        match self {
            Self::Learned => ContinuousWeights { m: 0.2, g: 0.0, m_in_freeze: 1.0 },
            Self::Mixed => ContinuousWeights { m: 0.12, g: 0.08, m_in_freeze: 0.5 },
        }
    }
}

/// The result of the check. It never decreases within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SrmAlarm {
    /// Evidence below 100.
    Quiet,
    /// The evidence reached 100. At most one experiment in a hundred gets here without a mismatch, however often the
    /// check runs.
    Alarm,
    /// The evidence of the continuous checks reached 1000, and growth freezes.
    Freeze,
}

/// The sample ratio check of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// χ² = dᵀΣ⁻d with d = O − Σ_e N_e·q_e and Σ = Σ_e N_e·(diag q_e − q_e·q_eᵀ).
    pub chi_squared: f64,
    /// Number of arms with at least five expected exposures, minus one.
    pub degrees_of_freedom: usize,
    /// p-value of `chi_squared`, valid for a single check. For checks at every tick use `log_evidence`.
    pub p_value: f64,
    /// The smallest Pearson p-value of a single epoch, after Holm's correction.
    pub epoch_p_value: f64,
    /// The epoch of `epoch_p_value`.
    pub worst_epoch: Option<EpochKey>,
    /// ln M, the plug-in e-process at the last epoch.
    pub log_evidence: f64,
    /// The largest ln M so far. Ville's inequality holds for the maximum, so an alarm remains.
    pub peak_log_evidence: f64,
    /// The largest evidence so far of M, G and the scheduled checks together, at most 10^15; 100 or more is an alarm.
    pub evidence: f64,
    /// The resulting alarm.
    pub alarm: SrmAlarm,
}

/// Checks the first exposures of a generation against its served shares, at `now`, with ticks of length `tick`. Epochs
/// without shares are ignored. Fails for impossible tallies.
///
/// Growth freezes by two continuous checks. M is a predictable plug-in e-process in the manner of Lindon & Malek (*Anytime-valid inference for
/// multinomial count data*, NeurIPS 2022), for shares that change: with r_k = (O_k + c)/(E_k + c) from earlier epochs
/// only and q̃ ∝ q_e·r, log M grows by Σ_k n_ke·ln(q̃_k/q_ke); c = 2000.
///
/// M learns nothing before the first epoch has ended. G = mean over arms k and odds ratios r of the likelihood ratio of
/// the alternative that arm k gets r times the odds that it should have: with d = 1 − q + q·r, each epoch multiplies it
/// by r^n_k / d^N. Alternatives that are fixed in advance need no earlier data, so an arm without exposures raises the
/// alarm within its first epoch. Each likelihood ratio is a martingale, and so is their mean.
///
/// The alarm is raised by M, G and a few scheduled checks together. An e-process loses power because it is checked all the
/// time: even one that knew the loss in advance would find only four in five losses, where a single test finds nine in
/// ten. So the evidence is a mixture, E = w_M·M + w_G·G + Σ_j w_j·e_j, with Σw = 1. e_j is 1 until the j-th scheduled check.
/// From then on it is the all-or-nothing e-value 1{p_j ≤ α_j}/α_j of one test at error α_j = w_j/100, and a significant
/// test is enough for an alarm. The expectation of each term is its weight (or less, if a test is conservative), so E
/// is a non-negative martingale (or supermartingale). By Ville's inequality it ever reaches 100 with a probability of
/// at most 1% (mixtures of e-values: Vovk & Wang, *E-values: calibration, combination and applications*, Annals of
/// Statistics 2021). The test asks whether any single arm has lost units: p_j = K·min_k Φ(d_k/√Σ_kk), with Bonferroni's
/// correction.
pub fn check_sample_ratio(
    arms: usize,
    epochs: &[EpochTally],
    tick: Duration,
    now: Timestamp,
) -> Result<SampleRatio, PolicyError> {
    check_sample_ratio_by(SampleRatioRule::Mixed, arms, epochs, tick, now)
}

/// The same by an earlier rule, so that a stored decision is reproduced (I7).
pub(crate) fn check_sample_ratio_by(
    rule: SampleRatioRule,
    arms: usize,
    epochs: &[EpochTally],
    tick: Duration,
    now: Timestamp,
) -> Result<SampleRatio, PolicyError> {
    // The e-process uses earlier epochs only, so the epochs must be sorted.
    let mut known = checked_in_order(arms, epochs)?;
    known.retain(|epoch| !epoch.shares.is_empty());

    let (chi_squared, degrees_of_freedom) = chi_squared_of_all(arms, &known);
    let (epoch_p_value, worst_epoch) = worst_epoch_p_value(&known);
    let Evidence { log_m, peak_log_m, peak_continuous, peak } = evidence(rule.weights(), arms, &known, tick, now);
    let alarm = if peak_continuous >= FREEZE {
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
        evidence: peak.min(EVIDENCE_MAX),
        alarm,
    })
}

impl SampleRatio {
    /// Whether the sums over all epochs do not match. Mismatches in different directions can cancel in the sums.
    #[must_use]
    pub fn is_mismatch_of_total(&self) -> bool {
        self.p_value < ALARM.recip()
    }

    /// The result in words, such as "none detected (p = 0.21)". A small p-value without an alarm is explained, because
    /// a single check may be repeated too often to be believed.
    #[must_use]
    pub fn in_words(&self) -> String {
        if self.degrees_of_freedom == 0 && self.alarm == SrmAlarm::Quiet {
            return "too early to say".to_owned();
        }
        let (p, odds) = (p_value_in_words(self.p_value), evidence_in_words(self.evidence));
        match self.alarm {
            SrmAlarm::Quiet if self.p_value >= ALARM.recip() => format!("none detected ({p})"),
            SrmAlarm::Quiet => {
                format!("no alert yet ({p} if this were the only check; evidence {odds}, and 100 to 1 raises an alert)")
            }
            SrmAlarm::Alarm | SrmAlarm::Freeze if self.is_mismatch_of_total() => {
                format!("exposures do not match the shares ({p}, evidence {odds})")
            }
            SrmAlarm::Alarm | SrmAlarm::Freeze if self.epoch_p_value < ALARM.recip() => format!(
                "exposures do not match the shares within single periods ({} in the worst one, {p} over all; evidence {odds})",
                p_value_in_words(self.epoch_p_value)
            ),
            SrmAlarm::Alarm | SrmAlarm::Freeze => {
                format!("exposures did not match the shares at an earlier check ({p} now, evidence {odds})")
            }
        }
    }
}

/// A p-value for people: "p = 0.021", or "p < 0.001".
#[must_use]
pub fn p_value_in_words(p_value: f64) -> String {
    if p_value < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p_value:.3}") }
}

/// Evidence for people, as odds against 1: "3.2 to 1", "1,250 to 1", "overwhelming (over 10^12 to 1)".
#[must_use]
pub fn evidence_in_words(evidence: f64) -> String {
    if evidence > OVERWHELMING {
        return "overwhelming (over 10^12 to 1)".to_owned();
    }
    if evidence < 9.95 {
        return format!("{evidence:.1} to 1");
    }
    // Three significant digits; more would mean nothing.
    let unit = libm::pow(10.0, libm::floor(libm::log10(evidence)) - 2.0);
    let digits = if unit < 1.0 { format!("{evidence:.0}") } else { format!("{:.0}", (evidence / unit).round() * unit) };
    let grouped = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    format!("{} to 1", grouped.collect::<Vec<_>>().join(","))
}

/// The arms that were served in an epoch as (arm, exposures, share), and their total exposures.
fn served_arms(epoch: &EpochTally) -> (impl Iterator<Item = (usize, f64, f64)> + '_, f64) {
    let cells = || {
        let arms = epoch.arms.iter().zip(&epoch.shares).enumerate();
        arms.filter(|(_, (_, share))| **share > 0.0).map(|(k, (arm, share))| (k, arm.first as f64, *share))
    };
    (cells(), cells().map(|(_, count, _)| count).sum())
}

/// χ² over all epochs together, and its degrees of freedom.
fn chi_squared_of_all(arms: usize, epochs: &[&EpochTally]) -> (f64, usize) {
    let mut expected = vec![0.0; arms];
    let mut difference = vec![0.0; arms];
    let mut sigma = vec![0.0; arms * arms];
    for epoch in epochs {
        let (cells, total) = served_arms(epoch);
        for (k, count, share) in cells {
            expected[k] += total * share;
            difference[k] += count - total * share;
            sigma[k * arms + k] += total * share;
            for j in 0..arms {
                sigma[k * arms + j] -= total * share * epoch.shares[j];
            }
        }
    }
    // The differences sum to 0, so one arm is redundant. Dropping the largest leaves the best-conditioned matrix.
    let reference = (1..arms).fold(0, |best, arm| if expected[arm] > expected[best] { arm } else { best });
    let used: Vec<usize> = (0..arms).filter(|&arm| arm != reference && expected[arm] >= EXPECTED_MIN).collect();
    let mut factor: Vec<f64> = used
        .iter()
        .flat_map(|&row| used.iter().map(move |&column| (row, column)))
        .map(|(r, c)| sigma[r * arms + c])
        .collect();
    if used.is_empty() || !cholesky::factor(&mut factor, used.len()) {
        return (0.0, 0);
    }
    let d: Vec<f64> = used.iter().map(|&arm| difference[arm]).collect();
    let mut x = d.clone();
    cholesky::solve(&factor, used.len(), &mut x);
    (d.iter().zip(&x).map(|(d, x)| d * x).sum::<f64>().max(0.0), used.len())
}

/// Holm's first step over the epochs: the smallest p-value times the number of epochs, and its epoch.
fn worst_epoch_p_value(epochs: &[&EpochTally]) -> (f64, Option<EpochKey>) {
    let mut tested = 0;
    let (mut smallest, mut at) = (1.0, None);
    for epoch in epochs {
        let (cells, total) = served_arms(epoch);
        let (mut chi_squared, mut used) = (0.0, 0);
        for (_, count, share) in cells.filter(|(_, _, share)| total * share >= EXPECTED_MIN) {
            chi_squared += (count - total * share) * (count - total * share) / (total * share);
            used += 1;
        }
        if used < 2 {
            continue;
        }
        tested += 1;
        let p_value = chi_squared_tail(chi_squared, used - 1);
        if p_value < smallest || at.is_none() {
            (smallest, at) = (p_value, Some(epoch.epoch));
        }
    }
    ((smallest * f64::from(tested.max(1))).min(1.0), at)
}

/// M, G and the evidence after all epochs.
struct Evidence {
    /// ln M after the last epoch.
    log_m: f64,
    /// The largest ln M.
    peak_log_m: f64,
    /// The largest evidence of M and G in equal parts.
    peak_continuous: f64,
    /// The largest evidence of M, G and the scheduled checks together.
    peak: f64,
}

/// G: the logarithms of the likelihood ratios of the alternatives, by arm.
struct FixedAlternatives(Vec<[f64; ODDS_RATIOS.len()]>);

impl FixedAlternatives {
    /// Multiplies the likelihood ratios by those of one epoch's exposures.
    fn add(&mut self, cells: &[(usize, f64, f64)], total: f64) {
        for &(arm, count, share) in cells {
            for (log_ratio, odds) in self.0[arm].iter_mut().zip(ODDS_RATIOS) {
                *log_ratio += count * libm::log(odds) - total * libm::log(1.0 - share + share * odds);
            }
        }
    }

    /// G.
    fn mean(&self) -> f64 {
        let ratios = || self.0.iter().flatten();
        ratios().map(|log_ratio| exp_limited(*log_ratio)).sum::<f64>() / ratios().count().max(1) as f64
    }
}

/// The exponential, limited so that no sum overflows.
fn exp_limited(log: f64) -> f64 {
    libm::exp(log.min(600.0))
}

fn evidence(
    weights: ContinuousWeights,
    arms: usize,
    epochs: &[&EpochTally],
    tick: Duration,
    now: Timestamp,
) -> Evidence {
    let mut observed = vec![SHRINKAGE; arms];
    let mut expected = vec![SHRINKAGE; arms];
    let mut variance = vec![0.0; arms];
    let mut checks = ScheduledChecks::new(epochs, tick);
    let mut fixed = FixedAlternatives(vec![[0.0; ODDS_RATIOS.len()]; arms]);
    let (mut log_m, mut peak_log_m, mut g) = (0.0_f64, 0.0_f64, 1.0_f64);
    let (mut peak_continuous, mut peak) = (0.0_f64, 0.0_f64);
    for epoch in epochs {
        checks.run_due(epoch.epoch.tick, || loss_p_value(&observed, &expected, &variance));
        peak = peak.max(checks.evidence_with(weights, log_m, g));
        let (cells, total) = served_arms(epoch);
        let cells: Vec<(usize, f64, f64)> = cells.collect();
        let norm: f64 = cells.iter().map(|&(k, _, share)| share * observed[k] / expected[k]).sum();
        for &(k, count, _) in &cells {
            log_m += count * libm::log(observed[k] / expected[k] / norm);
        }
        fixed.add(&cells, total);
        g = fixed.mean();
        peak_log_m = peak_log_m.max(log_m);
        peak_continuous =
            peak_continuous.max(weights.m_in_freeze * exp_limited(log_m) + (1.0 - weights.m_in_freeze) * g);
        peak = peak.max(checks.evidence_with(weights, log_m, g));
        for &(k, count, share) in &cells {
            observed[k] += count;
            expected[k] += total * share;
            variance[k] += total * share * (1.0 - share);
        }
    }
    checks.run_due(now.tick(tick), || loss_p_value(&observed, &expected, &variance));
    peak = peak.max(checks.evidence_with(weights, log_m, g));
    Evidence { log_m, peak_log_m, peak_continuous, peak }
}

/// p-value, with Bonferroni's correction, for the loss of units in any single arm. With few exposures the normal's
/// lower tail is heavier than the exact one, so the test is conservative.
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

/// The scheduled checks, in order.
struct ScheduledChecks {
    /// The first tick after each check is due, and the weight of the check.
    due: Vec<(i64, f64)>,
    /// Number of checks that have run.
    completed: usize,
    /// Sum of the weights, multiplied by the e-values of the checks that have run.
    evidence: f64,
}

impl ScheduledChecks {
    fn new(epochs: &[&EpochTally], tick: Duration) -> Self {
        let first = epochs.first().map_or(i64::MAX, |epoch| epoch.epoch.tick);
        // A check runs at the end of a tick, whatever the length of ticks.
        let ticks = |weeks: u64| (u128::from(weeks) * WEEK_US).div_ceil(tick.as_micros().max(1));
        let due = |&(weeks, weight): &(u64, f64)| {
            (first.saturating_add(i64::try_from(ticks(weeks)).unwrap_or(i64::MAX)), weight)
        };
        Self { due: SCHEDULE.iter().map(due).collect(), completed: 0, evidence: SCHEDULE.iter().map(|(_, w)| w).sum() }
    }

    /// Runs the checks that are due at `tick`.
    fn run_due(&mut self, tick: i64, p_value: impl Fn() -> f64) {
        while let Some(&(_, weight)) = self.due.get(self.completed).filter(|(due, _)| *due <= tick) {
            self.completed += 1;
            self.evidence += if p_value() <= weight / ALARM { ALARM - weight } else { -weight };
        }
    }

    /// The evidence together with M and G.
    fn evidence_with(&self, weights: ContinuousWeights, log_m: f64, g: f64) -> f64 {
        // Adding and subtracting weights can leave a tiny negative rounding error.
        weights.m * exp_limited(log_m) + weights.g * g + self.evidence.max(0.0)
    }
}
