//! The scenarios and policies that the command line selects, and the command line that repeats them.

use std::path::Path;

use inroad_simulations::{PolicyDoc, PolicyKind, Scenario, ScenarioDoc, ShipRule, builtin};

use super::SimulateArgs;
use crate::failure::usage_error;
use crate::suggestions::{did_you_mean, explain_serde_error};

/// The selected scenarios with the options applied.
pub(super) fn scenarios(args: &SimulateArgs) -> anyhow::Result<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::with_capacity(args.scenarios.len());
    for name_or_path in &args.scenarios {
        let scenario = with_options(read(name_or_path)?, args)
            .map_err(|e| usage_error(format!("{name_or_path}: {}", explain_serde_error(format!("{e:#}")))))?;
        let name = &scenario.doc().name;
        if scenarios.iter().any(|other| other.doc().name == *name) {
            return Err(usage_error(format!(
                "{name_or_path}: another scenario is also named {name:?}. Give each a different name."
            )));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn read(name_or_path: &str) -> anyhow::Result<Scenario> {
    if let Some(text) = builtin::text(name_or_path) {
        return Ok(Scenario::from_toml(text)?);
    }
    let path = Path::new(name_or_path);
    let is_path = path.extension().is_some() || path.components().count() > 1 || path.exists();
    if !is_path {
        let names: Vec<&str> = builtin::names().collect();
        let similar = did_you_mean(name_or_path, names.iter().copied());
        return Err(usage_error(format!(
            "there is no scenario {name_or_path:?}.{similar} Give a TOML file, or one of {}.",
            names.join(", ")
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| usage_error(format!("cannot read {name_or_path}: {e}")))?;
    Scenario::from_toml(&text)
        .map_err(|e| usage_error(format!("{name_or_path}: {}", explain_serde_error(e.to_string()))))
}

fn with_options(scenario: Scenario, args: &SimulateArgs) -> anyhow::Result<Scenario> {
    let mut doc = ScenarioDoc::from(scenario);
    doc.replications = args.replications.unwrap_or(doc.replications);
    doc.seed = args.seed.unwrap_or(doc.seed);
    if doc.policies.is_empty() {
        doc.policies = PolicyDoc::default_policies();
    }
    if !args.policies.is_empty() {
        doc.policies = args.policies.iter().map(|name| policy(name, &doc.policies)).collect::<Result<_, _>>()?;
    }
    let has_growth = || doc.policies.iter().any(|policy| policy.kind == PolicyKind::Growth);
    if !args.set.is_empty() && !has_growth() {
        return Err(usage_error(
            "--set applies to growth policies, and none is selected. Add growth to --policies, or omit --set.",
        ));
    }
    for policy in doc.policies.iter_mut().filter(|policy| policy.kind == PolicyKind::Growth) {
        policy.settings.extend(args.set.iter().cloned());
    }
    if args.ship {
        let can_ship = |policy: &&PolicyDoc| policy.kind != PolicyKind::Unconstrained && policy.ship == ShipRule::Never;
        let shipping = |policy: &PolicyDoc| PolicyDoc {
            name: format!("{}+ship", policy.name),
            ship: ShipRule::Prompted,
            ..policy.clone()
        };
        let added: Vec<PolicyDoc> = doc.policies.iter().filter(can_ship).map(shipping).collect();
        doc.policies.extend(added);
    }
    Ok(Scenario::try_from(doc)?)
}

/// A policy of the scenario, or a policy with default settings.
fn policy(name: &str, of_scenario: &[PolicyDoc]) -> anyhow::Result<PolicyDoc> {
    let plain = PolicyDoc::default_policies();
    let all = || of_scenario.iter().chain(&plain);
    let current_name = PolicyKind::by_name(name).map_or(name, |kind| kind.name());
    if let Some(found) = all().find(|policy| policy.name == name || policy.name == current_name) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = all().map(|policy| policy.name.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let similar = did_you_mean(name, names.iter().copied());
    Err(usage_error(format!("there is no policy {name:?}.{similar} Use one of {}.", names.join(", "))))
}

/// The command line that gives the same results.
pub(super) fn command(args: &SimulateArgs) -> String {
    let mut words: Vec<String> = ["inroad", "simulate"].map(str::to_owned).to_vec();
    words.extend(args.scenarios.iter().cloned());
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    option("--replications", args.replications.map(|n| n.to_string()));
    option("--seed", args.seed.map(|n| n.to_string()));
    option("--policies", (!args.policies.is_empty()).then(|| args.policies.join(",")));
    for (key, value) in &args.set {
        option("--set", Some(format!("{key}={value}")));
    }
    if args.ship {
        words.push("--ship".to_owned());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The word, quoted for a shell if necessary.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=,+:@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
