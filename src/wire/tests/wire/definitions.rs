//! Declared experiments, and experiments with their current state.

use super::*;

#[test]
fn definition_round_trips() {
    let wire = definition_to_wire(&doc());
    let bytes = wire.encode_to_vec();
    assert_eq!(definition_from_wire(v1::Experiment::decode(&*bytes).unwrap()).unwrap(), doc());
}

#[test]
fn policies_clocks_and_payloads_round_trip() {
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
fn unset_fields_get_their_defaults() {
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
fn invalid_definition_is_refused_with_its_field() {
    type Change = fn(&mut v1::Experiment);
    let refused = |change: Change| {
        let mut wire = definition_to_wire(&doc());
        change(&mut wire);
        error_message(definition_from_wire(wire))
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
    assert!(error_message(payload_from_wire(nan)).starts_with("number_value: "));
}

#[test]
fn experiment_contains_its_state_and_can_be_declared_again() {
    let mut experiment = experiment();
    let shown = experiment_to_wire(&experiment, 42, NOW);
    assert_eq!((shown.etag.as_str(), shown.generation, shown.revision), ("42", 1, 2));
    assert_eq!((shown.state(), shown.shipped.as_str()), (v1::State::Running, ""));
    assert_eq!(shown.generation_salt, "s4lt");
    assert_eq!(shown.effective_at, Some(timestamp_to_wire(NOW.plus(Duration::from_secs(30)))));
    assert_eq!(shown.variations.iter().map(|v| v.killed).collect::<Vec<_>>(), [false, false, true]);
    let shares: Vec<f64> = shown.variations.iter().map(|v| v.share).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (shares[1] - 0.35).abs() < 1e-12, "{shares:?}");
    // A shown experiment can be declared again: its output fields are ignored.
    let declared = definition_from_wire(shown).unwrap();
    assert_eq!(Definition::try_from(declared).unwrap(), experiment.definition);
    experiment.conclude(Arm::new(1).unwrap(), ShippingScope::Audience, Timestamp::default()).unwrap();
    assert_eq!(experiment_to_wire(&experiment, 43, NOW).shipped, "b");
    let draft = Experiment::create(experiment.definition.clone(), NOW);
    let shown = experiment_to_wire(&draft, 1, NOW);
    assert_eq!(
        (shown.state(), shown.revision, shown.start_time, shown.effective_at),
        (v1::State::Draft, 0, None, None)
    );
}

proptest! {
    #[test]
    fn corrupted_definitions_are_refused_or_valid(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = definition_to_wire(&doc()).encode_to_vec();
        for (at, byte) in changes {
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
