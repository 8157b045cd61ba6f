//! The policy on the wall clock: reallocation on request, scheduled ticks, and publication before revisions take
//! effect.

use std::time::Duration;

use inroad_wire::v1;

use crate::harness::{
    Api, Refusal, Server, Setup, eventually_within, exposure_of, flag, metric, micros, outcome,
    with_conversion_metrics, with_thompson_policy,
};

const KEY: &str = "bandit";

fn experiment(tick_seconds: i64) -> v1::Experiment {
    with_thompson_policy(with_conversion_metrics(flag(KEY, &[("a", 0.2), ("b", 0.2)])), tick_seconds)
}

/// Exposes units. One unit in ten buys, in `a` one in two.
async fn expose_and_buy(api: &Api, units: usize) {
    let units: Vec<String> = (0..units).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let (mut exposures, mut outcomes) = (Vec::new(), Vec::new());
    for (i, (unit, answer)) in units.iter().zip(&answers).enumerate() {
        exposures.push(exposure_of(KEY, unit, answer));
        if i % (if answer.variation == "a" { 2 } else { 10 }) == 0 {
            outcomes.push(outcome(unit, 1.0, "order-1"));
        }
    }
    for chunk in exposures.chunks(5_000) {
        api.record(chunk.to_vec(), vec![]).await;
    }
    for chunk in outcomes.chunks(5_000) {
        api.record(vec![], chunk.to_vec()).await;
    }
}

async fn reallocate(api: &Api) -> v1::ReallocateResponse {
    let request = v1::ReallocateRequest { key: KEY.to_owned() };
    api.experiments().reallocate(request).await.expect("the policy decides").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn reallocation_grows_the_better_variation_within_its_cap_and_is_reproducible() {
    let server = Server::with(Setup::lead("300ms")).await;
    let api = server.api();
    let started = api.launch(experiment(86_400)).await;
    expose_and_buy(&api, 3_000).await;
    let response = reallocate(&api).await;
    let decision = response.decision.expect("a decision");
    let now = response.experiment.expect("the experiment");
    assert_eq!((decision.hold.as_str(), decision.revision), ("", 2), "{decision:?}");
    let arm = |key: &str| decision.arms.iter().find(|arm| arm.variation == key).expect("an arm").clone();
    assert!(arm("a").p_best > 0.99 && arm("a").share_after > arm("a").share_before, "{decision:?}");
    assert!(arm("b").share_after == arm("b").share_before && arm("control").share_after < arm("control").share_before);
    let days = (micros(&decision.at) - micros(&started.start_time)) as f64 / 86_400e6;
    let grown: f64 = decision.arms.iter().skip(1).map(|arm| arm.share_after - arm.share_before).sum();
    assert!(grown > 0.0 && grown <= days + 1e-9, "the cap is the whole line per day: {grown} in {days} days");
    assert!(micros(&now.effective_at) >= micros(&decision.at) + 300_000, "I4: in effect after the lead time");
    let explained = api.explain(KEY, 2).await;
    assert!(explained.reproduced, "I7: {explained:?}");
    assert_eq!(explained.decision.as_ref(), Some(&decision));

    let again = reallocate(&api).await.decision.expect("a decision");
    assert!(again.revision == 3 || !again.hold.is_empty(), "{again:?}");
    assert_eq!(api.results(KEY).await.units_moved, 0);
    let audit = api.audit(KEY).await;
    assert_eq!(audit[0].action, "tick");
    assert_ne!(audit[0].actor, "inroad-policy", "the audit log names the person who requested it");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_experiment_is_not_reallocated() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(experiment(86_400)).await;
    expose_and_buy(&api, 3_000).await;
    assert_eq!(reallocate(&api).await.decision.expect("a decision").revision, 2);
    api.kill(KEY, "").await;
    let request = v1::ReallocateRequest { key: KEY.to_owned() };
    let refused = Refusal::from_result(api.experiments().reallocate(request).await);
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("FAILED_PRECONDITION", "WRONG_STATE"));
    assert!(refused.message.contains("restore it first"), "{refused:?}");
    assert_eq!(api.revisions(KEY).await.len(), 2);
    api.restore(KEY, "").await;
    let decision = reallocate(&api).await.decision.expect("a decision");
    assert_eq!(decision.hold, "", "a kill of a moment drops no unit, so there is no second burn-in: {decision:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reallocation_without_data_changes_nothing_and_gives_the_reason() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(experiment(86_400)).await;
    let decision = reallocate(&api).await.decision.expect("a decision");
    assert_eq!((decision.revision, decision.hold.as_str()), (0, "BURN_IN"));
    assert!(decision.summary.contains("burn-in"), "{}", decision.summary);
    assert_eq!(api.revisions(KEY).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_kills_a_credibly_worse_variation() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(experiment(86_400)).await;
    let units: Vec<String> = (0..3_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let purchase_of = |(i, (unit, answer)): (usize, (&String, &v1::AssignResponse))| {
        let buys = i % (if answer.variation == "b" { 40 } else { 4 }) == 0;
        buys.then(|| outcome(unit, 1.0, "order-1"))
    };
    let outcomes = units.iter().zip(&answers).enumerate().filter_map(purchase_of).collect();
    api.record(exposures, outcomes).await;
    let response = reallocate(&api).await;
    let decision = response.decision.expect("a decision");
    assert_eq!(decision.killed, ["b"], "{decision:?}");
    let killed = response.experiment.expect("the experiment").variations.into_iter().find(|v| v.key == "b");
    assert!(killed.is_some_and(|b| b.killed && b.share > 0.19), "the killed variation keeps its points");
    let after = api.assign_all(KEY, &units).await;
    for (before, after) in answers.iter().zip(&after) {
        let expected = if before.variation == "b" { "control" } else { before.variation.as_str() };
        assert!(after.variation == expected || before.variation == "control", "{before:?} {after:?}");
    }
    assert_eq!(metric(&api.results(KEY).await, "b", "bought").metric, "bought");
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_tick_publishes_its_revision_a_lead_time_before_it_takes_effect() {
    let server = Server::with(Setup::lead("1s")).await;
    let api = server.api();
    api.launch(experiment(60)).await;
    expose_and_buy(&api, 3_000).await;
    // Ticks begin at full minutes. The first one may come before enough events are recorded; the second one does not.
    let revision = eventually_within(Duration::from_secs(140), "the policy publishes a revision", async || {
        api.revisions(KEY).await.into_iter().find(|r| r.cause == "policy")
    })
    .await;
    let entries = api.audit(KEY).await.into_iter();
    let ticks = entries.filter(|entry| entry.actor == "inroad-policy" && entry.action == "tick");
    let before = ticks.filter(|entry| micros(&entry.at) <= micros(&revision.effective_at));
    let tick = before.max_by_key(|entry| micros(&entry.at)).expect("the audit log has the tick");
    let (published, effective) = (micros(&tick.at), micros(&revision.effective_at));
    assert!(published + 500_000 <= effective, "I4: published at {published}, in effect at {effective}");
    assert!(
        effective % 60_000_000 == 0 || effective >= published + 1_000_000,
        "in effect at the start of a tick: {effective}"
    );
    assert!(api.explain(KEY, revision.number).await.reproduced);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_counting_does_not_shorten_the_lead_time_of_a_revision() {
    let server = Server::with(Setup::lead("200ms")).await;
    let api = server.api();
    api.launch(experiment(86_400)).await;
    // So many events that counting them takes longer than the lead time.
    expose_and_buy(&api, 60_000).await;
    let response = reallocate(&api).await;
    let decision = response.decision.expect("a decision");
    assert_eq!(decision.revision, 2, "{decision:?}");
    let published = micros(&api.audit(KEY).await[0].at);
    let effective = micros(&response.experiment.expect("the experiment").effective_at);
    assert!(published + 150_000 <= effective, "I4: published at {published}, in effect at {effective}");
}
