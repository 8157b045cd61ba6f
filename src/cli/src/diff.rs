//! What differs between two declarations, field by field, in the words of the file that declares them. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// One field that differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// Its path: `variations.womens-email.payload`.
    pub(crate) field: String,
    /// What it was; `None` if it was not there.
    pub(crate) from: Option<Value>,
    /// What it is to be; `None` if it goes.
    pub(crate) to: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "~ {}: {from} → {to}", self.field),
            (None, Some(to)) => write!(f, "+ {}: {to}", self.field),
            (Some(from), None) => write!(f, "- {}: {from}", self.field),
            (None, None) => write!(f, "  {}", self.field),
        }
    }
}

/// All that differs, in the order of the paths.
pub(crate) fn diff(from: Option<&Value>, to: Option<&Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", from, to, &mut changes);
    changes
}

/// Lists whose members have keys are compared member by member, wherever the members stand.
fn members(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(fields) if !fields.is_empty() => Some(fields.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| Some((item.get("key")?.as_str()?, item))).collect()
        }
        _ => None,
    }
}

fn compare(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<Change>) {
    if same(from, to) {
        return;
    }
    let (before, after) = (from.and_then(members), to.and_then(members));
    let leaf = (from.is_some() && before.is_none()) || (to.is_some() && after.is_none());
    if leaf {
        changes.push(Change { field: path.to_owned(), from: from.cloned(), to: to.cloned() });
        return;
    }
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let get = |side: &[(&str, &'_ Value)], name: &str| side.iter().position(|(key, _)| *key == name);
    let names: BTreeSet<&str> = before.iter().chain(&after).map(|(name, _)| *name).collect();
    for name in &names {
        let field = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        let old = get(&before, name).map(|i| before[i].1);
        let new = get(&after, name).map(|i| after[i].1);
        compare(&field, old, new, changes);
    }
    let listed = |side: &[(&str, &Value)]| Value::from(side.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let lists = matches!((from, to), (Some(Value::Array(_)), Some(Value::Array(_))));
    if lists && before.len() == names.len() && after.len() == names.len() && listed(&before) != listed(&after) {
        let field = format!("{path} (order)");
        changes.push(Change { field, from: Some(listed(&before)), to: Some(listed(&after)) });
    }
}

/// Whether two values are one: numbers by what they are worth, since the wire knows doubles only.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_f64() == b.as_f64(),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.len() == b.len() && a.iter().all(|(name, value)| same(Some(value), b.get(name)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(from: Value, to: Value) -> Vec<String> {
        diff(Some(&from), Some(&to)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_the_same_is_not_told() {
        assert!(
            lines(json!({"a": 1, "b": [{"key": "x", "n": 1.0}]}), json!({"a": 1.0, "b": [{"key": "x", "n": 1}]}))
                .is_empty()
        );
    }

    #[test]
    fn members_with_keys_are_told_by_their_keys() {
        let from = json!({"owner": "ann", "variations": [{"key": "a", "payload": 1}, {"key": "b", "payload": 2}]});
        let to =
            json!({"variations": [{"key": "a", "payload": 3}, {"key": "b", "payload": 2}, {"key": "c", "payload": 4}]});
        assert_eq!(
            lines(from, to),
            [
                "- owner: \"ann\"",
                "~ variations.a.payload: 1 → 3",
                "+ variations.c.key: \"c\"",
                "+ variations.c.payload: 4",
            ]
        );
    }

    #[test]
    fn an_order_that_changed_is_a_change() {
        let (a, b) = (json!({"key": "a"}), json!({"key": "b"}));
        assert_eq!(lines(json!({"v": [a, b]}), json!({"v": [b, a]})), ["~ v (order): [\"a\",\"b\"] → [\"b\",\"a\"]"]);
    }

    #[test]
    fn something_new_is_told_whole_field_by_field() {
        let new = json!({"key": "k", "tags": ["x", "y"], "policy": {"kind": "manual"}, "empty": {}});
        let lines: Vec<String> = diff(None, Some(&new)).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["+ empty: {}", "+ key: \"k\"", "+ policy.kind: \"manual\"", "+ tags: [\"x\",\"y\"]"]);
    }
}
