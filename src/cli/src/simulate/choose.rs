//! Which scenarios and which policies are meant, and the command line that means the same again.

use std::path::Path;

use inroad_simulations::{PolicyDoc, PolicyKind, Scenario, ScenarioDoc, ShipRule, builtin};

use super::SimulateArgs;
use crate::failure::usage;

/// All scenarios as the options change them.
pub(super) fn scenarios(args: &SimulateArgs) -> anyhow::Result<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::with_capacity(args.scenarios.len());
    for word in &args.scenarios {
        let scenario = changed(read(word)?, args).map_err(|e| usage(format!("{word}: {e:#}")))?;
        let name = &scenario.doc().name;
        if scenarios.iter().any(|other| other.doc().name == *name) {
            return Err(usage(format!("{word}: another scenario is called {name:?} too: give each a name of its own")));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn read(word: &str) -> anyhow::Result<Scenario> {
    if let Some(text) = builtin::text(word) {
        return Ok(Scenario::from_toml(text)?);
    }
    let path = Path::new(word);
    let is_path = path.extension().is_some() || path.components().count() > 1 || path.exists();
    if !is_path {
        let names: Vec<&str> = builtin::names().collect();
        let message = format!("there is no scenario {word:?}: give a TOML file, or one of {}", names.join(", "));
        return Err(usage(message));
    }
    let text = std::fs::read_to_string(path).map_err(|e| usage(format!("cannot read {word}: {e}")))?;
    Scenario::from_toml(&text).map_err(|e| usage(format!("{word}: {}", e.to_string().trim_end())))
}

fn changed(scenario: Scenario, args: &SimulateArgs) -> anyhow::Result<Scenario> {
    let mut doc = ScenarioDoc::from(scenario);
    doc.replications = args.replications.unwrap_or(doc.replications);
    doc.seed = args.seed.unwrap_or(doc.seed);
    if doc.policies.is_empty() {
        doc.policies = PolicyDoc::usual();
    }
    if !args.policies.is_empty() {
        doc.policies = args.policies.iter().map(|name| policy(name, &doc.policies)).collect::<Result<_, _>>()?;
    }
    let growing = || doc.policies.iter().any(|policy| policy.kind == PolicyKind::Growth);
    if !args.set.is_empty() && !growing() {
        return Err(usage("--set changes growing policies, and there is none"));
    }
    for policy in doc.policies.iter_mut().filter(|policy| policy.kind == PolicyKind::Growth) {
        policy.settings.extend(args.set.iter().cloned());
    }
    if args.ship {
        let ships = |policy: &&PolicyDoc| policy.kind != PolicyKind::Thompson && policy.ship == ShipRule::Never;
        let again = |policy: &PolicyDoc| PolicyDoc {
            name: format!("{}+ship", policy.name),
            ship: ShipRule::Prompted,
            ..policy.clone()
        };
        let again: Vec<PolicyDoc> = doc.policies.iter().filter(ships).map(again).collect();
        doc.policies.extend(again);
    }
    Ok(Scenario::try_from(doc)?)
}

/// A policy of the scenario, or one that needs nothing but its name.
fn policy(name: &str, of_scenario: &[PolicyDoc]) -> anyhow::Result<PolicyDoc> {
    let plain = [PolicyKind::Growth, PolicyKind::Equal, PolicyKind::Thompson].map(PolicyDoc::plain);
    let all = || of_scenario.iter().chain(&plain);
    if let Some(found) = all().find(|policy| policy.name == name) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = all().map(|policy| policy.name.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    Err(usage(format!("there is no policy {name:?}: choose of {}", names.join(", "))))
}

/// What to type to get the same numbers.
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

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=,+:@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
