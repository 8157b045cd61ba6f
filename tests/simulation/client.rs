//! A client on a bad network: it receives snapshots late, loses its stream, and continues from what it has. It follows
//! the rules of the SDK: an invalid update is refused, and past revisions are forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inroad_assignment::{Arm, Context, ServedExperiment, Timestamp};
use inroad_server::services::assignment::AssignmentHandler;
use inroad_wire::v1::assignment_service_server::AssignmentService;
use inroad_wire::v1::{WatchSnapshotsRequest, WatchSnapshotsResponse};
use inroad_wire::{snapshot_from_wire, timestamp_from_wire};
use tokio_stream::StreamExt;
use tonic::Request;

use crate::random::Random;

/// What the client has. It outlives the server, as an application does.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) version: u64,
    store_id: String,
    lineage_id: String,
    pub(crate) experiments: BTreeMap<String, ServedExperiment>,
    /// Whether the network is down.
    pub(crate) is_cut_off: bool,
    /// Updates that broke I2.
    pub(crate) refusals: Vec<String>,
}

/// A client.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedClient(Arc<Mutex<View>>);

impl SimulatedClient {
    pub(crate) fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.0.lock().unwrap()
    }

    /// The arm, generation and revision that this client would serve now.
    pub(crate) fn assign(&self, experiment: &str, unit: &str, now: Timestamp) -> Option<(Arm, u32, u32)> {
        let view = self.view();
        let served = view.experiments.get(experiment)?;
        let assignment = served.assign(&Context::new(unit), now);
        Some((assignment.arm, assignment.generation, assignment.revision))
    }

    /// Receives snapshots until the runtime ends.
    pub(crate) async fn follow(self, assignments: Arc<AssignmentHandler>, mut random: Random) {
        loop {
            tokio::time::sleep(Duration::from_millis(5 + random.below(300))).await;
            if self.view().is_cut_off {
                continue;
            }
            let request = {
                let view = self.view();
                WatchSnapshotsRequest {
                    resume_version: view.version,
                    store_id: view.store_id.clone(),
                    lineage_id: view.lineage_id.clone(),
                    ..WatchSnapshotsRequest::default()
                }
            };
            let Ok(stream) = assignments.watch_snapshots(Request::new(request)).await else { continue };
            let mut stream = stream.into_inner();
            while let Some(Ok(message)) = stream.next().await {
                tokio::time::sleep(Duration::from_millis(random.below(150))).await;
                if self.view().is_cut_off {
                    break;
                }
                self.apply(message);
                if random.once_in(50) {
                    break;
                }
            }
        }
    }

    fn apply(&self, message: WatchSnapshotsResponse) {
        let mut view = self.view();
        let is_other = view.store_id != message.store_id
            || message.full && !view.lineage_id.is_empty() && view.lineage_id != message.lineage_id;
        if is_other {
            view.experiments.clear();
        } else if message.version < view.version {
            return;
        }
        (view.version, view.store_id, view.lineage_id) = (message.version, message.store_id, message.lineage_id);
        for received in message.experiments {
            let new = snapshot_from_wire(received).expect("a valid snapshot");
            let key = new.parts().key.to_string();
            match view.experiments.get(&key).map(|old| new.check_can_replace(old)) {
                Some(Err(error)) => view.refusals.push(error.to_string()),
                Some(Ok(())) | None => drop(view.experiments.insert(key, new)),
            }
        }
        let Some(Ok(now)) = message.server_time.as_ref().map(timestamp_from_wire) else { return };
        for served in view.experiments.values_mut() {
            if let Some(shortened) = served.without_past_revisions(now) {
                *served = shortened;
            }
        }
    }
}
