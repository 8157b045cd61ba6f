//! The probability to be best from independent Beta–Bernoulli posteriors of the rates, pooled over all epochs. The
//! integrals are exact, by quadrature. Pooling is right if the baseline is constant. If the baseline drifts while
//! shares change, pooling is biased (docs/statistics.md), so E3 is the default.
//!
//! With f_k and F_k the density and distribution function of arm k's rate, Beta(1 + s, 1 + n − s):
//!
//! - P(best)_k = ∫ f_k·∏_{j≠k} F_j
//! - E[max] = Σ_k ∫ x·f_k·∏_{j≠k} F_j, and the expected loss of k, on the log scale, is ln(E[max]/E[k]). The form
//!   ∫ (1 − ∏ F_j) is not used, because for rates near 0 it is a small difference of large numbers. If lower values are
//!   better, the loss is of the rates too: ln(E[k]/E[min])
//!
//! - the maximum remaining gain is the x with P(max_j θ_j ≤ (1 + x)·θ_k) = 95% for the leader k: the probability that k
//!   is best among arms whose rates are scaled by 1/(1 + x)
//!
//! The quadrature is Gauss–Legendre on panels whose edges are quantiles of every arm, so that it also resolves a tiny
//! initial share beside a huge control. The distribution functions are integrals of the densities over the same nodes,
//! by the spectral integration matrix of the Legendre expansion.

use crate::e3::Posterior;
use crate::error::PolicyError;
use crate::probability_best::Comparison;
use crate::tallies::{ArmTally, BetterDirection, EpochTally};

/// Nodes per panel.
const NODES: usize = 16;
/// Distances of the panel edges from each arm's mean, in standard deviations. They reach far out, because an arm with
/// no conversions (or nothing but conversions) has a tail like e^−z. Beyond 12 standard deviations two millionths of it
/// remain: negligible for a probability, but E[max] of arms with few conversions is as small.
const EDGES: [f64; 14] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 17.0, 23.0, 30.0, 40.0];
/// Narrowest panel; closer edges are merged.
const NARROWEST: f64 = 1e-13;
/// The probability that the maximum remaining gain is not exceeded.
const GAIN_PROBABILITY: f64 = 0.95;
/// The first gain that is tried; the largest one; the most steps of the search; and the accuracy of the probability at
/// which it ends.
const GAIN_START: f64 = 0.02;
const GAIN_MAX: f64 = 1e6;
const GAIN_STEPS: usize = 40;
const GAIN_ACCURACY: f64 = 1e-8;

/// The posterior of one arm's rate, scaled.
#[derive(Debug, Clone, Copy)]
struct Beta {
    a: f64,
    b: f64,
    log_norm: f64,
    /// Factor of the rate, above 0 and at most 1. 1 where rates themselves are compared.
    scale: f64,
}

impl Beta {
    fn from_tallies(tallies: impl Iterator<Item = ArmTally>) -> Self {
        let (n, s) = tallies.fold((0, 0), |(n, s), tally| (n + tally.n, s + tally.s));
        let (a, b) = (1.0 + s as f64, 1.0 + (n - s) as f64);
        Self { a, b, log_norm: libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b), scale: 1.0 }
    }

    fn mean(&self) -> f64 {
        self.scale * (self.a / (self.a + self.b))
    }

    fn sd(&self) -> f64 {
        let rate = self.a / (self.a + self.b);
        self.scale * (rate * (1.0 - rate) / (self.a + self.b + 1.0)).sqrt()
    }

    /// Density at `x` in 0..1, both excluded.
    fn density(&self, x: f64) -> f64 {
        let rate = x / self.scale;
        if rate >= 1.0 {
            return 0.0;
        }
        libm::exp((self.a - 1.0) * libm::log(rate) + (self.b - 1.0) * libm::log1p(-rate) - self.log_norm) / self.scale
    }
}

/// Compares the live arms, control included. The posterior beside the comparison is the same in log-lifts, to first
/// order, and is stored with the decision. If lower values are better, the rates of *not* converting are compared;
/// losses always refer to the rates of converting.
pub(crate) fn compare_pooled(
    epochs: &[EpochTally],
    live: &[bool],
    better: BetterDirection,
) -> Result<(Posterior, Comparison), PolicyError> {
    let arms = live.len();
    let measured = posteriors(epochs, arms);
    let betas = match better {
        BetterDirection::Higher => measured.clone(),
        BetterDirection::Lower => measured.iter().map(|beta| Beta { a: beta.b, b: beta.a, ..*beta }).collect(),
    };
    let mut comparison = Comparison {
        p_best: vec![0.0; arms],
        p_above_control: vec![0.5; arms],
        p_below_control: vec![0.5; arms],
        expected_loss: vec![None; arms],
    };
    let rate_at = |x: f64| if better == BetterDirection::Higher { x } else { 1.0 - x };
    let mut expected_best = 0.0;
    let rule = Quadrature::new();
    for_each_panel(&betas, &rule, |panel| {
        let Panel { start, half, density, below } = panel;
        for i in 0..NODES {
            let weight = rule.weight[i];
            // Products over all other arms, without a division by a factor that may be 0.
            let mut after = vec![1.0; arms + 1];
            for k in (0..arms).rev() {
                after[k] = after[k + 1] * if live[k] { below[k][i] } else { 1.0 };
            }
            let mut before = 1.0;
            for k in 0..arms {
                if live[k] {
                    let best = weight * density[k][i] * before * after[k + 1];
                    comparison.p_best[k] += best;
                    expected_best += best * rate_at(*start + *half * (1.0 + rule.node[i]));
                    before *= below[k][i];
                }
            }
        }
        for k in 1..arms {
            let over: f64 = (0..NODES).map(|i| rule.weight[i] * density[k][i] * below[0][i]).sum();
            comparison.p_above_control[k] += over;
        }
    });
    // The probabilities must sum to 1. For very many units the densities lose digits that a loss needs, by a common
    // factor.
    let certain: f64 = comparison.p_best.iter().sum();
    comparison.p_best.iter_mut().for_each(|p| *p /= certain);
    expected_best /= certain;
    for k in 1..arms {
        comparison.p_above_control[k] = (comparison.p_above_control[k] - 0.5).clamp(0.0, 1.0);
        comparison.p_below_control[k] = 1.0 - comparison.p_above_control[k];
    }
    for (k, loss) in comparison.expected_loss.iter_mut().enumerate().filter(|(k, _)| live[*k]) {
        *loss = Some((better.sign() * libm::log(expected_best / measured[k].mean())).max(0.0));
    }
    Ok((log_lifts(&measured), comparison))
}

/// The maximum remaining gain: the 95% quantile of (max_j θ_j − θ_k)/θ_k over the live arms, where k is the `leader`, from
/// the same posteriors as [`compare_pooled`]. If lower values are better, it is that of θ_k/min_j θ_j − 1, the same gain
/// on the log scale. Relative, at least 0.
pub(crate) fn pooled_value_remaining(
    epochs: &[EpochTally],
    live: &[bool],
    better: BetterDirection,
    leader: usize,
) -> f64 {
    let (betas, rule) = (posteriors(epochs, live.len()), Quadrature::new());
    let excess = |gain: f64| probability_within(&betas, live, better, leader, gain, &rule) - GAIN_PROBABILITY;
    let (mut low, mut at_low) = (0.0, excess(0.0));
    if at_low >= 0.0 {
        return 0.0;
    }
    let (mut high, mut at_high) = (GAIN_START, excess(GAIN_START));
    while at_high < 0.0 && high < GAIN_MAX {
        (low, at_low) = (high, at_high);
        high *= 4.0;
        at_high = excess(high);
    }
    // Regula falsi; the weight of an end that stays is halved (the Illinois method).
    for _ in 0..GAIN_STEPS {
        let middle = high - at_high * (high - low) / (at_high - at_low);
        let at_middle = excess(middle);
        if at_middle < 0.0 {
            (low, at_low, at_high) = (middle, at_middle, at_high / 2.0);
        } else {
            (high, at_high, at_low) = (middle, at_middle, at_low / 2.0);
        }
        if at_middle.abs() < GAIN_ACCURACY {
            return middle;
        }
    }
    high
}

/// The probability that no live arm is better than the leader by more than `gain`, relative.
fn probability_within(
    betas: &[Beta],
    live: &[bool],
    better: BetterDirection,
    leader: usize,
    gain: f64,
    rule: &Quadrature,
) -> f64 {
    let is_higher = better == BetterDirection::Higher;
    let scaled = |(k, beta): (usize, &Beta)| {
        // Higher: θ_j/(1 + gain) ≤ θ_k. Lower: θ_k/(1 + gain) ≤ θ_j.
        let scale = if (k == leader) == is_higher { 1.0 } else { 1.0 / (1.0 + gain) };
        Beta { scale, ..*beta }
    };
    let betas: Vec<Beta> = betas.iter().enumerate().map(scaled).collect();
    let mut probability = 0.0;
    for_each_panel(&betas, rule, |panel| {
        for i in 0..NODES {
            let others = (0..betas.len()).filter(|k| live[*k] && *k != leader);
            let worse = others.map(|k| if is_higher { panel.below[k][i] } else { 1.0 - panel.below[k][i] });
            probability += rule.weight[i] * panel.density[leader][i] * worse.product::<f64>();
        }
    });
    probability
}

fn posteriors(epochs: &[EpochTally], arms: usize) -> Vec<Beta> {
    (0..arms).map(|k| Beta::from_tallies(epochs.iter().map(|epoch| epoch.arms[k]))).collect()
}

/// The values of all arms at the nodes of one panel.
struct Panel {
    start: f64,
    /// Half the width.
    half: f64,
    /// Densities, times `half`.
    density: Vec<[f64; NODES]>,
    /// Distribution functions.
    below: Vec<[f64; NODES]>,
}

/// Calls `visit` for each panel, from low to high rates.
fn for_each_panel(betas: &[Beta], rule: &Quadrature, mut visit: impl FnMut(&Panel)) {
    let mut reached = vec![0.0; betas.len()];
    for pair in edges(betas).windows(2) {
        let (start, half) = (pair[0], 0.5 * (pair[1] - pair[0]));
        let density: Vec<[f64; NODES]> = betas
            .iter()
            .map(|beta| core::array::from_fn(|i| half * beta.density(start + half * (1.0 + rule.node[i]))))
            .collect();
        let below = density.iter().zip(&reached).map(|(f, reached)| {
            core::array::from_fn(|m| {
                let within: f64 = rule.integral[m].iter().zip(f).map(|(weight, f)| weight * f).sum();
                (reached + within).clamp(0.0, 1.0)
            })
        });
        let panel = Panel { start, half, below: below.collect(), density };
        visit(&panel);
        for (reached, density) in reached.iter_mut().zip(&panel.density) {
            *reached += rule.weight.iter().zip(density).map(|(weight, f)| weight * f).sum::<f64>();
        }
    }
}

fn edges(betas: &[Beta]) -> Vec<f64> {
    let around = |beta: &Beta| {
        let (mean, sd) = (beta.mean(), beta.sd());
        EDGES.into_iter().flat_map(move |z| [mean - z * sd, mean + z * sd])
    };
    let mut edges: Vec<f64> = betas.iter().flat_map(around).filter(|x| (0.0..1.0).contains(x)).collect();
    edges.extend([0.0, 1.0]);
    // The density may be large right up to the largest possible value.
    edges.extend(betas.iter().map(|beta| beta.scale));
    edges.sort_by(f64::total_cmp);
    edges.dedup_by(|next, previous| *next - *previous < NARROWEST);
    edges
}

/// Mean and covariance of ln θ_k − ln θ_0, to first order.
fn log_lifts(betas: &[Beta]) -> Posterior {
    let relative = |beta: &Beta| (beta.sd() / beta.mean()) * (beta.sd() / beta.mean());
    let arms = betas.len();
    let cell = |i: usize, j: usize| match (i, j) {
        (0, _) | (_, 0) => 0.0,
        _ => relative(&betas[0]) + if i == j { relative(&betas[i]) } else { 0.0 },
    };
    let covariance = (0..arms).map(|i| (0..arms).map(|j| cell(i, j)).collect()).collect();
    Posterior { mean: betas.iter().map(|beta| libm::log(beta.mean() / betas[0].mean())).collect(), covariance }
}

/// Gauss–Legendre quadrature on −1..1, with the integrals from −1 to each node.
struct Quadrature {
    node: [f64; NODES],
    weight: [f64; NODES],
    /// `integral[m][i]` is the weight of the value at node i in the integral up to node m.
    integral: [[f64; NODES]; NODES],
}

impl Quadrature {
    fn new() -> Self {
        let mut rule = Self { node: [0.0; NODES], weight: [0.0; NODES], integral: [[0.0; NODES]; NODES] };
        for i in 0..NODES {
            let mut x = -libm::cos(core::f64::consts::PI * (i as f64 + 0.75) / (NODES as f64 + 0.5));
            // Newton's method on the Legendre polynomial. It starts with two correct digits and doubles them each time.
            for _ in 0..8 {
                let (value, slope) = legendre_with_slope(x);
                x -= value / slope;
            }
            let slope = legendre_with_slope(x).1;
            rule.node[i] = x;
            rule.weight[i] = 2.0 / ((1.0 - x * x) * slope * slope);
        }
        for m in 0..NODES {
            let up_to = legendre(rule.node[m]);
            for i in 0..NODES {
                let at = legendre(rule.node[i]);
                // ∫_{−1}^x P_0 = x + 1, ∫_{−1}^x P_n = (P_{n+1}(x) − P_{n−1}(x))/(2n+1).
                let higher: f64 = (1..NODES).map(|n| 0.5 * at[n] * (up_to[n + 1] - up_to[n - 1])).sum();
                rule.integral[m][i] = rule.weight[i] * (0.5 * (1.0 + rule.node[m]) + higher);
            }
        }
        rule
    }
}

/// The Legendre polynomials P_0 to P_NODES at `x`.
fn legendre(x: f64) -> [f64; NODES + 1] {
    let mut p = [1.0; NODES + 1];
    p[1] = x;
    for n in 2..=NODES {
        let order = n as f64;
        p[n] = ((2.0 * order - 1.0) * x * p[n - 1] - (order - 1.0) * p[n - 2]) / order;
    }
    p
}

/// P_NODES and its derivative at `x`.
fn legendre_with_slope(x: f64) -> (f64, f64) {
    let p = legendre(x);
    (p[NODES], NODES as f64 * (x * p[NODES] - p[NODES - 1]) / (x * x - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::EpochKey;

    fn epoch(arms: &[(u64, u64)]) -> [EpochTally; 1] {
        let tally = |(n, s): &(u64, u64)| ArmTally { first: *n, n: *n, s: *s, ..ArmTally::default() };
        let epoch = EpochKey { tick: 0, revision: 1 };
        [EpochTally { epoch, arms: arms.iter().map(tally).collect(), shares: Vec::new() }]
    }

    #[test]
    fn remaining_gain_has_the_stated_probability() {
        use crate::BetterDirection::{Higher, Lower};
        // One unit in each arm that did and did not convert: θ is uniform, and so is the gain's probability in closed form.
        // P(θ_1 ≤ (1 + x)θ_0) = 1 − 1/(2(1 + x)) for two uniform rates, which is 95% at x = 9.
        for better in [Higher, Lower] {
            let gain = pooled_value_remaining(&epoch(&[(0, 0), (0, 0)]), &[true; 2], better, 0);
            assert!((gain - 9.0).abs() < 1e-5, "{better:?} {gain}");
        }
        // With very many units both rates are normal: their relative difference exceeds the mean by 1.645 errors.
        let n = 4_000_000;
        let gain = pooled_value_remaining(&epoch(&[(n, n / 20), (n, n / 20)]), &[true; 2], Higher, 0);
        let error = (2.0 * 19.0 / n as f64).sqrt();
        assert!((gain / (1.644_853_6 * error) - 1.0).abs() < 5e-3, "{gain}");
        // Killed arms do not count, and a certain leader leaves nothing.
        let arms = epoch(&[(n, n / 20), (n, n / 10), (n, n / 40)]);
        assert_eq!(pooled_value_remaining(&arms, &[true, false, true], Higher, 0), 0.0);
        assert!((pooled_value_remaining(&arms, &[true; 3], Higher, 0) - 1.0).abs() < 0.01);
        assert!((pooled_value_remaining(&arms, &[true; 3], Lower, 0) - 1.0).abs() < 0.02);
    }

    #[test]
    fn remaining_gain_agrees_with_the_probability_to_be_best() {
        // The gain is 0 exactly if the leader's probability to be best reaches 95%.
        for s in [510, 540, 560, 580, 600] {
            let epochs = epoch(&[(10_000, 500), (10_000, s)]);
            let (_, comparison) = compare_pooled(&epochs, &[true; 2], BetterDirection::Higher).unwrap();
            let gain = pooled_value_remaining(&epochs, &[true; 2], BetterDirection::Higher, comparison.leader());
            assert_eq!(gain == 0.0, comparison.p_best[1] >= 0.95, "{s}: {gain} {:?}", comparison.p_best);
        }
    }

    /// Expected losses of two arms with a million units each.
    fn losses(better: BetterDirection, conversions: [u64; 2]) -> Vec<f64> {
        let epochs = epoch(&conversions.map(|s| (1_000_000, s)));
        let (_, comparison) = compare_pooled(&epochs, &[true, true], better).unwrap();
        comparison.expected_loss.into_iter().flatten().collect()
    }

    #[test]
    fn loss_is_a_share_of_the_rate_in_both_directions() {
        for (better, conversions) in
            [(BetterDirection::Higher, [50_000, 55_000]), (BetterDirection::Lower, [55_000, 50_000])]
        {
            let losses = losses(better, conversions);
            assert!((losses[0] - 1.1_f64.ln()).abs() < 1e-3, "{better:?} {losses:?}");
            assert!(losses[1] < 1e-9, "{better:?} {losses:?}");
        }
    }
}
