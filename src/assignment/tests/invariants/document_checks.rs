//! Checks of documents: all errors are reported at once with their fields, and unknown fields are rejected.

use std::time::Duration;

use inroad_assignment::definition::{ClockKind, Lifetime, OverrideTarget};
use inroad_assignment::document::{ClockDoc, PolicyDoc};
use inroad_assignment::{
    Allocation, Arm, Definition, DefinitionDoc, MetricKind, Payload, Policy, ThompsonSettings, Timestamp, Width,
};
use serde_json::{Value, json};

fn full_document() -> Value {
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

/// The fields of a document that have errors.
fn invalid_fields(doc: DefinitionDoc) -> Vec<String> {
    let error = Definition::try_from(doc).unwrap_err();
    assert!(error.violations.iter().all(|v| !v.message.is_empty()));
    error.violations.into_iter().map(|v| v.field).collect()
}

#[test]
fn full_document_is_parsed_into_a_definition() {
    let d = parse(full_document()).unwrap();
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
    // The default share is an even part of 40%.
    assert_eq!(d.variations()[2].foothold, Width::from_share(0.2).unwrap());
    assert_eq!(d.variations()[1].payload.kind(), "object");
    assert!(matches!(&d.overrides()[0].target, OverrideTarget::Units(units) if units.len() == 2));
    assert!(matches!(&d.overrides()[1].target, OverrideTarget::Audience(_)));
    assert_eq!(d.decision_metric(), Some(0));
    let kinds: Vec<_> = d.metrics().iter().map(|m| (m.kind.clone(), m.window.as_secs() / 3600)).collect();
    let basket = MetricKind::Ratio { denominator: "items".into() };
    let revenue = MetricKind::Mean { cap: Some(500.0) };
    assert_eq!(kinds, [(MetricKind::Conversion, 168), (revenue, 336), (MetricKind::Count, 168), (basket, 36)]);
}

#[test]
fn minimal_document_is_a_flag_with_zero_share() {
    let d =
        parse(json!({"key": "f", "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true}]}))
            .unwrap();
    assert_eq!((d.unit(), d.clock(), d.lifetime()), ("targetingKey", ClockKind::Wall, Lifetime::Temporary));
    assert_eq!(d.policy(), &Policy::Manual { floor: Width::ZERO, tick: Duration::from_secs(86_400) });
    assert_eq!(d.variations()[1].foothold, Width::ZERO);
    assert_eq!((d.audience(), d.salt(), d.decision_metric()), (None, None, None));
}

#[test]
fn unknown_fields_are_rejected_at_every_level() {
    parse(full_document()).unwrap();
    let places = ["", "/clock", "/policy", "/variations/1", "/overrides/0", "/overrides/1", "/metrics/0", "/metrics/3"];
    for place in places {
        let mut doc = full_document();
        doc.pointer_mut(place).unwrap()["florr"] = json!(1);
        let error = parse(doc).unwrap_err().to_string();
        assert!(error.contains("florr"), "{place}: {error}");
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
        let mut doc = full_document();
        *doc.pointer_mut(place).unwrap() = value.clone();
        assert!(serde_json::from_value::<DefinitionDoc>(doc).is_err(), "{place} = {value}");
    }
    for (place, value) in [("/clock", json!({"kind": "wall"})), ("/clock", json!({"kind": "manual"}))] {
        let mut doc = full_document();
        *doc.pointer_mut(place).unwrap() = value.clone();
        parse(doc).unwrap();
    }
}

#[test]
fn each_error_is_reported_at_its_field() {
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
        let mut doc = full_document();
        match doc.pointer_mut(place) {
            Some(old) => *old = value.clone(),
            None => {
                let (parent, name) = place.rsplit_once('/').unwrap();
                doc.pointer_mut(parent).unwrap()[name] = value.clone();
            }
        }
        let found = invalid_fields(serde_json::from_value(doc).unwrap());
        assert!(found.iter().any(|f| f == field), "{place} = {value}: {found:?}");
        // One mistake causes one error, except that removing a variation invalidates the overrides that name it.
        let only_one = found.iter().all(|f| f == field) || ["/variations", "/variations/1/key"].contains(&place);
        assert!(only_one, "{place} = {value}: {found:?}");
    }
}

#[test]
fn all_errors_are_reported_at_once_and_none_causes_another() {
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
        "overrides": [{"variation": "A"}, {"units": [""], "variation": "unknown"}],
        "metrics": [
            {"key": "M", "event": "", "window": "0s"},
            {"key": "n", "event": "e", "decision": true},
        ],
    }))
    .unwrap();
    // The primary metric is valid, and override 0 names an existing variation, although its key is not valid.
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
    assert_eq!(invalid_fields(doc), expected);
}

#[test]
fn number_of_reported_errors_is_limited() {
    let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
    doc.overrides[0].units = vec![String::new(); 100_000];
    doc.tags = vec![String::new(); 100_000];
    doc.variations = vec![doc.variations[0].clone(); 100_000];
    assert_eq!(invalid_fields(doc).len(), 32);
}

#[test]
fn numbers_that_json_cannot_represent_are_rejected() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
        doc.variations.iter_mut().for_each(|v| v.payload = Payload::Number(number));
        assert_eq!(invalid_fields(doc), ["variations[0].payload", "variations[1].payload", "variations[2].payload"]);
        let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
        doc.variations[1].share = Some(number);
        assert_eq!(invalid_fields(doc), ["variations[1].share"]);
        let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
        doc.metrics[1].kind = MetricKind::Mean { cap: Some(number) };
        assert_eq!(invalid_fields(doc), ["metrics[1].cap"]);
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
            let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
            let mut settings = ThompsonSettings::default();
            set(&mut settings, number);
            doc.policy = PolicyDoc::Thompson(settings);
            assert_eq!(invalid_fields(doc).len(), 1);
        }
    }
}

#[test]
fn clock_start_outside_the_years_1970_to_9999_is_rejected() {
    for micros in [-1, i64::MIN, i64::MAX, 253_402_300_800_000_000] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
        doc.clock = ClockDoc::Manual { start: Some(Timestamp::from_micros(micros)) };
        assert!(serde_json::to_string(&doc).is_err());
        assert_eq!(invalid_fields(doc), ["clock.start"]);
    }
    for micros in [0, 253_402_300_799_999_999] {
        let mut doc = serde_json::from_value::<DefinitionDoc>(full_document()).unwrap();
        doc.clock = ClockDoc::Manual { start: Some(Timestamp::from_micros(micros)) };
        let definition = Definition::try_from(doc).unwrap();
        let json = serde_json::to_string(&definition).unwrap();
        assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
    }
}

#[test]
fn shares_that_add_up_in_decimal_are_accepted_despite_rounding() {
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
    // Shares whose decimal sum is too large are rejected.
    let variations = json!([{"key": "c", "payload": 0}, {"key": "v", "payload": 1, "share": 0.200_000_000_001}]);
    assert!(parse(json!({"key": "e", "policy": {"kind": "manual", "floor": 0.8}, "variations": variations})).is_err());
}

#[test]
fn thompson_sampling_needs_a_suitable_primary_metric() {
    let messages = |metric: Value, posterior: &str| {
        let doc: DefinitionDoc = serde_json::from_value(json!({
            "key": "e",
            "policy": {"kind": "thompson", "posterior": posterior},
            "variations": [{"key": "a", "payload": true}, {"key": "b", "payload": false}],
            "metrics": [metric],
        }))
        .unwrap();
        Definition::try_from(doc).err().map_or(Vec::new(), |e| e.violations.into_iter().map(|v| v.message).collect())
    };
    let left = json!({"key": "left", "event": "left", "direction": "down", "decision": true});
    assert!(messages(left.clone(), "e3").is_empty() && messages(left, "pooled").is_empty());
    let spent = |cap| json!({"key": "m", "event": "m", "kind": "mean", "cap": cap, "decision": true});
    assert!(messages(spent(json!(50.0)), "e3").is_empty());
    assert!(messages(spent(Value::Null), "e3")[0].contains("needs a cap"));
    assert!(messages(spent(json!(50.0)), "pooled")[0].contains("use e3"));
    assert!(messages(json!({"key": "m", "event": "m"}), "e3")[0].contains("decision = true"));
    let guarded = json!({"key": "m", "event": "m", "decision": true, "guardrail": {"margin": 1.0}});
    assert!(messages(guarded, "e3")[0].contains("0 to below 1"));
}
