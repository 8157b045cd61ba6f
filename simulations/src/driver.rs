//! Changes the boundaries of one run: one [`PolicyDriver`] per policy, in a simulated world or over a logged trial.
//!
//! A driver owns the allocation that the run serves. At each tick of its policy it gets the tallies of all earlier
//! ticks and decides. How it decides depends on the policy:
//!
//! - `growth` is the production code: an [`Experiment`] with its own growth and kills, and the decision of the policy
//!   crate. Growth takes points from control only, so no unit moves from one variation to another.
//! - `equal` and `fixed` never change their shares. Their tallies are still evaluated, so that they can find a winner,
//!   and ship it if their `ship` rule allows it.
//! - `unconstrained` Thompson sampling is the reference. From the second day it sets all shares again at every tick, to
//!   P(best), and moves units freely. No arm has a minimum share.
//!
//! One tick of one run in a simulated world (`replication` runs these steps; over a log, `offline` does):
//!
//! ```text
//!  tick t begins
//!     │
//!     ▼
//!  tallies: outcomes that are due become known, windows close
//!     │
//!     ▼
//!  driver.decide ───────► statistics: P(best), expected loss ───► ship an arm?  then it serves all units from now on
//!     │ growth: kill, grow    equal, fixed: no change    unconstrained: all shares again
//!     ▼
//!  boundaries or kills changed?
//!     ├── yes ──► unit_moves: count the units whose arm changes
//!     │           tallies: drop the records of units whose arm changes within their window
//!     ▼
//!  the units of tick t arrive, the same for every policy
//!     │
//!     ▼
//!  unit key ─► point ─► bucket ─► arm ─► outcome, known `delay` ticks later
//!     │
//!     ▼
//!  regret += visits × (rate of the best arm − mean rate served)
//! ```
//!
//! The driver does not know the true rates. Like the production policy, it sees only counts per epoch and arm.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::definition::Direction;
use inroad_assignment::document::{MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{
    Allocation, Arm, Bucket, Definition, DefinitionDoc, Experiment, GrowthRule, KillTarget, Kills, MetricKind, Payload,
    Point, Salt, ThompsonSettings, Timestamp, Width,
};
use inroad_policy::{
    BetterDirection, Decision, EVIDENCE_SHARE, EpochTally, Measure, SampleRatioRule, TickInput, TickScope,
};

use crate::SimulationError;
use crate::policies::{PolicyKind, PolicySpec, ShipRule, tick_length};
use crate::scenario::Scenario;
use crate::scenario_doc::MetricSpec;
use crate::statistics::{BestArmEstimate, BestArmSettings, Statistics, arm_state};
use crate::unit_moves::ServedAllocation;

/// The experiment that a driver runs in, either simulated or logged.
#[derive(Debug, Clone)]
pub(crate) struct ExperimentSetup {
    /// The experiment's key.
    pub(crate) experiment: &'static str,
    /// Number of arms, control included.
    pub(crate) arms: usize,
    /// Ticks per day, a divisor of 24.
    pub(crate) ticks_per_day: u32,
    /// How estimates treat the metric.
    pub(crate) measure: Measure,
    /// The metric as an experiment's definition declares it.
    pub(crate) metric: MetricKind,
    /// How long the outcomes of a unit count after its exposure.
    pub(crate) window: Duration,
}

impl ExperimentSetup {
    /// The length of a tick.
    pub(crate) fn tick_length(&self) -> Duration {
        tick_length(self.ticks_per_day)
    }
}

impl From<&Scenario> for ExperimentSetup {
    fn from(scenario: &Scenario) -> Self {
        let doc = scenario.doc();
        Self {
            experiment: crate::visitors::EXPERIMENT,
            arms: doc.arms.len(),
            ticks_per_day: doc.ticks_per_day,
            measure: scenario.measure(),
            metric: metric_kind(doc.metric),
            window: Duration::from_secs_f64(doc.delay.map_or(1.0, |delay| delay.window_hours) * 3600.0),
        }
    }
}

/// The allocation of one run and the policy that changes it.
pub(crate) struct PolicyDriver {
    allocation: Arc<Allocation>,
    kills: Kills,
    shipped: Option<Arm>,
    live: Vec<bool>,
    method: DecisionMethod,
    spec: PolicySpec,
    tick: Duration,
    ticks_per_day: u32,
    seed: u64,
}

/// How a policy decides.
enum DecisionMethod {
    Growth(Box<GrowthExperiment>),
    ConstantShares,
    Unconstrained,
}

/// The experiment of a growing policy, and the input of its decisions.
struct GrowthExperiment {
    experiment: Experiment,
    input: TickInput,
}

/// What changed at a tick.
#[derive(Debug, Default)]
pub(crate) struct TickChange {
    /// Boundaries or kills changed: some units are served another arm.
    pub(crate) serving_changed: bool,
    /// Boundaries changed: a new revision.
    pub(crate) new_revision: bool,
    /// Arms killed at this tick.
    pub(crate) killed: Vec<usize>,
    /// The arm that is clearly best.
    pub(crate) clearly_best: Option<usize>,
    /// The arm that a person is prompted to ship, or control if the prompt is to roll back.
    pub(crate) ready_to_ship: Option<usize>,
    /// The estimate of the best arm, if it was computed.
    pub(crate) estimate: Option<BestArmEstimate>,
}

impl TickChange {
    /// Takes over what the decision says about a winner.
    fn note_conclusion(&mut self, decision: &Decision) {
        self.clearly_best = decision.clearly_best.map(|best| best.arm);
        let ready = decision.ship.is_some_and(|ship| ship.ready());
        self.ready_to_ship = decision.conclude.map(|conclude| conclude.arm).filter(|_| ready);
    }
}

impl PolicyDriver {
    pub(crate) fn new(
        setup: &ExperimentSetup,
        spec: &PolicySpec,
        salt: &Salt,
        seed: u64,
    ) -> Result<Self, SimulationError> {
        let arms = setup.arms;
        let even = vec![1.0 / arms as f64; arms];
        let (method, allocation) = match spec.kind {
            PolicyKind::Growth => {
                let growth = GrowthExperiment::start(setup, spec, salt, seed)?;
                let allocation = growth.experiment.latest_allocation();
                (DecisionMethod::Growth(Box::new(growth)), allocation)
            }
            PolicyKind::Equal => (DecisionMethod::ConstantShares, Arc::new(allocation_from_shares(&even)?)),
            PolicyKind::Fixed => (
                DecisionMethod::ConstantShares,
                Arc::new(allocation_from_shares(spec.shares.as_deref().unwrap_or(&even))?),
            ),
            PolicyKind::Unconstrained => (DecisionMethod::Unconstrained, Arc::new(allocation_from_shares(&even)?)),
        };
        Ok(Self {
            allocation,
            kills: Kills::default(),
            shipped: None,
            live: vec![true; arms],
            method,
            spec: spec.clone(),
            tick: setup.tick_length(),
            ticks_per_day: setup.ticks_per_day,
            seed,
        })
    }

    /// Which arm each point is served. Not used once an arm is shipped.
    pub(crate) fn served_allocation(&self) -> ServedAllocation<'_> {
        ServedAllocation { allocation: &self.allocation, kills: self.kills }
    }

    /// The current boundaries and kills, to compare later ones with.
    pub(crate) fn allocation_and_kills(&self) -> (Arc<Allocation>, Kills) {
        (Arc::clone(&self.allocation), self.kills)
    }

    /// The arm that was shipped and serves all units.
    pub(crate) fn shipped(&self) -> Option<Arm> {
        self.shipped
    }

    /// The share of units that each arm serves. Summed in whole points, because rounded shares may add up to more than
    /// 1.
    pub(crate) fn shares(&self) -> Vec<f64> {
        let mut widths = vec![Width::ZERO; self.live.len()];
        for owner in (0..widths.len()).filter_map(Arm::new) {
            let served = &mut widths[self.shipped.unwrap_or_else(|| self.kills.served_arm(owner)).index()];
            *served = served.saturating_add(self.allocation.width_of(owner));
        }
        widths.into_iter().map(Width::share).collect()
    }

    /// The policy's estimate of the best arm at the beginning of `tick`. Changes nothing.
    pub(crate) fn best_arm_estimate(
        &mut self,
        statistics: &mut Statistics,
        tick: u32,
        epochs: &[EpochTally],
    ) -> Result<BestArmEstimate, SimulationError> {
        if let DecisionMethod::Growth(growth) = &mut self.method {
            // The decision uses the posterior that the settings choose. It is not carried out.
            growth.refresh_input(Timestamp::start_of_tick(i64::from(tick), self.tick), epochs);
            return Ok(BestArmEstimate::from(&statistics.decide(&growth.input)?));
        }
        let ThompsonSettings { tau, draws_log2, .. } = self.spec.settings;
        statistics.best_arm(epochs, &BestArmSettings { live: &self.live, tau, draws_log2, seed: self.seed })
    }

    /// Lets the policy decide at the beginning of `tick`, and carries the decision out.
    pub(crate) fn decide(
        &mut self,
        statistics: &mut Statistics,
        tick: u32,
        epochs: &[EpochTally],
    ) -> Result<TickChange, SimulationError> {
        if self.shipped.is_some() || tick == 0 || !tick.is_multiple_of(self.spec.stride) {
            return Ok(TickChange::default());
        }
        let mut change = match &mut self.method {
            DecisionMethod::Growth(growth) => {
                growth.decide(statistics, Timestamp::start_of_tick(i64::from(tick), self.tick), epochs)?
            }
            DecisionMethod::ConstantShares | DecisionMethod::Unconstrained if tick < self.ticks_per_day => {
                return Ok(TickChange::default());
            }
            DecisionMethod::ConstantShares | DecisionMethod::Unconstrained => {
                let estimate = self.best_arm_estimate(statistics, tick, epochs)?;
                let mut change = TickChange { estimate: Some(estimate), ..TickChange::default() };
                // Unconstrained Thompson sampling is the reference: nobody asks it for a winner.
                if matches!(self.method, DecisionMethod::ConstantShares) {
                    change.note_conclusion(&self.decide_with_constant_shares(statistics, tick, epochs)?);
                }
                change
            }
        };
        self.apply(&mut change)?;
        let shipped = match self.spec.ship {
            ShipRule::Never => None,
            ShipRule::ClearlyBest => change.clearly_best,
            ShipRule::Prompted => change.ready_to_ship,
        };
        self.shipped = shipped.and_then(Arm::new);
        Ok(change)
    }

    /// The decision of the production policy with growth and kills switched off: what it says about a winner.
    fn decide_with_constant_shares(
        &self,
        statistics: &mut Statistics,
        tick: u32,
        epochs: &[EpochTally],
    ) -> Result<Decision, SimulationError> {
        let settings =
            ThompsonSettings { rule: GrowthRule::Fixed, kill_probability: 1.0, ..self.spec.settings.clone() };
        let arms = (0..self.live.len()).filter_map(Arm::new).map(|arm| self.allocation.width_of(arm));
        let input = TickInput {
            now: Timestamp::start_of_tick(i64::from(tick), self.tick),
            seed: self.seed,
            arms: arms.map(|width| arm_state(width, width, false)).collect(),
            epochs: epochs.to_vec(),
            ..initial_input(settings, statistics.measure(), Width::ZERO)
        };
        statistics.decide(&input)
    }

    /// Updates the allocation after a decision.
    fn apply(&mut self, change: &mut TickChange) -> Result<(), SimulationError> {
        match &self.method {
            DecisionMethod::Growth(growth) => {
                self.allocation = growth.experiment.latest_allocation();
                self.kills = growth.experiment.kills;
                change.killed.iter().for_each(|arm| self.live[*arm] = false);
            }
            DecisionMethod::ConstantShares => {}
            DecisionMethod::Unconstrained => {
                let p_best = change.estimate.as_ref().map(|estimate| estimate.p_best.as_slice()).unwrap_or_default();
                self.allocation = Arc::new(allocation_from_shares(p_best)?);
                change.new_revision = true;
                change.serving_changed = true;
            }
        }
        Ok(())
    }
}

impl GrowthExperiment {
    fn start(setup: &ExperimentSetup, spec: &PolicySpec, salt: &Salt, seed: u64) -> Result<Self, SimulationError> {
        let definition = Definition::try_from(definition_doc(setup, spec))?;
        let mut experiment = Experiment::create(definition, Timestamp::default());
        experiment.start(Timestamp::default(), salt.clone())?;
        let floor = experiment.definition.policy().floor();
        let input = TickInput { seed, ..initial_input(spec.settings.clone(), setup.measure, floor) };
        Ok(Self { experiment, input })
    }

    fn decide(
        &mut self,
        statistics: &mut Statistics,
        now: Timestamp,
        epochs: &[EpochTally],
    ) -> Result<TickChange, SimulationError> {
        self.refresh_input(now, epochs);
        let decision = statistics.decide(&self.input)?;
        let mut change = TickChange { estimate: Some(BestArmEstimate::from(&decision)), ..TickChange::default() };
        change.note_conclusion(&decision);
        if self.input.settings.shadow {
            return Ok(change);
        }
        for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
            self.experiment.set_killed(KillTarget::Variation(arm), true, now)?;
            change.killed.push(arm.index());
        }
        let grows = decision.arms.iter().enumerate().filter_map(|(i, arm)| Some((Arm::new(i)?, arm.grow_by)));
        let requests: Vec<_> = grows.filter(|(_, width)| *width > Width::ZERO).collect();
        if !requests.is_empty() {
            self.experiment.grow(&requests, RevisionCause::Policy, now, now)?;
            change.new_revision = true;
        }
        self.experiment.record_tick(now, decision.resets_growth_allowance());
        change.serving_changed = change.new_revision || !change.killed.is_empty();
        Ok(change)
    }

    /// Updates the input to the time of the decision. Its buffers are reused, because this happens at every tick.
    fn refresh_input(&mut self, now: Timestamp, epochs: &[EpochTally]) {
        let (experiment, input) = (&self.experiment, &mut self.input);
        let allocation = experiment.latest_allocation();
        input.now = now;
        input.last_growth_at = experiment.last_growth_at.unwrap_or_default();
        input.arms.clear();
        for (i, variation) in experiment.definition.variations().iter().enumerate() {
            let Some(arm) = Arm::new(i) else { continue };
            let killed = experiment.kills.is_arm_killed(arm);
            input.arms.push(arm_state(allocation.width_of(arm), variation.foothold, killed));
        }
        for (known, epoch) in input.epochs.iter_mut().zip(epochs) {
            known.arms.copy_from_slice(&epoch.arms);
        }
        let known = input.epochs.len();
        input.epochs.extend_from_slice(&epochs[known..]);
    }
}

/// The policy's input before the first tick.
fn initial_input(settings: ThompsonSettings, measure: Measure, floor: Width) -> TickInput {
    TickInput {
        now: Timestamp::default(),
        generation_started_at: Timestamp::default(),
        last_growth_at: Timestamp::default(),
        seed: 0,
        settings,
        arms: Vec::new(),
        floor,
        evidence_share: Width::from_share(EVIDENCE_SHARE).unwrap_or_default(),
        data_late: false,
        sample_ratio: SampleRatioRule::Mixed,
        exposures: Vec::new(),
        measure,
        better: BetterDirection::Higher,
        scope: TickScope::Growth,
        guardrails: Vec::new(),
        epochs: Vec::new(),
    }
}

/// The definition of the experiment, as a person would write it.
fn definition_doc(setup: &ExperimentSetup, spec: &PolicySpec) -> DefinitionDoc {
    let shares = spec.shares.as_deref();
    let variation = |arm: usize| VariationDoc {
        key: if arm == 0 { "control".to_owned() } else { format!("v{arm}") },
        payload: Payload::Number(arm as f64),
        description: String::new(),
        share: if arm == 0 { None } else { shares.and_then(|shares| shares.get(arm - 1).copied()) },
    };
    DefinitionDoc {
        key: setup.experiment.to_owned(),
        description: String::new(),
        owner: String::new(),
        tags: Vec::new(),
        lifetime: Default::default(),
        unit: None,
        audience: None,
        salt: None,
        clock: Default::default(),
        policy: PolicyDoc::Thompson(spec.settings.clone()),
        variations: (0..setup.arms).map(variation).collect(),
        overrides: Vec::new(),
        metrics: vec![MetricDoc {
            key: "outcome".to_owned(),
            event: "outcome".to_owned(),
            kind: setup.metric.clone(),
            window: setup.window,
            direction: Direction::Up,
            decision: true,
            guardrail: None,
        }],
    }
}

fn metric_kind(metric: MetricSpec) -> MetricKind {
    match metric {
        MetricSpec::Conversion => MetricKind::Conversion,
        // A primary metric of kind mean needs a cap. Values are capped when they are drawn: this cap has no effect.
        MetricSpec::Mean { cap, .. } => MetricKind::Mean { cap: Some(cap.unwrap_or(1e12)) },
        MetricSpec::Count => MetricKind::Count,
        MetricSpec::Ratio { .. } => MetricKind::Ratio { denominator: "visit".to_owned() },
    }
}

/// An allocation with one bucket per arm, in order.
fn allocation_from_shares(shares: &[f64]) -> Result<Allocation, SimulationError> {
    let mut buckets: Vec<Bucket> = Vec::with_capacity(shares.len());
    let mut before = 0.0;
    for (owner, share) in shares.iter().enumerate() {
        let start = Width::from_share(f64::min(before, 1.0)).map_or(0, Width::get);
        before += share;
        // An arm without points has no bucket.
        if let (true, Ok(start), Some(owner)) = (*share > 0.0, u64::try_from(start), Arm::new(owner)) {
            buckets.push(Bucket { start: Point::new(start), owner });
        }
    }
    Ok(Allocation::new(buckets)?)
}
