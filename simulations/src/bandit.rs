//! The textbook bandit: K arms that pay 0 or 1 at rates that stay, one pull at a time. Here a sampler can be held against
//! the literature and against other implementations, without ticks, shares or anything else that serving needs.
//!
//! [`play`] is one life of it, [`replicate`] many of them on all cores. A replication is a function of the bandit, the
//! sampler, the seed and its own number, and nothing is added up before all are in: the result is the same to the last
//! digit on any number of threads.
//!
//! Thompson sampling asks only whose draw is the largest, and draws no more than that takes; `thompson` says how, and
//! why the law of what is pulled stays that of drawing every arm at every step.

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

/// Arms that pay 0 or 1, and for how long they are played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandit {
    /// The probability that a pull of each arm pays, 0 to 1; two arms or more.
    pub rates: Vec<f64>,
    /// Pulls in a replication, from 1.
    pub horizon: u32,
}

/// Who chooses the arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampler {
    /// Thompson sampling: an arm is pulled with the probability that it is the best, given Beta(1, 1) on every rate
    /// (Thompson 1933; Chapelle and Li 2011, algorithm 2).
    Thompson,
    /// Top-two Thompson sampling (Russo 2016, "Simple Bayesian Algorithms for Best-Arm Identification"), Beta(1, 1)
    /// on every rate.
    TopTwo {
        /// The probability that the first draw's best is pulled and not the best of the first draw that disagrees, above
        /// 0 and at most 1. At 1 it is Thompson sampling.
        #[serde(default = "half")]
        beta: f64,
    },
    /// The arm of the best mean so far, and now and then any (Sutton and Barto, section 2.4: an arm that was never pulled
    /// has the mean 0, ties are broken evenly).
    EpsilonGreedy {
        /// The probability that the arm is chosen at random, 0 to 1.
        epsilon: f64,
    },
    /// Every arm in turn.
    Uniform,
}

fn half() -> f64 {
    0.5
}

/// What one replication came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    /// Pulls of each arm.
    pub pulls: Vec<u64>,
    /// Pulls that paid.
    pub reward: u64,
    /// Pseudo-regret after each of [`Bandit::checkpoints`] pulls: what the pulled arms' rates fall short of the best
    /// arm's, added up. Chance in the payments is not in it.
    pub regret: Vec<f64>,
}

/// What many replications came to, on average.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub replications: u32,
    /// Mean pulls of each arm.
    pub pulls: Vec<f64>,
    /// Mean number of pulls that paid.
    pub reward: f64,
    /// Pulls after which the regret is told.
    pub checkpoints: Vec<u32>,
    /// Mean pseudo-regret after each of them.
    pub regret: Vec<f64>,
    /// Standard error of each of these means; 0 for a single replication.
    pub regret_error: Vec<f64>,
}

/// Why a bandit cannot be played.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BanditError {
    /// With one arm there is nothing to choose.
    #[error("a bandit needs two arms or more, this one has {0}")]
    Arms(usize),
    /// A rate is no probability.
    #[error("the rate of arm {arm} is {rate}, not within 0 to 1")]
    Rate {
        /// The arm, from 0.
        arm: usize,
        /// Its rate.
        rate: f64,
    },
    /// Nothing would be pulled.
    #[error("the horizon is 0")]
    Horizon,
    /// A sampler's own number is out of its range.
    #[error("{name} is {value}, not within 0 to 1 (beta: above 0)")]
    Sampler {
        /// Which number.
        name: &'static str,
        /// What it is.
        value: f64,
    },
    /// There is no mean of nothing.
    #[error("no replication was asked for")]
    Replications,
}

impl Bandit {
    /// Whether it can be played.
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

    /// Where the regret is told: 1, 2, 5, 10, 20, 50 … and the horizon. A good sampler's regret grows with the logarithm
    /// of time, so that even steps of it are these.
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

    fn regret(&self, arms: &[Arm]) -> f64 {
        let best = self.rates.iter().copied().fold(0.0, f64::max);
        self.rates.iter().zip(arms).map(|(rate, arm)| (best - rate) * arm.pulls() as f64).sum()
    }
}

impl Sampler {
    /// Whether its numbers are in their ranges.
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

/// A generator of its own for each replication: ChaCha's streams are apart by construction, Xoshiro is fast.
fn generator(seed: u64, replication: u64) -> Xoshiro256PlusPlus {
    let mut streams = ChaCha12Rng::seed_from_u64(seed);
    streams.set_stream(replication);
    let mut state = [0; 32];
    streams.fill_bytes(&mut state);
    Xoshiro256PlusPlus::from_seed(state)
}

/// The pulls of one replication, told which arm each time. `choose` has the arms as they stand and the step, from 0.
fn pulled<R: Rng>(bandit: &Bandit, rng: &mut R, mut choose: impl FnMut(&mut [Arm], u32, &mut R) -> usize) -> Played {
    let mut arms = vec![Arm::default(); bandit.rates.len()];
    let mut reward = 0;
    let mut regret = Vec::new();
    let mut step = 0;
    for checkpoint in bandit.checkpoints() {
        while step < checkpoint {
            let chosen = choose(&mut arms, step, rng);
            // A sampler names arms that there are; both are of one length.
            if let (Some(rate), Some(arm)) = (bandit.rates.get(chosen), arms.get_mut(chosen)) {
                let paid = rng.random::<f64>() < *rate;
                arm.learn(paid);
                reward += u64::from(paid);
            }
            step += 1;
        }
        regret.push(bandit.regret(&arms));
    }
    Played { pulls: arms.iter().map(Arm::pulls).collect(), reward, regret }
}

fn greedy<R: Rng>(arms: &[Arm], rng: &mut R) -> usize {
    let (mut best, mut ties) = (0, 1_u32);
    for (index, arm) in arms.iter().enumerate().skip(1) {
        match arm.sample_mean().total_cmp(&arms[best].sample_mean()) {
            std::cmp::Ordering::Greater => (best, ties) = (index, 1),
            std::cmp::Ordering::Equal => {
                // The n-th that is as good takes the place with probability 1/n: then all have the same.
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

/// One replication: `horizon` pulls from nothing known.
///
/// # Errors
///
/// Whatever [`Bandit::check`] and [`Sampler::check`] find.
pub fn play(bandit: &Bandit, sampler: &Sampler, seed: u64, replication: u64) -> Result<Played, BanditError> {
    bandit.check()?;
    sampler.check()?;
    let mut rng = generator(seed, replication);
    let count = bandit.rates.len();
    Ok(match *sampler {
        Sampler::Thompson => pulled(bandit, &mut rng, |arms, _, rng| thompson::best(arms, rng)),
        Sampler::TopTwo { beta } => {
            let mut challenge = top_two::Challenge::default();
            pulled(bandit, &mut rng, |arms, _, rng| challenge.choose(arms, beta, rng))
        }
        Sampler::EpsilonGreedy { epsilon } => pulled(bandit, &mut rng, |arms, _, rng| {
            if rng.random::<f64>() < epsilon { rng.random_range(0..count) } else { greedy(arms, rng) }
        }),
        Sampler::Uniform => pulled(bandit, &mut rng, |_, step, _| step as usize % count),
    })
}

/// Replications 0 to `replications` − 1 on all of rayon's threads, and their means.
///
/// # Errors
///
/// Whatever [`play`] says, and that there is no replication.
pub fn replicate(bandit: &Bandit, sampler: &Sampler, seed: u64, replications: u32) -> Result<Summary, BanditError> {
    if replications == 0 {
        return Err(BanditError::Replications);
    }
    let all: Vec<Played> = (0..replications)
        .into_par_iter()
        .map(|replication| play(bandit, sampler, seed, u64::from(replication)))
        .collect::<Result<_, _>>()?;
    // In their order and by one thread: floats add up differently in another order.
    let n = f64::from(replications);
    let checkpoints = bandit.checkpoints();
    let mean = |of: &dyn Fn(&Played) -> f64| all.iter().map(of).sum::<f64>() / n;
    let regret: Vec<f64> = (0..checkpoints.len()).map(|point| mean(&|played| played.regret[point])).collect();
    let error = |(point, at): (usize, &f64)| {
        let squares = all.iter().map(|played| (played.regret[point] - at).powi(2)).sum::<f64>();
        (squares / (n - 1.0).max(1.0) / n).sqrt()
    };
    Ok(Summary {
        replications,
        pulls: (0..bandit.rates.len()).map(|arm| mean(&|played| played.pulls[arm] as f64)).collect(),
        reward: mean(&|played| played.reward as f64),
        regret_error: regret.iter().enumerate().map(error).collect(),
        checkpoints,
        regret,
    })
}
