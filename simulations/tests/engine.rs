//! Tests of whole simulations: results do not depend on threads, growth moves no unit between variations, regret equals
//! its closed form, and lost exposures raise the alarm.

#![allow(clippy::expect_used, reason = "a test reports by panicking")]

use inroad_simulations::{
    Options, PolicyDoc, PolicyKind, RunResult, Scenario, ScenarioDoc, ShipRule, Simulation, Summary, builtin, export,
    simulate,
};

/// A built-in scenario with a fraction of its traffic.
fn reduced(name: &str, replications: u32, traffic: f64) -> Scenario {
    let doc = ScenarioDoc::from(builtin::scenario(name).expect(name));
    let per_day = doc.per_day * traffic;
    Scenario::try_from(ScenarioDoc { replications, per_day, ..doc }).expect(name)
}

fn run(scenario: &Scenario) -> Simulation {
    simulate(scenario, Options::default()).expect("a simulation")
}

fn summary_of<'a>(simulation: &'a Simulation, policy: &str) -> &'a Summary {
    simulation.summaries.iter().find(|summary| summary.policy == policy).expect("a summary")
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in ["s2", "stale"] {
        let scenario = reduced(name, 5, 0.2);
        let run_on = |threads| {
            let simulation = simulate(&scenario, Options { threads: Some(threads), ..Options::default() });
            serde_json::to_string(&simulation.expect("a simulation")).expect("JSON")
        };
        assert_eq!(run_on(1), run_on(2));
        let other = Scenario::try_from(ScenarioDoc { seed: 2, ..scenario.doc().clone() }).expect("another seed");
        assert_ne!(run_on(1), serde_json::to_string(&run(&other)).expect("JSON"));
    }
}

#[test]
fn growth_moves_no_unit_between_variations_in_any_scenario() {
    let mut grown = 0;
    for name in builtin::names() {
        let simulation = run(&reduced(name, 2, 0.3));
        let runs = |policy: &str| simulation.runs.iter().filter(move |run| run.policy == policy).collect::<Vec<_>>();
        for run in runs("growth") {
            assert_eq!((run.moves.between_variations, run.moves.followed_between), (0, 0), "{name}");
            variations_never_shrink(run, name);
            grown += run.revisions;
        }
        // Unconstrained Thompson sampling shows that the count can be above 0.
        assert!(runs("unconstrained").iter().all(|run| run.moves.between_variations > 0) || name == "s1", "{name}");
        assert!(runs("equal").iter().all(|run| run.moves.followed_any == 0), "{name}");
    }
    assert!(grown > 100, "{grown}");
}

fn variations_never_shrink(run: &RunResult, name: &str) {
    for (tick, pair) in run.shares.windows(2).enumerate() {
        assert!(pair[1][0] >= 0.05 - 1e-12, "{name}: control is below its floor");
        for (arm, (before, after)) in pair[0].iter().zip(&pair[1]).enumerate().skip(1) {
            let killed = run.kills.iter().any(|kill| kill.arm == arm && kill.tick as usize <= tick + 1);
            assert!(after >= before || (killed && *after == 0.0), "{name}, tick {tick}, arm {arm}");
        }
    }
}

#[test]
fn followed_units_move_as_often_as_all_units() {
    let simulation = run(&reduced("s4", 4, 1.0));
    for run in simulation.runs.iter().filter(|run| run.policy == "growth") {
        let fraction = |count: u64, total: u64| count as f64 / total as f64;
        let (moves, units) = (run.moves, run.units);
        // Under growth a unit moves into a variation at most once and back at most once, so moves equal moved units.
        let (all, followed) = (fraction(moves.into_variations, units), fraction(moves.followed_into, moves.followed));
        assert!((all - followed).abs() < 0.02, "into: {all} of all, {followed} of the sample");
        let (all, followed) = (fraction(moves.back_to_control, units), fraction(moves.followed_back, moves.followed));
        assert!(moves.back_to_control > 0 && (all - followed).abs() < 0.02, "back: {all}, {followed}");
    }
}

#[test]
fn regret_of_an_equal_split_equals_its_closed_form() {
    // With constant lifts, cycles and arrivals cancel: regret is (best − mean)/best.
    for (name, expected) in [("s1", 0.05 / 1.10), ("s3", 0.32 / 1.30), ("s4", 0.13), ("s8", 0.08 / 1.08)] {
        let simulation = run(&reduced(name, 2, 0.05));
        let regret = summary_of(&simulation, "equal").regret;
        assert!((regret.mean - expected).abs() < 1e-12 && regret.se < 1e-12, "{name}: {regret:?}");
    }
}

#[test]
fn growth_has_less_regret_than_an_equal_split_and_finds_the_best_arm() {
    let simulation = run(&reduced("s8", 12, 1.0));
    let (growth, equal) = (summary_of(&simulation, "growth"), summary_of(&simulation, "equal"));
    assert!(growth.regret.mean + 4.0 * growth.regret.se < equal.regret.mean);
    assert!(growth.correct.expect("a best arm").mean > 0.9);
    let e3 = growth.estimators.iter().find(|estimator| estimator.estimator == "e3").expect("e3");
    assert!(e3.coverage.expect("truths").mean > 0.75 && e3.bias.expect("truths").mean.abs() < 0.03, "{e3:?}");
}

#[test]
fn shipped_arm_serves_all_units_from_then_on() {
    for (rule, world, traffic) in [(ShipRule::ClearlyBest, "s1", 2.0), (ShipRule::Prompted, "s3", 1.0)] {
        let ship = PolicyDoc { name: "ship".to_owned(), ship: rule, ..PolicyDoc::with_defaults(PolicyKind::Equal) };
        let scenario = reduced(world, 4, traffic).with_policies(vec![ship]).expect("policies");
        let week = 7 * scenario.doc().ticks_per_day;
        let simulation = run(&scenario);
        assert!(simulation.runs.iter().any(|run| run.shipped.is_some_and(|at| at.arm == 1)), "{rule:?}");
        for (run, shipped) in simulation.runs.iter().filter_map(|run| Some((run, run.shipped?))) {
            let first = if rule == ShipRule::Prompted { run.prompted } else { run.concluded };
            assert_eq!(first, Some(shipped), "{rule:?}");
            assert!(rule == ShipRule::ClearlyBest || shipped.tick >= week, "{shipped:?}");
            for (tick, shares) in run.shares.iter().enumerate() {
                let serves_all = shares[shipped.arm] == 1.0;
                assert_eq!(serves_all, tick >= shipped.tick as usize);
            }
        }
    }
}

#[test]
fn only_lost_exposures_raise_the_sample_ratio_alarm() {
    let with_loss = summary_of(&run(&reduced("srm", 8, 1.0)), "equal").clone();
    assert!(with_loss.srm_chi_squared.mean > 0.5 && with_loss.srm_alarm.mean > 0.2, "{with_loss:?}");
    let doc = ScenarioDoc { loss: None, ..ScenarioDoc::from(reduced("srm", 8, 1.0)) };
    let without_loss = run(&Scenario::try_from(doc).expect("no loss"));
    for summary in &without_loss.summaries {
        assert!(summary.srm_chi_squared.mean < 0.3 && summary.srm_alarm.mean < 0.2, "{}", summary.policy);
    }
}

#[test]
fn every_row_of_the_tables_has_every_column() {
    let simulation = run(&reduced("s1", 2, 0.1));
    let estimators = simulation.summaries[0].estimators.len();
    let simulations = [simulation];
    let tables = [export::runs(&simulations), export::summaries(&simulations), export::course(&simulations)];
    // 2 × 3 runs; 3 policies × the estimators × 1 arm; 3 policies × 112 ticks × 2 arms.
    for (table, rows) in tables.iter().zip([6, 3 * estimators, 3 * 112 * 2]) {
        let mut text = Vec::new();
        table.write_csv(&mut text).expect("CSV");
        let text = String::from_utf8(text).expect("UTF-8");
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.len() == rows + 1 && columns.iter().all(|count| *count == columns[0]), "{text}");
        assert_eq!(table.len(), rows);
    }
}

#[test]
fn progress_is_reported_after_each_replication() {
    let calls = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| calls.lock().expect("no panic").push((done, total));
    simulate(&reduced("s1", 6, 0.05), Options { threads: Some(2), progress: Some(&progress), ..Options::default() })
        .expect("a simulation");
    let mut calls = calls.into_inner().expect("no panic");
    calls.sort_unstable();
    assert_eq!(calls, (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
}
