//! The overview page: all experiments, those with warnings first, and stale flags.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use crate::chart::{Bucket, small_allocation_bar};
use crate::format::{NumberFormat, RateBasis, counted, instant, number};
use crate::layout::{live_part, state_badge};
use crate::pager::{PAGE_SIZE, Pager};

/// The filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Text in the key or description, case-insensitive.
    pub text: String,
    /// A tag.
    pub tag: String,
    /// An owner.
    pub owner: String,
    /// A state, or `killed`, `stale` or `alarm`.
    pub state: String,
    /// Start of the key.
    pub prefix: String,
}

/// How an experiment was concluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowConclusion {
    /// A variation was shipped.
    Shipped {
        /// Its key.
        variation: String,
        /// Whether only units in the audience get it.
        within_audience: bool,
        /// Whether all units get control instead, because the variation or the whole experiment is killed.
        is_killed: bool,
    },
    /// All units get control again.
    RolledBack {
        /// Key of control.
        control: String,
    },
}

/// One experiment in the list.
#[derive(Debug, Clone)]
pub struct Row {
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
    /// Whether the whole experiment is killed.
    pub killed: bool,
    /// Keys of the variations, control first.
    pub names: Vec<String>,
    /// Buckets.
    pub buckets: Vec<Bucket>,
    /// Whether each variation is killed.
    pub killed_arms: Vec<bool>,
    /// How it was concluded; none before that.
    pub conclusion: Option<RowConclusion>,
    /// Variation with the highest probability to be best, and that probability; none if it is too early or nothing is
    /// compared.
    pub leader: Option<(String, f64)>,
    /// Traffic share that control can still give; none if nothing can grow.
    pub headroom: Option<f64>,
    /// Exposures per minute, see [`OverviewPage::rate_basis`].
    pub exposures_per_minute: f64,
    /// Distinct units exposed so far; none while that is being computed.
    pub units: Option<u64>,
    /// Time of creation, by the wall clock.
    pub created_at: Timestamp,
    /// Whole days since the creation.
    pub age_days: u64,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Why the flag is stale; none if it is not.
    pub stale: Option<String>,
}

/// The overview page.
#[derive(Debug, Clone)]
pub struct OverviewPage {
    /// The filter in effect.
    pub filter: Filter,
    /// Experiments on this page, of those that match the filter.
    pub rows: Vec<Row>,
    /// The page among those that match the filter.
    pub pager: Pager,
    /// Number of all experiments.
    pub total: usize,
    /// All tags.
    pub tags: Vec<String>,
    /// All owners.
    pub owners: Vec<String>,
    /// What the exposures per minute are measured over.
    pub rate_basis: RateBasis,
}

/// The values of the state filter, with their labels.
const STATES: [(&str, &str); 8] = [
    ("draft", "draft"),
    ("running", "running"),
    ("paused", "paused"),
    ("concluded", "concluded"),
    ("archived", "archived"),
    ("killed", "killed"),
    ("alarm", NEEDS_ATTENTION),
    ("stale", "stale"),
];
/// The most values of a filter that are offered as a list; with more, the value is typed.
const MAX_OPTIONS: usize = 200;
/// The label of experiments with warnings.
const NEEDS_ATTENTION: &str = "needs attention";

impl OverviewPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self) -> Markup {
        html! {
            div.headline {
                h1 { "Experiments" }
                a.button.primary href="/new" { "New experiment" }
            }
            (self.filter_form())
            (live_part("experiments", &self.list()))
        }
    }

    fn filter_form(&self) -> Markup {
        let choose = |name: &str, label: &str, chosen: &str, values: &mut dyn Iterator<Item = (&str, &str)>| {
            let values: Vec<_> = values.take(MAX_OPTIONS + 1).collect();
            html! {
                label { span { (label) }
                    // A longer list would be slow to load and to search.
                    @if values.len() > MAX_OPTIONS {
                        input name=(name) value=(chosen) placeholder="any";
                    } @else {
                        select name=(name) {
                            option value="" { "any" }
                            @for (value, label) in values { option value=(value) selected[value == chosen] { (label) } }
                        }
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
                (choose("tag", "Tag", &filter.tag, &mut same_label(&self.tags)))
                (choose("owner", "Owner", &filter.owner, &mut same_label(&self.owners)))
                button { "Filter" }
            }
        }
    }

    fn list(&self) -> Markup {
        if self.total == 0 {
            return html! {
                div.empty {
                    h2 { "No experiments yet" }
                    p { "Create the first one here, or define it in a file and run " code { "inroad apply -f FILE" } "." }
                    p { a.button.primary href="/new" { "New experiment" } }
                }
            };
        }
        let stale: Vec<_> = self.rows.iter().filter_map(|row| Some((row, row.stale.as_ref()?))).collect();
        let filter = &self.filter;
        let query = [
            ("q", filter.text.as_str()),
            ("prefix", &filter.prefix),
            ("state", &filter.state),
            ("tag", &filter.tag),
            ("owner", &filter.owner),
        ];
        html! {
            p.count {
                @if self.pager.total() > PAGE_SIZE { (self.pager.count()) "; " }
                (number(self.pager.total() as f64, NumberFormat::Int)) " of " (counted(self.total as u64, "experiment"))
            }
            @if self.rows.is_empty() {
                div.empty { h2 { "No matches" } p { a href="/" { "Show all experiments" } } }
            }
            ul.experiments { @for row in &self.rows { (experiment(row, self.rate_basis)) } }
            (self.pager.links("/", &query))
            @if !stale.is_empty() {
                section aria-labelledby="stale" {
                    h2 id="stale" { "Stale flags" }
                    p.lead { "Temporary flags that have not changed for two weeks. Remove them from your code." }
                    ul.plain { @for (row, why) in stale { li { a href={ "/experiments/" (row.key) } { (row.key) } ": " (why) } } }
                    @if self.pager.total() > PAGE_SIZE { p { a href="/?state=stale" { "Show all stale flags" } } }
                }
            }
        }
    }
}

/// Filter values that are their own labels.
fn same_label(values: &[String]) -> impl Iterator<Item = (&str, &str)> {
    values.iter().map(|value| (value.as_str(), value.as_str()))
}

fn experiment(row: &Row, rate_basis: RateBasis) -> Markup {
    html! {
        li.experiment {
            div.title {
                a.name href={ "/experiments/" (row.key) } { (row.key) }
                " " (state_badge(row.state, row.killed))
                @if row.stale.is_some() { " " span.badge.stale { "stale" } }
                @if !row.warnings.is_empty() { " " span.badge.alarm title=(row.warnings.join("; ")) { (NEEDS_ATTENTION) } }
            }
            @if !row.description.is_empty() { p.about { (row.description) } }
            (small_allocation_bar(&row.names, &row.buckets, &row.killed_arms))
            dl.facts {
                @match &row.conclusion {
                    Some(RowConclusion::Shipped { variation, within_audience, is_killed }) => {
                        div { dt { "Shipped" } dd {
                            (variation)
                            @if *is_killed { ", but it is killed: all units get control" }
                            @else if *within_audience { ", to units in the audience" }
                            @else { ", to all units" }
                        } }
                    }
                    Some(RowConclusion::RolledBack { control }) => {
                        div { dt { "Rolled back" } dd { "to " (control) ", for all units" } }
                    }
                    None => {
                        div { dt { "Leader" } dd {
                            @match &row.leader {
                                Some((name, p)) => { (name) ", " (number(*p, NumberFormat::Probability)) " probability of being best" }
                                None => { @if row.units.is_some() || row.state == "draft" { "–" } @else { "…" } }
                            }
                        } }
                    }
                }
                div { dt { "Control traffic still available" } dd { @match row.headroom { Some(share) => (number(share, NumberFormat::Percent1)), None => "–" } } }
                div { dt { "Exposures " (rate_basis.after_a_count()) } dd { (number(row.exposures_per_minute, NumberFormat::Int)) } }
                div { dt { "Exposed units" } dd { @match row.units { Some(units) => (number(units as f64, NumberFormat::Int)), None => "…" } } }
                div { dt { "Owner" } dd { @if row.owner.is_empty() { "–" } @else { (row.owner) } } }
                div { dt { "Created" } dd { @if row.age_days == 0 { "today" } @else { (counted(row.age_days, "day")) " ago" } span.unseen { ", at " (instant(row.created_at)) } } }
            }
            @for warning in &row.warnings { p.alarm { (warning) } }
            @if !row.tags.is_empty() {
                p.tags { @for tag in &row.tags { a.tag href={ "/?tag=" (crate::form::url_encode(tag)) } { (tag) } " " } }
            }
        }
    }
}
