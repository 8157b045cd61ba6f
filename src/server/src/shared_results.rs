//! The results of experiments, computed once and shared by all readers: calls, experiment pages and the overview. An
//! experiment with many variations and metrics takes seconds, and many people look at it at the same time.
//!
//! Results are computed again once something that they depend on has changed: the experiment, the counts, or the time.
//! Time changes them slowly, as it closes windows and lets a run grow older, so readers within one *time step* share:
//! 1/64 of the experiment's tick, at most a minute. Simulated time is exact.
//!
//! ```text
//!  reader ──► same inputs as the kept results? ──yes──► shared
//!                   │ no
//!                   ▼
//!             the first reader computes, the others wait for it
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use inroad_assignment::{Experiment, Timestamp};
use inroad_policy::SrmAlarm;
use inroad_wire::v1::GetResultsResponse;
use lru::LruCache;
use prost::Message;
use tokio::sync::OnceCell;

use crate::error::ServerError;
use crate::metrics::Metrics;

/// The most results that are kept. Those that nobody has read for the longest time are dropped.
const MAX_RESULTS: usize = 1_024;
/// The most bytes of kept results, as encoded messages; they need about four times that in memory.
const MAX_RESULT_BYTES: usize = 16 << 20;
/// Time steps per tick of the experiment.
const STEPS_PER_TICK: u128 = 64;
/// The longest time step, in microseconds.
const MAX_STEP_MICROS: u128 = 60_000_000;

/// Everything that the results of one generation depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResultInputs {
    /// The version of the experiment.
    version: u64,
    /// The state of the generation's counts.
    counts: u64,
    /// The number of the time step, or for simulated time the time in microseconds.
    time: i64,
}

impl ResultInputs {
    /// The inputs at `now` by the experiment's clock. Read the state of the counts before the counts.
    pub(crate) fn new(version: u64, counts: u64, experiment: &Experiment, now: Timestamp) -> Self {
        let step = match experiment.manual_now {
            Some(_) => 1,
            None => {
                let tick = experiment.definition.policy().tick().as_micros();
                i64::try_from((tick / STEPS_PER_TICK).clamp(1, MAX_STEP_MICROS)).unwrap_or(i64::MAX)
            }
        };
        Self { version, counts, time: now.as_micros().div_euclid(step) }
    }
}

/// The results of one generation, and the state of the sample ratio alarm.
pub(crate) struct ComputedResults {
    /// The results in wire form.
    pub(crate) response: GetResultsResponse,
    /// The alarm.
    pub(crate) alarm: SrmAlarm,
}

type Slot = Arc<OnceCell<Arc<ComputedResults>>>;

struct KeptResults {
    inputs: ResultInputs,
    /// Empty while the first reader computes.
    slot: Slot,
    /// 0 until they are computed.
    bytes: usize,
}

struct Cache {
    results: LruCache<(String, u32), KeptResults>,
    /// The sum over `results`.
    bytes: usize,
}

/// The newest results of each generation that somebody read.
pub struct SharedResults {
    cache: Mutex<Cache>,
    metrics: Arc<Metrics>,
}

impl SharedResults {
    /// No results.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { cache: Mutex::new(Cache { results: LruCache::unbounded(), bytes: 0 }), metrics }
    }

    /// The results of a generation for these inputs. Runs `compute` unless they are kept, or another reader computes
    /// them. If that reader leaves or is refused, the next one computes.
    ///
    /// # Errors
    /// Those of `compute`; they are not kept.
    pub(crate) async fn get(
        &self,
        key: &str,
        generation: u32,
        inputs: ResultInputs,
        compute: impl Future<Output = Result<ComputedResults, ServerError>> + Send,
    ) -> Result<Arc<ComputedResults>, ServerError> {
        let of = (key.to_owned(), generation);
        let slot = self.slot(&of, inputs);
        let mut has_computed = false;
        let compute = async {
            has_computed = true;
            Ok::<_, ServerError>(Arc::new(compute.await?))
        };
        let results = Arc::clone(slot.get_or_try_init(|| compute).await?);
        if has_computed {
            self.metrics.computed_results.inc();
            self.keep(&of, &slot, results.response.encoded_len());
        } else {
            self.metrics.shared_results.inc();
        }
        Ok(results)
    }

    /// The slot for results with these inputs; a new one replaces results with other inputs.
    fn slot(&self, of: &(String, u32), inputs: ResultInputs) -> Slot {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = cache.results.get(of)
            && kept.inputs == inputs
        {
            return Arc::clone(&kept.slot);
        }
        let slot = Slot::default();
        let kept = KeptResults { inputs, slot: Arc::clone(&slot), bytes: 0 };
        if let Some(replaced) = cache.results.put(of.clone(), kept) {
            cache.bytes -= replaced.bytes;
        }
        cache.drop_excess();
        slot
    }

    /// Counts the bytes of computed results, unless newer ones have replaced them meanwhile.
    fn keep(&self, of: &(String, u32), slot: &Slot, bytes: usize) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = cache.results.peek_mut(of)
            && Arc::ptr_eq(&kept.slot, slot)
        {
            let before = std::mem::replace(&mut kept.bytes, bytes);
            cache.bytes = cache.bytes - before + bytes;
        }
        cache.drop_excess();
    }
}

impl Cache {
    fn drop_excess(&mut self) {
        while self.results.len() > MAX_RESULTS || self.bytes > MAX_RESULT_BYTES {
            let Some((_, dropped)) = self.results.pop_lru() else { return };
            self.bytes -= dropped.bytes;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    const INPUTS: ResultInputs = ResultInputs { version: 1, counts: 1, time: 1 };

    fn results(key: String) -> ComputedResults {
        let response = GetResultsResponse { key, ..GetResultsResponse::default() };
        ComputedResults { response, alarm: SrmAlarm::Quiet }
    }

    fn shared() -> (SharedResults, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        (SharedResults::new(Arc::clone(&metrics)), metrics)
    }

    #[tokio::test]
    async fn each_changed_input_computes_again_and_equal_inputs_share() {
        let (shared, metrics) = shared();
        let changed = [
            INPUTS,
            ResultInputs { version: 2, ..INPUTS },
            ResultInputs { counts: 2, ..INPUTS },
            ResultInputs { time: 2, ..INPUTS },
        ];
        for inputs in changed {
            for _ in 0..3 {
                shared.get("a", 1, inputs, async { Ok(results("a".to_owned())) }).await.unwrap();
            }
        }
        assert_eq!((metrics.computed_results.get(), metrics.shared_results.get()), (4, 8));
    }

    #[tokio::test]
    async fn the_next_reader_computes_after_one_that_failed_or_left() {
        let (shared, metrics) = shared();
        let failed = shared.get("a", 1, INPUTS, async { Err(ServerError::CallerLeft) }).await;
        assert!(matches!(failed, Err(ServerError::CallerLeft)));
        {
            let never = std::pin::pin!(shared.get("a", 1, INPUTS, std::future::pending()));
            assert!(futures::poll!(never).is_pending(), "it leaves while it computes");
        }
        shared.get("a", 1, INPUTS, async { Ok(results("a".to_owned())) }).await.unwrap();
        assert_eq!(metrics.computed_results.get(), 1);
    }

    #[tokio::test]
    async fn kept_results_are_bounded_in_number_and_bytes() {
        let (shared, _) = shared();
        for i in 0..MAX_RESULTS + 10 {
            shared.get(&i.to_string(), 1, INPUTS, async { Ok(results(String::new())) }).await.unwrap();
        }
        assert_eq!(shared.cache.lock().unwrap().results.len(), MAX_RESULTS);
        for i in 0..20 {
            shared.get(&i.to_string(), 2, INPUTS, async { Ok(results("x".repeat(1 << 20))) }).await.unwrap();
        }
        let cache = shared.cache.lock().unwrap();
        assert_eq!(cache.results.iter().map(|(_, kept)| kept.bytes).sum::<usize>(), cache.bytes);
        assert!((1..=MAX_RESULT_BYTES).contains(&cache.bytes), "{}", cache.bytes);
    }
}
