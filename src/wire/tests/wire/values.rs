//! Times, durations and payloads.

use super::*;

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-9_007_199_254_740_992i64..=9_007_199_254_740_992).prop_map(Into::into),
        // Whole numbers come back as integers, so only fractions are generated as floats.
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

proptest! {
    #[test]
    fn times_round_trip(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
        let at = Timestamp::from_micros(micros);
        prop_assert_eq!(timestamp_from_wire(&timestamp_to_wire(at)), Ok(at));
    }

    #[test]
    fn any_time_and_duration_converts_without_panic(
        seconds in any::<i64>(), nanos in any::<i32>(), d in any::<Duration>(),
    ) {
        let _ = timestamp_from_wire(&prost_types::Timestamp { seconds, nanos });
        let _ = duration_from_wire(&prost_types::Duration { seconds, nanos });
        prop_assert!(timestamp_from_wire(&timestamp_to_wire(Timestamp::from_micros(seconds))).is_ok());
        prop_assert!(duration_from_wire(&duration_to_wire(d)).is_ok());
    }

    #[test]
    fn durations_round_trip(seconds in 0u64..315_576_000_000, nanos in 0u32..1_000_000_000) {
        let duration = Duration::new(seconds, nanos);
        prop_assert_eq!(duration_from_wire(&duration_to_wire(duration)), Ok(duration));
    }

    #[test]
    fn payloads_round_trip(fields in prop::collection::btree_map(".{0,6}", json(), 0..6)) {
        let payload = Payload::Object(fields.into_iter().collect());
        prop_assert_eq!(payload_from_wire(payload_to_wire(&payload)), Ok(payload));
    }
}
