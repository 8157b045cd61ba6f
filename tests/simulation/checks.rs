//! The checks at the end of a run, when the server works without faults again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::executor::block_on;
use inroad_assignment::{Arm, Experiment, Point, Timestamp};
use inroad_policy::Decider;
use inroad_server::shared::SharedState;
use inroad_store::{Event, LoggedEvent, PageRequest, SqliteOptions, SqliteStore, Store};
use inroad_wire::v1::ExposureMode;

use crate::client::SimulatedClient;
use crate::driver::{BANDIT, EXPERIMENTS, TICK, UNITS, assign, unit_key};
use crate::model::{Exposure, Model};
use crate::random::Random;

/// All checks.
pub(crate) async fn check_all(
    shared: &Arc<SharedState>,
    clients: &[SimulatedClient],
    model: &mut Model,
    random: &mut Random,
) -> Result<(), String> {
    let log = read_log(&*shared.store).await;
    check_acknowledged_events(&log, model)?;
    let state = shared.catalogue.state();
    for entry in state.entries.values() {
        check_allocations(&entry.experiment)?;
        check_decisions(&*shared.store, &entry.experiment).await?;
    }
    check_counts(shared, log, random).await?;
    check_clients(shared, clients, model).await?;
    check_time_goes_on(shared)
}

async fn read_log(store: &dyn Store) -> Vec<LoggedEvent> {
    let mut log: Vec<LoggedEvent> = Vec::new();
    loop {
        let after = log.last().map_or(0, |event| event.seq);
        let next = store.read_log(after, 10_000).await.expect("the log");
        if next.is_empty() {
            return log;
        }
        log.extend(next);
    }
}

/// I6: every acknowledged event is in the log.
fn check_acknowledged_events(log: &[LoggedEvent], model: &Model) -> Result<(), String> {
    let (mut exposures, mut outcomes) = (BTreeSet::new(), BTreeSet::new());
    for logged in log {
        match &logged.event {
            Event::Exposure(e) => {
                let exposure: Exposure =
                    (e.experiment.to_string(), e.generation, e.unit.clone(), e.arm.index(), e.revision);
                exposures.insert(exposure);
            }
            Event::Outcome(outcome) => drop(outcomes.insert(outcome.event_id.clone())),
        }
    }
    if let Some(lost) = model.exposures.difference(&exposures).next() {
        return Err(format!("I6: an acknowledged exposure is not in the log: {lost:?}"));
    }
    match model.outcomes.difference(&outcomes).next() {
        Some(lost) => Err(format!("I6: an acknowledged outcome is not in the log: {lost}")),
        None => Ok(()),
    }
}

/// I1, I2: each revision divides the line, and only control gives up points.
fn check_allocations(experiment: &Experiment) -> Result<(), String> {
    for generation in &experiment.generations {
        for revision in &generation.revisions {
            // Each bucket ends where the next one begins, and the last one at the end of the line.
            let starts: Vec<Point> = revision.allocation.buckets().map(|bucket| bucket.start).collect();
            if starts.first() != Some(&Point::new(0)) || !starts.is_sorted_by(|one, next| one < next) {
                return Err(format!("I1: the buckets of revision {} do not divide the line", revision.number));
            }
        }
        for pair in generation.revisions.windows(2) {
            if !pair[0].allocation.can_grow_into(&pair[1].allocation) || pair[0].effective_at > pair[1].effective_at {
                return Err(format!("I2: revision {} does not continue the one before", pair[1].number));
            }
        }
    }
    Ok(())
}

/// I7: each decision can be computed again from its stored input, and each tick was decided once.
async fn check_decisions(store: &dyn Store, experiment: &Experiment) -> Result<(), String> {
    for generation in &experiment.generations {
        let page = PageRequest { before: u64::MAX, limit: 10_000, max_bytes: usize::MAX };
        let decisions = store.decisions(experiment.definition.key(), generation.number, page).await.expect("decisions");
        let mut ticks: BTreeMap<Timestamp, u64> = BTreeMap::new();
        for decision in decisions {
            if let Some(other) = ticks.insert(decision.record.at, decision.id) {
                return Err(format!("I7: one tick was decided twice: decisions {} and {other}", decision.id));
            }
            let input = serde_json::from_str(&decision.record.input).expect("an input");
            let decided = Decider::default().decide(&input).map_err(|error| format!("I7: {error}"))?;
            if serde_json::to_string(&decided).expect("JSON") != decision.record.output {
                return Err(format!("I7: decision {} is not reproduced from its input", decision.id));
            }
        }
    }
    Ok(())
}

/// I5: the counts are those of another store that gets the same events in another order, some of them twice.
async fn check_counts(shared: &SharedState, log: Vec<LoggedEvent>, random: &mut Random) -> Result<(), String> {
    let folder = tempfile::TempDir::new().expect("a folder");
    // Simulated time must not pass meanwhile, so each call of this store is waited for in place.
    let other = SqliteStore::open(folder.path(), SqliteOptions::default()).expect("a store");
    let state = shared.catalogue.state();
    for experiment in state.experiments() {
        let change = inroad_store::ExperimentChange {
            expected_version: None,
            experiment: Arc::clone(experiment),
            actor: "simulation".to_owned(),
            action: "create".to_owned(),
            at: Timestamp::default(),
            decision: None,
        };
        block_on(other.commit(change)).map_err(|error| format!("the final experiment cannot be stored: {error}"))?;
    }
    let mut events: Vec<Event> = log.into_iter().map(|logged| logged.event).collect();
    let repeated: Vec<Event> = events.iter().filter(|_| random.once_in(5)).cloned().collect();
    events.extend(repeated);
    for last in (1..events.len()).rev() {
        events.swap(last, random.below(last as u64 + 1) as usize);
    }
    if !events.is_empty() {
        block_on(other.append(Timestamp::default(), events)).expect("appended");
    }
    let experiments = Arc::new(state.experiments().cloned().collect());
    while other.folded() < other.head() {
        block_on(other.fold(Arc::clone(&experiments), 1_000)).expect("folded");
    }
    for experiment in state.experiments() {
        for generation in &experiment.generations {
            let key = experiment.definition.key();
            let mut counts = shared.store.counts(key, generation.number).await.expect("counts");
            let mut expected = block_on(other.counts(key, generation.number)).expect("counts");
            (counts.folded, expected.folded) = (0, 0);
            if counts != expected {
                let differing = expected.cells.iter().find(|(cell, value)| counts.cells.get(cell) != Some(value));
                return Err(format!(
                    "I5: the counts of {key} differ from those of the same events, first {differing:?}"
                ));
            }
        }
    }
    Ok(())
}

/// I2, I3, I8: clients that have the newest version answer as the server does.
async fn check_clients(
    shared: &Arc<SharedState>,
    clients: &[SimulatedClient],
    model: &mut Model,
) -> Result<(), String> {
    for client in clients {
        if let Some(refusal) = client.view().refusals.first() {
            return Err(format!("I2: a client refused an update: {refusal}"));
        }
        let (has, newest) = (client.view().version, shared.catalogue.state().version);
        if has != newest {
            let published = shared.catalogue.publications().get(newest);
            return Err(format!(
                "I8: a connected client has version {has} and not {newest}: {published:?}, {:?}",
                shared.clock.now()
            ));
        }
        for experiment in EXPERIMENTS {
            for unit in (0..UNITS).map(unit_key) {
                let by_server = assign(shared, experiment, &unit, ExposureMode::None, model).await?;
                let by_client = client.assign(experiment, &unit, shared.clock.now());
                let expected = by_server.map(|answer| (answer.arm, answer.generation, answer.revision));
                if by_client.map(|(arm, ..)| arm) != expected.map(|(arm, ..)| arm) {
                    return Err(format!(
                        "I3: {unit} in {experiment}: the client says {by_client:?}, the server {expected:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Time goes on: the clock is right and trusted, and the policy decides.
fn check_time_goes_on(shared: &SharedState) -> Result<(), String> {
    if shared.clock.has_jumped() {
        return Err("the clock is right, and is not trusted".to_owned());
    }
    let state = shared.catalogue.state();
    let Ok(entry) = state.get(BANDIT) else { return Ok(()) };
    let experiment = &entry.experiment;
    let now = shared.clock.now();
    // An experiment that was changed in a wrong future time waits for it.
    let is_waiting = experiment.now(now) > now || experiment.last_tick_at.is_some_and(|at| at > now.plus(TICK));
    let is_late = experiment.last_tick_at.is_some_and(|at| at.plus(2 * TICK) < now);
    if experiment.is_policy_active() && !is_waiting && is_late {
        let killed = experiment.kills.is_arm_killed(Arm::CONTROL);
        return Err(format!("no tick since {:?}, and it is {now:?} ({killed})", experiment.last_tick_at));
    }
    Ok(())
}
