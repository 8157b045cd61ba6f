//! Which policies are asked about: by name, or out of a file, with settings on top.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use inroad_simulations::{PolicyDoc, PolicyKind};
use serde::Deserialize;

use crate::failure::usage;
use crate::parse;

/// Policies by name or from a file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policies")]
pub(super) struct PoliciesArgs {
    /// Which policies, with their defaults
    #[arg(long, value_delimiter = ',', default_values = ["growth", "equal", "thompson"], value_name = "NAMES")]
    policies: Vec<String>,
    /// Policies as a scenario has them: [[policies]] with a name, a kind (growth, equal, fixed or thompson), settings and
    /// shares
    #[arg(long, value_name = "FILE", conflicts_with = "policies")]
    policies_file: Option<PathBuf>,
    /// A setting for all of them, as an experiment's policy has it: floor=0.1, burn_in=48h
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::setting)]
    set: Vec<(String, toml::Value)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoliciesFile {
    policies: Vec<PolicyDoc>,
}

impl PoliciesArgs {
    pub(super) fn docs(&self) -> anyhow::Result<Vec<PolicyDoc>> {
        let mut docs = match &self.policies_file {
            Some(path) => {
                let shown = || path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|e| usage(format!("cannot read {}: {e}", shown())))?;
                toml::from_str::<PoliciesFile>(&text).map_err(|e| usage(e.to_string())).with_context(shown)?.policies
            }
            None => self.policies.iter().map(|name| kind(name).map(PolicyDoc::plain)).collect::<Result<_, _>>()?,
        };
        if docs.is_empty() {
            return Err(usage("there are no policies: name one"));
        }
        for doc in &mut docs {
            doc.settings.extend(self.set.iter().cloned());
        }
        Ok(docs)
    }
}

fn kind(name: &str) -> anyhow::Result<PolicyKind> {
    match name {
        "growth" => Ok(PolicyKind::Growth),
        "equal" => Ok(PolicyKind::Equal),
        "thompson" => Ok(PolicyKind::Thompson),
        "fixed" => Err(usage("fixed needs a share of each arm: give it in a --policies-file")),
        _ => Err(usage(format!(
            "there is no policy {name:?}: choose of growth, equal and thompson, or give a --policies-file"
        ))),
    }
}
