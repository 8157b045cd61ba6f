//! A kill by a person. It does not wait for the results that it keeps (I8): those that come late are stored by a change of
//! their own.
//!
//! ```text
//!  results within 25 ms ──► stored with the kill                    audit log: kill
//!  later                ──► the kill at once, then the results      audit log: kill, results
//! ```

use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::experiment::KillResult;
use inroad_assignment::{Experiment, KillTarget, Timestamp};
use inroad_store::Store;
use tokio::task::JoinHandle;

use super::{Killed, kill_with_results, killed_arms, results_before_kill};
use crate::catalogue::{Catalogue, CatalogueEntry, ChangeRequest};
use crate::error::ServerError;

/// The longest that a person's kill waits for its results. Then it is made without them (I8), and they are kept later.
const MAX_RESULTS_WAIT: Duration = Duration::from_millis(25);
/// The actor in the audit log for results that are kept after their kill.
pub(crate) const RESULTS_ACTOR: &str = "inroad-results";
/// The action in the audit log for the same. It is no kill.
pub(crate) const RESULTS_ACTION: &str = "results";

type ResultsTask = JoinHandle<Result<Vec<KillResult>, ServerError>>;

/// The results that a person's kill keeps: those that were ready in time, and the computation of the others.
#[derive(Default)]
pub(crate) struct PendingResults {
    /// Results that are stored together with the kill.
    ready: Vec<KillResult>,
    /// The computation, if it was not complete within [`MAX_RESULTS_WAIT`].
    late: Option<ResultsTask>,
}

/// Begins to read and compute the results that a person's kill of `target` keeps, from the counts before the kill, on
/// other threads. Waits at most [`MAX_RESULTS_WAIT`] for them.
pub(crate) async fn results_in_time(
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
    let results = tokio::spawn(async move {
        let counts = store.counts(&key, generation).await?;
        let compute = move || results_before_kill(&experiment, &arms, &counts, None, (now, &actor));
        tokio::task::spawn_blocking(compute).await.map_err(|_| ServerError::ShuttingDown)
    });
    in_time(results).await
}

/// The results that are complete in time; otherwise their computation goes on.
async fn in_time(mut results: ResultsTask) -> PendingResults {
    match tokio::time::timeout(MAX_RESULTS_WAIT, &mut results).await {
        Ok(Ok(Ok(ready))) => PendingResults { ready, late: None },
        Ok(Ok(Err(error))) => {
            tracing::warn!(%error, "a variation is killed without keeping its results");
            PendingResults::default()
        }
        Ok(Err(_)) => PendingResults::default(),
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
async fn keep_late_results(catalogue: Arc<Catalogue>, key: String, late: ResultsTask, killed: Killed) {
    if killed.arms.is_empty() {
        late.abort();
        return;
    }
    let keep = async {
        let results = late.await.map_err(|_| ServerError::ShuttingDown)??;
        let request = ChangeRequest { actor: RESULTS_ACTOR, action: RESULTS_ACTION, expected_version: None };
        let keep = |e: &mut Experiment, _| {
            killed.keep(e, results);
            Ok(((), None))
        };
        catalogue.change(&key, request, keep).await.map(|_| ())
    };
    if let Err(error) = keep.await {
        tracing::warn!(experiment = key, %error, "the results of a killed variation are not kept");
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
        let (send, receive) = tokio::sync::oneshot::channel();
        let late = tokio::spawn(async { receive.await.map_err(|_| ServerError::ShuttingDown) });
        let found = in_time(late).await;
        assert!(found.ready.is_empty());
        send.send(vec![]).unwrap();
        assert!(found.late.unwrap().await.unwrap().unwrap().is_empty());
        let failed = in_time(tokio::spawn(async { Err(ServerError::ShuttingDown) })).await;
        assert!(failed.ready.is_empty() && failed.late.is_none());
    }

    /// A catalogue in a folder, with a running experiment `e` with two treated variations.
    async fn running(folder: &std::path::Path) -> (Arc<dyn Store>, Arc<Catalogue>) {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(folder, SqliteOptions::default()).unwrap());
        let clock = Arc::new(WallClock::start(Box::new(MachineTime), Timestamp::MIN, None));
        let now = clock.now();
        let metrics = Arc::new(Metrics::new());
        let catalogue = Arc::new(Catalogue::load(Arc::clone(&store), clock, metrics).await.unwrap());
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
    fn late_results() -> (oneshot::Sender<()>, PendingResults) {
        let (send, receive) = oneshot::channel();
        let results = tokio::spawn(async move {
            receive.await.map_err(|_| ServerError::ShuttingDown)?;
            Ok([1, 2].map(|arm| result(Arm::new(arm).unwrap())).into())
        });
        (send, PendingResults { ready: Vec::new(), late: Some(results) })
    }

    #[tokio::test]
    async fn late_results_are_kept_once_however_often_a_kill_is_repeated_and_they_are_no_kill_in_the_audit_log() {
        let folder = tempfile::TempDir::new().unwrap();
        let (store, catalogue) = running(folder.path()).await;
        let (red, blue) = (Arm::new(1).unwrap(), Arm::new(2).unwrap());
        // All began before the first kill, so each computes the results of both variations.
        let targets = [KillTarget::Variation(red), KillTarget::Variation(red), KillTarget::Everything];
        let (mut sent, mut killed_at) = (Vec::new(), Vec::new());
        for target in targets {
            let (send, pending) = late_results();
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
}
