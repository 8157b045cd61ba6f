//! Snapshots, assignments, reasons and states.

use super::*;

fn snapshot() -> v1::ExperimentSnapshot {
    snapshot_to_wire(&ServedExperiment::from_experiment(&experiment(), 7, NOW).unwrap())
}

#[test]
fn snapshot_round_trips_in_every_state() {
    let mut one = experiment();
    let draft = Experiment::create(one.definition.clone(), NOW);
    let mut states = vec![draft, one.clone()];
    one.set_killed(KillTarget::Everything, true, NOW).unwrap();
    states.push(one.clone());
    one.set_killed(KillTarget::Everything, false, NOW).unwrap();
    one.pause().unwrap();
    states.push(one.clone());
    one.conclude(Arm::new(1).unwrap(), ShippingScope::Audience, Timestamp::default()).unwrap();
    states.push(one.clone());
    one.archive().unwrap();
    states.push(one);
    for experiment in states {
        let served = ServedExperiment::from_experiment(&experiment, 7, NOW).unwrap();
        let bytes = snapshot_to_wire(&served).encode_to_vec();
        let back = snapshot_from_wire(v1::ExperimentSnapshot::decode(&*bytes).unwrap()).unwrap();
        assert_eq!(back.parts(), served.parts());
    }
}

#[test]
fn invalid_snapshots_are_refused_at_their_field() {
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
        (|s| s.variations.clear(), "experiment checkout cannot be served: "),
        (|s| s.variations.truncate(2), "experiment checkout cannot be served: "),
        (|s| s.variations[1].key = "control".into(), "variations[1].key: "),
        (|s| s.variations[1].key.clear(), "variations[1].key: "),
        (|s| s.variations[1].payload = None, "variations[1].payload: "),
        (|s| s.variations[1].payload = Some(payload_to_wire(&Payload::Boolean(true))), "variations[1].payload: "),
        (|s| s.variations[0].killed = true, "variations[0].killed: "),
        (|s| s.revisions.clear(), "experiment checkout cannot be served: "),
        (|s| s.revisions[0].buckets.clear(), "revisions[0].buckets: "),
        (|s| s.revisions[0].buckets[0].start = 1, "revisions[0].buckets: "),
        (|s| s.revisions[1].buckets.swap(1, 2), "revisions[1].buckets: "),
        (|s| s.revisions[0].buckets[1].owner = 65, "revisions[0].buckets[1].owner: "),
        (|s| s.revisions[1].buckets[0].owner = 0, "experiment checkout: revision 2 contradicts"),
        (|s| s.revisions[1].effective_at = None, "revisions[1].effective_at: "),
        (|s| s.revisions[1].number = 0, "revisions[1].number: "),
        (|s| s.overrides[0].units.push(String::new()), "overrides[0].units[2]: "),
        (|s| s.overrides[1].variation = 900, "overrides[1].variation: "),
    ];
    for (i, (change, at)) in cases.into_iter().enumerate() {
        let mut invalid = snapshot();
        change(&mut invalid);
        let error = snapshot_from_wire(invalid).map(|_| ()).map_err(|e| e.to_string()).unwrap_err();
        assert!(error.starts_with(at), "case {i}: {error} should start with {at}");
    }
    let mut many_buckets = snapshot();
    let bucket = |i: u64| v1::Bucket { start: i, owner: u32::from(i % 2 == 1) };
    many_buckets.revisions[0].buckets = (0..=Allocation::MAX_BUCKETS as u64).map(bucket).collect();
    assert!(snapshot_from_wire(many_buckets).map(|_| ()).unwrap_err().to_string().contains("over the limit of 4096"));
    let mut both = snapshot();
    both.overrides[0].when = "true".into();
    assert!(snapshot_from_wire(both).map(|_| ()).unwrap_err().to_string().starts_with("overrides[0].units: "));
}

#[test]
fn invalid_expression_in_a_snapshot_is_refused() {
    let broken = "country ==";
    let refused = Audience::parse(broken).is_err();
    let mut audience = snapshot();
    audience.audience = broken.into();
    assert_eq!(snapshot_from_wire(audience).is_err(), refused);
    let mut pinned = snapshot();
    pinned.overrides[1].when = broken.into();
    assert_eq!(snapshot_from_wire(pinned).is_err(), refused);
}

#[test]
fn every_reason_except_not_ready_round_trips() {
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
fn assignment_contains_variation_reason_and_generation() {
    let mut served = Snapshot::default();
    served.insert(Arc::new(snapshot_from_wire(snapshot()).unwrap()));
    let context = Context::default().with("account", Value::Object(BTreeMap::from([("id".to_owned(), "u1".into())])));
    let response = assignment_to_wire(&served.assign("checkout", &context, NOW));
    assert_eq!((response.variation.as_str(), response.reason(), response.point), ("b", v1::Reason::Override, None));
    assert_eq!((response.generation, response.exposure_recorded), (1, false));
    let unknown = assignment_to_wire(&served.assign("nothing", &context, NOW));
    assert_eq!((unknown.variation.as_str(), unknown.payload), ("", None));
}

#[test]
fn status_round_trips_with_the_shipped_variation() {
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

proptest! {
    #[test]
    fn corrupted_snapshots_are_refused_or_valid(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = snapshot().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Ok(served)) = v1::ExperimentSnapshot::decode(&*bytes).map(snapshot_from_wire) {
            let again = snapshot_from_wire(snapshot_to_wire(&served)).unwrap();
            prop_assert_eq!(again.parts(), served.parts());
            served.assign(&Context::new("u"), NOW);
        }
    }
}
