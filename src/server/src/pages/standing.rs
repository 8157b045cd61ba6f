//! How each experiment stands, kept ready for the overview: computing it takes milliseconds an experiment, and a page with
//! hundreds of them must not. One task computes what somebody has looked at, and only what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inroad_assignment::{Experiment, ExperimentKey, Status, Timestamp};
use inroad_store::{Counts, Page};
use tokio::sync::{Notify, watch};

use crate::catalogue::Entry;
use crate::error::ServerError;
use crate::report::Report;
use crate::services::Shared;

/// How long an experiment may be looked at before its standing is computed anew, at the least.
const REST: Duration = Duration::from_millis(500);

/// How an experiment stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The experiment's version that this is of.
    version: u64,
    /// How far the fold was when it was found to be so.
    folded: u64,
    /// Of the counts that it was made from.
    print: u64,
    /// Who is probably best, and how probably.
    pub(super) leader: Option<(usize, f64)>,
    /// Units exposed.
    pub(super) units: u64,
    /// What somebody should look at.
    pub(super) alarms: Vec<String>,
    /// Since when everybody is served as now, by the experiment's clock; of a draft, when it was last touched.
    pub(super) changed_at: Option<Timestamp>,
}

#[derive(Default)]
struct Kept {
    standings: BTreeMap<ExperimentKey, Arc<Standing>>,
    wanted: BTreeSet<ExperimentKey>,
}

/// What is kept ready.
pub(super) struct Standings {
    kept: Arc<Mutex<Kept>>,
    wake: Arc<Notify>,
    changes: watch::Receiver<u64>,
}

impl Standings {
    /// Starts the task; it ends with the server.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (kept, wake) = (Arc::<Mutex<Kept>>::default(), Arc::new(Notify::new()));
        let (tell, changes) = watch::channel(0);
        tokio::spawn(run(shared, Arc::clone(&kept), Arc::clone(&wake), tell));
        Self { kept, wake, changes }
    }

    /// Hears when standings were computed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// What is known of an experiment. What is out of date is computed soon, and whoever follows is told.
    pub(super) fn get(&self, key: &ExperimentKey, entry: &Entry, folded: u64) -> Option<Arc<Standing>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.standings.get(key).cloned();
        if known.as_ref().is_none_or(|standing| standing.version != entry.version || standing.folded < folded) {
            kept.wanted.insert(key.clone());
            self.wake.notify_one();
        }
        known
    }

    /// Waits until nothing is wanted any more, or until it has taken too long.
    pub(super) async fn settle(&self, patience: Duration) {
        let settled = async {
            let mut changes = self.changes.clone();
            loop {
                if self.kept.lock().unwrap_or_else(PoisonError::into_inner).wanted.is_empty() {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, settled).await;
    }
}

async fn run(shared: Arc<Shared>, kept: Arc<Mutex<Kept>>, wake: Arc<Notify>, tell: watch::Sender<u64>) {
    let mut stopping = shared.stopping.clone();
    loop {
        tokio::select! {
            () = wake.notified() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        loop {
            let wanted: Vec<_> = {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.wanted.iter().cloned().collect()
            };
            if wanted.is_empty() || *stopping.borrow() {
                break;
            }
            for key in wanted {
                let known = kept.lock().unwrap_or_else(PoisonError::into_inner).standings.get(&key).cloned();
                let standing = compute(&shared, &key, known.as_deref()).await;
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.wanted.remove(&key);
                match standing {
                    Ok(standing) => drop(kept.standings.insert(key, Arc::new(standing))),
                    Err(error) => tracing::warn!(experiment = %key, %error, "its standing cannot be told"),
                }
            }
            tell.send_modify(|round| *round += 1);
        }
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn compute(shared: &Shared, key: &ExperimentKey, known: Option<&Standing>) -> Result<Standing, ServerError> {
    let folded = shared.store.folded();
    let state = shared.catalogue.state();
    let entry = state.get(key.as_str())?.clone();
    let same_version = known.filter(|standing| standing.version == entry.version);
    let changed_at = match same_version {
        Some(standing) => standing.changed_at,
        None => match served_since(&entry.experiment) {
            Some(at) => Some(at),
            // Nothing is served of a draft: it counts when somebody touched it.
            None => shared.store.audit(Some(key), Page { before: u64::MAX, limit: 1 }).await?.first().map(|e| e.at),
        },
    };
    let number = entry.experiment.generations.len() as u32;
    if number == 0 {
        return Ok(Standing { version: entry.version, folded, changed_at, ..Standing::default() });
    }
    let counts = shared.store.counts(key, number).await?;
    let print = fingerprint(&counts);
    if let Some(same) = same_version.filter(|standing| standing.print == print) {
        return Ok(Standing { folded, ..same.clone() });
    }
    let units = counts.cells.iter().filter(|(key, _)| key.metric.is_none()).map(|(_, cell)| cell.first).sum();
    let now = entry.experiment.now(shared.clock.now());
    let experiment = Arc::clone(&entry.experiment);
    let work = tokio::task::spawn_blocking(move || {
        let Some(generation) = experiment.generation() else { return Ok((None, Vec::new())) };
        let report = Report::new(&experiment, generation, &counts, now)?;
        let leads = matches!(experiment.status, Status::Running | Status::Paused) && report.is_compared;
        let leader = report.summary.leader;
        let leader = leads.then(|| (leader, report.summary.arms.get(leader).map_or(0.0, |arm| arm.p_best)));
        Ok::<_, ServerError>((leader, report.warnings(&experiment, &counts)))
    });
    let (leader, alarms) = work.await.map_err(|_| ServerError::ShuttingDown)??;
    Ok(Standing { version: entry.version, folded, print, leader, units, alarms, changed_at })
}

/// The last change of what is served: a revision, a kill or restore, an ending. Neither what the policy decided without
/// moving anything nor an edit of a description is one. None before there is a generation.
fn served_since(experiment: &Experiment) -> Option<Timestamp> {
    let generation = experiment.generation()?;
    let revisions = generation.revisions.iter().map(|revision| revision.effective_at);
    let switches = generation.switches.iter().map(|switch| switch.at);
    let endings = generation.endings.iter().map(|ending| ending.at);
    revisions.chain(switches).chain(endings).chain([generation.started_at]).max()
}

/// Tells counts apart.
pub(super) fn fingerprint(counts: &Counts) -> u64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    for (key, cell) in &counts.cells {
        (key.metric, key.tick, key.revision, key.arm.index()).hash(&mut hasher);
        (cell.first, cell.n, cell.s, cell.dropped, cell.early, cell.x, cell.y).hash(&mut hasher);
        (cell.units, cell.outcomes, cell.outcome_units, cell.outcome_sum).hash(&mut hasher);
    }
    (counts.units_moved, counts.crossovers, counts.stale_exposures).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{Arm, DefinitionDoc, Salt, Target};

    #[test]
    fn neither_a_tick_nor_an_edit_changes_what_is_served() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let variations = serde_json::json!([{"key": "control", "payload": false}, {"key": "a", "payload": true}]);
        let doc = |description: &str| -> DefinitionDoc {
            let doc = serde_json::json!({"key": "e", "variations": variations, "description": description});
            serde_json::from_value(doc).unwrap()
        };
        let mut experiment = Experiment::create(doc("").try_into().unwrap(), at(0));
        assert_eq!(served_since(&experiment), None);
        experiment.start(at(10), Salt::parse("s").unwrap()).unwrap();
        experiment.ticked(at(20), true);
        experiment.update(doc("other words").try_into().unwrap(), at(30), at(30)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(10)));
        experiment.switch(Target::Everything, true, at(40)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(40)));
        experiment.switch(Target::Everything, false, at(50)).unwrap();
        experiment.conclude(Arm::CONTROL, at(60)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(60)));
    }
}
