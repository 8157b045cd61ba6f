//! A cache of experiment summaries for the overview page. Computing a summary takes milliseconds, which is too slow for
//! a page with hundreds of experiments. One background task computes summaries that a page requested and that are
//! outdated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inroad_assignment::{Experiment, ExperimentKey, Status, Timestamp};
use inroad_store::PageRequest;
use inroad_wire::v1;
use tokio::sync::{Notify, watch};

use crate::catalogue::CatalogueEntry;
use crate::error::ServerError;
use crate::services::result::results_now;
use crate::shared::SharedState;

/// Shortest pause between two rounds of computation.
const PAUSE: Duration = Duration::from_millis(500);

/// The summary of an experiment.
#[derive(Debug, Clone, Default)]
pub(super) struct ExperimentSummary {
    /// Version of the experiment.
    version: u64,
    /// Offset of the processed log.
    folded: u64,
    /// State of the counts.
    counts: u64,
    /// Index of the arm with the highest probability to be best, and that probability.
    pub(super) leader: Option<(usize, f64)>,
    /// Exposed units.
    pub(super) units: u64,
    /// Warnings.
    pub(super) warnings: Vec<String>,
    /// Time of the last change of what is served, by the experiment's clock; for a draft, of the last edit.
    pub(super) changed_at: Option<Timestamp>,
}

impl ExperimentSummary {
    /// Whether it is about this state of the experiment and all events up to `folded`.
    pub(super) fn is_current(&self, entry: &CatalogueEntry, folded: u64) -> bool {
        self.version == entry.version && self.folded >= folded
    }
}

#[derive(Default)]
struct Cache {
    summaries: BTreeMap<ExperimentKey, Arc<ExperimentSummary>>,
    /// Experiments whose summary a page requested and that is outdated.
    requested: BTreeSet<ExperimentKey>,
}

/// The summaries, with the task that computes them.
pub(super) struct Summaries {
    cache: Arc<Mutex<Cache>>,
    wake: Arc<Notify>,
    changes: watch::Receiver<u64>,
}

impl Summaries {
    /// Starts the task, which ends when the server stops.
    pub(super) fn start(shared: Arc<SharedState>) -> Self {
        let (cache, wake) = (Arc::<Mutex<Cache>>::default(), Arc::new(Notify::new()));
        let (notify, changes) = watch::channel(0);
        tokio::spawn(run(shared, Arc::clone(&cache), Arc::clone(&wake), notify));
        Self { cache, wake, changes }
    }

    /// Changes whenever summaries were computed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// How often summaries were computed.
    pub(super) fn round(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The newest summary of an experiment, if there is one. An outdated summary is requested; subscribers of
    /// [`Self::changes`] are notified when it is computed.
    pub(super) fn get(
        &self,
        key: &ExperimentKey,
        entry: &CatalogueEntry,
        folded: u64,
    ) -> Option<Arc<ExperimentSummary>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache.summaries.get(key).cloned();
        if known.as_ref().is_none_or(|summary| !summary.is_current(entry, folded)) {
            cache.requested.insert(key.clone());
            self.wake.notify_one();
        }
        known
    }

    /// Waits until all requested summaries are computed, at most for `timeout`.
    pub(super) async fn wait_until_computed(&self, timeout: Duration) {
        let computed = async {
            let mut changes = self.changes.clone();
            loop {
                if self.cache.lock().unwrap_or_else(PoisonError::into_inner).requested.is_empty() {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, computed).await;
    }
}

async fn run(shared: Arc<SharedState>, cache: Arc<Mutex<Cache>>, wake: Arc<Notify>, notify: watch::Sender<u64>) {
    let mut stopping = shared.stopping.clone();
    loop {
        tokio::select! {
            () = wake.notified() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        loop {
            let requested: Vec<_> = {
                let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                cache.requested.iter().cloned().collect()
            };
            if requested.is_empty() || *stopping.borrow() {
                break;
            }
            for key in requested {
                let known = cache.lock().unwrap_or_else(PoisonError::into_inner).summaries.get(&key).cloned();
                let summary = compute(&shared, &key, known.as_deref()).await;
                let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                cache.requested.remove(&key);
                match summary {
                    Ok(summary) => drop(cache.summaries.insert(key, Arc::new(summary))),
                    Err(error) => {
                        tracing::warn!(experiment = %key, %error, "cannot compute the summary of an experiment")
                    }
                }
            }
            notify.send_modify(|round| *round += 1);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn compute(
    shared: &SharedState,
    key: &ExperimentKey,
    known: Option<&ExperimentSummary>,
) -> Result<ExperimentSummary, ServerError> {
    let folded = shared.store.folded();
    let state = shared.catalogue.state();
    let entry = state.get(key.as_str())?.clone();
    let same_version = known.filter(|summary| summary.version == entry.version);
    let changed_at = match same_version {
        Some(summary) => summary.changed_at,
        None => match served_since(&entry.experiment) {
            Some(at) => Some(at),
            // A draft serves nothing, so its last edit counts.
            None => shared
                .store
                .audit(Some(key), PageRequest { before: u64::MAX, limit: 1, max_bytes: 0 })
                .await?
                .first()
                .map(|e| e.at),
        },
    };
    let number = entry.experiment.generations.len() as u32;
    if number == 0 {
        return Ok(ExperimentSummary { version: entry.version, folded, changed_at, ..ExperimentSummary::default() });
    }
    // During a recount the summary is that of the counts so far, and counts as outdated.
    let is_reflected = shared.fold.wait_until_reflected(entry.version, Duration::ZERO).await;
    let folded = if is_reflected { folded } else { 0 };
    let counts = shared.store.counts_state(key, number);
    if let Some(same) = same_version.filter(|summary| summary.counts == counts) {
        return Ok(ExperimentSummary { folded, ..same.clone() });
    }
    let request = v1::GetResultsRequest { key: key.to_string(), generation: number, wait: false };
    let results = results_now(shared, request).await?;
    let has_leader = matches!(entry.experiment.status, Status::Running | Status::Paused);
    let leader = results.arms.iter().position(|arm| has_leader && arm.variation == results.leader);
    let leader = leader.and_then(|arm| Some((arm, results.arms.get(arm)?.p_best)));
    let (units, warnings) = (results.units, results.warnings);
    Ok(ExperimentSummary { version: entry.version, folded, counts, leader, units, warnings, changed_at })
}

/// The time of the last change of what is served: a revision, a kill, a restore or a conclusion. Decisions without
/// changes and edits of texts do not count. None before the first generation.
fn served_since(experiment: &Experiment) -> Option<Timestamp> {
    let generation = experiment.generation()?;
    let revisions = generation.revisions.iter().map(|revision| revision.effective_at);
    let kill_changes = generation.kill_changes.iter().map(|change| change.at);
    let endings = generation.endings.iter().map(|ending| ending.at);
    revisions.chain(kill_changes).chain(endings).chain([generation.started_at]).max()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::experiment::ShippingScope;
    use inroad_assignment::{Arm, DefinitionDoc, KillTarget, Salt};

    #[test]
    fn decision_without_change_and_edit_do_not_change_what_is_served() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let variations = serde_json::json!([{"key": "control", "payload": false}, {"key": "a", "payload": true}]);
        let doc = |description: &str| -> DefinitionDoc {
            let doc = serde_json::json!({"key": "e", "variations": variations, "description": description});
            serde_json::from_value(doc).unwrap()
        };
        let mut experiment = Experiment::create(doc("").try_into().unwrap(), at(0));
        assert_eq!(served_since(&experiment), None);
        experiment.start(at(10), Salt::parse("s").unwrap()).unwrap();
        experiment.record_tick(at(20), true);
        experiment.update(doc("other words").try_into().unwrap(), at(30), at(30)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(10)));
        experiment.set_killed(KillTarget::Everything, true, at(40)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(40)));
        experiment.set_killed(KillTarget::Everything, false, at(50)).unwrap();
        experiment.conclude(Arm::CONTROL, ShippingScope::Audience, at(60)).unwrap();
        assert_eq!(served_since(&experiment), Some(at(60)));
    }
}
