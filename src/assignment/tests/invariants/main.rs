//! The invariants of this crate, each held against an oracle that shares no code with what it judges.

mod allocation;
mod common;
mod contract;
mod geometry;
