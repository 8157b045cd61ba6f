//! One tick of the policy: its input, its decision, and the change of the experiment. Scheduled ticks, "reallocate now"
//! and a manual clock all use this module; so do guardrails, which are checked between ticks as well.

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Alert, ChangeError, RevisionCause};
use inroad_assignment::{
    Arm, Experiment, GuardrailAction, KillTarget, Policy, Status, ThompsonSettings, Timestamp, Width,
};
use inroad_policy::{
    ArmState, Decider, Decision, EVIDENCE_SHARE, Freeze, HoldReason, SampleRatioRule, TickInput, TickScope,
};
use inroad_store::{DecisionRecord, GenerationCounts, Store};

use crate::catalogue::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::error::ServerError;
use crate::fold::{Fold, FoldTarget};
use crate::kill_results::kill_and_keep_results;
use crate::tallies::{better, epoch_tallies, exposures_besides, guarded_metrics, measure};

/// The input of the policy at `now`, by the experiment's clock. `data_late` says that events are not folded yet, which
/// freezes growth.
///
/// # Errors
/// [`ServerError::Change`] if the experiment has never started.
pub fn tick_input(
    experiment: &Experiment,
    counts: &GenerationCounts,
    scope: TickScope,
    now: Timestamp,
    data_late: bool,
) -> Result<TickInput, ServerError> {
    let Some(generation) = experiment.generation() else { return Err(not_running(experiment)) };
    let allocation = experiment.latest_allocation();
    let arm_state = |(i, variation): (usize, &inroad_assignment::definition::Variation)| {
        let arm = Arm::new(i)?;
        let (owned, foothold) = (allocation.width_of(arm), variation.foothold);
        let guardrail_alerted = experiment.alerts.iter().any(|alert| alert.arm == arm);
        let (killed, kill_exempt) = (experiment.kills.is_arm_killed(arm), experiment.was_restored(arm));
        Some(ArmState { owned, foothold, killed, kill_exempt, guardrail_alerted })
    };
    let metric = experiment.definition.decision_metric();
    let decisive = metric.and_then(|i| experiment.definition.metrics().get(i));
    let epochs = epoch_tallies(experiment, generation, counts, metric);
    Ok(TickInput {
        now,
        generation_started_at: generation.started_at,
        last_growth_at: experiment.last_growth_at.unwrap_or(generation.started_at),
        // Experiments that tick at the same instant share one set of Sobol points.
        seed: now.as_micros().unsigned_abs(),
        settings: match experiment.definition.policy() {
            Policy::Thompson(settings) => settings.clone(),
            Policy::Manual { .. } => ThompsonSettings::default(),
        },
        arms: experiment.definition.variations().iter().enumerate().filter_map(arm_state).collect(),
        floor: experiment.definition.policy().floor(),
        evidence_share: Width::from_share(EVIDENCE_SHARE).unwrap_or_default(),
        data_late,
        measure: decisive.map(measure).unwrap_or_default().suited_to(&epochs),
        sample_ratio: SampleRatioRule::Mixed,
        better: decisive.map(better).unwrap_or_default(),
        scope,
        exposures: exposures_besides(&epochs, experiment, generation, counts),
        epochs,
        guardrails: guarded_metrics(experiment, generation, counts),
    })
}

fn not_running(experiment: &Experiment) -> ServerError {
    ServerError::Change(ChangeError::WrongState {
        action: "reallocate",
        state: experiment.status.name(),
        remedy: "start, resume or restart it first",
    })
}

/// Checks that a policy may move the boundaries of this experiment now.
///
/// # Errors
/// [`ServerError::Invalid`] for a manual policy; [`ServerError::Change`] if the experiment is killed or not running.
pub(crate) fn check_can_reallocate(experiment: &Experiment) -> Result<(), ServerError> {
    if matches!(experiment.definition.policy(), Policy::Manual { .. }) {
        return Err(ServerError::Invalid {
            field: "key",
            message: "the allocation policy is manual, so it makes no decisions: grow variations by hand".to_owned(),
        });
    }
    if experiment.status == Status::Running && experiment.kills.everything {
        let (action, state) = ("reallocate", "killed");
        let remedy = "restore it first; until then all units get control and nothing is measured";
        return Err(ServerError::Change(ChangeError::WrongState { action, state, remedy }));
    }
    if experiment.is_policy_active() { Ok(()) } else { Err(not_running(experiment)) }
}

/// When a tick decides and when its revision takes effect.
#[derive(Debug, Clone, Copy)]
pub struct TickTime {
    /// The instant that the decision is for, by the experiment's clock. Its revision takes effect then, or one lead
    /// time after it is published if that is later.
    pub at: Timestamp,
    /// How long before it takes effect a revision is published.
    pub lead: Duration,
    /// For a manual clock: the instant to move it to before deciding. The revision is published then and takes effect
    /// at `at`.
    pub advance_to: Option<Timestamp>,
    /// The events that must be folded first. If they are not folded in time, the data counts as late and growth is
    /// frozen.
    pub fold_target: FoldTarget,
}

/// The result of checking guardrails.
#[derive(Debug, Clone)]
pub enum GuardrailOutcome {
    /// Not checked: events are not folded yet, and incomplete counts are no evidence.
    DataLate,
    /// Checked, with no new alert.
    Unchanged,
    /// There is a new alert or kill.
    Acted(Box<TickOutcome>),
}

/// The result of a tick.
#[derive(Debug, Clone)]
pub struct TickOutcome {
    /// The decision.
    pub decision: Decision,
    /// The input that it was made from.
    pub input: TickInput,
    /// The number of the revision that it made; none if nothing grew.
    pub revision: Option<u32>,
    /// The instant that the decision is for.
    pub at: Timestamp,
    /// The number of the generation.
    pub generation: u32,
}

/// Runs the policy and applies its decisions.
pub struct Ticker {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    fold: Fold,
    decider: std::sync::Mutex<Decider>,
}

impl Ticker {
    /// A ticker that reads counts from `store` and changes experiments in `catalogue`.
    pub fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>, fold: Fold) -> Self {
        Self { store, catalogue, fold, decider: std::sync::Mutex::default() }
    }

    /// Runs one tick of a running experiment with an automatic policy, and stores the decision.
    ///
    /// # Errors
    /// [`ServerError::Store`] with a conflict if the experiment was changed meanwhile; errors of
    /// `check_can_reallocate`, the policy and the store.
    pub async fn tick(
        &self,
        key: &str,
        actor: &str,
        time: TickTime,
    ) -> Result<(CatalogueEntry, TickOutcome), ServerError> {
        let state = self.catalogue.state();
        let entry = state.get(key)?;
        let is_data_complete = self.fold.wait_until_reached(entry.version, time.fold_target).await;
        let generation = entry.experiment.generation().map_or(0, |g| g.number);
        let counts = self.store.counts(entry.experiment.definition.key(), generation).await?;
        let request = ChangeRequest { actor, action: "tick", expected_version: Some(entry.version) };
        self.catalogue
            .change(key, request, |experiment, now| {
                if let Some(to) = time.advance_to {
                    experiment.advance_clock(to)?;
                }
                check_can_reallocate(experiment)?;
                let shadow = matches!(experiment.definition.policy(), Policy::Thompson(settings) if settings.shadow);
                let input = tick_input(experiment, &counts, TickScope::Growth, time.at, !is_data_complete)?;
                let decision = self.decide(&input)?;
                // The lead time starts now: waiting for the counts may have taken a while (I4).
                let (now, effective_at) = match time.advance_to {
                    Some(moved_to) => (moved_to, time.at),
                    None => (now.max(time.at), time.at.max(now.plus(time.lead))),
                };
                let evidence = KillEvidence { counts: &counts, actor };
                apply_guardrails(experiment, &decision, now, evidence)?;
                let revision =
                    if shadow { None } else { apply_decision(experiment, &decision, now, effective_at, evidence)? };
                experiment.record_tick(time.at, decision.resets_growth_allowance());
                let record = DecisionRecord {
                    generation,
                    at: time.at,
                    revision,
                    input: serde_json::to_string(&input)?,
                    output: serde_json::to_string(&decision)?,
                };
                Ok((TickOutcome { decision, input, revision, at: time.at, generation }, Some(record)))
            })
            .await
    }

    /// Checks the guardrails of a running experiment at `at`, by its clock, whatever its policy is. A decision is
    /// stored only if there is a new alert or kill. Events that are not folded in time make it return
    /// [`GuardrailOutcome::DataLate`].
    pub async fn check_guardrails(
        &self,
        key: &str,
        actor: &str,
        at: Timestamp,
        fold_target: FoldTarget,
    ) -> Result<GuardrailOutcome, ServerError> {
        let state = self.catalogue.state();
        let entry = state.get(key)?;
        if !self.fold.wait_until_reached(entry.version, fold_target).await {
            return Ok(GuardrailOutcome::DataLate);
        }
        let generation = entry.experiment.generation().map_or(0, |g| g.number);
        let counts = self.store.counts(entry.experiment.definition.key(), generation).await?;
        let request = ChangeRequest { actor, action: "guardrail", expected_version: Some(entry.version) };
        let (_, outcome) = self
            .catalogue
            .change(key, request, |experiment, now| {
                let input = tick_input(experiment, &counts, TickScope::Guardrails, at, false)?;
                let decision = self.decide(&input)?;
                if !apply_guardrails(experiment, &decision, now, KillEvidence { counts: &counts, actor })? {
                    return Ok((GuardrailOutcome::Unchanged, None));
                }
                let (input_json, output) = (serde_json::to_string(&input)?, serde_json::to_string(&decision)?);
                let record = DecisionRecord { generation, at, revision: None, input: input_json, output };
                let ticked = TickOutcome { decision, input, revision: None, at, generation };
                Ok((GuardrailOutcome::Acted(Box::new(ticked)), Some(record)))
            })
            .await?;
        Ok(outcome)
    }

    /// Waits until the target is folded with the catalogue at `version`; false if that does not happen in time.
    pub async fn wait_until_folded(&self, version: u64, fold_target: FoldTarget) -> bool {
        self.fold.wait_until_reached(version, fold_target).await
    }

    /// All events acknowledged so far, to be folded within `timeout`.
    pub fn target_within(&self, timeout: Duration) -> FoldTarget {
        self.fold.target_within(timeout)
    }

    fn decide(&self, input: &TickInput) -> Result<Decision, ServerError> {
        let mut decider = self.decider.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(decider.decide(input)?)
    }
}

/// What is kept with a kill: the results by these counts, and the actor.
#[derive(Clone, Copy)]
struct KillEvidence<'a> {
    counts: &'a GenerationCounts,
    actor: &'a str,
}

impl KillEvidence<'_> {
    fn kill(
        self,
        experiment: &mut Experiment,
        arm: Arm,
        metric: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ServerError> {
        kill_and_keep_results(experiment, KillTarget::Variation(arm), self.counts, metric, (now, self.actor))
    }
}

/// Records the alerts of guardrails, and kills variations where a guardrail demands it. True if there is a new alert or
/// kill.
fn apply_guardrails(
    experiment: &mut Experiment,
    decision: &Decision,
    now: Timestamp,
    evidence: KillEvidence<'_>,
) -> Result<bool, ServerError> {
    let mut is_new = false;
    for finding in &decision.guardrails {
        let Some(arm) = Arm::new(finding.arm) else { continue };
        let (metric, action, log_evidence) = (finding.metric.clone(), finding.action, finding.log_evidence);
        is_new |= experiment.record_alert(Alert { metric, arm, action, at: now, log_evidence });
    }
    for arm in decision.guardrail_kills().filter_map(Arm::new) {
        is_new |= !experiment.kills.is_arm_killed(arm);
        let harmed = decision.guardrails.iter().find(|g| g.arm == arm.index() && g.action == GuardrailAction::Kill);
        evidence.kill(experiment, arm, harmed.map(|finding| finding.metric.as_str()), now)?;
    }
    Ok(is_new)
}

/// Kills and grows variations as decided; the number of the new revision, if any variation grew.
fn apply_decision(
    experiment: &mut Experiment,
    decision: &Decision,
    now: Timestamp,
    effective_at: Timestamp,
    evidence: KillEvidence<'_>,
) -> Result<Option<u32>, ServerError> {
    for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
        evidence.kill(experiment, arm, None, now)?;
    }
    let requests = growth_requests(decision);
    if requests.is_empty() {
        return Ok(None);
    }
    Ok(Some(experiment.grow(&requests, RevisionCause::Policy, now, effective_at)?))
}

/// The variations that grow and the width that each gains, in the order of the variations.
pub fn growth_requests(decision: &Decision) -> Vec<(Arm, Width)> {
    let grows = |(i, arm): (usize, &inroad_policy::ArmDecision)| Some((Arm::new(i)?, arm.grow_by));
    decision.arms.iter().enumerate().filter_map(grows).filter(|(_, width)| *width > Width::ZERO).collect()
}

/// The reason code for why nothing grew; empty if a variation did.
pub fn hold_reason(decision: &Decision) -> &'static str {
    match (decision.hold, decision.frozen) {
        (None, _) => "",
        (Some(HoldReason::Frozen), Some(Freeze::DataLate)) => "DATA_LATE",
        (Some(HoldReason::Frozen), _) => "SAMPLE_RATIO_MISMATCH",
        (Some(HoldReason::BurnIn), _) => "BURN_IN",
        (Some(HoldReason::NotDue), _) => "NOT_DUE",
        (Some(HoldReason::NoArmDeservesMore), _) => "NOBODY_DESERVES",
        (Some(HoldReason::NoHeadroom), _) => "NO_HEADROOM",
        (Some(HoldReason::BelowMinStep), _) => "BELOW_MIN_STEP",
        (Some(HoldReason::Accruing), _) => "ACCRUING",
    }
}
