//! An entry of the audit log as a sentence: "ann killed red in checkout". Pages, the CLI and gRPC show this one. It is
//! made when an entry is read, from what the entry says changed.

use std::fmt;

use inroad_assignment::Timestamp;
use inroad_dashboard::format::minute;
use inroad_store::AuditEntry;
use serde_json::Value;

use crate::kill_results::{RESULTS_ACTION, RESULTS_ACTOR};
use crate::reallocator::{GUARDRAIL_ACTOR, POLICY_ACTOR};

/// The most changed fields that a sentence names.
const MAX_NAMED_FIELDS: usize = 3;

/// A sentence without a full stop, divided so that a page can link the experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditSentence {
    /// The text before the experiment's key.
    pub(crate) start: String,
    /// The experiment's key; empty if the entry names no experiment.
    pub(crate) experiment: String,
    /// The text after the key.
    pub(crate) end: String,
}

impl fmt::Display for AuditSentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.start, self.experiment, self.end)
    }
}

impl AuditSentence {
    /// The sentence of an entry.
    pub(crate) fn new(entry: &AuditEntry) -> Self {
        let parse = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let (before, after) = (parse(&entry.from), parse(&entry.to));
        let change = Change { entry, before: &before, after: &after };
        let experiment = entry.experiment.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some((kind, digest)) = after["unit_type"].as_str().zip(after["digest"].as_str()) {
            return Self { start: format!("{} forgot {kind} {digest}", entry.actor), experiment, end: String::new() };
        }
        change.sentence(experiment)
    }
}

/// What an entry says changed. A field that is in neither state did not change.
struct Change<'a> {
    entry: &'a AuditEntry,
    before: &'a Value,
    after: &'a Value,
}

impl Change<'_> {
    fn sentence(&self, experiment: String) -> AuditSentence {
        let by_policy = self.entry.action == "tick";
        let (subject, requester) = match self.entry.actor.as_str() {
            POLICY_ACTOR => ("Policy", ""),
            GUARDRAIL_ACTOR => ("Guardrails", ""),
            RESULTS_ACTOR => ("Server", ""),
            actor if by_policy => ("Policy", actor),
            actor => (actor, ""),
        };
        let parts = [self.kills(), self.results(), self.growth(), self.alerts(), self.fields()].concat();
        let (whole, mut end) = self.whole();
        if self.is_advance() {
            end = format!("{end}{}", self.simulated_time());
        }
        if !requester.is_empty() {
            end = format!("{end}, requested by {requester}");
        }
        let (parts, whole) = (joined(&parts), joined(&whole));
        let (start, rest) = match (parts.as_str(), whole.as_str()) {
            ("", "") if by_policy => (format!("{subject} changed nothing in "), String::new()),
            ("", "") => (format!("{subject} changed nothing with {} of ", self.entry.action), String::new()),
            ("", whole) => (format!("{subject} {whole} "), String::new()),
            (parts, "") => (format!("{subject} {parts} in "), String::new()),
            (parts, whole) => (format!("{subject} {parts} in "), format!(" and {whole} it")),
        };
        AuditSentence { start, experiment, end: rest + &end }
    }

    /// The key of the variation with an index.
    fn variation(&self, index: &Value) -> String {
        let key = index.as_u64().and_then(|index| self.entry.context.variations.get(&(index as usize)));
        key.cloned().unwrap_or_else(|| format!("variation {index}"))
    }

    fn is_creation(&self) -> bool {
        self.before.is_null()
    }

    /// What happened to the experiment as a whole, as verbs, and the end of the sentence.
    fn whole(&self) -> (Vec<String>, String) {
        let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>();
        let run = self.after["line"]["generation"].as_u64().filter(|run| *run > 0);
        let state = self.after["status"]["state"].as_str().unwrap_or_default();
        if self.is_creation() {
            let started = if state == "running" { &["created", "started"][..] } else { &["created"] };
            return (verbs(started), String::new());
        }
        if self.after["kills"]["everything"] == true {
            return (verbs(&["killed"]), String::new());
        }
        if self.after["kills"]["everything"] == false {
            return (verbs(&["restored"]), String::new());
        }
        let verb = match (state, run) {
            ("running", Some(1)) | ("", Some(1)) => "started",
            (_, Some(run)) => return (verbs(&["restarted"]), format!(" (run {run})")),
            ("running", None) => "resumed",
            ("paused", _) => "paused",
            ("archived", _) => "archived",
            ("concluded", _) => return self.conclusion(),
            _ if self.is_advance() => "advanced the simulated time of",
            _ => return (Vec::new(), String::new()),
        };
        (verbs(&[verb]), String::new())
    }

    fn conclusion(&self) -> (Vec<String>, String) {
        let shipped = &self.after["status"]["shipped"];
        if *shipped == 0 {
            return (vec!["rolled back".to_owned()], ": every unit gets control".to_owned());
        }
        let units = match self.entry.context.shipped_within_audience {
            Some(true) => " to the units of its audience",
            _ => " to every unit",
        };
        (vec![format!("shipped {} in", self.variation(shipped))], units.to_owned())
    }

    /// A tick of an experiment with a simulated time moves it as well, but that is not what it is for.
    fn is_advance(&self) -> bool {
        !self.is_creation() && self.entry.action == "advance" && self.after["manual_now"].is_i64()
    }

    fn simulated_time(&self) -> String {
        let now = self.after["manual_now"].as_i64().unwrap_or_default();
        format!(" to {} UTC", minute(Timestamp::from_micros(now)))
    }

    fn kills(&self) -> Vec<String> {
        if self.is_creation() {
            return Vec::new();
        }
        let arms = |side: &Value| side["kills"]["arms"].as_array().cloned().unwrap_or_default();
        let (before, after) = (arms(self.before), arms(self.after));
        let only_in = |these: &[Value], others: &[Value], verb: &str| {
            let changed = these.iter().filter(|arm| !others.contains(arm)).map(|arm| self.variation(arm));
            let changed = joined(&changed.collect::<Vec<_>>());
            (!changed.is_empty()).then(|| format!("{verb} {changed}"))
        };
        [only_in(&after, &before, "killed"), only_in(&before, &after, "restored")].into_iter().flatten().collect()
    }

    /// The results that were stored after their kill. Those that a kill stores itself are a part of it.
    fn results(&self) -> Vec<String> {
        if self.entry.action != RESULTS_ACTION {
            return Vec::new();
        }
        let results: Vec<&Value> = self.after["kill_results"].as_array().into_iter().flatten().collect();
        let Some(actor) = results.first().and_then(|result| result["actor"].as_str()) else { return Vec::new() };
        let variations: Vec<String> = results.iter().map(|result| self.variation(&result["arm"])).collect();
        vec![format!("kept the results of {} at the kill by {actor}", joined(&variations))]
    }

    /// The variations that grew or were added within a run.
    fn growth(&self) -> Vec<String> {
        if self.is_creation() || !self.after["line"]["generation"].is_null() {
            return Vec::new();
        }
        let shares = |side: &Value| -> Vec<f64> {
            side["line"]["shares"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let (before, after) = (shares(self.before), shares(self.after));
        let clause = |(arm, share): (usize, &f64)| {
            let name = self.variation(&Value::from(arm));
            match before.get(arm) {
                None => Some(format!("added {name} with {}% of traffic", percent(*share))),
                Some(old) if share > old => {
                    // The gain is that of the shares as shown, so that a reader gets it as well.
                    let shown_gain = rounded(*share) - rounded(*old);
                    let gain = if shown_gain > 0.0 { shown_gain } else { share - old };
                    let (gain, old, new) = (percent(gain), percent(*old), percent(*share));
                    let points = if gain == "1" { "percentage point" } else { "percentage points" };
                    Some(format!("gave {name} {gain} {points} of traffic ({old}% to {new}%)"))
                }
                Some(_) => None,
            }
        };
        after.iter().enumerate().skip(1).filter_map(clause).collect()
    }

    /// The guardrail alerts that were raised.
    fn alerts(&self) -> Vec<String> {
        let alerts = |side: &Value| side["alerts"].as_array().cloned().unwrap_or_default();
        let before = alerts(self.before);
        let raised = alerts(self.after).into_iter().filter(|alert| !self.is_creation() && !before.contains(alert));
        let text = |alert: Value| {
            format!(
                "reported harm to {} by {}",
                alert["metric"].as_str().unwrap_or_default(),
                self.variation(&alert["arm"])
            )
        };
        raised.map(text).collect()
    }

    /// The changed fields of the definition.
    fn fields(&self) -> Vec<String> {
        if self.is_creation() {
            return Vec::new();
        }
        let mut fields = Vec::new();
        name_fields(String::new(), &self.before["definition"], &self.after["definition"], &mut fields);
        if fields.is_empty() {
            return Vec::new();
        }
        let more = fields.len().saturating_sub(MAX_NAMED_FIELDS);
        fields.truncate(MAX_NAMED_FIELDS);
        match more {
            0 => {}
            1 => fields.push("1 more field".to_owned()),
            more => fields.push(format!("{more} more fields")),
        }
        vec![format!("changed {}", joined(&fields))]
    }
}

/// The paths of the fields that differ. An item that is only in one list is named as a whole.
fn name_fields(path: String, before: &Value, after: &Value, names: &mut Vec<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.iter().filter(|(name, _)| !old.contains_key(*name)).map(|(name, _)| name);
            let mut all: Vec<&String> = old.keys().chain(added).collect();
            all.sort();
            for name in all {
                name_fields(below(name), &before[name.as_str()], &after[name.as_str()], names);
            }
        }
        (Value::Array(old), Value::Array(new)) if is_keyed(old) && is_keyed(new) => {
            let find = |side: &[Value], key: &str| side.iter().find(|item| item["key"] == key).cloned();
            let mut keys: Vec<&str> = old.iter().chain(new).filter_map(|item| item["key"].as_str()).collect();
            keys.sort_unstable();
            keys.dedup();
            let count = names.len();
            for key in keys {
                match (find(old, key), find(new, key)) {
                    (Some(from), Some(to)) => name_fields(below(key), &from, &to, names),
                    _ => names.push(below(key)),
                }
            }
            if names.len() == count {
                names.push(format!("the order of {path}"));
            }
        }
        _ if path.is_empty() => names.push("the definition".to_owned()),
        _ => names.push(path),
    }
}

fn is_keyed(items: &[Value]) -> bool {
    items.iter().all(|item| item["key"].is_string())
}

/// `a`, `a and b`, `a, b and c`.
fn joined(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// A share in percent with at most two decimals, without the sign.
fn percent(share: f64) -> String {
    let shown = (rounded(share) * 1e4).round() / 100.0;
    if shown == 0.0 && share > 0.0 { "less than 0.01".to_owned() } else { shown.to_string() }
}

/// A share as it is shown: with two decimals of a percent.
fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::ExperimentKey;
    use inroad_store::AuditContext;
    use serde_json::json;

    fn entry(actor: &str, action: &str, from: &Value, to: &Value) -> AuditEntry {
        let variations = ["control", "blue", "red"].into_iter().map(str::to_owned).enumerate().collect();
        AuditEntry {
            id: 1,
            at: Timestamp::default(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            experiment: Some(ExperimentKey::parse("checkout").unwrap()),
            from: if from.is_null() { String::new() } else { from.to_string() },
            to: to.to_string(),
            context: AuditContext { variations, shipped_within_audience: Some(true) },
            hash: None,
        }
    }

    fn sentence(actor: &str, action: &str, from: Value, to: Value) -> String {
        AuditSentence::new(&entry(actor, action, &from, &to)).to_string()
    }

    #[test]
    fn gain_is_the_difference_of_the_shares_as_shown() {
        let shares = |share: f64| json!({"line": {"revision": 2, "shares": [1.0 - share, share]}});
        let grown = sentence("ann", "grow", shares(0.383_333), shares(0.657_263));
        assert!(grown.contains("gave blue 27.4 percentage points of traffic (38.33% to 65.73%)"), "{grown}");
        let little = sentence("ann", "grow", shares(0.2), shares(0.200_001));
        assert!(little.contains("less than 0.01 percentage points of traffic (20% to 20%)"), "{little}");
    }

    #[test]
    fn people_and_programs_are_the_subject() {
        let grown = || {
            (
                json!({"line": {"revision": 1, "shares": [0.8, 0.2, 0.0]}}),
                json!({"line": {"revision": 2, "shares": [0.75, 0.25, 0.0]}}),
            )
        };
        let grown_by = |actor: &str, action: &str| sentence(actor, action, grown().0, grown().1);
        let gain = "gave blue 5 percentage points of traffic (20% to 25%) in checkout";
        assert_eq!(grown_by("inroad-policy", "tick"), format!("Policy {gain}"));
        assert_eq!(grown_by("Ana", "tick"), format!("Policy {gain}, requested by Ana"));
        assert_eq!(grown_by("Ana", "grow"), format!("Ana {gain}"));
        assert_eq!(sentence("inroad-policy", "tick", json!({}), json!({})), "Policy changed nothing in checkout");
        let (before, after) = (
            json!({"kills": {"arms": []}, "alerts": []}),
            json!({"kills": {"arms": [2]}, "alerts": [{"metric": "refunds", "arm": 2}]}),
        );
        assert_eq!(
            sentence("inroad-guardrails", "guardrail", before, after),
            "Guardrails killed red and reported harm to refunds by red in checkout"
        );
    }

    #[test]
    fn kills_and_restores_name_the_variations() {
        let arms = |arms: Value| json!({"kills": {"arms": arms}});
        assert_eq!(sentence("Ana", "kill", arms(json!([])), arms(json!([2]))), "Ana killed red in checkout");
        assert_eq!(
            sentence("Ana", "restore", arms(json!([1, 2])), arms(json!([]))),
            "Ana restored blue and red in checkout"
        );
        let kept = json!({"kill_results": [{"arm": 2, "actor": "Ana", "exposed": 984}]});
        assert_eq!(
            sentence(RESULTS_ACTOR, RESULTS_ACTION, json!({}), kept),
            "Server kept the results of red at the kill by Ana in checkout"
        );
        let all = |killed: bool| json!({"kills": {"everything": killed}});
        assert_eq!(sentence("Ana", "kill", all(false), all(true)), "Ana killed checkout");
        assert_eq!(sentence("Ana", "restore", all(true), all(false)), "Ana restored checkout");
    }

    #[test]
    fn conclusion_says_who_gets_what() {
        let concluded = |shipped: u64| {
            (json!({"status": {"state": "running"}}), json!({"status": {"state": "concluded", "shipped": shipped}}))
        };
        let said = |shipped: u64, within: bool| {
            let (from, to) = concluded(shipped);
            let mut entry = entry("Ana", "conclude", &from, &to);
            entry.context.shipped_within_audience = Some(within);
            AuditSentence::new(&entry).to_string()
        };
        assert_eq!(said(0, false), "Ana rolled back checkout: every unit gets control");
        assert_eq!(said(1, true), "Ana shipped blue in checkout to the units of its audience");
        assert_eq!(said(1, false), "Ana shipped blue in checkout to every unit");
    }

    #[test]
    fn life_of_an_experiment_is_told_step_by_step() {
        let state = |from: &str, to: &str| {
            sentence("Ana", to, json!({"status": {"state": from}}), json!({"status": {"state": to}}))
        };
        let run = |n: u64| json!({"status": {"state": "running"}, "line": {"generation": n, "revision": 1, "shares": [0.5, 0.5]}});
        let draft = json!({"definition": {"key": "checkout"}, "status": {"state": "draft"}});
        assert_eq!(sentence("Ana", "create", Value::Null, draft), "Ana created checkout");
        assert_eq!(sentence("Ana", "create, start", Value::Null, run(1)), "Ana created and started checkout");
        assert_eq!(
            sentence("Ana", "start", json!({"status": {"state": "draft"}, "line": {"generation": 0}}), run(1)),
            "Ana started checkout"
        );
        assert_eq!(
            sentence("Ana", "restart", json!({"line": {"generation": 1}}), run(2)),
            "Ana restarted checkout (run 2)"
        );
        assert_eq!(state("running", "paused"), "Ana paused checkout");
        assert_eq!(state("paused", "running"), "Ana resumed checkout");
        assert_eq!(state("concluded", "archived"), "Ana archived checkout");
        assert_eq!(
            sentence("Ana", "advance", json!({"manual_now": 0}), json!({"manual_now": 90_000_000})),
            "Ana advanced the simulated time of checkout to 1970-01-01 00:01 UTC"
        );
        assert_eq!(
            AuditSentence::new(&AuditEntry {
                experiment: None,
                ..entry("Eve", "forget", &Value::Null, &json!({"unit_type": "user", "digest": "ab12"}))
            })
            .to_string(),
            "Eve forgot user ab12"
        );
    }

    #[test]
    fn edit_names_the_fields() {
        let edited =
            |from: Value, to: Value| sentence("Ana", "update", json!({"definition": from}), json!({"definition": to}));
        let variation = |payload: u64| json!({"owner": "a", "variations": [{"key": "red", "payload": payload}]});
        assert_eq!(edited(variation(1), variation(2)), "Ana changed variations.red.payload in checkout");
        assert_eq!(edited(json!({"owner": "a"}), json!({"tags": ["b"]})), "Ana changed owner and tags in checkout");
        let four = |n: u64| json!({"a": n, "b": n, "c": n, "d": n, "e": n});
        assert_eq!(edited(four(1), four(2)), "Ana changed a, b, c and 2 more fields in checkout");
        let metrics =
            |keys: &[&str]| json!({"metrics": keys.iter().map(|key| json!({"key": key})).collect::<Vec<_>>()});
        assert_eq!(edited(metrics(&[]), metrics(&["m"])), "Ana changed metrics.m in checkout");
        assert_eq!(edited(metrics(&["m", "n"]), metrics(&["n", "m"])), "Ana changed the order of metrics in checkout");
        let started = json!({"definition": {"owner": "b"}, "status": {"state": "running"}, "line": {"generation": 1}});
        assert_eq!(
            sentence("Ana", "update, start", json!({"definition": {"owner": "a"}}), started),
            "Ana changed owner in checkout and started it"
        );
    }
}
