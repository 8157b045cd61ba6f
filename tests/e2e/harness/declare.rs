//! Experiments as the tests declare them.

use inroad_wire::v1::{self, payload, policy};
use prost_types::Duration;

/// An experiment with a manual policy, a floor of 5% and the variations given after `control`, each with a foothold.
pub(crate) fn flag(key: &str, variations: &[(&str, f64)]) -> v1::Experiment {
    let variation = |key: &str, share: Option<f64>| v1::Variation {
        key: key.to_owned(),
        payload: Some(v1::Payload { value: Some(payload::Value::StringValue(key.to_owned())) }),
        initial_share: share,
        ..v1::Variation::default()
    };
    let treated = variations.iter().map(|(key, share)| variation(key, Some(*share)));
    v1::Experiment {
        key: key.to_owned(),
        variations: std::iter::once(variation("control", None)).chain(treated).collect(),
        policy: Some(v1::Policy { kind: Some(policy::Kind::Manual(v1::ManualPolicy { floor: 0.05, tick: None })) }),
        ..v1::Experiment::default()
    }
}

/// The same with a conversion metric, `bought` out of the event `purchase`, that decides, and `spent`, its value.
pub(crate) fn conversions(mut experiment: v1::Experiment) -> v1::Experiment {
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

/// The same with policy thompson, eager to grow: no burn-in to speak of, no smallest step, whole-line cap.
pub(crate) fn thompson(mut experiment: v1::Experiment, tick_seconds: i64) -> v1::Experiment {
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

/// The same on a manual clock that starts at a second of the epoch.
pub(crate) fn manual_clock(mut experiment: v1::Experiment, start: i64) -> v1::Experiment {
    let start = Some(prost_types::Timestamp { seconds: start, nanos: 0 });
    experiment.clock = Some(v1::Clock { manual: true, start });
    experiment
}
