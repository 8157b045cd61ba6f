//! Probability to be best and expected loss of the live arms, from draws of their joint posterior.
//!
//! A tick spends most of its time here, so the draws are processed in lanes that the compiler turns into vector
//! instructions. The order of every sum is fixed, so the result is the same without them. Draws are in single
//! precision, which halves the work: its rounding moves one draw in a million from one arm to another, while the counts
//! of draws have a sampling error of hundreds.

use crate::cholesky;
use crate::draws::NormalDraws;
use crate::e3::Posterior;
use crate::error::PolicyError;
use crate::normal::normal_cdf;

/// Draws processed together; their columns fit the first-level cache.
const BLOCK: usize = 64;
/// Number of partial sums. It is fixed, so that they are added in the same order on every machine. Four singles fill
/// one register of every 64-bit processor; with eight, the unrolled step no longer fits the registers and takes twice
/// as long.
const LANES: usize = 4;

/// The arms compared with each other and with control.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// w_k, the probability that the arm is the best live arm; 0 for killed arms.
    pub p_best: Vec<f64>,
    /// P(b_k > 0); ½ for control.
    pub p_above_control: Vec<f64>,
    /// P(b_k < 0); ½ for control.
    pub p_below_control: Vec<f64>,
    /// `L_k = E[max_j b_j] − E[b_k]`, on the log scale, at least 0; none for killed arms.
    pub expected_loss: Vec<Option<f64>>,
}

impl Comparison {
    /// The share of conversions that is lost by choosing an arm, 1 − e^(−L_k); none for killed arms. By Jensen's
    /// inequality it is at least the expected relative loss E[1 − e^−(max_j b_j − b_k)], so a threshold on it errs
    /// towards waiting.
    #[must_use]
    pub fn relative_loss(&self, arm: usize) -> Option<f64> {
        self.expected_loss[arm].map(|loss| -libm::expm1(-loss))
    }

    /// The live arm with the largest probability to be best; the first if several are equal.
    #[must_use]
    pub fn leader(&self) -> usize {
        (1..self.p_best.len()).fold(0, |best, arm| if self.p_best[arm] > self.p_best[best] { arm } else { best })
    }
}

/// Compares the live arms, control (log-lift 0) included. Killed arms are compared with control only.
///
/// P(b_k > 0) and P(b_k < 0) are the posterior's marginals in closed form, Φ(±b̂_k/σ_k). The draws would estimate the
/// same, with noise at the kill threshold. `draws` needs one dimension per live variation; fewer are an error.
pub fn compare(posterior: &Posterior, live: &[bool], draws: &NormalDraws) -> Result<Comparison, PolicyError> {
    let arms = posterior.mean.len();
    if live.len() != arms {
        return Err(PolicyError::ArmCount { expected: arms, found: live.len() });
    }
    let treated: Vec<usize> = (1..arms).filter(|&arm| live[arm]).collect();
    if draws.dimensions() < treated.len() {
        return Err(PolicyError::ArmCount { expected: treated.len() + 1, found: draws.dimensions() + 1 });
    }
    let mean: Vec<f64> = treated.iter().map(|&arm| posterior.mean[arm]).collect();
    let mut factor: Vec<f64> =
        treated.iter().flat_map(|&row| treated.iter().map(move |&column| posterior.covariance[row][column])).collect();
    if !cholesky::factor(&mut factor, treated.len()) {
        return Err(PolicyError::NotPositiveDefinite);
    }
    let single = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
    let (mean, factor) = (single(&mean), single(&factor));
    let WinCounts { wins, control_wins, max_sum } = count(draws, &mean, &factor);

    // Ties happen only through rounding. Counting both arms and dividing by the sum splits them.
    let total = f64::from(wins.iter().sum::<u32>() + control_wins);
    let expected_max = max_sum / draws.draws() as f64;
    let mut comparison = Comparison {
        p_best: vec![0.0; arms],
        p_above_control: (0..arms).map(|arm| sign_probability(posterior, arm, 1.0)).collect(),
        p_below_control: (0..arms).map(|arm| sign_probability(posterior, arm, -1.0)).collect(),
        expected_loss: vec![None; arms],
    };
    comparison.p_best[0] = f64::from(control_wins) / total;
    comparison.expected_loss[0] = Some(expected_max.max(0.0));
    for (i, &arm) in treated.iter().enumerate() {
        // The exact mean of the draws makes the leader's loss a mean of differences that are never negative.
        let noise = (0..=i).map(|j| f64::from(factor[i * treated.len() + j]) * draws.mean(j)).sum::<f64>();
        let drawn = f64::from(mean[i]) + noise;
        comparison.p_best[arm] = f64::from(wins[i]) / total;
        comparison.expected_loss[arm] = Some((expected_max - drawn).max(0.0));
    }
    Ok(comparison)
}

/// The maximum remaining gain: the 95% quantile of (max_j μ_j − μ_k)/μ_k over the live arms, where k is the `leader`
/// (Scott, *A modern Bayesian look at the multi-armed bandit*, 2010). Relative, at least 0; for a posterior of
/// differences, in multiples of its unit. The posterior is of benefits. `draws` needs one dimension per live variation; fewer are an error.
pub fn potential_value_remaining(
    posterior: &Posterior,
    live: &[bool],
    leader: usize,
    draws: &NormalDraws,
) -> Result<f64, PolicyError> {
    let treated: Vec<usize> = (1..posterior.mean.len()).filter(|&arm| live.get(arm) == Some(&true)).collect();
    if draws.dimensions() < treated.len() {
        return Err(PolicyError::ArmCount { expected: treated.len() + 1, found: draws.dimensions() + 1 });
    }
    let size = treated.len();
    let mut factor: Vec<f64> =
        treated.iter().flat_map(|&row| treated.iter().map(move |&column| posterior.covariance[row][column])).collect();
    if !cholesky::factor(&mut factor, size) {
        return Err(PolicyError::NotPositiveDefinite);
    }
    let mut gains: Vec<f64> = (0..draws.draws())
        .map(|draw| {
            let (mut largest, mut leading) = (0.0_f64, 0.0);
            for (i, &arm) in treated.iter().enumerate() {
                let noise: f64 = (0..=i).map(|j| factor[i * size + j] * f64::from(draws.column(j)[draw])).sum();
                let lift = posterior.mean[arm] + noise;
                largest = largest.max(lift);
                leading = if arm == leader { lift } else { leading };
            }
            largest - leading
        })
        .collect();
    let at = gains.len() * 95 / 100;
    let (_, quantile, _) = gains.select_nth_unstable_by(at, f64::total_cmp);
    Ok(if posterior.unit.is_some() { *quantile } else { libm::expm1(*quantile) })
}

fn sign_probability(posterior: &Posterior, arm: usize, sign: f64) -> f64 {
    if arm == 0 { 0.5 } else { normal_cdf(sign * posterior.mean[arm] / posterior.sd(arm)) }
}

/// Counts over all draws: how often each variation and control had the largest lift, and the sum of the largest lifts.
struct WinCounts {
    wins: Vec<u32>,
    control_wins: u32,
    max_sum: f64,
}

fn count(draws: &NormalDraws, mean: &[f32], factor: &[f32]) -> WinCounts {
    // For up to eight variations the step is unrolled for their number and stays in registers.
    match mean.len() {
        1 => count_fixed::<1>(draws, mean, factor),
        2 => count_fixed::<2>(draws, mean, factor),
        3 => count_fixed::<3>(draws, mean, factor),
        4 => count_fixed::<4>(draws, mean, factor),
        5 => count_fixed::<5>(draws, mean, factor),
        6 => count_fixed::<6>(draws, mean, factor),
        7 => count_fixed::<7>(draws, mean, factor),
        8 => count_fixed::<8>(draws, mean, factor),
        _ => count_any(draws, mean, factor),
    }
}

#[allow(clippy::needless_range_loop, reason = "the loops index several arrays together")]
fn count_fixed<const D: usize>(draws: &NormalDraws, mean: &[f32], factor: &[f32]) -> WinCounts {
    let chunks = draws.draws() / LANES;
    let columns: [&[[f32; LANES]]; D] = core::array::from_fn(|j| &draws.column(j).as_chunks().0[..chunks]);
    let mean: [f32; D] = core::array::from_fn(|i| mean[i]);
    let factor: [[f32; D]; D] = core::array::from_fn(|i| core::array::from_fn(|j| factor[i * D + j]));
    // One counter per lane; a single counter would keep the compiler from using vector instructions.
    let mut wins = [[0_u32; LANES]; D];
    let mut control_wins = [0_u32; LANES];
    let mut max_sum = 0.0;
    for block in (0..chunks).step_by(BLOCK / LANES) {
        let mut sums = [0.0; LANES];
        for chunk in block..block + BLOCK / LANES {
            let z: [[f32; LANES]; D] = core::array::from_fn(|j| columns[j][chunk]);
            let mut largest = [0.0; LANES];
            let mut theta = [[0.0; LANES]; D];
            for i in 0..D {
                let mut row = [mean[i]; LANES];
                for j in 0..=i {
                    for lane in 0..LANES {
                        row[lane] += factor[i][j] * z[j][lane];
                    }
                }
                for lane in 0..LANES {
                    largest[lane] = if row[lane] > largest[lane] { row[lane] } else { largest[lane] };
                }
                theta[i] = row;
            }
            for i in 0..D {
                for lane in 0..LANES {
                    wins[i][lane] += u32::from(theta[i][lane] == largest[lane]);
                }
            }
            for lane in 0..LANES {
                control_wins[lane] += u32::from(largest[lane] == 0.0);
                sums[lane] += largest[lane];
            }
        }
        max_sum += total(&sums);
    }
    let wins = wins.iter().map(|lanes| lanes.iter().sum()).collect();
    WinCounts { wins, control_wins: control_wins.iter().sum(), max_sum }
}

fn count_any(draws: &NormalDraws, mean: &[f32], factor: &[f32]) -> WinCounts {
    let dimensions = mean.len();
    let mut theta = vec![[0.0; BLOCK]; dimensions];
    let mut wins = vec![0_u32; dimensions];
    let mut control_wins = 0_u32;
    let mut max_sum = 0.0;
    for start in (0..draws.draws()).step_by(BLOCK) {
        let mut largest = [0.0; BLOCK];
        for (i, row) in theta.iter_mut().enumerate() {
            row.fill(mean[i]);
            for (j, weight) in factor[i * dimensions..=i * dimensions + i].iter().enumerate() {
                for (value, z) in row.iter_mut().zip(&draws.column(j)[start..start + BLOCK]) {
                    *value += weight * z;
                }
            }
            for (max, value) in largest.iter_mut().zip(row.iter()) {
                *max = if *value > *max { *value } else { *max };
            }
        }
        for (won, row) in wins.iter_mut().zip(&theta) {
            *won += row.iter().zip(&largest).map(|(value, max)| u32::from(value == max)).sum::<u32>();
        }
        control_wins += largest.iter().map(|max| u32::from(*max == 0.0)).sum::<u32>();
        let mut sums = [0.0; LANES];
        for lanes in largest.chunks_exact(LANES) {
            for (sum, max) in sums.iter_mut().zip(lanes) {
                *sum += max;
            }
        }
        max_sum += total(&sums);
    }
    WinCounts { wins, control_wins, max_sum }
}

/// The total of a block's partial sums, in double precision.
fn total(sums: &[f32; LANES]) -> f64 {
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrolled_and_general_count_agree_to_the_last_bit() {
        let draws = NormalDraws::new(5, 8, 10).unwrap();
        for dimensions in 1..=8 {
            let mean: Vec<f32> = (0..dimensions).map(|i| 0.1 * i as f32 - 0.2).collect();
            let factor: Vec<f32> = (0..dimensions * dimensions).map(|i| 0.01 * (1 + i % 7) as f32).collect();
            let (fixed, any) = (count(&draws, &mean, &factor), count_any(&draws, &mean, &factor));
            assert_eq!((fixed.wins, fixed.control_wins), (any.wins, any.control_wins));
            assert_eq!(fixed.max_sum.to_bits(), any.max_sum.to_bits());
        }
    }
}
