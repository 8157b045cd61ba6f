//! Reports to the server which snapshot version this client uses, since when, and how many events it dropped. The
//! reports are for the people who run the experiments: the client never waits for them, and a server that does not
//! support them is not asked again on the same stream.
//!
//! A report goes over the connection of the snapshot stream, so that it reaches the server that serves the stream.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use inroad_assignment::Timestamp;
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::{timestamp_from_wire, timestamp_to_wire, v1};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::client_state::ClientState;
use crate::queue::EventKind;

/// How long a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a report whenever one is due, as long as the stream is open. Versions that the server did not accept are in
/// the next report again.
pub(crate) async fn send_reports(state: &ClientState, mut client: AssignmentServiceClient<Channel>) -> Infallible {
    let versions = &state.applied_versions;
    loop {
        versions.wait_until_due().await;
        let report = build_report(state);
        let newest = report.applied.last().map_or(0, |applied| applied.version);
        let sent = Instant::now();
        match timeout(REPORT_TIMEOUT, client.report_client(state.transport.authorize(report))).await {
            Ok(Ok(response)) => {
                versions.mark_reported(newest);
                if let Some(Ok(server_time)) = response.into_inner().server_time.as_ref().map(timestamp_from_wire) {
                    record_clock_reading(state, sent, server_time);
                }
            }
            // An older server. The next stream may lead to a newer one.
            Ok(Err(status)) if status.code() == Code::Unimplemented => pending().await,
            Ok(Err(status)) => tracing::debug!(code = ?status.code(), "the server did not accept a client report"),
            Err(_) => tracing::debug!("the server did not answer a client report in time"),
        }
    }
}

fn build_report(state: &ClientState) -> v1::ReportClientRequest {
    let versions = state.applied_versions.begin_report();
    let offset = state.applied_versions.clock_offset_micros().unwrap_or_else(|| state.clock.offset_micros());
    let applied = versions.into_iter().map(|(version, at)| {
        let at = Timestamp::from_micros(state.clock.local_micros_at(at).saturating_add(offset));
        v1::AppliedVersion { version, at: Some(timestamp_to_wire(at)) }
    });
    v1::ReportClientRequest {
        client_id: state.applied_versions.client_id().to_owned(),
        applied: applied.collect(),
        dropped_exposures: state.queue.dropped_of(EventKind::Exposure),
        dropped_outcomes: state.queue.dropped_of(EventKind::Outcome),
        queued_events: state.queue.depth() as u64,
    }
}

/// Assumes that the server read its clock halfway through the round trip.
fn record_clock_reading(state: &ClientState, sent: Instant, server_time: Timestamp) {
    let now = Instant::now();
    let round_trip = now.saturating_duration_since(sent);
    let middle = state.clock.local_micros_at(sent + round_trip / 2);
    let offset = server_time.as_micros().saturating_sub(middle);
    state.applied_versions.record_clock_reading(now, round_trip, offset);
}
