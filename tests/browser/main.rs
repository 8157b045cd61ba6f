//! Tests of the dashboard: the pages that the real binary serves, in a real browser, by mouse and by keyboard. Every
//! test has its own server, browser and ports. The browser checks its console when it is dropped, and fails the test if
//! a page reported an error.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a failing test panics with its message")]

#[path = "../e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests that use more of it")]
mod harness;
mod webdriver;

mod accessibility;
mod conclude;
mod correctness;
mod fixtures;
mod journey;
mod live;
mod mistakes;
mod notices;
mod raw_request;
mod security;
mod self_tests;
