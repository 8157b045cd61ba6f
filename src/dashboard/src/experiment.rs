//! The page of one experiment: the verdict first, then the numbers behind it.

mod allocation_note;
mod changed_fields;
mod completed_action;
mod health;
mod history;
mod lift_view;
mod manage;
mod results;

use inroad_assignment::Timestamp;
use maud::{Markup, html};

pub use allocation_note::AllocationNote;
pub use changed_fields::{ChangedField, changed_fields};
pub use completed_action::CompletedAction;
pub use health::{Health, SampleRatio};
pub use history::{AuditEntry, Decision, DecisionArm};
pub use lift_view::LiftView;
pub(crate) use lift_view::lift_with_interval;
pub use results::{ArmMetric, Metric};

use crate::audience::AudienceSummary;
use crate::chart::{
    Bucket, KillPeriod, LiftPoint, RevisionMark, allocation_bar, allocation_over_time, lift_distributions,
    lifts_over_time,
};
use crate::format::{NumberFormat, instant, number};
use crate::layout::{live_part, state_badge};

/// One arm, with the values that are independent of metrics.
#[derive(Debug, Clone)]
pub struct Arm {
    /// Key of the variation.
    pub name: String,
    /// Description.
    pub description: String,
    /// Payload as JSON.
    pub payload: String,
    /// Whether the variation is killed.
    pub killed: bool,
    /// Whether it was killed only after the end of the run, so that the run compares it.
    pub killed_after_end: bool,
    /// Traffic share.
    pub share: f64,
    /// Units exposed to the variation.
    pub units: u64,
    /// Probability to be best; none while it is too early to rank the variations.
    pub p_best: Option<f64>,
    /// Expected loss of choosing this variation, as a share of conversions; none while it is too early, and for metrics
    /// with negative values.
    pub expected_loss: Option<f64>,
    /// Mean and standard deviation of the log-lift of the primary metric, without prior; none for control and without a
    /// relative lift.
    pub posterior: Option<(f64, f64)>,
    /// Lift as of each update; empty for control.
    pub lift_history: Vec<LiftPoint>,
}

/// The page of one experiment.
#[derive(Debug, Clone)]
pub struct ExperimentPage {
    /// Key.
    pub key: String,
    /// Description.
    pub description: String,
    /// Owner.
    pub owner: String,
    /// Tags.
    pub tags: Vec<String>,
    /// State.
    pub state: &'static str,
    /// Key of the shipped variation of a concluded experiment; control if it was rolled back.
    pub shipped: Option<String>,
    /// Whether units outside the audience keep control after the conclusion.
    pub shipped_within_audience: bool,
    /// Whether the whole experiment is killed.
    pub killed: bool,
    /// `temporary` or `permanent`.
    pub lifetime: &'static str,
    /// Context attribute that is randomised.
    pub unit: String,
    /// CEL expression; empty for all units.
    pub audience: String,
    /// Overrides: units or expression, and the variation they always get.
    pub overrides: Vec<(String, String)>,
    /// Whether a policy changes the allocation; otherwise people do.
    pub has_policy: bool,
    /// Description of the allocation policy.
    pub policy: Markup,
    /// The generation shown (as run); 0 before the first start.
    pub generation: u32,
    /// Number of generations.
    pub generations: u32,
    /// Number of the newest revision.
    pub revision: u32,
    /// When the newest revision takes effect; none if it is in effect.
    pub pending_until: Option<Timestamp>,
    /// Time of the start, by the experiment's clock.
    pub started_at: Option<Timestamp>,
    /// Current time, by the experiment's clock.
    pub now: Timestamp,
    /// Whether the experiment has a manual clock (simulated time).
    pub manual_clock: bool,
    /// The verdict in one or two sentences.
    pub verdict: String,
    /// Arms, control first.
    pub arms: Vec<Arm>,
    /// Exposed units in words, and how other counts of units are related to them.
    pub units_note: String,
    /// Buckets of the run shown; after a conclusion, one bucket of the shipped variation.
    pub buckets: Vec<Bucket>,
    /// What the buckets are.
    pub allocation_note: AllocationNote,
    /// Minimum control share; none after the end of the run.
    pub floor: Option<f64>,
    /// Shares from each revision, and from the conclusion on.
    pub steps: Vec<(Timestamp, Vec<f64>)>,
    /// End of the chart of shares: the restart that ended the run shown, or now.
    pub steps_until: Timestamp,
    /// Revisions.
    pub marks: Vec<RevisionMark>,
    /// Kills in the generation shown.
    pub kills: Vec<KillPeriod>,
    /// Results by metric.
    pub metrics: Vec<Metric>,
    /// Data quality and remaining potential.
    pub health: Health,
    /// Decisions of the policy, newest first.
    pub decisions: Vec<Decision>,
    /// Audit log, newest first.
    pub audit: Vec<AuditEntry>,
    /// Id before which older audit entries are found; none if there are none.
    pub older_audit: Option<u64>,
    /// The action that led to this page.
    pub completed_action: Option<CompletedAction>,
    /// The report on the audience, after it was saved.
    pub saved_audience: Option<AudienceSummary>,
}

impl ExperimentPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        let names: Vec<String> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        html! {
            p.crumbs { a href="/" { "Experiments" } }
            (live_part("head", &self.head()))
            @if let Some(action) = &self.completed_action { (live_part("done", &action.render())) }
            @if let Some(audience) = &self.saved_audience { (audience.render()) }
            (live_part("verdict", &self.verdict()))
            (live_part("contents", &self.contents()))
            (live_part("line", &self.allocation(&names)))
            (live_part("results", &self.results(&names)))
            // A draft has no health data; the empty part is filled by live updates after the start.
            (live_part("health", &if self.generation > 0 { self.health.render() } else { html! {} }))
            (live_part("controls", &self.manage()))
            (live_part("history", &self.history()))
            (self.definition())
        }
    }

    fn head(&self) -> Markup {
        html! {
            div.headline {
                h1 { (self.key) }
                div { (state_badge(self.state, self.killed)) }
            }
            @if !self.description.is_empty() { p.lead { (self.description) } }
            p.facts-line {
                @if !self.owner.is_empty() { span { "Owner " b { (self.owner) } } }
                @if self.generation > 0 {
                    span { "Run " b { (number(f64::from(self.generation), NumberFormat::Int)) } " of " (number(f64::from(self.generations), NumberFormat::Int)) }
                    span { "Revision " b { (number(f64::from(self.revision), NumberFormat::Int)) }
                        @if let Some(at) = self.pending_until { ", in effect from " (instant(at)) "; the numbers below show it already" }
                    }
                }
                @if let Some(at) = self.started_at { span { "Started " b { (instant(at)) } } }
                @if self.manual_clock { span { "Simulated time: " b { (instant(self.now)) } ". Audit log and creation have the real time." } }
                @for tag in &self.tags { a.tag href={ "/?tag=" (crate::form::url_encode(tag)) } { (tag) } " " }
            }
        }
    }

    fn verdict(&self) -> Markup {
        html! {
            section.verdict aria-label="Verdict" {
                p.said { (self.verdict) }
                @for warning in &self.health.warnings { p.alarm { (warning) } }
                @match self.state {
                    "draft" => {
                        p { "This experiment has not started. Check the definition below, then start it." }
                        p { a.button.primary href=(self.action_path("start", "")) { "Start experiment" } " " a.button href={ "/experiments/" (self.key) "/edit" } { "Edit" } }
                    }
                    "running" if self.health.ship_arm.is_some() => {
                        p { a.button.primary href=(self.action_path("conclude", "")) { "Conclude experiment" } }
                    }
                    _ => {}
                }
            }
        }
    }

    fn contents(&self) -> Markup {
        let has_results = self.generation > 0;
        html! {
            nav.contents aria-label="On this page" {
                @if has_results {
                    a href="#line" { "Traffic allocation" }
                    a href="#results" { "Results" }
                    a href="#health" { "Health" }
                    a href={ "/experiments/" (self.key) "/funnel" } { "Funnel" }
                }
                a href="#manage" { "Manage" }
                a href="#history" { "History" }
                a href={ "/playground?experiment=" (self.key) } { "Try a unit" }
                a href={ "/feed?experiment=" (self.key) } { "Live feed" }
            }
        }
    }

    fn allocation(&self, names: &[String]) -> Markup {
        if self.generation == 0 {
            return html! {};
        }
        // Control cannot be killed: it is the fallback of a kill.
        let killed: Vec<bool> = (0..).zip(&self.arms).map(|(i, arm)| i > 0 && (arm.killed || self.killed)).collect();
        html! {
            section aria-labelledby="line-title" {
                h2 id="line-title" { "Traffic allocation" }
                p.lead { "Every unit has a fixed point on this line. Variations grow only into control, so a unit that has seen a variation keeps it." }
                (self.allocation_note.render())
                (allocation_bar(names, &self.buckets, &killed, self.floor))
                h3 { "Traffic shares over time" }
                (allocation_over_time(names, &self.steps, self.steps_until, &self.marks, &self.kills))
            }
        }
    }

    fn results(&self, names: &[String]) -> Markup {
        if self.generation == 0 {
            return html! {};
        }
        let lift_histories: Vec<_> = self.arms.iter().map(|arm| arm.lift_history.clone()).collect();
        let lifts: Vec<_> = self.arms.iter().map(|arm| arm.posterior).collect();
        html! {
            section aria-labelledby="results-title" {
                h2 id="results-title" { "Results" }
                @if self.generations > 1 {
                    p { "Runs: "
                        @for number in 1..=self.generations {
                            a href={ "/experiments/" (self.key) "?generation=" (number) } aria-current=[(number == self.generation).then_some("true")] { (number) } " "
                        }
                        "(a restart begins a new run: every unit gets a new point, and results start from zero)"
                    }
                }
                @if self.metrics.is_empty() {
                    div.empty { h3 { "No metrics" } p { "Add a metric to compare variations: " a href={ "/experiments/" (self.key) "/edit" } { "edit the experiment" } "." } }
                }
                @if !self.units_note.is_empty() { p { (self.units_note) } }
                @for metric in &self.metrics { (metric.render(self)) }
                @if self.metrics.iter().any(|metric| metric.is_primary) && lifts.iter().any(Option::is_some) {
                    h3 { "Lift distribution" }
                    (lift_distributions(names, &lifts))
                    h3 { "Lift over time" }
                    p.lead { "The inner band is the 95% interval at each time. The outer band is the always-valid interval: it stays valid however often you check it. Units that are excluded today, for example by a kill, are left out of earlier times too." }
                    (lifts_over_time(names, &lift_histories))
                }
            }
        }
    }

    fn history(&self) -> Markup {
        html! {
            section aria-labelledby="history-title" {
                h2 id="history-title" { "History" }
                (history::decisions(&self.key, self.has_policy, &self.decisions))
                (history::audit(&self.key, &self.audit, self.older_audit))
            }
        }
    }

    fn definition(&self) -> Markup {
        html! {
            section aria-labelledby="declared-title" {
                h2 id="declared-title" { "Definition" }
                dl.declared {
                    div { dt { "Unit" } dd { code { (self.unit) } } }
                    div { dt { "Audience" } dd { @if self.audience.is_empty() { "all units" } @else { code { (self.audience) } } } }
                    div { dt { "Allocation policy" } dd { (self.policy) } }
                    div { dt { "Lifetime" } dd { (self.lifetime) } }
                    @for (units, variation) in &self.overrides { div { dt { "Always " (variation) } dd { code { (units) } } } }
                    @for arm in &self.arms {
                        div { dt { (arm.name) } dd {
                            @if !arm.description.is_empty() { (arm.description) br; }
                            code { (arm.payload) }
                        } }
                    }
                }
            }
        }
    }
}
