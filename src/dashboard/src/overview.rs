//! Every experiment at a glance, the ones in trouble and the flags that nobody needs any more.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::chart::text::{Format, counted, instant, number};
use crate::chart::{Bucket, strip_small};
use crate::shell::{live_part, state_badge};

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In keys and descriptions, whatever the case.
    pub text: String,
    /// A tag.
    pub tag: String,
    /// An owner.
    pub owner: String,
    /// A state, or "killed", "stale" or "alarm".
    pub state: String,
    /// The start of the key.
    pub prefix: String,
}

/// One experiment.
#[derive(Debug, Clone)]
pub struct Row {
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
    /// Whether the whole of it is killed.
    pub killed: bool,
    /// Variations' names, control first.
    pub names: Vec<String>,
    /// The line.
    pub buckets: Vec<Bucket>,
    /// By variation.
    pub killed_arms: Vec<bool>,
    /// Who is probably best, and how probably; none where nothing is compared, or not yet.
    pub leader: Option<(String, f64)>,
    /// What control can still give, as a share of the line; none where nothing can grow.
    pub headroom: Option<f64>,
    /// Exposures in the last minute.
    pub exposures_per_minute: f64,
    /// Units counted so far; none while that is being found out.
    pub units: Option<u64>,
    /// When it was created, by the wall's clock.
    pub created_at: Timestamp,
    /// Whole days since.
    pub age_days: u64,
    /// What somebody should look at.
    pub alarms: Vec<String>,
    /// Why it may be taken out of the code; none if it may not.
    pub stale: Option<String>,
}

/// The page.
#[derive(Debug, Clone)]
pub struct Overview {
    /// What was asked for.
    pub filter: Filter,
    /// What fits.
    pub rows: Vec<Row>,
    /// How many there are.
    pub total: usize,
    /// Every tag there is.
    pub tags: Vec<String>,
    /// Every owner there is.
    pub owners: Vec<String>,
}

const STATES: [&str; 8] = ["draft", "running", "paused", "concluded", "archived", "killed", "alarm", "stale"];

impl Overview {
    /// The page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            div.headline {
                h1 { "Experiments" }
                a.button.primary href="/new" { "New experiment" }
            }
            (self.search())
            (live_part("experiments", &self.list()))
        }
    }

    fn search(&self) -> Markup {
        let choose = |name: &str, label: &str, chosen: &str, of: &mut dyn Iterator<Item = &str>| {
            html! {
                label { span { (label) }
                    select name=(name) {
                        option value="" { "any" }
                        @for value in of { option value=(value) selected[value == chosen] { (value) } }
                    }
                }
            }
        };
        let filter = &self.filter;
        html! {
            form.filters method="get" action="/" role="search" {
                label.wide { span { "Search" } input type="search" name="q" value=(filter.text) placeholder="key or description"; }
                label { span { "Key starts with" } input name="prefix" value=(filter.prefix) placeholder="sales."; }
                (choose("state", "State", &filter.state, &mut STATES.into_iter()))
                (choose("tag", "Tag", &filter.tag, &mut self.tags.iter().map(String::as_str)))
                (choose("owner", "Owner", &filter.owner, &mut self.owners.iter().map(String::as_str)))
                button { "Filter" }
            }
        }
    }

    fn list(&self) -> Markup {
        if self.total == 0 {
            return html! {
                div.empty {
                    h2 { "No experiment yet" }
                    p { "Create the first one here, or declare it in a file and run " code { "inroad apply -f FILE" } "." }
                    p { a.button.primary href="/new" { "New experiment" } }
                }
            };
        }
        let stale: Vec<_> = self.rows.iter().filter_map(|row| Some((row, row.stale.as_ref()?))).collect();
        html! {
            p.count { (number(self.rows.len() as f64, Format::Int)) " of " (counted(self.total as u64, "experiment")) }
            @if self.rows.is_empty() {
                div.empty { h2 { "Nothing fits" } p { a href="/" { "Show all of them" } } }
            }
            ul.experiments { @for row in &self.rows { (experiment(row)) } }
            @if !stale.is_empty() {
                section aria-labelledby="stale" {
                    h2 id="stale" { "Flags to take out of the code" }
                    ul.plain { @for (row, why) in stale { li { a href={ "/experiments/" (row.key) } { (row.key) } ": " (why) } } }
                }
            }
        }
    }
}

fn experiment(row: &Row) -> Markup {
    html! {
        li.experiment {
            div.title {
                a.name href={ "/experiments/" (row.key) } { (row.key) }
                " " (state_badge(row.state, row.killed))
                @if row.stale.is_some() { " " span.badge.stale { "stale" } }
                @if !row.alarms.is_empty() { " " span.badge.alarm title=(row.alarms.join("; ")) { "look here" } }
            }
            @if !row.description.is_empty() { p.about { (row.description) } }
            (strip_small(&row.names, &row.buckets, &row.killed_arms))
            dl.facts {
                div { dt { "Leads" } dd {
                    @match &row.leader {
                        Some((name, p)) => { (name) ", " (number(*p, Format::Percent0)) " best" }
                        None => { @if row.units.is_some() || row.state == "draft" { "–" } @else { "…" } }
                    }
                } }
                div { dt { "Headroom" } dd { @match row.headroom { Some(share) => (number(share, Format::Percent0)), None => "–" } } }
                div { dt { "Exposures" } dd { (number(row.exposures_per_minute, Format::Int)) " / min" } }
                div { dt { "Units" } dd { @match row.units { Some(units) => (number(units as f64, Format::Int)), None => "…" } } }
                div { dt { "Owner" } dd { @if row.owner.is_empty() { "–" } @else { (row.owner) } } }
                div { dt { "Age" } dd title="since it was created" { (number(row.age_days as f64, Format::Int)) " d" span.unseen { ", since " (instant(row.created_at)) } } }
            }
            @for alarm in &row.alarms { p.alarm { (alarm) } }
            @if !row.tags.is_empty() {
                p.tags { @for tag in &row.tags { a.tag href={ "/?tag=" (crate::form::encode(tag)) } { (tag) } " " } }
            }
        }
    }
}
