//! Tests of the invariants of this crate. The expected results are computed by simple code that shares nothing with the
//! code under test.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod allocation;
mod assignment;
mod clock_steps;
mod document_checks;
mod document_round_trip;
mod experiment_changes;
mod experiment_history;
mod growth_placement;
mod hash_contract;
mod stale_clients;
mod support;
