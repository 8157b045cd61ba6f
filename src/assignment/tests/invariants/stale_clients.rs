//! Clients with old boundaries (I4), and updates that a client must reject (I2).

use std::sync::Arc;

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::served::{ServedError, ServedParts};
use inroad_assignment::{
    Allocation, Arm, Bucket, Context, Experiment, ExperimentKey, Point, ServedExperiment, Status, Timestamp,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{RequestSize, arm, at, definition, request_size, requests, salt};

/// The expected error of an invalid successor, and the edit that makes it invalid.
type InvalidEdit<'e> = (&'static str, &'e dyn Fn(&mut ServedParts));

/// A change of an experiment.
#[derive(Debug, Clone)]
enum Change {
    Grow(Vec<(Index, RequestSize)>),
    Add,
    Pause,
    Resume,
}

/// Changes, each with the time since the previous one and the lead time, both in microseconds.
fn changes() -> impl Strategy<Value = Vec<(i64, i64, Change)>> {
    let grow = prop::collection::vec((any::<Index>(), request_size()), 1..4).prop_map(Change::Grow);
    let any_change =
        prop_oneof![8 => grow, 1 => Just(Change::Add), 1 => Just(Change::Pause), 1 => Just(Change::Resume)];
    prop::collection::vec((0i64..10, 0i64..10, any_change), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stale_client_answers_the_same_or_control(
        changes in changes(), manual in any::<bool>(), salt_text in "[a-z]{1,8}",
    ) {
        let mut wall = 100;
        let mut experiment = Experiment::create(definition(3, manual), at(wall));
        experiment.start(at(wall), salt(&salt_text)).unwrap();
        let mut published = vec![ServedExperiment::from_experiment(&experiment, 0, at(wall)).unwrap()];
        for (version, (passed, lead, change)) in changes.iter().enumerate() {
            wall += passed;
            if manual && *passed > 0 {
                experiment.advance_clock(at(wall)).unwrap();
            }
            let now = experiment.now(at(wall));
            let effective = at(now.as_micros() + lead);
            let arms = experiment.definition.variations().len() - 1;
            match change {
                Change::Grow(step) => {
                    let requested = requests(step, arms, &experiment.latest_allocation(), experiment.definition.policy().floor());
                    experiment.grow(&requested, RevisionCause::Policy, now, effective).unwrap();
                }
                Change::Add => { let _ = experiment.update(definition(arms + 1, manual), now, effective); }
                Change::Pause => { let _ = experiment.pause(); }
                Change::Resume => { let _ = experiment.resume(now); }
            }
            published.push(ServedExperiment::from_experiment(&experiment, version as u64 + 1, at(wall)).unwrap());
        }
        let last = |s: &ServedExperiment| s.parts().revisions.last().unwrap().number;
        let newest = published.last().unwrap();
        let units: Vec<Context> = (0..24).map(|i| Context::new(format!("u{i}"))).collect();
        // Clients with any clock and any published version never serve two different variations to one unit.
        for unit in units.iter().take(8) {
            let served = published.iter().enumerate().map(|(i, p)| p.assign(unit, at(wall + 13 * (i as i64 % 5) - 26)).arm);
            let variations: std::collections::BTreeSet<Arm> = served.filter(|arm| !arm.is_control()).collect();
            prop_assert!(variations.len() <= 1, "{:?} to {:?}", variations, unit);
        }
        for stale in &published {
            prop_assert_eq!(newest.check_can_replace(stale), Ok(()));
            for now in [wall, wall + 4, wall + 20].map(at) {
                // With a manual clock, each client uses the reading that it received.
                let time = experiment.now(now);
                let missed = newest.parts().revisions.iter().filter(|r| r.number > last(stale));
                let may_differ = manual || missed.clone().any(|r| r.effective_at <= time) || last(newest) == last(stale);
                for unit in &units {
                    let (old, new) = (stale.assign(unit, now), newest.assign(unit, now));
                    prop_assert!(old.arm == new.arm || old.arm.is_control(), "{:?} then {:?}", old, new);
                    prop_assert_eq!(old.digest, new.digest);
                    prop_assert!(old.revision <= new.revision);
                    if !may_differ || last(newest) == last(stale) && !manual {
                        prop_assert_eq!(old.arm, new.arm, "clients with the revision in effect agree");
                        prop_assert_eq!(old.revision, new.revision);
                    }
                }
            }
        }
    }

    #[test]
    fn invalid_successor_is_rejected(
        steps in prop::collection::vec(prop::collection::vec((any::<Index>(), request_size()), 1..3), 1..5), pick in any::<Index>(),
    ) {
        let mut experiment = Experiment::create(definition(3, false), at(0));
        experiment.start(at(10), salt("s1")).unwrap();
        experiment.restart(at(11), salt("s2")).unwrap();
        let grow = |experiment: &mut Experiment, step: &[(Index, RequestSize)], now: i64| {
            let requested = requests(step, 3, &experiment.latest_allocation(), experiment.definition.policy().floor());
            experiment.grow(&requested, RevisionCause::Grown, at(now), at(now + 15)).unwrap();
        };
        for (i, step) in steps.iter().enumerate() {
            grow(&mut experiment, step, 20 + 10 * i as i64);
        }
        let now = 10 + 10 * steps.len() as i64;
        let old = ServedExperiment::from_experiment(&experiment, 7, at(now)).unwrap();
        grow(&mut experiment, &steps[0], now + 10);
        let new = ServedExperiment::from_experiment(&experiment, 8, at(now + 10)).unwrap();
        prop_assert_eq!(new.check_can_replace(&old), Ok(()));
        prop_assert!(matches!(old.check_can_replace(&new), Err(ServedError::Outdated(_))));

        let edited = |edit: &dyn Fn(&mut ServedParts)| {
            let mut parts = new.parts().clone();
            edit(&mut parts);
            ServedExperiment::new(parts).and_then(|new| new.check_can_replace(&old))
        };
        prop_assert_eq!(edited(&|_| {}), Ok(()));
        // The points of a variation go to another variation or to control, in the newest revision or in all.
        let owned: Vec<(Point, Point)> = (1..=3).flat_map(|i| old.parts().revisions[0].allocation.ranges_of(arm(i)).collect::<Vec<_>>()).collect();
        let (first, _) = owned[pick.index(owned.len())];
        let owner = old.parts().revisions[0].allocation.owner(first);
        for new_owner in (0..=3).map(arm).filter(|new_owner| *new_owner != owner) {
            let with_new_owner = |allocation: &Allocation| {
                let buckets = allocation.buckets().map(|b| {
                    let is_affected = allocation.owner(b.start) == owner;
                    Bucket { start: b.start, owner: if is_affected { new_owner } else { b.owner } }
                });
                Arc::new(Allocation::new(buckets.collect::<Vec<_>>()).unwrap())
            };
            let newest = edited(&|p| {
                let last = p.revisions.last_mut().unwrap();
                last.allocation = with_new_owner(&last.allocation);
            });
            prop_assert!(matches!(newest, Err(ServedError::NotMonotone { .. })), "{:?}", newest);
            let all = edited(&|p| p.revisions.iter_mut().for_each(|r| r.allocation = with_new_owner(&r.allocation)));
            prop_assert!(matches!(all, Err(ServedError::NotMonotone { .. })), "{:?}", all);
        }
        let other_key = ExperimentKey::parse("f").unwrap();
        let edits: [InvalidEdit; 18] = [
            ("Outdated", &|p| p.generation = 1),
            ("Outdated", &|p| p.version = 6),
            ("Outdated", &|p| { p.revisions.pop(); while p.revisions.len() > 1 { p.revisions.pop(); } p.revisions[0].number = 1; }),
            ("Outdated", &|p| { p.revisions.clear(); p.salt = None; p.generation = 0; }),
            ("ChangedWithinGeneration", &|p| p.salt = Some(salt("s3"))),
            ("ChangedWithinGeneration", &|p| p.key = other_key.clone()),
            ("ChangedWithinGeneration", &|p| p.unit = "account".into()),
            ("ChangedWithinGeneration", &|p| p.variations.swap(1, 2)),
            ("ChangedWithinGeneration", &|p| p.variations.swap(0, 3)),
            ("Inconsistent", &|p| p.variations.truncate(3)),
            ("Inconsistent", &|p| p.variations.clear()),
            ("Inconsistent", &|p| p.salt = None),
            ("Inconsistent", &|p| p.revisions.clear()),
            ("Inconsistent", &|p| p.generation = 0),
            ("Inconsistent", &|p| p.status = Status::Concluded { shipped: arm(4) }),
            ("NotMonotone", &|p| p.revisions.iter_mut().for_each(|r| r.effective_at = Timestamp::MIN)),
            ("NotMonotone", &|p| p.revisions.last_mut().unwrap().effective_at = Timestamp::MIN),
            // A revision that both contain, with another time of effect.
            ("NotMonotone", &|p| p.revisions.iter_mut().rev().nth(1).unwrap().effective_at = at(now + 16)),
        ];
        for (expected, edit) in edits {
            let error = format!("{:?}", edited(edit).unwrap_err());
            // Without a variation that owns no points, the parts are consistent, but the predecessor has that
            // variation.
            let no_points = expected == "Inconsistent" && error.starts_with("ChangedWithinGeneration");
            prop_assert!(error.starts_with(expected) || no_points, "expected {}, got {}", expected, error);
        }
        let swapped = edited(&|p| p.revisions.reverse());
        prop_assert!(swapped.is_err() || new.parts().revisions.len() == 1);
        // A new generation only has to be newer than the old one.
        prop_assert_eq!(edited(&|p| { p.generation = 3; p.salt = Some(salt("s9")); p.revisions.truncate(1); }), Ok(()));
    }
}
