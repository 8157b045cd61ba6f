//! Ids for outcomes without an event id. An event that is sent again must get the same id, even on another line of the file.
//! Two different events must never get the same id, or the server would ignore the second as a duplicate.

use std::collections::HashMap;

use inroad_wire::v1::Outcome;
use md5::{Digest, Md5};
use rand::distr::{Alphanumeric, SampleString};

/// Makes the ids for the outcomes of one command.
pub(super) struct EventIds {
    /// For standard input: the random prefix of ids for outcomes without a time. Such a line cannot be recognised when it
    /// is sent again.
    random_prefix: Option<String>,
    unrepeatable: u64,
    /// How often each content occurred so far: about 40 bytes for each outcome without an id.
    seen: HashMap<[u8; 16], u32>,
}

impl EventIds {
    /// For a file, which may be sent again.
    pub(super) fn for_file() -> Self {
        Self { random_prefix: None, unrepeatable: 0, seen: HashMap::new() }
    }

    /// For standard input.
    pub(super) fn for_stdin() -> Self {
        Self { random_prefix: Some(Alphanumeric.sample_string(&mut rand::rng(), 16)), ..Self::for_file() }
    }

    /// The number of ids that the same outcomes would not get again.
    pub(super) fn unrepeatable(&self) -> u64 {
        self.unrepeatable
    }

    /// The id of an outcome: made from its content, its time, and the number of equal outcomes before it.
    ///
    /// # Errors
    ///
    /// For an outcome without a time in a file.
    pub(super) fn next_id(&mut self, outcome: &Outcome) -> Result<String, String> {
        let Some(at) = outcome.occurred_at else {
            let prefix = self.random_prefix.as_ref().ok_or(
                "neither event_id nor occurred_at. Add one of them, so that duplicates are ignored when you resend the file.",
            )?;
            self.unrepeatable += 1;
            return Ok(format!("run-{prefix}-{}", self.unrepeatable));
        };
        let Outcome { units, event, value, clock, .. } = outcome;
        let content = serde_json::json!([units, event, value, at.seconds, at.nanos, clock]).to_string();
        let digest: [u8; 16] = Md5::digest(content.as_bytes()).into();
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
    fn same_outcome_gets_the_same_id_on_any_line() {
        let ids_of = |lines: &[(&str, i64)]| {
            let mut ids = EventIds::for_file();
            lines.iter().map(|(event, at)| ids.next_id(&outcome(event, Some(*at))).unwrap()).collect::<Vec<_>>()
        };
        let whole = ids_of(&[("a", 1), ("b", 1), ("a", 1), ("a", 2)]);
        assert!(whole.iter().enumerate().all(|(i, id)| id.len() <= 128 && !whole[..i].contains(id)), "{whole:?}");
        assert_eq!(ids_of(&[("a", 2), ("a", 1), ("a", 1)]), [&*whole[3], &whole[0], &whole[2]]);
    }

    #[test]
    fn outcome_without_a_time_gets_an_id_only_on_standard_input() {
        assert!(EventIds::for_file().next_id(&outcome("a", None)).unwrap_err().contains("event_id"));
        let (mut one, mut other) = (EventIds::for_stdin(), EventIds::for_stdin());
        let ids = [&mut one, &mut other].map(|ids| [1, 2].map(|_| ids.next_id(&outcome("a", None)).unwrap())).concat();
        assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)), "{ids:?}");
        assert_eq!(one.unrepeatable(), 2);
        let timed = outcome("a", Some(1));
        assert_eq!(one.next_id(&timed), other.next_id(&timed), "an outcome with a time is recognised");
    }
}
