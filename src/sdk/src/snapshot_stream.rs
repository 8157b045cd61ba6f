//! Keeps the snapshot up to date: opens the stream of snapshots, applies its messages, and opens it again when it ends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use inroad_wire::{describe_status, retry_delay, timestamp_from_wire, v1};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::client_state::ClientState;
use crate::snapshot_parts::SnapshotParts;
use crate::status::Source;
use crate::transport::MAX_SNAPSHOT_BYTES;
use crate::{bootstrap_file, client_reports};

/// A stream that was open this long counts as a success: the next one is opened after the shortest delay.
const MIN_STABLE: Duration = Duration::from_secs(5);

/// The SDK's name and version, shown in the list of connected clients.
const SDK: &str = concat!("rust/", env!("CARGO_PKG_VERSION"));

/// Runs until the client shuts down.
pub(crate) async fn follow_snapshots(state: Arc<ClientState>) {
    let reopen = async {
        let mut backoff = Backoff::new(state.settings.backoff_min, state.settings.backoff_max);
        let mut status = first_stream(&state).await;
        let mut opened = Instant::now();
        loop {
            state.recorder.connected.store(false, Ordering::Relaxed);
            if opened.elapsed() >= MIN_STABLE {
                backoff.reset();
            }
            let wait = backoff.next_delay(retry_delay(&status));
            // A server that closes the stream in an orderly way, for example to restart, is no error.
            if status.code() != Code::Ok {
                state.recorder.record_error(describe_status(&status));
            }
            tracing::debug!(code = ?status.code(), ?wait, "the stream of snapshots has ended; opening it again");
            sleep(wait).await;
            opened = Instant::now();
            status = run_stream(&state).await;
        }
    };
    tokio::select! {
        () = reopen => {}
        _ = state.wait_for_shutdown() => {}
    }
    state.recorder.connected.store(false, Ordering::Relaxed);
}

/// Runs the first stream. If it delivers no snapshot within the connect timeout, the bootstrap file is loaded, and the
/// stream goes on.
async fn first_stream(state: &ClientState) -> Status {
    let mut stream = pin!(run_stream(state));
    let early_end = timeout(state.settings.connect_timeout, &mut stream).await;
    if !state.snapshot.load().is_ready {
        bootstrap_file::load(state).await;
    }
    match early_end {
        Ok(status) => status,
        Err(_) => stream.await,
    }
}

/// Runs one stream to its end and returns how it ended.
async fn run_stream(state: &ClientState) -> Status {
    read_stream(state).await.err().unwrap_or_else(|| Status::new(Code::Ok, ""))
}

async fn read_stream(state: &ClientState) -> Result<(), Status> {
    let silent =
        |_| Status::deadline_exceeded("the server sent nothing for too long. Check the network and the server");
    let limit = state.settings.silence_timeout;
    let known = state.snapshot.load_full();
    let request = state.transport.authorize(v1::WatchSnapshotsRequest {
        resume_version: known.version,
        store_id: known.store_id.clone(),
        lineage_id: known.lineage_id.clone(),
        client_name: state.settings.client_name.clone(),
        client_id: state.applied_versions.client_id().to_owned(),
        sdk: SDK.to_owned(),
    });
    drop(known);
    let mut client = state.transport.new_assignment_client();
    let mut messages = timeout(limit, client.watch_snapshots(request)).await.map_err(silent)??.into_inner();
    state.applied_versions.start_stream();
    let mut parts = SnapshotParts::default();
    let too_large =
        |bytes| Status::out_of_range(format!("the snapshot has {bytes} bytes, over the limit of {MAX_SNAPSHOT_BYTES}"));
    let reading = async {
        while let Some(message) = timeout(limit, messages.message()).await.map_err(silent)?? {
            if state.snapshot.load().store_id != message.store_id {
                state.clock.forget_observations();
            }
            if let Some(Ok(at)) = message.server_time.as_ref().map(timestamp_from_wire) {
                state.clock.observe(at);
            }
            let complete = parts.add(message, MAX_SNAPSHOT_BYTES).map_err(too_large)?;
            if let Some(message) = complete {
                state.apply_message(message, Source::Server).map_err(|error| Status::internal(error.to_string()))?;
            }
            state.recorder.record_message();
        }
        Ok(())
    };
    // `biased` polls in this order: a message that was just read brings the next report forward before the report task
    // is polled, so no extra wake-up is needed.
    tokio::select! {
        biased;
        ended = reading => ended,
        never = client_reports::send_reports(state, client.clone()) => match never {},
    }
}
