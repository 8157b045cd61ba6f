//! What the server says, as JSON: the same words and units as in the files people write, points as 16 hex digits,
//! instants as RFC 3339. Pure.

use inroad_assignment::{DefinitionDoc, Timestamp};
use inroad_wire::v1;
use inroad_wire::{definition_from_wire, payload_from_wire, reason_from_wire, timestamp_from_wire};
use serde_json::{Map, Value, json};

use crate::output;
use crate::parse::point;

/// An instant that was sent; `None` if it was not, or makes no sense.
pub(crate) fn time(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    timestamp_from_wire(at?).ok()
}

/// The same in words; a dash if there is none.
pub(crate) fn time_text(at: Option<&prost_types::Timestamp>) -> String {
    time(at).map_or_else(|| "–".to_owned(), output::instant)
}

/// The same for JSON.
pub(crate) fn time_json(at: Option<&prost_types::Timestamp>) -> Value {
    time(at).map_or(Value::Null, |at| Value::String(output::instant(at)))
}

/// A state in one word.
pub(crate) fn state_name(state: i32) -> &'static str {
    match v1::State::try_from(state) {
        Ok(v1::State::Draft) => "draft",
        Ok(v1::State::Running) => "running",
        Ok(v1::State::Paused) => "paused",
        Ok(v1::State::Concluded) => "concluded",
        Ok(v1::State::Archived) => "archived",
        Ok(v1::State::Unspecified) | Err(_) => "unknown",
    }
}

/// A reason in one word.
pub(crate) fn reason_name(reason: i32) -> &'static str {
    reason_from_wire(reason).map_or("unknown", inroad_assignment::Reason::name)
}

/// A payload.
pub(crate) fn payload(payload: Option<&v1::Payload>) -> Value {
    let read = payload.cloned().map(payload_from_wire);
    read.and_then(Result::ok).and_then(|p| serde_json::to_value(p).ok()).unwrap_or(Value::Null)
}

/// What was declared, as a file would have it.
pub(crate) fn declared(experiment: &v1::Experiment) -> anyhow::Result<DefinitionDoc> {
    Ok(definition_from_wire(experiment.clone())?)
}

/// An experiment: what was declared, and where it stands.
pub(crate) fn experiment(e: &v1::Experiment) -> anyhow::Result<Value> {
    let mut shown = serde_json::to_value(declared(e)?)?;
    if let Some(variations) = shown["variations"].as_array_mut() {
        for (variation, sent) in variations.iter_mut().zip(&e.variations) {
            // In a file "share" is what a variation starts with; here both are told.
            if let Some(fields) = variation.as_object_mut() {
                let initial = fields.remove("share").unwrap_or(Value::Null);
                fields.insert("initial_share".to_owned(), initial);
                fields.insert("share".to_owned(), json!(sent.share));
                fields.insert("killed".to_owned(), json!(sent.killed));
            }
        }
    }
    let stands = json!({
        "state": state_name(e.state), "killed": e.killed, "generation": e.generation, "revision": e.revision,
        "generation_salt": e.generation_salt, "create_time": time_json(e.create_time.as_ref()),
        "start_time": time_json(e.start_time.as_ref()), "now": time_json(e.now.as_ref()),
        "effective_at": time_json(e.effective_at.as_ref()), "shipped": e.shipped, "etag": e.etag,
        "alerts": e.alerts.iter().map(alert).collect::<Vec<_>>(),
    });
    if let (Value::Object(shown), Value::Object(stands)) = (&mut shown, stands) {
        shown.extend(stands);
    }
    Ok(shown)
}

/// What a guardrail said.
fn alert(a: &v1::GuardrailAlert) -> Value {
    let action = match v1::GuardrailAction::try_from(a.action) {
        Ok(v1::GuardrailAction::Alert) => "alert",
        Ok(v1::GuardrailAction::Freeze) => "freeze",
        Ok(v1::GuardrailAction::Kill) => "kill",
        Ok(v1::GuardrailAction::Unspecified) | Err(_) => "unknown",
    };
    json!({
        "metric": a.metric, "variation": a.variation, "action": action, "at": time_json(a.at.as_ref()),
        "evidence": a.evidence,
    })
}

/// A decision of the policy.
pub(crate) fn decision(d: &v1::Decision) -> Value {
    let arm = |a: &v1::ArmDecision| {
        json!({
            "variation": a.variation, "p_best": a.p_best, "p_above_control": a.p_above_control,
            "expected_loss": a.expected_loss, "share_before": a.share_before, "share_after": a.share_after,
            "why": a.why,
        })
    };
    json!({
        "at": time_json(d.at.as_ref()), "generation": d.generation, "revision": d.revision,
        "arms": d.arms.iter().map(arm).collect::<Vec<_>>(), "hold": d.hold, "killed": d.killed,
        "conclude": d.conclude, "summary": d.summary, "shadow": d.shadow,
    })
}

/// Buckets, with their owners' names.
pub(crate) fn buckets(buckets: &[v1::Bucket], variations: &[String]) -> Value {
    let bucket = |b: &v1::Bucket| json!({"start": point(b.start), "owner": owner(b.owner, variations)});
    buckets.iter().map(bucket).collect()
}

/// An owner's name.
pub(crate) fn owner(index: u32, variations: &[String]) -> String {
    variations.get(index as usize).cloned().unwrap_or_else(|| format!("#{index}"))
}

/// A revision.
pub(crate) fn revision(r: &v1::Revision, variations: &[String]) -> Value {
    json!({
        "number": r.number, "cause": r.cause, "created_at": time_json(r.created_at.as_ref()),
        "effective_at": time_json(r.effective_at.as_ref()), "has_decision": r.has_decision,
        "buckets": buckets(&r.buckets, variations),
    })
}

/// An entry of the audit log.
pub(crate) fn audit_entry(e: &v1::AuditEntry) -> Value {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    json!({
        "id": e.id, "at": time_json(e.at.as_ref()), "actor": e.actor, "action": e.action, "experiment": e.experiment,
        "from": read(&e.from_json), "to": read(&e.to_json),
    })
}

/// An answer to "which variation?".
pub(crate) fn assignment(a: &v1::AssignResponse) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("variation".to_owned(), json!(a.variation));
    shown.insert("payload".to_owned(), payload(a.payload.as_ref()));
    shown.insert("reason".to_owned(), json!(reason_name(a.reason)));
    shown.insert("generation".to_owned(), json!(a.generation));
    shown.insert("revision".to_owned(), json!(a.revision));
    shown.insert("point".to_owned(), a.point.map_or(Value::Null, |p| json!(point(p))));
    shown.insert("exposure_recorded".to_owned(), json!(a.exposure_recorded));
    shown
}

fn interval(i: Option<&v1::Interval>) -> Value {
    i.map_or(Value::Null, |i| json!({"estimate": i.estimate, "low": i.low, "high": i.high}))
}

fn lift_estimates(l: Option<&v1::LiftEstimates>) -> Value {
    l.map_or(Value::Null, |l| {
        json!({
            "credible": interval(l.credible.as_ref()), "anytime": interval(l.anytime.as_ref()),
            "period": interval(l.period.as_ref()), "batched": interval(l.batched.as_ref()),
            "difference": interval(l.difference.as_ref()), "disagrees": l.disagrees,
        })
    })
}

/// Results.
pub(crate) fn results(r: &v1::GetResultsResponse) -> Value {
    let metric = |m: &v1::MetricResult| {
        json!({
            "metric": m.metric, "units": m.units, "converted": m.converted, "sum": m.sum, "outcomes": m.outcomes,
            "outcome_units": m.outcome_units, "outcome_sum": m.outcome_sum, "mean": m.mean,
            "lift": lift_estimates(m.lift.as_ref()), "mature": lift_estimates(m.mature.as_ref()),
            "mature_units": m.mature_units, "p_above_control": m.p_above_control, "harm": m.harm,
            "delay": m.delay.as_ref().map(|d| json!({
                "early": d.early, "control_early": d.control_early, "p_value": d.p_value, "differs": d.differs,
            })),
            "novelty": m.novelty.as_ref().map(|n| json!({
                "early": interval(n.early.as_ref()), "late": interval(n.late.as_ref()), "p_value": n.p_value,
                "changed": n.changed,
            })),
        })
    };
    let arm = |a: &v1::ArmResult| {
        json!({
            "variation": a.variation, "killed": a.killed, "share": a.share, "units": a.units,
            "metrics": a.metrics.iter().map(metric).collect::<Vec<_>>(), "p_best": a.p_best,
            "p_above_control": a.p_above_control, "expected_loss": a.expected_loss,
            "lift": interval(a.lift.as_ref()), "lift_anytime": interval(a.lift_anytime.as_ref()),
        })
    };
    let ratio = r.sample_ratio.as_ref().map(|s| {
        json!({
            "chi_squared": s.chi_squared, "degrees_of_freedom": s.degrees_of_freedom, "p_value": s.p_value,
            "evidence": s.evidence,
        })
    });
    json!({
        "key": r.key, "generation": r.generation, "revision": r.revision, "state": state_name(r.state),
        "now": time_json(r.now.as_ref()), "arms": r.arms.iter().map(arm).collect::<Vec<_>>(),
        "units_moved": r.units_moved, "crossovers": r.crossovers, "stale_exposures": r.stale_exposures,
        "dropped_records": r.dropped_records, "headroom": r.headroom, "floor": r.floor, "sample_ratio": ratio,
        "backlog": r.backlog, "verdict": r.verdict, "decision_metric": r.decision_metric,
        "potential_value_remaining": r.potential_value_remaining, "growth_per_day": r.growth_per_day,
        "days_of_headroom": r.days_of_headroom, "ship_waits_for": r.ship_waits_for, "warnings": r.warnings,
    })
}

/// A funnel.
pub(crate) fn funnel(r: &v1::GetFunnelResponse) -> Value {
    let step = |s: &v1::FunnelStep| {
        json!({
            "event": s.event, "reached": s.reached, "dropped": s.dropped, "rate": s.rate, "step_rate": s.step_rate,
            "compared_reached": s.compared_reached, "lift": lift_estimates(s.lift.as_ref()),
        })
    };
    let arm = |a: &v1::FunnelArm| {
        json!({
            "variation": a.variation, "killed": a.killed, "exposed": a.exposed, "compared": a.compared,
            "steps": a.steps.iter().map(step).collect::<Vec<_>>(),
        })
    };
    json!({
        "key": r.key, "generation": r.generation, "steps": r.steps, "from": time_json(r.from.as_ref()),
        "to": time_json(r.to.as_ref()), "arms": r.arms.iter().map(arm).collect::<Vec<_>>(), "backlog": r.backlog,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_tells_what_it_starts_with_and_what_it_has() {
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
        let shown = experiment(&sent).unwrap();
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
    fn points_are_sixteen_hex_digits() {
        let answer = v1::AssignResponse { point: Some(255), ..v1::AssignResponse::default() };
        assert_eq!(assignment(&answer)["point"], "00000000000000ff");
        let list = [v1::Bucket { start: 0, owner: 0 }, v1::Bucket { start: 1 << 63, owner: 1 }];
        let names = ["off".to_owned()];
        assert_eq!(buckets(&list, &names)[1], json!({"start": "8000000000000000", "owner": "#1"}));
    }
}
