//! The fields in which two definitions differ, for entries of the audit log and for the preview of an edit.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_variations_are_named_by_key() {
        let definition = |payload: &str| json!({"variations": [{"key": "red", "payload": payload}], "tags": ["a"]});
        let changes = changed_fields(&definition("x"), &definition("y"));
        let expected =
            ChangedField { field: "variations.red.payload".to_owned(), from: "x".to_owned(), to: "y".to_owned() };
        assert_eq!(changes, [expected]);
    }
}
