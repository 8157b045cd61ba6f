//! The history of an experiment: any sequence of changes only adds to it, and no variation ever loses a point (I2, I8).

use inroad_assignment::experiment::{ChangeError, RevisionCause, ShippingScope};
use inroad_assignment::{
    Arm, Experiment, Generation, KillTarget, Point, Salt, ServedExperiment, Status, Timestamp, Width,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{
    RequestSize, arm, at, boundary_points, definition, naive_owner, request_size, requests, salt, width,
};

/// A change of an experiment.
#[derive(Debug, Clone)]
enum Command {
    Start,
    Restart,
    Pause,
    Resume,
    Grow(Vec<(Index, RequestSize)>, i64),
    SetKilled(Option<Index>, bool),
    Update(usize, i64),
    Conclude(Index),
    Archive,
    Advance(i64),
    /// A decision of the policy for a tick this much ahead: it is made before its tick begins.
    Tick(i64, bool),
}

fn command() -> impl Strategy<Value = Command> {
    let grow = (prop::collection::vec((any::<Index>(), request_size()), 1..4), -2i64..9)
        .prop_map(|(sizes, lead)| Command::Grow(sizes, lead));
    let set_killed = (prop::option::weighted(0.8, any::<Index>()), any::<bool>());
    prop_oneof![
        3 => Just(Command::Start),
        2 => Just(Command::Restart),
        1 => Just(Command::Pause),
        2 => Just(Command::Resume),
        12 => grow,
        6 => set_killed.prop_map(|(index, killed)| Command::SetKilled(index, killed)),
        2 => (0usize..3, -2i64..9).prop_map(|(more, lead)| Command::Update(more, lead)),
        1 => any::<Index>().prop_map(Command::Conclude),
        2 => (-2i64..6).prop_map(Command::Advance),
        2 => (0i64..6, any::<bool>()).prop_map(|(ahead, could_grow)| Command::Tick(ahead, could_grow)),
    ]
}

/// Whether the clock is manual, and a sequence of changes. Each has the time since the previous one in microseconds,
/// which can be negative, because the wall clock can go back.
fn change_sequence() -> impl Strategy<Value = (bool, Vec<(i64, Command)>)> {
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
            let requested = requests(step, arms, &experiment.latest_allocation(), floor);
            experiment.grow(&requested, RevisionCause::Grown, now, lead(*later)).map(|_| ())
        }
        Command::SetKilled(None, killed) => experiment.set_killed(KillTarget::Everything, *killed, now),
        Command::SetKilled(Some(index), killed) => {
            experiment.set_killed(KillTarget::Variation(arm(index.index(arms + 1))), *killed, now)
        }
        Command::Update(more, later) => {
            let manual = experiment.manual_now.is_some();
            experiment.update(definition(arms + more, manual), now, lead(*later))
        }
        Command::Conclude(index) => experiment.conclude(arm(index.index(arms + 1)), ShippingScope::Audience, now),
        Command::Archive => experiment.archive(),
        Command::Advance(by) => experiment.advance_clock(at(experiment.now(wall).as_micros() + by)),
        Command::Tick(ahead, could_grow) => {
            experiment.record_tick(lead(*ahead), *could_grow);
            Ok(())
        }
    }
}

/// Checks the properties of every generation.
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
        assert!(pair[0].allocation.can_grow_into(&pair[1].allocation));
        for point in boundary_points([&*pair[0].allocation, &*pair[1].allocation]) {
            let owner = naive_owner(&pair[0].allocation, point);
            assert!(owner.is_control() || owner == naive_owner(&pair[1].allocation, point));
        }
    }
    assert!(generation.kill_changes.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(generation.endings.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(generation.endings.iter().rev().skip(1).all(|ending| ending.shipped.is_some()));
}

/// Checks that nothing published was removed or changed.
fn check_history_is_kept(before: &Experiment, after: &Experiment) {
    assert!(after.generations.len() >= before.generations.len());
    for (old, new) in before.generations.iter().zip(&after.generations) {
        assert_eq!((old.number, &old.salt, old.started_at), (new.number, &new.salt, new.started_at));
        assert!(new.revisions.starts_with(&old.revisions));
        assert!(new.kill_changes.starts_with(&old.kill_changes));
        assert!(new.endings.starts_with(&old.endings));
    }
    // A tick that was decided before it began is not decided again after a change that a person makes meanwhile (I7).
    if after.generations.len() == before.generations.len() {
        assert!(after.last_tick_at >= before.last_tick_at && after.last_growth_at >= before.last_growth_at);
    }
    let keys = |e: &Experiment| e.definition.variations().iter().map(|v| v.key.clone()).collect::<Vec<_>>();
    assert!(keys(after).starts_with(&keys(before)));
}

/// The arm that is served at a point, by a linear search through the history; `None` after another generation started.
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
    let (mut everything_killed, mut owner_killed) = (false, false);
    for change in generation.kill_changes.iter().filter(|c| c.at.as_micros() <= instant) {
        match change.target {
            KillTarget::Everything => everything_killed = change.killed,
            KillTarget::Variation(killed) if killed == owner => owner_killed = change.killed,
            KillTarget::Variation(_) => {}
        }
    }
    Some(if everything_killed || owner_killed { Arm::CONTROL } else { owner })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_sequence_of_changes_only_adds_to_the_history((manual, changes) in change_sequence()) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        let mut served = ServedExperiment::from_experiment(&experiment, 0, at(wall)).unwrap();
        for (version, (passed, command)) in changes.iter().enumerate() {
            wall += passed;
            let before = experiment.clone();
            let done = apply(&mut experiment, command, at(wall));
            if done.is_err() {
                prop_assert_eq!(&experiment, &before, "a rejected change had an effect: {:?}", done);
            }
            check_history_is_kept(&before, &experiment);
            for (i, generation) in experiment.generations.iter().enumerate() {
                prop_assert_eq!(generation.number as usize, i + 1);
                check_generation(generation);
            }
            if let (Command::SetKilled(..) | Command::Pause | Command::Resume | Command::Conclude(_), Ok(())) = (command, &done) {
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
            // A client can replace what it serves, also after it missed any number of changes.
            let newer = ServedExperiment::from_experiment(&experiment, version as u64 + 1, at(wall)).unwrap();
            prop_assert_eq!(newer.check_can_replace(&served), Ok(()));
            prop_assert_eq!(newer.check_can_replace(&newer), Ok(()));
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
    fn serves_throughout_agrees_with_a_check_at_every_instant(
        (manual, changes) in change_sequence(), pick in any::<Index>(), from in 985i64..1_080, length in 0i64..40, at_most in 1i64..30,
    ) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        for (passed, command) in &changes {
            wall += passed;
            let _ = apply(&mut experiment, command, at(wall));
        }
        for generation in &experiment.generations {
            let points = boundary_points(generation.revisions.iter().map(|r| &*r.allocation));
            let point = points[pick.index(points.len())];
            for i in 0..experiment.definition.variations().len() {
                let is_served = |t| naive_served(generation, point, t) == Some(arm(i));
                let end = generation.ended_at().map_or(i64::MAX, Timestamp::as_micros);
                let expected = end > from && (from..(from + length.max(1)).min(end)).all(is_served);
                let actual = generation.serves_throughout(Point::new(point), arm(i), at(from), at(from + length));
                prop_assert_eq!(actual, expected, "arm {} at {:016x}", i, point);
                let otherwise = (from..(from + length).min(end)).filter(|t| !is_served(*t)).count() as i64;
                let (period, limit) = ((at(from), at(from + length)), at(at_most).since(at(0)));
                let except = generation.serves_except(Point::new(point), arm(i), period, limit);
                prop_assert_eq!(except, end > from && otherwise <= at_most, "except for at most {}", at_most);
            }
            for instant in from..from + length {
                let served = generation.served_arm(Point::new(point), at(instant));
                prop_assert!(naive_served(generation, point, instant).is_none_or(|naive| naive == served));
            }
        }
    }

    #[test]
    fn restored_variation_gets_the_same_units_back(
        (manual, changes) in change_sequence(), index in 1usize..=2, size in request_size(),
    ) {
        let mut wall = 1_000;
        let mut experiment = Experiment::create(definition(2, manual), at(wall));
        for (passed, command) in changes.iter().filter(|(_, c)| !matches!(c, Command::Archive | Command::Conclude(_))) {
            wall += passed;
            let _ = apply(&mut experiment, command, at(wall));
        }
        let _ = experiment.resume(experiment.now(at(wall)));
        let now = |wall: i64, e: &Experiment| e.now(at(wall + 50));
        for target in [KillTarget::Everything, KillTarget::Variation(arm(1)), KillTarget::Variation(arm(2))] {
            experiment.set_killed(target, false, now(wall, &experiment)).unwrap();
        }
        let other = arm(3 - index);
        let owned = |e: &Experiment| e.latest_allocation().ranges_of(arm(index)).collect::<Vec<_>>();
        let before = owned(&experiment);
        experiment.set_killed(KillTarget::Variation(arm(index)), true, now(wall, &experiment)).unwrap();
        let available = experiment.latest_allocation().headroom(experiment.definition.policy().floor());
        let rejected = experiment.grow(&[(arm(index), width(1))], RevisionCause::Grown, at(0), at(0));
        prop_assert!(matches!(rejected, Err(ChangeError::VariationKilled(_))), "{rejected:?}");
        experiment.grow(&[(other, size.width(available)), (arm(index), Width::ZERO)], RevisionCause::Grown, at(0), at(0)).unwrap();
        prop_assert_eq!(owned(&experiment), before.clone());
        let generation = experiment.generation().unwrap();
        for (first, last) in &before {
            prop_assert_eq!(generation.served_arm(*first, Timestamp::MAX), Arm::CONTROL);
            prop_assert_eq!(generation.served_arm(*last, Timestamp::MAX), Arm::CONTROL);
        }
        experiment.set_killed(KillTarget::Variation(arm(index)), false, now(wall, &experiment)).unwrap();
        let generation = experiment.generation().unwrap();
        for (first, last) in &before {
            prop_assert_eq!(generation.served_arm(*first, Timestamp::MAX), arm(index));
            prop_assert_eq!(generation.served_arm(*last, Timestamp::MAX), arm(index));
        }
        prop_assert!(generation.was_ever_killed(arm(index)));
    }
}
