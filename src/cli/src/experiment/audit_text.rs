//! Entries of the audit log as people read them: variations by key instead of index, times instead of microseconds, and the
//! terms of the pages. The JSON output keeps what is stored.

use inroad_assignment::Timestamp;
use serde_json::{Map, Value, json};

use crate::diff::diff;
use crate::output::{self, percent};

/// Most changed fields of an audit entry to list.
const MAX_LISTED_CHANGES: usize = 4;

/// The action of an entry; the policy's own changes are stored as `tick`.
pub(super) fn action_text(action: &str) -> &str {
    if action == "tick" { "policy decision" } else { action }
}

/// The fields that an audit entry changed, shortened.
pub(super) fn changes_text(entry: &Value) -> String {
    if entry["from"].is_null() {
        // A forgotten unit belongs to no experiment and is named by its digest.
        let unit = entry["to"]["unit_type"].as_str().zip(entry["to"]["digest"].as_str());
        return unit.map(|(kind, digest)| format!("{kind} {digest}")).unwrap_or_default();
    }
    let changes = diff(Some(&readable(&entry["from"])), Some(&readable(&entry["to"])));
    let listed: Vec<String> =
        changes.iter().take(MAX_LISTED_CHANGES).map(ToString::to_string).map(|text| shortened(&text)).collect();
    let more = changes.len().saturating_sub(MAX_LISTED_CHANGES);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    listed.join("; ") + &rest
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    if text.chars().count() <= LONGEST { text.to_owned() } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

/// The stored experiment with keys, times and percentages in place of indices, microseconds and fractions.
fn readable(stored: &Value) -> Value {
    let Some(fields) = stored.as_object() else { return stored.clone() };
    let key = |index: &Value| {
        let found = index.as_u64().and_then(|i| stored["definition"]["variations"].get(i as usize)?.get("key"));
        found.cloned().unwrap_or_else(|| index.clone())
    };
    let mut shown = Map::new();
    // Missing in entries of earlier releases.
    let has_audience = !stored["definition"]["audience"].is_null();
    let within_audience = has_audience && stored["shipped_within_audience"] == json!(true);
    shown.insert("shipped to the audience only".to_owned(), json!(within_audience));
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("kills", kills) => {
                let arms = kills["arms"].as_array().into_iter().flatten();
                shown.insert("killed variations".to_owned(), arms.map(key).collect());
                shown.insert("experiment killed".to_owned(), kills["everything"].clone());
            }
            ("line", line) => {
                shown.insert("run".to_owned(), line["generation"].clone());
                shown.insert("revision".to_owned(), line["revision"].clone());
                let shares = line["shares"].as_array().into_iter().flatten().enumerate();
                let shares = shares.filter_map(|(i, share)| {
                    Some((key(&json!(i)).as_str()?.to_owned(), Value::String(percent(share.as_f64()?))))
                });
                shown.insert("share".to_owned(), Value::Object(shares.collect()));
            }
            ("manual_now", now) => {
                let text = now.as_i64().map_or(Value::Null, |now| output::instant(Timestamp::from_micros(now)).into());
                shown.insert("simulated time".to_owned(), text);
            }
            ("status", status) => {
                shown.insert("state".to_owned(), status["state"].clone());
                if let Some(shipped) = status.get("shipped") {
                    shown.insert("shipped".to_owned(), key(shipped));
                }
            }
            ("alerts", Value::Array(alerts)) => {
                let alert =
                    |alert: &Value| json!(format!("{} harms {}", plain(&key(&alert["arm"])), plain(&alert["metric"])));
                shown.insert("guardrail alerts".to_owned(), alerts.iter().map(alert).collect());
            }
            ("shipped_within_audience", _) => {}
            _ => {
                shown.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(shown)
}

/// A value as text without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_variations_and_times() {
        let stored = |killed: Value, shares: Value, now: i64, state: Value| {
            json!({
                "definition": {"key": "k", "variations": [{"key": "plain"}, {"key": "fancy"}]},
                "kills": {"arms": killed, "everything": false}, "line": {"generation": 2, "revision": 3, "shares": shares},
                "manual_now": now, "status": state, "alerts": [],
            })
        };
        let entry = json!({
            "from": stored(json!([]), json!([0.75, 0.25]), 0, json!({"state": "running"})),
            "to": stored(json!([1]), json!([0.5, 0.5]), 90_000_000, json!({"state": "concluded", "shipped": 1})),
        });
        let changes = diff(Some(&readable(&entry["from"])), Some(&readable(&entry["to"])));
        let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "~ killed variations: [] → [\"fancy\"]",
                "~ share.fancy: \"25.0%\" → \"50.0%\"",
                "~ share.plain: \"75.0%\" → \"50.0%\"",
                "+ shipped: \"fancy\"",
                "~ simulated time: \"1970-01-01T00:00:00Z\" → \"1970-01-01T00:01:30Z\"",
                "~ state: \"running\" → \"concluded\"",
            ]
        );
        assert_eq!(action_text("tick"), "policy decision");
    }
}
