//! What a change of the audience does to units that were exposed already: those that leave it lose their variation. The
//! audience of a unit depends on its context, and the log has a part of that for each recent exposure, so the effect is
//! counted there. What the log does not know is reported as unknown, never as zero.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::audience::Audience;
use inroad_assignment::{Context, Definition, Experiment};
use inroad_store::{Event, LoggedEvent, Store};
use inroad_wire::context_from_json;

use crate::error::ServerError;

/// The most recent events of the log that are looked through.
const MAX_EVENTS: usize = 20_000;

/// What the recent exposures tell about a change of the audience, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct AudienceChange {
    /// Units with a stored context.
    known: usize,
    /// Those of them that are in the old audience and not in the new one.
    leaving: usize,
    /// The leaving units that saw a variation other than control.
    losing_variation: usize,
    /// Units whose exposure was stored without a context.
    unknown: usize,
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
    let changed = new.audience().filter(|_| new.audience() != experiment.definition.audience());
    let Some(audience) = changed.cloned() else { return Ok(String::new()) };
    if experiment.generation().is_none() {
        return Ok(String::new());
    }
    let after = store.head().saturating_sub(MAX_EVENTS as u64);
    let events = store.read_log(after, MAX_EVENTS).await?;
    // Thousands of contexts are parsed and evaluated, which is too slow for an async worker.
    let count = move || count_change(&events, &experiment, &audience).describe();
    tokio::task::spawn_blocking(count).await.map_err(|_| ServerError::ShuttingDown)
}

/// Counts each unit once, by its newest exposure in the running generation.
fn count_change(events: &[LoggedEvent], experiment: &Experiment, new: &Audience) -> AudienceChange {
    let generation = experiment.generation().map_or(0, |generation| generation.number);
    let mut units = HashMap::new();
    for logged in events {
        if let Event::Exposure(exposure) = &logged.event
            && exposure.experiment == *experiment.definition.key()
            && exposure.generation == generation
        {
            units.insert(exposure.unit.as_str(), exposure);
        }
    }
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
            change.losing_variation += usize::from(!exposure.arm.is_control());
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
        let units = |number: usize| if number == 1 { "1 unit".to_owned() } else { format!("{number} units") };
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
                format!(" For {} more it cannot be known, because their exposures have no context.", units(unknown))
            }
        };
        format!(
            "Of {} with a recent exposure and a context, {} outside the new audience: {} their variation and get control.{rest}",
            units(known),
            if leaving == 1 { "1 is".to_owned() } else { format!("{leaving} are") },
            if losing_variation == 1 { "1 would lose".to_owned() } else { format!("{losing_variation} would lose") },
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
        let change = count_change(&events, &experiment, &new);
        assert_eq!(change, AudienceChange { known: 4, leaving: 2, losing_variation: 1, unknown: 1 });
        assert_eq!(
            change.describe(),
            "Of 4 units with a recent exposure and a context, 2 are outside the new audience: 1 would lose their variation \
             and get control. For 1 unit more it cannot be known, because their exposures have no context."
        );
    }

    #[test]
    fn unknown_contexts_are_never_reported_as_zero() {
        let experiment = running("true");
        let new = Audience::parse(r#"country == "at""#).unwrap();
        for events in [vec![], vec![exposure("bare", 1, 1, "")]] {
            let text = count_change(&events, &experiment, &new).describe();
            assert!(text.contains("cannot be known") && !text.contains('0'), "{text}");
        }
    }
}
