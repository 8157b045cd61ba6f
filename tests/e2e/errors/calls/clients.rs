//! Invalid reports of clients, and invalid queries about connected clients.

use inroad_wire::v1;
use prost_types::Timestamp;

use super::RefusedCalls;

fn report(client_id: &str) -> v1::ReportClientRequest {
    v1::ReportClientRequest { client_id: client_id.to_owned(), ..Default::default() }
}

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut assignments = t.api.assignments();
    let many_versions = vec![v1::AppliedVersion::default(); 65];
    let invalid_time = Some(Timestamp { seconds: 0, nanos: -1 });
    let invalid_version = vec![v1::AppliedVersion { version: 1, at: invalid_time }];
    for (case, code, request) in [
        ("a report without a client id", "INVALID_ARGUMENT", report("")),
        ("a report of a client without an open stream", "NOT_FOUND", report("stranger")),
        (
            "a report of more than 64 versions",
            "INVALID_ARGUMENT",
            v1::ReportClientRequest { applied: many_versions, ..report("stranger") },
        ),
        (
            "a report with an invalid time",
            "INVALID_ARGUMENT",
            v1::ReportClientRequest { applied: invalid_version, ..report("stranger") },
        ),
    ] {
        t.check(case, "ReportClient", code, assignments.report_client(request)).await;
    }
    t.check(
        "a page size of more than 1,000",
        "ListClients",
        "INVALID_ARGUMENT",
        assignments.list_clients(v1::ListClientsRequest { page_size: 1_001, ..Default::default() }),
    )
    .await;
    t.check(
        "an invalid page token",
        "ListClients",
        "INVALID_ARGUMENT",
        assignments.list_clients(v1::ListClientsRequest { page_token: "x".to_owned(), ..Default::default() }),
    )
    .await;
    t.check(
        "a version that does not exist yet",
        "GetReach",
        "INVALID_ARGUMENT",
        assignments.get_reach(v1::GetReachRequest { version: 1_000_000 }),
    )
    .await;
}
