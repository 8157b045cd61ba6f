//! Experiments in files: TOML, YAML or JSON, one per file or several under `experiments`. The output of
//! `inroad experiment get --json` and `list --json` is such a file as well: its fields of the current state are ignored.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use inroad_assignment::{Definition, DefinitionDoc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{InvalidDefinitions, usage_error};
use crate::response_json::STATE_FIELDS;
use crate::suggestions::explain_serde_error;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Toml,
    /// Separate from YAML, which includes it, because the JSON parser has better messages.
    Yaml,
    Json,
}

/// Several experiments in one file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExperimentList {
    experiments: Vec<DefinitionDoc>,
}

/// A valid experiment, as written in the file and with all defaults.
#[derive(Debug, Clone)]
pub(crate) struct DeclaredExperiment {
    /// As written in the file.
    pub(crate) as_written: DefinitionDoc,
    /// With a value for every field.
    pub(crate) with_defaults: DefinitionDoc,
}

/// Reads all experiments of some files and of all files in some folders; `-` is standard input.
///
/// # Errors
///
/// Lists all errors of all experiments together.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<DeclaredExperiment>> {
    let (mut docs, mut errors) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        match read_file(&path) {
            Ok(read) => docs.extend(read),
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { check(docs) } else { Err(usage_error(errors.join("\n"))) }
}

/// The files to read: those named, and in folders those with a known extension, by name.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let cannot_read = |e: std::io::Error| usage_error(format!("cannot read {}: {e}", path.display()));
        let entries = std::fs::read_dir(path).map_err(cannot_read)?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let mut found: Vec<_> = entries.map_err(cannot_read)?;
        found.retain(|file| file.is_file() && format_of(file).is_ok());
        if found.is_empty() {
            let message = "the folder has no file with the extension .toml, .yaml, .yml or .json";
            return Err(usage_error(format!("{}: {message}.", path.display())));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<DefinitionDoc>> {
    let (text, format) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
        (text, format)
    } else {
        let text =
            std::fs::read_to_string(path).map_err(|e| usage_error(format!("cannot read {}: {e}", path.display())))?;
        (text, format_of(path)?)
    };
    parse(&text, format).map_err(|e| usage_error(format!("{}: {e}", path.display())))
}

fn format_of(path: &Path) -> anyhow::Result<Format> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => Ok(Format::Toml),
        Some("yaml" | "yml") => Ok(Format::Yaml),
        Some("json") => Ok(Format::Json),
        _ => Err(usage_error(format!(
            "{}: the format is unknown. Use the extension .toml, .yaml, .yml or .json.",
            path.display()
        ))),
    }
}

fn parse(text: &str, format: Format) -> Result<Vec<DefinitionDoc>, String> {
    // Find out first whether there is a list, so that errors describe the right form.
    let mut value = decode::<Value>(text, format)?;
    let is_list = value.get("experiments").is_some();
    let mut is_output = false;
    match value.get_mut("experiments").and_then(Value::as_array_mut) {
        Some(all) => all.iter_mut().for_each(|one| is_output |= remove_state(one)),
        None => is_output = remove_state(&mut value),
    }
    if is_output {
        let text = value.to_string();
        return if is_list {
            decode::<ExperimentList>(&text, Format::Json).map(|list| list.experiments)
        } else {
            decode::<DefinitionDoc>(&text, Format::Json).map(|one| vec![one])
        };
    }
    if is_list {
        return decode::<ExperimentList>(text, format).map(|list| list.experiments);
    }
    decode::<DefinitionDoc>(text, format).map(|one| vec![one])
}

/// Turns the output of `inroad experiment get --json` into the definition in it. Returns false, and changes nothing, for
/// anything else. In the output, `share` of a variation is the current one, and `initial_share` is that of the definition.
fn remove_state(experiment: &mut Value) -> bool {
    let Some(fields) = experiment.as_object_mut().filter(|fields| fields.contains_key("etag")) else { return false };
    for name in STATE_FIELDS {
        fields.remove(name);
    }
    for variation in fields.get_mut("variations").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(fields) = variation.as_object_mut() else { continue };
        fields.remove("killed");
        fields.remove("share");
        if let Some(share) = fields.remove("initial_share") {
            fields.insert("share".to_owned(), share);
        }
    }
    true
}

fn decode<T: DeserializeOwned>(text: &str, format: Format) -> Result<T, String> {
    let decoded = match format {
        Format::Toml => toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned()),
        Format::Yaml => serde_saphyr::from_str(text).map_err(|e| e.to_string()),
        Format::Json => serde_json::from_str(text).map_err(|e| e.to_string()),
    };
    decoded.map_err(explain_serde_error)
}

fn check(docs: Vec<DefinitionDoc>) -> anyhow::Result<Vec<DeclaredExperiment>> {
    let is_list = docs.len() > 1;
    let mut declared: Vec<DeclaredExperiment> = Vec::with_capacity(docs.len());
    let mut violations = Vec::new();
    for as_written in docs {
        let prefix = if is_list { format!("{}.", as_written.key) } else { String::new() };
        if declared.iter().any(|other| other.as_written.key == as_written.key) {
            return Err(usage_error(format!("experiment {:?} is declared twice. Declare it once.", as_written.key)));
        }
        match Definition::try_from(as_written.clone()) {
            Ok(definition) => declared.push(DeclaredExperiment { as_written, with_defaults: definition.into() }),
            Err(error) => violations.extend(error.violations.into_iter().map(|mut v| {
                v.field.insert_str(0, &prefix);
                v
            })),
        }
    }
    if violations.is_empty() { Ok(declared) } else { Err(anyhow::Error::new(InvalidDefinitions(violations))) }
}

#[cfg(test)]
mod tests {
    use inroad_assignment::experiment::RevisionCause;
    use inroad_assignment::{Arm, Experiment, KillTarget, Salt, Timestamp, Width};
    use inroad_wire::experiment_to_wire;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::response_json;

    const TOML: &str = r#"
        key = "checkout"
        [policy]
        kind = "thompson"
        floor = 0.1
        [[variations]]
        key = "off"
        payload = false
        [[variations]]
        key = "on"
        payload = true
        [[metrics]]
        key = "bought"
        event = "purchase"
        window = "3d"
        decision = true
    "#;

    const YAML: &str = "
key: checkout
policy: {kind: thompson, floor: 0.1}
variations:
  - {key: 'off', payload: false}
  - {key: 'on', payload: true}
metrics:
  - {key: bought, event: purchase, window: 3d, decision: true}
";

    #[test]
    fn all_formats_give_the_same_definition() {
        let toml = parse(TOML, Format::Toml).unwrap();
        let json = serde_json::to_string(&toml[0]).unwrap();
        assert_eq!(parse(YAML, Format::Yaml).unwrap(), toml);
        assert_eq!(parse(&json, Format::Json).unwrap(), toml);
        assert_eq!(check(toml).unwrap()[0].with_defaults.variations[1].share, Some(0.4));
    }

    proptest! {
        /// The output of `experiment get --json` is a file that changes nothing when it is applied.
        #[test]
        fn output_of_get_declares_the_same_experiment(
            texts in prop::collection::vec("[ -~äß]{0,12}", 3),
            shares in prop::collection::vec(prop::option::of(0.0..0.2f64), 1..4),
            thompson: bool, manual_clock: bool, start: bool, killed: bool,
            kind in 0..4usize, cap in 0.5..1e6f64, window in 1..300u64, unit in "[a-z]{1,8}",
        ) {
            let metric = [
                json!({"kind": "conversion"}), json!({"kind": "count"}), json!({"kind": "mean", "cap": cap}),
                json!({"kind": "ratio", "denominator": "visit"}),
            ][kind].clone();
            let mut variations = vec![json!({"key": "v0", "payload": {"text": texts[0], "nested": [1, null, 2.5]}})];
            variations.extend(shares.iter().enumerate().map(|(i, share)| {
                let mut one = json!({"key": format!("v{}", i + 1), "payload": {"n": i}, "description": texts[1]});
                if let Some(share) = share {
                    one["share"] = json!(share);
                }
                one
            }));
            let mut doc = json!({
                "key": "k", "owner": texts[2], "unit": unit, "variations": variations, "audience": "plan in [\"a\", \"b\"]",
                "clock": {"kind": if manual_clock { "manual" } else { "wall" }},
                "policy": {"kind": if thompson { "thompson" } else { "manual" }, "floor": 0.1},
                "overrides": [{"units": ["u1", "u2"], "variation": "v1"}, {"when": "beta == true", "variation": "v0"}],
                "metrics": [{"key": "m", "event": "e", "window": format!("{window}m"), "decision": true,
                    "guardrail": {"margin": 0.125, "action": "freeze"}}],
            });
            doc["metrics"][0].as_object_mut().unwrap().extend(metric.as_object().unwrap().clone());
            let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
            let Ok(definition) = Definition::try_from(doc) else { return Ok(()) };
            let mut experiment = Experiment::create(definition, Timestamp::from_micros(1_600_000_000_000_000));
            if start {
                experiment.start(experiment.created_at, Salt::parse("s1").unwrap()).unwrap();
                let half = Width::from_share(0.01).unwrap();
                experiment.grow(&[(Arm::new(1).unwrap(), half)], RevisionCause::Grown, experiment.created_at, experiment.created_at).unwrap();
            }
            experiment.set_killed(KillTarget::Variation(Arm::new(1).unwrap()), killed, experiment.created_at).unwrap();
            let sent = experiment_to_wire(&experiment, 7, experiment.created_at);
            let before = response_json::definition_of(&sent).unwrap();
            let output = response_json::experiment_json(&sent).unwrap();
            let list = json!({"experiments": [output]});
            for (text, format) in [(output.to_string(), Format::Json), (output.to_string(), Format::Yaml), (list.to_string(), Format::Json)] {
                let read = check(parse(&text, format).unwrap()).unwrap();
                prop_assert_eq!(&read[0].with_defaults, &before);
                prop_assert_eq!(read.len(), 1);
            }
        }
    }

    #[test]
    fn file_may_declare_several_experiments() {
        let text = "experiments:\n- {key: a, variations: [{key: x, payload: 1}, {key: y, payload: 2}]}\n- {key: b}\n";
        let docs = parse(text, Format::Yaml).unwrap();
        assert_eq!(docs.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let error = check(docs).unwrap_err();
        assert_eq!(error.downcast_ref::<InvalidDefinitions>().unwrap().0[0].field, "b.variations");
    }

    #[test]
    fn all_errors_are_listed_by_field() {
        let text = "key: No Slug\nvariations: [{key: x, payload: 1}, {key: x, payload: '2'}]\n";
        let error = check(parse(text, Format::Yaml).unwrap()).unwrap_err();
        let fields: Vec<&str> =
            error.downcast_ref::<InvalidDefinitions>().unwrap().0.iter().map(|v| v.field.as_str()).collect();
        assert!(fields.contains(&"key") && fields.contains(&"variations[1].key"), "{fields:?}");
    }

    #[test]
    fn misspelt_field_is_reported_with_line_and_suggestion() {
        let error = parse("key = \"a\"\nvariation = []\n", Format::Toml).unwrap_err();
        assert!(error.contains("variation") && error.contains("line 2"), "{error}");
        for (text, format) in [
            ("key = \"a\"\nvariation = []\n", Format::Toml),
            ("key: a\nvariation: []\n", Format::Yaml),
            ("{\"key\": \"a\", \"variation\": []}", Format::Json),
        ] {
            let error = parse(text, format).unwrap_err();
            assert!(error.contains("did you mean `variations`?"), "{error}");
        }
        assert!(format_of(Path::new("a.ini")).is_err());
    }
}
