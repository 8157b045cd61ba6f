//! The policies to estimate: by name or from a file, with settings that apply to all of them.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use inroad_simulations::{PolicyDoc, PolicyKind};
use serde::Deserialize;

use crate::failure::usage_error;
use crate::parse;
use crate::suggestions::{did_you_mean, explain_serde_error};

/// Policies by name or from a file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policies")]
pub(super) struct PoliciesArgs {
    /// Policies with default settings
    #[arg(long, value_delimiter = ',', default_values = ["growth", "equal", "unconstrained"], value_name = "NAMES")]
    policies: Vec<String>,
    /// TOML file with a list of policies: name, kind (growth, equal, fixed or unconstrained), settings and shares
    #[arg(long, value_name = "FILE", conflicts_with = "policies")]
    policies_file: Option<PathBuf>,
    /// Setting for all policies, such as floor=0.1 or burn_in=48h; may be repeated
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
                let path_text = || path.display().to_string();
                let text = std::fs::read_to_string(path)
                    .map_err(|e| usage_error(format!("cannot read {}: {e}", path_text())))?;
                toml::from_str::<PoliciesFile>(&text)
                    .map_err(|e| usage_error(explain_serde_error(e.to_string())))
                    .with_context(path_text)?
                    .policies
            }
            None => {
                self.policies.iter().map(|name| kind(name).map(PolicyDoc::with_defaults)).collect::<Result<_, _>>()?
            }
        };
        if docs.is_empty() {
            return Err(usage_error("no policies are given. Name at least one."));
        }
        for doc in &mut docs {
            doc.settings.extend(self.set.iter().cloned());
        }
        Ok(docs)
    }
}

fn kind(name: &str) -> anyhow::Result<PolicyKind> {
    match PolicyKind::by_name(name) {
        Some(PolicyKind::Fixed) => {
            Err(usage_error("the policy fixed needs a share for each arm. Define it in a --policies-file."))
        }
        Some(kind) => Ok(kind),
        None => Err(usage_error(format!(
            "there is no policy {name:?}.{} Use growth, equal or unconstrained, or give a --policies-file.",
            did_you_mean(name, PolicyKind::WITHOUT_SHARES.map(PolicyKind::name))
        ))),
    }
}
