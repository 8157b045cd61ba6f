//! Events sent to the server until it acknowledges them.

use inroad_wire::v1::{RecordRequest, RecordResponse};
use tonic::Status;

use crate::connect::{Connection, RetryPolicy, call_with_retries};

/// Sends a batch until it is acknowledged. Duplicates are ignored, so a retry is safe.
pub(crate) async fn send_events(
    connection: &Connection,
    request: &RecordRequest,
    retry: &RetryPolicy<'_>,
) -> Result<RecordResponse, Status> {
    call_with_retries(retry, || {
        let mut events = connection.events();
        let request = request.clone();
        async move { events.record(request).await }
    })
    .await
}

/// Prints on standard error why a retry waits.
pub(crate) fn report_pause(status: &Status) {
    eprintln!("inroad: {}; retrying", status.message());
}
