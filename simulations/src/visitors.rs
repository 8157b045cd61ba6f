//! Draws the units that arrive at each tick, and the outcome that each would have under any arm. They are drawn once
//! per replication and are the same for all policies, so that only the policies cause differences in the results (common
//! random numbers).

use inroad_assignment::{ExperimentKey, Point, Salt, UnitHasher, UnitKey};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution, Gamma, Poisson, StandardNormal};

use crate::SimulationError;
use crate::scenario::Scenario;
use crate::scenario_doc::MetricSpec;
use crate::world::World;

/// Key of the simulated experiment.
pub(crate) const EXPERIMENT: &str = "simulated";

/// One unit at its first visit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor {
    /// Its point on the line.
    pub(crate) point: Point,
    /// Quantile of its outcome. It is the same under every arm, so that a better arm is at least as good for every
    /// unit.
    pub(crate) quantile: f64,
    /// Its expected outcome under an arm, divided by the rate of the arm.
    pub(crate) scale: f64,
    /// Value of its conversion.
    pub(crate) value: f64,
    /// Its denominator; 0 for metrics without one.
    pub(crate) denominator: f64,
    /// Ticks until its outcome is known, at least 1.
    pub(crate) delay: u32,
    /// Uniform draw from 0 to 1: its exposure is lost if this is below the probability of loss.
    pub(crate) loss_draw: f64,
    /// Whether its client serves old boundaries.
    pub(crate) stale: bool,
}

/// The units of one replication, tick by tick.
pub(crate) struct Visitors<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    hasher: UnitHasher,
    salt: Salt,
    arrivals: ChaCha8Rng,
    outcomes: ChaCha8Rng,
    faults: ChaCha8Rng,
    propensities: Propensity,
    /// Key of the next unit.
    next_key: u64,
    /// Whether exposures can be lost or clients can be stale.
    has_faults: bool,
}

/// The distribution of the propensity of units, with mean 1.
enum Propensity {
    Constant,
    /// For rates that are probabilities: `width` times a Beta, so that no probability is above 1.
    Beta {
        beta: Beta<f64>,
        width: f64,
    },
    /// For other rates.
    Gamma(Gamma<f64>),
}

impl<'a> Visitors<'a> {
    pub(crate) fn new(scenario: &'a Scenario, world: &'a World, replication: u32) -> Result<Self, SimulationError> {
        let seed = replication_seed(scenario.doc().seed, replication);
        let salt = Salt::parse(&format!("s{seed:016x}"))?;
        let stream = |number| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(number);
            rng
        };
        Ok(Self {
            scenario,
            world,
            hasher: UnitHasher::new(&ExperimentKey::parse(EXPERIMENT)?, &salt),
            salt,
            arrivals: stream(1),
            outcomes: stream(2),
            faults: stream(3),
            propensities: Propensity::new(scenario, world)?,
            next_key: 0,
            has_faults: scenario.doc().loss.is_some() || scenario.doc().stale.is_some(),
        })
    }

    /// The salt of this replication: each replication has its own.
    pub(crate) fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Fills `batch` with the units that arrive in a tick.
    pub(crate) fn draw_arrivals(&mut self, tick: u32, batch: &mut Vec<Visitor>) -> Result<(), SimulationError> {
        batch.clear();
        let expected = self.world.arrivals(tick);
        // The Poisson distribution needs a mean above 0.
        let count = if expected > 0.0 {
            let distribution =
                Poisson::new(expected).map_err(|error| SimulationError::field("per_day", error.to_string()))?;
            distribution.sample(&mut self.arrivals) as u64
        } else {
            0
        };
        batch.reserve(count as usize);
        let highest_rate = self.world.rates(tick).iter().fold(0.0_f64, |highest, rate| highest.max(*rate));
        for _ in 0..count {
            batch.push(self.draw_unit(highest_rate)?);
        }
        Ok(())
    }

    fn draw_unit(&mut self, highest_rate: f64) -> Result<Visitor, SimulationError> {
        let mut text = [0_u8; 20];
        let key = UnitKey::parse(decimal(self.next_key, &mut text))?;
        self.next_key += 1;
        let mut visitor = Visitor {
            point: self.hasher.digest(key).point(),
            quantile: self.outcomes.random(),
            scale: self.propensities.sample(&mut self.outcomes),
            value: 1.0,
            denominator: 0.0,
            delay: 1,
            loss_draw: 1.0,
            stale: false,
        };
        if let MetricSpec::Ratio { denominator } = self.scenario.doc().metric {
            visitor.denominator = 1.0 + poisson_quantile(self.outcomes.random(), denominator - 1.0);
            visitor.scale *= visitor.denominator;
        }
        // Most units have no outcome under any arm. Value and delay are drawn only for the others.
        if self.may_have_outcome(&visitor, highest_rate) {
            self.draw_outcome(&mut visitor);
        }
        if self.has_faults {
            visitor.loss_draw = self.faults.random();
            let fraction = self.scenario.doc().stale.map_or(0.0, |stale| stale.fraction);
            visitor.stale = self.faults.random::<f64>() < fraction;
        }
        Ok(visitor)
    }

    fn may_have_outcome(&self, visitor: &Visitor, highest_rate: f64) -> bool {
        match self.scenario.doc().metric {
            MetricSpec::Conversion | MetricSpec::Mean { .. } => visitor.quantile < highest_rate * visitor.scale,
            MetricSpec::Count | MetricSpec::Ratio { .. } => true,
        }
    }

    fn draw_outcome(&mut self, visitor: &mut Visitor) {
        if let MetricSpec::Mean { value, sigma, cap, .. } = self.scenario.doc().metric {
            let z: f64 = StandardNormal.sample(&mut self.outcomes);
            let drawn = value * (sigma * z - 0.5 * sigma * sigma).exp();
            visitor.value = cap.map_or(drawn, |cap| drawn.min(cap));
        }
        if let Some(delay) = self.scenario.doc().delay {
            // A quantile of the exponential distribution truncated at the window.
            let mass_in_window = -(-delay.window_hours / delay.mean_hours).exp_m1();
            let hours = -delay.mean_hours * (-mass_in_window * self.outcomes.random::<f64>()).ln_1p();
            let ticks = (hours / self.scenario.tick_hours()) as u32 + 1;
            visitor.delay = ticks.min(self.scenario.window_ticks().max(1));
        }
    }
}

impl Propensity {
    fn new(scenario: &Scenario, world: &World) -> Result<Self, SimulationError> {
        let cv = scenario.doc().heterogeneity;
        if cv == 0.0 {
            return Ok(Self::Constant);
        }
        let refused = |message: String| SimulationError::field("heterogeneity", message);
        let precision = 1.0 / (cv * cv);
        match scenario.doc().metric {
            MetricSpec::Conversion | MetricSpec::Mean { .. } => {
                let mean = world.highest();
                let total = (1.0 - mean) / mean * precision - 1.0;
                let beta = Beta::new(mean * total, (1.0 - mean) * total).map_err(|error| refused(error.to_string()))?;
                Ok(Self::Beta { beta, width: 1.0 / mean })
            }
            _ => Ok(Self::Gamma(Gamma::new(precision, 1.0 / precision).map_err(|error| refused(error.to_string()))?)),
        }
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Beta { beta, width } => beta.sample(rng) * width,
            Self::Gamma(gamma) => gamma.sample(rng),
        }
    }
}

/// The outcome (numerator) of a unit under an arm with this rate.
pub(crate) fn outcome(metric: MetricSpec, visitor: &Visitor, rate: f64) -> f64 {
    let mean = rate * visitor.scale;
    match metric {
        MetricSpec::Conversion | MetricSpec::Mean { .. } if visitor.quantile < mean => visitor.value,
        MetricSpec::Conversion | MetricSpec::Mean { .. } => 0.0,
        MetricSpec::Count | MetricSpec::Ratio { .. } => poisson_quantile(visitor.quantile, mean),
    }
}

/// The smallest count whose cumulative Poisson probability exceeds `quantile`. It is found by counting up from 0,
/// because means are small here; above 700, where e^−mean is 0 in an f64, by the normal approximation.
fn poisson_quantile(quantile: f64, mean: f64) -> f64 {
    if mean > 700.0 {
        let z = inroad_policy::normal_quantile(quantile.clamp(1e-16, 1.0 - 1e-16));
        return (mean + z * mean.sqrt()).round().max(0.0);
    }
    let (mut count, mut term) = (0.0, (-mean).exp());
    let mut cumulative = term;
    // Stops where the terms vanish in double precision: the sum could no longer reach the quantile.
    while cumulative <= quantile && term > 1e-300 {
        count += 1.0;
        term *= mean / count;
        cumulative += term;
    }
    count
}

/// The seed of one replication, by the finaliser of SplitMix64, which gives neighbouring replications unrelated seeds
/// (Steele, Lea & Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014).
pub(crate) fn replication_seed(seed: u64, replication: u32) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(replication) + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Formats a number in decimal without a heap allocation.
fn decimal(mut number: u64, text: &mut [u8; 20]) -> &str {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Digits are always UTF-8.
    std::str::from_utf8(&text[at..]).unwrap_or("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_equals_the_standard_library() {
        for number in [0, 7, 10, 999, 12_345_678_901, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string());
        }
    }

    #[test]
    fn poisson_quantiles_have_poisson_mean_and_variance() {
        for mean in [0.0, 0.3, 2.5, 40.0] {
            let steps = 200_000;
            let counts = (0..steps).map(|i| poisson_quantile((f64::from(i) + 0.5) / f64::from(steps), mean));
            let (sum, squares) = counts.fold((0.0, 0.0), |(s, q), count| (s + count, q + count * count));
            let (first, second) = (sum / f64::from(steps), squares / f64::from(steps));
            assert!((first - mean).abs() < 1e-3 * (1.0 + mean), "{mean}: {first}");
            assert!((second - first * first - mean).abs() < 5e-3 * (1.0 + mean), "{mean}");
        }
    }

    #[test]
    fn replications_have_different_seeds() {
        let seeds: std::collections::BTreeSet<u64> = (0..1000).map(|r| replication_seed(1, r)).collect();
        assert_eq!(seeds.len(), 1000);
        assert_ne!(replication_seed(1, 1), replication_seed(2, 0));
    }

    #[test]
    fn mean_outcome_equals_the_true_rate_for_every_metric() {
        for name in ["s2", "heterogeneous", "revenue", "count", "ratio"] {
            let scenario = crate::builtin::scenario(name).unwrap();
            let (world, metric) = (scenario.world(), scenario.doc().metric);
            let mut visitors = Visitors::new(&scenario, &world, 0).unwrap();
            let (mut batch, mut x, mut xx, mut expected) = (Vec::new(), 0.0, 0.0, 0.0);
            for tick in 0..world.ticks() {
                visitors.draw_arrivals(tick, &mut batch).unwrap();
                let rate = world.rates(tick)[3];
                for visitor in &batch {
                    let per = if visitor.denominator > 0.0 { visitor.denominator } else { 1.0 };
                    let found = outcome(metric, visitor, rate);
                    x += found;
                    xx += found * found;
                    // Mean of a lognormal with mean 40 and σ 1, capped at 400: 40·Φ(a − 1) + 400·Φ(−a), a = ln(10) + ½.
                    let value = if name == "revenue" { 39.584_828_8 } else { 1.0 };
                    expected += rate * per * value;
                    assert!((1..=scenario.window_ticks().max(1)).contains(&visitor.delay));
                }
            }
            assert!((x - expected).abs() < 4.0 * f64::sqrt(xx), "{name}: {x} v {expected}");
        }
    }
}
