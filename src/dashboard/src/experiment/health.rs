//! The Health section: data quality, and how long the experiment can continue to learn.

use inroad_assignment::Timestamp;
use inroad_policy::SrmAlarm;
use maud::{Markup, html};

use crate::format::{NumberFormat, count, counted, instant, number};

/// The sample ratio mismatch test: whether exposures match the traffic shares.
#[derive(Debug, Clone)]
pub struct SampleRatio {
    /// Chi-squared statistic.
    pub chi_squared: f64,
    /// Degrees of freedom; 0 if there are too few exposures.
    pub degrees_of_freedom: u32,
    /// Result in words, with the p-value of the chi-squared test and the evidence of the sequential test.
    pub summary: String,
    /// Result of the sequential test, which decides the text on the page.
    pub alarm: SrmAlarm,
}

/// Data quality and remaining potential of an experiment.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Warnings.
    pub warnings: Vec<String>,
    /// Key of the variation that is ready to ship; none if it is too early to say.
    pub ship_arm: Option<String>,
    /// Units moved between variations: always 0.
    pub units_moved: u64,
    /// Crossovers: units that saw control and then a variation.
    pub crossovers: u64,
    /// Exposures from clients whose revision was no longer in effect.
    pub stale_exposures: u64,
    /// Unit records that estimates exclude, because the served variation changed within the window.
    pub dropped: u64,
    /// Those of them that a kill or a restore excluded.
    pub dropped_by_kill: u64,
    /// Those of them that were first exposed after the end of the run.
    pub dropped_after_end: u64,
    /// Outcomes of exposed units that no estimate counts: too long before the first exposure.
    pub outcomes_too_early: u64,
    /// The same: after the window.
    pub outcomes_too_late: u64,
    /// What was known about variations when they were killed: the time, a sentence, and when they were restored.
    pub kills: Vec<(Timestamp, String, Option<Timestamp>)>,
    /// Accepted events that are not counted yet.
    pub backlog: u64,
    /// Traffic share that control can still give; none after the conclusion.
    pub headroom: Option<f64>,
    /// Days until that is used up at the current rate; none if nothing grows.
    pub days_of_headroom: Option<f64>,
    /// Why the policy takes less of `headroom` for now; empty if it does not.
    pub headroom_note: String,
    /// Maximum remaining gain over the leader; none if it is too early or nothing is compared.
    pub potential_value: Option<f64>,
    /// None before the first exposure.
    pub sample_ratio: Option<SampleRatio>,
    /// Guardrail alerts.
    pub alerts: Vec<Markup>,
}

impl Health {
    pub(super) fn render(&self) -> Markup {
        html! {
            section aria-labelledby="health-title" {
                h2 id="health-title" { "Health" }
                div.tiles {
                    div.tile.good[self.units_moved == 0] { b { (count(self.units_moved)) } span { "Units moved between variations" } }
                    div.tile { b { (count(self.crossovers)) } span { "Crossovers from control into a variation" } }
                    @if let Some(headroom) = self.headroom {
                        div.tile { b { (number(headroom, NumberFormat::Percent1)) } span {
                            "Control traffic still available"
                            @match self.days_of_headroom.filter(|_| headroom > 0.0) {
                                Some(days) if days < 1.0 => ", less than a day at the current rate",
                                Some(days) => { ", about " (number(days, NumberFormat::Estimate)) " days at the current rate" }
                                None => "",
                            }
                            @if !self.headroom_note.is_empty() { "; " (self.headroom_note) }
                        } }
                    }
                    @if let Some(value) = self.potential_value {
                        div.tile { b { (number(value, NumberFormat::PercentEstimate)) } span { "Maximum remaining gain" } }
                    }
                    div.tile { b { (count(self.stale_exposures)) } span { "Exposures from outdated clients" } }
                    div.tile { b { (count(self.dropped)) } span { "Unit records excluded: the served variation changed within the window"
                        @let moved = self.dropped.saturating_sub(self.dropped_by_kill + self.dropped_after_end);
                        @if self.dropped_by_kill > 0 { "; " (count(self.dropped_by_kill)) " by a kill or restore" }
                        @if moved > 0 { "; " (count(moved)) " by a new revision" }
                        @if self.dropped_after_end > 0 { "; " (count(self.dropped_after_end)) " after the end of the run" }
                    } }
                    @if self.outcomes_too_early + self.outcomes_too_late > 0 {
                        div.tile { b { (count(self.outcomes_too_early + self.outcomes_too_late)) } span {
                            "Outcomes outside the window of the primary metric: " (count(self.outcomes_too_early)) " more than a minute before the first exposure, "
                            (count(self.outcomes_too_late)) " after the window"
                        } }
                    }
                }
                @if let Some(ratio) = &self.sample_ratio {
                    p { b { "Sample ratio mismatch. " }
                        @if ratio.alarm == SrmAlarm::Quiet { "Result: " } @else { "Alert: " }
                        (ratio.summary)
                        @if ratio.degrees_of_freedom > 0 {
                            "; χ² = " (number(ratio.chi_squared, NumberFormat::Estimate)) " with " (counted(u64::from(ratio.degrees_of_freedom), "degree")) " of freedom"
                        }
                        "." @if ratio.alarm != SrmAlarm::Quiet { " Check for lost or duplicated exposures." }
                    }
                }
                @for (at, summary, restored) in &self.kills {
                    p { b { "Kill. " } (instant(*at)) ": " (summary) @if let Some(restored) = restored { " Restored at " (instant(*restored)) "." } }
                }
                @for alert in &self.alerts { p.alarm { b { "Guardrail. " } (alert) } }
                @if self.backlog > 0 { p.doubt { (counted(self.backlog, "event")) " not counted yet." } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_ratio_text_follows_the_sequential_test() {
        let page = |summary: &str, alarm: SrmAlarm| {
            let ratio = SampleRatio { chi_squared: 1.0, degrees_of_freedom: 1, summary: summary.to_owned(), alarm };
            Health { sample_ratio: Some(ratio), ..Health::default() }.render().into_string()
        };
        assert!(!page("no alert yet", SrmAlarm::Quiet).contains("Check for lost"));
        assert!(page("mismatch", SrmAlarm::Alarm).contains("Check for lost"));
    }
}
