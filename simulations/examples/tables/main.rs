//! Prints the tables of docs/statistics.md as Markdown. With 200 replications it takes about 20 minutes on two cores.
//!
//! ```text
//! cargo run --profile dist -p inroad-simulations --example tables -- \
//!     [--replications 200] [--only regret,growth,grid,proposals,statements] [--rows TEXT] [--commit HASH | --seed N]
//! ```
//!
//! `--rows` prints only the rows of the coverage grid whose name contains the text, so that a long table can be made in parts.
//! All seeds derive from the hash of the commit that is checked out. The output names it; `--commit` repeats its run.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod grid;
mod growth;
mod regret;
mod run;
mod seeds;
mod stopping;

use std::error::Error;

use run::TableRun;
use seeds::Seeds;

/// A group of tables that are printed together: its name for `--only`, and the function that prints it.
type Part = (&'static str, fn(&TableRun) -> Result<(), Box<dyn Error>>);

/// All tables, in the order of the document.
const PARTS: &[Part] = &[
    ("regret", regret::print),
    ("growth", growth::print),
    ("grid", grid::print),
    ("proposals", stopping::proposals),
    ("statements", stopping::false_statements),
];

const USAGE: &str = "usage: tables [--replications N] [--only PART,…] [--rows TEXT] [--commit HASH | --seed N]";

fn main() -> Result<(), Box<dyn Error>> {
    let (mut replications, mut seeds, mut only, mut rows) = (200, None, None::<Vec<String>>, String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match name.as_str() {
            "--replications" => replications = value.parse()?,
            "--rows" => rows = value,
            "--commit" => seeds = Some(Seeds::of_commit(&value)?),
            "--seed" => seeds = Some(Seeds::Number(value.parse()?)),
            "--only" => only = Some(value.split(',').map(str::to_owned).collect()),
            _ => return Err(USAGE.into()),
        }
    }
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = only.iter().flatten().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("there are no tables {unknown:?}. Use {}", names.join(", ")).into());
    }
    let seeds = seeds.map_or_else(Seeds::of_checked_out_commit, Ok)?;
    let run = TableRun { replications, seeds, rows };
    println!(
        "{replications} replications; {} where growth runs alone. ± is one Monte Carlo standard error; {}.",
        run.replications_alone(),
        run.seeds
    );
    for (name, print) in PARTS {
        if only.as_ref().is_none_or(|only| only.iter().any(|chosen| chosen == name)) {
            print(&run)?;
        }
    }
    Ok(())
}
