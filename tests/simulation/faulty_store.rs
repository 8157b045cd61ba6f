//! A real store behind faults: calls that are slow, a disk that is full for a while, and crashes before or after what a
//! call writes. Each call of the real store runs to its end while everything else waits, so that the disk adds no chance
//! of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::executor::block_on;
use inroad_assignment::{Allocation, Experiment, ExperimentKey, Timestamp};
use inroad_store::{
    AuditEntry, AuditFilter, BackupSummary, DecisionRecord, DiskState, Event, ExperimentChange, FoldStep,
    ForgetRequest, ForgetResult, FunnelCounts, FunnelQuery, GenerationCounts, LoggedEvent, PageRequest,
    PreparedChanges, Seq, SqliteStore, Store, StoreError, StoredDecision, StoredExperiment,
};
use tokio::sync::watch;

use crate::planted::Planted;
use crate::random::Random;

/// What goes wrong with a call that writes.
enum Fault {
    None,
    Slow(Duration),
    Full,
    CrashBefore,
    CrashAfter,
}

/// How often faults happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultRates {
    /// One call in this many is slow; 0 for none. The same for the others.
    pub(crate) slow: u64,
    pub(crate) full: u64,
    pub(crate) crash: u64,
}

impl FaultRates {
    pub(crate) const NONE: Self = Self { slow: 0, full: 0, crash: 0 };
}

/// How often each fault happened.
#[derive(Debug, Default)]
pub(crate) struct FaultCounts {
    pub(crate) slow: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) crashes: AtomicU64,
}

/// The store.
pub(crate) struct FaultyStore {
    inner: SqliteStore,
    random: Mutex<Random>,
    rates: FaultRates,
    planted: Option<Planted>,
    /// Whether an earlier life wrote to this store.
    is_reopened: bool,
    crashed: watch::Sender<bool>,
    /// The disk refuses this many more calls.
    refused_calls: AtomicU64,
    /// Whether a call was slow since the last change.
    was_slow: AtomicBool,
    pub(crate) counts: FaultCounts,
    /// Events that the fault [`Planted::AcknowledgeBeforeCommit`] has not written yet.
    unwritten: Mutex<Vec<Event>>,
}

impl FaultyStore {
    pub(crate) fn new(
        inner: SqliteStore,
        random: Random,
        rates: FaultRates,
        planted: Option<Planted>,
        life: u64,
    ) -> Self {
        Self {
            inner,
            random: Mutex::new(random),
            rates,
            planted,
            is_reopened: life > 0,
            crashed: watch::Sender::new(false),
            refused_calls: AtomicU64::new(0),
            was_slow: AtomicBool::new(false),
            counts: FaultCounts::default(),
            unwritten: Mutex::default(),
        }
    }

    /// Resolves when the process has crashed.
    pub(crate) async fn wait_for_crash(&self) {
        let _ = self.crashed.subscribe().wait_for(|crashed| *crashed).await;
    }

    /// Whether a call was slow since this was asked last.
    pub(crate) fn take_was_slow(&self) -> bool {
        self.was_slow.swap(false, Ordering::Relaxed)
    }

    fn has_planted(&self, fault: Planted) -> bool {
        self.planted == Some(fault)
    }

    fn draw_fault(&self) -> Fault {
        if self.refused_calls.load(Ordering::Relaxed) > 0 {
            self.refused_calls.fetch_sub(1, Ordering::Relaxed);
            return Fault::Full;
        }
        let mut random = self.random.lock().unwrap();
        let mut happens = |rate: u64| rate > 0 && random.once_in(rate);
        if happens(self.rates.crash) {
            return if happens(2) { Fault::CrashBefore } else { Fault::CrashAfter };
        }
        if happens(self.rates.full) {
            self.refused_calls.store(random.below(6), Ordering::Relaxed);
            return Fault::Full;
        }
        if happens(self.rates.slow) {
            return Fault::Slow(Duration::from_millis(20 + random.below(6_000)));
        }
        Fault::None
    }

    /// Runs a call that writes, with what goes wrong.
    async fn write<T>(&self, call: impl FnOnce(&Self) -> Result<T, StoreError> + Send) -> Result<T, StoreError> {
        match self.draw_fault() {
            Fault::None => call(self),
            Fault::Slow(duration) => {
                self.counts.slow.fetch_add(1, Ordering::Relaxed);
                self.was_slow.store(true, Ordering::Relaxed);
                tokio::time::sleep(duration).await;
                call(self)
            }
            Fault::Full => {
                self.counts.full.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::DiskFull { path: "simulated".to_owned() })
            }
            Fault::CrashBefore => self.crash().await,
            Fault::CrashAfter => {
                let _ = call(self);
                self.crash().await
            }
        }
    }

    /// The process ends here: nothing after this happens.
    async fn crash<T>(&self) -> T {
        self.counts.crashes.fetch_add(1, Ordering::Relaxed);
        self.crashed.send_replace(true);
        std::future::pending().await
    }

    fn append_now(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        if !self.has_planted(Planted::AcknowledgeBeforeCommit) {
            return block_on(self.inner.append(received_at, events));
        }
        let mut unwritten = self.unwritten.lock().unwrap();
        let earlier = std::mem::replace(&mut *unwritten, events);
        if earlier.is_empty() { Ok(self.inner.head()) } else { block_on(self.inner.append(received_at, earlier)) }
    }

    fn commit_now(&self, mut changes: Vec<ExperimentChange>) -> Result<Vec<u64>, StoreError> {
        let is_kill = changes.iter().any(|change| change.action == "kill");
        if is_kill && self.has_planted(Planted::DropKillWhenBusy) && self.was_slow.load(Ordering::Relaxed) {
            // Stores everything but the kill.
            for change in &mut changes {
                let mut without = Experiment::clone(&change.experiment);
                without.kills = inroad_assignment::Kills::default();
                for generation in &mut without.generations {
                    generation.kill_changes.pop();
                }
                change.experiment = Arc::new(without);
            }
        }
        block_on(self.inner.commit_all(changes))
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    fn lineage_id(&self) -> &str {
        self.inner.lineage_id()
    }

    fn continues(&self, lineage_id: &str, version: u64) -> bool {
        self.inner.continues(lineage_id, version)
    }

    async fn load(&self) -> Result<(u64, Vec<StoredExperiment>), StoreError> {
        let (version, mut stored) = block_on(self.inner.load())?;
        for stored in stored.iter_mut().filter(|_| self.is_reopened) {
            let experiment = Arc::make_mut(&mut stored.experiment);
            if self.has_planted(Planted::DecideTwice) {
                experiment.last_tick_at = experiment.generation().map(|generation| generation.started_at);
            }
            let newest = experiment.generations.last_mut().and_then(|generation| generation.revisions.last_mut());
            if let Some(newest) = newest.filter(|_| self.has_planted(Planted::ShrinkVariation)) {
                newest.allocation = Arc::new(Allocation::all_control());
            }
        }
        Ok((version, stored))
    }

    async fn commit_all(&self, changes: Vec<ExperimentChange>) -> Result<Vec<u64>, StoreError> {
        let makes_revision =
            changes.iter().any(|change| change.decision.as_ref().is_some_and(|d| d.revision.is_some()));
        if makes_revision && self.has_planted(Planted::PublishLate) {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        self.write(|store| store.commit_now(changes)).await
    }

    async fn prepare(&self, changes: Vec<ExperimentChange>) -> Result<PreparedChanges, StoreError> {
        block_on(self.inner.prepare(changes))
    }

    async fn commit_prepared(&self, changes: PreparedChanges) -> Result<Vec<u64>, StoreError> {
        self.write(|store| block_on(store.inner.commit_prepared(changes))).await
    }

    async fn audit(
        &self,
        experiment: Option<&ExperimentKey>,
        page: PageRequest,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        block_on(self.inner.audit(experiment, page))
    }

    async fn audited_state(&self, experiment: &ExperimentKey, at: Timestamp) -> Result<Option<String>, StoreError> {
        block_on(self.inner.audited_state(experiment, at))
    }

    async fn count_audit(&self, filter: AuditFilter) -> Result<usize, StoreError> {
        block_on(self.inner.count_audit(filter))
    }

    async fn search_audit(
        &self,
        filter: AuditFilter,
        skip: usize,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        block_on(self.inner.search_audit(filter, skip, limit, max_bytes))
    }

    async fn decisions(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        page: PageRequest,
    ) -> Result<Vec<StoredDecision>, StoreError> {
        block_on(self.inner.decisions(experiment, generation, page))
    }

    async fn decision(
        &self,
        experiment: &ExperimentKey,
        generation: u32,
        revision: u32,
    ) -> Result<Option<DecisionRecord>, StoreError> {
        block_on(self.inner.decision(experiment, generation, revision))
    }

    async fn append(&self, received_at: Timestamp, events: Vec<Event>) -> Result<Seq, StoreError> {
        self.write(|store| store.append_now(received_at, events)).await
    }

    fn queued_events(&self) -> u64 {
        self.inner.queued_events()
    }

    fn head(&self) -> Seq {
        self.inner.head()
    }

    fn folded(&self) -> Seq {
        self.inner.folded()
    }

    async fn fold(&self, experiments: Arc<Vec<Arc<Experiment>>>, limit: usize) -> Result<FoldStep, StoreError> {
        self.write(|store| block_on(store.inner.fold(experiments, limit))).await
    }

    fn disk(&self) -> DiskState {
        self.inner.disk()
    }

    fn counts_state(&self, experiment: &ExperimentKey, generation: u32) -> u64 {
        self.inner.counts_state(experiment, generation)
    }

    async fn counts(&self, experiment: &ExperimentKey, generation: u32) -> Result<GenerationCounts, StoreError> {
        let mut counts = block_on(self.inner.counts(experiment, generation))?;
        if self.is_reopened
            && self.has_planted(Planted::CountTwiceAfterRestart)
            && let Some(cell) = counts.cells.values_mut().find(|cell| cell.outcomes > 0)
        {
            cell.outcomes += 1;
        }
        Ok(counts)
    }

    async fn funnel(&self, query: FunnelQuery) -> Result<FunnelCounts, StoreError> {
        block_on(self.inner.funnel(query))
    }

    async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LoggedEvent>, StoreError> {
        block_on(self.inner.read_log(after, limit))
    }

    async fn set_offset(&self, consumer: &str, offset: Seq) -> Result<(), StoreError> {
        block_on(self.inner.set_offset(consumer, offset))
    }

    async fn offset(&self, consumer: &str) -> Result<Seq, StoreError> {
        block_on(self.inner.offset(consumer))
    }

    async fn prune_log(&self, before: Timestamp) -> Result<u64, StoreError> {
        block_on(self.inner.prune_log(before))
    }

    async fn forget_unit(&self, request: ForgetRequest) -> Result<ForgetResult, StoreError> {
        block_on(self.inner.forget_unit(request))
    }

    async fn backup(&self, folder: &std::path::Path) -> Result<BackupSummary, StoreError> {
        block_on(self.inner.backup(folder))
    }

    async fn close(&self) -> Result<(), StoreError> {
        block_on(self.inner.close())
    }
}
