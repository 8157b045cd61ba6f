//! Calls that are refused as a whole. After each of them everything stands as it stood.

use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::{self, Override, payload};
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp};
use tonic::Request;

use super::{document, standing};
use crate::harness::{Api, Refused, Server, at_second, context, conversions, flag, manual_clock, outcome, thompson};

const START: i64 = 1_767_225_600;

/// What was refused so far.
struct Table<'a> {
    server: &'a Server,
    api: &'a Api,
    rows: Vec<Vec<String>>,
}

impl Table<'_> {
    async fn row(&mut self, case: &str, call: &str, expected: &str, refused: Refused) {
        assert_eq!(refused.code, expected, "{case}: {refused:?}");
        assert!(!refused.message.is_empty(), "{case}: {refused:?}");
        let reason = if refused.reason.is_empty() { "–".to_owned() } else { format!("`{}`", refused.reason) };
        self.rows.push(vec![case.to_owned(), call.to_owned(), format!("`{}`", refused.code), reason, refused.message]);
    }
}

/// Makes a call that has to be refused with a code, and checks that it changed nothing.
macro_rules! refused {
    ($table:ident, $case:expr, $call:literal, $code:literal, $answer:expr) => {{
        let before = standing($table.server, $table.api).await;
        let refused = Refused::by($answer.await);
        assert_eq!(standing($table.server, $table.api).await, before, "{}: {refused:?}", $case);
        $table.row($case, $call, $code, refused).await;
    }};
}

fn create(experiment: v1::Experiment) -> v1::CreateExperimentRequest {
    v1::CreateExperimentRequest { experiment: Some(experiment), validate_only: false }
}

fn grow(variation: &str, amount: Option<Amount>, etag: &str) -> v1::GrowVariationRequest {
    v1::GrowVariationRequest {
        key: "button".to_owned(),
        variation: variation.to_owned(),
        amount,
        etag: etag.to_owned(),
    }
}

fn funnel(key: &str, steps: &[&str]) -> v1::GetFunnelRequest {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    v1::GetFunnelRequest { key: key.to_owned(), steps, ..v1::GetFunnelRequest::default() }
}

fn advance(key: &str, to: Option<Timestamp>) -> v1::AdvanceClockRequest {
    v1::AdvanceClockRequest { key: key.to_owned(), to }
}

fn key(key: &str) -> String {
    key.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_meant_is_refused_with_what_to_do_and_changes_nothing() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag("button", &[("a", 0.2), ("b", 0.2), ("dead", 0.1)]))).await;
    let stale = api.get("button").await.etag;
    api.kill("button", "dead").await;
    api.create(flag("draft", &[("a", 0.1)])).await;
    api.launch(manual_clock(thompson(conversions(flag("clock", &[("a", 0.1)])), 86_400), START)).await;
    let mut t = Table { server: &server, api: &api, rows: Vec::new() };
    let none = String::new;
    let mut e = api.experiments();

    // Whoever is not there.
    refused!(
        t,
        "no such experiment",
        "GetExperiment and every change",
        "NOT_FOUND",
        e.get_experiment(v1::GetExperimentRequest { key: key("nothing") })
    );
    refused!(
        t,
        "no such variation",
        "GrowVariation, Kill, Restore, ConcludeExperiment",
        "NOT_FOUND",
        e.kill(v1::KillRequest { key: key("button"), variation: key("z") })
    );
    refused!(
        t,
        "no such revision",
        "ExplainRevision",
        "NOT_FOUND",
        e.explain_revision(v1::ExplainRevisionRequest { key: key("button"), generation: 0, revision: 99 })
    );
    refused!(
        t,
        "no such generation",
        "ListRevisions, GetResults",
        "NOT_FOUND",
        e.list_revisions(v1::ListRevisionsRequest { key: key("button"), generation: 9 })
    );
    let mut r = api.result_service();
    refused!(t, "no such experiment", "GetFunnel", "NOT_FOUND", r.get_funnel(funnel("nothing", &["cart"])));
    refused!(
        t,
        "no such generation",
        "GetFunnel",
        "NOT_FOUND",
        r.get_funnel(v1::GetFunnelRequest { generation: 9, ..funnel("button", &["cart"]) })
    );

    // Funnels.
    refused!(t, "a funnel of no steps", "GetFunnel", "INVALID_ARGUMENT", r.get_funnel(funnel("button", &[])));
    refused!(
        t,
        "a funnel of over 8 steps",
        "GetFunnel",
        "INVALID_ARGUMENT",
        r.get_funnel(funnel("button", &["cart"; 9]))
    );
    refused!(
        t,
        "a step without a name",
        "GetFunnel",
        "INVALID_ARGUMENT",
        r.get_funnel(funnel("button", &["cart", ""]))
    );
    refused!(
        t,
        "a step of over 128 bytes",
        "GetFunnel",
        "INVALID_ARGUMENT",
        r.get_funnel(funnel("button", &[&"x".repeat(129)]))
    );
    let when = Some(at_second(START));
    refused!(
        t,
        "a range that ends where it begins, or before",
        "GetFunnel",
        "INVALID_ARGUMENT",
        r.get_funnel(v1::GetFunnelRequest { from: when, to: when, ..funnel("button", &["cart"]) })
    );
    let never = Some(Timestamp { seconds: i64::MAX, nanos: 7 });
    refused!(
        t,
        "a range that begins at no instant",
        "GetFunnel",
        "INVALID_ARGUMENT",
        r.get_funnel(v1::GetFunnelRequest { from: never, ..funnel("button", &["cart"]) })
    );

    // Declarations.
    refused!(
        t,
        "a key that is there",
        "CreateExperiment",
        "ALREADY_EXISTS",
        e.create_experiment(create(flag("button", &[("a", 0.1)])))
    );
    refused!(
        t,
        "a key that is no key",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(flag("No Key", &[("a", 0.1)])))
    );
    refused!(
        t,
        "nothing declared",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(v1::CreateExperimentRequest::default())
    );
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.audience = "plan == ".to_owned();
    refused!(
        t,
        "an audience that is no CEL",
        "CreateExperiment, UpdateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(wrong))
    );
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.salt = "not a salt!".to_owned();
    refused!(t, "a malformed salt", "CreateExperiment", "INVALID_ARGUMENT", e.create_experiment(create(wrong)));
    refused!(
        t,
        "shares that do not fit beside control's floor",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(flag("new", &[("a", 0.6), ("b", 0.5)])))
    );
    refused!(
        t,
        "control and nothing else",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(flag("new", &[])))
    );
    refused!(
        t,
        "a variation named twice",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(flag("new", &[("a", 0.1), ("a", 0.1)])))
    );
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.variations[1].payload = Some(v1::Payload { value: Some(payload::Value::BooleanValue(true)) });
    refused!(t, "payloads of two types", "CreateExperiment", "INVALID_ARGUMENT", e.create_experiment(create(wrong)));
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.variations[1].payload = Some(v1::Payload { value: Some(payload::Value::StringValue("x".repeat(20_000))) });
    refused!(t, "a payload over 16 KiB", "CreateExperiment", "INVALID_ARGUMENT", e.create_experiment(create(wrong)));
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.variations[1].payload = None;
    refused!(
        t,
        "a variation without a payload",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(wrong))
    );
    let mut wrong = flag("new", &[("a", 0.1)]);
    wrong.overrides = vec![Override { units: vec![key("qa")], when: none(), variation: key("z") }];
    refused!(
        t,
        "an override to a variation that is not there",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(wrong))
    );
    let mut wrong = conversions(flag("new", &[("a", 0.1)]));
    wrong.metrics[1].decision = true;
    refused!(t, "two decision metrics", "CreateExperiment", "INVALID_ARGUMENT", e.create_experiment(create(wrong)));
    refused!(
        t,
        "a tick under a minute",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(thompson(conversions(flag("new", &[("a", 0.1)])), 1)))
    );
    let mut wrong = flag("new", &[("a", 0.1)]);
    (wrong.audience, wrong.salt) = ("((".to_owned(), "!".to_owned());
    wrong.variations[1].key = "A".to_owned();
    refused!(
        t,
        "several faults: each is listed at its field in BadRequest",
        "CreateExperiment",
        "INVALID_ARGUMENT",
        e.create_experiment(create(wrong))
    );
    let mut other = api.get("button").await;
    other.unit = "account".to_owned();
    refused!(
        t,
        "another unit after the start",
        "UpdateExperiment",
        "FAILED_PRECONDITION",
        e.update_experiment(v1::UpdateExperimentRequest {
            experiment: Some(other),
            etag: none(),
            validate_only: false
        })
    );
    let mut other = api.get("button").await;
    other.variations.pop();
    refused!(
        t,
        "a variation left out after the start",
        "UpdateExperiment",
        "FAILED_PRECONDITION",
        e.update_experiment(v1::UpdateExperimentRequest {
            experiment: Some(other),
            etag: none(),
            validate_only: false
        })
    );

    // Growth.
    refused!(
        t,
        "growth past control's floor",
        "GrowVariation",
        "OUT_OF_RANGE",
        e.grow_variation(grow("a", Some(Amount::ToShare(0.9)), ""))
    );
    refused!(
        t,
        "a share beyond 0 to 1",
        "GrowVariation",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("a", Some(Amount::ByShare(-0.1)), ""))
    );
    refused!(
        t,
        "a share that is NaN",
        "GrowVariation",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("a", Some(Amount::ToShare(f64::NAN)), ""))
    );
    refused!(
        t,
        "a factor that makes no share",
        "GrowVariation",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("a", Some(Amount::Times(f64::INFINITY)), ""))
    );
    refused!(
        t,
        "less than it has",
        "GrowVariation",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("a", Some(Amount::ToShare(0.1)), ""))
    );
    refused!(t, "no amount", "GrowVariation", "INVALID_ARGUMENT", e.grow_variation(grow("a", None, "")));
    refused!(
        t,
        "growing control",
        "GrowVariation",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("control", Some(Amount::ByShare(0.1)), ""))
    );
    refused!(
        t,
        "growing a killed variation",
        "GrowVariation",
        "FAILED_PRECONDITION",
        e.grow_variation(grow("dead", Some(Amount::ToShare(0.2)), ""))
    );
    refused!(
        t,
        "an etag of before another's change",
        "every change that takes one",
        "ABORTED",
        e.grow_variation(grow("a", Some(Amount::ToShare(0.3)), &stale))
    );
    refused!(
        t,
        "an etag that is none",
        "every change that takes one",
        "INVALID_ARGUMENT",
        e.grow_variation(grow("a", Some(Amount::ToShare(0.3)), "W/x"))
    );

    // States.
    refused!(
        t,
        "killing control",
        "Kill",
        "INVALID_ARGUMENT",
        e.kill(v1::KillRequest { key: key("button"), variation: key("control") })
    );
    refused!(
        t,
        "starting twice",
        "StartExperiment",
        "FAILED_PRECONDITION",
        e.start_experiment(v1::StartExperimentRequest { key: key("button"), etag: none() })
    );
    refused!(
        t,
        "restarting a draft",
        "RestartExperiment",
        "FAILED_PRECONDITION",
        e.restart_experiment(v1::RestartExperimentRequest { key: key("draft"), etag: none() })
    );
    refused!(
        t,
        "pausing a draft",
        "PauseExperiment",
        "FAILED_PRECONDITION",
        e.pause_experiment(v1::PauseExperimentRequest { key: key("draft"), etag: none() })
    );
    refused!(
        t,
        "resuming what runs",
        "ResumeExperiment",
        "FAILED_PRECONDITION",
        e.resume_experiment(v1::ResumeExperimentRequest { key: key("button"), etag: none() })
    );
    refused!(
        t,
        "concluding a draft",
        "ConcludeExperiment",
        "FAILED_PRECONDITION",
        e.conclude_experiment(v1::ConcludeExperimentRequest { key: key("draft"), ship: none(), etag: none() })
    );
    refused!(
        t,
        "shipping a killed variation",
        "ConcludeExperiment",
        "FAILED_PRECONDITION",
        e.conclude_experiment(v1::ConcludeExperimentRequest { key: key("button"), ship: key("dead"), etag: none() })
    );
    refused!(
        t,
        "archiving what runs",
        "ArchiveExperiment",
        "FAILED_PRECONDITION",
        e.archive_experiment(v1::ArchiveExperimentRequest { key: key("button"), etag: none() })
    );
    refused!(
        t,
        "growing a draft",
        "GrowVariation",
        "FAILED_PRECONDITION",
        e.grow_variation(v1::GrowVariationRequest { key: key("draft"), ..grow("a", Some(Amount::ToShare(0.3)), "") })
    );

    // Time and the policy.
    refused!(
        t,
        "a manual clock that is to go back",
        "AdvanceClock",
        "FAILED_PRECONDITION",
        e.advance_clock(advance("clock", Some(at_second(START - 1))))
    );
    refused!(
        t,
        "advancing the wall's clock",
        "AdvanceClock",
        "FAILED_PRECONDITION",
        e.advance_clock(advance("button", Some(at_second(START * 2))))
    );
    refused!(t, "advancing to nowhere", "AdvanceClock", "INVALID_ARGUMENT", e.advance_clock(advance("clock", None)));
    refused!(
        t,
        "advancing to no instant",
        "AdvanceClock",
        "INVALID_ARGUMENT",
        e.advance_clock(advance("clock", Some(Timestamp { seconds: i64::MAX, nanos: 7 })))
    );
    refused!(
        t,
        "reallocating under a manual policy",
        "Reallocate",
        "INVALID_ARGUMENT",
        e.reallocate(v1::ReallocateRequest { key: key("button") })
    );

    // Too much at once.
    let question = |n: usize| v1::AssignRequest {
        experiment: key("button"),
        context: Some(context(&format!("u{n}"))),
        exposure: 0,
    };
    let batch = v1::BatchAssignRequest { requests: (0..1_001).map(question).collect() };
    refused!(t, "over 1,000 questions", "BatchAssign", "INVALID_ARGUMENT", api.assignments().batch_assign(batch));
    let mut large = context("alice");
    large.fields.insert("note".to_owned(), prost_types::Value { kind: Some(Kind::StringValue("x".repeat(17_000))) });
    let asked = v1::AssignRequest { experiment: key("button"), context: Some(large), exposure: 0 };
    refused!(t, "a context over 16 KiB", "Assign, BatchAssign", "INVALID_ARGUMENT", api.assignments().assign(asked));
    let number = |i: usize| (format!("n{i}"), prost_types::Value { kind: Some(Kind::NumberValue(0.0)) });
    let asked = v1::AssignRequest {
        experiment: key("button"),
        context: Some(Struct { fields: (0..600).map(number).collect() }),
        exposure: 0,
    };
    refused!(
        t,
        "a context of over 512 values",
        "Assign, BatchAssign",
        "INVALID_ARGUMENT",
        api.assignments().assign(asked)
    );
    let events = v1::RecordRequest { exposures: vec![], outcomes: vec![outcome("u", 1.0, "e"); 10_001] };
    refused!(t, "over 10,000 events", "Record", "INVALID_ARGUMENT", api.events().record(events));
    let events = v1::RecordRequest { exposures: vec![], outcomes: vec![outcome(&"u".repeat(1_000), 1.0, "e"); 6_000] };
    refused!(t, "a message over 4 MiB", "every call", "OUT_OF_RANGE", api.events().record(events));
    let forget = |unit_type: &str, unit: &str| v1::ForgetUnitRequest { unit_type: key(unit_type), unit: key(unit) };
    refused!(t, "a unit of no type", "ForgetUnit", "INVALID_ARGUMENT", api.events().forget_unit(forget("", "alice")));
    refused!(t, "a unit without a key", "ForgetUnit", "INVALID_ARGUMENT", api.events().forget_unit(forget("user", "")));
    refused!(
        t,
        "a page over 1,000",
        "ListExperiments, ListAuditEntries",
        "INVALID_ARGUMENT",
        e.list_experiments(v1::ListExperimentsRequest { page_size: 1_001, ..v1::ListExperimentsRequest::default() })
    );
    refused!(
        t,
        "a page token that no page gave",
        "ListAuditEntries",
        "INVALID_ARGUMENT",
        e.list_audit_entries(v1::ListAuditEntriesRequest {
            page_token: key("x"),
            ..v1::ListAuditEntriesRequest::default()
        })
    );
    let mut signed = Request::new(v1::KillRequest { key: key("button"), variation: key("a") });
    signed.metadata_mut().insert("inroad-actor", "x".repeat(129).parse().expect("ASCII"));
    refused!(t, "an actor of over 128 bytes", "every change", "INVALID_ARGUMENT", e.kill(signed));
    let watch = v1::WatchSnapshotsRequest { client_name: "x".repeat(129), ..v1::WatchSnapshotsRequest::default() };
    let answer = async { api.assignments().watch_snapshots(watch).await.map(|_| tonic::Response::new(())) };
    refused!(t, "a client name of over 128 bytes", "WatchSnapshots", "INVALID_ARGUMENT", answer);
    let watch = v1::WatchSnapshotsRequest { client_id: "x".repeat(129), ..v1::WatchSnapshotsRequest::default() };
    let answer = async { api.assignments().watch_snapshots(watch).await.map(|_| tonic::Response::new(())) };
    refused!(t, "a client id of over 128 bytes", "WatchSnapshots", "INVALID_ARGUMENT", answer);
    let watch = v1::WatchSnapshotsRequest { sdk: "x".repeat(129), ..v1::WatchSnapshotsRequest::default() };
    let answer = async { api.assignments().watch_snapshots(watch).await.map(|_| tonic::Response::new(())) };
    refused!(t, "an SDK's name of over 128 bytes", "WatchSnapshots", "INVALID_ARGUMENT", answer);

    // Who watches.
    let mut a = api.assignments();
    let report = |client_id: &str| v1::ReportClientRequest { client_id: key(client_id), ..Default::default() };
    refused!(t, "a report of nobody", "ReportClient", "INVALID_ARGUMENT", a.report_client(report("")));
    refused!(
        t,
        "a report of a client that does not watch",
        "ReportClient",
        "NOT_FOUND",
        a.report_client(report("stranger"))
    );
    let applied = vec![v1::AppliedVersion::default(); 65];
    refused!(
        t,
        "a report of over 64 versions",
        "ReportClient",
        "INVALID_ARGUMENT",
        a.report_client(v1::ReportClientRequest { applied, ..report("stranger") })
    );
    let at = Some(Timestamp { seconds: 0, nanos: -1 });
    refused!(
        t,
        "a report of an instant that is none",
        "ReportClient",
        "INVALID_ARGUMENT",
        a.report_client(v1::ReportClientRequest {
            applied: vec![v1::AppliedVersion { version: 1, at }],
            ..report("stranger")
        })
    );
    refused!(
        t,
        "a page of clients over 1,000",
        "ListClients",
        "INVALID_ARGUMENT",
        a.list_clients(v1::ListClientsRequest { page_size: 1_001, ..Default::default() })
    );
    refused!(
        t,
        "a page token that no page gave",
        "ListClients",
        "INVALID_ARGUMENT",
        a.list_clients(v1::ListClientsRequest { page_token: key("x"), ..Default::default() })
    );
    refused!(
        t,
        "a version that is yet to come",
        "GetReach",
        "INVALID_ARGUMENT",
        a.get_reach(v1::GetReachRequest { version: 1_000_000 })
    );

    document::check("Calls", &["case", "call", "code", "reason", "what it says"], &t.rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_declaration_is_told_at_its_field() {
    use tonic_types::StatusExt;
    let server = Server::start().await;
    let mut wrong = flag("new", &[("a", 0.1)]);
    (wrong.audience, wrong.salt) = ("((".to_owned(), "!".to_owned());
    wrong.variations[1].key = "A".to_owned();
    let status = server.api().experiments().create_experiment(create(wrong)).await.expect_err("a refusal");
    let fields: Vec<String> =
        status.get_details_bad_request().expect("details").field_violations.into_iter().map(|v| v.field).collect();
    for field in ["audience", "salt", "variations[1].key"] {
        assert!(fields.iter().any(|f| f == field), "{fields:?}");
    }
}
