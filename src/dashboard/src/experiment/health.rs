//! Whether an experiment's numbers may be believed, and how long it can go on learning.

use inroad_policy::SrmAlarm;
use maud::{Markup, html};

use crate::chart::text::{Format, count, counted, ending, number};

/// Whether exposures fall as the shares say.
#[derive(Debug, Clone, Copy)]
pub struct SampleRatio {
    /// The statistic.
    pub chi_squared: f64,
    /// Its degrees of freedom.
    pub degrees_of_freedom: u32,
    /// How often chance alone gives as much.
    pub p_value: f64,
    /// The alarm's evidence, as odds; it may be looked at whenever one likes.
    pub evidence: f64,
    /// What the evidence amounts to; the page's words go by it, as the warnings do.
    pub alarm: SrmAlarm,
}

/// Everything about the numbers but the numbers.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Doubts, in plain words.
    pub warnings: Vec<String>,
    /// Who may be shipped now; none if it is too early to say.
    pub ship_arm: Option<String>,
    /// Units exposed to two variations or more: always 0.
    pub units_moved: u64,
    /// Units that saw control and then a variation.
    pub crossovers: u64,
    /// Exposures served by boundaries that were no longer in effect.
    pub stale_exposures: u64,
    /// Records that no estimate uses, because what was served changed within their window.
    pub dropped: u64,
    /// Events that are not counted yet.
    pub backlog: u64,
    /// What control can still give.
    pub headroom: f64,
    /// How many days that lasts, at the policy's pace; none if it has none.
    pub days_of_headroom: Option<f64>,
    /// What the best may still be better by than the leader; none where nothing is compared, or not yet.
    pub potential_value: Option<f64>,
    /// None before anything is exposed.
    pub sample_ratio: Option<SampleRatio>,
    /// Guardrails that have spoken, in words.
    pub alerts: Vec<Markup>,
}

impl Health {
    pub(super) fn render(&self) -> Markup {
        html! {
            section aria-labelledby="health-title" {
                h2 id="health-title" { "Health" }
                div.tiles {
                    div.tile.good[self.units_moved == 0] { b { (count(self.units_moved)) } span { "unit" (ending(self.units_moved)) " moved between variations" } }
                    div.tile { b { (count(self.crossovers)) } span { "unit" (ending(self.crossovers)) " crossed over from control into a variation" } }
                    div.tile { b { (number(self.headroom, Format::Percent1)) } span {
                        "of the line is left to grow into"
                        @if let Some(days) = self.days_of_headroom { ", about " (number(days, Format::Num2)) " days at this pace" }
                    } }
                    @if let Some(value) = self.potential_value {
                        div.tile { b { (number(value, Format::Percent2)) } span { "at most left to gain by going on" } }
                    }
                    div.tile { b { (count(self.stale_exposures)) } span { "exposure" (ending(self.stale_exposures)) " by clients with old boundaries" } }
                    div.tile { b { (count(self.dropped)) } span { "record" (ending(self.dropped)) " dropped: what was served changed within their window" } }
                }
                @if let Some(ratio) = &self.sample_ratio {
                    p { b { "Sample ratio. " }
                        @if ratio.degrees_of_freedom == 0 { "There are too few exposures to compare with the shares. " }
                        @else {
                            @if ratio.alarm != SrmAlarm::Quiet { "Exposures do not fall as the shares say: look for lost or doubled ones." } @else { "Exposures fall as the shares say, as far as the alarm can tell." }
                            " χ² = " (number(ratio.chi_squared, Format::Num2)) " with " (counted(u64::from(ratio.degrees_of_freedom), "degree")) " of freedom, p = " (number(ratio.p_value, Format::Num4)) ". "
                        }
                        "The continuous alarm stands at odds of " (number(ratio.evidence, Format::Num2)) " to 1" @if ratio.alarm == SrmAlarm::Quiet { ", and is silent." } @else { ", and speaks." }
                    }
                }
                @for alert in &self.alerts { p.alarm { b { "Guardrail. " } (alert) } }
                @if self.backlog > 0 { p.doubt { "Not counted yet: " (counted(self.backlog, "event")) "." } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_go_by_the_alarm_and_not_by_one_look() {
        let page = |p_value: f64, alarm: SrmAlarm| {
            let ratio = SampleRatio { chi_squared: 1.0, degrees_of_freedom: 1, p_value, evidence: 1.0, alarm };
            Health { sample_ratio: Some(ratio), ..Health::default() }.render().into_string()
        };
        assert!(!page(0.000_1, SrmAlarm::Quiet).contains("look for lost"));
        assert!(page(0.5, SrmAlarm::Alarm).contains("look for lost"));
    }
}
