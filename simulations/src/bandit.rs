//! The textbook bandit: K arms with constant rates that pay 0 or 1, one pull at a time. It compares samplers with the
//! literature and with other implementations, without ticks, shares and the other parts of a simulated experiment.
//!
//! [`play`] runs one replication, [`replicate`] many of them on all cores. A replication depends only on the bandit,
//! the sampler, the seed and its number, and results are added up in order, so they are the same to the last digit on
//! any number of threads.
//!
//! Thompson sampling needs to know only which arm has the largest draw. `thompson` finds it without drawing every arm,
//! and explains why the distribution of the pulled arm stays the same.

mod posterior;
mod thompson;
mod top_two;

#[cfg(test)]
mod tests;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use posterior::Arm;

/// Arms that pay 0 or 1, and the number of pulls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandit {
    /// For each arm the probability that a pull pays, 0 to 1; at least two arms.
    pub rates: Vec<f64>,
    /// Pulls per replication, at least 1.
    pub horizon: u32,
}

/// The rule that chooses the arm of each pull.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampler {
    /// Thompson sampling: an arm is pulled with its probability to be the best, with a Beta(1, 1) prior for every rate
    /// (Thompson 1933; Chapelle and Li 2011, algorithm 2).
    Thompson,
    /// Top-two Thompson sampling (Russo 2016, "Simple Bayesian Algorithms for Best-Arm Identification"), with a Beta(1,
    /// 1) prior for every rate.
    TopTwo {
        /// The probability that the best arm of the first draw is pulled, above 0 and at most 1. Otherwise draws are
        /// repeated until another arm is the best, and that one is pulled. With 1 it is Thompson sampling.
        #[serde(default = "default_beta")]
        beta: f64,
    },
    /// The arm with the best mean so far, and sometimes a random arm (Sutton and Barto, section 2.4). An arm that was
    /// never pulled has the mean 0; ties are broken at random.
    EpsilonGreedy {
        /// The probability of a random arm, 0 to 1.
        epsilon: f64,
    },
    /// All arms in turn.
    Uniform,
}

fn default_beta() -> f64 {
    0.5
}

/// The result of one replication.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BanditRun {
    /// Number of pulls of each arm.
    pub pulls: Vec<u64>,
    /// Number of pulls that paid.
    pub reward: u64,
    /// Pseudo-regret after each of [`Bandit::checkpoints`] pulls: the sum of the differences between the best rate and
    /// the rates of the pulled arms. It does not depend on which pulls happened to pay.
    pub regret: Vec<f64>,
}

/// Means over many replications.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Number of replications.
    pub replications: u32,
    /// Mean pulls of each arm.
    pub pulls: Vec<f64>,
    /// Mean number of pulls that paid.
    pub reward: f64,
    /// Numbers of pulls after which the regret is given.
    pub checkpoints: Vec<u32>,
    /// Mean pseudo-regret at each checkpoint.
    pub regret: Vec<f64>,
    /// Standard error of each of these means; 0 for a single replication.
    pub regret_error: Vec<f64>,
}

/// Why a bandit or a sampler is not valid.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BanditError {
    /// There are fewer than two arms.
    #[error("a bandit needs at least two arms, and this one has {0}")]
    Arms(usize),
    /// A rate is not a probability.
    #[error("the rate of arm {arm} is {rate}. Use a number from 0 to 1")]
    Rate {
        /// The arm, from 0.
        arm: usize,
        /// Its rate.
        rate: f64,
    },
    /// The horizon is 0.
    #[error("the horizon is 0. Use at least 1 pull")]
    Horizon,
    /// A parameter of the sampler is out of range.
    #[error("{name} is {value}. Use a number from 0 to 1 (beta: above 0)")]
    Sampler {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// The number of replications is 0.
    #[error("the number of replications is 0. Use at least 1")]
    Replications,
}

impl Bandit {
    /// Checks that the bandit is valid.
    ///
    /// # Errors
    ///
    /// Fewer than two arms, a rate outside 0 to 1, a horizon of 0.
    pub fn check(&self) -> Result<(), BanditError> {
        if self.rates.len() < 2 {
            return Err(BanditError::Arms(self.rates.len()));
        }
        if let Some((arm, &rate)) = self.rates.iter().enumerate().find(|(_, rate)| !(0.0..=1.0).contains(*rate)) {
            return Err(BanditError::Rate { arm, rate });
        }
        if self.horizon == 0 { Err(BanditError::Horizon) } else { Ok(()) }
    }

    /// The numbers of pulls after which the regret is given: 1, 2, 5, 10, 20, 50 … and the horizon. The regret of a
    /// good sampler grows with the logarithm of time, so these are roughly equal steps.
    pub fn checkpoints(&self) -> Vec<u32> {
        let mut points = Vec::new();
        let mut decade = 1_u32;
        'all: loop {
            for step in [1, 2, 5] {
                match decade.checked_mul(step) {
                    Some(point) if point < self.horizon => points.push(point),
                    _ => break 'all,
                }
            }
            let Some(next) = decade.checked_mul(10) else { break };
            decade = next;
        }
        points.push(self.horizon);
        points
    }

    /// The pseudo-regret of the pulls so far.
    fn regret(&self, arms: &[Arm]) -> f64 {
        let best = self.rates.iter().copied().fold(0.0, f64::max);
        self.rates.iter().zip(arms).map(|(rate, arm)| (best - rate) * arm.pulls() as f64).sum()
    }
}

impl Sampler {
    /// Checks that the parameters are in range.
    ///
    /// # Errors
    ///
    /// `beta` outside (0, 1] or `epsilon` outside [0, 1].
    pub fn check(&self) -> Result<(), BanditError> {
        match *self {
            Self::TopTwo { beta } if !(beta > 0.0 && beta <= 1.0) => {
                Err(BanditError::Sampler { name: "beta", value: beta })
            }
            Self::EpsilonGreedy { epsilon } if !(0.0..=1.0).contains(&epsilon) => {
                Err(BanditError::Sampler { name: "epsilon", value: epsilon })
            }
            _ => Ok(()),
        }
    }
}

/// A separate generator for each replication. Streams of ChaCha do not overlap; it seeds Xoshiro, which is faster.
fn generator(seed: u64, replication: u64) -> Xoshiro256PlusPlus {
    let mut streams = ChaCha12Rng::seed_from_u64(seed);
    streams.set_stream(replication);
    let mut state = [0; 32];
    streams.fill_bytes(&mut state);
    Xoshiro256PlusPlus::from_seed(state)
}

/// Runs the pulls of one replication. `choose` returns the arm to pull; it gets the arms and the number of the step,
/// from 0.
fn run_pulls<R: Rng>(
    bandit: &Bandit,
    rng: &mut R,
    mut choose: impl FnMut(&mut [Arm], u32, &mut R) -> usize,
) -> BanditRun {
    let mut arms = vec![Arm::default(); bandit.rates.len()];
    let mut reward = 0;
    let mut regret = Vec::new();
    let mut step = 0;
    for checkpoint in bandit.checkpoints() {
        while step < checkpoint {
            let chosen = choose(&mut arms, step, rng);
            // Samplers return valid indices, and both lists have the same length.
            if let (Some(rate), Some(arm)) = (bandit.rates.get(chosen), arms.get_mut(chosen)) {
                let paid = rng.random::<f64>() < *rate;
                arm.record_pull(paid);
                reward += u64::from(paid);
            }
            step += 1;
        }
        regret.push(bandit.regret(&arms));
    }
    BanditRun { pulls: arms.iter().map(Arm::pulls).collect(), reward, regret }
}

/// The arm with the best mean so far; ties are broken at random.
fn greedy<R: Rng>(arms: &[Arm], rng: &mut R) -> usize {
    let (mut best, mut ties) = (0, 1_u32);
    for (index, arm) in arms.iter().enumerate().skip(1) {
        match arm.sample_mean().total_cmp(&arms[best].sample_mean()) {
            std::cmp::Ordering::Greater => (best, ties) = (index, 1),
            std::cmp::Ordering::Equal => {
                // The n-th arm of a tie replaces the previous one with probability 1/n, so all have the same chance.
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    best = index;
                }
            }
            std::cmp::Ordering::Less => {}
        }
    }
    best
}

/// Runs one replication: `horizon` pulls, starting from the priors.
///
/// # Errors
///
/// The errors of [`Bandit::check`] and [`Sampler::check`].
pub fn play(bandit: &Bandit, sampler: &Sampler, seed: u64, replication: u64) -> Result<BanditRun, BanditError> {
    bandit.check()?;
    sampler.check()?;
    let mut rng = generator(seed, replication);
    let count = bandit.rates.len();
    Ok(match *sampler {
        Sampler::Thompson => run_pulls(bandit, &mut rng, |arms, _, rng| thompson::arm_with_largest_draw(arms, rng)),
        Sampler::TopTwo { beta } => {
            let mut top_two = top_two::TopTwoSampler::default();
            run_pulls(bandit, &mut rng, |arms, _, rng| top_two.choose(arms, beta, rng))
        }
        Sampler::EpsilonGreedy { epsilon } => run_pulls(bandit, &mut rng, |arms, _, rng| {
            if rng.random::<f64>() < epsilon { rng.random_range(0..count) } else { greedy(arms, rng) }
        }),
        Sampler::Uniform => run_pulls(bandit, &mut rng, |_, step, _| step as usize % count),
    })
}

/// Runs replications 0 to `replications` − 1 on all threads of rayon, and returns their means.
///
/// # Errors
///
/// The errors of [`play`], and `replications` of 0.
pub fn replicate(bandit: &Bandit, sampler: &Sampler, seed: u64, replications: u32) -> Result<Summary, BanditError> {
    replicate_with_progress(bandit, sampler, seed, replications, &|| {})
}

/// [`replicate`], which calls `progress` after each replication, from several threads.
///
/// # Errors
///
/// Those of [`replicate`].
pub fn replicate_with_progress(
    bandit: &Bandit,
    sampler: &Sampler,
    seed: u64,
    replications: u32,
    progress: &(dyn Fn() + Sync),
) -> Result<Summary, BanditError> {
    if replications == 0 {
        return Err(BanditError::Replications);
    }
    let all: Vec<BanditRun> = (0..replications)
        .into_par_iter()
        .map(|replication| {
            let run = play(bandit, sampler, seed, u64::from(replication));
            progress();
            run
        })
        .collect::<Result<_, _>>()?;
    // Added up in order by one thread: the rounding of a sum depends on the order.
    let n = f64::from(replications);
    let checkpoints = bandit.checkpoints();
    let mean = |value: &dyn Fn(&BanditRun) -> f64| all.iter().map(value).sum::<f64>() / n;
    let regret: Vec<f64> = (0..checkpoints.len()).map(|point| mean(&|run| run.regret[point])).collect();
    let standard_error = |(point, mean): (usize, &f64)| {
        let squares = all.iter().map(|run| (run.regret[point] - mean).powi(2)).sum::<f64>();
        (squares / (n - 1.0).max(1.0) / n).sqrt()
    };
    Ok(Summary {
        replications,
        pulls: (0..bandit.rates.len()).map(|arm| mean(&|run| run.pulls[arm] as f64)).collect(),
        reward: mean(&|run| run.reward as f64),
        regret_error: regret.iter().enumerate().map(standard_error).collect(),
        checkpoints,
        regret,
    })
}
