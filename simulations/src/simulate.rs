//! Replications on all processors, put back in their order.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::SimulationError;
use crate::replication::replicate;
use crate::results::RunResult;
use crate::scenario::Scenario;
use crate::summary::{Summary, summarise};
use crate::world::World;

/// How to run, none of which changes what comes out.
#[derive(Default, Clone, Copy)]
pub struct Options<'a> {
    /// Threads; those of the caller's pool, or one per processor, if none are given.
    pub threads: Option<usize>,
    /// Told after each replication how many are done, and of how many. Called from several threads.
    pub progress: Option<&'a (dyn Fn(u32, u32) + Sync)>,
}

/// Everything that a scenario came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Simulation {
    /// What was run.
    pub scenario: Scenario,
    /// One per policy, in the scenario's order.
    pub summaries: Vec<Summary>,
    /// One per replication and policy: policies within replications.
    pub runs: Vec<RunResult>,
}

/// Runs all replications of a scenario under all its policies.
pub fn simulate(scenario: &Scenario, options: Options<'_>) -> Result<Simulation, SimulationError> {
    let work = || all_replications(scenario, options);
    let runs = match options.threads {
        Some(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(work)?,
        None => work()?,
    };
    let summaries = summarise(scenario, &runs);
    Ok(Simulation { scenario: scenario.clone(), summaries, runs })
}

fn all_replications(scenario: &Scenario, options: Options<'_>) -> Result<Vec<RunResult>, SimulationError> {
    let world = World::new(scenario);
    let (total, done) = (scenario.doc().replications, AtomicU32::new(0));
    let one = |replication| {
        let results = replicate(scenario, &world, replication);
        if let Some(progress) = options.progress {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        }
        results
    };
    let runs: Vec<Vec<RunResult>> = (0..total).into_par_iter().map(one).collect::<Result<_, _>>()?;
    Ok(runs.into_iter().flatten().collect())
}
