//! Results as CSV: one line per run, one per policy, and one per policy and tick. JSON is serde's.

use std::io::Write;

use crate::SimulationError;
use crate::simulate::Simulation;

/// One line per replication and policy.
pub fn write_runs(simulation: &Simulation, to: impl Write) -> Result<(), SimulationError> {
    let mut csv = csv::Writer::from_writer(to);
    csv.write_record([
        "scenario",
        "policy",
        "replication",
        "regret",
        "forgone",
        "possible",
        "units",
        "revisions",
        "kills",
        "concluded_arm",
        "concluded_tick",
        "shipped_arm",
        "leader",
        "correct",
        "false_winner",
        "moved_between_variations",
        "moved_into_variations",
        "moved_back_to_control",
        "dropped",
        "srm_p_value",
        "srm_alarm",
    ])?;
    let optional = |number: Option<String>| number.unwrap_or_default();
    for run in &simulation.runs {
        csv.write_record([
            simulation.scenario.doc().name.clone(),
            run.policy.clone(),
            run.replication.to_string(),
            run.regret.to_string(),
            run.forgone.last().copied().unwrap_or_default().to_string(),
            run.possible.to_string(),
            run.units.to_string(),
            run.revisions.to_string(),
            run.kills.iter().map(|kill| format!("{}@{}", kill.arm, kill.tick)).collect::<Vec<_>>().join(" "),
            optional(run.concluded.map(|at| at.arm.to_string())),
            optional(run.concluded.map(|at| at.tick.to_string())),
            optional(run.shipped.map(|at| at.arm.to_string())),
            run.leader.to_string(),
            optional(run.correct.map(|correct| correct.to_string())),
            run.false_winner.to_string(),
            run.moves.between_variations.to_string(),
            run.moves.into_variations.to_string(),
            run.moves.back_to_control.to_string(),
            run.dropped.to_string(),
            run.sample_ratio.p_value.to_string(),
            run.sample_ratio.alarm.to_string(),
        ])?;
    }
    flushed(csv)
}

/// One line per policy, estimator and treated arm, with the policy's own numbers in each.
pub fn write_summaries(simulation: &Simulation, to: impl Write) -> Result<(), SimulationError> {
    let mut csv = csv::Writer::from_writer(to);
    csv.write_record([
        "scenario",
        "policy",
        "replications",
        "regret",
        "regret_se",
        "correct",
        "false_winner",
        "moved_between",
        "moved_into",
        "moved_back",
        "estimator",
        "arm",
        "truth",
        "lift",
        "bias",
        "rmse",
        "coverage",
        "width",
    ])?;
    for summary in &simulation.summaries {
        for estimator in &summary.estimators {
            for (i, arm) in estimator.arms.iter().enumerate() {
                let optional = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
                csv.write_record([
                    simulation.scenario.doc().name.clone(),
                    summary.policy.clone(),
                    summary.replications.to_string(),
                    summary.regret.mean.to_string(),
                    summary.regret.se.to_string(),
                    optional(summary.correct.map(|mean| mean.mean)),
                    summary.false_winner.mean.to_string(),
                    summary.moved_between.mean.to_string(),
                    summary.moved_into.mean.to_string(),
                    summary.moved_back.mean.to_string(),
                    estimator.estimator.clone(),
                    (i + 1).to_string(),
                    optional(arm.truth),
                    optional(arm.lift.map(|mean| mean.mean)),
                    optional(arm.bias.map(|mean| mean.mean)),
                    optional(arm.rmse),
                    optional(arm.coverage.map(|mean| mean.mean)),
                    optional(arm.width.map(|mean| mean.mean)),
                ])?;
            }
        }
    }
    flushed(csv)
}

/// One line per policy and tick: outcomes forgone so far, and mean shares.
pub fn write_course(simulation: &Simulation, to: impl Write) -> Result<(), SimulationError> {
    let mut csv = csv::Writer::from_writer(to);
    let arms = simulation.scenario.doc().arms.len();
    let fixed = ["scenario", "policy", "tick", "forgone_p10", "forgone_p50", "forgone_p90"].map(str::to_owned);
    csv.write_record(fixed.into_iter().chain((0..arms).map(|arm| format!("share_{arm}"))))?;
    for summary in &simulation.summaries {
        for (tick, (forgone, shares)) in summary.forgone.iter().zip(&summary.shares).enumerate() {
            let name = simulation.scenario.doc().name.clone();
            let numbers = [forgone.p10, forgone.p50, forgone.p90].into_iter().chain(shares.iter().copied());
            let fixed = [name, summary.policy.clone(), tick.to_string()];
            csv.write_record(fixed.into_iter().chain(numbers.map(|number| number.to_string())))?;
        }
    }
    flushed(csv)
}

fn flushed(mut csv: csv::Writer<impl Write>) -> Result<(), SimulationError> {
    csv.flush().map_err(csv::Error::from)?;
    Ok(())
}
