//! The accuracy of estimates: coverage and bias of every estimator under every policy.

use super::Report;
use super::dot_plot::{Dot, DotGroup, DotPlot, in_percent};
use super::elements::{card, table};
use super::text::{NO_VALUE, arm_name, escape, number, percent_with_error, signed_percent, strings};
use crate::simulate::Simulation;
use crate::summary::{ArmEstimates, EstimatorSummary, Mean, Summary};

/// Descriptions of the estimators. An estimator that is not listed is shown without a description.
const DESCRIPTIONS: &[(&str, &str)] = &[
    ("pooled", "raw rates over the whole run, biased when rates drift while shares change"),
    ("period", "lifts of single periods, weighted by traffic"),
    (
        "displayed",
        "the lift that pages show: each variation compared with control within reporting intervals, without prior; \
      nothing while it is too early",
    ),
    ("e3", "the displayed lifts of live variations"),
    ("e3-killed", "the displayed lifts of killed variations, valid at any time at which they may have been stopped"),
    ("e3-flat", "e3 without a prior, also while it is too early to display it"),
    ("e3-joint", "all variations at once, with prior: the estimate that the policy uses"),
    ("bols", "batched estimate with fixed weights"),
    ("cs", "always-valid interval. It must contain the true lift at every check, so it covers more at the end"),
];

/// The sentence that describes the estimators of a simulation.
pub(super) fn descriptions(simulation: &Simulation) -> String {
    let estimators = simulation.summaries.first().map_or(&[][..], |s| s.estimators.as_slice());
    let description = |e: &EstimatorSummary| DESCRIPTIONS.iter().find(|(name, _)| *name == e.estimator);
    let format = |(name, text): &(&str, &str)| format!("<b>{}</b>: {}", escape(name), escape(text));
    let texts: Vec<String> = estimators.iter().filter_map(description).map(format).collect();
    if texts.is_empty() { String::new() } else { format!(" {}.", texts.join("; ")) }
}

/// One group per estimator with a dot per policy. The values of single variations are shown faintly.
fn groups(
    report: &Report<'_>,
    simulation: &Simulation,
    value: impl Fn(&EstimatorSummary) -> Option<Mean>,
    arm_value: impl Fn(&ArmEstimates) -> Option<Mean>,
) -> Vec<DotGroup> {
    let first = simulation.summaries.first();
    let names = first.into_iter().flat_map(|s| s.estimators.iter().map(|e| e.estimator.clone()));
    let group = |(i, name): (usize, String)| {
        let dot = |s: &Summary| {
            let estimator = s.estimators.get(i);
            let mut dot = Dot::for_policy(report, s, estimator.and_then(&value).map(in_percent));
            let arms = estimator.into_iter().flat_map(|e| &e.arms).filter_map(&arm_value);
            dot.single_arms = arms.map(|mean| 100.0 * mean.mean).collect();
            dot
        };
        DotGroup { name, dots: simulation.summaries.iter().map(dot).collect() }
    };
    names.enumerate().map(group).collect()
}

/// The card with the coverage of 95% intervals.
pub(super) fn coverage_card(report: &Report<'_>, simulation: &Simulation) -> String {
    let plot = DotPlot {
        limits: (80.0, 100.0),
        decimals: 1,
        band: Some((93.0, 97.0)),
        reference: Some(95.0),
        ..DotPlot::new(
            "Coverage of 95% intervals by estimator and policy",
            "% of intervals that contain the true lift",
            groups(report, simulation, |e| e.coverage, |arm| arm.coverage),
            (90.0, 100.0),
        )
    };
    let explanation = "95% intervals for the lift over control should contain the true lift in 93–97% of runs \
                       (shaded). Killed variations count only where an interval is valid at any time. Faint marks are \
                       single variations, whiskers ±1 standard error.";
    card(
        "Coverage",
        &plot.explanation_with_arrows(explanation),
        &plot.svg(),
        &table_by_arm(simulation, "Coverage of 95% intervals", |a| a.coverage.map(|mean| percent_with_error(mean, 1))),
    )
}

/// The card with the bias of the estimated lift.
pub(super) fn bias_card(report: &Report<'_>, simulation: &Simulation) -> String {
    let plot = DotPlot {
        limits: (-5.0, 5.0),
        reference: Some(0.0),
        ..DotPlot::new(
            "Bias of the estimated lift by estimator and policy",
            "percentage points of lift",
            groups(report, simulation, |e| e.bias, |arm| arm.bias),
            (-0.5, 0.5),
        )
    };
    let explanation = "Mean error of the estimated lift over control; 0 is unbiased. Faint marks are single \
                       variations, whiskers ±1 standard error.";
    let cell = |a: &ArmEstimates| {
        a.bias.map(|mean| {
            let rmse = a.rmse.map_or(f64::NAN, |rmse| 100.0 * rmse);
            format!("{} ± {} (RMSE {})", signed(mean.mean), number(100.0 * mean.se, 2), number(rmse, 2))
        })
    };
    card(
        "Bias",
        &plot.explanation_with_arrows(explanation),
        &plot.svg(),
        &table_by_arm(simulation, "Bias in percentage points of lift (RMSE: root mean squared error)", cell),
    )
}

/// A table with one row per policy and estimator, and one column per variation.
fn table_by_arm(simulation: &Simulation, caption: &str, cell: impl Fn(&ArmEstimates) -> Option<String>) -> String {
    let arms = simulation.scenario.doc().arms.len();
    let head: Vec<String> = strings(&["policy", "estimator"]).into_iter().chain((1..arms).map(arm_name)).collect();
    let mut rows = Vec::new();
    for summary in &simulation.summaries {
        for estimator in &summary.estimators {
            let cells = estimator.arms.iter().map(|arm| cell(arm).unwrap_or_else(|| NO_VALUE.to_owned()));
            rows.push([summary.policy.clone(), estimator.estimator.clone()].into_iter().chain(cells).collect());
        }
    }
    table(caption, &head, &rows)
}

/// A lift in percentage points, with its sign.
fn signed(lift: f64) -> String {
    signed_percent(lift, 2).trim_end_matches('%').to_owned()
}
