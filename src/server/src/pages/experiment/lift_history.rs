//! Lift over time: the estimate as of each update, computed again only when its inputs change.

use std::hash::{BuildHasher, Hash, Hasher};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use inroad_assignment::{Experiment, Generation, Metric, Timestamp};
use inroad_dashboard::chart::LiftPoint;
use inroad_policy::{Estimator, LiftEstimate, shown_lifts};
use inroad_store::GenerationCounts;
use lru::LruCache;

use super::super::Pages;
use crate::ended_run::compared_arms;
use crate::error::ServerError;
use crate::queries::Caller;
use crate::tallies::{epoch_tallies, measure};

/// Most lift histories in memory.
const MAX_HISTORIES: NonZero<usize> = NonZero::new(256).unwrap();
/// Most points of a lift history.
const MAX_POINTS: usize = 40;

/// By arm, the lift as of each update.
pub(super) type LiftHistory = Vec<Vec<LiftPoint>>;

/// The lift histories by experiment and generation, because each costs a fit per update: those of the pages seen last.
pub(in super::super) struct LiftHistoryCache(Mutex<LruCache<(String, u32), CachedHistory>>);

impl Default for LiftHistoryCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_HISTORIES)))
    }
}

/// A lift history with the inputs that it was computed from.
type CachedHistory = (Inputs, Arc<LiftHistory>);

/// Everything that a lift history depends on.
#[derive(PartialEq)]
struct Inputs {
    /// Fingerprint of the counts.
    counts: u64,
    /// Index and definition of the primary metric.
    metric: (usize, Metric),
    live: Vec<bool>,
}

/// Computes each arm's lift of the primary metric as of each update, from the units exposed until then. None without a
/// primary metric.
pub(super) async fn lift_history(
    pages: &Pages,
    experiment: &Arc<Experiment>,
    generation: &Generation,
    counts: GenerationCounts,
    now: Timestamp,
) -> Result<Option<Arc<LiftHistory>>, ServerError> {
    let Some(index) = experiment.definition.decision_metric() else { return Ok(None) };
    let key = (experiment.definition.key().to_string(), generation.number);
    let (metric, live) = (&experiment.definition.metrics()[index], compared_arms(experiment, generation));
    let inputs = Inputs { counts: counts_fingerprint(&counts), metric: (index, metric.clone()), live };
    if let Some((known, history)) = pages.lift_histories.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        && *known == inputs
    {
        return Ok(Some(Arc::clone(history)));
    }
    let (experiment, number) = (Arc::clone(experiment), generation.number);
    let compute = move |caller: &Caller| compute_history(&experiment, (number, index), &counts, now, caller);
    let history = Arc::new(pages.shared.queries.run(compute).await?);
    // Held only to exchange pointers; what it replaces is dropped after the lock.
    let replaced =
        pages.lift_histories.0.lock().unwrap_or_else(PoisonError::into_inner).push(key, (inputs, Arc::clone(&history)));
    drop(replaced);
    Ok(Some(history))
}

/// A hash of all counts; equal counts have equal hashes.
fn counts_fingerprint(counts: &GenerationCounts) -> u64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    for (key, cell) in &counts.cells {
        (key.metric, key.tick, key.revision, key.arm.index()).hash(&mut hasher);
        (cell.first, cell.n, cell.s, cell.dropped, cell.early, cell.x, cell.y).hash(&mut hasher);
        (cell.units, cell.outcomes, cell.outcome_units, cell.outcome_sum).hash(&mut hasher);
    }
    (counts.units_moved, counts.crossovers, counts.stale_exposures).hash(&mut hasher);
    hasher.finish()
}

/// The history of the metric with this index in the generation with this number.
fn compute_history(
    experiment: &Experiment,
    (number, index): (u32, usize),
    counts: &GenerationCounts,
    now: Timestamp,
    caller: &Caller,
) -> Result<LiftHistory, ServerError> {
    let arms = experiment.definition.variations().len();
    let mut history: LiftHistory = vec![Vec::new(); arms];
    let metric = experiment.definition.metrics().get(index);
    let Some((generation, metric)) = experiment.generation_by_number(number).zip(metric) else { return Ok(history) };
    let live = compared_arms(experiment, generation);
    let epochs = epoch_tallies(experiment, generation, counts, Some(index));
    let measure = measure(metric).suited_to(&epochs);
    let mut ends: Vec<usize> = (1..=epochs.len())
        .filter(|end| epochs.get(*end).map(|e| e.epoch.tick) != Some(epochs[end - 1].epoch.tick))
        .collect();
    let every = ends.len().div_ceil(MAX_POINTS).max(1);
    let last = ends.len().saturating_sub(1);
    ends = ends.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(every)).map(|(_, end)| end).collect();
    let mut estimator = Estimator::default();
    for end in ends {
        caller.check()?;
        let known = &epochs[..end];
        let shown = shown_lifts(&mut estimator, measure, known, &live)?;
        let tick = epochs[end - 1].epoch.tick;
        // The last reporting interval may not have ended yet.
        let at = Timestamp::start_of_tick(tick.saturating_add(1), experiment.definition.policy().tick()).min(now);
        for (points, shown) in history.iter_mut().zip(shown) {
            // The chart is of relative lifts. While it is too early for one, it has no point.
            let lift = shown.as_ref().map(|shown| &shown.estimate).and_then(LiftEstimate::relative);
            if let Some(lift) = lift {
                points.push(LiftPoint { at, lift, anytime: shown.and_then(|shown| shown.anytime) });
            }
        }
    }
    Ok(history)
}
