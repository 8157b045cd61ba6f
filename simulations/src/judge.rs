//! What the statistics say of a run's tallies, asked through the policy crate: the one place that calls its estimators.

use inroad_assignment::{ThompsonSettings, Width};
use inroad_policy::{
    ArmState, Comparison, Decision, EpochTally, Estimator, Measure, PointsCache, PolicyError, Posterior, Prior,
    TickInput, compare,
};

use crate::SimulationError;

/// Buffers and draws, kept between ticks and shared by the policies of a replication.
pub(crate) struct Judge {
    measure: Measure,
    estimator: Estimator,
    /// One cache for each number of draws that some policy asks for.
    caches: Vec<(u32, PointsCache)>,
}

/// What is believed of the arms at a tick.
#[derive(Debug, Clone)]
pub(crate) struct Belief {
    pub(crate) p_best: Vec<f64>,
    /// Log scale; none for killed arms.
    pub(crate) loss: Vec<Option<f64>>,
}

impl Belief {
    /// The arm that is most likely best.
    pub(crate) fn leader(&self) -> usize {
        (1..self.p_best.len()).fold(0, |best, arm| if self.p_best[arm] > self.p_best[best] { arm } else { best })
    }

    /// The leader, if it is clearly best, by the policy's own default: all ship by one rule.
    pub(crate) fn winner(&self) -> Option<usize> {
        let rule = ThompsonSettings::default();
        let leader = self.leader();
        // At so small a loss, the log scale and the relative one are the same.
        let small = self.loss[leader].is_some_and(|loss| loss <= rule.conclude_loss);
        (self.p_best[leader] >= rule.conclude_probability && small).then_some(leader)
    }
}

impl From<Comparison> for Belief {
    fn from(comparison: Comparison) -> Self {
        Self { p_best: comparison.p_best, loss: comparison.expected_loss }
    }
}

impl From<&Decision> for Belief {
    fn from(decision: &Decision) -> Self {
        let loss = decision.arms.iter().map(|arm| arm.expected_loss).collect();
        Self { p_best: decision.arms.iter().map(|arm| arm.p_best).collect(), loss }
    }
}

impl Judge {
    pub(crate) fn new(measure: Measure) -> Self {
        Self { measure, estimator: Estimator::default(), caches: Vec::new() }
    }

    /// How estimates see the metric.
    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    /// E3's posterior under a prior.
    pub(crate) fn posterior(
        &mut self,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, SimulationError> {
        Ok(self.estimator.fit(self.measure, arms, epochs, prior)?)
    }

    /// The same, each arm against control alone: what people are shown.
    pub(crate) fn each(
        &mut self,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, SimulationError> {
        Ok(self.estimator.fit_each(self.measure, arms, epochs, prior)?)
    }

    /// That without prior; none where it has no answer: while control has no conversions, every lift is infinite.
    pub(crate) fn flat(&mut self, arms: usize, epochs: &[EpochTally]) -> Result<Option<Posterior>, SimulationError> {
        match self.estimator.fit_each(self.measure, arms, epochs, Prior::Flat) {
            Ok(posterior) => Ok(Some(posterior)),
            Err(PolicyError::DidNotConverge | PolicyError::NotPositiveDefinite) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The live arms against each other.
    pub(crate) fn belief(&mut self, epochs: &[EpochTally], look: &Look<'_>) -> Result<Belief, SimulationError> {
        let posterior = self.posterior(look.live.len(), epochs, Prior::Normal(look.tau))?;
        let treated = look.live.iter().filter(|live| **live).count() - 1;
        let points = cache(&mut self.caches, look.draws_log2).get(look.seed, treated, look.draws_log2)?;
        Ok(compare(&posterior, look.live, points)?.into())
    }

    /// The production policy's decision.
    pub(crate) fn decide(&mut self, input: &TickInput) -> Result<Decision, SimulationError> {
        Ok(inroad_policy::decide(input, cache(&mut self.caches, input.settings.draws_log2))?)
    }
}

/// How a belief is come by.
pub(crate) struct Look<'a> {
    pub(crate) live: &'a [bool],
    pub(crate) tau: f64,
    pub(crate) draws_log2: u32,
    pub(crate) seed: u64,
}

fn cache(caches: &mut Vec<(u32, PointsCache)>, draws_log2: u32) -> &mut PointsCache {
    let at = caches.iter().position(|(log2, _)| *log2 == draws_log2).unwrap_or_else(|| {
        caches.push((draws_log2, PointsCache::default()));
        caches.len() - 1
    });
    &mut caches[at].1
}

/// An arm's state as the policy is told it.
pub(crate) fn arm_state(owned: Width, foothold: Width, killed: bool) -> ArmState {
    ArmState { owned, foothold, killed, spared: false, harmed: false }
}
