//! Every world under growth and under an equal split: `cargo run --release -p inroad-simulations --example worlds [RUNS]`.

#![allow(clippy::print_stdout)]

use inroad_assignment::ThompsonSettings;
use inroad_simulations::{Rule, SimulationError, run, worlds};

fn main() -> Result<(), SimulationError> {
    let runs: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20);
    println!("{:18} {:>8} {:>8} {:>8} {:>9} {:>9}", "world", "equal", "growth", "ratio", "crossed", "moved");
    for world in worlds() {
        let (mut equal, mut growth, mut crossed, mut moved, mut units) = (0.0, 0.0, 0, 0, 0);
        for seed in 1..=runs {
            equal += run(&world, &Rule::EqualSplit, seed)?.regret;
            let outcome = run(&world, &Rule::Growth(ThompsonSettings::default()), seed)?;
            growth += outcome.regret;
            crossed += outcome.crossed;
            moved += outcome.moved_between_variations;
            units += outcome.units;
        }
        let (equal, growth) = (100.0 * equal / runs as f64, 100.0 * growth / runs as f64);
        let crossed = 100.0 * crossed as f64 / units as f64;
        println!("{:18} {equal:>7.2}% {growth:>7.2}% {:>8.2} {crossed:>8.1}% {moved:>9}", world.name, growth / equal);
    }
    Ok(())
}
