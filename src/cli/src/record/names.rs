//! Ids for outcomes that come without one. The same event sent again must have the id that it had, wherever it stands in
//! the file by then; and two events must not share one, or the second would be taken for the first.

use std::collections::HashMap;

use inroad_wire::v1::Outcome;
use md5::{Digest, Md5};
use rand::distr::{Alphanumeric, SampleString};

/// Names the outcomes of one run.
pub(super) struct Names {
    /// Of standard input: what each outcome without a time is named after. Nothing tells whether such a line is the one
    /// that was sent before.
    run: Option<String>,
    anonymous: u64,
    /// How often the same was told so far: some 40 bytes for each outcome without an id.
    seen: HashMap<[u8; 16], u32>,
}

impl Names {
    /// For a file, which may be sent again.
    pub(super) fn of_file() -> Self {
        Self { run: None, anonymous: 0, seen: HashMap::new() }
    }

    /// For standard input.
    pub(super) fn of_stdin() -> Self {
        Self { run: Some(Alphanumeric.sample_string(&mut rand::rng(), 16)), ..Self::of_file() }
    }

    /// How many have a name that they would not be given again.
    pub(super) fn anonymous(&self) -> u64 {
        self.anonymous
    }

    /// The name of an outcome: after what it says, its time included, and how often the same was told before it.
    pub(super) fn name(&mut self, outcome: &Outcome) -> Result<String, String> {
        let Some(at) = outcome.occurred_at else {
            let run = self.run.as_ref().ok_or(
                "neither event_id nor occurred_at: give one of them, so that sending the file again counts nothing twice",
            )?;
            self.anonymous += 1;
            return Ok(format!("run-{run}-{}", self.anonymous));
        };
        let Outcome { units, event, value, clock, .. } = outcome;
        let said = serde_json::json!([units, event, value, at.seconds, at.nanos, clock]).to_string();
        let digest: [u8; 16] = Md5::digest(said.as_bytes()).into();
        let times = self.seen.entry(digest).or_default();
        *times += 1;
        Ok(format!("said-{:032x}-{times}", u128::from_be_bytes(digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(event: &str, at: Option<i64>) -> Outcome {
        let occurred_at = at.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        let units = [("user".to_owned(), "ann".to_owned())].into();
        Outcome { units, event: event.to_owned(), value: 1.0, occurred_at, ..Outcome::default() }
    }

    #[test]
    fn an_outcome_is_named_after_what_it_says_wherever_it_stands() {
        let of = |lines: &[(&str, i64)]| {
            let mut names = Names::of_file();
            lines.iter().map(|(event, at)| names.name(&outcome(event, Some(*at))).unwrap()).collect::<Vec<_>>()
        };
        let whole = of(&[("a", 1), ("b", 1), ("a", 1), ("a", 2)]);
        assert!(whole.iter().enumerate().all(|(i, id)| id.len() <= 128 && !whole[..i].contains(id)), "{whole:?}");
        assert_eq!(of(&[("a", 2), ("a", 1), ("a", 1)]), [&*whole[3], &whole[0], &whole[2]]);
    }

    #[test]
    fn what_has_no_time_has_a_name_on_standard_input_alone() {
        assert!(Names::of_file().name(&outcome("a", None)).unwrap_err().contains("event_id"));
        let (mut one, mut other) = (Names::of_stdin(), Names::of_stdin());
        let ids = [&mut one, &mut other].map(|names| [1, 2].map(|_| names.name(&outcome("a", None)).unwrap())).concat();
        assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)), "{ids:?}");
        assert_eq!(one.anonymous(), 2);
        let timed = outcome("a", Some(1));
        assert_eq!(one.name(&timed), other.name(&timed), "with a time it is known again");
    }
}
