//! Selects fields of a command's JSON output by their path, such as `state`, `arms.units` or `arms.green.units`.

use std::collections::BTreeSet;

use serde_json::Value;

/// The fields that name an element of an array: the first that it has.
const NAMES: &[&str] = &["key", "variation", "metric", "event"];

/// The selected fields, one per line. A field that does not exist is an error.
pub(crate) fn select(json: &str, paths: &BTreeSet<String>) -> Result<String, String> {
    let json: Value = serde_json::from_str(json).map_err(|e| format!("the output is not JSON: {e}\n{json}"))?;
    let line = |path: &String| {
        let text = find(&json, path.split('.')).ok_or_else(|| format!("the output has no field {path}:\n{json:#}"))?;
        Ok(format!("{path}: {text}\n"))
    };
    paths.iter().map(line).collect()
}

/// The text of a field. The values of an array are listed, each after the name of its element.
fn find<'p>(value: &Value, mut path: impl Iterator<Item = &'p str> + Clone) -> Option<String> {
    let Some(field) = path.next() else { return Some(text(value)) };
    let Value::Array(elements) = value else { return find(value.get(field)?, path) };
    if let Some(element) = elements.iter().find(|element| name_of(element) == Some(field)) {
        return find(element, path);
    }
    let listed = |element: &Value| {
        let value = find(element.get(field)?, path.clone())?;
        let value = if value.contains(", ") { format!("({value})") } else { value };
        Some(name_of(element).map_or_else(|| value.clone(), |name| format!("{name} {value}")))
    };
    elements.iter().map(listed).collect::<Option<Vec<_>>>().map(|values| join(&values))
}

fn name_of(element: &Value) -> Option<&str> {
    NAMES.iter().find_map(|field| element.get(field)?.as_str())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Array(values) => join(&values.iter().map(text).collect::<Vec<_>>()),
        other => other.to_string(),
    }
}

fn join(values: &[String]) -> String {
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

#[test]
fn fields_are_found_by_path() {
    let json = r#"{
        "state": "running", "warnings": [], "entries": [{"action": "kill"}, {"action": "start"}],
        "arms": [{"variation": "a", "steps": [{"event": "view", "n": 2}, {"event": "buy", "n": 1}]}, {"variation": "b", "steps": []}]
    }"#;
    let paths = ["state", "arms.a.steps.n", "arms.steps.n", "entries.action", "warnings"].map(str::to_owned).into();
    let lines = select(json, &paths).expect("all fields exist");
    let expected = [
        "arms.a.steps.n: view 2, buy 1",
        "arms.steps.n: a (view 2, buy 1), b none",
        "entries.action: kill, start",
        "state: running",
        "warnings: none",
    ];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    assert!(select(json, &["arms.c".to_owned()].into()).is_err());
}
