//! The clock that drives the policy: it wakes shortly before each calendar tick of each running experiment that lives
//! by the wall's clock, so that what is decided is published before the tick begins and takes effect as it begins (I4).
//! Experiments with a manual clock tick when their caller advances it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::{Experiment, ExperimentKey, Status, Timestamp};
use inroad_policy::Freeze;
use inroad_store::StoreError;
use tokio::sync::watch;

use crate::catalogue::{By, Catalogue, Entry};
use crate::clock::WallClock;
use crate::error::ServerError;
use crate::fold::Awaited;
use crate::metrics::Metrics;
use crate::tick::{Guarded, TickTime, Ticked, Ticker};

/// How much earlier than the lead the reallocator wakes, to have time to decide.
const GRACE: Duration = Duration::from_secs(1);
/// The longest sleep, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How soon what failed, or came too early, is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long the fold is waited for before events count as late. Everything that is due at one time waits for the same
/// events, together, so that neither a backlog nor new traffic holds up a thousand experiments one after another.
const FOLD_PATIENCE: Duration = Duration::from_secs(30);
/// How long, in each round, whoever was late waits to see whether the fold has caught up: with traffic coming in it is
/// always a little behind.
const LATE_PATIENCE: Duration = Duration::from_secs(2);
/// The most ticks that one call may advance a manual clock over.
const MAX_TICKS_PER_ADVANCE: usize = 1_000;

/// Who the audit log says did what the policy did.
pub const POLICY_ACTOR: &str = "inroad-policy";

/// Decides when to tick.
pub struct Reallocator {
    catalogue: Arc<Catalogue>,
    clock: Arc<WallClock>,
    ticker: Ticker,
    metrics: Arc<Metrics>,
    lead: Duration,
    /// One manual clock is moved at a time: a caller that broke off and its successor must not race each other.
    advancing: tokio::sync::Mutex<()>,
}

/// How often guardrails are asked, between growth ticks as well.
const GUARD_EVERY: Duration = Duration::from_secs(3600);
/// Who the audit log says did what guardrails did.
pub const GUARDRAIL_ACTOR: &str = "inroad-guardrails";

/// How often a decision is made anew because somebody changed the experiment while it was made.
const ATTEMPTS: usize = 8;

impl Reallocator {
    /// A reallocator; nothing runs yet.
    pub fn new(
        catalogue: Arc<Catalogue>,
        clock: Arc<WallClock>,
        ticker: Ticker,
        metrics: Arc<Metrics>,
        lead: Duration,
    ) -> Self {
        Self { catalogue, clock, ticker, metrics, lead, advancing: tokio::sync::Mutex::default() }
    }

    /// How long before it takes effect a revision is published.
    pub fn lead(&self) -> Duration {
        self.lead
    }

    /// Ticks by the wall's clock until `stop` turns true.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.catalogue.subscribe();
        // In memory alone: after a restart the guardrails of everything are asked at once, which does no harm.
        let mut guarded: HashMap<ExperimentKey, i64> = HashMap::new();
        // Whose last tick found events late. They are asked again once those are counted, and not a whole tick later.
        let mut late: HashMap<ExperimentKey, Timestamp> = HashMap::new();
        while !*stop.borrow() {
            let state = changes.borrow_and_update().clone();
            let now = self.clock.now();
            let mut next = now.plus(LONGEST_SLEEP);
            let counted = self.ticker.awaited(FOLD_PATIENCE);
            let soon = self.ticker.awaited(LATE_PATIENCE);
            for (key, entry) in &state.entries {
                if *stop.borrow() {
                    return;
                }
                let hour = now.tick(GUARD_EVERY);
                if is_guarded(&entry.experiment) && entry.experiment.manual_now.is_none() {
                    let due = guarded.get(key) != Some(&hour);
                    if !due || self.guard(key.as_str(), now, counted).await {
                        guarded.insert(key.clone(), hour);
                        next = next.min(Timestamp::start_of_tick(hour + 1, GUARD_EVERY));
                    } else {
                        next = next.min(now.plus(RETRY_AFTER));
                    }
                }
                let Some(wake_at) = self.wake_at(&entry.experiment, now) else {
                    late.remove(key);
                    continue;
                };
                let at = if wake_at <= now {
                    self.due_tick(&entry.experiment, now)
                } else {
                    next = next.min(wake_at);
                    // Somebody may have let the policy decide since then.
                    if late.get(key).copied() != entry.experiment.last_tick_at {
                        late.remove(key);
                        continue;
                    }
                    if !self.ticker.gets_counted(entry.version, soon).await {
                        next = next.min(now.plus(RETRY_AFTER));
                        continue;
                    }
                    now
                };
                match self.wall_tick(key.as_str(), POLICY_ACTOR, at, counted).await {
                    Ok((_, ticked)) if ticked.decision.frozen == Some(Freeze::DataLate) => {
                        late.insert(key.clone(), ticked.at);
                        next = next.min(now.plus(RETRY_AFTER));
                    }
                    Ok(_) => drop(late.remove(key)),
                    Err(error) => {
                        // A conflict means that somebody changed the experiment meanwhile; the next round sees that.
                        self.metrics.failed_ticks.inc();
                        tracing::error!(experiment = %key, %error, "a tick failed, and will be tried again");
                        next = next.min(now.plus(RETRY_AFTER));
                    }
                }
            }
            let pause = next.since(self.clock.now()).max(Duration::from_millis(10));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                heard = changes.changed() => if heard.is_err() { return },
                _ = stop.changed() => return,
            }
        }
    }

    /// The newest tick that there is time to decide before it begins.
    fn due_tick(&self, experiment: &Experiment, now: Timestamp) -> Timestamp {
        let length = experiment.definition.policy().tick();
        Timestamp::start_of_tick(now.plus(self.lead + GRACE).tick(length), length)
    }

    /// When to wake for this experiment; `None` if it does not tick by the wall's clock.
    fn wake_at(&self, experiment: &Experiment, now: Timestamp) -> Option<Timestamp> {
        if !experiment.is_ticking() || experiment.manual_now.is_some() {
            return None;
        }
        let last = experiment.last_tick_at?;
        if self.due_tick(experiment, now) > last {
            return Some(now);
        }
        Some(experiment.next_tick_after(last.max(now)).minus(self.lead + GRACE))
    }

    async fn wall_tick(
        &self,
        key: &str,
        actor: &str,
        at: Timestamp,
        counted: Awaited,
    ) -> Result<(Entry, Ticked), ServerError> {
        let ticked = self.ticker.tick(key, actor, TickTime { at, lead: self.lead, advance_to: None, counted }).await?;
        self.told(key, &ticked.1);
        Ok(ticked)
    }

    /// Asks an experiment's guardrails. False if that failed or has to wait for the fold, and is to be tried again.
    async fn guard(&self, key: &str, at: Timestamp, counted: Awaited) -> bool {
        match self.ticker.guard(key, GUARDRAIL_ACTOR, at, counted).await {
            Ok(Guarded::Acted(ticked)) => self.told(key, &ticked),
            Ok(Guarded::Silent) => {}
            Ok(Guarded::Late) => {
                // Not louder: it may be said of every experiment in every round, and the backlog is a gauge.
                tracing::debug!(experiment = key, "events are late: the guardrails are asked once they are counted");
                return false;
            }
            Err(error) => {
                self.metrics.failed_ticks.inc();
                tracing::error!(experiment = key, %error, "the guardrails could not be asked, and will be again");
                return false;
            }
        }
        true
    }

    /// Lets the policy decide now.
    pub async fn reallocate_now(&self, key: &str, actor: &str) -> Result<(Entry, Ticked), ServerError> {
        let now = self.catalogue.state().get(key)?.experiment.now(self.clock.now());
        let counted = self.ticker.awaited(FOLD_PATIENCE);
        let time = TickTime { at: now, lead: self.lead, advance_to: None, counted };
        for _ in 1..ATTEMPTS {
            match self.ticker.tick(key, actor, time).await {
                Err(ServerError::Store(StoreError::Conflict)) => {}
                done => return done.inspect(|(_, ticked)| self.told(key, ticked)),
            }
        }
        Err(ServerError::Store(StoreError::Conflict))
    }

    /// Moves a manual clock to `to`, ticking on the way: at each boundary the decision is published a lead before it,
    /// and the boundary itself flips it. Whoever repeats the call after a crash goes on where it stopped.
    pub async fn advance(&self, key: &str, to: Timestamp, actor: &str) -> Result<(Entry, Vec<Ticked>), ServerError> {
        let _one_at_a_time = self.advancing.lock().await;
        let (mut told, mut conflicts) = (Vec::new(), 0);
        loop {
            let state = self.catalogue.state();
            let experiment = &state.get(key)?.experiment;
            let step = match experiment.manual_now {
                Some(now) if to > now => self.next_step(experiment, now, to),
                _ => None,
            };
            let Some(boundary) = step else {
                let guards = is_guarded(experiment) && experiment.manual_now.is_some_and(|now| to > now);
                let by = By { actor, action: "advance", expected_version: None };
                let (mut entry, ()) = self.catalogue.change(key, by, |e, _| Ok((e.advance_clock(to)?, None))).await?;
                if guards {
                    self.guard(key, to, self.ticker.awaited(FOLD_PATIENCE)).await;
                    entry = self.catalogue.state().get(key)?.clone();
                }
                return Ok((entry, told));
            };
            if told.len() >= MAX_TICKS_PER_ADVANCE {
                let message = format!("over {MAX_TICKS_PER_ADVANCE} ticks lie on the way: advance in smaller steps");
                return Err(ServerError::Invalid { field: "to", message });
            }
            let now = experiment.manual_now.unwrap_or(boundary);
            if experiment.last_tick_at < Some(boundary) {
                let advance_to = Some(boundary.minus(self.lead).max(now));
                let counted = self.ticker.awaited(FOLD_PATIENCE);
                let time = TickTime { at: boundary, lead: self.lead, advance_to, counted };
                match self.ticker.tick(key, POLICY_ACTOR, time).await {
                    Ok((_, ticked)) => {
                        self.told(key, &ticked);
                        told.push(ticked);
                    }
                    // Somebody changed the experiment while the policy thought: it is asked again.
                    Err(ServerError::Store(StoreError::Conflict)) if conflicts < ATTEMPTS => {
                        conflicts += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let by = By { actor, action: "advance", expected_version: None };
            self.catalogue.change(key, by, |e, _| Ok((e.advance_clock(boundary)?, None))).await?;
        }
    }

    /// The next boundary on the way at which the policy has its chance.
    fn next_step(&self, experiment: &Experiment, now: Timestamp, to: Timestamp) -> Option<Timestamp> {
        let boundary = experiment.next_tick_after(now);
        (experiment.is_ticking() && boundary <= to).then_some(boundary)
    }

    fn told(&self, key: &str, ticked: &Ticked) {
        self.metrics.ticks.inc();
        for spoken in &ticked.decision.guardrails {
            let (metric, arm, action) = (spoken.metric.as_str(), spoken.arm, spoken.action);
            tracing::warn!(
                experiment = key,
                metric,
                arm,
                ?action,
                log_evidence = spoken.log_evidence,
                "a guardrail speaks"
            );
        }
        tracing::info!(
            experiment = key,
            generation = ticked.generation,
            revision = ticked.revision,
            killed = ?ticked.decision.kill,
            hold = crate::tick::hold_reason(&ticked.decision),
            "ticked"
        );
    }
}

/// Whether there are guardrails to ask.
fn is_guarded(experiment: &Experiment) -> bool {
    experiment.status == Status::Running && experiment.definition.metrics().iter().any(|m| m.guardrail.is_some())
}
