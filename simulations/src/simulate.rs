//! Runs the replications of a scenario in parallel and returns them in order.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::SimulationError;
use crate::replication::replicate;
use crate::results::RunResult;
use crate::scenario::Scenario;
use crate::summary::{Summary, summarise};

/// How a scenario is run. No option changes a decision or the regret.
#[derive(Default, Clone, Copy)]
pub struct Options<'a> {
    /// Number of threads. If not given: those of the caller's rayon pool, or one per processor.
    pub threads: Option<usize>,
    /// Called after each replication with the number done and the total. Called from several threads.
    pub progress: Option<&'a (dyn Fn(u32, u32) + Sync)>,
    /// Compute only what policies decide, and the regret: much faster. The results then have no estimates, no sample
    /// ratio and no evidence of harm.
    pub decisions_only: bool,
}

/// All results of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Simulation {
    /// The scenario that was run.
    pub scenario: Scenario,
    /// One per policy, in the order of the scenario.
    pub summaries: Vec<Summary>,
    /// One per replication and policy, sorted by replication, then in the order of the policies.
    pub runs: Vec<RunResult>,
}

/// Runs all replications of a scenario under all its policies.
///
/// # Errors
///
/// The threads could not be started, or a policy or an estimate failed.
pub fn simulate(scenario: &Scenario, options: Options<'_>) -> Result<Simulation, SimulationError> {
    let run_all = || run_replications(scenario, options);
    let runs = match options.threads {
        Some(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(run_all)?,
        None => run_all()?,
    };
    let summaries = summarise(scenario, &runs);
    Ok(Simulation { scenario: scenario.clone(), summaries, runs })
}

fn run_replications(scenario: &Scenario, options: Options<'_>) -> Result<Vec<RunResult>, SimulationError> {
    let world = scenario.world();
    let (total, done) = (scenario.doc().replications, AtomicU32::new(0));
    let run_one = |replication| {
        let results = replicate(scenario, &world, replication, options.decisions_only);
        if let Some(progress) = options.progress {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        }
        results
    };
    let runs: Vec<Vec<RunResult>> = (0..total).into_par_iter().map(run_one).collect::<Result<_, _>>()?;
    Ok(runs.into_iter().flatten().collect())
}
