//! The reallocator: decides when the allocation policy runs.
//!
//! ```text
//!            lead + 1 s              lead (2 s)
//!  ───────┬────────────────┬──────────────────────┬────────────► time
//!       wake             publish               tick: the revision takes effect
//!
//!  wake ──► wait for the fold ──► tick: input, policy, decision ──► store ──► publish ──► clients
//!                                                 └► no change: the decision is stored too
//! ```
//!
//! Ticks are calendar intervals, counted from the Unix epoch by the length that the experiment declares. The task wakes
//! shortly before each tick of each running experiment (`schedule`), so that the revision is published one lead time
//! before the tick begins and all connected clients switch to it together as it begins (I4). A tick missed while the
//! server was down is not made up: only the newest one is decided.
//!
//! Before a decision, all events acknowledged so far must be folded. If that takes too long, the policy decides with
//! data marked late, which freezes growth; the experiment is then decided again as soon as the fold has caught up, not
//! a whole tick later. Guardrails are checked hourly as well, whatever the policy is.
//!
//! While the machine's clock has jumped and the new reading is not accepted ([`crate::clock`]), nothing is decided by it.
//!
//! An experiment with a manual clock ticks when its caller advances that clock: [`Reallocator::advance`] runs each tick
//! on the way, with the same order of steps. A person can also request a decision at once:
//! [`Reallocator::reallocate_now`]. If somebody changes the experiment while a decision is made, the decision is
//! discarded and made again.

mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::{Experiment, ExperimentKey, Status, Timestamp};
use inroad_policy::Freeze;
use inroad_store::StoreError;
use tokio::sync::watch;

use crate::catalogue::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::clock::WallClock;
use crate::error::ServerError;
use crate::fold::FoldTarget;
use crate::metrics::Metrics;
use crate::tick::{GuardrailOutcome, TickOutcome, TickTime, Ticker};
use schedule::{Schedule, due_tick, wake_at};

/// The longest sleep, so that a change of the machine's clock is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// The pause before a failed or premature attempt is repeated.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long to wait for the fold before events count as late. All experiments that are due together wait for the same
/// events, so that neither a backlog nor new traffic delays a thousand experiments one after another.
const FOLD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long, in each round, an experiment whose events were late waits for the fold. It must not be zero: under traffic
/// the fold is always slightly behind.
const LATE_FOLD_TIMEOUT: Duration = Duration::from_secs(2);
/// The most ticks that one call may advance a manual clock over.
const MAX_TICKS_PER_ADVANCE: usize = 1_000;
/// How often guardrails are checked, between ticks as well.
const GUARDRAIL_INTERVAL: Duration = Duration::from_secs(3600);
/// The most attempts at a decision if the experiment is changed meanwhile.
const MAX_ATTEMPTS: usize = 8;

/// The actor in the audit log for decisions of the policy.
pub const POLICY_ACTOR: &str = "inroad-policy";
/// The actor in the audit log for actions of guardrails.
pub const GUARDRAIL_ACTOR: &str = "inroad-guardrails";

/// Decides when the allocation policy runs.
pub struct Reallocator {
    catalogue: Arc<Catalogue>,
    clock: Arc<WallClock>,
    ticker: Ticker,
    metrics: Arc<Metrics>,
    lead: Duration,
    /// Allows one advance of a manual clock at a time: a caller that disconnected and the one that repeats its call
    /// must not interfere.
    advancing: tokio::sync::Mutex<()>,
    /// Allows one requested decision at a time, so that a scheduled one waits for at most one of them.
    requesting: tokio::sync::Mutex<()>,
}

/// What the running task remembers of experiments. In memory only.
#[derive(Default)]
struct Memory {
    /// The hour in which guardrails were last checked. A restart checks all of them again, harmlessly.
    guardrail_hours: HashMap<ExperimentKey, i64>,
    /// The last tick of experiments whose events were late then. They are decided again once those are folded.
    late_ticks: HashMap<ExperimentKey, Timestamp>,
}

/// What all experiments have in common that are due together.
struct Round<'a> {
    now: Timestamp,
    fold_target: FoldTarget,
    late_target: FoldTarget,
    memory: &'a mut Memory,
}

impl Reallocator {
    /// A reallocator that is not running yet. `lead` is how long before it takes effect a revision is published.
    pub fn new(
        catalogue: Arc<Catalogue>,
        clock: Arc<WallClock>,
        ticker: Ticker,
        metrics: Arc<Metrics>,
        lead: Duration,
    ) -> Self {
        let (advancing, requesting) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Self { catalogue, clock, ticker, metrics, lead, advancing, requesting }
    }

    /// How long before it takes effect a revision is published.
    pub fn lead(&self) -> Duration {
        self.lead
    }

    /// Runs ticks by the wall clock until `stop` turns true.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.catalogue.subscribe();
        let (mut memory, mut schedule) = (Memory::default(), Schedule::default());
        while !*stop.borrow() {
            let state = changes.borrow_and_update().clone();
            if self.clock.has_jumped() {
                // A decision at a wrong time could not be undone. Experiments with a manual clock are not affected.
                schedule.visit_all();
                tokio::select! {
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                    _ = stop.changed() => return,
                }
                continue;
            }
            let now = self.clock.now();
            schedule.update(&state, now);
            let mut round = Round {
                now,
                fold_target: self.ticker.target_within(FOLD_TIMEOUT),
                late_target: self.ticker.target_within(LATE_FOLD_TIMEOUT),
                memory: &mut memory,
            };
            for key in schedule.take_due(now) {
                if *stop.borrow() {
                    return;
                }
                let Some(entry) = state.entries.get(&key) else { continue };
                if let Some(next) = self.visit(&key, entry, &mut round).await {
                    schedule.set(key, next);
                }
            }
            let next = schedule.next().map_or(now.plus(MAX_SLEEP), |next| next.min(now.plus(MAX_SLEEP)));
            let pause = next.since(self.clock.now()).max(Duration::from_millis(10));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = changes.changed() => if changed.is_err() { return },
                _ = stop.changed() => return,
            }
        }
    }

    /// Does what is due for one experiment, and returns when to visit it next; none if only after its next change.
    async fn visit(
        &self,
        key: &ExperimentKey,
        entry: &CatalogueEntry,
        Round { now, fold_target, late_target, memory }: &mut Round<'_>,
    ) -> Option<Timestamp> {
        let (now, retry_at) = (*now, now.plus(RETRY_AFTER));
        let hour = now.tick(GUARDRAIL_INTERVAL);
        let mut next_check = None;
        if has_guardrails(&entry.experiment) && entry.experiment.manual_now.is_none() {
            let is_due = memory.guardrail_hours.get(key) != Some(&hour);
            if !is_due || self.check_guardrails(key.as_str(), now, *fold_target).await {
                memory.guardrail_hours.insert(key.clone(), hour);
                next_check = Some(Timestamp::start_of_tick(hour + 1, GUARDRAIL_INTERVAL));
            } else {
                next_check = Some(retry_at);
            }
        }
        let Some(wake) = wake_at(&entry.experiment, now, self.lead) else {
            memory.late_ticks.remove(key);
            return next_check;
        };
        let earlier = |at: Timestamp| Some(next_check.map_or(at, |check| check.min(at)));
        let at = if wake <= now {
            due_tick(&entry.experiment, now, self.lead)
        } else {
            // If a person requested a decision since, the late tick is obsolete.
            if memory.late_ticks.get(key).copied() != entry.experiment.last_tick_at {
                memory.late_ticks.remove(key);
                return earlier(wake);
            }
            if !self.ticker.wait_until_folded(entry.version, *late_target).await {
                return earlier(wake.min(retry_at));
            }
            now
        };
        match self.tick_by_wall_clock(key.as_str(), POLICY_ACTOR, at, *fold_target).await {
            Ok((ticked, outcome)) => {
                if outcome.decision.frozen == Some(Freeze::DataLate) {
                    let last = ticked.experiment.last_tick_at.unwrap_or(outcome.at);
                    memory.late_ticks.insert(key.clone(), last);
                    return earlier(retry_at);
                }
                memory.late_ticks.remove(key);
                wake_at(&ticked.experiment, now, self.lead).map_or(next_check, earlier)
            }
            // The experiment was changed while the policy decided; the next round has that change.
            Err(ServerError::Store(StoreError::Conflict)) => earlier(retry_at),
            Err(error) => {
                self.metrics.failed_ticks.inc();
                tracing::error!(experiment = %key, %error, "a tick failed; will retry");
                earlier(retry_at)
            }
        }
    }

    async fn tick_by_wall_clock(
        &self,
        key: &str,
        actor: &str,
        at: Timestamp,
        fold_target: FoldTarget,
    ) -> Result<(CatalogueEntry, TickOutcome), ServerError> {
        let time = TickTime { at, lead: self.lead, advance_to: None, fold_target };
        let ticked = self.ticker.tick(key, actor, time).await?;
        self.log_outcome(key, &ticked.1);
        Ok(ticked)
    }

    /// Checks an experiment's guardrails. False if that failed or the fold is late, and it must be retried.
    async fn check_guardrails(&self, key: &str, at: Timestamp, fold_target: FoldTarget) -> bool {
        match self.ticker.check_guardrails(key, GUARDRAIL_ACTOR, at, fold_target).await {
            Ok(GuardrailOutcome::Acted(outcome)) => self.log_outcome(key, &outcome),
            Ok(GuardrailOutcome::Unchanged) => {}
            Ok(GuardrailOutcome::DataLate) => {
                // At debug level: it may apply to every experiment in every round, and a gauge shows the backlog.
                tracing::debug!(experiment = key, "events are not folded yet; guardrails are checked once they are");
                return false;
            }
            // The experiment was changed meanwhile; the next round has that change.
            Err(ServerError::Store(StoreError::Conflict)) => return false,
            Err(error) => {
                self.metrics.failed_ticks.inc();
                tracing::error!(experiment = key, %error, "could not check guardrails; will retry");
                return false;
            }
        }
        true
    }

    /// Runs the policy of an experiment now.
    ///
    /// # Errors
    /// Those of [`Ticker::tick`].
    pub async fn reallocate_now(&self, key: &str, actor: &str) -> Result<(CatalogueEntry, TickOutcome), ServerError> {
        let _one_at_a_time = self.requesting.lock().await;
        let now = {
            let state = self.catalogue.state();
            let experiment = &state.get(key)?.experiment;
            self.clock.check_for(experiment)?;
            experiment.now(self.clock.now())
        };
        let fold_target = self.ticker.target_within(FOLD_TIMEOUT);
        let time = TickTime { at: now, lead: self.lead, advance_to: None, fold_target };
        for _ in 1..MAX_ATTEMPTS {
            match self.ticker.tick(key, actor, time).await {
                Err(ServerError::Store(StoreError::Conflict)) => {}
                result => return result.inspect(|(_, outcome)| self.log_outcome(key, outcome)),
            }
        }
        Err(ServerError::Store(StoreError::Conflict))
    }

    /// Moves a manual clock to `to` and runs each tick on the way: the decision is published one lead time before the
    /// tick and takes effect at the tick. After a crash, the repeated call continues where the first one stopped.
    ///
    /// # Errors
    /// [`ServerError::Invalid`] for more than 1,000 ticks on the way; [`ServerError::Change`] if there is no manual
    /// clock or `to` is in its past; errors of the policy and the store.
    pub async fn advance(
        &self,
        key: &str,
        to: Timestamp,
        actor: &str,
    ) -> Result<(CatalogueEntry, Vec<TickOutcome>), ServerError> {
        let _one_at_a_time = self.advancing.lock().await;
        self.check_advance(key, to)?;
        let (mut outcomes, mut conflicts) = (Vec::new(), 0);
        loop {
            let state = self.catalogue.state();
            let experiment = &state.get(key)?.experiment;
            let step = match experiment.manual_now {
                Some(now) if to > now => self.next_step(experiment, now, to),
                _ => None,
            };
            let Some(boundary) = step else {
                let must_check = has_guardrails(experiment) && experiment.manual_now.is_some_and(|now| to > now);
                let request = ChangeRequest { actor, action: "advance", expected_version: None };
                let advance = |e: &mut Experiment, _| Ok((e.advance_clock(to)?, None));
                let (mut entry, ()) = self.catalogue.change(key, request, advance).await?;
                if must_check {
                    self.check_guardrails(key, to, self.ticker.target_within(FOLD_TIMEOUT)).await;
                    entry = self.catalogue.state().get(key)?.clone();
                }
                return Ok((entry, outcomes));
            };
            if outcomes.len() >= MAX_TICKS_PER_ADVANCE {
                let message = format!(
                    "stopped after {MAX_TICKS_PER_ADVANCE} updates, before this time: advance again to continue"
                );
                return Err(ServerError::Invalid { field: "to", message });
            }
            let now = experiment.manual_now.unwrap_or(boundary);
            if experiment.last_tick_at < Some(boundary) {
                let advance_to = Some(boundary.minus(self.lead).max(now));
                let fold_target = self.ticker.target_within(FOLD_TIMEOUT);
                let time = TickTime { at: boundary, lead: self.lead, advance_to, fold_target };
                match self.ticker.tick(key, POLICY_ACTOR, time).await {
                    Ok((_, outcome)) => {
                        self.log_outcome(key, &outcome);
                        outcomes.push(outcome);
                    }
                    // The experiment was changed while the policy decided: decide again.
                    Err(ServerError::Store(StoreError::Conflict)) if conflicts < MAX_ATTEMPTS => {
                        conflicts += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let request = ChangeRequest { actor, action: "advance", expected_version: None };
            self.catalogue.change(key, request, |e, _| Ok((e.advance_clock(boundary)?, None))).await?;
        }
    }

    /// Refuses an advance over too many ticks before the first of them runs.
    fn check_advance(&self, key: &str, to: Timestamp) -> Result<(), ServerError> {
        let state = self.catalogue.state();
        let experiment = &state.get(key)?.experiment;
        let Some(now) = experiment.manual_now.filter(|now| *now < to && experiment.is_policy_active()) else {
            return Ok(());
        };
        let tick = experiment.definition.policy().tick();
        let updates = to.tick(tick).saturating_sub(now.tick(tick));
        if updates <= MAX_TICKS_PER_ADVANCE as i64 {
            return Ok(());
        }
        let message = format!(
            "there are {updates} updates before this time, more than the {MAX_TICKS_PER_ADVANCE} of one call, so nothing \
             was done: advance by at most {MAX_TICKS_PER_ADVANCE} times the update frequency of {tick:?}, several times"
        );
        Err(ServerError::Invalid { field: "to", message })
    }

    /// The next tick on the way to `to` at which the policy decides.
    fn next_step(&self, experiment: &Experiment, now: Timestamp, to: Timestamp) -> Option<Timestamp> {
        let boundary = experiment.next_tick_after(now);
        (experiment.is_policy_active() && boundary <= to).then_some(boundary)
    }

    /// Counts and logs a tick.
    fn log_outcome(&self, key: &str, outcome: &TickOutcome) {
        self.metrics.ticks.inc();
        for finding in &outcome.decision.guardrails {
            let (metric, arm, action) = (finding.metric.as_str(), finding.arm, finding.action);
            tracing::warn!(
                experiment = key,
                metric,
                arm,
                ?action,
                log_evidence = finding.log_evidence,
                "a guardrail reports harm"
            );
        }
        tracing::info!(
            experiment = key,
            generation = outcome.generation,
            revision = outcome.revision,
            killed = ?outcome.decision.kill,
            hold = crate::tick::hold_reason(&outcome.decision),
            "the policy decided"
        );
    }
}

/// Whether the experiment is running and has guardrails to check.
fn has_guardrails(experiment: &Experiment) -> bool {
    experiment.status == Status::Running && experiment.definition.metrics().iter().any(|m| m.guardrail.is_some())
}
