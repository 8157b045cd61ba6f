//! Whether the numbers can be believed: coverage and bias of every estimator under every policy.

use super::dots::{Dots, Group};
use super::section::{Section, card, hundredths};
use super::text::{NONE, arm_name, escape, number, percent_error, signed_percent, table, words};
use crate::summary::{ArmEstimates, EstimatorSummary, Mean, Summary};

/// The estimators in words; one that is not known here goes by its name.
const ESTIMATORS: &[(&str, &str)] = &[
    ("pooled", "raw rates over the whole run, which a drift misleads where shares move"),
    ("period", "lifts of periods, weighted"),
    ("e3", "each live arm against control within epochs of constant shares: what people are shown"),
    ("e3-killed", "the same of killed arms, for any instant at which they may have been stopped"),
    ("e3-flat", "the same without prior"),
    ("e3-joint", "all arms at once: what the policy goes by"),
    ("bols", "batched, with fixed weights"),
    ("cs", "a confidence sequence, which has to hold at every look at once and so covers more in the end"),
];

impl Section<'_> {
    /// What each estimator of this simulation is.
    pub(super) fn estimators_told(&self) -> String {
        let all = self.simulation.summaries.first().map_or(&[][..], |s| s.estimators.as_slice());
        let told = |e: &EstimatorSummary| ESTIMATORS.iter().find(|(name, _)| *name == e.estimator);
        let said = |(name, text): &(&str, &str)| format!("<b>{}</b>: {}", escape(name), escape(text));
        let all: Vec<String> = all.iter().filter_map(told).map(said).collect();
        if all.is_empty() { String::new() } else { format!(". {}", all.join("; ")) }
    }

    /// A group per estimator, a dot per policy, and the single arms behind it.
    fn estimators(
        &self,
        whole: impl Fn(&EstimatorSummary) -> Option<Mean>,
        arm: impl Fn(&ArmEstimates) -> Option<Mean>,
    ) -> Vec<Group> {
        let first = self.simulation.summaries.first();
        let names = first.into_iter().flat_map(|s| s.estimators.iter().map(|e| e.estimator.clone()));
        let group = |(i, name): (usize, String)| {
            let dot = |s: &Summary| {
                let estimator = s.estimators.get(i);
                let mut dot = self.dot(s, estimator.and_then(&whole).map(hundredths));
                let arms = estimator.into_iter().flat_map(|e| &e.arms).filter_map(&arm);
                dot.faint = arms.map(|mean| 100.0 * mean.mean).collect();
                dot
            };
            Group { name, dots: self.simulation.summaries.iter().map(dot).collect() }
        };
        names.enumerate().map(group).collect()
    }

    pub(super) fn coverage(&self) -> String {
        let groups = self.estimators(|e| e.coverage, |arm| arm.coverage);
        let plot = Dots {
            most: (80.0, 100.0),
            decimals: 1,
            band: Some((93.0, 97.0)),
            rule: Some(95.0),
            ..Dots::new(
                "Coverage of 95% intervals by estimator and policy",
                "% of intervals that hold the true lift",
                groups,
                (90.0, 100.0),
            )
        };
        let sub = "95% intervals for the lift over control should hold it in 93–97% of runs (shaded). Ticks are single \
                   arms, whiskers ±1 standard error.";
        card(
            "Coverage",
            &plot.told(sub),
            &plot.svg(),
            &self.by_arm("Coverage of 95% intervals", |a| a.coverage.map(|mean| percent_error(mean, 1))),
        )
    }

    pub(super) fn bias(&self) -> String {
        let groups = self.estimators(|e| e.bias, |arm| arm.bias);
        let plot = Dots {
            most: (-5.0, 5.0),
            rule: Some(0.0),
            ..Dots::new(
                "Bias of the estimated lift by estimator and policy",
                "percentage points of lift",
                groups,
                (-0.5, 0.5),
            )
        };
        let sub = "Mean error of the estimated lift over control; 0 is none. Ticks are single arms, whiskers ±1 \
                   standard error.";
        let say = |a: &ArmEstimates| {
            a.bias.map(|mean| {
                let rmse = a.rmse.map_or(f64::NAN, |rmse| 100.0 * rmse);
                format!("{} ± {} (rmse {})", signed(mean.mean), number(100.0 * mean.se, 2), number(rmse, 2))
            })
        };
        card("Bias", &plot.told(sub), &plot.svg(), &self.by_arm("Bias in percentage points of lift", say))
    }

    fn by_arm(&self, caption: &str, say: impl Fn(&ArmEstimates) -> Option<String>) -> String {
        let arms = self.scenario.doc().arms.len();
        let head: Vec<String> = words(&["policy", "estimator"]).into_iter().chain((1..arms).map(arm_name)).collect();
        let mut rows = Vec::new();
        for summary in &self.simulation.summaries {
            for estimator in &summary.estimators {
                let cells = estimator.arms.iter().map(|arm| say(arm).unwrap_or_else(|| NONE.to_owned()));
                rows.push([summary.policy.clone(), estimator.estimator.clone()].into_iter().chain(cells).collect());
            }
        }
        table(caption, &head, &rows)
    }
}

fn signed(lift: f64) -> String {
    signed_percent(lift, 2).trim_end_matches('%').to_owned()
}
