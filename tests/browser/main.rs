//! What a person meets: the pages that the real binary serves, in a real browser, by mouse and by keyboard.
//! Every test has a server, a browser and ports of its own. No test needs to look whether a page complained: the
//! browser tells when it goes away, and that fails the test.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test tells what it found by panicking")]

mod driving;
#[path = "../e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "it is shared with the tests that need more of it")]
mod harness;

mod access;
mod journey;
mod live;
mod mistakes;
mod request;
mod safety;
mod self_tests;
mod stage;
mod truth;
