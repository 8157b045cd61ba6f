//! Guardrails, a policy in shadow mode, and the estimates of every kind of metric.

use std::collections::BTreeMap;

use inroad_wire::v1;
use prost_types::Duration;

use crate::harness::{
    Api, Server, at_second, exposure_of, flag, metric, outcome, with_conversion_metrics, with_manual_clock,
    with_thompson_policy,
};

const KEY: &str = "guarded";
const HOUR: i64 = 3_600;

/// An experiment with a manual policy and clock, and a guardrail: no variation may increase refunds by more than 10%.
fn guarded(action: v1::GuardrailAction) -> v1::Experiment {
    let mut experiment = with_manual_clock(with_conversion_metrics(flag(KEY, &[("a", 0.3), ("b", 0.3)])), 1_000 * HOUR);
    experiment.metrics.push(v1::Metric {
        key: "refunds".to_owned(),
        event: "refund".to_owned(),
        kind: v1::MetricKind::Count.into(),
        window: Some(Duration { seconds: HOUR, nanos: 0 }),
        direction: v1::Direction::Down.into(),
        guardrail: Some(v1::Guardrail { margin: 0.1, action: action.into() }),
        ..v1::Metric::default()
    });
    experiment
}

fn refund(unit: &str) -> v1::Outcome {
    v1::Outcome { event: "refund".to_owned(), clock: KEY.to_owned(), ..outcome(unit, 1.0, "refund-1") }
}

/// Exposes units. One unit in ten gets a refund, in `b` one in three.
async fn expose_and_refund(api: &Api, units: usize) {
    let units: Vec<String> = (0..units).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let refund_of = |(i, (unit, answer)): (usize, (&String, &v1::AssignResponse))| {
        let rate = if answer.variation == "b" { 3 } else { 10 };
        (i % rate == 0).then(|| refund(unit))
    };
    let refunds = units.iter().zip(&answers).enumerate().filter_map(refund_of).collect();
    api.record(exposures, refunds).await;
}

async fn advance(api: &Api, hours: i64) -> v1::Experiment {
    let request = v1::AdvanceClockRequest { key: KEY.to_owned(), to: Some(at_second((1_000 + hours) * HOUR)) };
    let answer = api.experiments().advance_clock(request).await.expect("the clock can be advanced").into_inner();
    answer.experiment.expect("the experiment")
}

fn killed_variations(experiment: &v1::Experiment) -> Vec<&str> {
    experiment.variations.iter().filter(|v| v.killed).map(|v| v.key.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn guardrail_kills_a_harmful_variation_once_and_respects_a_manual_restore() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(guarded(v1::GuardrailAction::Kill)).await;
    expose_and_refund(&api, 3_000).await;
    let after = advance(&api, 1).await;
    assert_eq!(killed_variations(&after), ["b"]);
    let [alert] = after.alerts.as_slice() else { panic!("one alert: {:?}", after.alerts) };
    assert_eq!((alert.metric.as_str(), alert.variation.as_str()), ("refunds", "b"));
    assert_eq!(alert.action(), v1::GuardrailAction::Kill);
    assert!(alert.evidence >= 2.0 / 0.05, "corrected for two variations: {}", alert.evidence);
    let audit = api.audit(KEY).await;
    let entry = audit.iter().find(|entry| entry.action == "guardrail").expect("the kill is in the audit log");
    assert_eq!(entry.actor, "inroad-guardrails");
    assert!(entry.to_json.contains("log_evidence"), "the entry contains the evidence: {}", entry.to_json);
    assert!(metric(&api.results(KEY).await, "b", "refunds").harm.is_some_and(|odds| odds > 40.0));

    api.restore(KEY, "b").await;
    let later = advance(&api, 3).await;
    assert_eq!(killed_variations(&later), Vec::<&str>::new(), "a manual restore is final");
    assert_eq!(later.alerts.len(), 1, "the alert is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn guardrail_with_action_alert_alerts_once_and_changes_nothing() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(guarded(v1::GuardrailAction::Alert)).await;
    expose_and_refund(&api, 3_000).await;
    let after = advance(&api, 1).await;
    assert_eq!(killed_variations(&after), Vec::<&str>::new());
    assert_eq!(after.alerts.len(), 1);
    advance(&api, 2).await;
    advance(&api, 3).await;
    let entries = api.audit(KEY).await.iter().filter(|entry| entry.action == "guardrail").count();
    assert_eq!(entries, 1);
    let results = api.results(KEY).await;
    assert!(
        results.warnings.iter().any(|warning| warning.contains("Guardrail refunds: evidence of harm by b")),
        "{:?}",
        results.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_in_shadow_mode_decides_and_changes_nothing() {
    let server = Server::start().await;
    let api = server.api();
    let mut experiment = with_thompson_policy(with_conversion_metrics(flag(KEY, &[("a", 0.2), ("b", 0.2)])), 86_400);
    if let Some(v1::policy::Kind::Thompson(t)) = experiment.policy.as_mut().and_then(|p| p.kind.as_mut()) {
        t.shadow = true;
    }
    api.launch(experiment).await;
    let units: Vec<String> = (0..2_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let purchase_of = |(i, (unit, answer)): (usize, (&String, &v1::AssignResponse))| {
        (i % if answer.variation == "a" { 2 } else { 10 } == 0).then(|| outcome(unit, 1.0, "order-1"))
    };
    api.record(exposures, units.iter().zip(&answers).enumerate().filter_map(purchase_of).collect()).await;
    let request = v1::ReallocateRequest { key: KEY.to_owned() };
    let decision = api.experiments().reallocate(request).await.expect("the policy decides").into_inner().decision;
    let decision = decision.expect("a decision");
    assert!(decision.shadow && decision.hold == "SHADOW" && decision.revision == 0, "{decision:?}");
    let a = decision.arms.iter().find(|arm| arm.variation == "a").expect("a");
    assert!(a.share_after > a.share_before && a.why.starts_with("grows by"), "{a:?}");
    assert_eq!(api.revisions(KEY).await.len(), 1, "no revision was published");
    let listed = server.cli(&["experiment", "decisions", KEY, "--json"]).await.ok().json();
    assert_eq!(listed["decisions"][0]["shadow"], true);
    assert!(listed["decisions"][0]["arms"][0]["why"].as_str().is_some_and(|why| why.starts_with("gives")));
}

#[tokio::test(flavor = "multi_thread")]
async fn mean_and_ratio_metrics_have_lift_estimates_from_several_methods() {
    let server = Server::start().await;
    let api = server.api();
    let mut experiment = with_conversion_metrics(flag(KEY, &[("a", 0.4)]));
    experiment.metrics.push(v1::Metric {
        key: "basket".to_owned(),
        event: "purchase".to_owned(),
        kind: v1::MetricKind::Ratio.into(),
        denominator: "visit".to_owned(),
        window: Some(Duration { seconds: HOUR, nanos: 0 }),
        ..v1::Metric::default()
    });
    api.launch(experiment).await;
    let units: Vec<String> = (0..4_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let mut outcomes = Vec::new();
    let mut expected: BTreeMap<&str, (f64, f64, f64)> = BTreeMap::new();
    for (i, (unit, answer)) in units.iter().zip(&answers).enumerate() {
        let value = (1 + i % 7) as f64 * if answer.variation == "a" { 2.0 } else { 1.0 };
        let visits = (1 + i % 3) as f64;
        let sums = expected.entry(answer.variation.as_str()).or_default();
        outcomes.push(v1::Outcome { event: "visit".to_owned(), ..outcome(unit, visits, "visit-1") });
        (sums.0, sums.2) = (sums.0 + 1.0, sums.2 + visits);
        if i % 4 == 0 {
            outcomes.push(outcome(unit, value, "order-1"));
            sums.1 += value;
        }
    }
    api.record(exposures, outcomes).await;
    let results = api.results(KEY).await;
    let (control, treated) = (expected["control"], expected["a"]);
    let assert_close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    let spent = metric(&results, "a", "spent");
    assert_close(spent.mean.expect("a mean"), treated.1 / treated.0);
    let lift = spent.lift.expect("a lift");
    let true_lift = (treated.1 / treated.0) / (control.1 / control.0) - 1.0;
    assert_close(lift.anytime.expect("an always-valid interval").estimate, true_lift);
    assert_close(lift.period.expect("an estimate by period").estimate, true_lift);
    let credible = lift.credible.expect("a credible interval");
    assert!(credible.low < credible.estimate && credible.estimate < true_lift && 0.3 < credible.low, "{credible:?}");
    assert_close(lift.difference.expect("a difference").estimate, treated.1 / treated.0 - control.1 / control.0);
    assert!(lift.batched.is_some_and(|batched| batched.low < true_lift && true_lift < batched.high));
    let basket = metric(&results, "a", "basket");
    assert_close(basket.mean.expect("a ratio"), treated.1 / treated.2);
    assert_close(
        basket.lift.and_then(|lift| lift.anytime).expect("an always-valid interval").estimate,
        (treated.1 / treated.2) / (control.1 / control.2) - 1.0,
    );
    assert_eq!(basket.mature_units, 0, "no unit's window has ended");
}
