//! Writes simulations as one HTML report. The file is self-contained: it loads nothing and runs no script. The same
//! simulations give the same bytes.
//!
//! [`html`] is the entry. `page` lays the page out, `overview` compares scenarios, and `section` has the results of one
//! scenario: `setup` describes what was simulated, `estimators` shows coverage and bias. `time_charts` and `dot_plot`
//! draw the charts, with axes and markers from `plot`. `elements` has tables and cards, `text` formats numbers and
//! escapes text.

mod dot_plot;
mod elements;
mod estimators;
mod overview;
mod page;
mod plot;
mod section;
mod setup;
#[cfg(test)]
mod tests;
mod text;
mod time_charts;

use crate::policies::PolicyKind;
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// Writes simulations as one HTML page. `command` is shown as the command that runs them again.
#[must_use]
pub fn html(simulations: &[Simulation], command: Option<&str>) -> String {
    page::page(&Report::new(simulations), command)
}

/// The simulations of one report, and the marker of each policy.
struct Report<'a> {
    simulations: &'a [Simulation],
    /// All policies in the order of first use. The index selects the marker, so a policy has the same marker in all
    /// charts.
    policies: Vec<&'a str>,
}

impl<'a> Report<'a> {
    fn new(simulations: &'a [Simulation]) -> Self {
        let mut policies: Vec<&str> = Vec::new();
        for summary in simulations.iter().flat_map(|simulation| &simulation.summaries) {
            if !policies.contains(&summary.policy.as_str()) {
                policies.push(&summary.policy);
            }
        }
        Self { simulations, policies }
    }

    /// The index of a policy, which selects its marker.
    fn series(&self, policy: &str) -> usize {
        self.policies.iter().position(|name| *name == policy).unwrap_or(0)
    }
}

/// The summary of the first policy of a kind.
fn summary_of_kind(simulation: &Simulation, kind: PolicyKind) -> Option<&Summary> {
    let policy = simulation.scenario.policies().iter().find(|policy| policy.kind == kind)?;
    simulation.summaries.iter().find(|summary| summary.policy == policy.name)
}

/// The regret of a policy divided by that of unconstrained Thompson sampling. None for the reference itself, and if
/// it was not run or has no regret. Both policies served the same units, so the error is that of pairs, by the delta
/// method.
#[must_use]
pub fn regret_relative_to_unconstrained(simulation: &Simulation, policy: &str) -> Option<Mean> {
    let reference = summary_of_kind(simulation, PolicyKind::Unconstrained)?;
    let base = reference.regret.mean;
    if policy == reference.policy || base <= 0.0 {
        return None;
    }
    let regrets = |name: &str| -> Vec<f64> {
        simulation.runs.iter().filter(|run| run.policy == name).map(|run| run.regret).collect()
    };
    let (own, others) = (regrets(policy), regrets(&reference.policy));
    let n = own.len() as f64;
    if own.is_empty() || own.len() != others.len() {
        return None;
    }
    let ratio = own.iter().sum::<f64>() / n / base;
    let squares: f64 = own.iter().zip(&others).map(|(own, other)| (own - ratio * other).powi(2)).sum();
    let se = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() / base } else { 0.0 };
    Some(Mean { mean: ratio, se })
}
