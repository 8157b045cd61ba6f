//! What an entry of the audit log changed, from the two states that the log stores: a sentence with the names of
//! variations and readable times, and the changed fields of the definition.

use std::collections::{BTreeMap, BTreeSet};

use inroad_assignment::Timestamp;
use serde_json::Value;

use crate::format::{NumberFormat, minute};

/// A changed field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedField {
    /// Path of the field.
    pub field: String,
    /// Old value; empty if there was none.
    pub from: String,
    /// New value; empty if it was removed.
    pub to: String,
}

/// Most characters shown of a value.
const MAX_SHOWN: usize = 200;

/// The differences between two definitions, one per leaf. Items with a key, such as variations, are named by it.
#[must_use]
pub fn changed_fields(before: &Value, after: &Value) -> Vec<ChangedField> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    collect_leaves(String::new(), before, &mut old);
    collect_leaves(String::new(), after, &mut new);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |leaves: &BTreeMap<String, String>, name: &String| {
        leaves.get(name).map(|text| truncated(text)).unwrap_or_default()
    };
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| ChangedField { field: name.clone(), from: shown(&old, name), to: shown(&new, name) }).collect()
}

fn truncated(text: &str) -> String {
    let start: String = text.chars().take(MAX_SHOWN).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}

fn collect_leaves(path: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect_leaves(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, leaves);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                let path = match value["key"].as_str() {
                    Some(key) => format!("{path}.{key}"),
                    None => format!("{path}[{i}]"),
                };
                collect_leaves(path, value, leaves);
            }
        }
        Value::Null => {}
        leaf => {
            let text = leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned);
            leaves.insert(path, text);
        }
    }
}

/// What changed between two states of an experiment, as the predicate of a sentence: `killed red`. The first state is
/// null for a creation. Empty if the states are equal.
#[must_use]
pub fn describe_change(before: &Value, after: &Value) -> String {
    if let Some((kind, digest)) = after["unit_type"].as_str().zip(after["digest"].as_str()) {
        return format!("forgot the {kind} with digest {digest}");
    }
    let change = Change { before, after };
    let mut clauses = Vec::new();
    if before.is_null() {
        clauses.push("created the experiment".to_owned());
    } else if before["definition"] != after["definition"] {
        clauses.push("edited the definition".to_owned());
    }
    clauses.extend(change.status());
    clauses.extend(change.kills());
    clauses.extend(change.growth());
    clauses.extend(change.alerts());
    if let Some(now) = after["manual_now"].as_i64().filter(|_| !before.is_null() && change.differs("manual_now")) {
        clauses.push(format!("advanced the simulated time to {} UTC", minute(Timestamp::from_micros(now))));
    }
    clauses.join("; ")
}

/// Two states of an experiment, as the audit log stores them.
struct Change<'a> {
    before: &'a Value,
    after: &'a Value,
}

impl Change<'_> {
    fn differs(&self, field: &str) -> bool {
        self.before[field] != self.after[field]
    }

    /// The key of the variation with an index.
    fn variation(&self, index: &Value) -> String {
        let variation = index.as_u64().and_then(|i| self.after["definition"]["variations"].get(i as usize));
        variation.and_then(|v| v["key"].as_str()).map_or_else(|| format!("variation {index}"), str::to_owned)
    }

    fn status(&self) -> Option<String> {
        let state = |side: &Value| side["status"]["state"].as_str().unwrap_or_default().to_owned();
        let run = |side: &Value| side["line"]["generation"].as_u64().unwrap_or_default();
        let (from, to) = (state(self.before), state(self.after));
        let began_run = run(self.after) > run(self.before);
        match to.as_str() {
            "running" if began_run && run(self.after) == 1 => Some("started the experiment".to_owned()),
            "running" if began_run => Some(format!("restarted the experiment: run {} began", run(self.after))),
            _ if from == to => None,
            "running" => Some("resumed the experiment".to_owned()),
            "paused" => Some("paused the experiment".to_owned()),
            "concluded" => Some(format!("concluded the experiment: {}", self.shipped())),
            "archived" => Some("archived the experiment".to_owned()),
            _ => None,
        }
    }

    /// Who gets what after a conclusion.
    fn shipped(&self) -> String {
        let shipped = &self.after["status"]["shipped"];
        let within_audience = self.after["shipped_within_audience"] == true
            && !self.after["definition"]["audience"].is_null()
            && *shipped != 0;
        let (name, control) = (self.variation(shipped), self.variation(&Value::from(0)));
        if within_audience {
            format!("units in the audience get {name}, all others {control}")
        } else {
            format!("all units get {name}")
        }
    }

    fn kills(&self) -> Vec<String> {
        let arms = |side: &Value| side["kills"]["arms"].as_array().cloned().unwrap_or_default();
        let (before, after) = (arms(self.before), arms(self.after));
        let is_killed = |side: &Value| side["kills"]["everything"] == true;
        let whole = match (is_killed(self.before), is_killed(self.after)) {
            (false, true) => Some("killed the experiment".to_owned()),
            (true, false) => Some("restored the experiment".to_owned()),
            _ => None,
        };
        let only_in = |these: &[Value], others: &[Value], verb: &str| {
            let changed: Vec<_> =
                these.iter().filter(|arm| !others.contains(arm)).map(|arm| self.variation(arm)).collect();
            (!changed.is_empty()).then(|| format!("{verb} {}", changed.join(", ")))
        };
        whole
            .into_iter()
            .chain(only_in(&after, &before, "killed"))
            .chain(only_in(&before, &after, "restored"))
            .collect()
    }

    /// The variations that grew or were added within a run.
    fn growth(&self) -> Vec<String> {
        if self.before["line"]["generation"] != self.after["line"]["generation"] {
            return Vec::new();
        }
        let share = |side: &Value, i: usize| side["line"]["shares"].get(i).and_then(Value::as_f64);
        let arms = self.after["line"]["shares"].as_array().map_or(0, Vec::len);
        let text = |share: f64| NumberFormat::Percent2.text(share);
        let clause = |i: usize| {
            let (name, after) = (self.variation(&Value::from(i)), share(self.after, i)?);
            match share(self.before, i) {
                None => Some(format!("added {name} with {} of traffic", text(after))),
                Some(before) if after > before => {
                    Some(format!("grew {name} from {} to {} of traffic", text(before), text(after)))
                }
                Some(_) => None,
            }
        };
        (1..arms).filter_map(clause).collect()
    }

    /// The guardrail alerts that were raised.
    fn alerts(&self) -> Vec<String> {
        let alerts = |side: &Value| side["alerts"].as_array().cloned().unwrap_or_default();
        let before = alerts(self.before);
        let raised = alerts(self.after).into_iter().filter(|alert| !before.contains(alert));
        raised
            .map(|alert| {
                let metric = alert["metric"].as_str().unwrap_or_default();
                format!("raised an alert: {} harms {metric}", self.variation(&alert["arm"]))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state() -> Value {
        json!({
            "definition": {"key": "e", "audience": "true", "variations": [{"key": "plain"}, {"key": "red"}, {"key": "green"}]},
            "status": {"state": "running"}, "kills": {"arms": [], "everything": false}, "manual_now": 0, "alerts": [],
            "shipped_within_audience": false, "line": {"generation": 1, "revision": 1, "shares": [0.6, 0.2, 0.2]},
        })
    }

    fn changed(change: impl FnOnce(&mut Value)) -> String {
        let mut after = state();
        change(&mut after);
        describe_change(&state(), &after)
    }

    #[test]
    fn changes_are_sentences_with_names_and_times() {
        assert_eq!(changed(|after| after["kills"]["arms"] = json!([1])), "killed red");
        assert_eq!(changed(|after| after["kills"]["everything"] = json!(true)), "killed the experiment");
        assert_eq!(
            changed(|after| after["line"] = json!({"generation": 1, "revision": 2, "shares": [0.5, 0.2, 0.3]})),
            "grew green from 20.00% to 30.00% of traffic"
        );
        assert_eq!(
            changed(|after| after["manual_now"] = json!(90_000_000)),
            "advanced the simulated time to 1970-01-01 00:01 UTC"
        );
        assert_eq!(
            changed(|after| after["alerts"] = json!([{"metric": "m", "arm": 2}])),
            "raised an alert: green harms m"
        );
        assert_eq!(changed(|after| after["status"] = json!({"state": "paused"})), "paused the experiment");
        assert_eq!(changed(|_| {}), "");
    }

    #[test]
    fn conclusion_states_who_gets_what() {
        let conclude = |shipped: u64, within: bool| {
            changed(|after| {
                after["status"] = json!({"state": "concluded", "shipped": shipped});
                after["shipped_within_audience"] = json!(within);
            })
        };
        assert_eq!(conclude(2, true), "concluded the experiment: units in the audience get green, all others plain");
        assert_eq!(conclude(2, false), "concluded the experiment: all units get green");
        assert_eq!(conclude(0, true), "concluded the experiment: all units get plain");
    }

    #[test]
    fn creation_start_and_restart_are_told_apart() {
        let draft = {
            let mut draft = state();
            draft["status"] = json!({"state": "draft"});
            draft["line"] = json!({"generation": 0, "revision": 0, "shares": []});
            draft
        };
        assert_eq!(describe_change(&Value::Null, &draft), "created the experiment");
        assert_eq!(describe_change(&draft, &state()), "started the experiment");
        assert_eq!(
            changed(|after| after["line"] = json!({"generation": 2, "revision": 1, "shares": [0.6, 0.2, 0.2]})),
            "restarted the experiment: run 2 began"
        );
        let forgotten = json!({"unit_type": "user", "digest": "ab12"});
        assert_eq!(describe_change(&Value::Null, &forgotten), "forgot the user with digest ab12");
    }

    #[test]
    fn fields_of_variations_are_named_by_key() {
        let definition = |payload: &str| json!({"variations": [{"key": "red", "payload": payload}], "tags": ["a"]});
        let changes = changed_fields(&definition("x"), &definition("y"));
        let expected =
            ChangedField { field: "variations.red.payload".to_owned(), from: "x".to_owned(), to: "y".to_owned() };
        assert_eq!(changes, [expected]);
    }
}
