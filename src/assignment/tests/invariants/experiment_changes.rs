//! The changes of an experiment: in which states they are allowed, and their effects.

use inroad_assignment::experiment::{ChangeError, RevisionCause, ShippingScope};
use inroad_assignment::{Allocation, Arm, Definition, Experiment, KillTarget, Kills, Status, Timestamp, Width};

use crate::support::{arm, at, definition, salt, width};

fn running_experiment() -> Experiment {
    let mut experiment = Experiment::create(definition(2, false), at(0));
    experiment.start(at(10), salt("s1")).unwrap();
    experiment
}

#[test]
fn growth_allowance_does_not_accrue_while_the_policy_is_inactive() {
    let mut document = serde_json::to_value(definition(2, false)).unwrap();
    document["policy"] = serde_json::json!({"kind": "thompson"});
    document["metrics"] = serde_json::json!([{"key": "bought", "event": "buy", "decision": true}]);
    let mut experiment = Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    assert!(!experiment.is_policy_active());
    experiment.start(at(10), salt("s1")).unwrap();
    let state = |e: &Experiment| (e.is_policy_active(), e.last_growth_at.unwrap(), e.last_tick_at.unwrap());
    assert_eq!(state(&experiment), (true, at(10), at(10)));
    experiment.record_tick(at(20), false);
    assert_eq!(state(&experiment), (true, at(10), at(20)), "the unused allowance continues to accrue");
    experiment.record_tick(at(30), true);
    assert_eq!(state(&experiment), (true, at(30), at(30)));
    experiment.pause().unwrap();
    assert!(!experiment.is_policy_active());
    experiment.resume(at(40)).unwrap();
    assert_eq!(state(&experiment), (true, at(40), at(40)));
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(50)).unwrap();
    assert!(experiment.is_policy_active(), "other variations can grow");
    experiment.set_killed(KillTarget::Everything, true, at(60)).unwrap();
    assert!(!experiment.is_policy_active());
    experiment.set_killed(KillTarget::Everything, false, at(70)).unwrap();
    assert_eq!(state(&experiment), (true, at(70), at(70)));
    experiment.conclude(arm(2), ShippingScope::Audience, at(80)).unwrap();
    assert!(!experiment.is_policy_active());
}

#[test]
fn changes_are_allowed_only_in_their_states() {
    type Change = fn(&mut Experiment) -> Result<(), ChangeError>;
    let changes: [(&str, Change); 9] = [
        ("start", |e| e.start(at(50), salt("x"))),
        ("restart", |e| e.restart(at(50), salt("x"))),
        ("pause", |e| e.pause()),
        ("resume", |e| e.resume(at(50))),
        ("grow", |e| e.grow(&[(arm(1), width(1))], RevisionCause::Grown, at(50), at(50)).map(|_| ())),
        ("kill", |e| e.set_killed(KillTarget::Variation(arm(1)), true, at(50))),
        ("conclude", |e| e.conclude(arm(1), ShippingScope::Audience, at(50))),
        ("archive", |e| e.archive()),
        ("update", |e| e.update(definition(3, false), at(50), at(60))),
    ];
    let draft = Experiment::create(definition(2, false), at(0));
    let running = running_experiment();
    let after = |e: &Experiment, change: Change| {
        let mut e = e.clone();
        change(&mut e).unwrap();
        e
    };
    let paused = after(&running, |e| e.pause());
    let concluded = after(&running, |e| e.conclude(arm(1), ShippingScope::Audience, at(50)));
    let archived = after(&concluded, |e| e.archive());
    for (experiment, allowed) in [
        (draft, &["start", "kill", "archive", "update"][..]),
        (running, &["restart", "pause", "grow", "kill", "conclude", "update"]),
        (paused, &["restart", "resume", "grow", "kill", "conclude", "update"]),
        (concluded, &["restart", "kill", "archive", "update"]),
        (archived, &[]),
    ] {
        for (name, change) in changes {
            let mut changed = experiment.clone();
            let result = change(&mut changed);
            assert_eq!(result.is_ok(), allowed.contains(&name), "{name} in {}: {result:?}", experiment.status.name());
            if let Err(error) = result {
                assert!(matches!(error, ChangeError::WrongState { .. }), "{error}");
                assert_eq!(changed, experiment);
            }
        }
    }
}

#[test]
fn unknown_variations_are_rejected_everywhere() {
    let mut experiment = running_experiment();
    let before = experiment.clone();
    let errors = [
        experiment.grow(&[(arm(3), width(1))], RevisionCause::Grown, at(20), at(20)).unwrap_err(),
        experiment.set_killed(KillTarget::Variation(arm(3)), true, at(20)).unwrap_err(),
        experiment.conclude(arm(64), ShippingScope::Audience, at(50)).unwrap_err(),
        experiment.arm("unknown").unwrap_err(),
    ];
    assert!(errors.iter().all(|e| matches!(e, ChangeError::UnknownVariation(_))), "{errors:?}");
    assert_eq!(
        experiment.set_killed(KillTarget::Variation(Arm::CONTROL), true, at(20)),
        Err(ChangeError::ControlCannotBeKilled)
    );
    assert_eq!(experiment, before);
}

#[test]
fn restart_keeps_kills_and_records_them_in_the_new_generation() {
    let mut experiment = running_experiment();
    experiment.set_killed(KillTarget::Variation(arm(2)), true, at(20)).unwrap();
    experiment.set_killed(KillTarget::Everything, true, at(21)).unwrap();
    experiment.restart(at(30), salt("s2")).unwrap();
    let generation = experiment.generation().unwrap();
    assert_eq!((generation.number, generation.kill_changes.len()), (2, 2));
    assert_eq!(generation.kills(at(29)), Kills::default());
    assert_eq!(generation.kills(at(30)), experiment.kills);
    assert!(generation.was_ever_killed(arm(1)) && generation.was_ever_killed(arm(2)));
    experiment.set_killed(KillTarget::Everything, false, at(31)).unwrap();
    assert!(experiment.kills.is_arm_killed(arm(2)) && !experiment.kills.is_arm_killed(arm(1)));
    // Repeating a restore has no effect.
    let before = experiment.clone();
    experiment.set_killed(KillTarget::Everything, false, at(40)).unwrap();
    assert_eq!(experiment, before);
}

#[test]
fn kill_after_an_end_is_later_than_the_end_although_no_time_passed() {
    let mut experiment = running_experiment();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(20)).unwrap();
    experiment.conclude(arm(2), ShippingScope::Everyone, at(20)).unwrap();
    let until_the_end = experiment.kills;
    experiment.set_killed(KillTarget::Variation(arm(2)), true, at(20)).unwrap();
    let generation = experiment.generation().unwrap();
    assert_eq!(generation.kills(generation.ended_at().unwrap()), until_the_end);
    assert_eq!(generation.kills(Timestamp::MAX), experiment.kills);
    // A clock that was set back does not put an end before a kill.
    let mut experiment = running_experiment();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(20)).unwrap();
    experiment.conclude(arm(2), ShippingScope::Everyone, at(19)).unwrap();
    let generation = experiment.generation().unwrap();
    assert_eq!(generation.kills(generation.ended_at().unwrap()), experiment.kills);
}

#[test]
fn kills_of_sixty_four_variations_survive_json_text_and_value() {
    let all = (1..=64).fold(Kills::default(), |kills, i| kills.with_change(KillTarget::Variation(arm(i)), true));
    assert!((1..=64).all(|i| all.is_arm_killed(arm(i)) && all.served_arm(arm(i)).is_control()));
    assert_eq!(serde_json::from_str::<Kills>(&serde_json::to_string(&all).unwrap()).unwrap(), all);
    assert_eq!(serde_json::from_value::<Kills>(serde_json::to_value(all).unwrap()).unwrap(), all);
    let all_but_one = all.with_change(KillTarget::Variation(arm(64)), false);
    assert!(!all_but_one.is_arm_killed(arm(64)) && all_but_one.is_arm_killed(arm(63)));
    assert_eq!(Kills::default().with_change(KillTarget::Variation(Arm::CONTROL), true), Kills::default());
    assert!(serde_json::from_str::<Kills>(r#"{"everything":false,"arms":[200]}"#).is_err());
    assert!(serde_json::from_str::<Status>(r#"{"state":"concluded","shipped":200}"#).is_err());
}

#[test]
fn unit_salt_tick_variations_and_metrics_are_fixed_after_the_start() {
    let with = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut doc = serde_json::to_value(definition(2, false)).unwrap();
        edit(&mut doc);
        serde_json::from_value::<Definition>(doc).unwrap()
    };
    type Edit = (&'static str, fn(&mut serde_json::Value));
    let edits: [Edit; 9] = [
        ("key", |d| d["key"] = "other".into()),
        ("clock", |d| d["clock"] = serde_json::json!({"kind": "manual"})),
        ("unit", |d| d["unit"] = "account".into()),
        ("salt", |d| d["salt"] = "other".into()),
        ("policy.tick", |d| d["policy"]["tick"] = "2h".into()),
        ("variations", |d| d["variations"].as_array_mut().unwrap().swap(1, 2)),
        ("variations", |d| d["variations"].as_array_mut().unwrap().truncate(2)),
        ("metrics", |d| d["metrics"] = serde_json::json!([])),
        ("metrics", |d| d["metrics"][0]["window"] = "3days".into()),
    ];
    for (field, edit) in edits {
        let mut experiment = running_experiment();
        let result = experiment.update(with(&edit), at(20), at(30));
        assert!(
            matches!(&result, Err(ChangeError::FixedAfterStart { field: at, .. }) if *at == field),
            "{field}: {result:?}"
        );
        assert_eq!(experiment, running_experiment());
    }
    // The generated salt can be declared later, and texts and payloads can change.
    for edit in [
        (|d| d["salt"] = "s1".into()) as fn(&mut serde_json::Value),
        |d| d["description"] = "new".into(),
        |d| d["variations"][1]["payload"] = true.into(),
    ] {
        let mut experiment = running_experiment();
        experiment.update(with(&edit), at(20), at(30)).unwrap();
        assert_eq!(experiment.definition, with(&edit));
        assert_eq!(experiment.generations, running_experiment().generations);
    }
}

#[test]
fn kills_follow_their_variations_when_a_draft_is_reordered() {
    let mut experiment = Experiment::create(definition(2, false), at(0));
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(1)).unwrap();
    let mut doc = serde_json::to_value(definition(3, false)).unwrap();
    doc["variations"].as_array_mut().unwrap().swap(1, 3);
    experiment.update(serde_json::from_value(doc).unwrap(), at(2), at(2)).unwrap();
    assert_eq!((1..=3).map(|i| experiment.kills.is_arm_killed(arm(i))).collect::<Vec<_>>(), [false, false, true]);
    experiment.update(definition(2, false), at(3), at(3)).unwrap();
    assert!(experiment.kills.is_arm_killed(arm(1)));
    let mut doc = serde_json::to_value(definition(2, false)).unwrap();
    doc["variations"].as_array_mut().unwrap().remove(1);
    experiment.update(serde_json::from_value(doc).unwrap(), at(4), at(4)).unwrap();
    assert_eq!(experiment.kills, Kills::default());
}

#[test]
fn manual_clock_only_advances_and_repeating_its_declaration_has_no_effect() {
    let start = |text: &str| {
        let mut doc = serde_json::to_value(definition(2, true)).unwrap();
        doc["clock"]["start"] = text.into();
        serde_json::from_value::<Definition>(doc).unwrap()
    };
    let declared = start("2026-01-01T00:00:00Z");
    let mut experiment = Experiment::create(declared.clone(), at(5));
    let first = experiment.now(at(5));
    assert_eq!(first, at(1_767_225_600_000_000));
    experiment.advance_clock(at(first.as_micros() + 7)).unwrap();
    experiment.advance_clock(at(first.as_micros() + 7)).unwrap();
    assert!(matches!(experiment.advance_clock(first), Err(ChangeError::ClockBackwards { .. })));
    experiment.update(declared, at(6), at(6)).unwrap();
    assert_eq!(experiment.now(at(6)).since(first).as_micros(), 7);
    experiment.update(start("2027-01-01T00:00:00Z"), at(6), at(6)).unwrap();
    assert_eq!(experiment.now(at(6)), at(1_798_761_600_000_000));
    assert_eq!(running_experiment().advance_clock(at(1 << 60)), Err(ChangeError::NotManualClock));
}

#[test]
fn added_variation_takes_its_foothold_only_from_control() {
    let mut experiment = running_experiment();
    let before = experiment.latest_allocation();
    experiment.update(definition(4, false), at(20), at(30)).unwrap();
    let after = experiment.latest_allocation();
    assert!(before.can_grow_into(&after));
    for i in 3..=4 {
        assert_eq!(after.width_of(arm(i)), experiment.definition.variation(arm(i)).unwrap().foothold);
        assert!(after.width_of(arm(i)) > Width::ZERO);
    }
    let latest = experiment.generation().unwrap().latest().unwrap();
    assert_eq!((latest.number, latest.cause, latest.effective_at), (2, RevisionCause::Added, at(30)));
    // Without available control points, no variation can be added, and nothing changes.
    let mut full = running_experiment();
    let available = full.latest_allocation().headroom(full.definition.policy().floor());
    full.grow(&[(arm(1), available)], RevisionCause::Grown, at(20), at(20)).unwrap();
    let before = full.clone();
    assert!(matches!(full.update(definition(3, false), at(21), at(21)), Err(ChangeError::Allocation(_))));
    assert_eq!(full, before);
}

#[test]
fn revision_takes_effect_after_its_creation_and_after_the_previous_revision() {
    let mut experiment = running_experiment();
    let mut grow = |now, effective| {
        experiment.grow(&[(arm(1), width(1))], RevisionCause::Policy, at(now), at(effective)).unwrap();
        experiment.generation().unwrap().latest().unwrap().effective_at
    };
    assert_eq!([grow(20, 50), grow(21, 30), grow(60, 40), grow(55, 56)].map(Timestamp::as_micros), [50, 50, 60, 60]);
    let generation = experiment.generation().unwrap();
    let number = |t| generation.revision_in_effect(at(t)).unwrap().number;
    assert_eq!([0, 10, 49, 50, 59, 60, 99].map(number), [1, 1, 1, 3, 3, 5, 5]);
}

#[test]
fn ticks_are_counted_from_the_unix_epoch_and_do_not_overflow() {
    let experiment = running_experiment();
    let hour = 3_600_000_000;
    assert_eq!(experiment.next_tick_after(at(0)), at(hour));
    assert_eq!(experiment.next_tick_after(at(hour - 1)), at(hour));
    assert_eq!(experiment.next_tick_after(at(hour)), at(2 * hour));
    assert_eq!(experiment.next_tick_after(at(-1)), at(0));
    for extreme in [Timestamp::MIN, Timestamp::MAX] {
        experiment.next_tick_after(extreme);
        for length in [std::time::Duration::ZERO, std::time::Duration::MAX] {
            Timestamp::start_of_tick(extreme.tick(length), length);
            assert_eq!(Timestamp::MAX.plus(length), Timestamp::MAX);
            assert_eq!(Timestamp::MIN.minus(length), Timestamp::MIN);
        }
    }
    assert_eq!(Timestamp::MIN.since(Timestamp::MAX), std::time::Duration::ZERO);
}

#[test]
fn new_experiment_is_all_control() {
    let experiment = Experiment::create(definition(2, false), at(0));
    assert_eq!(*experiment.latest_allocation(), Allocation::all_control());
    assert_eq!((experiment.generation(), experiment.generation_by_number(0)), (None, None));
    assert_eq!(experiment.generation_by_number(1), None);
}

/// What an edit of a field does in a running experiment.
#[derive(Debug, PartialEq, Clone, Copy)]
enum Effect {
    /// It is refused with this field's name.
    Refused,
    /// It is accepted, and from then on the definition has it.
    Accepted,
    /// It is accepted, and the allocation changes.
    Grows,
}

/// Every field of a definition, with an edit of it.
fn edits() -> Vec<(&'static str, Effect, serde_json::Value)> {
    use serde_json::json;
    vec![
        ("/key", Effect::Refused, json!("other")),
        ("/description", Effect::Accepted, json!("x")),
        ("/owner", Effect::Accepted, json!("x")),
        ("/tags", Effect::Accepted, json!(["x"])),
        ("/lifetime", Effect::Accepted, json!("permanent")),
        ("/unit", Effect::Refused, json!("account")),
        ("/audience", Effect::Accepted, json!("true")),
        ("/salt", Effect::Refused, json!("other")),
        ("/clock/kind", Effect::Refused, json!("wall")),
        ("/clock/start", Effect::Refused, json!("2021-01-01T00:00:00Z")),
        ("/policy/kind", Effect::Accepted, json!("thompson")),
        ("/policy/floor", Effect::Accepted, json!(0.3)),
        ("/policy/tick", Effect::Refused, json!("2h")),
        ("/variations/1/key", Effect::Refused, json!("c")),
        ("/variations/1/payload", Effect::Accepted, json!(7)),
        ("/variations/1/description", Effect::Accepted, json!("x")),
        ("/variations/1/share", Effect::Grows, json!(0.5)),
        ("/overrides/0/units", Effect::Accepted, json!(["other"])),
        ("/overrides/0/variation", Effect::Accepted, json!("a")),
        ("/metrics/0/key", Effect::Refused, json!("other")),
        ("/metrics/0/event", Effect::Refused, json!("other")),
        ("/metrics/0/kind", Effect::Refused, json!("count")),
        ("/metrics/0/cap", Effect::Refused, json!(5.0)),
        ("/metrics/0/window", Effect::Refused, json!("2days")),
        ("/metrics/0/direction", Effect::Accepted, json!("down")),
        ("/metrics/0/decision", Effect::Accepted, json!(false)),
        ("/metrics/0/guardrail/margin", Effect::Accepted, json!(0.2)),
        ("/metrics/0/guardrail/action", Effect::Accepted, json!("alert")),
    ]
}

/// The paths of all values in a document that are not objects or lists of objects.
fn leaves(path: String, value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(format!("{path}/{name}"), value, found));
        }
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            items.iter().enumerate().for_each(|(i, item)| leaves(format!("{path}/{i}"), item, found));
        }
        _ => found.push(path),
    }
}

#[test]
fn every_edited_field_is_refused_or_takes_effect() {
    let document = serde_json::json!({
        "key": "k", "description": "d", "owner": "o", "tags": ["t"], "lifetime": "temporary", "unit": "targetingKey",
        "audience": "plan == \"pro\"", "salt": "s", "clock": {"kind": "manual", "start": "2020-01-01T00:00:00.000000Z"},
        "policy": {"kind": "manual", "floor": 0.1, "tick": "1day"},
        "variations": [
            {"key": "a", "payload": 1, "description": "d"}, {"key": "b", "payload": 2, "description": "d", "share": 0.25}
        ],
        "overrides": [{"units": ["u"], "variation": "b"}],
        "metrics": [{
            "key": "m", "event": "e", "kind": "mean", "cap": 3.0, "window": "1day", "direction": "up", "decision": true,
            "guardrail": {"margin": 0.1, "action": "kill"},
        }],
    });
    let read = |document: &serde_json::Value| serde_json::from_value::<Definition>(document.clone());
    let definition = read(&document).unwrap();
    let mut fields = Vec::new();
    leaves(String::new(), &serde_json::to_value(&definition).unwrap(), &mut fields);
    let covered: Vec<&str> = edits().iter().map(|(path, ..)| *path).collect();
    // Fields of control, which no other test names, are those of the other variation without a share.
    let missing = fields.iter().filter(|f| !f.starts_with("/variations/0/") && !covered.contains(&f.as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "a field without an edit in this test");

    let mut running = Experiment::create(definition.clone(), at(10));
    running.start(at(10), salt("s")).unwrap();
    for (path, expected, value) in edits() {
        let mut edited = document.clone();
        *edited.pointer_mut(path).unwrap_or_else(|| panic!("no field {path}")) = value;
        match path {
            "/clock/kind" => edited["clock"] = serde_json::json!({"kind": "wall"}),
            "/metrics/0/kind" => drop(edited["metrics"][0].as_object_mut().unwrap().remove("cap")),
            "/variations/1/key" => edited["overrides"][0]["variation"] = "a".into(),
            _ => {}
        }
        let edited = read(&edited).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_ne!(edited, definition, "{path} is no change");
        let mut experiment = running.clone();
        let effect = match experiment.update(edited.clone(), at(20), at(20)) {
            Err(_) => Effect::Refused,
            Ok(()) if experiment.latest_allocation() != running.latest_allocation() => Effect::Grows,
            Ok(()) => Effect::Accepted,
        };
        assert_eq!(effect, expected, "{path}");
        if effect == Effect::Refused {
            assert_eq!(experiment, running, "{path}: a refused edit had an effect");
        } else {
            assert_eq!(experiment.definition, edited, "{path}");
        }
    }
}

#[test]
fn edited_share_grows_to_it_and_never_shrinks() {
    let with_share = |share: f64| {
        let mut doc = inroad_assignment::DefinitionDoc::from(definition(2, true));
        doc.variations[1].share = Some(share);
        Definition::try_from(doc).unwrap()
    };
    let mut experiment = Experiment::create(with_share(0.2), at(10));
    experiment.start(at(10), salt("s")).unwrap();
    experiment.grow(&[(arm(1), Width::from_share(0.2).unwrap())], RevisionCause::Grown, at(20), at(20)).unwrap();
    let share = |e: &Experiment| e.latest_allocation().width_of(arm(1)).share();
    assert!((share(&experiment) - 0.4).abs() < 1e-12);
    // Below the current share, although above the initial one.
    let before = experiment.clone();
    let refused = experiment.update(with_share(0.3), at(30), at(30)).unwrap_err();
    assert!(matches!(refused, ChangeError::ShareCannotShrink { .. }), "{refused}");
    assert_eq!(experiment, before);
    // The current share can be written into the file; the same definition again does nothing.
    experiment.update(with_share(0.4), at(30), at(30)).unwrap();
    assert_eq!(experiment.latest_allocation(), before.latest_allocation());
    experiment.update(with_share(0.5), at(40), at(40)).unwrap();
    assert!((share(&experiment) - 0.5).abs() < 1e-12);
    let grown = experiment.clone();
    experiment.update(with_share(0.5), at(50), at(50)).unwrap();
    assert_eq!(experiment, grown);
    // A killed variation does not grow.
    experiment.set_killed(KillTarget::Variation(arm(1)), true, at(60)).unwrap();
    let refused = experiment.update(with_share(0.6), at(60), at(60)).unwrap_err();
    assert!(matches!(refused, ChangeError::VariationKilled(_)), "{refused}");
    // After the conclusion, a share applies to the next run.
    experiment.set_killed(KillTarget::Variation(arm(1)), false, at(60)).unwrap();
    experiment.conclude(Arm::CONTROL, ShippingScope::Audience, at(70)).unwrap();
    experiment.update(with_share(0.1), at(80), at(80)).unwrap();
    experiment.restart(at(90), salt("s2")).unwrap();
    assert!((share(&experiment) - 0.1).abs() < 1e-12);
}

#[test]
fn shipping_within_the_audience_reaches_nobody_else() {
    let mut doc = inroad_assignment::DefinitionDoc::from(definition(2, true));
    doc.audience = Some("plan == \"pro\"".to_owned());
    let mut experiment = Experiment::create(doc.try_into().unwrap(), at(10));
    experiment.start(at(10), salt("s")).unwrap();
    let served = |experiment: &Experiment, plan: &str| {
        let context = inroad_assignment::Context::new("unit").with("plan", plan);
        let served = inroad_assignment::ServedExperiment::from_experiment(experiment, 1, at(50)).unwrap();
        let assignment = served.assign(&context, at(50));
        (assignment.arm, assignment.reason)
    };
    use inroad_assignment::Reason;
    for archived in [false, true] {
        let (inside, everyone) = (ShippingScope::Audience, ShippingScope::Everyone);
        let reason = if archived { Reason::Archived } else { Reason::Concluded };
        for (scope, outside) in [(inside, (Arm::CONTROL, Reason::NotInAudience)), (everyone, (arm(1), reason))] {
            let mut experiment = experiment.clone();
            experiment.conclude(arm(1), scope, at(20)).unwrap();
            if archived {
                experiment.archive().unwrap();
            }
            assert_eq!(served(&experiment, "pro"), (arm(1), reason));
            assert_eq!(served(&experiment, "free"), outside);
        }
    }
    // A conclusion that an earlier release stored has no scope: it continues to reach all units.
    experiment.conclude(arm(1), ShippingScope::Audience, at(20)).unwrap();
    let mut stored = serde_json::to_value(&experiment).unwrap();
    stored.as_object_mut().unwrap().remove("shipped_within_audience");
    let old: Experiment = serde_json::from_value(stored).unwrap();
    assert_eq!(served(&old, "free"), (arm(1), Reason::Concluded));
    // A restart forgets the scope.
    experiment.restart(at(30), salt("s2")).unwrap();
    assert!(!experiment.shipped_within_audience);
}
