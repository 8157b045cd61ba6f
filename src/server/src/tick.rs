//! One tick of the policy: its input, its decision, and the change of the experiment. Scheduled ticks, "reallocate now"
//! and a manual clock all use this module; so do guardrails, which are checked between ticks as well.
//!
//! A decision about many variations and metrics takes seconds. It is made on a thread that may block, from one version of
//! the experiment, and is stored only if the experiment still has that version: no kill waits for it (I8).

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Alert, ChangeError, KillResult, RevisionCause};
use inroad_assignment::{
    Arm, Experiment, GuardrailAction, KillTarget, Policy, Status, ThompsonSettings, Timestamp, Width,
};
use inroad_policy::{
    ArmState, Decider, Decision, EVIDENCE_SHARE, Freeze, HoldReason, SampleRatioRule, TickInput, TickScope,
};
use inroad_store::{DecisionRecord, GenerationCounts, Store};
use tokio::sync::Mutex;
use tracing::Instrument;

use crate::catalogue::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::error::ServerError;
use crate::fold::{Fold, FoldTarget};
use crate::kill_results::{kill_and_keep_results, kill_with_results};
use crate::tallies::{SEED, better, epoch_tallies, exposures_besides, guarded_metrics, measure};
use crate::traces::TRACE_TARGET;

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
        seed: SEED,
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
    /// One decision is made at a time, so that decisions occupy one thread and one core.
    decider: Arc<Mutex<Decider>>,
}

impl Ticker {
    /// A ticker that reads counts from `store` and changes experiments in `catalogue`.
    pub fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>, fold: Fold) -> Self {
        Self { store, catalogue, fold, decider: Arc::default() }
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
        let span = tracing::info_span!(target: TRACE_TARGET, "tick", experiment = key);
        self.decide_and_store(key, actor, time).instrument(span).await
    }

    async fn decide_and_store(
        &self,
        key: &str,
        actor: &str,
        time: TickTime,
    ) -> Result<(CatalogueEntry, TickOutcome), ServerError> {
        let entry = self.catalogue.state().get(key)?.clone();
        let is_data_complete = self.fold.wait_until_reached(entry.version, time.fold_target).await;
        let question = Question {
            scope: TickScope::Growth,
            at: time.at,
            advance_to: time.advance_to,
            data_late: !is_data_complete,
            actor: actor.to_owned(),
        };
        let prepared = self.prepare(&entry, question).await?;
        let request = ChangeRequest { actor, action: "tick", expected_version: Some(entry.version) };
        let apply = |experiment: &mut Experiment, now: Timestamp| {
            // The lead time starts now: counting and deciding may have taken a while (I4).
            let (now, effective_at) = match time.advance_to {
                Some(to) => {
                    experiment.advance_clock(to)?;
                    (to, time.at)
                }
                None => (now.max(time.at), time.at.max(now.plus(time.lead))),
            };
            let (outcome, record) = prepared.apply(experiment, now, Some(effective_at))?;
            experiment.record_tick(time.at, outcome.decision.resets_growth_allowance());
            Ok((outcome, Some(record)))
        };
        self.catalogue.change(key, request, apply).await
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
        let span = tracing::info_span!(target: TRACE_TARGET, "guardrail check", experiment = key);
        self.check_guardrails_and_act(key, actor, at, fold_target).instrument(span).await
    }

    async fn check_guardrails_and_act(
        &self,
        key: &str,
        actor: &str,
        at: Timestamp,
        fold_target: FoldTarget,
    ) -> Result<GuardrailOutcome, ServerError> {
        let entry = self.catalogue.state().get(key)?.clone();
        if !self.fold.wait_until_reached(entry.version, fold_target).await {
            return Ok(GuardrailOutcome::DataLate);
        }
        let question =
            Question { scope: TickScope::Guardrails, at, advance_to: None, data_late: false, actor: actor.to_owned() };
        let prepared = self.prepare(&entry, question).await?;
        if !prepared.has_new_findings {
            return Ok(GuardrailOutcome::Unchanged);
        }
        let request = ChangeRequest { actor, action: "guardrail", expected_version: Some(entry.version) };
        let apply = |experiment: &mut Experiment, now: Timestamp| {
            let (outcome, record) = prepared.apply(experiment, now, None)?;
            Ok((GuardrailOutcome::Acted(Box::new(outcome)), Some(record)))
        };
        let (_, outcome) = self.catalogue.change(key, request, apply).await?;
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

    /// Makes a decision on a thread that may block, after those that were requested before.
    async fn prepare(&self, entry: &CatalogueEntry, question: Question) -> Result<PreparedDecision, ServerError> {
        let mut decider = Arc::clone(&self.decider).lock_owned().await;
        let experiment = Arc::clone(&entry.experiment);
        let generation = experiment.generation().map_or(0, |generation| generation.number);
        let counts = self.store.counts(experiment.definition.key(), generation).await?;
        let prepare = move || PreparedDecision::new(&experiment, &counts, &question, &mut decider);
        // It fails only while the server stops.
        tokio::task::spawn_blocking(prepare).await.map_err(|_| ServerError::ShuttingDown)?
    }
}

/// What the policy is to decide.
struct Question {
    scope: TickScope,
    at: Timestamp,
    /// For a manual clock: the instant to move it to before deciding.
    advance_to: Option<Timestamp>,
    data_late: bool,
    actor: String,
}

/// A variation that a decision kills, and its results before the kill.
type PreparedKill = (Arm, Vec<KillResult>);

/// A decision about one version of an experiment. All that takes long is done: what is left is to apply it to that version.
struct PreparedDecision {
    decision: Decision,
    input: TickInput,
    generation: u32,
    at: Timestamp,
    kills: Vec<PreparedKill>,
    /// Whether a guardrail raises an alert or kills a variation that it has not before.
    has_new_findings: bool,
    /// Input and decision in JSON.
    record: (String, String),
}

impl PreparedDecision {
    /// Decides, and applies the kills to a copy of the experiment to get the results before each of them. Takes long: do
    /// not call it from an async task.
    fn new(
        experiment: &Experiment,
        counts: &GenerationCounts,
        question: &Question,
        decider: &mut Decider,
    ) -> Result<Self, ServerError> {
        let mut experiment = experiment.clone();
        if let Some(to) = question.advance_to {
            experiment.advance_clock(to)?;
        }
        if question.scope == TickScope::Growth {
            check_can_reallocate(&experiment)?;
        }
        let input = tick_input(&experiment, counts, question.scope, question.at, question.data_late)?;
        let decision = decider.decide(&input)?;
        let now = question.advance_to.unwrap_or(question.at);
        let mut has_new_findings = record_alerts(&mut experiment, &decision, now);
        let mut kills = Vec::new();
        let mut kill = |experiment: &mut Experiment, arm: Arm, metric: Option<&str>| {
            let evidence = (now, question.actor.as_str());
            let results = kill_and_keep_results(experiment, KillTarget::Variation(arm), counts, metric, evidence)?;
            kills.push((arm, results));
            Ok::<_, ServerError>(())
        };
        for arm in decision.guardrail_kills().filter_map(Arm::new) {
            has_new_findings |= !experiment.kills.is_arm_killed(arm);
            let harmed = decision.guardrails.iter().find(|g| g.arm == arm.index() && g.action == GuardrailAction::Kill);
            kill(&mut experiment, arm, harmed.map(|finding| finding.metric.as_str()))?;
        }
        if question.scope == TickScope::Growth && !is_shadow(&experiment) {
            for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
                kill(&mut experiment, arm, None)?;
            }
        }
        let record = (serde_json::to_string(&input)?, serde_json::to_string(&decision)?);
        let generation = experiment.generation().map_or(0, |generation| generation.number);
        Ok(Self { decision, input, generation, at: question.at, kills, has_new_findings, record })
    }

    /// Applies the decision to the version that it was made for. Growth takes effect at `effective_at`; without it, nothing
    /// grows.
    fn apply(
        self,
        experiment: &mut Experiment,
        now: Timestamp,
        effective_at: Option<Timestamp>,
    ) -> Result<(TickOutcome, DecisionRecord), ServerError> {
        let Self { decision, input, generation, at, kills, record: (input_json, output), .. } = self;
        record_alerts(experiment, &decision, now);
        for (arm, results) in kills {
            kill_with_results(experiment, KillTarget::Variation(arm), results, now)?;
        }
        let requests = growth_requests(&decision);
        let revision = match effective_at {
            Some(effective_at) if !requests.is_empty() && !is_shadow(experiment) => {
                Some(experiment.grow(&requests, RevisionCause::Policy, now, effective_at)?)
            }
            _ => None,
        };
        let record = DecisionRecord { generation, at, revision, input: input_json, output };
        Ok((TickOutcome { decision, input, revision, at, generation }, record))
    }
}

/// Whether decisions of the policy are recorded without being applied.
fn is_shadow(experiment: &Experiment) -> bool {
    matches!(experiment.definition.policy(), Policy::Thompson(settings) if settings.shadow)
}

/// Records the alerts of guardrails; true if one is new.
fn record_alerts(experiment: &mut Experiment, decision: &Decision, now: Timestamp) -> bool {
    let mut is_new = false;
    for finding in &decision.guardrails {
        let Some(arm) = Arm::new(finding.arm) else { continue };
        let (metric, action, log_evidence) = (finding.metric.clone(), finding.action, finding.log_evidence);
        is_new |= experiment.record_alert(Alert { metric, arm, action, at: now, log_evidence });
    }
    is_new
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
