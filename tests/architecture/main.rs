//! Rules for the code that the compiler does not check. ARCHITECTURE.md gives the reasons.

#![allow(clippy::expect_used, reason = "a test reports a failure by panicking")]

mod binary_size;
mod crates;
mod cycles;
mod files;
mod source;
mod words;
