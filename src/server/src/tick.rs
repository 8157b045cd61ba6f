//! One tick of the policy: what it is asked, its decision, and what becomes of the experiment. The reallocator,
//! "reallocate now" and a manual clock all come through here; guardrails do as well, between ticks.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Alert, Cause, ChangeError};
use inroad_assignment::{Arm, Experiment, Policy, Status, Target, ThompsonSettings, Timestamp, Width};
use inroad_policy::{ArmState, Decider, Decision, Freeze, HoldReason, Scope, TickInput};
use inroad_store::{Counts, DecisionRecord, Store};

use crate::catalogue::{By, Catalogue, Entry};
use crate::error::ServerError;
use crate::fold::{Awaited, Fold};
use crate::tallies::{better, epoch_tallies, guarded_metrics, measure};

/// What the policy is asked at `now`.
pub fn tick_input(
    experiment: &Experiment,
    counts: &Counts,
    scope: Scope,
    now: Timestamp,
    data_late: bool,
) -> Result<TickInput, ServerError> {
    let Some(generation) = experiment.generation() else { return Err(not_running(experiment)) };
    let allocation = experiment.latest_allocation();
    let arm_state = |(i, variation): (usize, &inroad_assignment::definition::Variation)| {
        let arm = Arm::new(i)?;
        let (owned, foothold) = (allocation.width_of(arm), variation.foothold);
        let harmed = experiment.alerts.iter().any(|alert| alert.arm == arm);
        let (killed, spared) = (experiment.kills.arm(arm), experiment.was_restored(arm));
        Some(ArmState { owned, foothold, killed, spared, harmed })
    };
    let metric = experiment.definition.decision_metric();
    let decisive = metric.and_then(|i| experiment.definition.metrics().get(i));
    Ok(TickInput {
        now,
        generation_started_at: generation.started_at,
        last_growth_at: experiment.last_growth_at.unwrap_or(generation.started_at),
        // Experiments that tick at one instant share their draws, and so one set of points.
        seed: now.as_micros().unsigned_abs(),
        settings: match experiment.definition.policy() {
            Policy::Thompson(settings) => settings.clone(),
            Policy::Manual { .. } => ThompsonSettings::default(),
        },
        arms: experiment.definition.variations().iter().enumerate().filter_map(arm_state).collect(),
        floor: experiment.definition.policy().floor(),
        data_late,
        measure: decisive.map(measure).unwrap_or_default(),
        better: decisive.map(better).unwrap_or_default(),
        scope,
        epochs: epoch_tallies(experiment, generation, counts, metric),
        guardrails: guarded_metrics(experiment, generation, counts),
    })
}

fn not_running(experiment: &Experiment) -> ServerError {
    ServerError::Change(ChangeError::WrongState {
        action: "reallocate",
        state: experiment.status.name(),
        remedy: "only a running experiment is reallocated",
    })
}

/// Refuses to reallocate where no policy moves the boundaries, or where nothing may move now.
pub(crate) fn check_ticking(experiment: &Experiment) -> Result<(), ServerError> {
    if matches!(experiment.definition.policy(), Policy::Manual { .. }) {
        return Err(ServerError::Invalid {
            field: "key",
            message: "the experiment's policy is manual: grow its variations by hand".to_owned(),
        });
    }
    if experiment.status == Status::Running && experiment.kills.everything {
        let (action, state) = ("reallocate", "killed");
        let remedy = "restore it first; until then everybody gets control, and nothing is learnt";
        return Err(ServerError::Change(ChangeError::WrongState { action, state, remedy }));
    }
    if experiment.is_ticking() { Ok(()) } else { Err(not_running(experiment)) }
}

/// When a tick is.
#[derive(Debug, Clone, Copy)]
pub struct TickTime {
    /// The instant that the decision is about, by the experiment's clock. Its revision holds from then on, or from a
    /// lead after it is published if that is later.
    pub at: Timestamp,
    /// How long before it takes effect a revision is published.
    pub lead: Duration,
    /// What a manual clock is moved to first: a revision is published there, and holds from `at` on.
    pub advance_to: Option<Timestamp>,
    /// What must be counted before, or the data counts as late, and growth is frozen.
    pub counted: Awaited,
}

/// What became of asking guardrails.
#[derive(Debug, Clone)]
pub enum Guarded {
    /// They could not be asked: events are late, and half a count is no evidence.
    Late,
    /// They say nothing new.
    Silent,
    /// They changed something.
    Acted(Box<Ticked>),
}

/// What a tick did.
#[derive(Debug, Clone)]
pub struct Ticked {
    /// The decision.
    pub decision: Decision,
    /// What it was made from.
    pub input: TickInput,
    /// The revision it made, if any.
    pub revision: Option<u32>,
    /// The instant it is about.
    pub at: Timestamp,
    /// Of which generation.
    pub generation: u32,
}

/// Decides, and does what was decided.
pub struct Ticker {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    fold: Fold,
    decider: std::sync::Mutex<Decider>,
}

impl Ticker {
    /// A ticker over these.
    pub fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>, fold: Fold) -> Self {
        Self { store, catalogue, fold, decider: std::sync::Mutex::default() }
    }

    /// One tick of one running experiment with policy thompson.
    pub async fn tick(&self, key: &str, actor: &str, time: TickTime) -> Result<(Entry, Ticked), ServerError> {
        let state = self.catalogue.state();
        let entry = state.get(key)?;
        let on_time = self.fold.reaches(entry.version, time.counted).await;
        let generation = entry.experiment.generation().map_or(0, |g| g.number);
        let counts = self.store.counts(entry.experiment.definition.key(), generation).await?;
        let by = By { actor, action: "tick", expected_version: Some(entry.version) };
        self.catalogue
            .change(key, by, |experiment, now| {
                if let Some(to) = time.advance_to {
                    experiment.advance_clock(to)?;
                }
                check_ticking(experiment)?;
                let shadow = matches!(experiment.definition.policy(), Policy::Thompson(settings) if settings.shadow);
                let input = tick_input(experiment, &counts, Scope::Growth, time.at, !on_time)?;
                let decision = self.decide(&input)?;
                // Counted from here and not from when the tick was asked for: the counts may have been waited for (I4).
                let (now, effective_at) = match time.advance_to {
                    Some(moved_to) => (moved_to, time.at),
                    None => (now.max(time.at), time.at.max(now.plus(time.lead))),
                };
                guard(experiment, &decision, now)?;
                let revision = if shadow { None } else { apply(experiment, &decision, now, effective_at)? };
                experiment.ticked(time.at, decision.had_its_chance());
                let record = DecisionRecord {
                    generation,
                    at: time.at,
                    revision,
                    input: serde_json::to_string(&input)?,
                    output: serde_json::to_string(&decision)?,
                };
                Ok((Ticked { decision, input, revision, at: time.at, generation }, Some(record)))
            })
            .await
    }

    /// Asks the guardrails of one running experiment at `at`, by its clock; whatever its policy. Nothing is stored where
    /// they say nothing new, or cannot be asked because what must be counted was not in time.
    pub async fn guard(&self, key: &str, actor: &str, at: Timestamp, counted: Awaited) -> Result<Guarded, ServerError> {
        let state = self.catalogue.state();
        let entry = state.get(key)?;
        if !self.fold.reaches(entry.version, counted).await {
            return Ok(Guarded::Late);
        }
        let generation = entry.experiment.generation().map_or(0, |g| g.number);
        let counts = self.store.counts(entry.experiment.definition.key(), generation).await?;
        let by = By { actor, action: "guardrail", expected_version: Some(entry.version) };
        let (_, guarded) = self
            .catalogue
            .change(key, by, |experiment, now| {
                let input = tick_input(experiment, &counts, Scope::Guardrails, at, false)?;
                let decision = self.decide(&input)?;
                if !guard(experiment, &decision, now)? {
                    return Ok((Guarded::Silent, None));
                }
                let (input_json, output) = (serde_json::to_string(&input)?, serde_json::to_string(&decision)?);
                let record = DecisionRecord { generation, at, revision: None, input: input_json, output };
                let ticked = Ticked { decision, input, revision: None, at, generation };
                Ok((Guarded::Acted(Box::new(ticked)), Some(record)))
            })
            .await?;
        Ok(guarded)
    }

    /// Whether that much gets counted in time, with the catalogue at `version`.
    pub async fn gets_counted(&self, version: u64, counted: Awaited) -> bool {
        self.fold.reaches(version, counted).await
    }

    /// What is acknowledged by now, to be counted within so long.
    pub fn awaited(&self, patience: Duration) -> Awaited {
        self.fold.awaited(patience)
    }

    fn decide(&self, input: &TickInput) -> Result<Decision, ServerError> {
        let mut decider = self.decider.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(decider.decide(input)?)
    }
}

/// Does what guardrails demand, and remembers what they say; true if any of it is new.
fn guard(experiment: &mut Experiment, decision: &Decision, now: Timestamp) -> Result<bool, ServerError> {
    let mut news = false;
    for spoken in &decision.guardrails {
        let Some(arm) = Arm::new(spoken.arm) else { continue };
        let (metric, action, log_evidence) = (spoken.metric.clone(), spoken.action, spoken.log_evidence);
        news |= experiment.alert(Alert { metric, arm, action, at: now, log_evidence });
    }
    for arm in decision.guardrail_kills().filter_map(Arm::new) {
        news |= !experiment.kills.arm(arm);
        experiment.switch(Target::Variation(arm), true, now)?;
    }
    Ok(news)
}

/// Kills, then grows, as decided.
fn apply(
    experiment: &mut Experiment,
    decision: &Decision,
    now: Timestamp,
    effective_at: Timestamp,
) -> Result<Option<u32>, ServerError> {
    for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
        experiment.switch(Target::Variation(arm), true, now)?;
    }
    let requests = growth(decision);
    if requests.is_empty() {
        return Ok(None);
    }
    Ok(Some(experiment.grow(&requests, Cause::Policy, now, effective_at)?))
}

/// Who grows by how much, in the order of the variations.
pub fn growth(decision: &Decision) -> Vec<(Arm, Width)> {
    let grows = |(i, arm): (usize, &inroad_policy::ArmDecision)| Some((Arm::new(i)?, arm.grow_by));
    decision.arms.iter().enumerate().filter_map(grows).filter(|(_, width)| *width > Width::ZERO).collect()
}

/// UPPER_SNAKE for why nothing grew; empty if something did.
pub fn hold_reason(decision: &Decision) -> &'static str {
    match (decision.hold, decision.frozen) {
        (None, _) => "",
        (Some(HoldReason::Frozen), Some(Freeze::DataLate)) => "DATA_LATE",
        (Some(HoldReason::Frozen), _) => "SAMPLE_RATIO_MISMATCH",
        (Some(HoldReason::BurnIn), _) => "BURN_IN",
        (Some(HoldReason::NotDue), _) => "NOT_DUE",
        (Some(HoldReason::NobodyDeserves), _) => "NOBODY_DESERVES",
        (Some(HoldReason::NoHeadroom), _) => "NO_HEADROOM",
        (Some(HoldReason::BelowMinStep), _) => "BELOW_MIN_STEP",
        (Some(HoldReason::Accruing), _) => "ACCRUING",
    }
}
