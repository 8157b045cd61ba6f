//! Keeps the snapshot up to date: opens the stream, takes what comes, and opens it again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use inroad_wire::{describe, retry_delay, timestamp_from_wire, v1};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::report::Source;
use crate::shared::Shared;
use crate::{bootstrap, presence};

/// A stream that lived this long was a good one: if it breaks, the next is opened without much waiting.
const GOOD: Duration = Duration::from_secs(5);

/// What watches, for people who look at what is connected.
const SDK: &str = concat!("rust/", env!("CARGO_PKG_VERSION"));

/// Runs until the client ends.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let follow = async {
        let mut backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max);
        let mut status = first_stream(&shared).await;
        let mut opened = Instant::now();
        loop {
            shared.report.connected.store(false, Ordering::Relaxed);
            if opened.elapsed() >= GOOD {
                backoff.reset();
            }
            let wait = backoff.next(retry_delay(&status));
            // A server that closes a stream in an orderly way (it restarts, say) is no fault.
            if status.code() != Code::Ok {
                shared.report.failed(describe(&status));
            }
            tracing::debug!(code = ?status.code(), ?wait, "the stream of snapshots has ended; opening it again");
            sleep(wait).await;
            opened = Instant::now();
            status = stream(&shared).await;
        }
    };
    tokio::select! {
        () = follow => {}
        _ = shared.ending() => {}
    }
    shared.report.connected.store(false, Ordering::Relaxed);
}

/// The first stream. If it does not bring a snapshot within the time for connecting, the bootstrap file stands in,
/// while this goes on trying.
async fn first_stream(shared: &Shared) -> Status {
    let mut stream = pin!(stream(shared));
    let early = timeout(shared.options.connect_timeout, &mut stream).await;
    if !shared.state.load().ready {
        bootstrap::load(shared).await;
    }
    match early {
        Ok(status) => status,
        Err(_) => stream.await,
    }
}

/// One stream, from opening to its end; how it ended.
async fn stream(shared: &Shared) -> Status {
    follow(shared).await.err().unwrap_or_else(|| Status::new(Code::Ok, ""))
}

async fn follow(shared: &Shared) -> Result<(), Status> {
    let silent = |_| Status::deadline_exceeded("nothing was heard of the server for too long");
    let limit = shared.options.silence;
    let known = shared.state.load_full();
    let request = shared.transport.request(v1::WatchSnapshotsRequest {
        resume_version: known.version,
        store_id: known.store_id.clone(),
        client_name: shared.options.client_name.clone(),
        client_id: shared.presence.id().to_owned(),
        sdk: SDK.to_owned(),
    });
    drop(known);
    let mut client = shared.transport.snapshots();
    let mut messages = timeout(limit, client.watch_snapshots(request)).await.map_err(silent)??.into_inner();
    shared.presence.connected();
    let reading = async {
        while let Some(message) = timeout(limit, messages.message()).await.map_err(silent)?? {
            if shared.state.load().store_id != message.store_id {
                shared.clock.forget();
            }
            if let Some(Ok(at)) = message.server_time.as_ref().map(timestamp_from_wire) {
                shared.clock.hear(at);
            }
            shared.take(message, Source::Server).map_err(|error| Status::internal(error.to_string()))?;
            shared.report.heard();
        }
        Ok(())
    };
    // In this order: what has been read is due for a report when that is asked, without a wake-up of its own.
    tokio::select! {
        biased;
        ended = reading => ended,
        never = presence::keep_telling(shared, client.clone()) => match never {},
    }
}
