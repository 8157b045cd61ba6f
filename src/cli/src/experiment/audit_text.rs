//! Entries of the audit log as people read them: variations by key instead of index, times instead of microseconds, and the
//! terms of the pages. The JSON output keeps what is stored.

use inroad_assignment::Timestamp;
use serde_json::{Map, Value, json};

use crate::diff::diff;
use crate::output::{self, percent};

/// Most changed fields of an audit entry to list.
const MAX_LISTED_CHANGES: usize = 4;

/// What an entry records, as a sentence without a full stop: `ann killed green in button`.
pub(super) fn sentence(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let (actor, action, experiment) = (text("actor"), text("action"), text("experiment"));
    let in_experiment = |verb: &str, variations: Vec<String>| match variations.as_slice() {
        [] => format!("{actor} {verb} {experiment}"),
        names => format!("{actor} {verb} {} in {experiment}", names.join(", ")),
    };
    let shipped = &entry["to"]["status"]["shipped"];
    match action {
        "kill" => in_experiment("killed", changed_kills(&entry["to"], &entry["from"])),
        "restore" => in_experiment("restored", changed_kills(&entry["from"], &entry["to"])),
        "grow" => in_experiment("grew", grown_variations(entry)),
        "conclude" if *shipped == json!(0) => format!("{actor} rolled back {experiment}"),
        "conclude" => in_experiment("shipped", vec![plain(&variation_key(&entry["to"], shipped))]),
        "tick" => format!("{actor} made an automatic decision on {experiment}"),
        "guardrail" => match changed_kills(&entry["to"], &entry["from"]) {
            killed if killed.is_empty() => format!("{actor} raised an alert in {experiment}"),
            killed => in_experiment("killed", killed),
        },
        "advance" => format!("{actor} advanced the simulated time of {experiment}"),
        // A forgotten unit belongs to no experiment and is named by its digest.
        "forget" => format!("{actor} forgot {} {}", plain(&entry["to"]["unit_type"]), plain(&entry["to"]["digest"])),
        // An apply may do several at once.
        actions => in_experiment(&actions.split(", ").map(past_tense).collect::<Vec<_>>().join(" and "), Vec::new()),
    }
}

fn past_tense(action: &str) -> &str {
    match action {
        "create" => "created",
        "update" => "changed",
        "start" => "started",
        "pause" => "paused",
        "resume" => "resumed",
        "restart" => "restarted",
        "archive" => "archived",
        other => other,
    }
}

/// The key of the variation with this index, or the index if there is none.
fn variation_key(stored: &Value, index: &Value) -> Value {
    let found = index.as_u64().and_then(|i| stored["definition"]["variations"].get(i as usize)?.get("key"));
    found.cloned().unwrap_or_else(|| index.clone())
}

/// The variations that are killed in one state and not in another; empty if the whole experiment is.
fn changed_kills(killed: &Value, live: &Value) -> Vec<String> {
    let arms = |state: &Value| state["kills"]["arms"].as_array().cloned().unwrap_or_default();
    let others = arms(live);
    arms(killed).iter().filter(|arm| !others.contains(arm)).map(|arm| plain(&variation_key(killed, arm))).collect()
}

/// The variations other than control whose share grew.
fn grown_variations(entry: &Value) -> Vec<String> {
    let share = |state: &Value, arm: usize| state["line"]["shares"][arm].as_f64().unwrap_or_default();
    let arms = entry["to"]["line"]["shares"].as_array().map_or(0, Vec::len);
    let grown = (1..arms).filter(|arm| share(&entry["to"], *arm) > share(&entry["from"], *arm));
    grown.map(|arm| plain(&variation_key(&entry["to"], &json!(arm)))).collect()
}

/// The fields that an audit entry changed, shortened; without what its sentence says already.
pub(super) fn changes_text(entry: &Value) -> String {
    if entry["from"].is_null() || matches!(entry["action"].as_str(), Some("kill" | "restore")) {
        return String::new();
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
    let key = |index: &Value| variation_key(stored, index);
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
            // The results that a kill keeps have sentences of their own.
            ("shipped_within_audience" | "kill_results", _) => {}
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
    }

    #[test]
    fn sentences_name_variations() {
        let state = |killed: Value, green: f64, status: Value| {
            json!({
                "definition": {"variations": [{"key": "blue"}, {"key": "green"}, {"key": "red"}]},
                "kills": {"arms": killed, "everything": false}, "line": {"shares": [0.5, green, 0.1]}, "status": status,
            })
        };
        let running = || json!({"state": "running"});
        let said = |action: &str, from: Value, to: Value| {
            let entry = json!({"actor": "ann", "action": action, "experiment": "button", "from": from, "to": to});
            sentence(&entry)
        };
        let plain = || state(json!([1]), 0.2, running());
        assert_eq!(said("kill", plain(), state(json!([1, 2]), 0.2, running())), "ann killed red in button");
        assert_eq!(said("kill", plain(), plain()), "ann killed button");
        assert_eq!(said("restore", plain(), state(json!([]), 0.2, running())), "ann restored green in button");
        assert_eq!(said("grow", plain(), state(json!([1]), 0.3, running())), "ann grew green in button");
        let concluded = |arm: u64| state(json!([1]), 0.2, json!({"state": "concluded", "shipped": arm}));
        assert_eq!(said("conclude", plain(), concluded(2)), "ann shipped red in button");
        assert_eq!(said("conclude", plain(), concluded(0)), "ann rolled back button");
        assert_eq!(said("create, start", Value::Null, plain()), "ann created and started button");
        assert_eq!(said("forget", Value::Null, json!({"unit_type": "user", "digest": "0a1b"})), "ann forgot user 0a1b");
    }
}
