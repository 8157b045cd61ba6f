//! What a change of the audience does to units that were exposed already: those that leave it lose their variation. The
//! audience of a unit depends on its context, and the log has a part of that for each recent exposure, so the effect is
//! counted there. What the log does not know is reported as unknown, never as zero.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::audience::Audience;
use inroad_assignment::{Context, Definition, Experiment, ExperimentKey};
use inroad_dashboard::format::{grouped_count, plural};
use inroad_store::{Event, ExposureEvent, LoggedEvent, Store};
use inroad_wire::context_from_json;

use crate::error::ServerError;

/// The most recent events of the log that are looked through.
const MAX_EVENTS: usize = 20_000;

/// The recent exposures of each experiment, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentExposures(HashMap<ExperimentKey, Vec<ExposureEvent>>);

/// What the recent exposures tell about a change of the audience, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct AudienceChange {
    /// Units with a stored context.
    known: u64,
    /// Those of them that are in the old audience and not in the new one.
    leaving: u64,
    /// The leaving units that saw a variation other than control.
    losing_variation: u64,
    /// Units whose exposure was stored without a context.
    unknown: u64,
}

/// The effect of a new definition's audience on the exposed units, as a sentence; empty if the audience stays the same or if
/// nothing has been exposed.
///
/// # Errors
/// If the log cannot be read.
pub async fn describe_audience_change(
    store: &dyn Store,
    experiment: Arc<Experiment>,
    new: &Definition,
) -> Result<String, ServerError> {
    if changed_audience(&experiment, new).is_none() {
        return Ok(String::new());
    }
    let (exposures, new) = (RecentExposures::read(store).await?, new.clone());
    // Thousands of contexts are parsed and evaluated, which is too slow for an async worker.
    let describe = move || exposures.describe_change(&experiment, &new);
    tokio::task::spawn_blocking(describe).await.map_err(|_| ServerError::ShuttingDown)
}

/// The new audience, if it differs from that of an experiment that was started.
pub(crate) fn changed_audience<'a>(experiment: &Experiment, new: &'a Definition) -> Option<&'a Audience> {
    let has_started = experiment.generation().is_some();
    new.audience().filter(|_| has_started && new.audience() != experiment.definition.audience())
}

impl RecentExposures {
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, ServerError> {
        let after = store.head().saturating_sub(MAX_EVENTS as u64);
        Ok(Self::new(store.read_log(after, MAX_EVENTS).await?))
    }

    fn new(events: Vec<LoggedEvent>) -> Self {
        let mut exposures: HashMap<_, Vec<_>> = HashMap::new();
        for logged in events {
            if let Event::Exposure(exposure) = logged.event {
                exposures.entry(exposure.experiment.clone()).or_default().push(exposure);
            }
        }
        Self(exposures)
    }

    /// The effect of a new definition's audience on the exposed units, as a sentence; empty if the audience stays the same
    /// or if nothing has been exposed. Takes long: do not call it from an async task.
    pub(crate) fn describe_change(&self, experiment: &Experiment, new: &Definition) -> String {
        let Some(audience) = changed_audience(experiment, new) else { return String::new() };
        let exposures = self.0.get(experiment.definition.key()).map_or(&[][..], Vec::as_slice);
        count_change(exposures, experiment, audience).describe()
    }
}

/// Counts each unit once, by its newest exposure in the running generation.
fn count_change(exposures: &[ExposureEvent], experiment: &Experiment, new: &Audience) -> AudienceChange {
    let generation = experiment.generation().map_or(0, |generation| generation.number);
    let of_generation = exposures.iter().filter(|exposure| exposure.generation == generation);
    let units: HashMap<_, _> = of_generation.map(|exposure| (exposure.unit.as_str(), exposure)).collect();
    let mut change = AudienceChange::default();
    for exposure in units.values() {
        let Some(context) = stored_context(&exposure.context) else {
            change.unknown += 1;
            continue;
        };
        change.known += 1;
        let was_in = experiment.definition.audience().is_none_or(|old| old.contains(&context));
        if was_in && !new.contains(&context) {
            change.leaving += 1;
            change.losing_variation += u64::from(!exposure.arm.is_control());
        }
    }
    change
}

fn stored_context(json: &str) -> Option<Context> {
    let fields = serde_json::from_str(json).ok()?;
    context_from_json(&fields).ok()
}

impl AudienceChange {
    fn describe(self) -> String {
        let Self { known, leaving, losing_variation, unknown } = self;
        if known == 0 {
            let why = match unknown {
                0 => "no recent exposure is in the log",
                _ => "the recent exposures have no context",
            };
            return format!(
                "Units outside the new audience get control and lose their variation. How many cannot be known: {why}."
            );
        }
        let rest = match unknown {
            0 => String::new(),
            unknown => {
                let units = plural(unknown, "unit");
                format!(" For {units} more it cannot be known, because their exposures have no context.")
            }
        };
        format!(
            "Of {} with a recent exposure and a context, {} outside the new audience: {} their variation and get control.{rest}",
            plural(known, "unit"),
            if leaving == 1 { "1 is".to_owned() } else { format!("{} are", grouped_count(leaving)) },
            if losing_variation == 1 {
                "1 would lose".to_owned()
            } else {
                format!("{} would lose", grouped_count(losing_variation))
            },
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{Arm, DefinitionDoc, Salt, Timestamp};
    use inroad_store::ExposureEvent;

    fn running(audience: &str) -> Experiment {
        let doc = serde_json::json!({
            "key": "k", "audience": audience,
            "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true, "share": 0.5}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        experiment.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn exposure(unit: &str, arm: usize, generation: u32, context: &str) -> LoggedEvent {
        let event = ExposureEvent {
            experiment: inroad_assignment::ExperimentKey::parse("k").unwrap(),
            generation,
            unit: unit.to_owned(),
            arm: Arm::new(arm).unwrap(),
            revision: 1,
            occurred_at: Timestamp::default(),
            context: context.to_owned(),
        };
        LoggedEvent { seq: 1, received_at: Timestamp::default(), event: Event::Exposure(event) }
    }

    fn count(events: Vec<LoggedEvent>, experiment: &Experiment, new: &Audience) -> AudienceChange {
        let exposures = RecentExposures::new(events);
        let of_experiment = exposures.0.get(experiment.definition.key());
        count_change(of_experiment.map_or(&[][..], Vec::as_slice), experiment, new)
    }

    #[test]
    fn units_that_leave_the_audience_are_counted_by_their_newest_context() {
        let experiment = running(r#"country in ["at", "ch", "li"]"#);
        let new = Audience::parse(r#"country == "at""#).unwrap();
        let events = [
            exposure("a", 1, 1, r#"{"country":"at"}"#),
            exposure("b", 1, 1, r#"{"country":"ch"}"#),
            exposure("c", 0, 1, r#"{"country":"li"}"#),
            exposure("moved", 1, 1, r#"{"country":"ch"}"#),
            exposure("moved", 1, 1, r#"{"country":"at"}"#),
            exposure("earlier run", 1, 2, r#"{"country":"ch"}"#),
            exposure("bare", 1, 1, ""),
        ];
        let change = count(events.to_vec(), &experiment, &new);
        assert_eq!(change, AudienceChange { known: 4, leaving: 2, losing_variation: 1, unknown: 1 });
        assert_eq!(
            change.describe(),
            "Of 4 units with a recent exposure and a context, 2 are outside the new audience: 1 would lose their variation \
             and get control. For 1 unit more it cannot be known, because their exposures have no context."
        );
    }

    #[test]
    fn large_numbers_of_units_have_separators() {
        let change = AudienceChange { known: 12_000, leaving: 4_000, losing_variation: 1_500, unknown: 1_000 };
        assert_eq!(
            change.describe(),
            "Of 12,000 units with a recent exposure and a context, 4,000 are outside the new audience: 1,500 would lose \
             their variation and get control. For 1,000 units more it cannot be known, because their exposures have no \
             context."
        );
    }

    #[test]
    fn unknown_contexts_are_never_reported_as_zero() {
        let experiment = running("true");
        let new = Audience::parse(r#"country == "at""#).unwrap();
        for events in [vec![], vec![exposure("bare", 1, 1, "")]] {
            let text = count(events, &experiment, &new).describe();
            assert!(text.contains("cannot be known") && !text.contains('0'), "{text}");
        }
    }
}
