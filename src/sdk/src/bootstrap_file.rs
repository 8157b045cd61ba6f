//! The last snapshot in a file, for a start without a server. The file consists of a line that names the format, an MD5
//! checksum of the rest, and the snapshot as one `WatchSnapshotsResponse`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inroad_wire::{snapshot_to_wire, timestamp_to_wire, v1};
use md5::{Digest as _, Md5};
use prost::Message;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::client_state::ClientState;
use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::status::Source;

const HEADER: &[u8] = b"inroad snapshot 1\n";
/// Changes come in groups. The file is written once, this long after the first of a group.
const WRITE_DELAY: Duration = Duration::from_millis(500);

/// Loads the snapshot from the file because the server was not reached. A file that cannot be used is reported and
/// ignored.
pub(crate) async fn load(state: &ClientState) {
    let Some(path) = state.settings.bootstrap_file.clone() else { return };
    let result = match spawn_blocking(move || read(&path)).await {
        Ok(Ok(Some(message))) => state.apply_message(message, Source::Bootstrap),
        Ok(Err(error)) => Err(error),
        // There is no file yet, or the runtime is shutting down.
        Ok(Ok(None)) | Err(_) => return,
    };
    if result.is_ok() {
        tracing::warn!("the server was not reached; serving the snapshot of the bootstrap file until it is");
    }
    state.recorder.record_bootstrap_result(result);
}

/// Writes the file after each change of the snapshot, until the client shuts down.
pub(crate) async fn save_changes(state: Arc<ClientState>) {
    let Some(path) = state.settings.bootstrap_file.clone() else { return };
    let mut changes = state.version.subscribe();
    loop {
        let is_shutdown = tokio::select! {
            changed = changes.changed() => changed.is_err(),
            _ = state.wait_for_shutdown() => true,
        };
        if !is_shutdown {
            tokio::select! {
                () = sleep(WRITE_DELAY) => {}
                _ = state.wait_for_shutdown() => {}
            }
        }
        let has_changed = !is_shutdown || changes.has_changed().unwrap_or(false);
        // Changes during the delay are part of the snapshot that is written now.
        changes.mark_unchanged();
        // A snapshot that was read from the file need not be written back.
        if has_changed && *state.source.borrow() == Source::Server {
            save(&state, path.clone()).await;
        }
        if is_shutdown {
            return;
        }
    }
}

async fn save(state: &Arc<ClientState>, path: PathBuf) {
    let bytes = encode(&state.snapshot.load(), state);
    // A join error means that the runtime is shutting down: there is nothing to report.
    if let Ok(result) = spawn_blocking(move || write(&path, &bytes)).await {
        state.recorder.record_bootstrap_result(result);
    }
}

fn encode(snapshot: &Snapshot, state: &ClientState) -> Vec<u8> {
    let experiments = snapshot.experiments().iter().map(|e| snapshot_to_wire(e)).collect();
    let message = v1::WatchSnapshotsResponse {
        version: snapshot.version,
        store_id: snapshot.store_id.clone(),
        lineage_id: snapshot.lineage_id.clone(),
        full: true,
        experiments,
        server_time: Some(timestamp_to_wire(state.clock.now())),
        ..v1::WatchSnapshotsResponse::default()
    };
    let body = message.encode_to_vec();
    [HEADER, Md5::digest(&body).as_slice(), &body].concat()
}

/// Reads the file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<v1::WatchSnapshotsResponse>, Error> {
    let unusable = |reason: String| Error::Bootstrap { path: path.to_owned(), reason };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let rest = bytes
        .strip_prefix(HEADER)
        .ok_or_else(|| unusable("it is not an Inroad snapshot. Choose another file".to_owned()))?;
    let Some((sum, body)) = rest.split_at_checked(16).filter(|(sum, body)| Md5::digest(body).as_slice() == *sum) else {
        return Err(unusable("it is incomplete. Delete it; the client writes it again".to_owned()));
    };
    tracing::debug!(path = %path.display(), md5 = ?sum, "read a bootstrap file");
    v1::WatchSnapshotsResponse::decode(body).map(Some).map_err(|error| unusable(error.to_string()))
}

/// Writes a temporary file and renames it, so that a crash leaves either the old or the new file.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(|error| {
        // The first error is the one to report, even if the removal fails too.
        let _ = std::fs::remove_file(&temporary);
        Error::Bootstrap { path: path.to_owned(), reason: error.to_string() }
    })
}
