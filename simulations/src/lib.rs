//! Simulated experiments: they show what an allocation policy costs and finds before it gets real traffic.
//!
//! # What is simulated
//!
//! A [`Scenario`] describes the traffic (new units per day, daily and weekly cycles), the true rate of every arm, the
//! faults (lost exposures, clients with old boundaries) and the policies to compare. [`simulate()`] runs it many times
//! in virtual time. Every simulated unit gets its variation from the same assignment code that serves real traffic, and
//! the policy `growth` decides with the same policy code. In one replication all policies get the same units, so that
//! results differ only because of the policies.
//!
//! The result has one [`RunResult`] per replication and policy, and one [`Summary`] per policy: regret, how often the
//! best arm is found, how many units are moved between variations, and how often each interval contains the true lift.
//! [`report`] draws them as one HTML page, [`export`] writes them as tables.
//!
//! Results depend on the scenario only: they are the same to the last digit on any number of threads.
//!
//! # How to run it
//!
//! ```text
//! inroad simulate s1                                  # a built-in scenario, results in the terminal
//! inroad simulate my.toml --report report.html        # a scenario of your own, with a report
//! cargo run --profile dist -p inroad-simulations --example worlds     # compare settings of the policy
//! cargo run --profile dist -p inroad-simulations --example tables     # the tables of docs/statistics.md
//! ```
//!
//! ```
//! use inroad_simulations::{Options, builtin, simulate};
//!
//! let scenario = builtin::scenario("s1")?.with_replications(1)?;
//! let simulation = simulate(&scenario, Options::default())?;
//! for summary in &simulation.summaries {
//!     println!("{}: regret {:.1}%", summary.policy, 100.0 * summary.regret.mean);
//! }
//! # Ok::<(), inroad_simulations::SimulationError>(())
//! ```
//!
//! # Where to start reading
//!
//! 1. [`scenario_doc`]: what a scenario file contains, and [`policies`]: which policies can be compared.
//! 2. [`world`]: the true rate of every arm at every tick. The module `visitors` draws the units and their outcomes.
//! 3. `replication`: one replication, tick by tick, for all policies together.
//! 4. `driver`: how a policy changes the boundaries of one run, with a diagram of one tick.
//! 5. `tallies` counts outcomes, `unit_moves` counts units that change their variation, `statistics` and [`estimates`]
//!    ask the policy crate for decisions and intervals.
//! 6. [`summary`] combines replications; [`report`] and [`export`] present them.
//!
//! Two modules stand alone: [`offline`] runs the same policies over a log of a real randomised experiment, and
//! [`bandit`] is the textbook bandit, to compare the samplers with the literature.

pub mod bandit;
pub mod builtin;
mod driver;
mod error;
pub mod estimates;
pub mod export;
pub mod offline;
pub mod policies;
mod replication;
pub mod report;
pub mod results;
pub mod scenario;
pub mod scenario_doc;
mod simulate;
mod statistics;
pub mod summary;
mod tallies;
mod unit_moves;
mod visitors;
pub mod world;

pub use bandit::{Bandit, BanditError, BanditRun, Sampler, play, replicate};
pub use error::SimulationError;
pub use policies::{PolicyDoc, PolicyKind, PolicySpec, ShipRule};
pub use results::RunResult;
pub use scenario::{Scenario, ScenarioDoc};
pub use simulate::{Options, Simulation, simulate};
pub use summary::{Summary, summarise};
pub use unit_moves::UnitMoves;
pub use world::World;
