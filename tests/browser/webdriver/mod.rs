//! A browser for tests. It finds elements as screen readers do, by role and name, and fails the test if a page reports
//! an error.

#![allow(dead_code, reason = "not every helper is used by a test")]

mod axe;
mod browser;
mod chromedriver;
mod find;
mod form;
mod keys;

pub(crate) use axe::{assert_accessible, violations};
pub(crate) use browser::{Appearance, Browser, Scheme};
pub(crate) use fantoccini::key::Key;
