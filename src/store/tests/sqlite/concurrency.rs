//! The fold running at the same time as other callers.

use super::*;

/// A change of the catalogue, such as a kill, waits at most for the writing half of one step.
#[test]
fn catalogue_change_does_not_wait_for_the_whole_fold() {
    let folder = folder();
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    block_on(async {
        let options = SqliteOptions { fold_step_events: 500, ..SqliteOptions::default() };
        let store = Arc::new(SqliteStore::open(folder.path(), options).unwrap());
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let events = (0..20_000).map(|i| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1))).collect();
        store.append(at(1), events).await.unwrap();
        let folding = tokio::spawn({
            let store = Arc::clone(&store);
            async move { while store.fold(Arc::clone(&experiments), 50_000).await.unwrap().has_more_work() {} }
        });
        for name in ["b", "c", "d"] {
            let before = store.folded();
            store.commit(experiment_change(&started_experiment(name, false, &[], 1), None, "create")).await.unwrap();
            // Callers take turns, so at most the step being written and the one already waiting come first.
            assert!(store.folded() <= before + 3 * 500, "{} after {before}", store.folded());
        }
        folding.await.unwrap();
        assert_eq!(store.folded(), 20_000);
    });
}

/// All threads of the pool that queries share are busy, as if many had been called and abandoned.
#[test]
fn queries_that_fill_the_pool_of_threads_delay_neither_commits_nor_the_fold() {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    let pool = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let done = pool.block_on(async {
        let query = tokio::task::spawn_blocking(move || ends.recv());
        let work = async {
            let experiment = started_experiment("checkout", false, &all_metrics(), 1);
            store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
            store.append(at(1), vec![exposure("checkout", 1, "u", Arm::CONTROL, 1, at(1))]).await.unwrap();
            store.fold(Arc::new(vec![Arc::new(experiment)]), 10).await.unwrap().folded
        };
        let done = tokio::time::timeout(std::time::Duration::from_secs(20), work).await;
        drop(end);
        let _ = query.await;
        done
    });
    assert_eq!(done.expect("commits and the fold wait for queries"), 1);
}
