//! Declared experiments, and experiments with their current state, as clients see them.

use std::time::Duration;

use inroad_assignment::definition::{Direction, Lifetime};
use inroad_assignment::document::{ClockDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::Alert;
use inroad_assignment::{
    Arm, DefinitionDoc, Experiment, Generation, GrowthRule, Guardrail, GuardrailAction, MetricKind, PosteriorKind,
    Salt, Status, ThompsonSettings, Timestamp,
};

use crate::error::WireError;
use crate::payload::{payload_from_wire, payload_to_wire};
use crate::reason::status_to_wire;
use crate::time::{duration_from_wire, duration_to_wire, optional_timestamp_from_wire, timestamp_to_wire};
use crate::v1;

const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Converts a declared experiment. Output fields are ignored, and fields that are not set get their defaults. All other
/// checks are made by [`inroad_assignment::Definition`].
///
/// # Errors
/// If a variation has no payload, an enum value is unknown, a setting does not belong to its kind, or a time or
/// duration is out of range.
pub fn definition_from_wire(sent: v1::Experiment) -> Result<DefinitionDoc, WireError> {
    let variations = sent.variations.into_iter().enumerate();
    let variations = variations.map(|(i, v)| variation_from_wire(v).map_err(|e| e.within(&format!("variations[{i}]"))));
    let metrics = sent.metrics.into_iter().enumerate();
    let metrics = metrics.map(|(i, m)| metric_from_wire(m).map_err(|e| e.within(&format!("metrics[{i}]"))));
    Ok(DefinitionDoc {
        key: sent.key,
        description: sent.description,
        owner: sent.owner,
        tags: sent.tags,
        lifetime: if sent.permanent { Lifetime::Permanent } else { Lifetime::Temporary },
        unit: non_empty(sent.unit),
        audience: non_empty(sent.audience),
        salt: non_empty(sent.salt),
        clock: clock_from_wire(sent.clock).map_err(|e| e.within("clock"))?,
        policy: policy_from_wire(sent.policy).map_err(|e| e.within("policy"))?,
        variations: variations.collect::<Result<_, _>>()?,
        overrides: sent.overrides.into_iter().map(override_from_wire).collect(),
        metrics: metrics.collect::<Result<_, _>>()?,
    })
}

/// The text, or `None` if it is empty.
fn non_empty(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn variation_from_wire(sent: v1::Variation) -> Result<VariationDoc, WireError> {
    let payload = sent.payload.ok_or_else(|| {
        WireError::field("payload", "the payload is missing: give a boolean, a number, text or an object")
    })?;
    Ok(VariationDoc {
        key: sent.key,
        payload: payload_from_wire(payload).map_err(|e| e.within("payload"))?,
        description: sent.description,
        share: sent.initial_share,
    })
}

fn override_from_wire(sent: v1::Override) -> OverrideDoc {
    OverrideDoc { units: sent.units, when: non_empty(sent.when), variation: sent.variation }
}

fn metric_from_wire(sent: v1::Metric) -> Result<MetricDoc, WireError> {
    let kind = v1::MetricKind::try_from(sent.kind).map_err(|_| unknown_enum_value("kind"))?;
    if sent.cap.is_some() && kind != v1::MetricKind::Mean {
        return Err(WireError::field("cap", "only METRIC_KIND_MEAN has a cap: leave it out, or change the kind"));
    }
    if !sent.denominator.is_empty() && kind != v1::MetricKind::Ratio {
        let message = "only METRIC_KIND_RATIO has a denominator: leave it out, or change the kind";
        return Err(WireError::field("denominator", message));
    }
    Ok(MetricDoc {
        key: sent.key,
        event: sent.event,
        kind: match kind {
            v1::MetricKind::Unspecified | v1::MetricKind::Conversion => MetricKind::Conversion,
            v1::MetricKind::Count => MetricKind::Count,
            v1::MetricKind::Mean => MetricKind::Mean { cap: sent.cap },
            v1::MetricKind::Ratio => MetricKind::Ratio { denominator: sent.denominator },
        },
        window: duration_or(sent.window.as_ref(), "window", WEEK)?,
        direction: match v1::Direction::try_from(sent.direction).map_err(|_| unknown_enum_value("direction"))? {
            v1::Direction::Unspecified | v1::Direction::Up => Direction::Up,
            v1::Direction::Down => Direction::Down,
        },
        decision: sent.decision,
        guardrail: sent.guardrail.map(guardrail_from_wire).transpose()?,
    })
}

fn guardrail_from_wire(sent: v1::Guardrail) -> Result<Guardrail, WireError> {
    use v1::GuardrailAction as Action;
    let action = match Action::try_from(sent.action).map_err(|_| unknown_enum_value("guardrail.action"))? {
        Action::Unspecified | Action::Kill => GuardrailAction::Kill,
        Action::Freeze => GuardrailAction::Freeze,
        Action::Alert => GuardrailAction::Alert,
    };
    Ok(Guardrail { margin: sent.margin, action })
}

/// The error for an enum value that this program does not know, because a newer program sent it.
fn unknown_enum_value(field: &str) -> WireError {
    WireError::field(field, "the value is unknown: update this program")
}

fn duration_or(sent: Option<&prost_types::Duration>, field: &str, default: Duration) -> Result<Duration, WireError> {
    sent.map_or(Ok(default), |sent| duration_from_wire(sent).map_err(|e| e.within(field)))
}

fn clock_from_wire(sent: Option<v1::Clock>) -> Result<ClockDoc, WireError> {
    let clock = sent.unwrap_or_default();
    let start = optional_timestamp_from_wire(clock.start.as_ref(), "start")?;
    match (clock.manual, start) {
        (true, Some(start)) if start < Timestamp::default() => {
            Err(WireError::field("start", "give a time since 1970, or leave it out"))
        }
        (true, start) => Ok(ClockDoc::Manual { start }),
        (false, None) => Ok(ClockDoc::Wall),
        (false, Some(_)) => {
            Err(WireError::field("start", "only a manual clock has a start: set manual, or leave it out"))
        }
    }
}

fn policy_from_wire(sent: Option<v1::Policy>) -> Result<PolicyDoc, WireError> {
    use v1::policy::Kind;
    match sent.and_then(|policy| policy.kind) {
        None => Ok(PolicyDoc::default()),
        Some(Kind::Manual(m)) => {
            let tick = duration_or(m.tick.as_ref(), "manual.tick", DAY)?;
            Ok(PolicyDoc::Manual { floor: m.floor, tick })
        }
        Some(Kind::Thompson(t)) => {
            let d = ThompsonSettings::default();
            Ok(PolicyDoc::Thompson(ThompsonSettings {
                tick: duration_or(t.tick.as_ref(), "thompson.tick", d.tick)?,
                burn_in: duration_or(t.burn_in.as_ref(), "thompson.burn_in", d.burn_in)?,
                burn_in_units: t.burn_in_units.unwrap_or(d.burn_in_units),
                burn_in_conversions: t.burn_in_conversions.unwrap_or(d.burn_in_conversions),
                floor: t.floor.unwrap_or(d.floor),
                daily_cap: t.daily_cap.unwrap_or(d.daily_cap),
                daily_cap_conclude: t.daily_cap_conclude.unwrap_or(d.daily_cap_conclude),
                min_step: t.min_step.unwrap_or(d.min_step),
                tau: t.tau.unwrap_or(d.tau),
                kill_probability: t.kill_probability.unwrap_or(d.kill_probability),
                conclude_probability: t.conclude_probability.unwrap_or(d.conclude_probability),
                conclude_loss: t.conclude_loss.unwrap_or(d.conclude_loss),
                draws_log2: t.draws_log2.unwrap_or(d.draws_log2),
                rule: rule_from_wire(t.rule)?,
                patience: t.patience.unwrap_or(d.patience),
                exponent: t.exponent.unwrap_or(d.exponent),
                epsilon: t.epsilon.unwrap_or(d.epsilon),
                posterior: posterior_from_wire(t.posterior)?,
                shadow: t.shadow,
            }))
        }
    }
}

fn rule_from_wire(sent: i32) -> Result<GrowthRule, WireError> {
    use v1::GrowthRule as Rule;
    Ok(match Rule::try_from(sent).map_err(|_| unknown_enum_value("thompson.rule"))? {
        Rule::Unspecified | Rule::Weighed => GrowthRule::Weighed,
        Rule::Level => GrowthRule::Level,
        Rule::Chase => GrowthRule::Chase,
        Rule::TopTwo => GrowthRule::TopTwo,
        Rule::EpsilonGreedy => GrowthRule::EpsilonGreedy,
        Rule::Fixed => GrowthRule::Fixed,
    })
}

fn rule_to_wire(rule: GrowthRule) -> v1::GrowthRule {
    match rule {
        GrowthRule::Weighed => v1::GrowthRule::Weighed,
        GrowthRule::Level => v1::GrowthRule::Level,
        GrowthRule::Chase => v1::GrowthRule::Chase,
        GrowthRule::TopTwo => v1::GrowthRule::TopTwo,
        GrowthRule::EpsilonGreedy => v1::GrowthRule::EpsilonGreedy,
        GrowthRule::Fixed => v1::GrowthRule::Fixed,
    }
}

fn posterior_from_wire(sent: i32) -> Result<PosteriorKind, WireError> {
    use v1::PosteriorKind as Kind;
    Ok(match Kind::try_from(sent).map_err(|_| unknown_enum_value("thompson.posterior"))? {
        Kind::Unspecified | Kind::E3 => PosteriorKind::E3,
        Kind::Pooled => PosteriorKind::Pooled,
    })
}

/// Converts a definition to the message that declares it; output fields stay empty.
pub fn definition_to_wire(doc: &DefinitionDoc) -> v1::Experiment {
    v1::Experiment {
        key: doc.key.clone(),
        description: doc.description.clone(),
        owner: doc.owner.clone(),
        tags: doc.tags.clone(),
        permanent: doc.lifetime == Lifetime::Permanent,
        unit: doc.unit.clone().unwrap_or_default(),
        audience: doc.audience.clone().unwrap_or_default(),
        salt: doc.salt.clone().unwrap_or_default(),
        clock: Some(clock_to_wire(doc.clock)),
        policy: Some(policy_to_wire(&doc.policy)),
        variations: doc.variations.iter().map(variation_to_wire).collect(),
        overrides: doc.overrides.iter().map(override_to_wire).collect(),
        metrics: doc.metrics.iter().map(metric_to_wire).collect(),
        ..v1::Experiment::default()
    }
}

fn variation_to_wire(doc: &VariationDoc) -> v1::Variation {
    v1::Variation {
        key: doc.key.clone(),
        payload: Some(payload_to_wire(&doc.payload)),
        description: doc.description.clone(),
        initial_share: doc.share,
        share: 0.0,
        killed: false,
    }
}

fn override_to_wire(doc: &OverrideDoc) -> v1::Override {
    let when = doc.when.clone().unwrap_or_default();
    v1::Override { units: doc.units.clone(), when, variation: doc.variation.clone() }
}

fn metric_to_wire(doc: &MetricDoc) -> v1::Metric {
    let (kind, cap, denominator) = match &doc.kind {
        MetricKind::Conversion => (v1::MetricKind::Conversion, None, String::new()),
        MetricKind::Count => (v1::MetricKind::Count, None, String::new()),
        MetricKind::Mean { cap } => (v1::MetricKind::Mean, *cap, String::new()),
        MetricKind::Ratio { denominator } => (v1::MetricKind::Ratio, None, denominator.clone()),
    };
    let direction = match doc.direction {
        Direction::Up => v1::Direction::Up,
        Direction::Down => v1::Direction::Down,
    };
    v1::Metric {
        key: doc.key.clone(),
        event: doc.event.clone(),
        kind: kind.into(),
        window: Some(duration_to_wire(doc.window)),
        direction: direction.into(),
        decision: doc.decision,
        cap,
        denominator,
        guardrail: doc.guardrail.map(guardrail_to_wire),
    }
}

fn guardrail_to_wire(guardrail: Guardrail) -> v1::Guardrail {
    v1::Guardrail { margin: guardrail.margin, action: action_to_wire(guardrail.action).into() }
}

fn action_to_wire(action: GuardrailAction) -> v1::GuardrailAction {
    match action {
        GuardrailAction::Alert => v1::GuardrailAction::Alert,
        GuardrailAction::Freeze => v1::GuardrailAction::Freeze,
        GuardrailAction::Kill => v1::GuardrailAction::Kill,
    }
}

fn clock_to_wire(doc: ClockDoc) -> v1::Clock {
    match doc {
        ClockDoc::Wall => v1::Clock { manual: false, start: None },
        ClockDoc::Manual { start } => v1::Clock { manual: true, start: start.map(timestamp_to_wire) },
    }
}

fn policy_to_wire(doc: &PolicyDoc) -> v1::Policy {
    use v1::policy::Kind;
    let kind = match doc {
        PolicyDoc::Manual { floor, tick } => {
            Kind::Manual(v1::ManualPolicy { floor: *floor, tick: Some(duration_to_wire(*tick)) })
        }
        PolicyDoc::Thompson(s) => Kind::Thompson(v1::ThompsonPolicy {
            tick: Some(duration_to_wire(s.tick)),
            burn_in: Some(duration_to_wire(s.burn_in)),
            burn_in_units: Some(s.burn_in_units),
            burn_in_conversions: Some(s.burn_in_conversions),
            floor: Some(s.floor),
            daily_cap: Some(s.daily_cap),
            daily_cap_conclude: Some(s.daily_cap_conclude),
            min_step: Some(s.min_step),
            tau: Some(s.tau),
            kill_probability: Some(s.kill_probability),
            conclude_probability: Some(s.conclude_probability),
            conclude_loss: Some(s.conclude_loss),
            draws_log2: Some(s.draws_log2),
            rule: rule_to_wire(s.rule).into(),
            patience: Some(s.patience),
            exponent: Some(s.exponent),
            epsilon: Some(s.epsilon),
            posterior: match s.posterior {
                PosteriorKind::E3 => v1::PosteriorKind::E3,
                PosteriorKind::Pooled => v1::PosteriorKind::Pooled,
            }
            .into(),
            shadow: s.shadow,
        }),
    };
    v1::Policy { kind: Some(kind) }
}

fn alert_to_wire(experiment: &Experiment, alert: &Alert) -> v1::GuardrailAlert {
    v1::GuardrailAlert {
        metric: alert.metric.clone(),
        variation: experiment.definition.variation(alert.arm).map(|v| v.key.to_string()).unwrap_or_default(),
        action: action_to_wire(alert.action).into(),
        at: Some(timestamp_to_wire(alert.at)),
        evidence: alert.log_evidence.exp(),
    }
}

/// Converts an experiment with its current state. `version` becomes the etag; `wall_now` is the wall clock's time.
pub fn experiment_to_wire(experiment: &Experiment, version: u64, wall_now: Timestamp) -> v1::Experiment {
    let generation = experiment.generation();
    let newest = generation.and_then(Generation::latest);
    let allocation = experiment.latest_allocation();
    let mut sent = definition_to_wire(&DefinitionDoc::from(experiment.definition.clone()));
    for (i, variation) in sent.variations.iter_mut().enumerate() {
        if let Some(arm) = Arm::new(i) {
            variation.share = allocation.width_of(arm).share();
            variation.killed = experiment.kills.is_arm_killed(arm);
        }
    }
    let shipped = match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => experiment.definition.variation(shipped),
        Status::Draft | Status::Running | Status::Paused => None,
    };
    v1::Experiment {
        state: status_to_wire(experiment.status).into(),
        killed: experiment.kills.everything,
        generation: generation.map_or(0, |g| g.number),
        revision: newest.map_or(0, |r| r.number),
        generation_salt: generation.map(|g| Salt::to_string(&g.salt)).unwrap_or_default(),
        create_time: Some(timestamp_to_wire(experiment.created_at)),
        start_time: generation.map(|g| timestamp_to_wire(g.started_at)),
        now: Some(timestamp_to_wire(experiment.now(wall_now))),
        effective_at: newest.map(|r| timestamp_to_wire(r.effective_at)),
        revision_never_in_effect: generation.zip(newest).is_some_and(|(g, r)| g.ended_before(r)),
        shipped: shipped.map(|v| v.key.to_string()).unwrap_or_default(),
        shipped_within_audience: shipped.is_some() && experiment.shipped_within_audience,
        etag: version.to_string(),
        alerts: experiment.alerts.iter().map(|alert| alert_to_wire(experiment, alert)).collect(),
        ..sent
    }
}
