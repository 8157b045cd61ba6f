//! A document and a definition keep their exact values when they are written and read back.

use std::time::Duration;

use inroad_assignment::definition::Lifetime;
use inroad_assignment::document::{ClockDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{
    Allocation, Definition, DefinitionDoc, Direction, GrowthRule, Guardrail, GuardrailAction, MetricKind, Payload,
    PosteriorKind, ThompsonSettings, Timestamp, Width,
};
use proptest::prelude::*;
use serde_json::json;

fn share() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..=1.0f64,
        (0u32..=1000).prop_map(|n| f64::from(n) / 1000.0),
        Just(0.0),
        Just(1.0),
        Just(5e-324),
        Just(1e-18)
    ]
}

/// Durations in microseconds, from `min` seconds to the longest window of a metric.
fn duration(min: u64) -> impl Strategy<Value = Duration> {
    (min..=366 * 86_400, prop_oneof![Just(0u32), 0..1_000_000u32])
        .prop_map(|(seconds, micros)| Duration::new(seconds.min(366 * 86_400 - 1), micros * 1000))
}

fn policy() -> impl Strategy<Value = PolicyDoc> {
    let manual = (share(), duration(60)).prop_map(|(floor, tick)| PolicyDoc::Manual { floor, tick });
    let shares = (share(), share(), share(), share(), share());
    let rest =
        (duration(60), duration(0), any::<u32>(), any::<u64>(), 1e-6..10.0f64, 0.5..=1.0f64, 0.5..=1.0f64, 6..=16u32);
    let growth = (
        prop::sample::select(vec![
            GrowthRule::Weighed,
            GrowthRule::Level,
            GrowthRule::Chase,
            GrowthRule::TopTwo,
            GrowthRule::EpsilonGreedy,
            GrowthRule::Fixed,
        ]),
        (1.0..=10.0f64, 0.0..=100.0f64),
        share(),
        prop::sample::select(vec![PosteriorKind::E3, PosteriorKind::Pooled]),
        any::<bool>(),
    );
    let thompson =
        (shares, rest, growth).prop_map(|(shares, rest, (rule, (exponent, patience), epsilon, posterior, shadow))| {
            let (floor, daily_cap, daily_cap_conclude, min_step, conclude_loss) = shares;
            let (
                tick,
                burn_in,
                burn_in_units,
                burn_in_conversions,
                tau,
                kill_probability,
                conclude_probability,
                draws_log2,
            ) = rest;
            PolicyDoc::Thompson(ThompsonSettings {
                tick,
                burn_in,
                burn_in_units: u64::from(burn_in_units),
                burn_in_conversions,
                floor,
                daily_cap,
                daily_cap_conclude,
                min_step,
                tau,
                kill_probability,
                conclude_probability,
                conclude_loss,
                draws_log2,
                rule,
                patience,
                exponent,
                epsilon,
                posterior,
                shadow,
            })
        });
    prop_oneof![manual, thompson]
}

/// Text with this number of characters. A regular expression would be parsed again for every case.
fn text(min: usize, max: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), min..=max).prop_map(String::from_iter)
}

fn payloads(count: usize) -> impl Strategy<Value = Vec<Payload>> {
    let object = |n: f64| Payload::Object(serde_json::Map::from_iter([("n".to_owned(), json!({"x": [n, null, "é"]}))]));
    prop_oneof![
        prop::collection::vec(any::<bool>().prop_map(Payload::Boolean), count),
        prop::collection::vec(prop::num::f64::NORMAL.prop_map(Payload::Number), count),
        prop::collection::vec(text(0, 12).prop_map(Payload::String), count),
        prop::collection::vec(prop::num::f64::NORMAL.prop_map(object), count),
    ]
}

fn document() -> impl Strategy<Value = DefinitionDoc> {
    let texts = (
        (text(0, 20), text(0, 20)),
        prop::collection::vec(text(1, 9), 0..3),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec!["account.id", "é", "targetingKey"])),
    );
    let clock = prop_oneof![
        Just(ClockDoc::Wall),
        Just(ClockDoc::Manual { start: None }),
        (0..253_402_300_800_000_000i64).prop_map(|t| ClockDoc::Manual { start: Some(Timestamp::from_micros(t)) }),
    ];
    let salt = prop::option::weighted(0.1, prop::sample::select(vec!["a", "Zz9", "0123456789abcdefABCDEF0123456789"]));
    let kind = prop_oneof![
        Just(MetricKind::Conversion),
        Just(MetricKind::Count),
        prop::option::of(1e-9..1e12f64).prop_map(|cap| MetricKind::Mean { cap }),
        text(1, 9).prop_map(|denominator| MetricKind::Ratio { denominator }),
    ];
    let action = prop::sample::select(vec![GuardrailAction::Alert, GuardrailAction::Freeze, GuardrailAction::Kill]);
    let guardrail = (0.0..1.0f64, action).prop_map(|(margin, action)| Guardrail { margin, action });
    let guardrail = prop::option::of(guardrail);
    let metrics = prop::collection::vec((text(1, 9), kind, duration(1), any::<bool>(), guardrail), 1..5);
    let shares = prop::collection::vec(prop::option::of(share()), 1..=10);
    (texts, clock, salt, policy(), metrics, shares).prop_flat_map(|(texts, clock, salt, policy, metrics, shares)| {
        payloads(shares.len() + 1).prop_map(move |payloads| {
            let ((description, owner), tags, permanent, unit) = texts.clone();
            let total = shares.iter().flatten().sum::<f64>().max(1.0);
            let variations = payloads.into_iter().enumerate().map(|(i, payload)| VariationDoc {
                key: format!("v{i}"),
                payload,
                description: if i == 1 { "é\n".into() } else { String::new() },
                // The given shares add up to at most a third of the line. The others have the default.
                share: if i == 0 { None } else { shares[i - 1].map(|share| share / total / 3.0) },
            });
            let units = vec!["b".into(), "a".into(), "b".into()];
            let mut overrides = vec![OverrideDoc { units, when: None, variation: "v1".into() }];
            overrides.extend(salt.map(|_| OverrideDoc {
                units: vec![],
                when: Some("a == 1".into()),
                variation: "v0".into(),
            }));
            let has_primary = matches!(policy, PolicyDoc::Thompson(_));
            let metrics =
                metrics.iter().cloned().enumerate().map(|(i, (event, kind, window, down, guardrail))| MetricDoc {
                    key: format!("m{i}"),
                    event,
                    kind: if i == 0 && has_primary { MetricKind::Conversion } else { kind },
                    window,
                    direction: if down { Direction::Down } else { Direction::Up },
                    decision: i == 0 && has_primary,
                    guardrail,
                });
            DefinitionDoc {
                key: "e".into(),
                description,
                owner,
                tags,
                lifetime: if permanent { Lifetime::Permanent } else { Lifetime::Temporary },
                unit: unit.map(str::to_owned),
                audience: salt.map(|_| "a == 1".into()),
                salt: salt.map(str::to_owned),
                clock,
                policy: policy.clone(),
                variations: variations.collect(),
                overrides,
                metrics: metrics.collect(),
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn definition_survives_a_round_trip_unchanged(mut doc in document()) {
        let json = serde_json::to_string(&doc).unwrap();
        prop_assert_eq!(&serde_json::from_str::<DefinitionDoc>(&json).unwrap(), &doc);
        let floor = match &mut doc.policy {
            PolicyDoc::Manual { floor, .. } => floor,
            PolicyDoc::Thompson(settings) => &mut settings.floor,
        };
        *floor /= 2.5;
        let definition = Definition::try_from(doc).unwrap();
        let again = Definition::try_from(DefinitionDoc::from(definition.clone())).unwrap();
        prop_assert_eq!(&again, &definition);
        let json = serde_json::to_string(&definition).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Definition>(&json).unwrap(), &definition);
        let value = serde_json::to_value(&definition).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Definition>(value).unwrap(), &definition);
        let read = serde_json::from_reader::<_, Definition>(json.as_bytes()).unwrap();
        prop_assert_eq!(&read, &definition);
        // The footholds leave control its floor, in spite of defaults and rounding.
        let footholds: Vec<Width> = definition.variations()[1..].iter().map(|v| v.foothold).collect();
        prop_assert!(Allocation::with_footholds(&footholds, definition.policy().floor()).is_ok());
    }
}
