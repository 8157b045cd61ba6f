//! I3: the hash contract, which never changes.

use inroad_assignment::{
    Allocation, Arm, Bucket, Digest, ExperimentKey, KeyError, Point, Salt, UnitHasher, UnitKey, VariationKey,
    unit_digest,
};
use md5::{Digest as _, Md5};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    points: Vec<GoldenPoint>,
    allocations: Vec<GoldenAllocation>,
}

#[derive(Deserialize)]
struct GoldenPoint {
    experiment: ExperimentKey,
    salt: Salt,
    unit: String,
    md5: String,
    point: Point,
}

#[derive(Deserialize)]
struct GoldenAllocation {
    name: String,
    buckets: Vec<(Point, String)>,
    cases: Vec<(Point, String)>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../../contract/golden.json")).unwrap()
}

fn plain_md5(experiment: &str, salt: &str, unit: &str) -> Digest {
    Digest::from_bytes(Md5::digest(format!("{experiment}:{salt}:{unit}")).into())
}

#[test]
fn golden_units_have_the_expected_digest_and_point() {
    let points = golden().points;
    assert!(points.len() >= 88);
    for g in points {
        let digest = UnitHasher::new(&g.experiment, &g.salt).digest(UnitKey::parse(&g.unit).unwrap());
        assert_eq!(format!("{digest:?}"), g.md5, "{:?} {:?} {:?}", g.experiment, g.salt, g.unit);
        assert_eq!(digest.point(), g.point);
        assert_eq!(g.point.to_string(), g.md5[..16]);
        assert_eq!(Point::parse(&g.md5[..16]), Some(g.point));
    }
}

#[test]
fn golden_points_have_the_expected_owner() {
    let allocations = golden().allocations;
    assert!(allocations.len() >= 4);
    for g in allocations {
        let mut names = vec!["control"];
        for (_, name) in &g.buckets {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let index = |name: &str| Arm::new(names.iter().position(|n| *n == name).unwrap()).unwrap();
        let buckets = g.buckets.iter().map(|(start, name)| Bucket { start: *start, owner: index(name) });
        let allocation = Allocation::new(buckets).unwrap();
        assert!(!g.cases.is_empty());
        for (point, owner) in &g.cases {
            assert_eq!(allocation.owner(*point), index(owner), "{} at {point}", g.name);
        }
    }
}

#[test]
fn lengths_around_the_block_size_hash_like_plain_md5() {
    for prefix in [3, 10, 40, 53, 54, 55, 56, 63, 64, 65, 119, 120, 162] {
        // A key and a salt for which `key:salt:` has this length.
        let (key_length, salt_length) = if prefix - 3 <= 128 { (prefix - 3, 1) } else { (128, prefix - 130) };
        let (key, salt) = ("k".repeat(key_length.max(1)), "s".repeat(salt_length));
        let hasher = UnitHasher::new(&ExperimentKey::parse(&key).unwrap(), &Salt::parse(&salt).unwrap());
        for length in (1..=260).chain([511, 512, 513, 1023, 1024]) {
            let unit = "u".repeat(length);
            let digest = hasher.digest(UnitKey::parse(&unit).unwrap());
            assert_eq!(digest, plain_md5(&key, &salt, &unit), "{prefix} + {length}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]

    #[test]
    fn any_unit_hashes_like_plain_md5(
        key in "[a-z0-9][a-z0-9._-]{0,127}", salt in "[A-Za-z0-9]{1,32}", unit in "\\PC{1,70}|.{1,300}|[ -~]{1,24}",
    ) {
        prop_assume!(unit.len() <= UnitKey::MAX_BYTES && !unit.is_empty());
        let hasher = UnitHasher::new(&ExperimentKey::parse(&key).unwrap(), &Salt::parse(&salt).unwrap());
        let digest = hasher.digest(UnitKey::parse(&unit).unwrap());
        let plain = plain_md5(&key, &salt, &unit);
        prop_assert_eq!(digest, plain);
        let hex = format!("{plain:?}");
        prop_assert_eq!(digest.point().to_string(), &hex[..16]);
        // The hasher keeps no state between units.
        let other = UnitKey::parse("x").unwrap();
        prop_assert_eq!(hasher.digest(other), plain_md5(&key, &salt, "x"));
        prop_assert_eq!(hasher.digest(UnitKey::parse(&unit).unwrap()), plain);
    }

    #[test]
    fn points_and_digests_sort_like_their_hex_text(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
        let (a, b) = (Digest::from_bytes(a), Digest::from_bytes(b));
        prop_assert_eq!(a.cmp(&b), format!("{a:?}").cmp(&format!("{b:?}")));
        prop_assert_eq!(a.point().cmp(&b.point()), a.point().to_string().cmp(&b.point().to_string()));
        if a.point() != b.point() {
            prop_assert_eq!(a.cmp(&b), a.point().cmp(&b.point()));
        }
    }

    #[test]
    fn key_is_accepted_exactly_if_it_matches_the_grammar(text in "[a-z0-9._A-Z :é-]{0,5}|[a-z]{126,130}") {
        let slug = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let valid = starts_well && text.chars().all(slug) && text.len() <= 128;
        prop_assert_eq!(ExperimentKey::parse(&text).is_ok(), valid);
        prop_assert_eq!(VariationKey::parse(&text).is_ok(), valid);
        let salt = !text.is_empty() && text.len() <= 32 && text.chars().all(|c| c.is_ascii_alphanumeric());
        prop_assert_eq!(Salt::parse(&text).is_ok(), salt);
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<ExperimentKey>(&json).is_ok(), valid);
    }
}

#[test]
fn unit_key_is_any_text_of_1_to_1024_bytes() {
    assert_eq!(UnitKey::parse(""), Err(KeyError::EmptyUnitKey));
    for valid in [" ", "\0", "\n", "é", ":", &"x".repeat(1024), &"é".repeat(512)] {
        assert_eq!(UnitKey::parse(valid).unwrap().as_str(), valid);
    }
    assert_eq!(UnitKey::parse(&"x".repeat(1025)), Err(KeyError::UnitKeyTooLong { bytes: 1025 }));
    assert_eq!(UnitKey::parse(&"é".repeat(513)), Err(KeyError::UnitKeyTooLong { bytes: 1026 }));
}

#[test]
fn message_of_a_rejected_key_quotes_only_its_start() {
    let message = ExperimentKey::parse(&"É".repeat(100_000)).unwrap_err().to_string();
    assert!(message.len() < 600, "{}", message.len());
}

#[test]
fn outcome_digest_depends_on_clock_and_unit_type() {
    let unit = UnitKey::parse("u1").unwrap();
    let digests = [("", "user"), ("", "account"), ("demo", "user"), ("demo", "account"), ("u", "ser")];
    let all: std::collections::BTreeSet<Digest> = digests.iter().map(|(c, t)| unit_digest(c, t, unit)).collect();
    assert_eq!(all.len(), digests.len());
    assert_eq!(unit_digest("", "user", unit), Digest::from_bytes(Md5::digest(b"\0user\0u1").into()));
}
