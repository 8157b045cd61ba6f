//! Calls for an experiment, variation, revision or generation that does not exist.

use inroad_wire::v1;

use super::RefusedCalls;
use super::funnels::funnel_request;

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    t.check(
        "the experiment does not exist",
        "GetExperiment and every change",
        "NOT_FOUND",
        experiments.get_experiment(v1::GetExperimentRequest { key: "nothing".to_owned() }),
    )
    .await;
    t.check(
        "the variation does not exist",
        "GrowVariation, Kill, Restore, ConcludeExperiment",
        "NOT_FOUND",
        experiments.kill(v1::KillRequest { key: "button".to_owned(), variation: "z".to_owned() }),
    )
    .await;
    t.check(
        "the revision does not exist",
        "ExplainRevision",
        "NOT_FOUND",
        experiments.explain_revision(v1::ExplainRevisionRequest {
            key: "button".to_owned(),
            generation: 0,
            revision: 99,
        }),
    )
    .await;
    t.check(
        "the generation does not exist",
        "ListRevisions, GetResults",
        "NOT_FOUND",
        experiments.list_revisions(v1::ListRevisionsRequest {
            key: "button".to_owned(),
            generation: 9,
            ..Default::default()
        }),
    )
    .await;
    let mut results = t.api.result_service();
    t.check(
        "the experiment does not exist",
        "GetFunnel",
        "NOT_FOUND",
        results.get_funnel(funnel_request("nothing", &["cart"])),
    )
    .await;
    t.check(
        "the generation does not exist",
        "GetFunnel",
        "NOT_FOUND",
        results.get_funnel(v1::GetFunnelRequest { generation: 9, ..funnel_request("button", &["cart"]) }),
    )
    .await;
}
