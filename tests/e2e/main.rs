//! End-to-end tests: the real binary is started, killed and restarted as a process, and real clients call it over the
//! network. Every test has its own server, port and folder, and waits for conditions instead of fixed times.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test reports a failure by panicking")]

mod harness;

mod all_loads;
mod assign;
mod catalogue_size;
mod clients;
mod clock;
mod concluded;
mod counterfactual;
mod demo;
mod disconnected_client;
mod durability;
mod errors;
mod flips;
mod full_disk;
mod funnel;
mod guardrails;
mod lifecycle;
mod maintenance;
mod memory;
mod metrics;
mod numbers;
mod overload;
mod policy;
mod replay;
mod restored_copy;
mod shutdown;
mod simulate;
mod traces;
mod watch;
mod worker_time;
