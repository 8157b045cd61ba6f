//! What goes out comes back the same, and what should not come in does not.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inroad_assignment::audience::Audience;
use inroad_assignment::definition::{Direction, Lifetime, Violation};
use inroad_assignment::document::{ClockDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::Cause;
use inroad_assignment::{
    Allocation, Arm, Context, Definition, DefinitionDoc, DefinitionError, Experiment, GrowthRule, Guardrail,
    GuardrailAction, MetricKind, Payload, PosteriorKind, Reason, Salt, ServedExperiment, Snapshot, Status, Target,
    ThompsonSettings, Timestamp, Value, Width,
};
use inroad_wire::context::{MAX_DEPTH, MAX_VALUES};
use inroad_wire::kept::{KEPT_CONTEXT_BYTES, keep_part};
use inroad_wire::status::{busy, describe, invalid_definition, reason_of, retry_delay};
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
    experiment.grow(&[(b, step), (c, step)], Cause::Grown, NOW, later).unwrap();
    experiment.switch(Target::Variation(c), true, NOW).unwrap();
    experiment
}

fn snapshot() -> v1::ExperimentSnapshot {
    served_to_wire(&ServedExperiment::of(&experiment(), 7, NOW).unwrap())
}

fn message(of: Result<impl std::fmt::Debug, WireError>) -> String {
    of.unwrap_err().to_string()
}

#[test]
fn the_contract_describes_itself_with_all_services() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|f| &f.service).map(|s| s.name()).collect::<Vec<_>>();
    assert_eq!(services, ["AssignmentService", "EventService", "ExperimentService", "ResultService"]);
}

#[test]
fn a_definition_comes_back_the_same() {
    let wire = definition_to_wire(&doc());
    let bytes = wire.encode_to_vec();
    assert_eq!(definition_from_wire(v1::Experiment::decode(&*bytes).unwrap()).unwrap(), doc());
}

#[test]
fn every_policy_clock_and_payload_comes_back_the_same() {
    let policies = [PolicyDoc::default(), PolicyDoc::Manual { floor: 0.5, tick: Duration::from_secs(3600) }];
    let clocks =
        [ClockDoc::Wall, ClockDoc::Manual { start: None }, ClockDoc::Manual { start: Some(Timestamp::default()) }];
    let payloads = [
        Payload::Boolean(false),
        Payload::Number(-0.0),
        Payload::String(String::new()),
        Payload::Object(serde_json::Map::new()),
    ];
    for (policy, clock) in policies.iter().flat_map(|p| clocks.iter().map(move |c| (p, c))) {
        for payload in &payloads {
            let mut doc = DefinitionDoc { policy: policy.clone(), clock: *clock, ..doc() };
            doc.lifetime = Lifetime::Temporary;
            doc.variations[0].payload = payload.clone();
            (doc.unit, doc.audience, doc.salt) = (None, None, None);
            assert_eq!(definition_from_wire(definition_to_wire(&doc)).unwrap(), doc);
        }
    }
}

#[test]
fn what_is_not_set_has_its_default() {
    let bare = v1::Experiment { key: "k".into(), metrics: vec![v1::Metric::default()], ..v1::Experiment::default() };
    let doc = definition_from_wire(bare).unwrap();
    assert_eq!((doc.unit, doc.policy, doc.clock), (None, PolicyDoc::default(), ClockDoc::Wall));
    assert_eq!(doc.metrics[0].window, Duration::from_secs(7 * 86_400));
    assert_eq!((doc.metrics[0].direction, &doc.metrics[0].kind), (Direction::Up, &MetricKind::Conversion));
    let thompson = v1::policy::Kind::Thompson(v1::ThompsonPolicy::default());
    let policy = Some(v1::Policy { kind: Some(thompson) });
    let doc = definition_from_wire(v1::Experiment { policy, ..v1::Experiment::default() }).unwrap();
    assert_eq!(doc.policy, PolicyDoc::Thompson(ThompsonSettings::default()));
}

#[test]
fn a_definition_that_cannot_be_read_is_refused_at_its_field() {
    type Change = fn(&mut v1::Experiment);
    let refused = |change: Change| {
        let mut wire = definition_to_wire(&doc());
        change(&mut wire);
        message(definition_from_wire(wire))
    };
    let cases: [(Change, &str); 8] = [
        (|e| e.variations[1].payload = None, "variations[1].payload: "),
        (|e| e.variations[1].payload = Some(v1::Payload { value: None }), "variations[1].payload: "),
        (|e| e.metrics[0].kind = 99, "metrics[0].kind: "),
        (|e| e.metrics[0].cap = Some(1.0), "metrics[0].cap: "),
        (|e| e.metrics[1].denominator = "x".into(), "metrics[1].denominator: "),
        (
            |e| e.metrics[1].window = Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            "metrics[1].window.seconds: ",
        ),
        (|e| e.clock = Some(v1::Clock { manual: false, start: Some(timestamp_to_wire(NOW)) }), "clock.start: "),
        (|e| e.clock.as_mut().unwrap().start.as_mut().unwrap().seconds = -1, "clock.start: "),
    ];
    for (change, at) in cases {
        assert!(refused(change).starts_with(at), "{} should start with {at}", refused(change));
    }
    let nan = v1::Payload { value: Some(v1::payload::Value::NumberValue(f64::NAN)) };
    assert!(message(payload_from_wire(nan)).starts_with("number_value: "));
}

#[test]
fn an_experiment_is_shown_with_what_became_of_it() {
    let mut experiment = experiment();
    let shown = experiment_to_wire(&experiment, 42, NOW);
    assert_eq!((shown.etag.as_str(), shown.generation, shown.revision), ("42", 1, 2));
    assert_eq!((shown.state(), shown.shipped.as_str()), (v1::State::Running, ""));
    assert_eq!(shown.generation_salt, "s4lt");
    assert_eq!(shown.effective_at, Some(timestamp_to_wire(NOW.plus(Duration::from_secs(30)))));
    assert_eq!(shown.variations.iter().map(|v| v.killed).collect::<Vec<_>>(), [false, false, true]);
    let shares: Vec<f64> = shown.variations.iter().map(|v| v.share).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (shares[1] - 0.35).abs() < 1e-12, "{shares:?}");
    // What was shown can be declared again: outputs are passed over.
    let declared = definition_from_wire(shown).unwrap();
    assert_eq!(Definition::try_from(declared).unwrap(), experiment.definition);
    experiment.conclude(Arm::new(1).unwrap(), Timestamp::default()).unwrap();
    assert_eq!(experiment_to_wire(&experiment, 43, NOW).shipped, "b");
    let draft = Experiment::create(experiment.definition.clone(), NOW);
    let shown = experiment_to_wire(&draft, 1, NOW);
    assert_eq!(
        (shown.state(), shown.revision, shown.start_time, shown.effective_at),
        (v1::State::Draft, 0, None, None)
    );
}

#[test]
fn a_snapshot_comes_back_the_same_in_every_state() {
    let mut one = experiment();
    let draft = Experiment::create(one.definition.clone(), NOW);
    let mut states = vec![draft, one.clone()];
    one.switch(Target::Everything, true, NOW).unwrap();
    states.push(one.clone());
    one.switch(Target::Everything, false, NOW).unwrap();
    one.pause().unwrap();
    states.push(one.clone());
    one.conclude(Arm::new(1).unwrap(), Timestamp::default()).unwrap();
    states.push(one.clone());
    one.archive().unwrap();
    states.push(one);
    for experiment in states {
        let served = ServedExperiment::of(&experiment, 7, NOW).unwrap();
        let bytes = served_to_wire(&served).encode_to_vec();
        let back = served_from_wire(v1::ExperimentSnapshot::decode(&*bytes).unwrap()).unwrap();
        assert_eq!(back.parts(), served.parts());
    }
}

#[test]
fn hostile_snapshots_are_refused_at_their_field() {
    type Change = fn(&mut v1::ExperimentSnapshot);
    let cases: [(Change, &str); 27] = [
        (|s| s.key = "Not A Key".into(), "key: "),
        (|s| s.salt = "not/a/salt".into(), "salt: "),
        (|s| s.salt.clear(), "salt: "),
        (|s| s.generation = 0, "salt: "),
        (|s| s.state = v1::State::Draft.into(), "generation: "),
        (|s| (s.generation, s.salt, s.revisions) = (0, String::new(), Vec::new()), "generation: "),
        (|s| s.state = 0, "state: "),
        (|s| s.state = 77, "state: "),
        (|s| s.unit.clear(), "unit: "),
        (|s| s.shipped = u32::MAX, "shipped: "),
        (|s| s.variations.clear(), "experiment checkout is not whole: "),
        (|s| s.variations.truncate(2), "experiment checkout is not whole: "),
        (|s| s.variations[1].key = "control".into(), "variations[1].key: "),
        (|s| s.variations[1].key.clear(), "variations[1].key: "),
        (|s| s.variations[1].payload = None, "variations[1].payload: "),
        (|s| s.variations[1].payload = Some(payload_to_wire(&Payload::Boolean(true))), "variations[1].payload: "),
        (|s| s.variations[0].killed = true, "variations[0].killed: "),
        (|s| s.revisions.clear(), "experiment checkout is not whole: "),
        (|s| s.revisions[0].buckets.clear(), "revisions[0].buckets: "),
        (|s| s.revisions[0].buckets[0].start = 1, "revisions[0].buckets: "),
        (|s| s.revisions[1].buckets.swap(1, 2), "revisions[1].buckets: "),
        (|s| s.revisions[0].buckets[1].owner = 65, "revisions[0].buckets[1].owner: "),
        (|s| s.revisions[1].buckets[0].owner = 0, "experiment checkout: revision 2 takes points"),
        (|s| s.revisions[1].effective_at = None, "revisions[1].effective_at: "),
        (|s| s.revisions[1].number = 0, "revisions[1].number: "),
        (|s| s.overrides[0].units.push(String::new()), "overrides[0].units[2]: "),
        (|s| s.overrides[1].variation = 900, "overrides[1].variation: "),
    ];
    for (i, (change, at)) in cases.into_iter().enumerate() {
        let mut hostile = snapshot();
        change(&mut hostile);
        let said = served_from_wire(hostile).map(|_| ()).map_err(|e| e.to_string()).unwrap_err();
        assert!(said.starts_with(at), "case {i}: {said} should start with {at}");
    }
    let mut crowded = snapshot();
    let bucket = |i: u64| v1::Bucket { start: i, owner: u32::from(i % 2 == 1) };
    crowded.revisions[0].buckets = (0..=Allocation::MAX_BUCKETS as u64).map(bucket).collect();
    assert!(served_from_wire(crowded).map(|_| ()).unwrap_err().to_string().contains("over the limit of 4096"));
    let mut both = snapshot();
    both.overrides[0].when = "true".into();
    assert!(served_from_wire(both).map(|_| ()).unwrap_err().to_string().starts_with("overrides[0].units: "));
}

#[test]
fn an_expression_that_does_not_parse_is_refused_in_a_snapshot_too() {
    let broken = "country ==";
    let refused = Audience::parse(broken).is_err();
    let mut audience = snapshot();
    audience.audience = broken.into();
    assert_eq!(served_from_wire(audience).is_err(), refused);
    let mut pinned = snapshot();
    pinned.overrides[1].when = broken.into();
    assert_eq!(served_from_wire(pinned).is_err(), refused);
}

#[test]
fn every_reason_but_not_ready_comes_back_the_same() {
    let mut known = 0;
    for number in -1..20 {
        if let Some(reason) = reason_from_wire(number) {
            assert_eq!(i32::from(reason_to_wire(reason)), number);
            known += 1;
        }
    }
    assert_eq!(known, 11);
    assert_eq!(reason_to_wire(Reason::NotReady), v1::Reason::Unspecified);
}

#[test]
fn an_answer_carries_what_was_served() {
    let mut served = Snapshot::default();
    served.insert(Arc::new(served_from_wire(snapshot()).unwrap()));
    let asked = Context::default().with("account", Value::Object(BTreeMap::from([("id".to_owned(), "u1".into())])));
    let answer = assignment_to_wire(&served.assign("checkout", &asked, NOW));
    assert_eq!((answer.variation.as_str(), answer.reason(), answer.point), ("b", v1::Reason::Override, None));
    assert_eq!((answer.generation, answer.exposure_recorded), (1, false));
    let unknown = assignment_to_wire(&served.assign("nothing", &asked, NOW));
    assert_eq!((unknown.variation.as_str(), unknown.payload), ("", None));
}

fn text(text: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn sent(fields: impl IntoIterator<Item = (String, prost_types::Value)>) -> Option<prost_types::Struct> {
    Some(prost_types::Struct { fields: fields.into_iter().collect() })
}

#[test]
fn contexts_are_held_to_their_limits() {
    let fits = |max: usize| sent([("n".to_owned(), text(&"x".repeat(max - 1)))]);
    assert!(context_from_struct(fits(Context::MAX_BYTES)).is_ok());
    assert!(message(context_from_struct(fits(Context::MAX_BYTES + 1))).contains("16384"));
    let many = |n: usize| sent((0..n).map(|i| (i.to_string(), prost_types::Value { kind: None })));
    assert!(context_from_struct(many(MAX_VALUES)).is_ok());
    assert!(message(context_from_struct(many(MAX_VALUES + 1))).contains("512"));
    let deep = |n: usize| {
        let nest = |inner, _| {
            let values = vec![inner];
            prost_types::Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) }
        };
        sent([("n".to_owned(), (1..n).fold(text("x"), nest))])
    };
    assert!(context_from_struct(deep(MAX_DEPTH)).is_ok());
    assert!(message(context_from_struct(deep(MAX_DEPTH + 1))).contains("over the limit of 8"));
    // Deep, but not deeper than a message may be: kept beside an event as far as it goes.
    assert!(struct_to_json(deep(40).unwrap()).contains("null"));
}

#[test]
fn a_targeting_key_of_null_is_as_if_it_were_not_there() {
    let null = prost_types::Value { kind: Some(Kind::NullValue(0)) };
    assert_eq!(context_from_struct(sent([("targetingKey".to_owned(), null)])).unwrap(), Context::default());
    assert_eq!(context_from_struct(None).unwrap(), Context::default());
    assert_eq!(context_from_struct(sent([("targetingKey".to_owned(), text("u"))])).unwrap(), Context::new("u"));
}

/// What is left, as JSON, and whether anything was too large.
fn kept(context: &Context, unit: &str) -> (String, bool) {
    let mut sent = context_to_struct(context);
    let trimmed = keep_part(&mut sent, unit, KEPT_CONTEXT_BYTES);
    (struct_to_json(sent), trimmed)
}

#[test]
fn a_context_that_is_too_large_is_kept_in_part_and_without_the_units_key() {
    let context = Context::new("user-1")
        .with("account", "acme")
        .with("bulk", "x".repeat(5000))
        .with("country", "fr")
        .with("quoted", "\"\n")
        .with("plan", 3.0)
        .with("odd", f64::NAN);
    let rest = r#""country":"fr","odd":null,"plan":3,"quoted":"\"\n"}"#;
    assert_eq!(kept(&context, "account"), (format!("{{{rest}"), true));
    assert_eq!(kept(&context, "targetingKey"), (format!(r#"{{"account":"acme",{rest}"#), true));
    assert_eq!(kept(&Context::new("u"), "user"), (String::new(), false));
    let owner = Value::Object([("id", "acme"), ("tier", "gold")].map(|(k, v)| (k.to_owned(), Value::from(v))).into());
    let nested = Context::default().with("owner", owner.clone()).with("a.b", "c");
    assert_eq!(kept(&nested, "owner.id"), (r#"{"a.b":"c","owner":{"tier":"gold"}}"#.to_owned(), false));
    assert_eq!(kept(&nested, "a.b"), (r#"{"owner":{"id":"acme","tier":"gold"}}"#.to_owned(), false));
    for absent in ["owner.id.x", "nobody.id", "owner."] {
        assert_eq!(kept(&nested, absent).0.len(), 47, "{absent}");
    }
}

#[test]
fn many_small_attributes_stay_within_two_kibibytes_of_json() {
    let mut context = Context::default();
    for n in 0..500 {
        context.insert(format!("attribute-{n:03}"), Value::List(vec![Value::Number(0.1), Value::from("a\u{1}b")]));
    }
    let (json, trimmed) = kept(&context, "user");
    assert!(trimmed && json.len() <= KEPT_CONTEXT_BYTES && json.matches("attribute").count() > 20, "{json}");
}

#[test]
fn errors_tell_people_and_programs() {
    let busy = busy("QUEUE_FULL", "the queue is full", Duration::from_millis(250));
    assert_eq!(busy.code(), tonic::Code::ResourceExhausted);
    assert_eq!(retry_delay(&busy), Some(Duration::from_millis(250)));
    assert_eq!(reason_of(&busy).as_deref(), Some("QUEUE_FULL"));
    assert_eq!(describe(&busy), "the queue is full\n  try again in 250ms");
    let fault = |i: usize| Violation { field: format!("variations[{i}].key"), message: "wrong".to_owned() };
    let two = invalid_definition(&DefinitionError { violations: vec![fault(0), fault(1)] });
    assert_eq!(
        describe(&two),
        "2 faults; the first is variations[0].key: wrong\n  variations[0].key: wrong\n  variations[1].key: wrong"
    );
    let one = tonic::Status::from(WireError::field("state", "wrong"));
    assert_eq!((describe(&one).as_str(), one.code()), ("state: wrong", tonic::Code::InvalidArgument));
    assert_eq!(describe(&tonic::Status::new(tonic::Code::Internal, "")), tonic::Code::Internal.description());
    assert_eq!(retry_delay(&tonic::Status::internal("x")), None);
}

#[test]
fn errors_fit_into_headers_however_much_is_wrong() {
    let fault = |i| Violation { field: format!("variations[{i}].key"), message: "ü".repeat(5000) };
    let status = invalid_definition(&DefinitionError { violations: (0..10_000).map(fault).collect() });
    assert!(status.message().len() <= 1024 && status.details().len() < 6 * 1024, "{}", status.details().len());
    assert!(describe(&status).contains("more: put these right first"));
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-9_007_199_254_740_992i64..=9_007_199_254_740_992).prop_map(Into::into),
        // Whole numbers come back as such, so only fractions are the same text again.
        (-1e6f64..1e6).prop_filter("a fraction", |x| x.fract() != 0.0).prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(".{0,6}", inner, 0..5)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_filter("equal to itself", |x| !x.is_nan()).prop_map(Value::Number),
        ".{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #[test]
    fn instants_come_back_the_same(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
        let at = Timestamp::from_micros(micros);
        prop_assert_eq!(timestamp_from_wire(&timestamp_to_wire(at)), Ok(at));
    }

    #[test]
    fn every_instant_and_duration_is_answered(seconds in any::<i64>(), nanos in any::<i32>(), d in any::<Duration>()) {
        let _ = timestamp_from_wire(&prost_types::Timestamp { seconds, nanos });
        let _ = duration_from_wire(&prost_types::Duration { seconds, nanos });
        prop_assert!(timestamp_from_wire(&timestamp_to_wire(Timestamp::from_micros(seconds))).is_ok());
        prop_assert!(duration_from_wire(&duration_to_wire(d)).is_ok());
    }

    #[test]
    fn durations_come_back_the_same(seconds in 0u64..315_576_000_000, nanos in 0u32..1_000_000_000) {
        let duration = Duration::new(seconds, nanos);
        prop_assert_eq!(duration_from_wire(&duration_to_wire(duration)), Ok(duration));
    }

    #[test]
    fn payloads_come_back_the_same(fields in prop::collection::btree_map(".{0,6}", json(), 0..6)) {
        let payload = Payload::Object(fields.into_iter().collect());
        prop_assert_eq!(payload_from_wire(payload_to_wire(&payload)), Ok(payload));
    }

    #[test]
    fn contexts_come_back_the_same(
        key in prop::option::of(".{0,20}"),
        attributes in prop::collection::btree_map("[a-z]{1,6}", value(), 0..6),
    ) {
        let mut context = key.map_or_else(Context::default, Context::new);
        attributes.into_iter().for_each(|(name, value)| context.insert(name, value));
        prop_assert_eq!(context_from_struct(Some(context_to_struct(&context))), Ok(context));
    }

    #[test]
    fn damaged_snapshots_are_refused_or_whole(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = snapshot().encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Ok(served)) = v1::ExperimentSnapshot::decode(&*bytes).map(served_from_wire) {
            let again = served_from_wire(served_to_wire(&served)).unwrap();
            prop_assert_eq!(again.parts(), served.parts());
            served.assign(&Context::new("u"), NOW);
        }
    }

    #[test]
    fn damaged_definitions_are_refused_or_whole(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = definition_to_wire(&doc()).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Ok(doc)) = v1::Experiment::decode(&*bytes).map(definition_from_wire)
            && let Ok(definition) = Definition::try_from(doc)
        {
            experiment_to_wire(&Experiment::create(definition, NOW), 1, NOW);
        }
    }
}

#[test]
fn a_concluded_status_keeps_what_it_ships() {
    let arm = Arm::new(2).unwrap();
    for status in [
        Status::Draft,
        Status::Running,
        Status::Paused,
        Status::Concluded { shipped: arm },
        Status::Archived { shipped: arm },
    ] {
        assert_eq!(status_from_wire(status_to_wire(status).into(), arm), Ok(status));
    }
}
