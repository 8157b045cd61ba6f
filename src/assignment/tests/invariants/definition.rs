//! Declarations: all faults at once and at their fields, nothing unknown let through, nothing lost on the way back.

use std::time::Duration;

use inroad_assignment::definition::{ClockKind, Lifetime, Pinned};
use inroad_assignment::document::{ClockDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{
    Allocation, Arm, Definition, DefinitionDoc, Direction, GrowthRule, Guardrail, GuardrailAction, MetricKind, Payload,
    Policy, PosteriorKind, ThompsonSettings, Timestamp, Width,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn whole() -> Value {
    json!({
        "key": "checkout.button",
        "description": "Which button sells",
        "owner": "team-checkout",
        "tags": ["checkout", "q3"],
        "lifetime": "permanent",
        "unit": "account.id",
        "audience": "country == 'fr'",
        "salt": "k3J9",
        "clock": {"kind": "manual", "start": "2026-01-31T09:00:00Z"},
        "policy": {"kind": "thompson", "floor": 0.1, "tick": "1h", "burn_in": "2days 3h", "draws_log2": 12},
        "variations": [
            {"key": "control", "payload": {"color": "grey"}},
            {"key": "red", "payload": {"color": "red"}, "description": "loud", "share": 0.1},
            {"key": "blue", "payload": {}},
        ],
        "overrides": [
            {"units": ["qa-1", "qa-2"], "variation": "red"},
            {"when": "tier == 'internal'", "variation": "control"},
        ],
        "metrics": [
            {"key": "bought", "event": "order", "decision": true},
            {"key": "revenue", "event": "order", "kind": "mean", "cap": 500, "window": "14d"},
            {"key": "returns", "event": "return", "kind": "count", "direction": "down"},
            {"key": "basket", "event": "order", "kind": "ratio", "denominator": "items", "window": "36h"},
        ],
    })
}

fn parse(doc: Value) -> Result<Definition, serde_json::Error> {
    serde_json::from_value(doc)
}

/// The fields at which a document has faults.
fn faults(doc: DefinitionDoc) -> Vec<String> {
    let error = Definition::try_from(doc).unwrap_err();
    assert!(error.violations.iter().all(|v| !v.message.is_empty()));
    error.violations.into_iter().map(|v| v.field).collect()
}

#[test]
fn a_whole_document_says_what_it_says() {
    let d = parse(whole()).unwrap();
    assert_eq!((d.key().as_str(), d.unit(), d.owner()), ("checkout.button", "account.id", "team-checkout"));
    assert_eq!((d.tags().len(), d.lifetime(), d.description()), (2, Lifetime::Permanent, "Which button sells"));
    assert_eq!(d.clock(), ClockKind::Manual(Some(Timestamp::from_micros(1_769_850_000_000_000))));
    assert_eq!(d.audience().unwrap().source(), "country == 'fr'");
    assert_eq!(d.salt().unwrap().as_str(), "k3J9");
    assert_eq!(d.policy().tick(), Duration::from_secs(3600));
    assert_eq!(d.policy().floor(), Width::from_share(0.1).unwrap());
    let Policy::Thompson(settings) = d.policy() else { panic!("{:?}", d.policy()) };
    let defaults = ThompsonSettings::default();
    assert_eq!(settings.burn_in, Duration::from_secs((2 * 24 + 3) * 3600));
    assert_eq!((settings.draws_log2, settings.daily_cap, settings.tau), (12, defaults.daily_cap, defaults.tau));
    assert_eq!(d.arm("blue").map(Arm::index), Some(2));
    assert_eq!(d.arm("green"), None);
    // A share that was left out is an even part of 20%.
    assert_eq!(d.variations()[2].foothold, Width::from_share(0.1).unwrap());
    assert_eq!(d.variations()[1].payload.kind(), "object");
    assert!(matches!(&d.overrides()[0].who, Pinned::Units(units) if units.len() == 2));
    assert!(matches!(&d.overrides()[1].who, Pinned::Audience(_)));
    assert_eq!(d.decision_metric(), Some(0));
    let kinds: Vec<_> = d.metrics().iter().map(|m| (m.kind.clone(), m.window.as_secs() / 3600)).collect();
    let basket = MetricKind::Ratio { denominator: "items".into() };
    let revenue = MetricKind::Mean { cap: Some(500.0) };
    assert_eq!(kinds, [(MetricKind::Conversion, 168), (revenue, 336), (MetricKind::Count, 168), (basket, 36)]);
}

#[test]
fn the_least_document_is_a_flag_that_nobody_has_yet() {
    let d =
        parse(json!({"key": "f", "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true}]}))
            .unwrap();
    assert_eq!((d.unit(), d.clock(), d.lifetime()), ("targetingKey", ClockKind::Wall, Lifetime::Temporary));
    assert_eq!(d.policy(), &Policy::Manual { floor: Width::ZERO, tick: Duration::from_secs(86_400) });
    assert_eq!(d.variations()[1].foothold, Width::ZERO);
    assert_eq!((d.audience(), d.salt(), d.decision_metric()), (None, None, None));
}

#[test]
fn an_unknown_field_is_refused_wherever_it_stands() {
    parse(whole()).unwrap();
    let places = ["", "/clock", "/policy", "/variations/1", "/overrides/0", "/overrides/1", "/metrics/0", "/metrics/3"];
    for place in places {
        let mut doc = whole();
        doc.pointer_mut(place).unwrap()["florr"] = json!(1);
        let refused = parse(doc).unwrap_err().to_string();
        assert!(refused.contains("florr"), "{place}: {refused}");
    }
    for (place, value) in [
        ("/clock", json!({"kind": "wall", "start": "2026-01-31T09:00:00Z"})),
        ("/clock", json!({"kind": "wall", "florr": 1})),
        ("/clock", json!({"kind": "wal"})),
        ("/clock", json!({})),
        ("/policy", json!({"kind": "manual", "tau": 0.5})),
        ("/policy", json!({"kind": "manual", "florr": 0.5})),
        ("/policy", json!({"kind": "bandit"})),
        ("/policy", json!({"floor": 0.1})),
        ("/metrics/0", json!({"key": "m", "event": "e", "cap": 3})),
        ("/metrics/0", json!({"key": "m", "event": "e", "kind": "mean", "denominator": "d"})),
        ("/metrics/0", json!({"key": "m", "event": "e", "kind": "median"})),
        ("/metrics/0", json!({"key": "m", "event": "e", "window": "soon"})),
        ("/metrics/0", json!({"key": "m", "event": "e", "window": 7})),
        ("/metrics/0", json!({"key": "m", "event": "e", "direction": "sideways"})),
        ("/lifetime", json!("forever")),
        ("/clock/start", json!("yesterday")),
        ("/clock/start", json!("1969-12-31T23:59:59Z")),
        ("/policy/tick", json!("an hour")),
        ("/policy/floor", json!("10%")),
        ("/variations/0/payload", json!([1, 2])),
        ("/variations/0/payload", Value::Null),
    ] {
        let mut doc = whole();
        *doc.pointer_mut(place).unwrap() = value.clone();
        assert!(serde_json::from_value::<DefinitionDoc>(doc).is_err(), "{place} = {value}");
    }
    for (place, value) in [("/clock", json!({"kind": "wall"})), ("/clock", json!({"kind": "manual"}))] {
        let mut doc = whole();
        *doc.pointer_mut(place).unwrap() = value.clone();
        parse(doc).unwrap();
    }
}

#[test]
fn each_fault_is_named_at_its_field() {
    let long = "x".repeat(4097);
    let edits: Vec<(&str, Value, &str)> = vec![
        ("/key", json!("Checkout"), "key"),
        ("/key", json!(""), "key"),
        ("/description", json!(long), "description"),
        ("/owner", json!(long), "owner"),
        ("/tags", json!(vec!["t"; 33]), "tags"),
        ("/tags", json!([""]), "tags"),
        ("/unit", json!(""), "unit"),
        ("/unit", json!("a\u{0}b"), "unit"),
        ("/unit", json!("u".repeat(129)), "unit"),
        ("/audience", json!("country == "), "audience"),
        ("/salt", json!("no salt"), "salt"),
        ("/policy/floor", json!(1.5), "policy.floor"),
        ("/policy/tick", json!("59s"), "policy.tick"),
        ("/policy/draws_log2", json!(17), "policy.draws_log2"),
        ("/policy/tau", json!(0), "policy.tau"),
        ("/policy/kill_probability", json!(0.4), "policy.kill_probability"),
        ("/policy/daily_cap", json!(-0.1), "policy.daily_cap"),
        ("/variations", json!([]), "variations"),
        ("/variations/0/share", json!(0.5), "variations[0].share"),
        ("/variations/1/share", json!(-0.5), "variations[1].share"),
        ("/variations/1/share", json!(0.95), "variations"),
        ("/variations/1/key", json!("blue"), "variations[2].key"),
        ("/variations/2/payload", json!(3), "variations[2].payload"),
        ("/variations/2/payload", json!({"x": "y".repeat(16 * 1024)}), "variations[2].payload"),
        ("/variations/2/description", json!(long), "variations[2].description"),
        ("/overrides/0/variation", json!("green"), "overrides[0].variation"),
        ("/overrides/0/units", json!([]), "overrides[0].units"),
        ("/overrides/1/units", json!(["u"]), "overrides[1].units"),
        ("/overrides/0/units", json!(["good", "", "u".repeat(1025)]), "overrides[0].units"),
        ("/overrides/1/when", json!("tier =="), "overrides[1].when"),
        ("/metrics/0/decision", json!(false), "metrics"),
        ("/metrics/1/decision", json!(true), "metrics"),
        ("/metrics/1/cap", json!(0), "metrics[1].cap"),
        ("/metrics/3/denominator", json!(""), "metrics[3].denominator"),
        ("/metrics/2/key", json!("bought"), "metrics[2].key"),
        ("/metrics/2/event", json!(""), "metrics[2].event"),
        ("/metrics/2/window", json!("0s"), "metrics[2].window"),
        ("/metrics/2/window", json!("367days"), "metrics[2].window"),
    ];
    for (place, value, field) in edits {
        let mut doc = whole();
        match doc.pointer_mut(place) {
            Some(there) => *there = value.clone(),
            None => {
                let (parent, name) = place.rsplit_once('/').unwrap();
                doc.pointer_mut(parent).unwrap()[name] = value.clone();
            }
        }
        let found = faults(serde_json::from_value(doc).unwrap());
        assert!(found.iter().any(|f| f == field), "{place} = {value}: {found:?}");
        // One mistake is one fault, but where removing variations leaves overrides that name them.
        let alone = found.iter().all(|f| f == field) || ["/variations", "/variations/1/key"].contains(&place);
        assert!(alone, "{place} = {value}: {found:?}");
    }
}

#[test]
fn all_faults_are_told_at_once_and_none_for_another() {
    let doc = serde_json::from_value(json!({
        "key": "No Key",
        "unit": "",
        "audience": "((",
        "salt": "!",
        "policy": {"kind": "thompson", "floor": 2, "tau": -1},
        "variations": [
            {"key": "CONTROL", "payload": 1, "share": 0.1},
            {"key": "A", "payload": "text", "share": 3},
            {"key": "b", "payload": 2},
        ],
        "overrides": [{"variation": "A"}, {"units": [""], "variation": "nobody"}],
        "metrics": [
            {"key": "M", "event": "", "window": "0s"},
            {"key": "n", "event": "e", "decision": true},
        ],
    }))
    .unwrap();
    // The decision metric is a conversion, and override 0 names a variation that is there, though its key is bad.
    let expected = [
        "key",
        "unit",
        "audience",
        "salt",
        "policy.floor",
        "policy.tau",
        "variations[0].share",
        "variations[1].share",
        "variations[0].key",
        "variations[1].key",
        "variations[1].payload",
        "overrides[0].units",
        "overrides[1].variation",
        "overrides[1].units",
        "metrics[0].key",
        "metrics[0].event",
        "metrics[0].window",
    ];
    assert_eq!(faults(doc), expected);
}

#[test]
fn a_document_full_of_faults_is_answered_within_bounds() {
    let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
    doc.overrides[0].units = vec![String::new(); 100_000];
    doc.tags = vec![String::new(); 100_000];
    doc.variations = vec![doc.variations[0].clone(); 100_000];
    assert_eq!(faults(doc).len(), 32);
}

#[test]
fn numbers_that_json_cannot_write_are_refused() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
        doc.variations.iter_mut().for_each(|v| v.payload = Payload::Number(number));
        assert_eq!(faults(doc), ["variations[0].payload", "variations[1].payload", "variations[2].payload"]);
        let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
        doc.variations[1].share = Some(number);
        assert_eq!(faults(doc), ["variations[1].share"]);
        let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
        doc.metrics[1].kind = MetricKind::Mean { cap: Some(number) };
        assert_eq!(faults(doc), ["metrics[1].cap"]);
        for set in [
            (|s, x| s.floor = x) as fn(&mut ThompsonSettings, f64),
            |s, x| s.tau = x,
            |s, x| s.min_step = x,
            |s, x| s.daily_cap = x,
            |s, x| s.daily_cap_conclude = x,
            |s, x| s.kill_probability = x,
            |s, x| s.conclude_probability = x,
            |s, x| s.conclude_loss = x,
        ] {
            let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
            let mut settings = ThompsonSettings::default();
            set(&mut settings, number);
            doc.policy = PolicyDoc::Thompson(settings);
            assert_eq!(faults(doc).len(), 1);
        }
    }
}

#[test]
fn a_clock_that_no_document_could_name_is_refused_and_never_panics() {
    for micros in [-1, i64::MIN, i64::MAX, 253_402_300_800_000_000] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
        doc.clock = ClockDoc::Manual { start: Some(Timestamp::from_micros(micros)) };
        assert!(serde_json::to_string(&doc).is_err());
        assert_eq!(faults(doc), ["clock.start"]);
    }
    for micros in [0, 253_402_300_799_999_999] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(whole()).unwrap();
        doc.clock = ClockDoc::Manual { start: Some(Timestamp::from_micros(micros)) };
        let definition = Definition::try_from(doc).unwrap();
        let json = serde_json::to_string(&definition).unwrap();
        assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
    }
}

#[test]
fn shares_that_add_up_in_decimals_fit_though_their_doubles_do_not() {
    for (floor, shares) in [
        (0.8, vec![0.2]),
        (0.9, vec![0.1]),
        (0.0, vec![0.1; 10]),
        (0.1, vec![0.3, 0.3, 0.3]),
        (0.7, vec![0.1, 0.1, 0.1]),
        (0.0, vec![1.0 / 64.0; 64]),
        (0.0, vec![1.0]),
        (1.0, vec![0.0]),
        (0.05, vec![0.95]),
    ] {
        let variations =
            shares.iter().enumerate().map(|(i, share)| json!({"key": format!("v{i}"), "payload": 1, "share": share}));
        let all: Vec<Value> = std::iter::once(json!({"key": "control", "payload": 0})).chain(variations).collect();
        let doc = json!({"key": "e", "policy": {"kind": "manual", "floor": floor}, "variations": all});
        let definition = parse(doc).unwrap_or_else(|e| panic!("{floor} {shares:?}: {e}"));
        let footholds: Vec<Width> = definition.variations()[1..].iter().map(|v| v.foothold).collect();
        for (foothold, share) in footholds.iter().zip(&shares) {
            assert!((foothold.share() - share).abs() < 1e-14);
        }
        Allocation::with_footholds(&footholds, definition.policy().floor()).unwrap();
        let again = parse(serde_json::to_value(&definition).unwrap()).unwrap();
        assert_eq!(again, definition);
    }
    // What does not add up for people does not add up.
    let variations = json!([{"key": "c", "payload": 0}, {"key": "v", "payload": 1, "share": 0.200_000_000_001}]);
    assert!(parse(json!({"key": "e", "policy": {"kind": "manual", "floor": 0.8}, "variations": variations})).is_err());
}

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

/// Durations down to the microsecond, and up to what a metric may have.
fn duration(least: u64) -> impl Strategy<Value = Duration> {
    (least..=366 * 86_400, prop_oneof![Just(0u32), 0..1_000_000u32])
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

/// Any text of so many characters; a regular expression would be parsed anew for every case.
fn text(least: usize, most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), least..=most).prop_map(String::from_iter)
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
                // Together a third of the line at most, beside what is left out.
                share: if i == 0 { None } else { shares[i - 1].map(|share| share / total / 3.0) },
            });
            let units = vec!["b".into(), "a".into(), "b".into()];
            let mut overrides = vec![OverrideDoc { units, when: None, variation: "v1".into() }];
            overrides.extend(salt.map(|_| OverrideDoc {
                units: vec![],
                when: Some("a == 1".into()),
                variation: "v0".into(),
            }));
            let decide = matches!(policy, PolicyDoc::Thompson(_));
            let metrics =
                metrics.iter().cloned().enumerate().map(|(i, (event, kind, window, down, guardrail))| MetricDoc {
                    key: format!("m{i}"),
                    event,
                    kind: if i == 0 && decide { MetricKind::Conversion } else { kind },
                    window,
                    direction: if down { Direction::Down } else { Direction::Up },
                    decision: i == 0 && decide,
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
    fn a_definition_goes_out_and_comes_back_the_very_same(mut doc in document()) {
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
        // What it starts with fits, whatever the defaults and the rounding.
        let footholds: Vec<Width> = definition.variations()[1..].iter().map(|v| v.foothold).collect();
        prop_assert!(Allocation::with_footholds(&footholds, definition.policy().floor()).is_ok());
    }
}

#[test]
fn a_bandit_goes_by_a_metric_it_can_trust() {
    let faults = |metric: Value, posterior: &str| {
        let doc: DefinitionDoc = serde_json::from_value(json!({
            "key": "e",
            "policy": {"kind": "thompson", "posterior": posterior},
            "variations": [{"key": "a", "payload": true}, {"key": "b", "payload": false}],
            "metrics": [metric],
        }))
        .expect("a document");
        Definition::try_from(doc).err().map_or(Vec::new(), |e| e.violations.into_iter().map(|v| v.message).collect())
    };
    let left = json!({"key": "left", "event": "left", "direction": "down", "decision": true});
    assert!(faults(left.clone(), "e3").is_empty() && faults(left, "pooled").is_empty());
    let spent = |cap| json!({"key": "m", "event": "m", "kind": "mean", "cap": cap, "decision": true});
    assert!(faults(spent(json!(50.0)), "e3").is_empty());
    assert!(faults(spent(Value::Null), "e3")[0].contains("needs a cap"));
    assert!(faults(spent(json!(50.0)), "pooled")[0].contains("use e3"));
    assert!(faults(json!({"key": "m", "event": "m"}), "e3")[0].contains("decision = true"));
    let guarded = json!({"key": "m", "event": "m", "decision": true, "guardrail": {"margin": 1.0}});
    assert!(faults(guarded, "e3")[0].contains("0 to below 1"));
}
