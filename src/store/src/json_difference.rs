//! What differs between two JSON documents, as two documents of the same shape that contain only the differing parts.
//! The audit log stores these instead of whole experiments: a kill changes a few bytes of an experiment that may have
//! more than a megabyte. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// The longest unchanged text that an item of a list without keys keeps, in bytes.
const MAX_KEPT_TEXT: usize = 200;

/// The differing parts of both documents. Both are empty objects if the documents are equal.
///
/// - An object keeps the members that differ.
/// - A list whose items have a `key` keeps the items that differ, each with its key; if items were added, removed or
///   moved, all keys.
/// - A list of texts keeps the texts that were removed, and those that were added.
/// - Another list of objects keeps the items up to the last one that differs: equal ones before the first that differs
///   as empty objects, the others with their short texts, because nothing else says which item it is.
/// - Any other value is kept whole.
///
/// [`restore_before`] undoes the change.
pub(crate) fn differing_parts(before: &Value, after: &Value) -> (Value, Value) {
    if before == after {
        return (Value::Object(Map::new()), Value::Object(Map::new()));
    }
    differing(before, after)
}

fn differing(before: &Value, after: &Value) -> (Value, Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => differing_members(before, after),
        (Value::Array(before), Value::Array(after)) => {
            let (before, after) = match (keys(before), keys(after)) {
                (Some(old), Some(new)) => differing_keyed_items(&old, &new),
                _ => differing_items(before, after),
            };
            (Value::Array(before), Value::Array(after))
        }
        _ => (before.clone(), after.clone()),
    }
}

fn differing_members(before: &Map<String, Value>, after: &Map<String, Value>) -> (Value, Value) {
    let (mut old, mut new) = (Map::new(), Map::new());
    for (name, value) in before {
        match after.get(name) {
            Some(other) if other == value => {}
            Some(other) => {
                let (from, to) = differing(value, other);
                old.insert(name.clone(), from);
                new.insert(name.clone(), to);
            }
            None => {
                old.insert(name.clone(), value.clone());
            }
        }
    }
    for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        new.insert(name.clone(), value.clone());
    }
    (Value::Object(old), Value::Object(new))
}

/// Items with their keys; none if an item has no key or two have the same.
fn keys(items: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let keyed: Vec<_> = items.iter().map(|item| Some((item.get("key")?.as_str()?, item))).collect::<Option<_>>()?;
    let distinct: HashSet<&str> = keyed.iter().map(|(key, _)| *key).collect();
    (distinct.len() == keyed.len()).then_some(keyed)
}

fn differing_keyed_items(before: &[(&str, &Value)], after: &[(&str, &Value)]) -> (Vec<Value>, Vec<Value>) {
    let (old, new): (HashMap<_, _>, HashMap<_, _>) =
        (before.iter().copied().collect(), after.iter().copied().collect());
    let has_same_order = before.iter().map(|(key, _)| key).eq(after.iter().map(|(key, _)| key));
    let kept = |side: &[(&str, &Value)], pick: fn((Value, Value)) -> Value| -> Vec<Value> {
        let part = |(key, item): &(&str, &Value)| match (old.get(key), new.get(key)) {
            (Some(from), Some(to)) if from != to => {
                let mut part = pick(differing(from, to));
                part["key"] = Value::from(*key);
                Some(part)
            }
            (Some(_), Some(_)) => (!has_same_order).then(|| serde_json::json!({ "key": key })),
            _ => Some((*item).clone()),
        };
        side.iter().filter_map(part).collect()
    };
    (kept(before, |(from, _)| from), kept(after, |(_, to)| to))
}

fn differing_items(before: &[Value], after: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let are = |is: fn(&Value) -> bool| before.iter().chain(after).all(is);
    if are(Value::is_string) {
        let (removed, added) = (items_besides(before, after), items_besides(after, before));
        // The same texts in another order.
        let is_reordered = removed.is_empty() && added.is_empty();
        return if is_reordered { (before.to_vec(), after.to_vec()) } else { (removed, added) };
    }
    if !are(Value::is_object) {
        return (before.to_vec(), after.to_vec());
    }
    let shorter = before.len().min(after.len());
    let start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let end = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count().min(shorter - start);
    let (old, new) = (&before[start..before.len() - end], &after[start..after.len() - end]);
    let equal_items = || vec![Value::Object(Map::new()); start];
    if old.len() != new.len() {
        return ([equal_items(), old.to_vec()].concat(), [equal_items(), new.to_vec()].concat());
    }
    let part = |(a, b): (&Value, &Value)| {
        let (mut from, mut to) = differing(a, b);
        for (name, text) in a.as_object().into_iter().flatten() {
            if b.get(name) == Some(text) && text.as_str().is_some_and(|text| text.len() <= MAX_KEPT_TEXT) {
                from[name] = text.clone();
                to[name] = text.clone();
            }
        }
        (from, to)
    };
    let (from, to): (Vec<_>, Vec<_>) = old.iter().zip(new).map(part).unzip();
    ([equal_items(), from].concat(), [equal_items(), to].concat())
}

/// The document before a change, from the document after it and the differing parts of both. Texts that the change
/// removed from a list are at its end.
pub(crate) fn restore_before(document: &Value, before: &Value, after: &Value) -> Value {
    match (document, before, after) {
        (Value::Object(document), Value::Object(before), Value::Object(after)) => {
            let mut restored = document.clone();
            for name in after.keys().filter(|name| !before.contains_key(*name)) {
                restored.remove(name);
            }
            for (name, old) in before {
                let value = match (document.get(name), after.get(name)) {
                    (Some(now), Some(new)) => restore_before(now, old, new),
                    _ => old.clone(),
                };
                restored.insert(name.clone(), value);
            }
            Value::Object(restored)
        }
        (Value::Array(document), Value::Array(before), Value::Array(after)) => {
            Value::Array(restore_items(document, before, after))
        }
        _ => before.clone(),
    }
}

fn restore_items(document: &[Value], before: &[Value], after: &[Value]) -> Vec<Value> {
    if let (Some(items), Some(old), Some(new)) = (keys(document), keys(before), keys(after)) {
        let (items, new): (HashMap<_, _>, HashMap<_, _>) = (items.into_iter().collect(), new.into_iter().collect());
        let restored = |key: &str, old: &Value| match (items.get(key), new.get(key)) {
            (Some(item), Some(new)) => restore_before(item, old, new),
            _ => old.clone(),
        };
        let is_whole_order = old.iter().map(|(key, _)| *key).ne(keys(after).into_iter().flatten().map(|(key, _)| key));
        if is_whole_order {
            return old.iter().map(|(key, part)| restored(key, part)).collect();
        }
        let old: HashMap<_, _> = old.into_iter().collect();
        let unchanged_or_restored = |item: &Value| match item["key"].as_str().and_then(|key| Some((key, old.get(key)?)))
        {
            Some((key, part)) => restored(key, part),
            None => item.clone(),
        };
        return document.iter().map(unchanged_or_restored).collect();
    }
    let are = |is: fn(&Value) -> bool| document.iter().chain(before).chain(after).all(is);
    if are(Value::is_string) {
        return [items_besides(document, after), before.to_vec()].concat();
    }
    if !are(Value::is_object) {
        return before.to_vec();
    }
    let rest = document.get(after.len()..).unwrap_or_default();
    if before.len() != after.len() {
        let equal = before.iter().zip(after).take_while(|(a, b)| **a == Value::Object(Map::new()) && a == b).count();
        let start = document.get(..equal).unwrap_or_default();
        return [start, &before[equal..], rest].concat();
    }
    let restored =
        document.iter().zip(before.iter().zip(after)).map(|(item, (old, new))| restore_before(item, old, new));
    restored.chain(rest.iter().cloned()).collect()
}

/// The texts of one list that another does not have, or has less often.
fn items_besides(these: &[Value], others: &[Value]) -> Vec<Value> {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for other in others.iter().filter_map(Value::as_str) {
        *left.entry(other).or_default() += 1;
    }
    let is_missing = |item: &&Value| match left.get_mut(item.as_str().unwrap_or_default()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    these.iter().filter(is_missing).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn object_keeps_only_members_that_differ() {
        let before = json!({"a": {"b": 1, "c": 2}, "long": "x".repeat(1_000), "gone": null});
        let after = json!({"a": {"b": 1, "c": 3}, "long": "x".repeat(1_000), "new": [1]});
        assert_eq!(
            differing_parts(&before, &after),
            (json!({"a": {"c": 2}, "gone": null}), json!({"a": {"c": 3}, "new": [1]}))
        );
        assert_eq!(differing_parts(&before, &before), (json!({}), json!({})));
    }

    #[test]
    fn keyed_items_keep_their_key_and_what_differs() {
        let item = |key: &str, payload: u32| json!({"key": key, "payload": payload, "share": 0.5});
        let before = json!([item("a", 1), item("b", 2)]);
        let after = json!([item("a", 1), item("b", 3), item("c", 4)]);
        let expected = (
            json!([{"key": "a"}, {"key": "b", "payload": 2}]),
            json!([{"key": "a"}, {"key": "b", "payload": 3}, {"key": "c", "payload": 4, "share": 0.5}]),
        );
        assert_eq!(differing_parts(&before, &after), expected);
        let edited = json!([item("a", 1), item("b", 3)]);
        let expected = (json!([{"key": "b", "payload": 2}]), json!([{"key": "b", "payload": 3}]));
        assert_eq!(differing_parts(&before, &edited), expected);
        let reordered = json!([item("b", 2), item("a", 1)]);
        let expected = (json!([{"key": "a"}, {"key": "b"}]), json!([{"key": "b"}, {"key": "a"}]));
        assert_eq!(differing_parts(&before, &reordered), expected);
    }

    #[test]
    fn list_of_texts_keeps_what_was_removed_and_added() {
        let parts = |before: Value, after: Value| differing_parts(&before, &after);
        assert_eq!(parts(json!(["a", "b", "b", "c"]), json!(["b", "c", "d"])), (json!(["a", "b"]), json!(["d"])));
        assert_eq!(parts(json!(["a", "b"]), json!(["b", "a"])), (json!(["a", "b"]), json!(["b", "a"])));
        assert_eq!(parts(json!([1, 2]), json!([1, 3])), (json!([1, 2]), json!([1, 3])));
        assert_eq!(parts(json!([]), json!([0.5])), (json!([]), json!([0.5])));
    }

    #[test]
    fn objects_without_keys_keep_their_short_texts() {
        let rule = |units: &[&str], variation: &str| json!({"units": units, "variation": variation, "n": 1});
        let before = json!([rule(&["x"], "a"), rule(&["u1", "u2"], "b"), rule(&["y"], "c")]);
        let after = json!([rule(&["x"], "a"), rule(&["u1", "u3"], "b"), rule(&["y"], "c")]);
        let expected =
            (json!([{}, {"units": ["u2"], "variation": "b"}]), json!([{}, {"units": ["u3"], "variation": "b"}]));
        assert_eq!(differing_parts(&before, &after), expected);
        let appended = json!([rule(&["x"], "a"), rule(&["u1", "u2"], "b"), rule(&["y"], "c"), rule(&["z"], "d")]);
        let expected = (json!([{}, {}, {}]), json!([{}, {}, {}, rule(&["z"], "d")]));
        assert_eq!(differing_parts(&before, &appended), expected);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3u8).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        let object = |inner: BoxedStrategy<Value>| {
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect()))
        };
        leaf.boxed().prop_recursive(4, 40, 5, move |inner| {
            let objects = object(inner.clone()).boxed();
            let keyed = prop::collection::vec(("[a-d]", objects.clone()), 0..4).prop_map(|items| {
                let mut known = HashSet::new();
                let items = items.into_iter().filter(|(key, _)| known.insert(key.clone()));
                let with_key = |(key, mut item): (String, Value)| {
                    item["key"] = key.into();
                    item
                };
                items.map(with_key).collect::<Value>()
            });
            let list = |items: BoxedStrategy<Value>| prop::collection::vec(items, 0..4).prop_map(Value::from);
            let texts = prop::collection::vec("[a-c]{1,2}", 0..4).prop_map(Value::from);
            prop_oneof![objects.clone(), keyed, list(objects), list(inner), texts]
        })
    }

    /// Lists of texts in a fixed order: a removed text comes back at the end.
    fn with_sorted_texts(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, value)| (name.clone(), with_sorted_texts(value))).collect())
            }
            Value::Array(items) if items.iter().all(Value::is_string) => {
                let mut items = items.clone();
                items.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                Value::Array(items)
            }
            Value::Array(items) => items.iter().map(with_sorted_texts).collect(),
            leaf => leaf.clone(),
        }
    }

    proptest! {
        #[test]
        fn change_can_be_undone(before in value(), after in value()) {
            let (before, after) = (json!({ "x": before }), json!({ "x": after }));
            let (from, to) = differing_parts(&before, &after);
            let restored = restore_before(&after, &from, &to);
            prop_assert_eq!(with_sorted_texts(&restored), with_sorted_texts(&before), "{} {}", from, to);
        }
    }
}
