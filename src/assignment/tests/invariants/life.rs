//! The experiment's life: whatever people and policy do to it, in any order, its revisions only grow.

use inroad_assignment::experiment::{Cause, ChangeError};
use inroad_assignment::{
    Allocation, Arm, Definition, Experiment, Generation, Kills, Point, Salt, ServedExperiment, Status, Target,
    Timestamp, Width,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::common::{Ask, arm, ask, at, definition, edge_points, naive_owner, requests, salt, width};

/// Anything that can be done to an experiment.
#[derive(Debug, Clone)]
enum Command {
    Start,
    Restart,
    Pause,
    Resume,
    Grow(Vec<(Index, Ask)>, i64),
    Switch(Option<Index>, bool),
    Update(usize, i64),
    Conclude(Index),
    Archive,
    Advance(i64),
}

fn command() -> impl Strategy<Value = Command> {
    let grow = (prop::collection::vec((any::<Index>(), ask()), 1..4), -2i64..9)
        .prop_map(|(asks, lead)| Command::Grow(asks, lead));
    let switch = (prop::option::weighted(0.8, any::<Index>()), any::<bool>());
    prop_oneof![
        3 => Just(Command::Start),
        2 => Just(Command::Restart),
        1 => Just(Command::Pause),
        2 => Just(Command::Resume),
        12 => grow,
        6 => switch.prop_map(|(who, killed)| Command::Switch(who, killed)),
        2 => (0usize..3, -2i64..9).prop_map(|(more, lead)| Command::Update(more, lead)),
        1 => any::<Index>().prop_map(Command::Conclude),
        2 => (-2i64..6).prop_map(Command::Advance),
    ]
}

/// A whole life: commands, each with how far the wall's clock has moved since the last; clocks do go back.
fn life() -> impl Strategy<Value = (bool, Vec<(i64, Command)>)> {
    let archived = prop_oneof![9 => Just(None), 1 => Just(Some((1, Command::Archive)))];
    let commands = prop::collection::vec((-1i64..5, command()), 0..24);
    (any::<bool>(), commands, archived, prop::collection::vec((0i64..5, command()), 0..3)).prop_map(
        |(manual, mut commands, archive, after)| {
            commands.insert(0, (0, Command::Start));
            commands.extend(archive);
            commands.extend(after);
            (manual, commands)
        },
    )
}

fn salt_after(experiment: &Experiment) -> Salt {
    salt(&format!("s{}", experiment.generations.len() + 1))
}

fn apply(experiment: &mut Experiment, command: &Command, wall: Timestamp) -> Result<(), ChangeError> {
    let now = experiment.now(wall);
    let arms = experiment.definition.variations().len() - 1;
    let lead = |lead: i64| at(now.as_micros() + lead);
    match command {
        Command::Start => experiment.start(now, salt_after(experiment)),
        Command::Restart => experiment.restart(now, salt_after(experiment)),
        Command::Pause => experiment.pause(),
        Command::Resume => experiment.resume(now),
        Command::Grow(step, later) => {
            let floor = experiment.definition.policy().floor();
            let asked = requests(step, arms, &experiment.latest_allocation(), floor);
            experiment.grow(&asked, Cause::Grown, now, lead(*later)).map(|_| ())
        }
        Command::Switch(None, killed) => experiment.switch(Target::Everything, *killed, now),
        Command::Switch(Some(who), killed) => {
            experiment.switch(Target::Variation(arm(who.index(arms + 1))), *killed, now)
        }
        Command::Update(more, later) => {
            let manual = experiment.manual_now.is_some();
            experiment.update(definition(arms + more, manual), now, lead(*later))
        }
        Command::Conclude(who) => experiment.conclude(arm(who.index(arms + 1)), now),
        Command::Archive => experiment.archive(),
        Command::Advance(by) => experiment.advance_clock(at(experiment.now(wall).as_micros() + by)),
    }
}

/// What holds of a generation whatever has happened to it.
fn check_generation(generation: &Generation) {
    assert!(!generation.revisions.is_empty());
    for (i, revision) in generation.revisions.iter().enumerate() {
        assert_eq!(revision.number as usize, i + 1);
        assert_eq!(generation.revision(revision.number), Some(revision));
        assert!(revision.effective_at >= revision.created_at);
    }
    assert_eq!((generation.revision(0), generation.revision(u32::MAX)), (None, None));
    for pair in generation.revisions.windows(2) {
        assert!(pair[0].effective_at <= pair[1].effective_at);
        assert!(pair[0].allocation.may_become(&pair[1].allocation));
        for point in edge_points([&*pair[0].allocation, &*pair[1].allocation]) {
            let owner = naive_owner(&pair[0].allocation, point);
            assert!(owner.is_control() || owner == naive_owner(&pair[1].allocation, point));
        }
    }
    assert!(generation.switches.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(generation.endings.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(generation.endings.iter().rev().skip(1).all(|ending| ending.shipped.is_some()));
}

/// Nothing that was published is ever taken back or altered.
fn check_history_is_kept(before: &Experiment, after: &Experiment) {
    assert!(after.generations.len() >= before.generations.len());
    for (old, new) in before.generations.iter().zip(&after.generations) {
        assert_eq!((old.number, &old.salt, old.started_at), (new.number, &new.salt, new.started_at));
        assert!(new.revisions.starts_with(&old.revisions));
        assert!(new.switches.starts_with(&old.switches));
        assert!(new.endings.starts_with(&old.endings));
    }
    let keys = |e: &Experiment| e.definition.variations().iter().map(|v| v.key.clone()).collect::<Vec<_>>();
    assert!(keys(after).starts_with(&keys(before)));
}

/// What a point is served, by walking through the whole history; `None` where another generation draws it.
fn naive_served(generation: &Generation, point: u64, instant: i64) -> Option<Arm> {
    let mut allocation = &generation.revisions[0].allocation;
    for revision in &generation.revisions {
        if revision.effective_at.as_micros() <= instant {
            allocation = &revision.allocation;
        }
    }
    let mut owner = naive_owner(allocation, point);
    for ending in generation.endings.iter().filter(|e| e.at.as_micros() <= instant) {
        owner = ending.shipped?;
    }
    let (mut everything, mut it) = (false, false);
    for switch in generation.switches.iter().filter(|s| s.at.as_micros() <= instant) {
        match switch.target {
            Target::Everything => everything = switch.killed,
            Target::Variation(killed) if killed == owner => it = switch.killed,
            Target::Variation(_) => {}
        }
    }
    Some(if everything || it { Arm::CONTROL } else { owner })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_is_done_to_an_experiment_its_history_only_grows((manual, life) in life()) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        let mut served = ServedExperiment::of(&experiment, 0, at(wall)).unwrap();
        for (version, (passed, command)) in life.iter().enumerate() {
            wall += passed;
            let before = experiment.clone();
            let done = apply(&mut experiment, command, at(wall));
            if done.is_err() {
                prop_assert_eq!(&experiment, &before, "a refused change changed something: {:?}", done);
            }
            check_history_is_kept(&before, &experiment);
            for (i, generation) in experiment.generations.iter().enumerate() {
                prop_assert_eq!(generation.number as usize, i + 1);
                check_generation(generation);
            }
            if let (Command::Switch(..) | Command::Pause | Command::Resume | Command::Conclude(_), Ok(())) = (command, &done) {
                prop_assert_eq!(before.latest_allocation(), experiment.latest_allocation());
            }
            if let Some(generation) = experiment.generation() {
                prop_assert_eq!(generation.kills(Timestamp::MAX), experiment.kills);
                let shipped = match experiment.status {
                    Status::Concluded { shipped } | Status::Archived { shipped } => Some(shipped),
                    _ => None,
                };
                prop_assert_eq!(generation.endings.iter().map(|e| e.shipped).collect::<Vec<_>>(), Vec::from_iter(shipped.map(Some)));
            }
            for past in experiment.generations.iter().rev().skip(1) {
                prop_assert_eq!(past.endings.last().map(|e| e.shipped), Some(None));
            }
            prop_assert!(experiment.manual_now >= before.manual_now);
            // What is served follows from what was, at once and after any number of missed changes.
            let newer = ServedExperiment::of(&experiment, version as u64 + 1, at(wall)).unwrap();
            prop_assert_eq!(newer.check_follows(&served), Ok(()));
            prop_assert_eq!(newer.check_follows(&newer), Ok(()));
            if passed % 2 == 0 {
                served = newer;
            }
        }
        let json = serde_json::to_string(&experiment).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Experiment>(&json).unwrap(), &experiment);
        let value = serde_json::to_value(&experiment).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Experiment>(value).unwrap(), &experiment);
    }

    #[test]
    fn serves_throughout_agrees_with_asking_at_every_instant(
        (manual, life) in life(), pick in any::<Index>(), from in 985i64..1_080, length in 0i64..40,
    ) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        for (passed, command) in &life {
            wall += passed;
            let _ = apply(&mut experiment, command, at(wall));
        }
        for generation in &experiment.generations {
            let points = edge_points(generation.revisions.iter().map(|r| &*r.allocation));
            let point = points[pick.index(points.len())];
            for i in 0..experiment.definition.variations().len() {
                let all = |t| naive_served(generation, point, t) == Some(arm(i));
                let end = generation.ended_at().map_or(i64::MAX, Timestamp::as_micros);
                let everywhere = end > from && (from..(from + length.max(1)).min(end)).all(all);
                let said = generation.serves_throughout(Point::new(point), arm(i), at(from), at(from + length));
                prop_assert_eq!(said, everywhere, "arm {} at {:016x}", i, point);
            }
            for instant in from..from + length {
                let served = generation.served(Point::new(point), at(instant));
                prop_assert!(naive_served(generation, point, instant).is_none_or(|naive| naive == served));
            }
        }
    }

    #[test]
    fn a_restored_variation_has_the_very_units_it_had(
        (manual, life) in life(), who in 1usize..=2, grown in ask(),
    ) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        for (passed, command) in life.iter().filter(|(_, c)| !matches!(c, Command::Archive | Command::Conclude(_))) {
            wall += passed;
            let _ = apply(&mut experiment, command, at(wall));
        }
        let _ = experiment.resume(experiment.now(at(wall)));
        let now = |wall: i64, e: &Experiment| e.now(at(wall + 50));
        for target in [Target::Everything, Target::Variation(arm(1)), Target::Variation(arm(2))] {
            experiment.switch(target, false, now(wall, &experiment)).unwrap();
        }
        let other = arm(3 - who);
        let owned = |e: &Experiment| e.latest_allocation().stretches_of(arm(who)).collect::<Vec<_>>();
        let before = owned(&experiment);
        experiment.switch(Target::Variation(arm(who)), true, now(wall, &experiment)).unwrap();
        let room = experiment.latest_allocation().headroom(experiment.definition.policy().floor());
        let refused = experiment.grow(&[(arm(who), width(1))], Cause::Grown, at(0), at(0));
        prop_assert!(matches!(refused, Err(ChangeError::Killed(_))), "{refused:?}");
        experiment.grow(&[(other, grown.of(room)), (arm(who), Width::ZERO)], Cause::Grown, at(0), at(0)).unwrap();
        prop_assert_eq!(owned(&experiment), before.clone());
        let generation = experiment.generation().unwrap();
        for (first, last) in &before {
            prop_assert_eq!(generation.served(*first, Timestamp::MAX), Arm::CONTROL);
            prop_assert_eq!(generation.served(*last, Timestamp::MAX), Arm::CONTROL);
        }
        experiment.switch(Target::Variation(arm(who)), false, now(wall, &experiment)).unwrap();
        let generation = experiment.generation().unwrap();
        for (first, last) in &before {
            prop_assert_eq!(generation.served(*first, Timestamp::MAX), arm(who));
            prop_assert_eq!(generation.served(*last, Timestamp::MAX), arm(who));
        }
        prop_assert!(generation.was_ever_killed(arm(who)));
    }
}

fn running() -> Experiment {
    let mut experiment = Experiment::create(definition(2, false), at(0));
    experiment.start(at(10), salt("s1")).unwrap();
    experiment
}

#[test]
fn nobody_earns_growth_while_the_policy_does_not_tick() {
    let mut document = serde_json::to_value(definition(2, false)).unwrap();
    document["policy"] = serde_json::json!({"kind": "thompson"});
    document["metrics"] = serde_json::json!([{"key": "bought", "event": "buy", "decision": true}]);
    let mut experiment = Experiment::create(serde_json::from_value(document).unwrap(), at(0));
    assert!(!experiment.is_ticking());
    experiment.start(at(10), salt("s1")).unwrap();
    let reading = |e: &Experiment| (e.is_ticking(), e.last_growth_at.unwrap(), e.last_tick_at.unwrap());
    assert_eq!(reading(&experiment), (true, at(10), at(10)));
    experiment.ticked(at(20), false);
    assert_eq!(reading(&experiment), (true, at(10), at(20)), "what it could not use goes on accruing");
    experiment.ticked(at(30), true);
    assert_eq!(reading(&experiment), (true, at(30), at(30)));
    experiment.pause().unwrap();
    assert!(!experiment.is_ticking());
    experiment.resume(at(40)).unwrap();
    assert_eq!(reading(&experiment), (true, at(40), at(40)));
    experiment.switch(Target::Variation(arm(1)), true, at(50)).unwrap();
    assert!(experiment.is_ticking(), "the others may grow");
    experiment.switch(Target::Everything, true, at(60)).unwrap();
    assert!(!experiment.is_ticking());
    experiment.switch(Target::Everything, false, at(70)).unwrap();
    assert_eq!(reading(&experiment), (true, at(70), at(70)));
    experiment.conclude(arm(2), at(80)).unwrap();
    assert!(!experiment.is_ticking());
}

#[test]
fn every_command_is_allowed_in_its_states_only() {
    type Act = fn(&mut Experiment) -> Result<(), ChangeError>;
    let acts: [(&str, Act); 9] = [
        ("start", |e| e.start(at(50), salt("x"))),
        ("restart", |e| e.restart(at(50), salt("x"))),
        ("pause", |e| e.pause()),
        ("resume", |e| e.resume(at(50))),
        ("grow", |e| e.grow(&[(arm(1), width(1))], Cause::Grown, at(50), at(50)).map(|_| ())),
        ("kill", |e| e.switch(Target::Variation(arm(1)), true, at(50))),
        ("conclude", |e| e.conclude(arm(1), at(50))),
        ("archive", |e| e.archive()),
        ("update", |e| e.update(definition(3, false), at(50), at(60))),
    ];
    let draft = Experiment::create(definition(2, false), at(0));
    let running = running();
    let after = |e: &Experiment, act: Act| {
        let mut e = e.clone();
        act(&mut e).unwrap();
        e
    };
    let paused = after(&running, |e| e.pause());
    let concluded = after(&running, |e| e.conclude(arm(1), at(50)));
    let archived = after(&concluded, |e| e.archive());
    for (experiment, allowed) in [
        (draft, &["start", "kill", "archive", "update"][..]),
        (running, &["restart", "pause", "grow", "kill", "conclude", "update"]),
        (paused, &["restart", "resume", "grow", "kill", "conclude", "update"]),
        (concluded, &["restart", "kill", "archive", "update"]),
        (archived, &[]),
    ] {
        for (name, act) in acts {
            let mut changed = experiment.clone();
            let done = act(&mut changed);
            assert_eq!(done.is_ok(), allowed.contains(&name), "{name} in {}: {done:?}", experiment.status.name());
            if let Err(refused) = done {
                assert!(matches!(refused, ChangeError::WrongState { .. }), "{refused}");
                assert_eq!(changed, experiment);
            }
        }
    }
}

#[test]
fn an_arm_that_is_no_variation_is_refused_everywhere() {
    let mut experiment = running();
    let before = experiment.clone();
    let refusals = [
        experiment.grow(&[(arm(3), width(1))], Cause::Grown, at(20), at(20)).unwrap_err(),
        experiment.switch(Target::Variation(arm(3)), true, at(20)).unwrap_err(),
        experiment.conclude(arm(64), at(50)).unwrap_err(),
        experiment.arm("nobody").unwrap_err(),
    ];
    assert!(refusals.iter().all(|r| matches!(r, ChangeError::UnknownVariation(_))), "{refusals:?}");
    assert_eq!(
        experiment.switch(Target::Variation(Arm::CONTROL), true, at(20)),
        Err(ChangeError::ControlCannotBeKilled)
    );
    assert_eq!(experiment, before);
}

#[test]
fn a_kill_is_kept_through_a_restart_and_recorded_there() {
    let mut experiment = running();
    experiment.switch(Target::Variation(arm(2)), true, at(20)).unwrap();
    experiment.switch(Target::Everything, true, at(21)).unwrap();
    experiment.restart(at(30), salt("s2")).unwrap();
    let generation = experiment.generation().unwrap();
    assert_eq!((generation.number, generation.switches.len()), (2, 2));
    assert_eq!(generation.kills(at(29)), Kills::default());
    assert_eq!(generation.kills(at(30)), experiment.kills);
    assert!(generation.was_ever_killed(arm(1)) && generation.was_ever_killed(arm(2)));
    experiment.switch(Target::Everything, false, at(31)).unwrap();
    assert!(experiment.kills.arm(arm(2)) && !experiment.kills.arm(arm(1)));
    // Doing it twice is doing it once.
    let before = experiment.clone();
    experiment.switch(Target::Everything, false, at(40)).unwrap();
    assert_eq!(experiment, before);
}

#[test]
fn kills_of_all_sixty_four_variations_survive_json_in_either_form() {
    let all = (1..=64).fold(Kills::default(), |kills, i| kills.with(Target::Variation(arm(i)), true));
    assert!((1..=64).all(|i| all.arm(arm(i)) && all.served(arm(i)).is_control()));
    assert_eq!(serde_json::from_str::<Kills>(&serde_json::to_string(&all).unwrap()).unwrap(), all);
    assert_eq!(serde_json::from_value::<Kills>(serde_json::to_value(all).unwrap()).unwrap(), all);
    let one = all.with(Target::Variation(arm(64)), false);
    assert!(!one.arm(arm(64)) && one.arm(arm(63)));
    assert_eq!(Kills::default().with(Target::Variation(Arm::CONTROL), true), Kills::default());
    assert!(serde_json::from_str::<Kills>(r#"{"everything":false,"arms":[200]}"#).is_err());
    assert!(serde_json::from_str::<Status>(r#"{"state":"concluded","shipped":200}"#).is_err());
}

#[test]
fn what_the_line_rests_on_cannot_change_after_the_start() {
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
        let mut experiment = running();
        let refused = experiment.update(with(&edit), at(20), at(30));
        assert!(matches!(&refused, Err(ChangeError::Fixed { field: at, .. }) if *at == field), "{field}: {refused:?}");
        assert_eq!(experiment, running());
    }
    // The salt that was drawn may be declared afterwards, and what people read may change.
    for edit in [
        (|d| d["salt"] = "s1".into()) as fn(&mut serde_json::Value),
        |d| d["description"] = "new".into(),
        |d| d["variations"][1]["payload"] = true.into(),
        |d| d["variations"][1]["share"] = 0.01.into(),
    ] {
        let mut experiment = running();
        experiment.update(with(&edit), at(20), at(30)).unwrap();
        assert_eq!(experiment.definition, with(&edit));
        assert_eq!(experiment.generations, running().generations);
    }
}

#[test]
fn a_draft_may_be_reordered_and_its_kills_follow_the_names() {
    let mut experiment = Experiment::create(definition(2, false), at(0));
    experiment.switch(Target::Variation(arm(1)), true, at(1)).unwrap();
    let mut doc = serde_json::to_value(definition(3, false)).unwrap();
    doc["variations"].as_array_mut().unwrap().swap(1, 3);
    experiment.update(serde_json::from_value(doc).unwrap(), at(2), at(2)).unwrap();
    assert_eq!((1..=3).map(|i| experiment.kills.arm(arm(i))).collect::<Vec<_>>(), [false, false, true]);
    experiment.update(definition(2, false), at(3), at(3)).unwrap();
    assert!(experiment.kills.arm(arm(1)));
    let mut doc = serde_json::to_value(definition(2, false)).unwrap();
    doc["variations"].as_array_mut().unwrap().remove(1);
    experiment.update(serde_json::from_value(doc).unwrap(), at(4), at(4)).unwrap();
    assert_eq!(experiment.kills, Kills::default());
}

#[test]
fn a_manual_clock_goes_forward_only_and_declaring_it_again_leaves_it_where_it_is() {
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
    assert_eq!(running().advance_clock(at(1 << 60)), Err(ChangeError::WallClock));
}

#[test]
fn an_added_variation_takes_its_foothold_from_control_and_from_nobody_else() {
    let mut experiment = running();
    let before = experiment.latest_allocation();
    experiment.update(definition(4, false), at(20), at(30)).unwrap();
    let after = experiment.latest_allocation();
    assert!(before.may_become(&after));
    for i in 3..=4 {
        assert_eq!(after.width_of(arm(i)), experiment.definition.variation(arm(i)).unwrap().foothold);
        assert!(after.width_of(arm(i)) > Width::ZERO);
    }
    let latest = experiment.generation().unwrap().latest().unwrap();
    assert_eq!((latest.number, latest.cause, latest.effective_at), (2, Cause::Added, at(30)));
    // Where control has nothing left, nobody can be added, and nothing changes.
    let mut full = running();
    let room = full.latest_allocation().headroom(full.definition.policy().floor());
    full.grow(&[(arm(1), room)], Cause::Grown, at(20), at(20)).unwrap();
    let before = full.clone();
    assert!(matches!(full.update(definition(3, false), at(21), at(21)), Err(ChangeError::Allocation(_))));
    assert_eq!(full, before);
}

#[test]
fn a_revision_never_takes_effect_before_it_is_made_or_before_the_one_before_it() {
    let mut experiment = running();
    let mut grow = |now, effective| {
        experiment.grow(&[(arm(1), width(1))], Cause::Policy, at(now), at(effective)).unwrap();
        experiment.generation().unwrap().latest().unwrap().effective_at
    };
    assert_eq!([grow(20, 50), grow(21, 30), grow(60, 40), grow(55, 56)].map(Timestamp::as_micros), [50, 50, 60, 60]);
    let generation = experiment.generation().unwrap();
    let number = |t| generation.in_effect(at(t)).unwrap().number;
    assert_eq!([0, 10, 49, 50, 59, 60, 99].map(number), [1, 1, 1, 3, 3, 5, 5]);
}

#[test]
fn ticks_are_cut_from_the_epoch_and_never_overflow() {
    let experiment = running();
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
fn a_fresh_experiment_is_all_control() {
    let experiment = Experiment::create(definition(2, false), at(0));
    assert_eq!(*experiment.latest_allocation(), Allocation::all_control());
    assert_eq!((experiment.generation(), experiment.generation_numbered(0)), (None, None));
    assert_eq!(experiment.generation_numbered(1), None);
}
