//! The parts of the output that differ between runs, and what replaces them. This list is complete and is to stay short:
//! everything else that a script prints must be the same in every run.
//!
//! | placeholder | what it replaces |
//! |---|---|
//! | `<server>` | the address of the script's server, whose port is free to choose |
//! | `<folder>` | the path of the script's folder |
//! | `<time>` | a time within a day of now, by the wall clock: simulated times, which scripts set years ago, are shown |

use std::net::SocketAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

/// The server and the folder of a script.
pub(crate) struct Placeholders<'a> {
    pub(crate) server: SocketAddr,
    pub(crate) folder: &'a Path,
}

impl Placeholders<'_> {
    /// The text with placeholders.
    pub(crate) fn insert(&self, text: &str) -> String {
        let server = self.server.to_string();
        let text = text.replace(&format!("http://{server}"), "<server>").replace(&server, "<server>");
        let text = text.replace(&*self.folder.to_string_lossy(), "<folder>");
        insert_times(&text, Timestamp::now())
    }
}

/// Replaces each time, such as `2026-01-31T09:00:00.123Z`, that is within a day of `now`.
fn insert_times(text: &str, now: Timestamp) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from_digit) = rest.split_at(start);
        let in_time = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 'T' | 'Z');
        let end = from_digit.find(|c| !in_time(c)).unwrap_or(from_digit.len());
        let (candidate, after) = from_digit.split_at(end);
        let is_now =
            candidate.parse().is_ok_and(|at: Timestamp| at.duration_since(now).abs() < SignedDuration::from_hours(24));
        output.push_str(before);
        output.push_str(if is_now { "<time>" } else { candidate });
        rest = after;
    }
    output + rest
}

#[test]
fn only_times_close_to_now_are_replaced() {
    let now: Timestamp = "2026-01-31T09:00:00Z".parse().expect("a time");
    let text = "at 2026-01-31T08:59:59.123456Z, from 2020-03-02T00:00:02Z: 10.0% of 2026-01-31 (1/2)";
    assert_eq!(insert_times(text, now), "at <time>, from 2020-03-02T00:00:02Z: 10.0% of 2026-01-31 (1/2)");
}
