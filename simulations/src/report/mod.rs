//! A report to look at: one HTML file with nothing to load and nothing to run, the same bytes for the same simulations.
//!
//! [`html`] writes it. `page` lays it out, `overview` has all scenarios side by side, `world` tells what was simulated,
//! `section` and `estimators` tell what came of it in one scenario, `courses` and `dots` draw, `plot` has the axes and `text` the letters.

mod courses;
mod dots;
mod estimators;
mod overview;
mod page;
mod plot;
mod section;
#[cfg(test)]
mod tests;
mod text;
mod world;

use crate::policies::PolicyKind;
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

/// Some simulations as one HTML page; `command` is what runs them again.
#[must_use]
pub fn html(simulations: &[Simulation], command: Option<&str>) -> String {
    page::page(&Report::new(simulations), command)
}

/// Simulations, and what all of their parts have to agree on.
struct Report<'a> {
    simulations: &'a [Simulation],
    /// All policies in the order in which they first come: a policy has the same mark in all plots.
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

    /// A policy's number, by which it is marked.
    fn series(&self, policy: &str) -> usize {
        self.policies.iter().position(|name| *name == policy).unwrap_or(0)
    }
}

/// The first policy of a kind, as it did.
fn of_kind(simulation: &Simulation, kind: PolicyKind) -> Option<&Summary> {
    let policy = simulation.scenario.policies().iter().find(|policy| policy.kind == kind)?;
    simulation.summaries.iter().find(|summary| summary.policy == policy.name)
}

/// A policy's regret as a multiple of unconstrained Thompson sampling's, whose own is none. Both met the same units, so
/// the error is that of the pairs, by the delta method.
#[must_use]
pub fn over_reference(simulation: &Simulation, policy: &str) -> Option<Mean> {
    let reference = of_kind(simulation, PolicyKind::Thompson)?;
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
