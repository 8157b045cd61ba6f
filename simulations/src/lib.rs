//! Worlds in virtual time, run unit by unit through the very assignment and policy code that serves.
//!
//! A [`Scenario`] says who comes, what they do, which policies to compare and how often; [`simulate`] runs it on all
//! processors and gives a [`RunResult`] per replication and policy; [`summarise`] puts those together. Everything is a
//! function of the scenario, to the last digit and on any number of threads. In one replication all policies meet the
//! very same units. [`offline`] sends a log of what really happened by the same policies instead.

pub mod bandit;
pub mod builtin;
mod cells;
mod crowd;
mod driver;
mod error;
pub mod estimates;
pub mod export;
mod judge;
pub mod offline;
pub mod policies;
mod replication;
pub mod report;
pub mod results;
pub mod scenario;
mod simulate;
pub mod summary;
mod visitors;
pub mod world;

pub use bandit::{Bandit, BanditError, Played, Sampler, play, replicate};
pub use crowd::Moves;
pub use error::SimulationError;
pub use policies::{PolicyDoc, PolicyKind, PolicySpec, ShipRule};
pub use results::RunResult;
pub use scenario::{Scenario, ScenarioDoc};
pub use simulate::{Options, Simulation, simulate};
pub use summary::{Summary, summarise};
pub use world::World;
