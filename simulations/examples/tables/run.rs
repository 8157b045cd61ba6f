//! What all tables of one run share: the number of replications, the seeds, and the way a scenario is run. A table
//! module asks [`TableRun`] for its simulations, so that none of them chooses its own seed.

use std::error::Error;

use inroad_simulations::summary::{Mean, Summary};
use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, Simulation, builtin, simulate};

use crate::seeds::Seeds;

/// Factor for the number of replications where growth runs alone. How often an interval or a rule is wrong needs many
/// runs, and growth alone is fast.
pub(crate) const GROWTH_ALONE_FACTOR: u32 = 10;

/// The options of one run of the tables.
pub(crate) struct TableRun {
    /// Replications per scenario.
    pub(crate) replications: u32,
    /// The source of all seeds.
    pub(crate) seeds: Seeds,
    /// Only rows of the grid whose name contains this are made. Empty for all.
    pub(crate) rows: String,
}

impl TableRun {
    /// Replications where growth runs alone.
    pub(crate) fn replications_alone(&self) -> u32 {
        GROWTH_ALONE_FACTOR * self.replications
    }

    /// Runs `scenario` under `policies`. `name` identifies the simulation within the tables and determines its seed.
    ///
    /// # Errors
    ///
    /// A value is out of range, or a simulation failed.
    pub(crate) fn simulate(
        &self,
        name: &str,
        scenario: Scenario,
        replications: u32,
        policies: Vec<PolicyDoc>,
    ) -> Result<Simulation, Box<dyn Error>> {
        self.simulate_with(name, scenario, replications, policies, Options::default())
    }

    /// The same, but only what the policies decide, and the regret. Much faster.
    ///
    /// # Errors
    ///
    /// As [`TableRun::simulate`].
    pub(crate) fn simulate_decisions(
        &self,
        name: &str,
        scenario: Scenario,
        replications: u32,
        policies: Vec<PolicyDoc>,
    ) -> Result<Simulation, Box<dyn Error>> {
        let options = Options { decisions_only: true, ..Options::default() };
        self.simulate_with(name, scenario, replications, policies, options)
    }

    fn simulate_with(
        &self,
        name: &str,
        scenario: Scenario,
        replications: u32,
        policies: Vec<PolicyDoc>,
        options: Options<'_>,
    ) -> Result<Simulation, Box<dyn Error>> {
        eprintln!("{name}");
        let scenario = scenario.with_seed(self.seeds.seed_of(name)?)?.with_replications(replications)?;
        Ok(simulate(&scenario.with_policies(policies)?, options)?)
    }

    /// Runs growth alone in a built-in scenario.
    ///
    /// # Errors
    ///
    /// No scenario has this name, or a simulation failed.
    pub(crate) fn growth_alone(&self, scenario: &str) -> Result<Simulation, Box<dyn Error>> {
        let growth = vec![PolicyDoc::with_defaults(PolicyKind::Growth)];
        let name = format!("{scenario}, growth alone");
        self.simulate(&name, builtin::scenario(scenario)?, self.replications_alone(), growth)
    }
}

/// The summary of one policy.
pub(crate) fn summary_of<'a>(simulation: &'a Simulation, policy: &str) -> Option<&'a Summary> {
    simulation.summaries.iter().find(|summary| summary.policy == policy)
}

/// A fraction in percent with its standard error.
pub(crate) fn percent(mean: Option<Mean>) -> String {
    mean.map_or_else(|| "–".to_owned(), |mean| format!("{:.1} ± {:.1}", 100.0 * mean.mean, 100.0 * mean.se))
}
