//! Which experiments count an outcome: by event, clock and unit type. An outcome that no experiment counts is accepted,
//! because a metric may be added later, but its sender gets a warning: usually a name is misspelt.
//!
//! The index is brought up to date once per version of the catalogue, when the next outcome arrives, on another thread: it
//! visits the experiments that changed. A call costs one look-up per outcome. The size of the index depends on the metrics
//! only, never on what callers send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use inroad_assignment::{Experiment, ExperimentKey, MetricKind, Timestamp};
use inroad_store::OutcomeEvent;
use inroad_wire::v1;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::catalogue::CatalogueState;

/// How long after the end of an experiment its metrics still count as used.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
/// The most warnings in one response.
const MAX_WARNINGS: usize = 10;
/// The similarity (Jaro) from which a name is suggested.
const SIMILARITY_MIN: f64 = 0.8;

/// Why no experiment counts an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Uncounted {
    /// No metric has used the event recently.
    Event,
    /// All metrics on the event belong to experiments with another clock.
    Clock,
    /// No experiment with a metric on the event assigns units of these types.
    UnitType,
}

impl Uncounted {
    /// The reason code.
    fn reason(self) -> &'static str {
        match self {
            Self::Event => "UNUSED_EVENT",
            Self::Clock => "OTHER_CLOCK",
            Self::UnitType => "UNUSED_UNIT_TYPE",
        }
    }

    /// A short text for lists of events.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Event => "not counted: no metric uses this event",
            Self::Clock => "not counted: the metrics on this event use another clock",
            Self::UnitType => "not counted: no experiment on this event uses this unit type",
        }
    }
}

/// The units that a metric can count: of one type, under one clock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CountedUnits {
    /// Empty for real time; otherwise the key of the experiment, which has simulated time.
    clock: String,
    unit_type: String,
}

/// The experiments that use an event, each with the time until which it does, by the wall clock; [`Timestamp::MAX`] while
/// it has not ended.
type Users = RedBlackTreeSetSync<(Timestamp, ExperimentKey)>;

/// One experiment's use of events.
#[derive(PartialEq)]
struct EventUse<'a> {
    events: BTreeSet<&'a str>,
    units: CountedUnits,
    until: Timestamp,
}

/// The events in the metrics of an experiment.
pub(crate) fn events_of(experiment: &Experiment) -> BTreeSet<&str> {
    let metrics = experiment.definition.metrics();
    let denominators = metrics.iter().filter_map(|metric| match &metric.kind {
        MetricKind::Ratio { denominator } => Some(denominator.as_str()),
        _ => None,
    });
    metrics.iter().map(|metric| metric.event.as_str()).chain(denominators).collect()
}

impl<'a> EventUse<'a> {
    fn of(experiment: &'a Experiment) -> Self {
        let is_simulated = experiment.manual_now.is_some();
        let ended = experiment.generation().and_then(|generation| generation.ended_at());
        Self {
            events: events_of(experiment),
            units: CountedUnits {
                clock: if is_simulated { experiment.definition.key().to_string() } else { String::new() },
                unit_type: experiment.definition.unit().to_owned(),
            },
            // Simulated time cannot be compared with real time.
            until: ended.filter(|_| !is_simulated).map_or(Timestamp::MAX, |end| end.plus(REMEMBERED)),
        }
    }
}

/// The uses of all events at one version of the catalogue. It shares with the uses at an earlier version what did not
/// change.
#[derive(Debug, Default)]
pub(crate) struct EventUses {
    state: Arc<CatalogueState>,
    by_event: RedBlackTreeMapSync<String, RedBlackTreeMapSync<CountedUnits, Users>>,
}

impl EventUses {
    /// The uses at a later version. It visits the experiments that changed since.
    fn at(&self, state: Arc<CatalogueState>) -> Self {
        let mut next = Self { by_event: self.by_event.clone(), state: Arc::clone(&state) };
        for (key, entry) in state.changed_since(self.state.version) {
            let before = self.state.entries.get(key).map(|before| EventUse::of(&before.experiment));
            let after = EventUse::of(&entry.experiment);
            if before.as_ref() == Some(&after) {
                continue;
            }
            if let Some(before) = before {
                next.remove(key, &before);
            }
            next.add(key, &after);
        }
        next
    }

    fn add(&mut self, key: &ExperimentKey, EventUse { events, units, until }: &EventUse<'_>) {
        for event in events {
            let mut uses = self.by_event.get(*event).cloned().unwrap_or_default();
            let users = uses.get(units).cloned().unwrap_or_default();
            uses.insert_mut(units.clone(), users.insert((*until, key.clone())));
            self.by_event.insert_mut((*event).to_owned(), uses);
        }
    }

    fn remove(&mut self, key: &ExperimentKey, EventUse { events, units, until }: &EventUse<'_>) {
        for event in events {
            let Some(mut uses) = self.by_event.get(*event).cloned() else { continue };
            let users = uses.get(units).map(|users| users.remove(&(*until, key.clone()))).unwrap_or_default();
            if users.is_empty() {
                uses.remove_mut(units);
            } else {
                uses.insert_mut(units.clone(), users);
            }
            if uses.is_empty() {
                self.by_event.remove_mut(*event);
            } else {
                self.by_event.insert_mut((*event).to_owned(), uses);
            }
        }
    }

    /// The events in the metrics of all experiments, in alphabetical order.
    pub(crate) fn events(&self) -> impl Iterator<Item = &str> {
        self.by_event.keys().map(String::as_str)
    }

    /// The number of these events.
    pub(crate) fn event_count(&self) -> usize {
        self.by_event.size()
    }

    /// The recent uses of an event.
    fn recent(&self, event: &str, now: Timestamp) -> impl Iterator<Item = &CountedUnits> {
        let uses = self.by_event.get(event).into_iter().flatten();
        uses.filter(move |(_, users)| is_recent(users, now)).map(|(units, _)| units)
    }

    /// Why no experiment counts an outcome; none if one may count it.
    pub(crate) fn why_uncounted(&self, outcome: &OutcomeEvent, now: Timestamp) -> Option<Uncounted> {
        let mut why = Uncounted::Event;
        for used in self.recent(&outcome.event, now) {
            let is_same_clock = used.clock == outcome.clock;
            if is_same_clock && outcome.units.iter().any(|(unit_type, _)| *unit_type == used.unit_type) {
                return None;
            }
            why = why.max(if is_same_clock { Uncounted::UnitType } else { Uncounted::Clock });
        }
        Some(why)
    }

    fn message(&self, why: Uncounted, outcome: &OutcomeEvent, now: Timestamp) -> String {
        let event = &outcome.event;
        let listed = |names: BTreeSet<&str>| names.into_iter().take(5).collect::<Vec<_>>().join(", ");
        match why {
            Uncounted::Event => {
                let similar =
                    self.similar(event, now).map_or_else(String::new, |name| format!(" Did you mean {name}?"));
                format!("No metric has used the event {event} in the last 30 days.{similar}")
            }
            Uncounted::Clock => {
                let clocks: BTreeSet<&str> = self.recent(event, now).map(|used| used.clock.as_str()).collect();
                if clocks.contains("") {
                    return format!("The metrics on {event} use real time: leave `clock` empty.");
                }
                format!(
                    "The metrics on {event} use simulated time: set `clock` to the experiment ({}).",
                    listed(clocks)
                )
            }
            Uncounted::UnitType => {
                let same_clock = self.recent(event, now).filter(|used| used.clock == outcome.clock);
                let used = listed(same_clock.map(|used| used.unit_type.as_str()).collect());
                let sent = listed(outcome.units.iter().map(|(unit_type, _)| unit_type.as_str()).collect());
                format!("No experiment with a metric on {event} has units of the type {sent}: use {used}.")
            }
        }
    }

    /// The most similar event that is in use.
    fn similar(&self, event: &str, now: Timestamp) -> Option<&str> {
        let event = event.to_lowercase();
        let used = self.by_event.iter().filter(|(_, uses)| uses.values().any(|users| is_recent(users, now)));
        let similarity = used.map(|(name, _)| (strsim::jaro(&event, &name.to_lowercase()), name.as_str()));
        let best = similarity.max_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        best.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN).map(|(_, name)| name)
    }
}

fn is_recent(users: &Users, now: Timestamp) -> bool {
    users.last().is_some_and(|(until, _)| *until > now)
}

/// The index of the newest catalogue.
#[derive(Debug, Default)]
pub struct EventUseIndex {
    newest: ArcSwap<EventUses>,
    /// Held while the index is built, so that callers who wait for it do not build it again.
    building: tokio::sync::Mutex<()>,
}

impl EventUseIndex {
    /// The uses of events in `state`, or in a newer one. After a change of the catalogue they are collected on another
    /// thread, because at the start and after a large apply that reads many experiments.
    pub(crate) async fn of(&self, state: Arc<CatalogueState>) -> Arc<EventUses> {
        let known = || Some(self.newest.load_full()).filter(|uses| uses.state.version >= state.version);
        if let Some(uses) = known() {
            return uses;
        }
        let _building = self.building.lock().await;
        if let Some(uses) = known() {
            return uses;
        }
        let before = self.newest.load_full();
        let collected = tokio::task::spawn_blocking(move || Arc::new(before.at(state))).await;
        // Collecting fails only while the server stops: the uses of before do for its last warnings.
        if let Ok(uses) = collected {
            self.newest.store(uses);
        }
        self.newest.load_full()
    }
}

/// Outcomes of one call that no experiment counts: for each event and reason the first one, and their number.
#[derive(Debug, Default)]
pub(crate) struct OutcomeWarnings(BTreeMap<(String, Uncounted), (OutcomeEvent, u32)>);

impl OutcomeWarnings {
    /// Checks one accepted outcome. Returns true if no experiment counts it.
    pub(crate) fn check(&mut self, uses: &EventUses, outcome: &OutcomeEvent, now: Timestamp) -> bool {
        let Some(why) = uses.why_uncounted(outcome, now) else { return false };
        let key = (outcome.event.clone(), why);
        if let Some((_, outcomes)) = self.0.get_mut(&key) {
            *outcomes += 1;
        } else if self.0.len() < MAX_WARNINGS {
            self.0.insert(key, (outcome.clone(), 1));
        }
        true
    }

    /// The warnings, sorted by event. They are written on another thread, because the most similar event is searched among
    /// all.
    pub(crate) async fn into_wire(self, uses: Arc<EventUses>, now: Timestamp) -> Vec<v1::OutcomeWarning> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let write = move || self.0.into_iter().map(|(key, first)| warning(&uses, key, first, now)).collect();
        tokio::task::spawn_blocking(write).await.unwrap_or_default()
    }
}

fn warning(
    uses: &EventUses,
    (event, why): (String, Uncounted),
    (first, outcomes): (OutcomeEvent, u32),
    now: Timestamp,
) -> v1::OutcomeWarning {
    let message = uses.message(why, &first, now);
    v1::OutcomeWarning { reason: why.reason().to_owned(), event, outcomes, message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{DefinitionDoc, Salt};
    use inroad_store::StoredExperiment;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn at(days: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(86_400 * days))
    }

    fn experiment(key: &str, unit: &str, clock: Value, metric: Value) -> Experiment {
        let variations = json!([{"key": "control", "payload": false}, {"key": "green", "payload": true}]);
        let doc = json!({"key": key, "unit": unit, "clock": clock, "variations": variations, "metrics": [metric]});
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), at(0));
        experiment.start(at(0), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn outcome(event: &str, unit_type: &str, clock: &str) -> OutcomeEvent {
        OutcomeEvent {
            units: vec![(unit_type.to_owned(), "u".to_owned())],
            event: event.to_owned(),
            value_micros: 0,
            occurred_at: at(1),
            event_id: "1".to_owned(),
            clock: clock.to_owned(),
        }
    }

    fn uses() -> (CatalogueState, EventUses) {
        let ratio = json!({"key": "basket", "event": "order", "kind": "ratio", "denominator": "visit"});
        let mut ended = experiment("old", "user", json!({"kind": "wall"}), json!({"key": "m", "event": "signup"}));
        ended
            .conclude(inroad_assignment::Arm::CONTROL, inroad_assignment::experiment::ShippingScope::Everyone, at(10))
            .unwrap();
        let simulated = json!({"kind": "manual", "start": "1970-01-01T00:00:00Z"});
        let experiments = vec![
            experiment("shop", "user", json!({"kind": "wall"}), ratio),
            experiment("demo", "account", simulated, json!({"key": "m", "event": "renewal"})),
            ended,
        ];
        let stored = (1..).zip(experiments.into_iter().map(Arc::new));
        let stored = stored.map(|(version, experiment)| StoredExperiment { version, experiment });
        let state = CatalogueState::default().with_stored(7, stored.collect(), at(0)).unwrap();
        let uses = EventUses::default().at(Arc::new(state.clone()));
        (state, uses)
    }

    #[test]
    fn outcomes_that_no_experiment_counts_have_a_reason() {
        let (_, uses) = uses();
        let why = |event, unit_type, clock, day| uses.why_uncounted(&outcome(event, unit_type, clock), at(day));
        assert_eq!([why("order", "user", "", 1), why("visit", "user", "", 1)], [None, None]);
        assert_eq!(why("oder", "user", "", 1), Some(Uncounted::Event));
        assert_eq!(why("order", "usr", "", 1), Some(Uncounted::UnitType));
        assert_eq!(why("renewal", "account", "", 1), Some(Uncounted::Clock));
        assert_eq!(why("renewal", "account", "demo", 900), None);
        assert_eq!([why("signup", "user", "", 39), why("signup", "user", "", 41)], [None, Some(Uncounted::Event)]);
    }

    #[tokio::test]
    async fn warnings_are_counted_by_event_and_suggest_a_name() {
        let state = Arc::new(uses().0);
        let index = EventUseIndex::default();
        let (uses, again) = tokio::join!(index.of(Arc::clone(&state)), index.of(Arc::clone(&state)));
        assert!(Arc::ptr_eq(&uses, &again), "built once per version, also for callers at the same time");
        let older = Arc::new(CatalogueState::default());
        assert!(Arc::ptr_eq(&uses, &index.of(older).await), "a newer index answers an older state");
        let mut warnings = OutcomeWarnings::default();
        for event in ["oder", "order", "oder", "zzz"] {
            warnings.check(&uses, &outcome(event, "user", ""), at(1));
        }
        let mut is_counted = |i: &i32| !warnings.check(&uses, &outcome(&format!("x{i}"), "user", ""), at(1));
        assert_eq!((0..50).filter(|i| is_counted(i)).count(), 0);
        let warnings = warnings.into_wire(Arc::clone(&uses), at(1)).await;
        assert_eq!((warnings.len(), warnings[0].outcomes, warnings[0].reason.as_str()), (10, 2, "UNUSED_EVENT"));
        assert!(warnings[0].message.ends_with("Did you mean order?"), "{}", warnings[0].message);
        let clock = uses.message(Uncounted::Clock, &outcome("renewal", "account", ""), at(1));
        assert!(clock.contains("set `clock` to the experiment (demo)"), "{clock}");
        let unit = uses.message(Uncounted::UnitType, &outcome("order", "usr", ""), at(1));
        assert!(unit.contains("has units of the type usr: use user"), "{unit}");
    }

    /// A started experiment whose metric, unit type, clock and end depend on `kind`.
    fn variant(key: &str, kind: u8) -> Experiment {
        let unit = ["user", "account"][usize::from(kind % 2)];
        let clock = match kind / 2 % 2 {
            0 => json!({"kind": "wall"}),
            _ => json!({"kind": "manual", "start": "1970-01-01T00:00:00Z"}),
        };
        let metric = match kind / 4 % 3 {
            0 => json!({"key": "m", "event": "order"}),
            1 => json!({"key": "m", "event": "order", "kind": "ratio", "denominator": "visit"}),
            _ => json!({"key": "m", "event": "visit"}),
        };
        let mut experiment = experiment(key, unit, clock, metric);
        if kind >= 12 {
            let scope = inroad_assignment::experiment::ShippingScope::Everyone;
            experiment.conclude(inroad_assignment::Arm::CONTROL, scope, at(u64::from(kind))).unwrap();
        }
        experiment
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Each change concerns one of 6 experiments; after some changes the index is brought up to date.
        #[test]
        fn uses_after_any_sequence_of_changes_are_those_of_the_last_state(
            changes in prop::collection::vec((0u8..6, 0u8..24, any::<bool>()), 1..40),
        ) {
            let (mut state, mut uses) = (Arc::new(CatalogueState::default()), EventUses::default());
            for (n, kind, is_updated) in changes {
                // Each state is a new one, because clients would refuse most of these changes.
                let experiment = Arc::new(variant(&format!("e{n}"), kind));
                let others = state.entries.iter().filter(|(key, _)| key.as_str() != format!("e{n}"));
                let mut stored: Vec<_> = others
                    .map(|(_, e)| StoredExperiment { version: e.version, experiment: Arc::clone(&e.experiment) })
                    .collect();
                let version = state.version + 1;
                stored.push(StoredExperiment { version, experiment });
                state = Arc::new(CatalogueState::default().with_stored(version, stored, at(0)).unwrap());
                if is_updated {
                    uses = uses.at(Arc::clone(&state));
                    prop_assert_eq!(&uses.by_event, &EventUses::default().at(Arc::clone(&state)).by_event);
                }
            }
        }
    }

    #[test]
    fn change_of_one_experiment_allocates_about_as_much_among_many_as_among_few() {
        let cost = |experiments: u64| {
            let stored = (1..=experiments)
                .map(|version| StoredExperiment { version, experiment: Arc::new(variant(&format!("e{version}"), 0)) });
            let before = CatalogueState::default().with_stored(experiments, stored.collect(), at(0)).unwrap();
            let uses = EventUses::default().at(Arc::new(before.clone()));
            let version = experiments + 1;
            let added = StoredExperiment { version, experiment: Arc::new(variant("new", 0)) };
            let state = Arc::new(before.with_stored(version, vec![added], at(0)).unwrap());
            allocation_counter::measure(|| drop(uses.at(state))).bytes_total
        };
        let (few, many) = (cost(100), cost(5_000));
        assert!(many < 2 * few, "{many} bytes among 5,000 experiments, {few} among 100");
    }
}
