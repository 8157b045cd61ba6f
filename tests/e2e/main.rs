//! End to end: the real binary, started, killed and restarted as a process, asked over the network by real clients.
//! Every test has a server, a port and a folder of its own, waits for conditions and never for luck.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test tells what it found by panicking")]

mod harness;

mod assign;
mod clients;
mod counterfactual;
mod demo;
mod durability;
mod errors;
mod flips;
mod flips_cut;
mod full_disk;
mod funnel;
mod guardrails;
mod lifecycle;
mod policy;
mod replay;
mod shutdown;
mod simulate;
mod upkeep;
mod watch;
