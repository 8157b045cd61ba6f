//! What the simulator promises: the same numbers on any number of threads, no unit moved between variations by growth,
//! regret as the closed form has it, and faults that are found.

#![allow(clippy::expect_used, reason = "a test tells what it found by panicking")]

use inroad_simulations::{
    Options, PolicyDoc, PolicyKind, RunResult, Scenario, ScenarioDoc, ShipRule, Simulation, Summary, builtin, export,
    simulate,
};

/// A scenario that comes with the crate, with a part of its traffic.
fn small(name: &str, replications: u32, traffic: f64) -> Scenario {
    let doc = ScenarioDoc::from(builtin::scenario(name).expect(name));
    let per_day = doc.per_day * traffic;
    Scenario::try_from(ScenarioDoc { replications, per_day, ..doc }).expect(name)
}

fn run(scenario: &Scenario) -> Simulation {
    simulate(scenario, Options::default()).expect("a simulation")
}

fn of<'a>(simulation: &'a Simulation, policy: &str) -> &'a Summary {
    simulation.summaries.iter().find(|summary| summary.policy == policy).expect("a summary")
}

#[test]
fn one_thread_and_two_give_the_same_digits() {
    for name in ["s2", "stale"] {
        let scenario = small(name, 5, 0.2);
        let on = |threads| {
            let simulation = simulate(&scenario, Options { threads: Some(threads), progress: None });
            serde_json::to_string(&simulation.expect("a simulation")).expect("JSON")
        };
        assert_eq!(on(1), on(2));
        let other = Scenario::try_from(ScenarioDoc { seed: 2, ..scenario.doc().clone() }).expect("another seed");
        assert_ne!(on(1), serde_json::to_string(&run(&other)).expect("JSON"));
    }
}

#[test]
fn growth_moves_no_unit_between_variations_in_any_scenario() {
    let mut grown = 0;
    for name in builtin::names() {
        let simulation = run(&small(name, 2, 0.3));
        let runs = |policy: &str| simulation.runs.iter().filter(move |run| run.policy == policy).collect::<Vec<_>>();
        for run in runs("growth") {
            assert_eq!((run.moves.between_variations, run.moves.followed_between), (0, 0), "{name}");
            variations_never_shrink(run, name);
            grown += run.revisions;
        }
        // That the count can be other than 0 is shown by the policy that moves people.
        assert!(runs("thompson").iter().all(|run| run.moves.between_variations > 0) || name == "s1", "{name}");
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
fn whoever_is_followed_moves_as_all_do() {
    let simulation = run(&small("s4", 4, 1.0));
    for run in simulation.runs.iter().filter(|run| run.policy == "growth") {
        let part = |count: u64, of: u64| count as f64 / of as f64;
        let (moves, units) = (run.moves, run.units);
        // Under growth a unit goes into a variation once and back once, so that all can be told from the sample.
        let (all, followed) = (part(moves.into_variations, units), part(moves.followed_into, moves.followed));
        assert!((all - followed).abs() < 0.02, "into: {all} of all, {followed} of the sample");
        let (all, followed) = (part(moves.back_to_control, units), part(moves.followed_back, moves.followed));
        assert!(moves.back_to_control > 0 && (all - followed).abs() < 0.02, "back: {all}, {followed}");
    }
}

#[test]
fn an_equal_split_costs_what_the_closed_form_says() {
    // With lifts that do not change, cycles and arrivals cancel: (best − mean)/best.
    for (name, expected) in [("s1", 0.05 / 1.10), ("s3", 0.32 / 1.30), ("s4", 0.13), ("s8", 0.08 / 1.08)] {
        let simulation = run(&small(name, 2, 0.05));
        let regret = of(&simulation, "equal").regret;
        assert!((regret.mean - expected).abs() < 1e-12 && regret.se < 1e-12, "{name}: {regret:?}");
    }
}

#[test]
fn growth_costs_less_than_an_equal_split_and_finds_the_winner() {
    let simulation = run(&small("s8", 12, 1.0));
    let (growth, equal) = (of(&simulation, "growth"), of(&simulation, "equal"));
    assert!(growth.regret.mean + 4.0 * growth.regret.se < equal.regret.mean);
    assert!(growth.correct.expect("a best arm").mean > 0.9);
    let e3 = growth.estimators.iter().find(|estimator| estimator.estimator == "e3").expect("e3");
    assert!(e3.coverage.expect("truths").mean > 0.75 && e3.bias.expect("truths").mean.abs() < 0.03, "{e3:?}");
}

#[test]
fn a_shipped_arm_gets_everything_from_then_on() {
    for (rule, part) in [(ShipRule::ClearlyBest, 0.5), (ShipRule::Prompted, 1.0)] {
        let ship = PolicyDoc { name: "ship".to_owned(), ship: rule, ..PolicyDoc::plain(PolicyKind::Equal) };
        let scenario = small("s3", 4, part).with_policies(vec![ship]).expect("policies");
        let week = 7 * scenario.doc().ticks_per_day;
        let simulation = run(&scenario);
        assert!(simulation.runs.iter().any(|run| run.shipped.is_some_and(|at| at.arm == 1)), "{rule:?}");
        for (run, shipped) in simulation.runs.iter().filter_map(|run| Some((run, run.shipped?))) {
            let concluded = run.concluded.expect("clearly best before it is shipped");
            match rule {
                ShipRule::Prompted => assert!(shipped.tick >= concluded.tick.max(week), "{shipped:?} {concluded:?}"),
                _ => assert_eq!(concluded, shipped),
            }
            for (tick, shares) in run.shares.iter().enumerate() {
                let all = shares[shipped.arm] == 1.0;
                assert_eq!(all, tick >= shipped.tick as usize);
            }
        }
    }
}

#[test]
fn lost_exposures_raise_the_alarm_and_nothing_else_does() {
    let lossy = of(&run(&small("srm", 8, 1.0)), "equal").clone();
    assert!(lossy.srm_chi_squared.mean > 0.5 && lossy.srm_alarm.mean > 0.2, "{lossy:?}");
    let doc = ScenarioDoc { loss: None, ..ScenarioDoc::from(small("srm", 8, 1.0)) };
    let whole = run(&Scenario::try_from(doc).expect("no loss"));
    for summary in &whole.summaries {
        assert!(summary.srm_chi_squared.mean < 0.3 && summary.srm_alarm.mean < 0.2, "{}", summary.policy);
    }
}

#[test]
fn every_line_of_the_tables_has_every_column() {
    let simulation = run(&small("s1", 2, 0.1));
    let estimators = simulation.summaries[0].estimators.len();
    let simulations = [simulation];
    let tables = [export::runs(&simulations), export::summaries(&simulations), export::course(&simulations)];
    // 2 × 3 runs; 3 policies × the estimators × 1 arm; 3 policies × 112 ticks × 2 arms.
    for (table, lines) in tables.iter().zip([6, 3 * estimators, 3 * 112 * 2]) {
        let mut text = Vec::new();
        table.write_csv(&mut text).expect("CSV");
        let text = String::from_utf8(text).expect("UTF-8");
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.len() == lines + 1 && columns.iter().all(|count| *count == columns[0]), "{text}");
        assert_eq!(table.len(), lines);
    }
}

#[test]
fn progress_is_told_after_each_replication() {
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| told.lock().expect("no panic").push((done, total));
    simulate(&small("s1", 6, 0.05), Options { threads: Some(2), progress: Some(&progress) }).expect("a simulation");
    let mut told = told.into_inner().expect("no panic");
    told.sort_unstable();
    assert_eq!(told, (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
}
