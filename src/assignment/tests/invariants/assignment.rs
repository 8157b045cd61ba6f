//! Which variation a unit gets: each reason, and which reason takes precedence.

use std::collections::BTreeMap;
use std::sync::Arc;

use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{
    Arm, Assignment, Context, Definition, Experiment, KillTarget, Kills, Reason, ServedExperiment, Snapshot,
    UnitHasher, UnitKey, Value, Width,
};

use crate::support::{arm, at, definition, salt, width};

/// The served form of an experiment.
fn serve(experiment: &Experiment, wall: i64) -> ServedExperiment {
    ServedExperiment::from_experiment(experiment, 1, at(wall)).unwrap()
}

/// An experiment where v1 and v2 own half of the line each, with an audience and overrides. `edit` changes the
/// document.
fn definition_with(edit: impl Fn(&mut serde_json::Value)) -> Definition {
    let mut doc = serde_json::json!({
        "key": "e",
        "policy": {"kind": "manual"},
        "audience": "tier == 'internal'",
        "variations": [
            {"key": "control", "payload": "c"},
            {"key": "v1", "payload": "1", "share": 0.5},
            {"key": "v2", "payload": "2", "share": 0.5},
        ],
        "overrides": [
            {"units": ["pinned1"], "variation": "v1"},
            {"when": "tester == true", "variation": "v2"},
            {"units": ["pinned1", "pinned0"], "variation": "control"},
        ],
    });
    edit(&mut doc);
    serde_json::from_value(doc).unwrap()
}

/// A unit whose point `owner` owns.
fn unit_of(experiment: &Experiment, owner: Arm) -> String {
    let hasher = UnitHasher::new(experiment.definition.key(), &experiment.generations[0].salt);
    let is_owned = |unit: &String| {
        experiment.latest_allocation().owner(hasher.digest(UnitKey::parse(unit).unwrap()).point()) == owner
    };
    (0..).map(|i| format!("u{i}")).find(is_owned).unwrap()
}

/// A change before the assignment.
type Setup = fn(&mut Experiment);
/// A case: its name, the changes, the context, and the expected arm, reason, and whether an exposure is recorded.
type Row = (&'static str, Vec<Setup>, Context, usize, Reason, bool);

#[test]
fn reasons_follow_their_precedence() {
    let start: Setup = |e| e.start(at(10), salt("s1")).unwrap();
    let kill: Setup = |e| e.set_killed(KillTarget::Everything, true, at(20)).unwrap();
    let kill_1: Setup = |e| e.set_killed(KillTarget::Variation(arm(1)), true, at(20)).unwrap();
    let pause: Setup = |e| e.pause().unwrap();
    let conclude: Setup = |e| e.conclude(arm(1), ShippingScope::Audience, at(50)).unwrap();
    let archive: Setup = |e| e.archive().unwrap();
    let mut probe = Experiment::create(definition_with(|_| {}), at(0));
    start(&mut probe);
    let (on_1, on_2) = (unit_of(&probe, arm(1)), unit_of(&probe, arm(2)));
    let internal = |unit: &str| Context::new(unit).with("tier", "internal");
    let no_unit = Context::default().with("tier", "internal");
    use Reason::*;
    let table: Vec<Row> = vec![
        ("by allocation", vec![start], internal(&on_1), 1, Split, true),
        ("by allocation, the other half", vec![start], internal(&on_2), 2, Split, true),
        ("not in the audience", vec![start], Context::new(&on_1), 0, NotInAudience, false),
        ("a draft", vec![], internal(&on_1), 0, NotStarted, false),
        ("a draft, not in the audience", vec![], Context::new(&on_1), 0, NotStarted, false),
        ("an override in a draft", vec![], Context::new("pinned1"), 1, Override, false),
        (
            "the first override that matches",
            vec![start],
            Context::new("pinned1").with("tester", true),
            1,
            Override,
            false,
        ),
        ("an override by expression", vec![start], Context::new(&on_1).with("tester", true), 2, Override, false),
        ("an override to control", vec![start], internal("pinned0"), 0, Override, false),
        ("an override, not in the audience", vec![start], Context::new("pinned1"), 1, Override, false),
        ("an override to a killed variation", vec![start, kill_1], Context::new("pinned1"), 0, Killed, false),
        ("an override to a killed variation in a draft", vec![kill_1], Context::new("pinned1"), 0, Killed, false),
        (
            "an override to control while a variation is killed",
            vec![start, kill_1],
            internal("pinned0"),
            0,
            Override,
            false,
        ),
        ("the point of a killed variation", vec![start, kill_1], internal(&on_1), 0, Killed, true),
        ("the point of the other variation", vec![start, kill_1], internal(&on_2), 2, Split, true),
        ("killed, not in the audience", vec![start, kill_1], Context::new(&on_1), 0, NotInAudience, false),
        ("experiment killed", vec![start, kill], internal(&on_1), 0, Killed, false),
        ("experiment killed, override", vec![start, kill], Context::new("pinned1"), 0, Killed, false),
        ("experiment killed, no unit", vec![start, kill], no_unit.clone(), 0, Killed, false),
        ("experiment killed as a draft", vec![kill], internal(&on_1), 0, Killed, false),
        ("paused", vec![start, pause], internal(&on_1), 1, Paused, false),
        ("paused and killed", vec![start, pause, kill_1], internal(&on_1), 0, Killed, false),
        ("paused, override", vec![start, pause], Context::new("pinned1"), 1, Override, false),
        ("no unit", vec![start], no_unit.clone(), 0, NoUnit, false),
        ("no unit in a draft", vec![], no_unit.clone(), 0, NoUnit, false),
        ("no unit, although an override matches", vec![start], no_unit.clone().with("tester", true), 0, NoUnit, false),
        ("an empty unit", vec![start], internal(""), 0, InvalidUnit, false),
        ("the longest unit", vec![start], Context::new("x".repeat(1024)), 0, NotInAudience, false),
        ("a unit too long", vec![start], internal(&"x".repeat(1025)), 0, InvalidUnit, false),
        ("concluded", vec![start, conclude], internal(&on_2), 1, Concluded, false),
        ("concluded, outside the audience", vec![start, conclude], Context::default(), 0, NotInAudience, false),
        ("concluded, override", vec![start, conclude], internal("pinned0"), 1, Concluded, false),
        ("concluded, then killed", vec![start, conclude, kill_1], internal(&on_1), 0, Killed, false),
        ("concluded, then experiment killed", vec![start, conclude, kill], internal(&on_1), 0, Killed, false),
        ("archived", vec![start, conclude, archive], internal(&on_2), 1, Archived, false),
        ("archived as a draft", vec![archive], internal(&on_2), 0, Archived, false),
        ("killed, then archived", vec![start, conclude, kill_1, archive], internal(&on_1), 0, Killed, false),
        (
            "rolled back",
            vec![start, |e| e.conclude(Arm::CONTROL, ShippingScope::Audience, at(50)).unwrap()],
            internal(&on_1),
            0,
            Concluded,
            false,
        ),
    ];
    for (name, setups, context, served, reason, records) in table {
        let mut experiment = Experiment::create(definition_with(|_| {}), at(0));
        setups.iter().for_each(|setup| setup(&mut experiment));
        let mut snapshot = Snapshot::default();
        snapshot.insert(Arc::new(serve(&experiment, 30)));
        let got = snapshot.assign("e", &context, at(30));
        assert_eq!((got.arm, got.reason, got.records_exposure), (arm(served), reason, records), "{name}");
        assert_eq!(got.variation.unwrap().key, experiment.definition.variations()[served].key, "{name}");
        assert_eq!(got.generation, experiment.generations.len() as u32, "{name}");
        assert_eq!(got.revision, experiment.generations.len() as u32, "{name}");
        assert_eq!(
            got.digest.is_some(),
            matches!(reason, Split | Paused)
                || name == "the point of a killed variation"
                || name == "paused and killed",
            "{name}"
        );
        assert_eq!(got.digest.map(|d| d.point()), got.point(), "{name}");
        assert_eq!(snapshot.assign("f", &context, at(30)), Assignment::unknown(UnknownExperiment));
    }
}

#[test]
fn assignment_contains_the_digest_and_the_revision() {
    let mut experiment = Experiment::create(definition(2, false), at(0));
    experiment.start(at(10), salt("s1")).unwrap();
    experiment.grow(&[(arm(1), width(1 << 62))], RevisionCause::Grown, at(20), at(50)).unwrap();
    let served = serve(&experiment, 20);
    let context = Context::new("u1");
    let digest = UnitHasher::new(experiment.definition.key(), &salt("s1")).digest(UnitKey::parse("u1").unwrap());
    for (now, revision) in [(0, 1), (10, 1), (49, 1), (50, 2), (i64::MAX, 2)] {
        let got = served.assign(&context, at(now));
        assert_eq!((got.revision, got.generation, got.digest), (revision, 1, Some(digest)), "{now}");
        let owner = experiment.generations[0].revision(revision).unwrap().allocation.owner(digest.point());
        assert_eq!(got.arm, owner);
    }
    assert_eq!(served.unit_key(&context).as_deref(), Some("u1"));
    assert_eq!(served.unit_key(&Context::new("")), None);
}

#[test]
fn manual_clock_decides_which_revision_is_in_effect() {
    let mut experiment = Experiment::create(definition(2, true), at(10));
    experiment.start(at(10), salt("s1")).unwrap();
    experiment.grow(&[(arm(1), width(1 << 62))], RevisionCause::Grown, at(10), at(50)).unwrap();
    assert_eq!(serve(&experiment, 1 << 50).assign(&Context::new("u"), at(1 << 50)).revision, 1);
    experiment.advance_clock(at(50)).unwrap();
    assert_eq!(serve(&experiment, 0).assign(&Context::new("u"), at(0)).revision, 2);
}

#[test]
fn unit_key_is_found_by_name_by_path_and_as_whole_number() {
    let object =
        |fields: &[(&str, Value)]| Value::Object(fields.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect());
    let number = |n: f64| Context::default().with("id", n);
    let nested =
        Context::default().with("account", object(&[("id", "acme".into()), ("owner", object(&[("id", 7.0.into())]))]));
    let cases: Vec<(&str, Context, Option<&str>)> = vec![
        ("targetingKey", Context::new("u"), Some("u")),
        ("targetingKey", Context::default().with("targetingKey", "u"), Some("u")),
        ("targetingKey", Context::default().with("targetingKey", 12.0), Some("12")),
        ("targetingKey", Context::new("u").with("targetingKey", 12.0), Some("12")),
        ("targetingKey", Context::default().with("targetingKey", 12.0).with("targetingKey", "u"), Some("u")),
        ("targetingKey", Context::new("u").with("targetingKey", Value::Null), None),
        ("targetingKey", Context::default().with("user", "u"), None),
        ("id", number(42.0), Some("42")),
        ("id", number(-42.0), Some("-42")),
        ("id", number(-0.0), Some("0")),
        ("id", number(9_007_199_254_740_991.0), Some("9007199254740991")),
        ("id", number(-9_007_199_254_740_991.0), Some("-9007199254740991")),
        // From 2^53 two whole numbers have the same double, so two accounts would be one unit.
        ("id", number(9_007_199_254_740_992.0), None),
        ("id", number(1e300), None),
        ("id", number(0.5), None),
        ("id", number(f64::NAN), None),
        ("id", number(f64::INFINITY), None),
        ("id", Context::default().with("id", true), None),
        ("id", Context::default().with("id", Value::List(vec!["u".into()])), None),
        ("account", nested.clone(), None),
        ("account.id", nested.clone(), Some("acme")),
        ("account.owner.id", nested.clone(), Some("7")),
        ("account.owner.name", nested.clone(), None),
        ("account.id.more", nested.clone(), None),
        ("account.", nested.clone(), None),
        (".", nested.clone(), None),
        ("", nested.clone(), None),
        // An attribute with the whole name takes precedence over the path.
        ("account.id", nested.with("account.id", "flat"), Some("flat")),
    ];
    for (attribute, context, unit) in cases {
        assert_eq!(context.unit(attribute).as_deref(), unit, "{attribute} of {context:?}");
    }
}

#[test]
fn all_users_of_an_account_get_the_same_variation() {
    let mut experiment = Experiment::create(
        definition_with(|d| {
            d["unit"] = "account.id".into();
            d.as_object_mut().unwrap().remove("audience");
        }),
        at(0),
    );
    experiment.start(at(10), salt("s1")).unwrap();
    let served = serve(&experiment, 10);
    let account = Value::Object(BTreeMap::from([("id".to_owned(), 17.0.into())]));
    let flat = Value::Object(BTreeMap::from([("id".to_owned(), "17".into())]));
    let answers: Vec<_> = (0..20)
        .map(|i| Context::new(format!("u{i}")).with("account", if i % 2 == 0 { account.clone() } else { flat.clone() }))
        .map(|context| served.assign(&context, at(20)).arm)
        .collect();
    assert!(answers.iter().all(|a| *a == answers[0]));
}

#[test]
fn kill_applies_to_a_client_with_the_newest_revision() {
    let mut experiment = Experiment::create(definition_with(|d| d["audience"] = serde_json::Value::Null), at(0));
    experiment.start(at(10), salt("s1")).unwrap();
    let unit = Context::new(unit_of(&experiment, arm(1)));
    let before = serve(&experiment, 10);
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(11)).unwrap();
    let killed = serve(&experiment, 11);
    assert_eq!(killed.check_can_replace(&before), Ok(()));
    assert_eq!((before.assign(&unit, at(11)).arm, killed.assign(&unit, at(11)).arm), (arm(1), Arm::CONTROL));
    experiment.set_killed(KillTarget::Variation(arm(1)), false, at(12)).unwrap();
    let restored = serve(&experiment, 12);
    assert_eq!(restored.check_can_replace(&killed), Ok(()));
    assert_eq!(restored.assign(&unit, at(12)).arm, arm(1));
    assert_eq!(restored.parts().kills, Kills::default());
}

#[test]
fn snapshot_contains_each_experiment_once() {
    let mut snapshot = Snapshot::default();
    let mut experiment = Experiment::create(definition(2, false), at(0));
    snapshot.insert(Arc::new(serve(&experiment, 0)));
    experiment.start(at(1), salt("s1")).unwrap();
    snapshot.insert(Arc::new(serve(&experiment, 1)));
    assert_eq!(snapshot.experiments().count(), 1);
    assert_eq!(snapshot.get("e").unwrap().parts().generation, 1);
    snapshot.remove("unknown");
    snapshot.remove("e");
    assert!(snapshot.get("e").is_none());
}

#[test]
fn shares_match_the_declaration_for_many_units() {
    let mut experiment = Experiment::create(definition(3, false), at(0));
    experiment.start(at(1), salt("s1")).unwrap();
    experiment.grow(&[(arm(1), Width::from_share(0.28).unwrap())], RevisionCause::Grown, at(2), at(2)).unwrap();
    let served = serve(&experiment, 2);
    let mut counts = [0u32; 4];
    for i in 0..100_000 {
        counts[served.assign(&Context::new(format!("user-{i}")), at(2)).arm.index()] += 1;
    }
    // Five standard deviations of a binomial around each share.
    for (count, share) in counts.into_iter().zip([0.66, 0.30, 0.02, 0.02]) {
        let sd = f64::sqrt(100_000.0 * share * (1.0 - share));
        assert!((f64::from(count) - 100_000.0 * share).abs() < 5.0 * sd, "{counts:?}");
    }
}
