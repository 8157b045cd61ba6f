//! Worlds in virtual time, run unit by unit through the very assignment and policy code that serves.
//!
//! A [`World`] says who comes and what they do; [`run`] lets an experiment live in it under a [`Rule`] and tells what it
//! cost. Everything is a function of the world, the rule and a seed.

pub mod bandit;
pub mod run;
pub mod world;

pub use bandit::{Bandit, BanditError, Played, Sampler, Summary, play, replicate};
pub use run::{Outcome, Rule, SimulationError, run};
pub use world::{World, named, worlds};
