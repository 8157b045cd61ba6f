//! Conversions to and from messages: valid values survive both unchanged, and invalid messages are refused.
#![allow(clippy::unwrap_used)]

mod contexts;
mod definitions;
mod snapshots;
mod statuses;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::audience::Audience;
use inroad_assignment::definition::{Direction, Lifetime, Violation};
use inroad_assignment::document::{ClockDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{
    Allocation, Arm, Context, Definition, DefinitionDoc, DefinitionError, Experiment, GrowthRule, Guardrail,
    GuardrailAction, KillTarget, MetricKind, Payload, PosteriorKind, Reason, Salt, ServedExperiment, Snapshot, Status,
    ThompsonSettings, Timestamp, Value, Width,
};
use inroad_wire::context::{MAX_DEPTH, MAX_VALUES};
use inroad_wire::exposure_context::{MAX_EXPOSURE_CONTEXT_BYTES, trim_context};
use inroad_wire::status::{describe_status, invalid_definition, reason_of, resource_exhausted, retry_delay};
use inroad_wire::*;
use proptest::prelude::*;
use prost::Message;
use prost_types::value::Kind;

const NOW: Timestamp = Timestamp::from_micros(1_750_000_000_123_456);

fn doc() -> DefinitionDoc {
    let object = serde_json::json!({ "limit": 3, "ratio": 0.5, "tags": ["a", null, true], "deep": { "x": -7 } });
    let payload = || Payload::Object(object.as_object().unwrap().clone());
    let variation =
        |key: &str, share| VariationDoc { key: key.into(), payload: payload(), description: key.into(), share };
    let metric = |key: &str, kind, direction, decision| MetricDoc {
        key: key.into(),
        event: format!("{key}-event"),
        kind,
        window: Duration::new(3 * 86_400, 5_000),
        direction,
        decision,
        guardrail: (key == "clicks").then_some(Guardrail { margin: 0.05, action: GuardrailAction::Freeze }),
    };
    DefinitionDoc {
        key: "checkout".into(),
        description: "what for".into(),
        owner: "team".into(),
        tags: vec!["a".into(), "b".into()],
        lifetime: Lifetime::Permanent,
        unit: Some("account.id".into()),
        audience: Some("country == 'DE'".into()),
        salt: Some("s4lt".into()),
        clock: ClockDoc::Manual { start: Some(NOW) },
        policy: PolicyDoc::Thompson(ThompsonSettings {
            tau: 0.3,
            burn_in_units: 0,
            rule: GrowthRule::TopTwo,
            patience: 2.5,
            exponent: 3.0,
            epsilon: 0.2,
            posterior: PosteriorKind::Pooled,
            shadow: true,
            ..ThompsonSettings::default()
        }),
        variations: vec![variation("control", None), variation("b", Some(0.25)), variation("c", Some(0.0))],
        overrides: vec![
            OverrideDoc { units: vec!["u1".into(), "u2".into()], when: None, variation: "b".into() },
            OverrideDoc { units: Vec::new(), when: Some("staff == true".into()), variation: "c".into() },
        ],
        metrics: vec![
            metric("buy", MetricKind::Conversion, Direction::Up, true),
            metric("clicks", MetricKind::Count, Direction::Down, false),
            metric("spend", MetricKind::Mean { cap: Some(100.0) }, Direction::Up, false),
            metric("uncapped", MetricKind::Mean { cap: None }, Direction::Up, false),
            metric("aov", MetricKind::Ratio { denominator: "orders".into() }, Direction::Up, false),
        ],
    }
}

fn experiment() -> Experiment {
    let mut experiment = Experiment::create(Definition::try_from(doc()).unwrap(), NOW);
    experiment.start(NOW, Salt::parse("s4lt").unwrap()).unwrap();
    let step = Width::from_share(0.1).unwrap();
    let (b, c) = (Arm::new(1).unwrap(), Arm::new(2).unwrap());
    let later = NOW.plus(Duration::from_secs(30));
    experiment.grow(&[(b, step), (c, step)], RevisionCause::Grown, NOW, later).unwrap();
    experiment.set_killed(KillTarget::Variation(c), true, NOW).unwrap();
    experiment
}

fn error_message(result: Result<impl std::fmt::Debug, WireError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn descriptors_contain_all_services() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut services = set.file.iter().flat_map(|f| &f.service).map(|s| s.name()).collect::<Vec<_>>();
    services.sort_unstable();
    assert_eq!(services, ["AssignmentService", "EventService", "ExperimentService", "ResultService", "ServerService"]);
}
