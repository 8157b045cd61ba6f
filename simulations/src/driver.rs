//! Who moves the boundaries of one run. Growth is the production code itself: an [`Experiment`] with its own changes,
//! and the policy's own decision. The reference, unconstrained Thompson sampling, writes its boundaries anew each tick.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::definition::Direction;
use inroad_assignment::document::{MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::Cause;
use inroad_assignment::{
    Allocation, Arm, Bucket, Definition, DefinitionDoc, Experiment, GrowthRule, Kills, MetricKind, Payload, Point,
    Salt, Target, ThompsonSettings, Timestamp, Width,
};
use inroad_policy::{Better, EpochTally, Measure, Scope, TickInput};

use crate::SimulationError;
use crate::crowd::Serving;
use crate::judge::{Belief, Judge, Look, arm_state};
use crate::policies::{PolicyKind, PolicySpec, ShipRule, tick_length};
use crate::scenario::{MetricSpec, Scenario};

/// The least share of any arm under unconstrained Thompson sampling.
const REFERENCE_SHARE_MIN: f64 = 0.01;

/// What a driver has to know of where it drives: a simulated world, or a log of what happened.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The experiment's key.
    pub(crate) experiment: &'static str,
    /// Control and variations.
    pub(crate) arms: usize,
    /// A divisor of 24.
    pub(crate) ticks_per_day: u32,
    /// How estimates see the metric.
    pub(crate) measure: Measure,
    /// How somebody would declare it.
    pub(crate) metric: MetricKind,
    /// How long a unit is followed.
    pub(crate) window: Duration,
}

impl Frame {
    /// How long a tick lasts.
    pub(crate) fn tick(&self) -> Duration {
        tick_length(self.ticks_per_day)
    }
}

impl From<&Scenario> for Frame {
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

/// One run's boundaries and whoever moves them.
pub(crate) struct Driver {
    allocation: Arc<Allocation>,
    kills: Kills,
    shipped: Option<Arm>,
    live: Vec<bool>,
    mind: Mind,
    spec: PolicySpec,
    tick: Duration,
    ticks_per_day: u32,
    seed: u64,
}

enum Mind {
    Growth(Box<Growth>),
    Still,
    Reference,
}

struct Growth {
    experiment: Experiment,
    input: TickInput,
}

/// What a tick brought.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Boundaries or kills are not what they were.
    pub(crate) flipped: bool,
    /// Boundaries moved.
    pub(crate) revised: bool,
    /// Arms killed.
    pub(crate) killed: Vec<usize>,
    /// The arm that was clearly best.
    pub(crate) winner: Option<usize>,
    /// The same, if nothing speaks against shipping it: what a person is prompted with.
    pub(crate) ready: Option<usize>,
    /// What was believed, if it was asked.
    pub(crate) belief: Option<Belief>,
}

impl Driver {
    pub(crate) fn new(frame: &Frame, spec: &PolicySpec, salt: &Salt, seed: u64) -> Result<Self, SimulationError> {
        let arms = frame.arms;
        let even = vec![1.0 / arms as f64; arms];
        let (mind, allocation) = match spec.kind {
            PolicyKind::Growth => {
                let growth = Growth::start(frame, spec, salt, seed)?;
                let allocation = growth.experiment.latest_allocation();
                (Mind::Growth(Box::new(growth)), allocation)
            }
            PolicyKind::Equal => (Mind::Still, Arc::new(side_by_side(&even)?)),
            PolicyKind::Fixed => (Mind::Still, Arc::new(side_by_side(spec.shares.as_deref().unwrap_or(&even))?)),
            PolicyKind::Thompson => (Mind::Reference, Arc::new(side_by_side(&even)?)),
        };
        Ok(Self {
            allocation,
            kills: Kills::default(),
            shipped: None,
            live: vec![true; arms],
            mind,
            spec: spec.clone(),
            tick: frame.tick(),
            ticks_per_day: frame.ticks_per_day,
            seed,
        })
    }

    /// Who is served what; of no account once an arm is shipped.
    pub(crate) fn serving(&self) -> Serving<'_> {
        Serving { allocation: &self.allocation, kills: self.kills }
    }

    /// Boundaries and kills, to be looked back at.
    pub(crate) fn snapshot(&self) -> (Arc<Allocation>, Kills) {
        (Arc::clone(&self.allocation), self.kills)
    }

    /// The arm that gets everything.
    pub(crate) fn shipped(&self) -> Option<Arm> {
        self.shipped
    }

    /// Each arm's share of what is served. Added up in whole points: shares rounded one by one may come to more than 1.
    pub(crate) fn shares(&self) -> Vec<f64> {
        let mut widths = vec![Width::ZERO; self.live.len()];
        for owner in (0..widths.len()).filter_map(Arm::new) {
            let served = &mut widths[self.shipped.unwrap_or_else(|| self.kills.served(owner)).index()];
            *served = served.saturating_add(self.allocation.width_of(owner));
        }
        widths.into_iter().map(Width::share).collect()
    }

    /// What the policy believes of the arms at the beginning of `tick`.
    pub(crate) fn belief(
        &mut self,
        judge: &mut Judge,
        tick: u32,
        epochs: &[EpochTally],
    ) -> Result<Belief, SimulationError> {
        if let Mind::Growth(growth) = &mut self.mind {
            // As it is, with the posterior that its settings choose; nothing is done about it.
            growth.look(Timestamp::start_of_tick(i64::from(tick), self.tick), epochs);
            return Ok(Belief::from(&judge.decide(&growth.input)?));
        }
        let ThompsonSettings { tau, draws_log2, .. } = self.spec.settings;
        judge.belief(epochs, &Look { live: &self.live, tau, draws_log2, seed: self.seed })
    }

    /// The policy's chance to move boundaries at the beginning of `tick`.
    pub(crate) fn decide(
        &mut self,
        judge: &mut Judge,
        tick: u32,
        epochs: &[EpochTally],
    ) -> Result<Change, SimulationError> {
        if self.shipped.is_some() || tick == 0 || !tick.is_multiple_of(self.spec.stride) {
            return Ok(Change::default());
        }
        let mut change = match &mut self.mind {
            Mind::Growth(growth) => {
                growth.decide(judge, Timestamp::start_of_tick(i64::from(tick), self.tick), epochs)?
            }
            Mind::Still | Mind::Reference if tick < self.ticks_per_day => return Ok(Change::default()),
            Mind::Still | Mind::Reference => {
                let belief = self.belief(judge, tick, epochs)?;
                let winner = belief.winner();
                let ready = match winner {
                    Some(_) if self.spec.ship == ShipRule::Prompted => self.ready(judge, tick, epochs)?,
                    _ => None,
                };
                Change { winner, ready, belief: Some(belief), ..Change::default() }
            }
        };
        self.take(&mut change)?;
        let shipped = match self.spec.ship {
            ShipRule::Never => None,
            ShipRule::ClearlyBest => change.winner,
            ShipRule::Prompted => change.ready,
        };
        self.shipped = shipped.and_then(Arm::new);
        Ok(change)
    }

    /// Whom a person would be prompted to ship where no policy of ours moves anything: by the same rule as elsewhere.
    fn ready(&self, judge: &mut Judge, tick: u32, epochs: &[EpochTally]) -> Result<Option<usize>, SimulationError> {
        let settings =
            ThompsonSettings { rule: GrowthRule::Fixed, kill_probability: 1.0, ..self.spec.settings.clone() };
        let arms = (0..self.live.len()).filter_map(Arm::new).map(|arm| self.allocation.width_of(arm));
        let input = TickInput {
            now: Timestamp::start_of_tick(i64::from(tick), self.tick),
            seed: self.seed,
            arms: arms.map(|width| arm_state(width, width, false)).collect(),
            epochs: epochs.to_vec(),
            ..blank_input(settings, judge.measure(), Width::ZERO)
        };
        let decision = judge.decide(&input)?;
        Ok(decision.conclude.map(|conclude| conclude.arm).filter(|_| decision.ship.is_some_and(|ship| ship.ready())))
    }

    /// Carries over what changed.
    fn take(&mut self, change: &mut Change) -> Result<(), SimulationError> {
        match &self.mind {
            Mind::Growth(growth) => {
                self.allocation = growth.experiment.latest_allocation();
                self.kills = growth.experiment.kills;
                change.killed.iter().for_each(|arm| self.live[*arm] = false);
            }
            Mind::Still => {}
            Mind::Reference => {
                let belief = change.belief.as_ref();
                let p_best = belief.map(|belief| belief.p_best.as_slice()).unwrap_or_default();
                let free = 1.0 - REFERENCE_SHARE_MIN * p_best.len() as f64;
                let shares: Vec<f64> = p_best.iter().map(|p| REFERENCE_SHARE_MIN + free * p).collect();
                self.allocation = Arc::new(side_by_side(&shares)?);
                change.revised = true;
                change.flipped = true;
            }
        }
        Ok(())
    }
}

impl Growth {
    fn start(frame: &Frame, spec: &PolicySpec, salt: &Salt, seed: u64) -> Result<Self, SimulationError> {
        let definition = Definition::try_from(declaration(frame, spec))?;
        let mut experiment = Experiment::create(definition, Timestamp::default());
        experiment.start(Timestamp::default(), salt.clone())?;
        let floor = experiment.definition.policy().floor();
        let input = TickInput { seed, ..blank_input(spec.settings.clone(), frame.measure, floor) };
        Ok(Self { experiment, input })
    }

    fn decide(&mut self, judge: &mut Judge, now: Timestamp, epochs: &[EpochTally]) -> Result<Change, SimulationError> {
        self.look(now, epochs);
        let decision = judge.decide(&self.input)?;
        let mut change = Change { belief: Some(Belief::from(&decision)), ..Change::default() };
        change.winner = decision.conclude.map(|conclude| conclude.arm);
        change.ready = change.winner.filter(|_| decision.ship.is_some_and(|ship| ship.ready()));
        if self.input.settings.shadow {
            return Ok(change);
        }
        for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
            self.experiment.switch(Target::Variation(arm), true, now)?;
            change.killed.push(arm.index());
        }
        let grows = decision.arms.iter().enumerate().filter_map(|(i, arm)| Some((Arm::new(i)?, arm.grow_by)));
        let requests: Vec<_> = grows.filter(|(_, width)| *width > Width::ZERO).collect();
        if !requests.is_empty() {
            self.experiment.grow(&requests, Cause::Policy, now, now)?;
            change.revised = true;
        }
        self.experiment.ticked(now, decision.had_its_chance());
        change.flipped = change.revised || !change.killed.is_empty();
        Ok(change)
    }

    /// Brings the input up to the instant of the decision. Its buffers are kept: this happens at every tick.
    fn look(&mut self, now: Timestamp, epochs: &[EpochTally]) {
        let (experiment, input) = (&self.experiment, &mut self.input);
        let allocation = experiment.latest_allocation();
        input.now = now;
        input.last_growth_at = experiment.last_growth_at.unwrap_or_default();
        input.arms.clear();
        for (i, variation) in experiment.definition.variations().iter().enumerate() {
            let Some(arm) = Arm::new(i) else { continue };
            let killed = experiment.kills.arm(arm);
            input.arms.push(arm_state(allocation.width_of(arm), variation.foothold, killed));
        }
        for (kept, epoch) in input.epochs.iter_mut().zip(epochs) {
            kept.arms.copy_from_slice(&epoch.arms);
        }
        let known = input.epochs.len();
        input.epochs.extend_from_slice(&epochs[known..]);
    }
}

/// What the policy is asked before anything has happened.
fn blank_input(settings: ThompsonSettings, measure: Measure, floor: Width) -> TickInput {
    TickInput {
        now: Timestamp::default(),
        generation_started_at: Timestamp::default(),
        last_growth_at: Timestamp::default(),
        seed: 0,
        settings,
        arms: Vec::new(),
        floor,
        data_late: false,
        measure,
        better: Better::More,
        scope: Scope::Growth,
        guardrails: Vec::new(),
        epochs: Vec::new(),
    }
}

/// The experiment as somebody would declare it.
fn declaration(frame: &Frame, spec: &PolicySpec) -> DefinitionDoc {
    let shares = spec.shares.as_deref();
    let variation = |arm: usize| VariationDoc {
        key: if arm == 0 { "control".to_owned() } else { format!("v{arm}") },
        payload: Payload::Number(arm as f64),
        description: String::new(),
        share: if arm == 0 { None } else { shares.and_then(|shares| shares.get(arm - 1).copied()) },
    };
    DefinitionDoc {
        key: frame.experiment.to_owned(),
        description: String::new(),
        owner: String::new(),
        tags: Vec::new(),
        lifetime: Default::default(),
        unit: None,
        audience: None,
        salt: None,
        clock: Default::default(),
        policy: PolicyDoc::Thompson(spec.settings.clone()),
        variations: (0..frame.arms).map(variation).collect(),
        overrides: Vec::new(),
        metrics: vec![MetricDoc {
            key: "outcome".to_owned(),
            event: "outcome".to_owned(),
            kind: frame.metric.clone(),
            window: frame.window,
            direction: Direction::Up,
            decision: true,
            guardrail: None,
        }],
    }
}

fn metric_kind(metric: MetricSpec) -> MetricKind {
    match metric {
        MetricSpec::Conversion => MetricKind::Conversion,
        // A mean that decides needs a cap; values are capped as they are drawn, so that this one never binds.
        MetricSpec::Mean { cap, .. } => MetricKind::Mean { cap: Some(cap.unwrap_or(1e12)) },
        MetricSpec::Count => MetricKind::Count,
        MetricSpec::Ratio { .. } => MetricKind::Ratio { denominator: "visit".to_owned() },
    }
}

/// One stretch per arm, in order.
fn side_by_side(shares: &[f64]) -> Result<Allocation, SimulationError> {
    let mut buckets: Vec<Bucket> = Vec::with_capacity(shares.len());
    let mut before = 0.0;
    for (owner, share) in shares.iter().enumerate() {
        let start = Width::from_share(f64::min(before, 1.0)).map_or(0, Width::get);
        before += share;
        // An arm of no width has no bucket.
        if let (true, Ok(start), Some(owner)) = (*share > 0.0, u64::try_from(start), Arm::new(owner)) {
            buckets.push(Bucket { start: Point::new(start), owner });
        }
    }
    Ok(Allocation::new(buckets)?)
}
