//! Whether an experiment's numbers may be believed, and how long it can go on learning.

use maud::{Markup, html};

use crate::chart::text::{Format, number};

/// Whether exposures fall as the shares say.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleRatio {
    /// The statistic.
    pub chi_squared: f64,
    /// Its degrees of freedom.
    pub degrees_of_freedom: u32,
    /// How often chance alone gives as much.
    pub p_value: f64,
    /// The alarm's evidence, as odds; it may be looked at whenever one likes.
    pub evidence: f64,
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
    /// How many days that lasts, at the pace at which control gave lately.
    pub days_of_headroom: Option<f64>,
    /// What the best may still be better by than the leader.
    pub potential_value: f64,
    /// None before anything is exposed.
    pub sample_ratio: Option<SampleRatio>,
    /// Guardrails that have spoken, in words.
    pub alerts: Vec<String>,
}

impl Health {
    pub(super) fn render(&self) -> Markup {
        html! {
            section aria-labelledby="health-title" {
                h2 id="health-title" { "Health" }
                div.tiles {
                    div.tile.good[self.units_moved == 0] { b { (number(self.units_moved as f64, Format::Int)) } span { "units moved between variations" } }
                    div.tile { b { (number(self.crossovers as f64, Format::Int)) } span { "units crossed over from control into a variation" } }
                    div.tile { b { (number(self.headroom, Format::Percent1)) } span {
                        "of the line is left to grow into"
                        @if let Some(days) = self.days_of_headroom { ", about " (number(days, Format::Num2)) " days at this pace" }
                    } }
                    div.tile { b { (number(self.potential_value, Format::Percent2)) } span { "at most left to gain by going on" } }
                    div.tile { b { (number(self.stale_exposures as f64, Format::Int)) } span { "exposures by clients with old boundaries" } }
                    div.tile { b { (number(self.dropped as f64, Format::Int)) } span { "records dropped: what was served changed within their window" } }
                }
                @if let Some(ratio) = &self.sample_ratio {
                    p { b { "Sample ratio. " }
                        @if ratio.p_value < 0.001 { "Exposures do not fall as the shares say: look for lost or doubled ones." } @else { "Exposures fall as the shares say." }
                        " χ² = " (number(ratio.chi_squared, Format::Num2)) " with " (number(f64::from(ratio.degrees_of_freedom), Format::Int)) " degrees of freedom, p = " (number(ratio.p_value, Format::Num4))
                        "; continuous alarm at odds of " (number(ratio.evidence, Format::Num2)) " to 1 (it speaks at 100)."
                    }
                }
                @for alert in &self.alerts { p.alarm { b { "Guardrail. " } (alert) } }
                @if self.backlog > 0 { p.doubt { (number(self.backlog as f64, Format::Int)) " events are not counted yet." } }
            }
        }
    }
}
