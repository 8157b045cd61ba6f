//! What every test here stands on: a browser that looks for things as people and screen readers do, and that fails
//! the test if a page complained.

#![allow(dead_code, reason = "a helper may wait for the page that needs it")]

mod axe;
mod browser;
mod driver;
mod find;
mod keys;
mod page;

pub(crate) use axe::{assert_accessible, violations};
pub(crate) use browser::{Browser, Look, Scheme};
pub(crate) use fantoccini::key::Key;
