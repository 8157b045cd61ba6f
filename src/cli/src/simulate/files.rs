//! The files that a simulation leaves.

use std::path::Path;

use anyhow::Context;
use inroad_simulations::{Simulation, SimulationError, export};

use super::SimulateArgs;
use crate::failure::usage;

/// Refuses places that cannot be written to, as far as can be told without leaving anything there.
pub(super) fn check(args: &SimulateArgs) -> anyhow::Result<()> {
    let all: Vec<&Path> = [&args.report, &args.csv, &args.runs_csv].into_iter().flatten().map(AsRef::as_ref).collect();
    for (i, path) in all.iter().enumerate() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(usage(format!("cannot write {}: there is no folder {}", path.display(), folder.display())));
        }
        if path.is_dir() {
            return Err(usage(format!("cannot write {}: it is a folder", path.display())));
        }
        if all[..i].contains(path) {
            return Err(usage(format!("{} is to hold two things: give each a file of its own", path.display())));
        }
    }
    Ok(())
}

/// Writes a file whole.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The policies' numbers of all simulations as one CSV.
pub(super) fn summaries(simulations: &[Simulation]) -> anyhow::Result<Vec<u8>> {
    joined(simulations, |simulation, to| export::write_summaries(simulation, to))
}

/// The runs' numbers of all simulations as one CSV.
pub(super) fn runs(simulations: &[Simulation]) -> anyhow::Result<Vec<u8>> {
    joined(simulations, |simulation, to| export::write_runs(simulation, to))
}

/// Each simulation writes its head again; one is enough.
fn joined(
    simulations: &[Simulation],
    write: impl Fn(&Simulation, &mut Vec<u8>) -> Result<(), SimulationError>,
) -> anyhow::Result<Vec<u8>> {
    let mut all = Vec::new();
    for simulation in simulations {
        let mut one = Vec::new();
        write(simulation, &mut one)?;
        let head = if all.is_empty() { 0 } else { one.iter().position(|b| *b == b'\n').map_or(0, |end| end + 1) };
        all.extend_from_slice(&one[head..]);
    }
    Ok(all)
}
