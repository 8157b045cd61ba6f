//! The invariants of this crate, each held against an oracle that shares no code with what it judges.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod allocation;
mod common;
mod contract;
mod definition;
mod geometry;
mod life;
mod served;
