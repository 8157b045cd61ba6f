//! The calls about connected clients: a client's report, the list of clients, and how far a version has spread.

use inroad_assignment::Timestamp;
use inroad_wire::time::{duration_to_wire, timestamp_from_wire, timestamp_to_wire};
use inroad_wire::v1::{self, GetReachResponse, ListClientsResponse, ReportClientResponse};

use super::{invalid_page_token, page_size};
use crate::clients::{ClientIdentity, ClientReport, ClientState, DelayQuantiles, VersionReach};
use crate::config::{MAX_NAME_BYTES, MAX_REPORTED_VERSIONS};
use crate::error::ServerError;
use crate::shared::SharedState;

/// The identity in a request to watch, if its names are short enough.
pub(super) fn client_identity(
    request: &v1::WatchSnapshotsRequest,
    address: Option<std::net::SocketAddr>,
) -> Result<ClientIdentity, ServerError> {
    let short = |field, text: &String| {
        let message = || format!("use at most {MAX_NAME_BYTES} bytes");
        let is_short = text.len() <= MAX_NAME_BYTES;
        is_short.then(|| text.clone()).ok_or_else(|| ServerError::Invalid { field, message: message() })
    };
    Ok(ClientIdentity {
        client_id: short("client_id", &request.client_id)?,
        client_name: short("client_name", &request.client_name)?,
        sdk: short("sdk", &request.sdk)?,
        address,
    })
}

/// Records a client's report.
pub(super) fn report(
    shared: &SharedState,
    request: v1::ReportClientRequest,
) -> Result<ReportClientResponse, ServerError> {
    let invalid = |field, message: String| Err(ServerError::Invalid { field, message });
    let id = &request.client_id;
    if id.is_empty() || id.len() > MAX_NAME_BYTES {
        let message =
            format!("give the client_id with which the snapshot stream was opened, 1 to {MAX_NAME_BYTES} bytes");
        return invalid("client_id", message);
    }
    if request.applied.len() > MAX_REPORTED_VERSIONS {
        let message = format!(
            "{} versions are over the limit of {MAX_REPORTED_VERSIONS}: leave out the oldest",
            request.applied.len()
        );
        return invalid("applied", message);
    }
    let mut report = ClientReport {
        applied: Vec::with_capacity(request.applied.len()),
        dropped_exposures: request.dropped_exposures,
        dropped_outcomes: request.dropped_outcomes,
        queued_events: request.queued_events,
    };
    for applied in &request.applied {
        let at = match &applied.at {
            Some(at) => timestamp_from_wire(at).map_err(|error| error.within("applied.at"))?,
            // Unknown; the registry limits it to the current time.
            None => Timestamp::MAX,
        };
        report.applied.push((applied.version, at));
    }
    let Some(delays) = shared.clients.record_report(id, &report) else { return Err(ServerError::UnknownClient) };
    delays.into_iter().for_each(|delay| shared.metrics.reach_seconds.observe(delay.as_secs_f64()));
    Ok(ReportClientResponse { server_time: Some(timestamp_to_wire(shared.clock.now())) })
}

/// One page of the list of clients.
pub(super) fn list(shared: &SharedState, request: &v1::ListClientsRequest) -> Result<ListClientsResponse, ServerError> {
    let limit = page_size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| invalid_page_token())?,
    };
    // One more than requested shows whether there is another page. A client has less than 1 KiB, so a page of 1,000
    // fits into a message.
    let (mut clients, total) = shared.clients.list_after(after, limit + 1);
    let has_more = clients.len() > limit;
    clients.truncate(limit);
    let next_page_token = clients.last().filter(|_| has_more).map(|c| c.stream.to_string()).unwrap_or_default();
    Ok(ListClientsResponse {
        clients: clients.into_iter().map(client_to_wire).collect(),
        next_page_token,
        total_size: total as u64,
        version: shared.catalogue.peek().version,
        now: Some(timestamp_to_wire(shared.clock.now())),
    })
}

/// How far a version has spread among the connected clients.
pub(super) fn reach(shared: &SharedState, request: &v1::GetReachRequest) -> Result<GetReachResponse, ServerError> {
    let newest = shared.catalogue.peek().version;
    if request.version > newest {
        let message = format!("{} does not exist, the newest is {newest}: use the etag of a change", request.version);
        return Err(ServerError::Invalid { field: "version", message });
    }
    let version = if request.version == 0 { newest } else { request.version };
    Ok(reach_to_wire(shared.clients.version_reach(version)))
}

fn client_to_wire(client: ClientState) -> v1::ClientState {
    v1::ClientState {
        client_id: client.client_id,
        client_name: client.client_name,
        sdk: client.sdk,
        address: client.address.map(|address| address.to_string()).unwrap_or_default(),
        connected_at: Some(timestamp_to_wire(client.connected_at)),
        sent_version: client.sent_version,
        sent_at: client.sent_at.map(timestamp_to_wire),
        applied_version: client.applied_version,
        applied_at: client.applied_at.map(timestamp_to_wire),
        lag: client.lag.map(duration_to_wire),
        versions_behind: client.versions_behind,
        behind_for: Some(duration_to_wire(client.behind_for)),
        reported_at: client.reported_at.map(timestamp_to_wire),
        dropped_exposures: client.dropped_exposures,
        dropped_outcomes: client.dropped_outcomes,
        queued_events: client.queued_events,
    }
}

fn reach_to_wire(reach: VersionReach) -> GetReachResponse {
    let delays = |delays: Option<DelayQuantiles>| match delays {
        Some(delays) => v1::Delays {
            count: delays.count as u64,
            p50: Some(duration_to_wire(delays.p50)),
            p99: Some(duration_to_wire(delays.p99)),
            max: Some(duration_to_wire(delays.max)),
        },
        None => v1::Delays::default(),
    };
    GetReachResponse {
        version: reach.version,
        published_at: reach.published_at.map(timestamp_to_wire),
        experiment: reach.experiment,
        action: reach.action,
        clients: reach.connected as u64,
        applied: reach.applied as u64,
        not_yet: reach.not_yet as u64,
        anonymous: reach.anonymous as u64,
        sent: reach.sent as u64,
        to_applied: Some(delays(reach.to_applied)),
        to_sent: Some(delays(reach.to_sent)),
    }
}
