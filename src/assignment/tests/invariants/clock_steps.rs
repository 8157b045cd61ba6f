//! A wall clock that is set back. What a unit gets may not depend on it: a revision that took effect stays in effect (I2).

use std::time::Duration;

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Context, Experiment, KillTarget, ServedExperiment};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{RequestSize, arm, at, definition, request_size, requests, salt};

const LEAD: Duration = Duration::from_secs(2);

fn growths() -> impl Strategy<Value = Vec<(u64, Vec<(Index, RequestSize)>)>> {
    prop::collection::vec((0u64..100_000, prop::collection::vec((any::<Index>(), request_size()), 1..4)), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn units_keep_their_variation_when_the_clock_is_set_back(
        growths in growths(), back_seconds in 61u64..5_000_000, killed in any::<bool>(),
    ) {
        let mut wall = at(1_700_000_000_000_000);
        let mut experiment = Experiment::create(definition(3, false), wall);
        experiment.start(wall, salt("s")).unwrap();
        for (seconds, step) in &growths {
            wall = wall.plus(Duration::from_secs(*seconds));
            let policy_floor = experiment.definition.policy().floor();
            let requested = requests(step, 3, &experiment.latest_allocation(), policy_floor);
            experiment.grow(&requested, RevisionCause::Policy, wall, wall.plus(LEAD)).unwrap();
        }
        let published = ServedExperiment::from_experiment(&experiment, 1, wall).unwrap();
        wall = wall.plus(LEAD);
        if killed {
            experiment.set_killed(KillTarget::Variation(arm(1)), true, wall).unwrap();
        }
        let newest = experiment.generation().and_then(|g| g.latest()).unwrap().created_at;
        let back = newest.minus(Duration::from_secs(back_seconds));
        prop_assert!(experiment.now(back) >= newest, "the experiment's own time never goes back");
        let served = ServedExperiment::from_experiment(&experiment, 2, back).unwrap();
        let before = ServedExperiment::from_experiment(&experiment, 2, wall).unwrap();
        // A client that applied the revisions before the clock was set back forgets the past ones once they are reached.
        let client = published.without_past_revisions(wall).unwrap_or_else(|| published.clone());
        for unit in (0..64).map(|i| Context::new(format!("u{i}"))) {
            prop_assert_eq!(served.assign(&unit, back).arm, before.assign(&unit, wall).arm, "the server");
            if !killed {
                prop_assert_eq!(client.assign(&unit, back).arm, before.assign(&unit, wall).arm, "a client");
            }
        }
    }

    #[test]
    fn small_differences_between_the_clocks_of_machines_do_not_hasten_a_revision(
        step in prop::collection::vec((any::<Index>(), request_size()), 1..4), behind_micros in 0i64..60_000_000,
    ) {
        let wall = at(1_700_000_000_000_000);
        let mut experiment = Experiment::create(definition(3, false), wall);
        experiment.start(wall, salt("s")).unwrap();
        let requested = requests(&step, 3, &experiment.latest_allocation(), experiment.definition.policy().floor());
        let before = ServedExperiment::from_experiment(&experiment, 1, wall).unwrap();
        experiment.grow(&requested, RevisionCause::Policy, wall, wall.plus(LEAD)).unwrap();
        let other_machine = at(wall.as_micros() - behind_micros);
        let served = ServedExperiment::from_experiment(&experiment, 2, other_machine).unwrap();
        for unit in (0..32).map(|i| Context::new(format!("u{i}"))) {
            prop_assert_eq!(served.assign(&unit, other_machine).arm, before.assign(&unit, wall).arm);
        }
    }
}

#[test]
fn restart_after_the_clock_was_set_back_begins_at_the_true_time() {
    let future = at(1_700_000_000_000_000);
    let mut experiment = Experiment::create(definition(2, false), future);
    experiment.start(future, salt("s")).unwrap();
    experiment.set_killed(KillTarget::Variation(arm(1)), true, future).unwrap();
    experiment.record_tick(future, true);
    let back = future.minus(Duration::from_secs(30 * 86_400));
    experiment.restart(experiment.clock_reading(back), salt("t")).unwrap();
    assert_eq!(experiment.generation().unwrap().started_at, back);
    assert_eq!(experiment.now(back.plus(LEAD)), back.plus(LEAD), "the new run has its own history");
    assert_eq!(experiment.last_tick_at, Some(back));
    assert_eq!(
        experiment.generations[0].ended_at(),
        Some(back),
        "outcomes after the restart do not count for the old run"
    );
}

#[test]
fn tick_decided_by_a_wrong_clock_does_not_count_once_a_person_resumes() {
    let now = at(1_700_000_000_000_000);
    let mut experiment = Experiment::create(definition(2, false), now);
    experiment.start(now, salt("s")).unwrap();
    experiment.record_tick(now.plus(Duration::from_secs(30 * 86_400)), true);
    experiment.pause().unwrap();
    experiment.resume(now.plus(LEAD)).unwrap();
    assert_eq!(experiment.last_tick_at, Some(now.plus(LEAD)));
}
