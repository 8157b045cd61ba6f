//! One experiment: the verdict first, then how it came to it, everything with its number.

mod health;
mod history;
mod results;

use inroad_assignment::Timestamp;
use inroad_policy::Interval;
use maud::{Markup, html};

pub use health::{Health, SampleRatio};
pub use history::{AuditEntry, ChangedField, Decision, DecisionArm, changes};
pub use results::{ArmMetric, Metric};

use crate::chart::text::{Format, instant, number};
use crate::chart::{Bucket, Killed, LiftPoint, RevisionMark, allocation_over_time, lifts_over_time, posteriors, strip};
use crate::shell::{live_part, state_badge};

/// One arm, whatever is measured.
#[derive(Debug, Clone)]
pub struct Arm {
    /// Its key.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its payload, as JSON.
    pub payload: String,
    /// Whether it serves control for now.
    pub killed: bool,
    /// Its share of the line.
    pub share: f64,
    /// Units that were served it.
    pub units: u64,
    /// Probability of being the best.
    pub p_best: f64,
    /// The share of conversions that choosing it is expected to forgo.
    pub expected_loss: f64,
    /// Mean and standard deviation of its log-lift by the decision metric; none for control.
    pub posterior: Option<(f64, f64)>,
    /// Its lift as of each tick; empty for control.
    pub course: Vec<LiftPoint>,
}

/// What was done to it a moment ago, and whether connected clients know.
#[derive(Debug, Clone)]
pub struct Done {
    /// In plain words.
    pub what: String,
    /// How many clients are connected.
    pub clients: usize,
    /// How many of them have it.
    pub reached: usize,
    /// How long half of them took at the most, milliseconds.
    pub typical_ms: Option<f64>,
    /// How long the slowest of them took, milliseconds.
    pub slowest_ms: Option<f64>,
}

/// The page.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// Its key.
    pub key: String,
    /// For people.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
    /// For finding it.
    pub tags: Vec<String>,
    /// The word for it.
    pub state: &'static str,
    /// What a concluded one ships; control if it was rolled back.
    pub shipped: Option<String>,
    /// Whether the whole of it is killed.
    pub killed: bool,
    /// "temporary" or "permanent".
    pub lifetime: &'static str,
    /// The context attribute that is randomised.
    pub unit: String,
    /// CEL; empty for everybody.
    pub audience: String,
    /// Who is pinned: who, to what.
    pub overrides: Vec<(String, String)>,
    /// Whether a policy moves the boundaries; else people do.
    pub has_policy: bool,
    /// Who moves the boundaries, in words.
    pub policy: Markup,
    /// The generation shown; 0 before the first.
    pub generation: u32,
    /// How many there are.
    pub generations: u32,
    /// The newest revision.
    pub revision: u32,
    /// Since when it runs, by its clock.
    pub started_at: Option<Timestamp>,
    /// What time it is, by its clock.
    pub now: Timestamp,
    /// Whether somebody moves its clock by hand.
    pub manual_clock: bool,
    /// The state of things in a sentence or two.
    pub verdict: String,
    /// Control first.
    pub arms: Vec<Arm>,
    /// The line now.
    pub buckets: Vec<Bucket>,
    /// What control always keeps.
    pub floor: f64,
    /// Shares, from each instant on.
    pub steps: Vec<(Timestamp, Vec<f64>)>,
    /// The revisions.
    pub marks: Vec<RevisionMark>,
    /// Who served control from when until when, of the generation shown.
    pub kills: Vec<Killed>,
    /// By metric.
    pub metrics: Vec<Metric>,
    /// Whether the numbers may be believed.
    pub health: Health,
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// Newest first.
    pub audit: Vec<AuditEntry>,
    /// Below which entry of the audit log the rest is; none if that was all.
    pub older_audit: Option<u64>,
    /// What was done a moment ago.
    pub done: Option<Done>,
}

impl Experiment {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        let names: Vec<String> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        html! {
            p.crumbs { a href="/" { "Experiments" } }
            (live_part("head", &self.head()))
            @if let Some(done) = &self.done { (live_part("done", &done.render())) }
            (live_part("verdict", &self.verdict()))
            (live_part("contents", &self.contents()))
            (live_part("line", &self.line(&names)))
            (live_part("results", &self.results(&names)))
            // A draft has nothing that could be well or ill; the part is there for when it starts.
            (live_part("health", &if self.generation > 0 { self.health.render() } else { html! {} }))
            (live_part("controls", &self.manage()))
            (live_part("history", &self.history()))
            (self.declaration())
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
                    span { "Generation " b { (number(f64::from(self.generation), Format::Int)) } " of " (number(f64::from(self.generations), Format::Int)) }
                    span { "Revision " b { (number(f64::from(self.revision), Format::Int)) } }
                }
                @if let Some(at) = self.started_at { span { "Since " b { (instant(at)) } } }
                @if self.manual_clock { span { "Its own clock: " b { (instant(self.now)) } } }
                @for tag in &self.tags { a.tag href={ "/?tag=" (crate::form::encode(tag)) } { (tag) } " " }
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
                        p { "It has not started. Check what is declared below, then start it." }
                        p { a.button.primary href=(self.ask("start", "")) { "Start" } " " a.button href={ "/experiments/" (self.key) "/edit" } { "Edit" } }
                    }
                    "running" if self.health.ship_arm.is_some() => {
                        p { a.button.primary href=(self.ask("conclude", self.health.ship_arm.as_deref().unwrap_or_default())) { "Conclude" } }
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
                    a href="#line" { "Line" }
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

    fn line(&self, names: &[String]) -> Markup {
        if self.generation == 0 {
            return html! {};
        }
        // Control cannot be killed: it is what a kill falls back to.
        let killed: Vec<bool> = (0..).zip(&self.arms).map(|(i, arm)| i > 0 && (arm.killed || self.killed)).collect();
        html! {
            section aria-labelledby="line-title" {
                h2 id="line-title" { "The line" }
                p.lead { "Every unit has its place on this line. Variations grow into control and into nothing else, so whoever has seen one keeps it." }
                (strip(names, &self.buckets, &killed, Some(self.floor)))
                h3 { "Shares over time" }
                (allocation_over_time(names, &self.steps, self.now, &self.marks, &self.kills))
            }
        }
    }

    fn results(&self, names: &[String]) -> Markup {
        if self.generation == 0 {
            return html! {};
        }
        let courses: Vec<_> = self.arms.iter().map(|arm| arm.course.clone()).collect();
        let lifts: Vec<_> = self.arms.iter().map(|arm| arm.posterior).collect();
        html! {
            section aria-labelledby="results-title" {
                h2 id="results-title" { "Results" }
                @if self.generations > 1 {
                    p { "Generations: "
                        @for number in 1..=self.generations {
                            a href={ "/experiments/" (self.key) "?generation=" (number) } aria-current=[(number == self.generation).then_some("true")] { (number) } " "
                        }
                    }
                }
                @if self.metrics.is_empty() {
                    div.empty { h3 { "Nothing is measured" } p { "Add a metric to compare variations: " a href={ "/experiments/" (self.key) "/edit" } { "edit" } "." } }
                }
                @for metric in &self.metrics { (metric.render(self)) }
                @if self.metrics.iter().any(|m| m.decides) && lifts.iter().any(Option::is_some) {
                    h3 { "What is believed of each lift" }
                    (posteriors(names, &lifts))
                    h3 { "Lift over time" }
                    p.lead { "The inner band is the 95% interval at that moment, the outer one holds at every moment at once." }
                    (lifts_over_time(names, &courses))
                }
            }
        }
    }

    /// Where an action is asked about before it is done.
    pub(crate) fn ask(&self, action: &str, variation: &str) -> String {
        let base = format!("/experiments/{}/ask/{action}", self.key);
        if variation.is_empty() { base } else { format!("{base}?variation={variation}") }
    }

    fn manage(&self) -> Markup {
        let is = |states: &[&str]| states.contains(&self.state);
        html! {
            section id="manage" aria-labelledby="manage-title" {
                h2 id="manage-title" { "Manage" }
                p.lead { "Nothing happens before you have seen what it would do." }
                div.actions {
                    @if is(&["draft"]) { a.button.primary href=(self.ask("start", "")) { "Start" } }
                    @if is(&["running"]) { a.button href=(self.ask("pause", "")) { "Pause" } }
                    @if is(&["paused"]) { a.button.primary href=(self.ask("resume", "")) { "Resume" } }
                    @if is(&["running"]) && self.has_policy { a.button href=(self.ask("reallocate", "")) { "Let the policy decide now" } }
                    @if is(&["draft", "running", "paused", "concluded"]) {
                        a.button href={ "/experiments/" (self.key) "/edit" } { "Edit, or add a variation" }
                    }
                    @if is(&["running", "paused"]) { a.button href=(self.ask("conclude", "")) { "Conclude" } }
                    @if is(&["running", "paused", "concluded"]) { a.button.danger href=(self.ask("restart", "")) { "Restart" } }
                    @if is(&["draft", "concluded"]) { a.button.danger href=(self.ask("archive", "")) { "Archive" } }
                    @if !is(&["archived"]) {
                        @if self.killed { a.button.primary href=(self.ask("restore", "")) { "Restore the experiment" } }
                        @else { a.button.danger href=(self.ask("kill", "")) { "Kill the experiment" } }
                    }
                    a.button href={ "/new?from=" (self.key) } { "Copy" }
                }
                @if !is(&["draft", "archived"]) {
                    div.scroll tabindex="0" role="region" aria-label="Variations" {
                        table.variations {
                            caption { "Variations, with what can be done to each" }
                            thead { tr { th scope="col" { "Variation" } th scope="col" { "Share" } th scope="col" { "State" } th scope="col" { "Do" } } }
                            tbody {
                                @for (i, arm) in self.arms.iter().enumerate() {
                                    tr {
                                        th scope="row" { (arm.name) }
                                        td { (number(arm.share, Format::Percent2)) }
                                        td.state { (self.served(i, arm)) }
                                        td {
                                            @if i > 0 {
                                                @if is(&["running", "paused"]) && !arm.killed {
                                                    a.button.small href=(self.ask("grow", &arm.name)) aria-label={ "Grow " (arm.name) } { "Grow" } " "
                                                }
                                                @if arm.killed { a.button.small href=(self.ask("restore", &arm.name)) aria-label={ "Restore " (arm.name) } { "Restore" } }
                                                @else { a.button.small.danger href=(self.ask("kill", &arm.name)) aria-label={ "Kill " (arm.name) } { "Kill" } }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What becomes of those who live on an arm's part of the line.
    fn served(&self, index: usize, arm: &Arm) -> &'static str {
        let is_shipped = self.shipped.as_ref() == Some(&arm.name);
        match (index, &self.shipped) {
            (1.., _) if arm.killed => "killed",
            (1.., _) if self.killed => "serves control: the experiment is killed",
            (0, Some(_)) if is_shipped => "control, served to everybody",
            (_, Some(_)) if is_shipped => "served to everybody",
            (0, _) => "control",
            (_, Some(_)) => "not served: the experiment is concluded",
            (_, None) => "served",
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

    fn declaration(&self) -> Markup {
        html! {
            section aria-labelledby="declared-title" {
                h2 id="declared-title" { "As declared" }
                dl.declared {
                    div { dt { "Unit" } dd { code { (self.unit) } } }
                    div { dt { "Audience" } dd { @if self.audience.is_empty() { "everybody" } @else { code { (self.audience) } } } }
                    div { dt { "Policy" } dd { (self.policy) } }
                    div { dt { "Lifetime" } dd { (self.lifetime) } }
                    @for (who, arm) in &self.overrides { div { dt { "Pinned to " (arm) } dd { code { (who) } } } }
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

impl Done {
    fn render(&self) -> Markup {
        let waiting = self.clients - self.reached.min(self.clients);
        html! {
            p.notice role="status" {
                (self.what) " "
                @if self.clients == 0 { "No client is connected." }
                @else if self.clients == 1 {
                    @if waiting > 0 { "The one client that is connected does not have it yet." }
                    @else {
                        "The one client that is connected has it"
                        @if let Some(slowest) = self.slowest_ms { " after " (number(slowest, Format::Num2)) " ms" }
                        "."
                    }
                }
                @else if waiting == 0 {
                    "All " (number(self.clients as f64, Format::Int)) " connected clients have it"
                    @if let (Some(half), Some(slowest)) = (self.typical_ms, self.slowest_ms) {
                        ": half of them within " (number(half, Format::Num2)) " ms, the slowest after " (number(slowest, Format::Num2)) " ms"
                    }
                    "."
                }
                @else {
                    (number(self.reached as f64, Format::Int)) " of " (number(self.clients as f64, Format::Int)) " connected clients have it so far."
                }
            }
        }
    }
}

/// A lift with its interval, in words that fit a table.
pub(crate) fn lift_words(lift: &Interval) -> Markup {
    html! {
        span.lift { (number(lift.estimate, Format::SignedPercent1)) }
        " " span.range { (number(lift.low, Format::SignedPercent1)) " to " (number(lift.high, Format::SignedPercent1)) }
    }
}
