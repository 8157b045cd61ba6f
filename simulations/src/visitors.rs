//! Who comes at a tick and what each of them would do under any arm. Drawn once per replication and shown to every
//! policy alike, so that policies differ by what they do and by nothing else (common random numbers).

use inroad_assignment::{ExperimentKey, Point, Salt, UnitHasher, UnitKey};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution, Gamma, Poisson, StandardNormal};

use crate::SimulationError;
use crate::scenario::{MetricSpec, Scenario};
use crate::world::World;

/// The experiment that every simulated unit is in.
pub(crate) const EXPERIMENT: &str = "simulated";

/// One unit at its first visit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor {
    /// Where it lives.
    pub(crate) point: Point,
    /// Quantile of its outcome: the same under every arm, so that what is better for one is better for all.
    pub(crate) quantile: f64,
    /// Its expected outcome under an arm is this times the arm's rate.
    pub(crate) scale: f64,
    /// What a conversion of its is worth.
    pub(crate) value: f64,
    /// Its denominator; 0 for metrics without one.
    pub(crate) denominator: f64,
    /// Ticks until an outcome of its is known, at least 1.
    pub(crate) delay: u32,
    /// Compared with the chance of being lost.
    pub(crate) luck: f64,
    /// Whether it asks a client that flips late.
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
    spread: Spread,
    next: u64,
    faulty: bool,
}

/// How propensities differ between units; their mean is 1.
enum Spread {
    None,
    /// For probabilities: `width` times a Beta, which keeps every probability below 1.
    Beta {
        beta: Beta<f64>,
        width: f64,
    },
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
            spread: Spread::new(scenario, world)?,
            next: 0,
            faulty: scenario.doc().loss.is_some() || scenario.doc().stale.is_some(),
        })
    }

    /// What sets the replication's line apart.
    pub(crate) fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Fills `batch` with the units of a tick.
    pub(crate) fn come(&mut self, tick: u32, batch: &mut Vec<Visitor>) -> Result<(), SimulationError> {
        batch.clear();
        let expected = self.world.arrivals(tick);
        // Poisson needs a mean above 0; at a tick without arrivals nobody comes.
        let count = if expected > 0.0 {
            let law = Poisson::new(expected).map_err(|error| SimulationError::field("per_day", error.to_string()))?;
            law.sample(&mut self.arrivals) as u64
        } else {
            0
        };
        batch.reserve(count as usize);
        let highest = self.world.rates(tick).iter().fold(0.0_f64, |most, rate| most.max(*rate));
        for _ in 0..count {
            batch.push(self.draw(highest)?);
        }
        Ok(())
    }

    fn draw(&mut self, highest: f64) -> Result<Visitor, SimulationError> {
        let mut text = [0_u8; 20];
        let key = UnitKey::parse(decimal(self.next, &mut text))?;
        self.next += 1;
        let mut visitor = Visitor {
            point: self.hasher.digest(key).point(),
            quantile: self.outcomes.random(),
            scale: self.spread.sample(&mut self.outcomes),
            value: 1.0,
            denominator: 0.0,
            delay: 1,
            luck: 1.0,
            stale: false,
        };
        if let MetricSpec::Ratio { denominator } = self.scenario.doc().metric {
            visitor.denominator = 1.0 + poisson_quantile(self.outcomes.random(), denominator - 1.0);
            visitor.scale *= visitor.denominator;
        }
        // Most units have no outcome under any arm: what it would be worth and when need not be drawn.
        if self.may_respond(&visitor, highest) {
            self.draw_outcome(&mut visitor);
        }
        if self.faulty {
            visitor.luck = self.faults.random();
            let fraction = self.scenario.doc().stale.map_or(0.0, |stale| stale.fraction);
            visitor.stale = self.faults.random::<f64>() < fraction;
        }
        Ok(visitor)
    }

    fn may_respond(&self, visitor: &Visitor, highest: f64) -> bool {
        match self.scenario.doc().metric {
            MetricSpec::Conversion | MetricSpec::Mean { .. } => visitor.quantile < highest * visitor.scale,
            MetricSpec::Count | MetricSpec::Ratio { .. } => true,
        }
    }

    fn draw_outcome(&mut self, visitor: &mut Visitor) {
        if let MetricSpec::Mean { value, sigma, cap } = self.scenario.doc().metric {
            let z: f64 = StandardNormal.sample(&mut self.outcomes);
            let worth = value * (sigma * z - 0.5 * sigma * sigma).exp();
            visitor.value = cap.map_or(worth, |cap| worth.min(cap));
        }
        if let Some(delay) = self.scenario.doc().delay {
            // The exponential's quantile, between 0 and where the window cuts it off.
            let within = -(-delay.window_hours / delay.mean_hours).exp_m1();
            let hours = -delay.mean_hours * (-within * self.outcomes.random::<f64>()).ln_1p();
            let ticks = (hours / self.scenario.tick_hours()) as u32 + 1;
            visitor.delay = ticks.min(self.scenario.window_ticks().max(1));
        }
    }
}

impl Spread {
    fn new(scenario: &Scenario, world: &World) -> Result<Self, SimulationError> {
        let cv = scenario.doc().heterogeneity;
        if cv == 0.0 {
            return Ok(Self::None);
        }
        let fault = |message: String| SimulationError::field("heterogeneity", message);
        let precision = 1.0 / (cv * cv);
        match scenario.doc().metric {
            MetricSpec::Conversion | MetricSpec::Mean { .. } => {
                let mean = world.highest();
                let total = (1.0 - mean) / mean * precision - 1.0;
                let beta = Beta::new(mean * total, (1.0 - mean) * total).map_err(|error| fault(error.to_string()))?;
                Ok(Self::Beta { beta, width: 1.0 / mean })
            }
            _ => Ok(Self::Gamma(Gamma::new(precision, 1.0 / precision).map_err(|error| fault(error.to_string()))?)),
        }
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Beta { beta, width } => beta.sample(rng) * width,
            Self::Gamma(gamma) => gamma.sample(rng),
        }
    }
}

/// What a visitor does under an arm of this rate: its numerator.
pub(crate) fn outcome(metric: MetricSpec, visitor: &Visitor, rate: f64) -> f64 {
    let mean = rate * visitor.scale;
    match metric {
        MetricSpec::Conversion | MetricSpec::Mean { .. } if visitor.quantile < mean => visitor.value,
        MetricSpec::Conversion | MetricSpec::Mean { .. } => 0.0,
        MetricSpec::Count | MetricSpec::Ratio { .. } => poisson_quantile(visitor.quantile, mean),
    }
}

/// The smallest count whose cumulative Poisson probability exceeds `quantile`. By stepping up, from a mean that is small
/// here; above 700, where e^−mean vanishes, by the normal approximation.
fn poisson_quantile(quantile: f64, mean: f64) -> f64 {
    if mean > 700.0 {
        let z = inroad_policy::normal_quantile(quantile.clamp(1e-16, 1.0 - 1e-16));
        return (mean + z * mean.sqrt()).round().max(0.0);
    }
    let (mut count, mut term) = (0.0, (-mean).exp());
    let mut cumulative = term;
    // The tail beyond double precision is cut off: it would never be reached by adding.
    while cumulative <= quantile && term > 1e-300 {
        count += 1.0;
        term *= mean / count;
        cumulative += term;
    }
    count
}

/// A seed of a replication's own: SplitMix64's finaliser, which maps neighbours far apart (Steele, Lea & Flood,
/// *Fast splittable pseudorandom number generators*, OOPSLA 2014).
pub(crate) fn replication_seed(seed: u64, replication: u32) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(replication) + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in decimal, without the heap.
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
    fn a_number_is_written_as_the_standard_library_writes_it() {
        for number in [0, 7, 10, 999, 12_345_678_901, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string());
        }
    }

    #[test]
    fn poisson_quantiles_have_the_mean_and_the_variance_of_a_poisson() {
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
    fn neighbouring_replications_have_seeds_far_apart() {
        let seeds: std::collections::BTreeSet<u64> = (0..1000).map(|r| replication_seed(1, r)).collect();
        assert_eq!(seeds.len(), 1000);
        assert_ne!(replication_seed(1, 1), replication_seed(2, 0));
    }

    #[test]
    fn outcomes_have_the_mean_that_the_world_says_whatever_units_are_like() {
        for name in ["s2", "heterogeneous", "revenue", "count", "ratio"] {
            let scenario = crate::builtin::scenario(name).unwrap();
            let (world, metric) = (World::new(&scenario), scenario.doc().metric);
            let mut visitors = Visitors::new(&scenario, &world, 0).unwrap();
            let (mut batch, mut x, mut xx, mut expected) = (Vec::new(), 0.0, 0.0, 0.0);
            for tick in 0..world.ticks() {
                visitors.come(tick, &mut batch).unwrap();
                let rate = world.rates(tick)[3];
                for visitor in &batch {
                    let per = if visitor.denominator > 0.0 { visitor.denominator } else { 1.0 };
                    let found = outcome(metric, visitor, rate);
                    x += found;
                    xx += found * found;
                    // The mean of a lognormal of mean 40 and σ 1, held at 400: 40·Φ(a − 1) + 400·Φ(−a), a = ln(10) + ½.
                    let value = if name == "revenue" { 39.584_828_8 } else { 1.0 };
                    expected += rate * per * value;
                    assert!((1..=scenario.window_ticks().max(1)).contains(&visitor.delay));
                }
            }
            assert!((x - expected).abs() < 4.0 * f64::sqrt(xx), "{name}: {x} v {expected}");
        }
    }
}
