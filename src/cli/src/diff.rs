//! The differences between two definitions of an experiment, field by field, with the field names of the file. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// A field that differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldChange {
    /// Its path, such as `variations.womens-email.payload`.
    pub(crate) field: String,
    /// The old value; `None` if the field is new.
    pub(crate) from: Option<Value>,
    /// The new value; `None` if the field is removed.
    pub(crate) to: Option<Value>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from.as_ref().map(rounded), self.to.as_ref().map(rounded)) {
            (Some(from), Some(to)) => write!(f, "~ {}: {from} → {to}", self.field),
            (None, Some(to)) => write!(f, "+ {}: {to}", self.field),
            (Some(from), None) => write!(f, "- {}: {from}", self.field),
            (None, None) => write!(f, "  {}", self.field),
        }
    }
}

/// The value without the error of a share's conversion: 0.55 instead of 0.5499999999999998.
fn rounded(value: &Value) -> Value {
    const PRECISION: f64 = 1e12;
    match value.as_f64().filter(|number| number.fract() != 0.0 && number.abs() < 1.0) {
        Some(number) => Value::from((number * PRECISION).round() / PRECISION),
        None => value.clone(),
    }
}

/// All differences, in the order of their paths.
pub(crate) fn diff(from: Option<&Value>, to: Option<&Value>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", from, to, &mut changes);
    changes
}

/// The named members of an object, or of a list whose members have keys. Such lists are compared by key, not by position.
fn members(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(fields) if !fields.is_empty() => Some(fields.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| Some((item.get("key")?.as_str()?, item))).collect()
        }
        _ => None,
    }
}

fn compare(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<FieldChange>) {
    if is_equal(from, to) {
        return;
    }
    let (before, after) = (from.and_then(members), to.and_then(members));
    let is_leaf = (from.is_some() && before.is_none()) || (to.is_some() && after.is_none());
    if is_leaf {
        changes.push(FieldChange { field: path.to_owned(), from: from.cloned(), to: to.cloned() });
        return;
    }
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let position = |side: &[(&str, &'_ Value)], name: &str| side.iter().position(|(key, _)| *key == name);
    let names: BTreeSet<&str> = before.iter().chain(&after).map(|(name, _)| *name).collect();
    for name in &names {
        let field = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        let old = position(&before, name).map(|i| before[i].1);
        let new = position(&after, name).map(|i| after[i].1);
        compare(&field, old, new, changes);
    }
    let keys = |side: &[(&str, &Value)]| Value::from(side.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let are_lists = matches!((from, to), (Some(Value::Array(_)), Some(Value::Array(_))));
    if are_lists && before.len() == names.len() && after.len() == names.len() && keys(&before) != keys(&after) {
        let field = format!("{path} (order)");
        changes.push(FieldChange { field, from: Some(keys(&before)), to: Some(keys(&after)) });
    }
}

/// Whether two values are equal. Numbers are compared as doubles, since the wire format has no integers.
fn is_equal(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_f64() == b.as_f64(),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(Some(a), Some(b)))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.len() == b.len() && a.iter().all(|(name, value)| is_equal(Some(value), b.get(name)))
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
    fn equal_values_are_no_change() {
        assert!(
            lines(json!({"a": 1, "b": [{"key": "x", "n": 1.0}]}), json!({"a": 1.0, "b": [{"key": "x", "n": 1}]}))
                .is_empty()
        );
    }

    #[test]
    fn shares_are_shown_without_errors_of_conversion() {
        let lines = lines(json!({"share": 0.549_999_999_999_999_8}), json!({"share": 0.25}));
        assert_eq!(lines, ["~ share: 0.55 → 0.25"]);
    }

    #[test]
    fn list_members_are_named_by_their_keys() {
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
    fn new_order_is_a_change() {
        let (a, b) = (json!({"key": "a"}), json!({"key": "b"}));
        assert_eq!(lines(json!({"v": [a, b]}), json!({"v": [b, a]})), ["~ v (order): [\"a\",\"b\"] → [\"b\",\"a\"]"]);
    }

    #[test]
    fn new_definition_lists_every_field() {
        let new = json!({"key": "k", "tags": ["x", "y"], "policy": {"kind": "manual"}, "empty": {}});
        let lines: Vec<String> = diff(None, Some(&new)).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["+ empty: {}", "+ key: \"k\"", "+ policy.kind: \"manual\"", "+ tags: [\"x\",\"y\"]"]);
    }
}
