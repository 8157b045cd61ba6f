//! One tick of the policy: the counts as the policy reads them, its decision, and what becomes of the experiment. The
//! reallocator, "reallocate now" and a manual clock all come through here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::{Cause, ChangeError};
use inroad_assignment::{Arm, Experiment, Generation, Policy, Target, ThompsonSettings, Timestamp, Width};
use inroad_policy::{ArmState, ArmTally, Decider, Decision, EpochKey, EpochTally, Freeze, HoldReason, TickInput};
use inroad_store::{Counts, DecisionRecord, Store};

use crate::catalogue::{By, Catalogue, Entry};
use crate::error::ServerError;
use crate::fold::Fold;

/// How long a tick waits for the fold before it counts the data as late and freezes.
const FOLD_PATIENCE: Duration = Duration::from_secs(30);

/// The decision metric's tallies by epoch, with the shares that were served in each.
pub fn epoch_tallies(experiment: &Experiment, generation: &Generation, counts: &Counts) -> Vec<EpochTally> {
    let arms = experiment.definition.variations().len();
    let metric = experiment.definition.decision_metric().and_then(|i| u16::try_from(i).ok());
    let mut epochs: BTreeMap<EpochKey, Vec<ArmTally>> = BTreeMap::new();
    for (key, cell) in &counts.cells {
        let epoch = EpochKey { tick: key.tick, revision: key.revision };
        if cell.first == 0 && cell.n == 0 && cell.dropped == 0 {
            continue;
        }
        let tallies = epochs.entry(epoch).or_insert_with(|| vec![ArmTally::default(); arms]);
        let Some(tally) = tallies.get_mut(key.arm.index()) else { continue };
        if key.metric.is_none() {
            tally.first += cell.first;
        } else if key.metric == metric {
            tally.n += cell.n;
            tally.s += cell.s;
        }
    }
    let with_shares = |(epoch, arms): (EpochKey, Vec<ArmTally>)| {
        let shares = served_shares(experiment, generation, epoch);
        EpochTally { epoch, arms, shares }
    };
    epochs.into_iter().map(with_shares).collect()
}

/// The share that each arm was served in an epoch; nothing if a kill or a restore changed it on the way.
fn served_shares(experiment: &Experiment, generation: &Generation, epoch: EpochKey) -> Vec<f64> {
    let length = experiment.definition.policy().tick();
    let start = Timestamp::start_of_tick(epoch.tick, length).max(generation.started_at);
    let end = Timestamp::start_of_tick(epoch.tick.saturating_add(1), length);
    let Some(revision) = generation.revision(epoch.revision) else { return Vec::new() };
    if generation.switches.iter().any(|s| s.at > start && s.at < end) {
        return Vec::new();
    }
    let kills = generation.kills(start);
    let mut shares = vec![0.0; experiment.definition.variations().len()];
    for owner in (0..shares.len()).filter_map(Arm::new) {
        if let Some(share) = shares.get_mut(kills.served(owner).index()) {
            *share += revision.allocation.width_of(owner).share();
        }
    }
    shares
}

/// What the policy is asked at `now`.
pub fn tick_input(
    experiment: &Experiment,
    settings: &ThompsonSettings,
    counts: &Counts,
    now: Timestamp,
    data_late: bool,
) -> Result<TickInput, ServerError> {
    let Some(generation) = experiment.generation() else { return Err(not_running(experiment)) };
    let allocation = experiment.latest_allocation();
    let arm_state = |(i, variation): (usize, &inroad_assignment::definition::Variation)| {
        let arm = Arm::new(i)?;
        let killed = experiment.kills.arm(arm);
        Some(ArmState { owned: allocation.width_of(arm), foothold: variation.foothold, killed })
    };
    Ok(TickInput {
        now,
        generation_started_at: generation.started_at,
        last_growth_at: experiment.last_growth_at.unwrap_or(generation.started_at),
        // Experiments that tick at one instant share their draws, and so one set of points.
        seed: now.as_micros().unsigned_abs(),
        settings: settings.clone(),
        arms: experiment.definition.variations().iter().enumerate().filter_map(arm_state).collect(),
        floor: experiment.definition.policy().floor(),
        data_late,
        epochs: epoch_tallies(experiment, generation, counts),
    })
}

fn not_running(experiment: &Experiment) -> ServerError {
    ServerError::Change(ChangeError::WrongState {
        action: "reallocate",
        state: experiment.status.name(),
        remedy: "only a running experiment is reallocated",
    })
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
        let on_time = self.fold.caught_up(entry.version, FOLD_PATIENCE).await;
        let generation = entry.experiment.generation().map_or(0, |g| g.number);
        let counts = self.store.counts(entry.experiment.definition.key(), generation).await?;
        let by = By { actor, action: "tick", expected_version: Some(entry.version) };
        self.catalogue
            .change(key, by, |experiment, now| {
                if let Some(to) = time.advance_to {
                    experiment.advance_clock(to)?;
                }
                let Policy::Thompson(settings) = experiment.definition.policy().clone() else {
                    return Err(ServerError::Invalid {
                        field: "key",
                        message: "the experiment's policy is manual: grow its variations by hand".to_owned(),
                    });
                };
                if experiment.status != inroad_assignment::Status::Running {
                    return Err(not_running(experiment));
                }
                let input = tick_input(experiment, &settings, &counts, time.at, !on_time)?;
                let decision = {
                    let mut decider = self.decider.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    decider.decide(&input)?
                };
                // Counted from here and not from when the tick was asked for: the counts may have been waited for (I4).
                let (now, effective_at) = match time.advance_to {
                    Some(moved_to) => (moved_to, time.at),
                    None => (now.max(time.at), time.at.max(now.plus(time.lead))),
                };
                let revision = apply(experiment, &decision, now, effective_at)?;
                experiment.last_growth_at = Some(time.at);
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
        (Some(HoldReason::NobodyDeserves), _) => "NOBODY_DESERVES",
        (Some(HoldReason::NoHeadroom), _) => "NO_HEADROOM",
        (Some(HoldReason::BelowMinStep), _) => "BELOW_MIN_STEP",
    }
}
