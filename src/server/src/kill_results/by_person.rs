//! A kill by a person. It does not wait for the results that it keeps (I8): those that come late are stored by a change of
//! their own.
//!
//! ```text
//!  results within 25 ms ──► stored with the kill                    audit log: kill
//!  later                ──► the kill at once, then the results      audit log: kill, results
//!  on a full disk       ──► the kill at once, the results wait in memory until the disk has room
//!  64 kills wait        ──► further kills are made at once, without results
//! ```

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::KillResult;
use inroad_assignment::{Experiment, KillTarget, Timestamp};
use inroad_store::{Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::{Killed, kill_with_results, killed_arms, results_before_kill};
use crate::catalogue::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::config::MAX_WAITING_KILL_RESULTS;
use crate::error::ServerError;
use crate::metrics::Metrics;

/// The longest that a person's kill waits for its results. Then it is made without them (I8), and they are kept later.
const MAX_RESULTS_WAIT: Duration = Duration::from_millis(25);
/// The pause before late results are stored again that found the disk full.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(1);
/// The actor in the audit log for results that are kept after their kill.
pub(crate) const RESULTS_ACTOR: &str = "inroad-results";
/// The action in the audit log for the same. It is no kill.
pub(crate) const RESULTS_ACTION: &str = "results";

type ResultsTask = JoinHandle<Result<Vec<KillResult>, ServerError>>;

/// The results of people's kills that are not stored yet: a bounded number, of which few are computed at once.
pub(crate) struct KillResultQueue {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The place of one kill in the queue, until its results are stored or lost.
struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.waiting_kill_results.dec();
    }
}

/// The results that a person's kill keeps: those that were ready in time, and the computation of the others.
#[derive(Default)]
pub(crate) struct PendingResults {
    /// Results that are stored together with the kill.
    ready: Vec<KillResult>,
    /// The computation, if it was not complete within [`MAX_RESULTS_WAIT`].
    late: Option<LateResults>,
}

struct LateResults {
    task: ResultsTask,
    /// The task has it too: it computes on if the kill is refused.
    place: Arc<Place>,
}

impl KillResultQueue {
    /// An empty queue. One in two cores computes, at least one.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = Arc::new(Semaphore::new((cores / 2).max(1)));
        Self { places: Arc::new(Semaphore::new(MAX_WAITING_KILL_RESULTS)), turns, metrics }
    }

    /// Begins to read and compute the results that a person's kill of `target` keeps, from the counts before the kill, on
    /// other threads. Waits at most [`MAX_RESULTS_WAIT`] for them. There are none if the queue is full.
    pub(crate) async fn results_in_time(
        &self,
        store: Arc<dyn Store>,
        experiment: Arc<Experiment>,
        target: KillTarget,
        (now, actor): (Timestamp, &str),
    ) -> PendingResults {
        let Some(generation) = experiment.generation().map(|generation| generation.number) else {
            return PendingResults::default();
        };
        let arms = killed_arms(&experiment, target);
        if arms.is_empty() {
            return PendingResults::default();
        }
        let (key, actor) = (experiment.definition.key().clone(), actor.to_owned());
        let Some(place) = self.place() else {
            self.metrics.lost_kill_results.inc();
            tracing::warn!(
                experiment = %key,
                limit = MAX_WAITING_KILL_RESULTS,
                "a variation is killed without keeping its results, because those of too many kills are not stored yet; \
                 if the disk is full, free space on it"
            );
            return PendingResults::default();
        };
        let (turns, place) = (Arc::clone(&self.turns), Arc::new(place));
        let place_of_task = Arc::clone(&place);
        let task = tokio::spawn(async move {
            let _place = place_of_task;
            let counts = store.counts(&key, generation).await?;
            let turn = turns.acquire_owned().await.map_err(|_| ServerError::ShuttingDown)?;
            let compute = move || {
                let _turn = turn;
                results_before_kill(&experiment, &arms, &counts, None, (now, &actor))
            };
            tokio::task::spawn_blocking(compute).await.map_err(|_| ServerError::ShuttingDown)
        });
        in_time(LateResults { task, place }).await
    }

    /// A place for one more kill, if there is one.
    fn place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.metrics.waiting_kill_results.inc();
        Some(Place { _permit: permit, metrics: Arc::clone(&self.metrics) })
    }
}

/// The results that are complete in time; otherwise their computation goes on.
async fn in_time(mut results: LateResults) -> PendingResults {
    match tokio::time::timeout(MAX_RESULTS_WAIT, &mut results.task).await {
        Ok(Ok(Ok(ready))) => PendingResults { ready, late: None },
        Ok(failed) => {
            let error = failed.unwrap_or(Err(ServerError::ShuttingDown)).err();
            results.place.metrics.lost_kill_results.inc();
            tracing::warn!(?error, "a variation is killed without keeping its results");
            PendingResults::default()
        }
        Err(_) => PendingResults { ready: Vec::new(), late: Some(results) },
    }
}

impl PendingResults {
    /// Kills for a person, and keeps the results of the variations that this kill takes away: with the kill if they are
    /// ready, otherwise by a change of its own once they are.
    ///
    /// # Errors
    /// Those of `target`; [`ServerError::Change`] if the experiment cannot be killed; errors of the store.
    pub(crate) async fn kill(
        self,
        catalogue: &Arc<Catalogue>,
        (key, actor): (&str, &str),
        target: impl FnOnce(&Experiment) -> Result<KillTarget, ServerError> + Send,
    ) -> Result<CatalogueEntry, ServerError> {
        let Self { ready, late } = self;
        let request = ChangeRequest { actor, action: "kill", expected_version: None };
        let kill = |e: &mut Experiment, now| Ok((kill_with_results(e, target(e)?, ready, now)?, None));
        let (entry, killed) = catalogue.change(key, request, kill).await?;
        if let Some(late) = late {
            tokio::spawn(keep_late_results(Arc::clone(catalogue), key.to_owned(), late, killed));
        }
        Ok(entry)
    }
}

/// Keeps the results of a kill that happened before they were computed.
async fn keep_late_results(catalogue: Arc<Catalogue>, key: String, late: LateResults, killed: Killed) {
    let LateResults { task, place } = late;
    if killed.arms.is_empty() {
        task.abort();
        return;
    }
    let keep = async {
        let results = task.await.map_err(|_| ServerError::ShuttingDown)??;
        store_when_disk_has_room(&catalogue, &key, &killed, &results).await
    };
    if let Err(error) = keep.await {
        place.metrics.lost_kill_results.inc();
        tracing::warn!(experiment = key, %error, "the results of a killed variation are not kept");
    }
}

/// Stores results by a change of their own. Waits while the disk is full: a kill has a reserve there, its late results have
/// not.
async fn store_when_disk_has_room(
    catalogue: &Arc<Catalogue>,
    key: &str,
    killed: &Killed,
    results: &[KillResult],
) -> Result<(), ServerError> {
    loop {
        let request = ChangeRequest { actor: RESULTS_ACTOR, action: RESULTS_ACTION, expected_version: None };
        let keep = |e: &mut Experiment, _| {
            killed.keep(e, results.to_vec());
            Ok(((), None))
        };
        match catalogue.change(key, request, keep).await {
            Err(ServerError::Store(StoreError::DiskFull { .. })) => tokio::time::sleep(FULL_DISK_PAUSE).await,
            stored => return stored.map(|_| ()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use crate::clock::{MachineTime, WallClock};
    use crate::metrics::Metrics;
    use inroad_assignment::experiment::Kills;
    use inroad_assignment::{Arm, DefinitionDoc, Salt};
    use inroad_store::{PageRequest, SqliteOptions, SqliteStore};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn kill_does_not_wait_for_results_that_come_late_and_they_are_not_lost() {
        let queue = queue();
        let (send, receive) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async { receive.await.map_err(|_| ServerError::ShuttingDown) });
        let found = in_time(LateResults { task, place: Arc::new(queue.place().unwrap()) }).await;
        assert!(found.ready.is_empty());
        send.send(vec![]).unwrap();
        assert!(found.late.unwrap().task.await.unwrap().unwrap().is_empty());
        let task = tokio::spawn(async { Err(ServerError::ShuttingDown) });
        let failed = in_time(LateResults { task, place: Arc::new(queue.place().unwrap()) }).await;
        assert!(failed.ready.is_empty() && failed.late.is_none());
        assert_eq!((queue.metrics.lost_kill_results.get(), queue.metrics.waiting_kill_results.get()), (1, 0));
    }

    fn queue() -> KillResultQueue {
        KillResultQueue::new(Arc::new(Metrics::new()))
    }

    /// A catalogue in a folder, with a running experiment `e` with two treated variations.
    async fn running(folder: &std::path::Path) -> (Arc<dyn Store>, Arc<Catalogue>) {
        let (store, catalogue) = open(folder).await;
        let now = Timestamp::default();
        let doc = serde_json::json!({"key": "e", "variations": [
            {"key": "control", "payload": 0},
            {"key": "red", "payload": 1, "share": 0.25},
            {"key": "blue", "payload": 2, "share": 0.25},
        ]});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), now);
        experiment.start(now, Salt::parse("s").unwrap()).unwrap();
        catalogue.create(experiment, "ann").await.unwrap();
        (store, catalogue)
    }

    async fn open(folder: &std::path::Path) -> (Arc<dyn Store>, Arc<Catalogue>) {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(folder, SqliteOptions::default()).unwrap());
        let clock = Arc::new(WallClock::start(Box::new(MachineTime), Timestamp::MIN, None));
        let metrics = Arc::new(Metrics::new());
        let catalogue = Arc::new(Catalogue::load(Arc::clone(&store), clock, metrics).await.unwrap());
        (store, catalogue)
    }

    fn result(arm: Arm) -> KillResult {
        KillResult {
            generation: 1,
            arm,
            at: Timestamp::default(),
            actor: "ann".to_owned(),
            metric: String::new(),
            exposed: 7,
            units: 0,
            converted: 0,
            open: 0,
            mean: None,
            control_mean: None,
            lift: None,
            p_worse: None,
            first_exposures: None,
        }
    }

    /// Results of all variations that come once they are sent.
    fn late_results(queue: &KillResultQueue) -> (oneshot::Sender<()>, PendingResults) {
        let (send, receive) = oneshot::channel();
        let task = tokio::spawn(async move {
            receive.await.map_err(|_| ServerError::ShuttingDown)?;
            Ok([1, 2].map(|arm| result(Arm::new(arm).unwrap())).into())
        });
        let place = Arc::new(queue.place().unwrap());
        (send, PendingResults { ready: Vec::new(), late: Some(LateResults { task, place }) })
    }

    #[tokio::test]
    async fn late_results_are_kept_once_however_often_a_kill_is_repeated_and_they_are_no_kill_in_the_audit_log() {
        let folder = tempfile::TempDir::new().unwrap();
        let (store, catalogue) = running(folder.path()).await;
        let (red, blue) = (Arm::new(1).unwrap(), Arm::new(2).unwrap());
        // All began before the first kill, so each computes the results of both variations.
        let targets = [KillTarget::Variation(red), KillTarget::Variation(red), KillTarget::Everything];
        let (mut sent, mut killed_at, queue) = (Vec::new(), Vec::new(), queue());
        for target in targets {
            let (send, pending) = late_results(&queue);
            let entry = pending.kill(&catalogue, ("e", "ann"), |_| Ok(target)).await.unwrap();
            killed_at.push(entry.experiment.generation().unwrap().kill_changes.last().unwrap().at);
            sent.push(send);
        }
        let mut states = catalogue.subscribe();
        for send in sent {
            // The repeated kill waits for nothing.
            let _ = send.send(());
        }
        let is_complete =
            |state: &Arc<crate::catalogue::CatalogueState>| state.get("e").unwrap().experiment.kill_results.len() == 2;
        let experiment = Arc::clone(&states.wait_for(is_complete).await.unwrap().get("e").unwrap().experiment);
        assert_ne!(experiment.kills, Kills::default());
        let mut kept: Vec<_> = experiment.kill_results.iter().map(|kept| (kept.arm, kept.at, kept.exposed)).collect();
        kept.sort_unstable();
        assert_eq!(kept, [(red, killed_at[0], 7), (blue, killed_at[2], 7)]);
        let page = PageRequest { before: u64::MAX, limit: 10, max_bytes: usize::MAX };
        let entries = store.audit(None, page).await.unwrap();
        let actions: Vec<_> = entries.iter().map(|entry| (entry.actor.as_str(), entry.action.as_str())).collect();
        let (kill, results) = (("ann", "kill"), (RESULTS_ACTOR, RESULTS_ACTION));
        assert_eq!(actions, [results, results, kill, kill, ("ann", "create")]);
    }

    #[tokio::test]
    async fn late_results_of_a_kill_on_a_full_disk_are_kept_once_it_has_room() {
        let folder = tempfile::TempDir::new().unwrap();
        let (store, catalogue) = running(folder.path()).await;
        drop(catalogue);
        store.close().await.unwrap();
        drop(store);
        // A reserve that cannot be made whole, as on a full disk: then only kills, restores and pauses are stored.
        let reserve = folder.path().join("reserve");
        std::fs::remove_file(&reserve).unwrap();
        std::fs::create_dir(&reserve).unwrap();
        let (store, catalogue) = open(folder.path()).await;
        let (send, pending) = late_results(&queue());
        pending.kill(&catalogue, ("e", "ann"), |_| Ok(KillTarget::Everything)).await.unwrap();
        send.send(()).unwrap();
        // The results find the disk full at least once before it has room.
        while !store.disk().is_full {
            tokio::task::yield_now().await;
        }
        assert!(catalogue.state().get("e").unwrap().experiment.kill_results.is_empty());
        let mut states = catalogue.subscribe();
        std::fs::remove_dir(&reserve).unwrap();
        let is_kept =
            |state: &Arc<crate::catalogue::CatalogueState>| !state.get("e").unwrap().experiment.kill_results.is_empty();
        let kept = states.wait_for(is_kept).await.unwrap().get("e").unwrap().experiment.kill_results.len();
        assert_eq!(kept, 2);
    }

    #[tokio::test]
    async fn kill_beyond_the_limit_of_waiting_results_is_made_without_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let (store, catalogue) = running(folder.path()).await;
        let queue = queue();
        let places: Vec<_> = (0..MAX_WAITING_KILL_RESULTS).map(|_| queue.place().unwrap()).collect();
        let kill = async || {
            let experiment = Arc::clone(&catalogue.state().get("e").unwrap().experiment);
            let by = (Timestamp::default(), "ann");
            let results = queue.results_in_time(Arc::clone(&store), experiment, KillTarget::Everything, by).await;
            (results.ready.len(), results.late.is_some())
        };
        assert_eq!(kill().await, (0, false));
        assert_eq!(queue.metrics.lost_kill_results.get(), 1);
        drop(places);
        let (ready, is_late) = kill().await;
        assert_eq!(queue.metrics.lost_kill_results.get(), 1);
        // Nobody is exposed: results in time are none.
        assert!(ready == 0 || is_late);
    }
}
