//! Results as tables for CSV and Parquet files: one row per run, one per policy, estimator and variation, and one per
//! policy, tick and arm. A table contains any number of simulations. Columns are typed, so that all formats have the
//! same content. JSON is written by serde, without these tables.

mod format;

use crate::results::{ArmAt, RunResult};
use crate::simulate::Simulation;
use crate::summary::{ArmEstimates, EstimatorSummary, Mean, Quantiles, Summary};

/// The cells of one column, one per row.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Text.
    Text(Vec<String>),
    /// Integers; a cell may be empty.
    Count(Vec<Option<i64>>),
    /// Floating-point numbers; a cell may be empty.
    Number(Vec<Option<f64>>),
    /// True or false; a cell may be empty.
    Flag(Vec<Option<bool>>),
}

/// Named columns of equal length.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Vec<(&'static str, Column)>,
}

/// Builds a table column by column: every column computes one cell from each row.
struct TableBuilder<R> {
    rows: Vec<R>,
    columns: Vec<(&'static str, Column)>,
}

impl<R> TableBuilder<R> {
    fn new(rows: impl Iterator<Item = R>) -> Self {
        Self { rows: rows.collect(), columns: Vec::new() }
    }

    fn column(mut self, name: &'static str, column: Column) -> Self {
        self.columns.push((name, column));
        self
    }

    fn text(self, name: &'static str, cell: impl Fn(&R) -> String) -> Self {
        let cells = self.rows.iter().map(cell).collect();
        self.column(name, Column::Text(cells))
    }

    fn count<N: TryInto<i64>>(self, name: &'static str, cell: impl Fn(&R) -> Option<N>) -> Self {
        // All counts here are far below the largest i64.
        let cells = self.rows.iter().map(|row| cell(row).and_then(|count| count.try_into().ok())).collect();
        self.column(name, Column::Count(cells))
    }

    fn number(self, name: &'static str, cell: impl Fn(&R) -> Option<f64>) -> Self {
        let cells = self.rows.iter().map(cell).collect();
        self.column(name, Column::Number(cells))
    }

    fn flag(self, name: &'static str, cell: impl Fn(&R) -> Option<bool>) -> Self {
        let cells = self.rows.iter().map(cell).collect();
        self.column(name, Column::Flag(cells))
    }

    fn table(self) -> Table {
        Table { columns: self.columns }
    }
}

fn scenario_name(simulation: &Simulation) -> String {
    simulation.scenario.doc().name.clone()
}

/// One row per replication and policy.
pub fn runs(simulations: &[Simulation]) -> Table {
    type Row<'a> = (&'a Simulation, &'a RunResult);
    let arm = |at: Option<ArmAt>| at.map(|at| at.arm);
    let tick = |at: Option<ArmAt>| at.map(|at| at.tick);
    let kills =
        |run: &RunResult| run.kills.iter().map(|kill| format!("{}@{}", kill.arm, kill.tick)).collect::<Vec<_>>();
    TableBuilder::<Row<'_>>::new(simulations.iter().flat_map(|s| s.runs.iter().map(move |run| (s, run))))
        .text("scenario", |(simulation, _)| scenario_name(simulation))
        .text("policy", |(_, run)| run.policy.clone())
        .count("replication", |(_, run)| Some(run.replication))
        .number("regret", |(_, run)| Some(run.regret))
        .number("forgone", |(_, run)| run.forgone.last().copied())
        .number("possible", |(_, run)| Some(run.possible))
        .count("units", |(_, run)| Some(run.units))
        .count("revisions", |(_, run)| Some(run.revisions))
        .text("kills", |(_, run)| kills(run).join(" "))
        .count("concluded_arm", |(_, run)| arm(run.concluded))
        .count("concluded_tick", |(_, run)| tick(run.concluded))
        .count("prompted_arm", |(_, run)| arm(run.prompted))
        .count("prompted_tick", |(_, run)| tick(run.prompted))
        .flag("false_prompt", |(_, run)| run.false_prompt)
        .count("shipped_arm", |(_, run)| arm(run.shipped))
        .count("leader", |(_, run)| Some(run.leader))
        .flag("correct", |(_, run)| run.correct)
        .flag("false_winner", |(_, run)| Some(run.false_winner))
        .count("moved_between_variations", |(_, run)| Some(run.moves.between_variations))
        .count("moved_into_variations", |(_, run)| Some(run.moves.into_variations))
        .count("moved_back_to_control", |(_, run)| Some(run.moves.back_to_control))
        .count("dropped", |(_, run)| Some(run.dropped))
        .number("srm_p_value", |(_, run)| Some(run.sample_ratio.p_value))
        .flag("srm_alarm", |(_, run)| Some(run.sample_ratio.alarm))
        .table()
}

/// One row per policy, estimator and variation. The values of the policy are repeated in each of its rows.
pub fn summaries(simulations: &[Simulation]) -> Table {
    type Row<'a> = (&'a Simulation, &'a Summary, &'a EstimatorSummary, (i64, &'a ArmEstimates));
    let mean = |mean: Option<Mean>| mean.map(|mean| mean.mean);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for simulation in simulations {
        for summary in &simulation.summaries {
            for estimator in &summary.estimators {
                rows.extend((1..).zip(&estimator.arms).map(|arm| (simulation, summary, estimator, arm)));
            }
        }
    }
    TableBuilder::new(rows.into_iter())
        .text("scenario", |(simulation, ..)| scenario_name(simulation))
        .text("policy", |(_, summary, ..)| summary.policy.clone())
        .count("replications", |(_, summary, ..)| Some(summary.replications))
        .number("regret", |(_, summary, ..)| Some(summary.regret.mean))
        .number("regret_se", |(_, summary, ..)| Some(summary.regret.se))
        .number("correct", |(_, summary, ..)| mean(summary.correct))
        .number("false_winner", |(_, summary, ..)| Some(summary.false_winner.mean))
        .number("moved_between", |(_, summary, ..)| Some(summary.moved_between.mean))
        .number("moved_into", |(_, summary, ..)| Some(summary.moved_into.mean))
        .number("moved_back", |(_, summary, ..)| Some(summary.moved_back.mean))
        .text("estimator", |(_, _, estimator, _)| estimator.estimator.clone())
        .count("arm", |(.., (arm, _))| Some(*arm))
        .number("truth", |(.., (_, arm))| arm.truth)
        .number("lift", |(.., (_, arm))| mean(arm.lift))
        .number("bias", |(.., (_, arm))| mean(arm.bias))
        .number("rmse", |(.., (_, arm))| arm.rmse)
        .number("coverage", |(.., (_, arm))| mean(arm.coverage))
        .number("width", |(.., (_, arm))| mean(arm.width))
        .table()
}

/// One row per policy, tick and arm: the mean share of the arm, and the expected outcomes that the policy has lost so
/// far.
pub fn course(simulations: &[Simulation]) -> Table {
    type Row<'a> = (&'a Simulation, &'a Summary, (i64, Quantiles), (i64, f64));
    let mut rows: Vec<Row<'_>> = Vec::new();
    for simulation in simulations {
        for summary in &simulation.summaries {
            for ((tick, forgone), shares) in (0..).zip(&summary.forgone).zip(&summary.shares) {
                rows.extend(
                    (0..).zip(shares).map(|(arm, share)| (simulation, summary, (tick, *forgone), (arm, *share))),
                );
            }
        }
    }
    TableBuilder::new(rows.into_iter())
        .text("scenario", |(simulation, ..)| scenario_name(simulation))
        .text("policy", |(_, summary, ..)| summary.policy.clone())
        .count("tick", |(_, _, (tick, _), _)| Some(*tick))
        .count("arm", |(.., (arm, _))| Some(*arm))
        .number("share", |(.., (_, share))| Some(*share))
        .number("forgone_p10", |(_, _, (_, forgone), _)| Some(forgone.p10))
        .number("forgone_p50", |(_, _, (_, forgone), _)| Some(forgone.p50))
        .number("forgone_p90", |(_, _, (_, forgone), _)| Some(forgone.p90))
        .table()
}
