//! Estimates and decisions from the tallies of a run. Posteriors and decisions of the policy crate are computed only
//! here.

use inroad_assignment::Width;
use inroad_policy::{
    ArmState, Comparison, Decision, DrawsCache, EpochTally, Estimator, LiftEstimate, Measure, PolicyError, Posterior,
    Prior, TickInput, compare, shown_lifts,
};

use crate::SimulationError;

/// Computes estimates and decisions. Its buffers and cached draws are shared by all policies of a replication.
pub(crate) struct Statistics {
    measure: Measure,
    estimator: Estimator,
    /// One cache of draws per number of draws in use.
    caches: Vec<(u32, DrawsCache)>,
}

/// For each arm, how likely it is the best.
#[derive(Debug, Clone)]
pub(crate) struct BestArmEstimate {
    /// Probability to be the best arm.
    pub(crate) p_best: Vec<f64>,
}

impl BestArmEstimate {
    /// The arm that is most likely to be the best.
    pub(crate) fn leader(&self) -> usize {
        (1..self.p_best.len()).fold(0, |best, arm| if self.p_best[arm] > self.p_best[best] { arm } else { best })
    }
}

impl From<Comparison> for BestArmEstimate {
    fn from(comparison: Comparison) -> Self {
        Self { p_best: comparison.p_best }
    }
}

impl From<&Decision> for BestArmEstimate {
    fn from(decision: &Decision) -> Self {
        Self { p_best: decision.arms.iter().map(|arm| arm.p_best).collect() }
    }
}

impl Statistics {
    pub(crate) fn new(measure: Measure) -> Self {
        Self { measure, estimator: Estimator::default(), caches: Vec::new() }
    }

    /// How estimates treat the metric.
    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    /// The joint E3 posterior of all arms.
    pub(crate) fn joint_posterior(
        &mut self,
        arms: usize,
        epochs: &[EpochTally],
        prior: Prior,
    ) -> Result<Posterior, SimulationError> {
        Ok(self.estimator.fit(self.measure, arms, epochs, prior)?)
    }

    /// What people are shown of each arm; none for control.
    pub(crate) fn shown_lifts(
        &mut self,
        epochs: &[EpochTally],
        live: &[bool],
    ) -> Result<Vec<Option<LiftEstimate>>, SimulationError> {
        let shown = shown_lifts(&mut self.estimator, self.measure, epochs, live)?;
        Ok(shown.into_iter().map(|shown| shown.map(|shown| shown.estimate)).collect())
    }

    /// The E3 posterior of each arm compared with control only, without a prior. None if it does not exist: while control
    /// has no conversions, every lift is infinite.
    pub(crate) fn posterior_without_prior(
        &mut self,
        arms: usize,
        epochs: &[EpochTally],
    ) -> Result<Option<Posterior>, SimulationError> {
        match self.estimator.fit_each_against_control(self.measure, arms, epochs, Prior::Flat) {
            Ok(posterior) => Ok(Some(posterior)),
            Err(PolicyError::DidNotConverge | PolicyError::NotPositiveDefinite) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Compares the live arms with each other.
    pub(crate) fn best_arm(
        &mut self,
        epochs: &[EpochTally],
        settings: &BestArmSettings<'_>,
    ) -> Result<BestArmEstimate, SimulationError> {
        let posterior = self.joint_posterior(settings.live.len(), epochs, Prior::Normal(settings.tau))?;
        let variations = settings.live.iter().filter(|live| **live).count() - 1;
        let points =
            cache_for(&mut self.caches, settings.draws_log2).get(settings.seed, variations, settings.draws_log2)?;
        Ok(compare(&posterior, settings.live, points)?.into())
    }

    /// The decision of the production policy.
    pub(crate) fn decide(&mut self, input: &TickInput) -> Result<Decision, SimulationError> {
        Ok(inroad_policy::decide(input, cache_for(&mut self.caches, input.settings.draws_log2))?)
    }
}

/// Settings of [`Statistics::best_arm`].
pub(crate) struct BestArmSettings<'a> {
    /// One per arm: whether it was never killed.
    pub(crate) live: &'a [bool],
    /// Prior standard deviation of a log-lift.
    pub(crate) tau: f64,
    /// Logarithm to base 2 of the number of draws.
    pub(crate) draws_log2: u32,
    pub(crate) seed: u64,
}

fn cache_for(caches: &mut Vec<(u32, DrawsCache)>, draws_log2: u32) -> &mut DrawsCache {
    let at = caches.iter().position(|(log2, _)| *log2 == draws_log2).unwrap_or_else(|| {
        caches.push((draws_log2, DrawsCache::default()));
        caches.len() - 1
    });
    &mut caches[at].1
}

/// The state of an arm as input of a decision.
pub(crate) fn arm_state(owned: Width, foothold: Width, killed: bool) -> ArmState {
    ArmState { owned, foothold, killed, kill_exempt: false, guardrail_alerted: false }
}
