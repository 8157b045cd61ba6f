//! Collects the parts of a change that the server could not send as one message. The snapshot in use stays as it is until
//! the last part has arrived, so that no unit gets an answer from half of a change.

use inroad_wire::v1::WatchSnapshotsResponse;
use prost::Message;

/// The parts received so far.
#[derive(Debug, Default)]
pub(crate) struct SnapshotParts {
    collected: Option<WatchSnapshotsResponse>,
    bytes: usize,
}

impl SnapshotParts {
    /// Takes the next message of the stream. Returns the message to apply: a message that is no part, unchanged and at
    /// once, even between parts, because it may bring a kill; or all parts as one message when the last has arrived.
    /// None if parts are missing.
    ///
    /// # Errors
    /// The size in bytes, if the parts together are larger than `max_bytes`.
    pub(crate) fn add(
        &mut self,
        part: WatchSnapshotsResponse,
        max_bytes: usize,
    ) -> Result<Option<WatchSnapshotsResponse>, usize> {
        if part.complete_version == 0 {
            return Ok(Some(part));
        }
        let continues = |all: &WatchSnapshotsResponse| {
            !part.full
                && (&all.store_id, &all.lineage_id) == (&part.store_id, &part.lineage_id)
                && all.complete_version == part.complete_version
        };
        let is_last = part.last_part;
        self.bytes += part.encoded_len();
        let mut all = match self.collected.take_if(|all| continues(all)) {
            Some(mut all) => {
                all.experiments.extend(part.experiments);
                all.removed.extend(part.removed);
                all.server_time = part.server_time;
                all
            }
            None => {
                self.bytes = part.encoded_len();
                part
            }
        };
        if self.bytes > max_bytes {
            self.collected = None;
            return Err(self.bytes);
        }
        if !is_last {
            self.collected = Some(all);
            return Ok(None);
        }
        self.collected = None;
        all.version = all.complete_version;
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use inroad_wire::v1::ExperimentSnapshot;

    use super::*;

    const MAX_BYTES: usize = 10_000;

    fn part(version: u64, complete_version: u64, key: &str) -> WatchSnapshotsResponse {
        WatchSnapshotsResponse {
            version,
            store_id: "s".to_owned(),
            experiments: vec![ExperimentSnapshot { key: key.to_owned(), ..ExperimentSnapshot::default() }],
            complete_version,
            last_part: version == complete_version,
            ..WatchSnapshotsResponse::default()
        }
    }

    fn keys(message: &WatchSnapshotsResponse) -> Vec<&str> {
        message.experiments.iter().map(|e| e.key.as_str()).collect()
    }

    #[test]
    fn parts_become_one_message_when_the_last_has_arrived() {
        let mut parts = SnapshotParts::default();
        let first = WatchSnapshotsResponse { full: true, ..part(3, 9, "a") };
        assert_eq!(parts.add(first, MAX_BYTES), Ok(None));
        assert_eq!(parts.add(part(7, 9, "b"), MAX_BYTES), Ok(None));
        let all = parts.add(part(9, 9, "c"), MAX_BYTES).unwrap().unwrap();
        assert_eq!((all.full, all.version, keys(&all)), (true, 9, vec!["a", "b", "c"]));
    }

    #[test]
    fn message_between_parts_is_applied_at_once_and_parts_stay() {
        let mut parts = SnapshotParts::default();
        assert_eq!(parts.add(part(3, 9, "a"), MAX_BYTES), Ok(None));
        let kill = part(2, 0, "killed");
        assert_eq!(parts.add(kill.clone(), MAX_BYTES), Ok(Some(kill)));
        let all = parts.add(part(9, 9, "b"), MAX_BYTES).unwrap().unwrap();
        assert_eq!(keys(&all), ["a", "b"]);
    }

    #[test]
    fn parts_of_another_change_or_store_replace_those_before() {
        let mut parts = SnapshotParts::default();
        assert_eq!(parts.add(part(3, 9, "a"), MAX_BYTES), Ok(None));
        let all = parts.add(part(12, 12, "b"), MAX_BYTES).unwrap().unwrap();
        assert_eq!(keys(&all), ["b"]);
        assert_eq!(parts.add(part(3, 9, "a"), MAX_BYTES), Ok(None));
        let other = WatchSnapshotsResponse { store_id: "other".to_owned(), ..part(9, 9, "c") };
        assert_eq!(keys(&parts.add(other, MAX_BYTES).unwrap().unwrap()), ["c"]);
    }

    #[test]
    fn parts_over_the_limit_are_refused() {
        let mut parts = SnapshotParts::default();
        let large = "k".repeat(MAX_BYTES / 2);
        assert_eq!(parts.add(part(3, 9, &large), MAX_BYTES), Ok(None));
        assert!(parts.add(part(5, 9, &large), MAX_BYTES).is_err_and(|bytes| bytes > MAX_BYTES));
        assert!(parts.add(part(9, 9, "a"), MAX_BYTES).unwrap().is_some());
    }
}
