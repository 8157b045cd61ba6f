//! One line of a file of events: a JSON object. It is an exposure if it has a variation, and an outcome if it has an event.
//! Pure.

use std::collections::BTreeMap;

use inroad_wire::v1::{Exposure, Outcome};
use inroad_wire::{json_to_struct, timestamp_to_wire};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::parse;
use crate::suggestions::{did_you_mean, explain_serde_error};

/// An event, ready to send.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A unit saw a variation.
    Exposure(Exposure),
    /// A unit did something.
    Outcome(Outcome),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExposureLine {
    experiment: String,
    generation: u32,
    unit: String,
    variation: String,
    revision: u32,
    occurred_at: Option<String>,
    context: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeLine {
    /// `user=alice`, or a targeting key without a type.
    unit: Option<String>,
    #[serde(default)]
    units: BTreeMap<String, String>,
    event: String,
    #[serde(default)]
    value: f64,
    occurred_at: Option<String>,
    event_id: Option<String>,
    #[serde(default)]
    clock: String,
}

/// Parses a line. `make_id` makes the id of an outcome that has none.
pub(crate) fn parse_line(
    text: &str,
    make_id: impl FnOnce(&Outcome) -> Result<String, String>,
) -> Result<Event, String> {
    let syntax_error =
        |e: serde_json::Error| format!("not a JSON object: {e}").replace(" at line 1 column", " at column");
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(syntax_error)?;
    let is_outcome = match (fields.contains_key("event"), fields.contains_key("variation")) {
        (true, false) => true,
        (false, true) => false,
        (true, true) => {
            return Err("both an event and a variation. Put the outcome and the exposure on separate lines.".to_owned());
        }
        (false, false) => {
            let similar = fields.keys().map(|name| did_you_mean(name, ["event", "variation"])).collect::<String>();
            return Err(format!("neither an event (of an outcome) nor a variation (of an exposure).{similar}"));
        }
    };
    fields.iter().try_for_each(|(name, value)| check_type(name, value))?;
    let fields = Value::Object(fields);
    let at = |text: Option<String>| text.map(|text| parse::instant(&text).map(timestamp_to_wire)).transpose();
    if is_outcome {
        let line: OutcomeLine = serde_json::from_value(fields).map_err(|e| explain_serde_error(e.to_string()))?;
        let mut units = line.units;
        if let Some(unit) = line.unit {
            let unit = parse::unit(&unit)?;
            units.insert(unit.kind, unit.key);
        }
        let mut outcome = Outcome {
            units,
            event: line.event,
            value: line.value,
            occurred_at: at(line.occurred_at)?,
            event_id: String::new(),
            clock: line.clock,
        };
        outcome.event_id = match line.event_id {
            Some(id) => id,
            None => make_id(&outcome)?,
        };
        return Ok(Event::Outcome(outcome));
    }
    let line: ExposureLine = serde_json::from_value(fields).map_err(|e| explain_serde_error(e.to_string()))?;
    parse::check_levels(line.context.iter().flat_map(Map::values), 1)?;
    Ok(Event::Exposure(Exposure {
        experiment: line.experiment,
        generation: line.generation,
        unit: line.unit,
        variation: line.variation,
        revision: line.revision,
        occurred_at: at(line.occurred_at)?,
        context: line.context.map(|context| json_to_struct(&context)),
    }))
}

/// Checks the type of one field. Serde checks it too, but its message does not name the field.
fn check_type(name: &str, value: &Value) -> Result<(), String> {
    let (is_valid, expected) = match name {
        "value" => (value.is_number(), "a number"),
        "generation" | "revision" => (value.is_u64(), "a whole number"),
        "context" | "units" => (value.is_object(), "an object"),
        "experiment" | "unit" | "variation" | "event" | "occurred_at" | "event_id" | "clock" => {
            (value.is_string(), "text in quotes")
        }
        _ => (true, ""),
    };
    // Optional fields may be null.
    if is_valid || value.is_null() { Ok(()) } else { Err(format!("{name} is {value}, but must be {expected}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Event, String> {
        parse_line(text, |_| Ok("file:7".to_owned()))
    }

    #[test]
    fn line_with_an_event_is_an_outcome() {
        let text = r#"{"unit": "user=alice", "units": {"account": "adobe"}, "event": "bought", "value": 9.5, "occurred_at": "1970-01-01T00:00:01Z"}"#;
        let Ok(Event::Outcome(outcome)) = read(text) else { panic!("an outcome") };
        let units: Vec<(&str, &str)> = outcome.units.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(units, [("account", "adobe"), ("user", "alice")]);
        assert_eq!((outcome.value, outcome.event_id.as_str()), (9.5, "file:7"));
        assert_eq!(outcome.occurred_at.map(|t| t.seconds), Some(1));
    }

    #[test]
    fn line_with_a_variation_is_an_exposure() {
        let text = r#"{"experiment": "k", "generation": 1, "unit": "alice", "variation": "on", "revision": 3}"#;
        let Ok(Event::Exposure(exposure)) = read(text) else { panic!("an exposure") };
        assert_eq!((exposure.variation.as_str(), exposure.revision, exposure.occurred_at), ("on", 3, None));
    }

    #[test]
    fn context_that_the_server_cannot_read_is_refused() {
        // It would make the server refuse all lines of a batch.
        let context = format!("{}1{}", "{\"a\":".repeat(40), "}".repeat(40));
        let text = format!(
            r#"{{"experiment": "k", "generation": 1, "unit": "u", "variation": "on", "revision": 3, "context": {context}}}"#
        );
        assert!(read(&text).unwrap_err().contains("40 levels"));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, part) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{}", "neither"),
            ("nonsense", "at column 2"),
            (r#"{"event": "e", "variation": "v"}"#, "separate lines"),
            (r#"{"evnt": "e", "unit": "a"}"#, "Did you mean \"event\"?"),
            (r#"{"event": "e", "when": 1}"#, "when"),
            (r#"{"event": "e", "unit": "a", "occured_at": "2026-01-31"}"#, "did you mean `occurred_at`?"),
            (r#"{"event": "e", "unit": "a", "value": "3"}"#, "value is \"3\", but must be a number"),
            (r#"{"event": 7, "unit": "a"}"#, "event is 7, but must be text in quotes"),
            (r#"{"variation": "v", "revision": 1.5}"#, "revision is 1.5, but must be a whole number"),
            (r#"{"event": "e", "unit": "a", "occurred_at": "now"}"#, "not a time"),
            (r#"{"variation": "v", "experiment": "k", "unit": "u", "revision": 1}"#, "generation"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
