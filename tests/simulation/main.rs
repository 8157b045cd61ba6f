//! Simulation of the server: its core and its services run in one thread under a simulated clock, on a real store behind
//! a wrapper that fails, is slow and crashes. A seed determines what people, networks, clocks and the disk do. Decisions
//! and results are computed on another thread, which may end sooner or later, so a few seeds have more than one course.
//! After every step and at the end, what happened is compared with a model: the invariants I1 to I8.
//!
//! ```text
//!  seed ──► driver: people, applications, clocks, crashes ──► services ──► server core ──► faulty store ──► SQLite
//!              │                                                 │                            ▲
//!              └── model: what was acknowledged, seen, killed    └──► clients on bad networks  └── planted faults
//! ```
//!
//! A run consists of several lives of the server. Each life has a runtime of its own, with a paused clock that advances
//! when nothing is left to do; a crash drops the runtime at any instruction that waits. The last life has no faults,
//! and must bring everything in order.
//!
//! `INROAD_SIMULATION_SEEDS=1000` runs that many seeds, `INROAD_SIMULATION_SEED=17` one seed with a record of its steps.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, also in its helpers")]

mod checks;
mod client;
mod driver;
mod faulty_store;
mod model;
mod planted;
mod random;
mod simulated_time;

use driver::run;
use planted::Planted;

/// The seeds that `./test` runs.
const SEEDS: u64 = 20;
/// A planted fault must be found within this many seeds.
const SEEDS_TO_FIND: u64 = 40;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}: give a number")))
}

#[test]
fn invariants_hold_under_faults() {
    if let Some(seed) = number_from("INROAD_SIMULATION_SEED") {
        let record = run(seed, None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        println!("{record}");
        return;
    }
    let seeds = number_from("INROAD_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut totals = driver::Record::default();
    for seed in 0..seeds {
        let record = run(seed, None).unwrap_or_else(|violation| {
            panic!("seed {seed}: {violation}\nrepeat it with INROAD_SIMULATION_SEED={seed}")
        });
        totals.add(&record);
    }
    println!("{seeds} seeds: {totals}");
    totals.assert_everything_happened();
}

/// The seed that finds a planted fault, and what it says.
fn find(planted: Planted) -> (u64, String) {
    let found = (0..SEEDS_TO_FIND).find_map(|seed| run(seed, Some(planted)).err().map(|violation| (seed, violation)));
    found.unwrap_or_else(|| panic!("{planted:?} was not found in {SEEDS_TO_FIND} seeds"))
}

macro_rules! finds {
    ($($name:ident: $planted:ident, $says:literal;)*) => { $(
        #[test]
        fn $name() {
            let (seed, violation) = find(Planted::$planted);
            assert!(violation.contains($says), "seed {seed}: {violation}");
        }
    )* };
}

finds! {
    finds_an_acknowledgement_before_the_commit: AcknowledgeBeforeCommit, "I6";
    finds_an_event_counted_twice_after_a_restart: CountTwiceAfterRestart, "I5";
    finds_a_revision_published_after_it_takes_effect: PublishLate, "I4";
    finds_a_variation_that_shrank: ShrinkVariation, "I2";
    finds_a_kill_that_was_dropped_because_the_store_was_busy: DropKillWhenBusy, "I8";
    finds_a_tick_decided_twice: DecideTwice, "I7";
}
