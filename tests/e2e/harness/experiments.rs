//! Definitions of the experiments that tests use.

use inroad_wire::v1::{self, payload, policy};
use prost_types::Duration;

/// An experiment with a manual policy, a minimum control share of 5%, and these variations beside `control`, each with
/// an initial share.
pub(crate) fn flag(key: &str, variations: &[(&str, f64)]) -> v1::Experiment {
    let variation = |key: &str, share: Option<f64>| v1::Variation {
        key: key.to_owned(),
        payload: Some(v1::Payload { value: Some(payload::Value::StringValue(key.to_owned())) }),
        initial_share: share,
        ..v1::Variation::default()
    };
    let others = variations.iter().map(|(key, share)| variation(key, Some(*share)));
    v1::Experiment {
        key: key.to_owned(),
        variations: std::iter::once(variation("control", None)).chain(others).collect(),
        policy: Some(v1::Policy { kind: Some(policy::Kind::Manual(v1::ManualPolicy { floor: 0.05, tick: None })) }),
        ..v1::Experiment::default()
    }
}

/// Adds two metrics on the event `purchase`: the conversion `bought`, which is the decision metric, and the mean value
/// `spent`.
pub(crate) fn with_conversion_metrics(mut experiment: v1::Experiment) -> v1::Experiment {
    let window = Some(Duration { seconds: 7 * 86_400, nanos: 0 });
    let metric = |key: &str, kind: v1::MetricKind, decision| v1::Metric {
        key: key.to_owned(),
        event: "purchase".to_owned(),
        kind: kind.into(),
        window,
        decision,
        ..v1::Metric::default()
    };
    experiment.metrics =
        vec![metric("bought", v1::MetricKind::Conversion, true), metric("spent", v1::MetricKind::Mean, false)];
    experiment
}

/// Sets the Thompson policy, with settings that let variations grow quickly: almost no burn-in, no minimum step, and a
/// cap of the whole line.
pub(crate) fn with_thompson_policy(mut experiment: v1::Experiment, tick_seconds: i64) -> v1::Experiment {
    let settings = v1::ThompsonPolicy {
        tick: Some(Duration { seconds: tick_seconds, nanos: 0 }),
        burn_in: Some(Duration::default()),
        burn_in_units: Some(1),
        burn_in_conversions: Some(1),
        daily_cap: Some(1.0),
        daily_cap_conclude: Some(1.0),
        min_step: Some(0.0),
        ..v1::ThompsonPolicy::default()
    };
    experiment.policy = Some(v1::Policy { kind: Some(policy::Kind::Thompson(settings)) });
    experiment
}

/// Sets a manual clock that starts at `start` seconds since the Unix epoch.
pub(crate) fn with_manual_clock(mut experiment: v1::Experiment, start: i64) -> v1::Experiment {
    let start = Some(prost_types::Timestamp { seconds: start, nanos: 0 });
    experiment.clock = Some(v1::Clock { manual: true, start });
    experiment
}
