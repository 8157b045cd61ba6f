//! The server without its network: the state that calls work on, and the background tasks. The real server adds a port;
//! the simulation tests call the services directly, under a simulated clock and on a faulty store.

use std::sync::Arc;

use inroad_assignment::Timestamp;
use inroad_store::{Store, StoredExperiment};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::catalogue::Catalogue;
use crate::clients::Clients;
use crate::clock::{ClockAnchor, TimeSource, WallClock};
use crate::clock_guard::ClockGuard;
use crate::config::ServerConfig;
use crate::encoded_snapshot::EncodedSnapshots;
use crate::error::ServerError;
use crate::event_uses::EventUseIndex;
use crate::exposure_queue::ExposureQueue;
use crate::fold::Fold;
use crate::kill_results::KillResultQueue;
use crate::metrics::Metrics;
use crate::queries::Queries;
use crate::reallocator::Reallocator;
use crate::recent_contexts::RecentContexts;
use crate::recent_events::RecentEvents;
use crate::retention::Retention;
use crate::shared::SharedState;
use crate::shared_results::SharedResults;
use crate::tick::Ticker;

/// A server without its network.
pub struct ServerCore {
    /// What the services work on.
    pub shared: Arc<SharedState>,
    stop: watch::Sender<bool>,
    close_queue: watch::Sender<bool>,
    stop_fold: watch::Sender<bool>,
    tasks: Tasks,
}

struct Tasks {
    ticking: JoinHandle<()>,
    guarding_clock: JoinHandle<()>,
    /// None if events are kept forever.
    retaining: Option<JoinHandle<()>>,
    draining: JoinHandle<()>,
    folding: JoinHandle<()>,
}

impl ServerCore {
    /// Loads the experiments and starts the background tasks.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn start(
        config: ServerConfig,
        store: Arc<dyn Store>,
        time: Box<dyn TimeSource>,
    ) -> Result<Self, ServerError> {
        let (_, stored) = store.load().await?;
        let folder = config.folder.clone();
        let anchor = tokio::task::spawn_blocking(move || ClockAnchor::read(&folder)).await;
        let anchor = anchor.map_err(|_| ServerError::ShuttingDown)?;
        let clock = Arc::new(WallClock::start(time, newest_instant(&stored), anchor.as_ref()));
        drop(stored);
        let spans = config.traces.as_ref().map(|traces| traces.counters().clone()).unwrap_or_default();
        let metrics = Arc::new(Metrics::with_spans(&spans));
        let catalogue = Arc::new(Catalogue::load(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&metrics)).await?);
        let (stop, stopping) = watch::channel(false);
        let (stop_fold, fold_stopping) = watch::channel(false);
        let (close_queue, queue_closing) = watch::channel(false);
        let (fold, folding) =
            Fold::start(Arc::clone(&store), Arc::clone(&catalogue), Arc::clone(&metrics), fold_stopping);
        let ticker = Ticker::new(Arc::clone(&store), Arc::clone(&catalogue), fold.clone());
        let reallocator = Arc::new(Reallocator::new(
            Arc::clone(&catalogue),
            Arc::clone(&clock),
            ticker,
            Arc::clone(&metrics),
            config.lead,
        ));
        let ticking = tokio::spawn(Arc::clone(&reallocator).run(stopping.clone()));
        let (exposures, draining) = ExposureQueue::start(
            (Arc::clone(&store), fold.clone()),
            Arc::clone(&clock),
            Arc::clone(&metrics),
            (config.exposure_queue, config.max_backlog),
            queue_closing,
        );
        let retaining = config.retain_events.map(|max_age| {
            let (store, clock, metrics) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&metrics));
            tokio::spawn(Retention { store, clock, metrics, max_age }.run(stopping.clone()))
        });
        let folder = config.folder.clone();
        let clock_guard = ClockGuard::new(Arc::clone(&clock), Arc::clone(&catalogue), folder, anchor.as_ref());
        let clock_guard = Arc::new(clock_guard);
        let guarding_clock = tokio::spawn(Arc::clone(&clock_guard).run(stopping.clone()));
        let clients = Arc::new(Clients::new(Arc::clone(&clock), Arc::clone(catalogue.publications())));
        let recent_contexts = RecentContexts::new(Arc::clone(&clock), config.retain_events);
        let recent_events = RecentEvents::new(Arc::clone(&store), Arc::clone(&clock), config.retain_events);
        let [queries, batches, views, declarations] = std::array::from_fn(|_| Queries::new(Arc::clone(&metrics)));
        let results = SharedResults::new(Arc::clone(&metrics));
        let kill_results = KillResultQueue::new(Arc::clone(&metrics));
        let shared = Arc::new(SharedState {
            clock,
            clock_guard,
            catalogue,
            store,
            fold,
            metrics,
            reallocator,
            exposures,
            recent_contexts,
            recent_events,
            event_uses: EventUseIndex::default(),
            encoded_snapshots: EncodedSnapshots::default(),
            queries,
            results,
            batches,
            views,
            declarations,
            kill_results,
            clients,
            stopping,
            config,
        });
        let tasks = Tasks { ticking, guarding_clock, retaining, draining, folding };
        Ok(Self { shared, stop, close_queue, stop_fold, tasks })
    }

    /// Turns true when the server begins to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Tells all parts to stop. Calls in progress go on.
    pub fn begin_stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Waits for the background tasks, writes queued exposures to disk and closes the store, until `deadline`. Work that
    /// lasts longer is abandoned: it ends with the process, and its transaction is undone.
    ///
    /// # Errors
    /// Errors of closing the store.
    pub async fn finish_stop(mut self, deadline: Instant) -> Result<(), ServerError> {
        // The last of the steps before the store is closed may take until then.
        let left = deadline.saturating_duration_since(Instant::now());
        let end_of_steps = deadline - left / 3;
        let mut unfinished = Vec::new();
        // No call is answered any more, so nothing more is queued. First, because nothing else has these exposures.
        let _ = self.close_queue.send(true);
        let drained = tokio::time::timeout_at(end_of_steps, &mut self.tasks.draining).await.is_ok();
        let mut deciding =
            vec![("an update", self.tasks.ticking), ("the check of the clock", self.tasks.guarding_clock)];
        deciding.extend(self.tasks.retaining.map(|retaining| ("retention", retaining)));
        for (name, mut task) in deciding {
            if tokio::time::timeout_at(end_of_steps, &mut task).await.is_err() {
                task.abort();
                unfinished.push(name);
            }
        }
        let _ = self.stop_fold.send(true);
        if tokio::time::timeout_at(end_of_steps, &mut self.tasks.folding).await.is_err() {
            self.tasks.folding.abort();
            unfinished.push("counting of events");
        }
        match tokio::time::timeout_at(deadline, self.shared.store.close()).await {
            Ok(closed) => closed?,
            Err(_) => unfinished.push("closing the store"),
        }
        if !drained {
            // The closed store refuses the remaining exposures, and the task logs how many were lost.
            let _ = tokio::time::timeout_at(deadline, self.tasks.draining).await;
        }
        if !unfinished.is_empty() {
            let unfinished = unfinished.join(", ");
            tracing::warn!(
                unfinished,
                "abandoned at the end of the drain timeout; the next start continues from the last commit"
            );
        }
        Ok(())
    }
}

/// The newest instant by the wall clock in the store.
fn newest_instant(stored: &[StoredExperiment]) -> Timestamp {
    let by_wall_clock = stored.iter().filter(|s| s.experiment.manual_now.is_none());
    let generations = by_wall_clock.flat_map(|s| &s.experiment.generations);
    let instants = generations.map(inroad_assignment::Generation::newest_change);
    instants.chain(stored.iter().map(|s| s.experiment.created_at)).max().unwrap_or(Timestamp::MIN)
}
