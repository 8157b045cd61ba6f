//! Requests that are too large, have too many items or too long names, or an invalid page token.

use inroad_wire::v1;
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::{Request, Response};

use super::RefusedCalls;
use crate::harness::{context, outcome};

pub(super) async fn check(t: &mut RefusedCalls) {
    check_assignments(t).await;
    check_events(t).await;
    check_pages_and_names(t).await;
}

fn assign_request(context: Struct) -> v1::AssignRequest {
    v1::AssignRequest { experiment: "button".to_owned(), context: Some(context), exposure: 0 }
}

async fn check_assignments(t: &mut RefusedCalls) {
    let mut assignments = t.api.assignments();
    let requests = (0..1_001).map(|n| assign_request(context(&format!("u{n}")))).collect();
    t.check(
        "more than 1,000 assignments",
        "BatchAssign",
        "INVALID_ARGUMENT",
        assignments.batch_assign(v1::BatchAssignRequest { requests }),
    )
    .await;
    let mut large = context("alice");
    large.fields.insert("note".to_owned(), prost_types::Value { kind: Some(Kind::StringValue("x".repeat(17_000))) });
    t.check(
        "a context of more than 16 KiB",
        "Assign, BatchAssign",
        "INVALID_ARGUMENT",
        assignments.assign(assign_request(large)),
    )
    .await;
    let number = |i: usize| (format!("n{i}"), prost_types::Value { kind: Some(Kind::NumberValue(0.0)) });
    let many_values = Struct { fields: (0..600).map(number).collect() };
    t.check(
        "a context of more than 512 values",
        "Assign, BatchAssign",
        "INVALID_ARGUMENT",
        assignments.assign(assign_request(many_values)),
    )
    .await;
}

async fn check_events(t: &mut RefusedCalls) {
    let mut events = t.api.events();
    let batch = v1::RecordRequest { exposures: vec![], outcomes: vec![outcome("u", 1.0, "e"); 10_001] };
    t.check("more than 10,000 events", "Record", "INVALID_ARGUMENT", events.record(batch)).await;
    let batch = v1::RecordRequest { exposures: vec![], outcomes: vec![outcome(&"u".repeat(1_000), 1.0, "e"); 6_000] };
    t.check("a message of more than 4 MiB", "every call", "OUT_OF_RANGE", events.record(batch)).await;
    let forget =
        |unit_type: &str, unit: &str| v1::ForgetUnitRequest { unit_type: unit_type.to_owned(), unit: unit.to_owned() };
    t.check("a unit without a type", "ForgetUnit", "INVALID_ARGUMENT", events.forget_unit(forget("", "alice"))).await;
    t.check("a unit without a key", "ForgetUnit", "INVALID_ARGUMENT", events.forget_unit(forget("user", ""))).await;
}

async fn check_pages_and_names(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    t.check(
        "a page size of more than 1,000",
        "ListExperiments, ListAuditEntries",
        "INVALID_ARGUMENT",
        experiments.list_experiments(v1::ListExperimentsRequest { page_size: 1_001, ..Default::default() }),
    )
    .await;
    t.check(
        "an invalid page token",
        "ListAuditEntries",
        "INVALID_ARGUMENT",
        experiments
            .list_audit_entries(v1::ListAuditEntriesRequest { page_token: "x".to_owned(), ..Default::default() }),
    )
    .await;
    let mut signed = Request::new(v1::KillRequest { key: "button".to_owned(), variation: "a".to_owned() });
    signed.metadata_mut().insert("inroad-actor", "x".repeat(129).parse().expect("ASCII"));
    t.check("an actor of more than 128 bytes", "every change", "INVALID_ARGUMENT", experiments.kill(signed)).await;
    let mut signed = Request::new(v1::KillRequest { key: "button".to_owned(), variation: "a".to_owned() });
    signed.metadata_mut().insert("inroad-actor", "inroad-policy".parse().expect("ASCII"));
    t.check("an actor that is the server itself", "every change", "INVALID_ARGUMENT", experiments.kill(signed)).await;
    let long = "x".repeat(129);
    for (case, request) in [
        (
            "a client name of more than 128 bytes",
            v1::WatchSnapshotsRequest { client_name: long.clone(), ..Default::default() },
        ),
        (
            "a client id of more than 128 bytes",
            v1::WatchSnapshotsRequest { client_id: long.clone(), ..Default::default() },
        ),
        ("an SDK name of more than 128 bytes", v1::WatchSnapshotsRequest { sdk: long.clone(), ..Default::default() }),
    ] {
        let mut assignments = t.api.assignments();
        // The stream itself cannot be printed, so it is replaced by a unit value.
        let call = async { assignments.watch_snapshots(request).await.map(|_| Response::new(())) };
        t.check(case, "WatchSnapshots", "INVALID_ARGUMENT", call).await;
    }
}
