//! The last snapshot in a file, for a start without a server. The file is a line that names the format, an MD5 of the
//! rest, and the rest: the snapshot as one `WatchSnapshotsResponse`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inroad_wire::{served_to_wire, timestamp_to_wire, v1};
use md5::{Digest as _, Md5};
use prost::Message;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::error::Error;
use crate::report::Source;
use crate::shared::Shared;
use crate::state::State;

const MAGIC: &[u8] = b"inroad snapshot 1\n";
/// Changes come in groups; a file written once after them is enough.
const QUIET: Duration = Duration::from_millis(500);

/// Lets the file stand in for a server that is not there. A file that is not usable is reported and passed over.
pub(crate) async fn load(shared: &Shared) {
    let Some(path) = shared.options.bootstrap_file.clone() else { return };
    let read = spawn_blocking(move || read(&path)).await;
    let taken = match read {
        Ok(Ok(Some(sent))) => shared.take(sent, Source::Bootstrap),
        Ok(Err(error)) => Err(error),
        // There is no file yet, or the runtime is going away.
        Ok(Ok(None)) | Err(_) => return,
    };
    if taken.is_ok() {
        tracing::warn!("the server was not reached; serving the bootstrap file's snapshot until it is");
    }
    shared.report.bootstrap(taken);
}

/// Writes the file whenever the snapshot has changed, until the client ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let Some(path) = shared.options.bootstrap_file.clone() else { return };
    let mut changes = shared.changes.subscribe();
    loop {
        let ending = tokio::select! {
            changed = changes.changed() => changed.is_err(),
            _ = shared.ending() => true,
        };
        if !ending {
            tokio::select! {
                () = sleep(QUIET) => {}
                _ = shared.ending() => {}
            }
        }
        // What came during the pause is in what is written now.
        let news = !ending || changes.has_changed().unwrap_or(false);
        changes.mark_unchanged();
        // A snapshot that came out of the file need not go back into it.
        if news && *shared.source.borrow() == Source::Server {
            save(&shared, path.clone()).await;
        }
        if ending {
            return;
        }
    }
}

async fn save(shared: &Arc<Shared>, path: PathBuf) {
    let bytes = encode(&shared.state.load(), shared);
    // An error of the task is the runtime going away.
    if let Ok(written) = spawn_blocking(move || write(&path, &bytes)).await {
        shared.report.bootstrap(written);
    }
}

fn encode(state: &State, shared: &Shared) -> Vec<u8> {
    let experiments = state.experiments().iter().map(|e| served_to_wire(e)).collect();
    let message = v1::WatchSnapshotsResponse {
        version: state.version,
        store_id: state.store_id.clone(),
        full: true,
        experiments,
        removed: Vec::new(),
        server_time: Some(timestamp_to_wire(shared.clock.now())),
    };
    let body = message.encode_to_vec();
    [MAGIC, Md5::digest(&body).as_slice(), &body].concat()
}

fn read(path: &Path) -> Result<Option<v1::WatchSnapshotsResponse>, Error> {
    let fault = |reason: String| Error::Bootstrap { path: path.to_owned(), reason };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
    };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| fault("it is no snapshot of Inroad's".to_owned()))?;
    let Some((sum, body)) = rest.split_at_checked(16).filter(|(sum, body)| Md5::digest(body).as_slice() == *sum) else {
        return Err(fault("it is not whole".to_owned()));
    };
    tracing::debug!(path = %path.display(), md5 = ?sum, "read a bootstrap file");
    v1::WatchSnapshotsResponse::decode(body).map(Some).map_err(|error| fault(error.to_string()))
}

/// Writes beside the file and then renames, so that a crash leaves the old file or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    written.map_err(|error| {
        // What was begun is of no use to anybody; that it cannot be removed either changes nothing.
        let _ = std::fs::remove_file(&beside);
        Error::Bootstrap { path: path.to_owned(), reason: error.to_string() }
    })
}
