//! The line.
use super::Bucket;
use maud::{Markup, html};

/// The line of buckets, in their places.
#[must_use]
pub fn strip(names: &[String], buckets: &[Bucket], killed: &[bool], floor: Option<f64>) -> Markup {
    let _ = (names, buckets, killed, floor);
    html! {}
}

/// The same, small.
#[must_use]
pub fn strip_small(names: &[String], buckets: &[Bucket], killed: &[bool]) -> Markup {
    let _ = (names, buckets, killed);
    html! {}
}
