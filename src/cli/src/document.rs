//! Experiments in files: TOML, YAML or JSON, one to a file or several under `experiments`.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use inroad_assignment::{Definition, DefinitionDoc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Faulty, usage};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Toml,
    /// JSON is YAML too, but has better messages of its own.
    Yaml,
    Json,
}

/// Several experiments in one file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    experiments: Vec<DefinitionDoc>,
}

/// An experiment as it was written, and as it is meant: checked, with every default in its place.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    /// What the file says.
    pub(crate) written: DefinitionDoc,
    /// The same with its defaults.
    pub(crate) meant: DefinitionDoc,
}

/// Reads all experiments of a file, `-` being standard input; every fault of every one of them is told at once.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Declared>> {
    let (text, format) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
        (text, format)
    } else {
        let text = std::fs::read_to_string(path).map_err(|e| usage(format!("cannot read {}: {e}", path.display())))?;
        (text, format_of(path)?)
    };
    check(parse(&text, format).map_err(|e| usage(format!("{}: {e}", path.display())))?)
}

fn format_of(path: &Path) -> anyhow::Result<Format> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => Ok(Format::Toml),
        Some("yaml" | "yml") => Ok(Format::Yaml),
        Some("json") => Ok(Format::Json),
        _ => Err(usage(format!(
            "{}: name the file .toml, .yaml, .yml or .json, so that it is known how to read it",
            path.display()
        ))),
    }
}

fn parse(text: &str, format: Format) -> Result<Vec<DefinitionDoc>, String> {
    // Looked at first as anything at all, so that faults are told against the form that was meant.
    let several = decode::<serde_json::Value>(text, format)?.get("experiments").is_some();
    if several {
        return decode::<Several>(text, format).map(|several| several.experiments);
    }
    decode::<DefinitionDoc>(text, format).map(|one| vec![one])
}

fn decode<T: DeserializeOwned>(text: &str, format: Format) -> Result<T, String> {
    match format {
        Format::Toml => toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned()),
        Format::Yaml => serde_saphyr::from_str(text).map_err(|e| e.to_string()),
        Format::Json => serde_json::from_str(text).map_err(|e| e.to_string()),
    }
}

fn check(docs: Vec<DefinitionDoc>) -> anyhow::Result<Vec<Declared>> {
    let many = docs.len() > 1;
    let mut declared: Vec<Declared> = Vec::with_capacity(docs.len());
    let mut faults = Vec::new();
    for written in docs {
        let prefix = if many { format!("{}.", written.key) } else { String::new() };
        if declared.iter().any(|other| other.written.key == written.key) {
            return Err(usage(format!("experiment {:?} is in the file twice: name each once", written.key)));
        }
        match Definition::try_from(written.clone()) {
            Ok(definition) => declared.push(Declared { written, meant: definition.into() }),
            Err(error) => faults.extend(error.violations.into_iter().map(|mut v| {
                v.field.insert_str(0, &prefix);
                v
            })),
        }
    }
    if faults.is_empty() { Ok(declared) } else { Err(anyhow::Error::new(Faulty(faults))) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_format_says_the_same() {
        let toml = parse(TOML, Format::Toml).unwrap();
        let json = serde_json::to_string(&toml[0]).unwrap();
        assert_eq!(parse(YAML, Format::Yaml).unwrap(), toml);
        assert_eq!(parse(&json, Format::Json).unwrap(), toml);
        assert_eq!(check(toml).unwrap()[0].meant.variations[1].share, Some(0.2));
    }

    #[test]
    fn a_file_may_hold_several() {
        let text = "experiments:\n- {key: a, variations: [{key: x, payload: 1}, {key: y, payload: 2}]}\n- {key: b}\n";
        let docs = parse(text, Format::Yaml).unwrap();
        assert_eq!(docs.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let faults = check(docs).unwrap_err();
        assert_eq!(faults.downcast_ref::<Faulty>().unwrap().0[0].field, "b.variations");
    }

    #[test]
    fn all_faults_are_told_by_field() {
        let text = "key: No Slug\nvariations: [{key: x, payload: 1}, {key: x, payload: '2'}]\n";
        let error = check(parse(text, Format::Yaml).unwrap()).unwrap_err();
        let fields: Vec<&str> = error.downcast_ref::<Faulty>().unwrap().0.iter().map(|v| v.field.as_str()).collect();
        assert!(fields.contains(&"key") && fields.contains(&"variations[1].key"), "{fields:?}");
    }

    #[test]
    fn a_misspelt_field_is_told_with_its_line() {
        let fault = parse("key = \"a\"\nvariation = []\n", Format::Toml).unwrap_err();
        assert!(fault.contains("variation") && fault.contains("line 2"), "{fault}");
        assert!(format_of(Path::new("a.ini")).is_err());
    }
}
