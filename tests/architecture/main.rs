//! House rules that a compiler does not check. ARCHITECTURE.md gives the reasons.

#![allow(clippy::expect_used, reason = "a test reports what it found by panicking")]

mod binary_size;
mod crates;
mod cycles;
mod files;
mod source;
mod words;
