//! The contexts of recent `Assign` calls, so that people can see which units an audience selects before they save it. The
//! log has the contexts of exposures only, and a unit outside all audiences has none.
//!
//! The contexts are in memory only, the newest one of each unit, for at most a day. A call that comes after many others
//! is not recorded, so that calls stay fast: the contexts are a sample of the traffic.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inroad_assignment::{Context, ServedExperiment, Timestamp, Value};
use lru::LruCache;

use crate::clock::WallClock;

/// The most contexts in memory, and in one evaluation of an audience.
pub const MAX_RECENT_CONTEXTS: usize = 500;
/// How long a context counts as recent.
pub const RECENT: Duration = Duration::from_secs(86_400);
/// The largest context that is remembered, in bytes of names and text. Most contexts are far smaller.
const MAX_BYTES: usize = 4 * 1024;
/// The time between two contexts that are recorded while calls are frequent, in microseconds.
const INTERVAL_MICROS: i64 = 20_000;
/// The number of contexts that are recorded at once after a pause.
const BURST: i64 = 500;

/// A unit: the attribute that names it, and its key.
type Unit = (String, String);

struct SeenContext {
    at: Timestamp,
    context: Arc<Context>,
}

/// The contexts of recent calls.
pub struct RecentContexts {
    clock: Arc<WallClock>,
    max_age: Duration,
    rate: RateLimit,
    seen: Mutex<LruCache<Unit, SeenContext>>,
}

impl RecentContexts {
    /// Without contexts. None of them will be older than `retention`, if there is one.
    pub fn new(clock: Arc<WallClock>, retention: Option<Duration>) -> Self {
        let capacity = NonZeroUsize::new(MAX_RECENT_CONTEXTS).unwrap_or(NonZeroUsize::MIN);
        let max_age = retention.map_or(RECENT, |retention| retention.min(RECENT));
        Self { clock, max_age, rate: RateLimit::default(), seen: Mutex::new(LruCache::new(capacity)) }
    }

    /// Remembers the context of a call for an experiment, unless it names no unit, is too large, or calls are frequent.
    pub fn record(&self, served: &ServedExperiment, context: &Context, now: Timestamp) {
        if !self.rate.admits(now) || context_bytes(context) > MAX_BYTES {
            return;
        }
        if let Some(key) = served.unit_key(context) {
            let unit = (served.parts().unit.clone(), key.into_owned());
            self.seen(now).put(unit, SeenContext { at: now, context: Arc::new(context.clone()) });
        }
    }

    /// The contexts that are not too old, newest first, each with the time of its call.
    pub fn newest(&self) -> Vec<(Timestamp, Arc<Context>)> {
        self.seen(self.clock.now()).iter().map(|(_, seen)| (seen.at, Arc::clone(&seen.context))).collect()
    }

    /// The time before which a context is too old.
    pub fn oldest(&self) -> Timestamp {
        self.clock.now().minus(self.max_age)
    }

    /// Removes every context that names this unit: as the unit of its experiment, or as the value of any attribute.
    pub fn forget(&self, unit_type: &str, key: &str) {
        let names_unit = |context: &Context| {
            context.targeting_key() == Some(key)
                || context.unit(unit_type).is_some_and(|unit| unit == key)
                || context.attributes().values().any(|value| contains_key(value, key))
        };
        // Searched without the lock, because calls of Assign may wait for it.
        let known: Vec<(Unit, Arc<Context>)> =
            self.seen(self.clock.now()).iter().map(|(unit, seen)| (unit.clone(), Arc::clone(&seen.context))).collect();
        let forgotten: Vec<Unit> = known
            .into_iter()
            .filter(|((_, unit), context)| unit == key || names_unit(context))
            .map(|(unit, _)| unit)
            .collect();
        let mut seen = self.seen(self.clock.now());
        for unit in &forgotten {
            seen.pop(unit);
        }
    }

    /// The contexts that are not too old at this time; older ones are removed.
    fn seen(&self, now: Timestamp) -> MutexGuard<'_, LruCache<Unit, SeenContext>> {
        let oldest = now.minus(self.max_age);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.peek_lru().is_some_and(|(_, seen)| seen.at < oldest) {
            seen.pop_lru();
        }
        seen
    }
}

/// Whether a value is this key, or contains it as an item or field.
fn contains_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Null | Value::Bool(_) => false,
        Value::Number(number) => number.to_string() == key,
        Value::String(text) => text == key,
        Value::List(items) => items.iter().any(|item| contains_key(item, key)),
        Value::Object(fields) => fields.values().any(|field| contains_key(field, key)),
    }
}

/// The size of a context, in bytes of names and text.
fn context_bytes(context: &Context) -> usize {
    fn bytes(value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
            Value::String(text) => text.len(),
            Value::List(items) => items.iter().map(bytes).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
        }
    }
    let key = context.targeting_key().map_or(0, str::len);
    key + context.attributes().iter().map(|(name, value)| name.len() + bytes(value)).sum::<usize>()
}

/// Admits one call per [`INTERVAL_MICROS`], and [`BURST`] calls at once after a pause: the generic cell rate algorithm. A
/// call that is not admitted costs one read of an atomic.
struct RateLimit {
    /// When all calls admitted so far would have been admitted at the steady rate, in microseconds since 1970.
    due: AtomicI64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { due: AtomicI64::new(i64::MIN) }
    }
}

impl RateLimit {
    fn admits(&self, now: Timestamp) -> bool {
        let now = now.as_micros();
        let due = self.due.load(Ordering::Relaxed);
        let next = due.max(now) + INTERVAL_MICROS;
        // Of several calls at the same moment, those that lose the exchange are not recorded.
        next - now <= BURST * INTERVAL_MICROS
            && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MachineTime;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn burst_is_admitted_then_a_steady_rate() {
        let rate = RateLimit::default();
        let admitted = |now: i64, calls: usize| (0..calls).filter(|_| rate.admits(at(now))).count();
        assert_eq!(admitted(1_000_000, 5_000), 500);
        assert_eq!(admitted(1_000_000 + 10 * INTERVAL_MICROS, 5_000), 10);
        assert_eq!(admitted(1_000_000 + 10_000 * INTERVAL_MICROS, 5_000), 500);
    }

    fn served(unit: &str) -> ServedExperiment {
        let json = serde_json::json!({
            "key": "k", "unit": unit, "policy": {"kind": "manual"},
            "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true}],
        });
        let experiment = inroad_assignment::Experiment::create(serde_json::from_value(json).unwrap(), at(0));
        ServedExperiment::from_experiment(&experiment, 1, at(0)).unwrap()
    }

    #[test]
    fn newest_context_of_each_unit_is_kept_until_it_is_old_or_forgotten() {
        let clock = Arc::new(WallClock::start(Box::new(MachineTime), Timestamp::MIN, None));
        let contexts = RecentContexts::new(Arc::clone(&clock), None);
        let now = clock.now();
        let experiment = served("user");
        let user = |key: &str| Context::new("t").with("user", key);
        let keys = |contexts: &RecentContexts| -> Vec<String> {
            let newest = contexts.newest();
            newest.iter().map(|(_, context)| context.unit("user").unwrap().into_owned()).collect()
        };
        contexts.record(&experiment, &user("ann").with("plan", "old"), now.minus(2 * RECENT));
        assert!(contexts.newest().is_empty());
        for key in ["ann", "bob", "cem"] {
            contexts.record(&experiment, &user(key).with("plan", "old"), now.minus(Duration::from_secs(60)));
        }
        contexts.record(&experiment, &user("ann").with("plan", "new"), now);
        contexts.record(&experiment, &user("dan").with("referrer", "bob"), now);
        contexts.record(&experiment, &user("large").with("text", "x".repeat(MAX_BYTES)), now);
        contexts.record(&experiment, &Context::new("without a user"), now);
        assert_eq!(keys(&contexts), ["dan", "ann", "cem", "bob"]);
        let newest = contexts.newest();
        assert_eq!(newest[1].1.attribute("plan"), Some(&"new".into()));
        contexts.forget("user", "bob");
        assert_eq!(keys(&contexts), ["ann", "cem"], "dan's context named bob");
        contexts.forget("targetingKey", "t");
        assert!(contexts.newest().is_empty());
    }

    #[test]
    fn short_retention_of_events_also_holds_for_contexts() {
        let clock = Arc::new(WallClock::start(Box::new(MachineTime), Timestamp::MIN, None));
        let contexts = RecentContexts::new(Arc::clone(&clock), Some(Duration::from_secs(30)));
        let experiment = served("targetingKey");
        contexts.record(&experiment, &Context::new("old"), clock.now().minus(Duration::from_secs(60)));
        contexts.record(&experiment, &Context::new("new"), clock.now());
        let newest = contexts.newest();
        assert_eq!(newest.iter().map(|(_, context)| context.targeting_key().unwrap()).collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn key_is_found_in_nested_values_and_as_a_number() {
        let nested = Value::List(vec![Value::Object([("id".to_owned(), Value::Number(42.0))].into())]);
        assert!(contains_key(&nested, "42") && !contains_key(&nested, "4"));
        assert!(contains_key(&"u1".into(), "u1"));
    }
}
