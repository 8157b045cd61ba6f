//! The experiments of a snapshot as bytes, encoded once and shared by all snapshot streams. With thousands of clients, a
//! copy per stream would need gigabytes.
//!
//! ```text
//!  catalogue ──► changes since a version ──► experiment ──► bytes, when the first stream needs them
//!                (one list per version)       (shared by the lists of all versions)
//! ```
//!
//! In protobuf, the encodings of two parts of a message one after the other are the encoding of the whole. So the bytes of
//! an experiment are those of a message with this experiment alone, and each stream puts its own fields before them.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use inroad_assignment::{ExperimentKey, Kills, ServedExperiment, Snapshot};
use inroad_wire::snapshot::snapshot_to_wire;
use inroad_wire::v1::WatchSnapshotsResponse;
use prost::Message;

use crate::catalogue::CatalogueState;
use crate::config::MAX_PART_BYTES;

/// One experiment at one version, encoded when it is first sent.
pub(crate) struct EncodedExperiment {
    served: Arc<ServedExperiment>,
    field: OnceLock<Bytes>,
}

impl EncodedExperiment {
    fn new(served: &Arc<ServedExperiment>) -> Arc<Self> {
        Arc::new(Self { served: Arc::clone(served), field: OnceLock::new() })
    }

    /// The version of the catalogue at the experiment's last change.
    pub(crate) fn version(&self) -> u64 {
        self.served.parts().version
    }

    /// Whether anything of it is killed.
    pub(crate) fn has_kills(&self) -> bool {
        self.served.parts().kills != Kills::default()
    }

    /// The experiment as an entry of `WatchSnapshotsResponse.experiments`.
    pub(crate) fn field(&self) -> &Bytes {
        self.field.get_or_init(|| {
            let experiments = vec![snapshot_to_wire(&self.served)];
            WatchSnapshotsResponse { experiments, ..Default::default() }.encode_to_vec().into()
        })
    }
}

/// Experiments by ascending version.
pub(crate) type ExperimentList = Arc<[Arc<EncodedExperiment>]>;

/// How many experiments from `start` on one message has room for, and at least one if there is one.
pub(crate) fn fill_message(experiments: &[Arc<EncodedExperiment>], start: usize) -> Range<usize> {
    let mut bytes = 0;
    let rest = experiments.get(start..).unwrap_or_default();
    let fits = |(i, experiment): &(usize, &Arc<EncodedExperiment>)| {
        bytes += experiment.field().len();
        *i == 0 || bytes <= MAX_PART_BYTES
    };
    start..start + rest.iter().enumerate().take_while(fits).count()
}

/// The encoded experiments of the newest snapshot.
#[derive(Default)]
pub(crate) struct EncodedSnapshots {
    newest: Mutex<Newest>,
}

#[derive(Default)]
struct Newest {
    experiments: HashMap<ExperimentKey, Arc<EncodedExperiment>, FixedState>,
    /// The lists requested last: of new clients, and of those that have the version before.
    lists: [Option<ChangeList>; 2],
}

struct ChangeList {
    since: u64,
    version: u64,
    /// The snapshot of which these are the changes: after a jump of the clock, one version can have two.
    snapshot: Arc<Snapshot>,
    experiments: ExperimentList,
}

impl EncodedSnapshots {
    /// The experiments that changed after version `since`; all experiments for version 0.
    pub(crate) fn changed_since(&self, state: &CatalogueState, since: u64) -> ExperimentList {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::from(since > 0);
        if let Some(list) = newest.lists[slot].as_ref()
            && (list.since, list.version) == (since, state.version)
            && Arc::ptr_eq(&list.snapshot, &state.snapshot)
        {
            return Arc::clone(&list.experiments);
        }
        let experiments: ExperimentList = state.served_since(since).map(|served| newest.encoded(served)).collect();
        // A stream may still be at an older state; its list would only displace the newest.
        if newest.lists[slot].as_ref().is_none_or(|list| list.version <= state.version) {
            let snapshot = Arc::clone(&state.snapshot);
            let list = ChangeList { since, version: state.version, snapshot, experiments: Arc::clone(&experiments) };
            newest.lists[slot] = Some(list);
        }
        experiments
    }
}

impl Newest {
    fn encoded(&mut self, served: &Arc<ServedExperiment>) -> Arc<EncodedExperiment> {
        let parts = served.parts();
        match self.experiments.get_mut(&parts.key) {
            Some(known) if Arc::ptr_eq(&known.served, served) => Arc::clone(known),
            Some(known) if known.version() > parts.version => EncodedExperiment::new(served),
            Some(known) => {
                *known = EncodedExperiment::new(served);
                Arc::clone(known)
            }
            None => {
                let encoded = EncodedExperiment::new(served);
                self.experiments.insert(parts.key.clone(), Arc::clone(&encoded));
                encoded
            }
        }
    }
}
