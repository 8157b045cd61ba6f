//! Responses of the server as JSON, for `--json`: with the field names and units of experiment files, points as 16 hex
//! digits, instants as RFC 3339. Pure.

use inroad_assignment::DefinitionDoc;
use inroad_wire::v1;
use inroad_wire::{definition_from_wire, payload_from_wire};
use serde_json::{Map, Value, json};

use crate::output;
use crate::parse::point;
use crate::wire_text::{is_ranked, owner_name, reason_name, state_name, timestamp_of};

/// An instant; null if it was not sent.
pub(crate) fn timestamp_json(at: Option<&prost_types::Timestamp>) -> Value {
    timestamp_of(at).map_or(Value::Null, |at| Value::String(output::instant(at)))
}

/// A payload; null if there is none.
pub(crate) fn payload_json(payload: Option<&v1::Payload>) -> Value {
    let payload = payload.cloned().map(payload_from_wire);
    payload.and_then(Result::ok).and_then(|p| serde_json::to_value(p).ok()).unwrap_or(Value::Null)
}

/// The definition of an experiment, as in a file.
pub(crate) fn definition_of(experiment: &v1::Experiment) -> anyhow::Result<DefinitionDoc> {
    Ok(definition_from_wire(experiment.clone())?)
}

/// The fields that [`experiment_json`] adds to those of a definition, besides `share` and `killed` of each variation.
pub(crate) const STATE_FIELDS: [&str; 14] = [
    "state",
    "killed",
    "generation",
    "revision",
    "generation_salt",
    "create_time",
    "start_time",
    "now",
    "effective_at",
    "revision_never_in_effect",
    "shipped",
    "shipped_within_audience",
    "etag",
    "alerts",
];

/// An experiment: its definition and its current state.
pub(crate) fn experiment_json(e: &v1::Experiment) -> anyhow::Result<Value> {
    let mut shown = serde_json::to_value(definition_of(e)?)?;
    if let Some(variations) = shown["variations"].as_array_mut() {
        for (variation, sent) in variations.iter_mut().zip(&e.variations) {
            // In a file "share" is the initial share; here both shares are shown.
            if let Some(fields) = variation.as_object_mut() {
                let initial = fields.remove("share").unwrap_or(Value::Null);
                fields.insert("initial_share".to_owned(), initial);
                fields.insert("share".to_owned(), json!(sent.share));
                fields.insert("killed".to_owned(), json!(sent.killed));
            }
        }
    }
    let current = json!({
        "state": state_name(e.state), "killed": e.killed, "generation": e.generation, "revision": e.revision,
        "generation_salt": e.generation_salt, "create_time": timestamp_json(e.create_time.as_ref()),
        "start_time": timestamp_json(e.start_time.as_ref()), "now": timestamp_json(e.now.as_ref()),
        "effective_at": timestamp_json(e.effective_at.as_ref()),
        "revision_never_in_effect": e.revision_never_in_effect, "shipped": e.shipped, "shipped_within_audience": e.shipped_within_audience, "etag": e.etag,
        "alerts": e.alerts.iter().map(alert_json).collect::<Vec<_>>(),
    });
    if let (Value::Object(shown), Value::Object(current)) = (&mut shown, current) {
        shown.extend(current);
    }
    Ok(shown)
}

/// An alert of a guardrail.
fn alert_json(a: &v1::GuardrailAlert) -> Value {
    let action = match v1::GuardrailAction::try_from(a.action) {
        Ok(v1::GuardrailAction::Alert) => "alert",
        Ok(v1::GuardrailAction::Freeze) => "freeze",
        Ok(v1::GuardrailAction::Kill) => "kill",
        Ok(v1::GuardrailAction::Unspecified) | Err(_) => "unknown",
    };
    json!({
        "metric": a.metric, "variation": a.variation, "action": action, "at": timestamp_json(a.at.as_ref()),
        "evidence": a.evidence,
    })
}

/// A decision of the allocation policy.
pub(crate) fn decision_json(d: &v1::Decision) -> Value {
    let arm = |a: &v1::ArmDecision| {
        json!({
            "variation": a.variation, "p_best": a.p_best, "p_above_control": a.p_above_control,
            "expected_loss": a.expected_loss, "share_before": a.share_before, "share_after": a.share_after,
            "why": a.why, "killed": a.killed,
        })
    };
    json!({
        "at": timestamp_json(d.at.as_ref()), "generation": d.generation, "revision": d.revision,
        "arms": d.arms.iter().map(arm).collect::<Vec<_>>(), "hold": d.hold, "killed": d.killed,
        "conclude": d.conclude, "conclude_rests_on": d.conclude_rests_on, "clearly_best": d.clearly_best,
        "clearly_best_rests_on": d.clearly_best_rests_on, "summary": d.summary, "shadow": d.shadow,
    })
}

/// Buckets, with the names of their owners.
fn buckets_json(buckets: &[v1::Bucket], variations: &[String]) -> Value {
    let bucket = |b: &v1::Bucket| json!({"start": point(b.start), "owner": owner_name(b.owner, variations)});
    buckets.iter().map(bucket).collect()
}

/// A revision.
pub(crate) fn revision_json(r: &v1::Revision, variations: &[String]) -> Value {
    json!({
        "number": r.number, "cause": r.cause, "created_at": timestamp_json(r.created_at.as_ref()),
        "effective_at": timestamp_json(r.effective_at.as_ref()), "has_decision": r.has_decision,
        "never_in_effect": r.never_in_effect,
        "buckets": buckets_json(&r.buckets, variations),
    })
}

/// An entry of the audit log.
pub(crate) fn audit_entry_json(e: &v1::AuditEntry) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let variations: Map<_, _> = e.variations.iter().map(|(arm, key)| (arm.to_string(), json!(key))).collect();
    json!({
        "id": e.id, "at": timestamp_json(e.at.as_ref()), "actor": e.actor, "action": e.action, "experiment": e.experiment,
        "summary": e.summary, "from": parsed(&e.from_json), "to": parsed(&e.to_json), "variations": variations,
        "kept_results": e.kept_results, "hash": e.hash,
    })
}

/// The results that were kept with kills.
pub(crate) fn kills_json(kills: &[v1::KillResult]) -> Value {
    let kill = |k: &v1::KillResult| {
        json!({
            "variation": k.variation, "at": timestamp_json(k.at.as_ref()),
            "restored_at": timestamp_json(k.restored_at.as_ref()), "actor": k.actor, "metric": k.metric,
            "exposed": k.exposed, "units": k.units, "converted": k.converted, "open_records": k.open_records,
            "mean": k.mean, "control_mean": k.control_mean, "lift": interval_json(k.lift.as_ref()),
            "p_worse": k.p_worse, "summary": k.summary,
        })
    };
    kills.iter().map(kill).collect()
}

/// An assignment.
pub(crate) fn assignment_json(a: &v1::AssignResponse) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("variation".to_owned(), json!(a.variation));
    shown.insert("payload".to_owned(), payload_json(a.payload.as_ref()));
    shown.insert("reason".to_owned(), json!(reason_name(a.reason)));
    shown.insert("generation".to_owned(), json!(a.generation));
    shown.insert("revision".to_owned(), json!(a.revision));
    shown.insert("point".to_owned(), a.point.map_or(Value::Null, |p| json!(point(p))));
    shown.insert("exposure_recorded".to_owned(), json!(a.exposure_recorded));
    shown
}

fn interval_json(i: Option<&v1::Interval>) -> Value {
    i.map_or(Value::Null, |i| json!({"estimate": i.estimate, "low": i.low, "high": i.high}))
}

/// The name of what can be said about a lift; null for control.
fn lift_state_name(state: i32) -> Option<&'static str> {
    match v1::LiftState::try_from(state) {
        Ok(v1::LiftState::Measured) => Some("measured"),
        Ok(v1::LiftState::Difference) => Some("difference"),
        Ok(v1::LiftState::TooEarly) => Some("too_early"),
        Ok(v1::LiftState::NotMeasured) => Some("not_measured"),
        Ok(v1::LiftState::Unspecified) | Err(_) => None,
    }
}

fn lift_estimates_json(l: Option<&v1::LiftEstimates>) -> Value {
    l.map_or(Value::Null, |l| {
        json!({
            "credible": interval_json(l.credible.as_ref()), "anytime": interval_json(l.anytime.as_ref()),
            "period": interval_json(l.period.as_ref()), "batched": interval_json(l.batched.as_ref()),
            "difference": interval_json(l.difference.as_ref()), "disagrees": l.disagrees,
            "state": lift_state_name(l.state), "note": l.note,
            "difference_anytime": interval_json(l.difference_anytime.as_ref()),
            "difference_period": interval_json(l.difference_period.as_ref()),
            "difference_batched": interval_json(l.difference_batched.as_ref()),
        })
    })
}

/// The results of an experiment.
pub(crate) fn results_json(r: &v1::GetResultsResponse) -> Value {
    // Without these, a probability or a loss would be the prior alone.
    let is_known = |m: &v1::MetricResult| m.lift.as_ref().is_some_and(|l| l.credible.or(l.difference).is_some());
    let is_ranked = is_ranked(r);
    let metric = |m: &v1::MetricResult| {
        json!({
            "metric": m.metric, "units": m.units, "converted": m.converted, "sum": m.sum, "outcomes": m.outcomes,
            "outcome_units": m.outcome_units, "outcome_sum": m.outcome_sum, "mean": m.mean,
            "lift": lift_estimates_json(m.lift.as_ref()), "mature": lift_estimates_json(m.mature.as_ref()),
            "mature_units": m.mature_units, "p_above_control": is_known(m).then_some(m.p_above_control), "harm": m.harm,
            "too_early": m.too_early, "too_late": m.too_late, "dropped": m.dropped, "ratio_note": m.ratio_note,
            "delay": m.delay.as_ref().map(|d| json!({
                "early": d.early, "control_early": d.control_early, "p_value": d.p_value, "differs": d.differs,
            })),
            "novelty": m.novelty.as_ref().map(|n| json!({
                "early": interval_json(n.early.as_ref()), "late": interval_json(n.late.as_ref()), "p_value": n.p_value,
                "changed": n.changed,
            })),
        })
    };
    let arm = |a: &v1::ArmResult| {
        json!({
            "variation": a.variation, "killed": a.killed, "killed_after_end": a.killed_after_end,
            "share": a.share, "units": a.units,
            "metrics": a.metrics.iter().map(metric).collect::<Vec<_>>(), "p_best": (is_ranked && !a.killed).then_some(a.p_best),
            "p_above_control": a.lift.or(a.difference).map(|_| a.p_above_control),
            "expected_loss": a.expected_loss.filter(|_| is_ranked && !a.killed),
            "lift": interval_json(a.lift.as_ref()), "lift_anytime": interval_json(a.lift_anytime.as_ref()),
            "lift_state": lift_state_name(a.lift_state), "lift_note": a.lift_note,
            "difference": interval_json(a.difference.as_ref()),
            "difference_anytime": interval_json(a.difference_anytime.as_ref()),
            "open_records": a.open_records, "final_share": a.final_share,
        })
    };
    json!({
        "key": r.key, "generation": r.generation, "revision": r.revision, "state": state_name(r.state),
        "now": timestamp_json(r.now.as_ref()), "arms": r.arms.iter().map(arm).collect::<Vec<_>>(),
        "units": r.units, "units_note": r.units_note, "effective_at": timestamp_json(r.effective_at.as_ref()),
        "units_moved": r.units_moved, "crossovers": r.crossovers, "stale_exposures": r.stale_exposures,
        "dropped_records": r.dropped_records, "headroom": r.headroom, "floor": r.floor,
        "headroom_note": r.headroom_note,
        "sample_ratio": sample_ratio_json(r),
        "backlog": r.backlog, "verdict": r.verdict, "decision_metric": r.decision_metric,
        "potential_value_remaining": r.potential_value_remaining, "growth_per_day": r.growth_per_day,
        "days_of_headroom": r.days_of_headroom, "ship_waits_for": r.ship_waits_for, "warnings": r.warnings,
        "not_ranked": r.not_ranked, "leader": r.leader, "compares_differences": r.compares_differences,
        "dropped_by_kill": r.dropped_by_kill, "dropped_by_revision": r.dropped_by_revision,
        "dropped_after_end": r.dropped_after_end, "outcomes_too_early": r.outcomes_too_early,
        "outcomes_too_late": r.outcomes_too_late, "kills": kills_json(&r.kills),
        "ship_rests_on": r.ship_rests_on, "clearly_best": r.clearly_best,
        "clearly_best_rests_on": r.clearly_best_rests_on,
        "ended_at": timestamp_json(r.ended_at.as_ref()), "ended": r.ended,
    })
}

/// The check for a sample ratio mismatch; null if there is none.
pub(crate) fn sample_ratio_json(r: &v1::GetResultsResponse) -> Value {
    r.sample_ratio.as_ref().map_or(Value::Null, |s| {
        json!({
            "chi_squared": s.chi_squared, "degrees_of_freedom": s.degrees_of_freedom, "p_value": s.p_value,
            "evidence": s.evidence, "summary": s.summary,
        })
    })
}

/// A funnel.
pub(crate) fn funnel_json(r: &v1::GetFunnelResponse) -> Value {
    let step = |s: &v1::FunnelStep| {
        json!({
            "event": s.event, "reached": s.reached, "dropped": s.dropped, "rate": s.rate, "step_rate": s.step_rate,
            "compared_reached": s.compared_reached, "lift": lift_estimates_json(s.lift.as_ref()),
        })
    };
    let arm = |a: &v1::FunnelArm| {
        json!({
            "variation": a.variation, "killed": a.killed, "exposed": a.exposed, "compared": a.compared,
            "steps": a.steps.iter().map(step).collect::<Vec<_>>(),
        })
    };
    json!({
        "key": r.key, "generation": r.generation, "steps": r.steps, "from": timestamp_json(r.from.as_ref()),
        "to": timestamp_json(r.to.as_ref()), "arms": r.arms.iter().map(arm).collect::<Vec<_>>(), "backlog": r.backlog,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiment_has_initial_and_current_shares() {
        let variation = |key: &str, share: f64| v1::Variation {
            key: key.to_owned(),
            payload: Some(v1::Payload { value: Some(v1::payload::Value::BooleanValue(true)) }),
            initial_share: Some(0.1),
            share,
            ..v1::Variation::default()
        };
        let sent = v1::Experiment {
            key: "k".to_owned(),
            state: v1::State::Running.into(),
            variations: vec![variation("off", 0.7), variation("on", 0.3)],
            now: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..v1::Experiment::default()
        };
        let shown = experiment_json(&sent).unwrap();
        assert_eq!(
            shown["variations"][1],
            json!({
                "key": "on", "payload": true, "initial_share": 0.1, "share": 0.3, "killed": false,
            })
        );
        assert_eq!((&shown["state"], &shown["now"]), (&json!("running"), &json!("1970-01-01T00:00:00Z")));
        assert_eq!(shown["start_time"], Value::Null);
    }

    #[test]
    fn points_have_sixteen_hex_digits() {
        let answer = v1::AssignResponse { point: Some(255), ..v1::AssignResponse::default() };
        assert_eq!(assignment_json(&answer)["point"], "00000000000000ff");
        let list = [v1::Bucket { start: 0, owner: 0 }, v1::Bucket { start: 1 << 63, owner: 1 }];
        let names = ["off".to_owned()];
        assert_eq!(buckets_json(&list, &names)[1], json!({"start": "8000000000000000", "owner": "#1"}));
    }
}
