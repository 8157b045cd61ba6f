//! Fills the form from an experiment definition.

use inroad_assignment::DefinitionDoc;
use serde_json::Value;

use super::{Form, SETTINGS, SettingKind, units};

impl Form {
    /// The form that shows a definition.
    #[must_use]
    pub fn from_definition(document: &DefinitionDoc) -> Self {
        let mut form = Self::default();
        // A valid definition can always be serialised.
        let value = serde_json::to_value(document).unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for name in ["key", "description", "owner", "lifetime", "unit", "audience", "salt"] {
            if let Some(value) = value.get(name) {
                form.set(name, text(value));
            }
        }
        form.set("tags", document.tags.join(", "));
        for (i, row) in rows_of(&value, "variations") {
            let payload = row.get("payload").cloned().unwrap_or_default();
            // All payloads have the type of control's payload.
            if i == 0 {
                form.set("payload_kind", payload_kind(&payload));
            }
            form.set(format!("variations.{i}.payload"), text(&payload));
            for column in ["key", "description"] {
                form.set(format!("variations.{i}.{column}"), row.get(column).map(text).unwrap_or_default());
            }
            if let Some(share) = row.get("share").and_then(Value::as_f64) {
                form.set(format!("variations.{i}.share"), percent(share));
            }
        }
        for (i, row) in rows_of(&value, "overrides") {
            let units = row.get("units").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            form.set(format!("overrides.{i}.units"), units::to_lines(units));
            for column in ["when", "variation"] {
                form.set(format!("overrides.{i}.{column}"), row.get(column).map(text).unwrap_or_default());
            }
        }
        for (i, row) in rows_of(&value, "metrics") {
            for column in ["key", "event", "kind", "cap", "denominator", "window", "direction"] {
                let value = row.get(column).map(text).unwrap_or_default();
                let value = if column == "window" { short_duration(&value) } else { value };
                form.set(format!("metrics.{i}.{column}"), value);
            }
            if row.get("decision") == Some(&Value::Bool(true)) {
                form.set(format!("metrics.{i}.decision"), "on");
            }
            if let Some(guardrail) = row.get("guardrail") {
                form.set(format!("metrics.{i}.guardrail"), guardrail.get("action").map(text).unwrap_or_default());
                let margin = guardrail.get("margin").and_then(Value::as_f64).unwrap_or_default();
                form.set(format!("metrics.{i}.margin"), percent(margin));
            }
        }
        let policy = value.get("policy").cloned().unwrap_or_default();
        form.set("policy.kind", policy.get("kind").map(text).unwrap_or_default());
        for (name, kind) in SETTINGS {
            let Some(value) = policy.get(name) else { continue };
            let shown = match kind {
                SettingKind::Percent => percent(value.as_f64().unwrap_or_default()),
                SettingKind::Duration => short_duration(&text(value)),
                SettingKind::Text | SettingKind::Number => text(value),
            };
            form.set(format!("policy.{name}"), shown);
        }
        if policy.get("shadow") == Some(&Value::Bool(true)) {
            form.set("policy.shadow", "on");
        }
        form
    }
}

fn rows_of<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value.get(list).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn payload_kind(payload: &Value) -> &'static str {
    match payload {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::Object(_) => "object",
        _ => "string",
    }
}

/// A duration as the fields' help writes it: `7d`.
fn short_duration(duration: &str) -> String {
    duration.replace("days", "d").replace("day", "d")
}

/// A share in percent, as people type it.
pub(super) fn percent(share: f64) -> String {
    // Nine decimals are enough for any share that people type and hide rounding errors of the conversion.
    let text = format!("{:.9}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
