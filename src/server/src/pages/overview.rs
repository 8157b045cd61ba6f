//! The overview page: all experiments that match the filter.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use inroad_assignment::{Arm, Experiment, Status, Timestamp};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::overview::{Filter, OverviewPage, Row, RowConclusion};
use inroad_dashboard::pager::Pager;
use inroad_store::Event;

use super::access::Caller;
use super::allocation::{ShownAllocation, is_within_audience};
use super::summaries::ExperimentSummary;
use super::{PageResponse, Pages, PagesState, error_response};
use crate::catalogue::CatalogueEntry;
use crate::ended_run::{Conclusion, conclusion};
use crate::error::ServerError;

/// How long the first page load waits for missing and outdated summaries. Later ones arrive by live updates.
const SUMMARY_TIMEOUT: Duration = Duration::from_millis(25);
const DAY: Duration = Duration::from_secs(86_400);
/// A temporary flag is stale when all units have had the same variation for this long.
const STALE_AFTER: Duration = Duration::from_secs(14 * 86_400);

/// `GET /`
pub(super) async fn page(
    State(pages): PagesState,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Form::parse(query.unwrap_or_default().as_bytes());
    let filter = Filter {
        text: query.text("q").to_owned(),
        tag: query.text("tag").to_owned(),
        owner: query.text("owner").to_owned(),
        state: query.text("state").to_owned(),
        prefix: query.text("prefix").to_owned(),
    };
    let is_first_load = !headers.contains_key("inroad-part");
    match list_experiments(&pages, filter, query.text("page"), is_first_load).await {
        Ok(page) => PageResponse::new("Experiments", NavItem::Overview, page.render())
            .with_live_updates("scope=overview")
            .send(&caller),
        Err(error) => error_response(&caller, error),
    }
}

async fn list_experiments(
    pages: &Arc<Pages>,
    filter: Filter,
    page: &str,
    is_first_load: bool,
) -> Result<OverviewPage, ServerError> {
    let shared = &pages.shared;
    let (state, folded) = (shared.catalogue.state(), shared.store.folded());
    let now = shared.clock.now();
    let index: HashMap<&str, usize> = state.entries.keys().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
    let exposed_experiment = |event: &Event| match event {
        Event::Exposure(exposure) => index.get(exposure.experiment.as_str()).copied(),
        Event::Outcome(_) => None,
    };
    let (rates, rate_basis) = shared.recent_events.rates_per_minute(exposed_experiment, index.len()).await?;
    let mut summaries: Vec<_> =
        state.entries.iter().map(|(key, entry)| pages.summaries.get(key, entry, folded)).collect();
    let is_current = |(summary, entry): (&Option<Arc<ExperimentSummary>>, &CatalogueEntry)| {
        summary.as_ref().is_some_and(|summary| summary.is_current(entry, folded))
    };
    if is_first_load && !summaries.iter().zip(state.entries.values()).all(is_current) {
        pages.summaries.wait_until_computed(SUMMARY_TIMEOUT).await;
        summaries = state.entries.iter().map(|(key, entry)| pages.summaries.get(key, entry, folded)).collect();
    }
    let (mut tags, mut owners, mut matching) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let all = state.entries.values().zip(summaries).zip(rates);
    for ((entry, summary), rate) in all {
        let candidate = Candidate::new(entry, summary, rate, now);
        let definition = &entry.experiment.definition;
        tags.extend(definition.tags());
        owners.extend(Some(definition.owner()).filter(|owner| !owner.is_empty()));
        if candidate.matches(&filter) {
            matching.push(candidate);
        }
    }
    matching.sort_by_key(Candidate::order);
    let pager = Pager::new(page, matching.len());
    let shown = matching.get(pager.range()).unwrap_or_default();
    let rows = shown.iter().map(|candidate| row(candidate, now)).collect();
    let tags = tags.into_iter().cloned().collect();
    let owners = owners.into_iter().map(str::to_owned).collect();
    Ok(OverviewPage { filter, rows, pager, total: state.entries.size(), tags, owners, rate_basis })
}

/// An experiment that may be on the page, with what filters and the order need. The rest is computed for one page only.
struct Candidate<'a> {
    entry: &'a CatalogueEntry,
    summary: Option<Arc<ExperimentSummary>>,
    exposures_per_minute: f64,
    stale: Option<String>,
}

impl<'a> Candidate<'a> {
    fn new(
        entry: &'a CatalogueEntry,
        summary: Option<Arc<ExperimentSummary>>,
        exposures_per_minute: f64,
        now: Timestamp,
    ) -> Self {
        let experiment = &entry.experiment;
        // Changes of what is served have times of the experiment's clock; edits of a draft, of the wall clock.
        let now = if experiment.generation().is_some() { experiment.now(now) } else { now };
        let changed_at = summary.as_ref().and_then(|summary| summary.changed_at);
        let stale = changed_at.and_then(|at| stale_reason(experiment, at, now));
        Self { entry, summary, exposures_per_minute, stale }
    }

    fn has_warnings(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| !summary.warnings.is_empty())
    }

    /// Experiments with warnings come first, then by state.
    fn order(&self) -> (bool, usize) {
        let state = self.entry.experiment.status.name();
        let state = ["running", "paused", "draft", "concluded"].iter().position(|s| *s == state).unwrap_or(9);
        (!self.has_warnings(), state)
    }

    fn matches(&self, filter: &Filter) -> bool {
        let experiment = &self.entry.experiment;
        let definition = &experiment.definition;
        let (key, text) = (definition.key().as_str(), filter.text.to_lowercase());
        let has_text =
            text.is_empty() || key.contains(&text) || definition.description().to_lowercase().contains(&text);
        let state = match filter.state.as_str() {
            // Archived experiments are shown only in searches by text or prefix.
            "" => experiment.status.name() != "archived" || !filter.prefix.is_empty() || !filter.text.is_empty(),
            "killed" => {
                let arms = (1..definition.variations().len()).filter_map(Arm::new);
                experiment.kills.everything || arms.into_iter().any(|arm| experiment.kills.is_arm_killed(arm))
            }
            "alarm" => self.has_warnings(),
            "stale" => self.stale.is_some(),
            state => experiment.status.name() == state,
        };
        let tag = filter.tag.is_empty() || definition.tags().contains(&filter.tag);
        let owner = filter.owner.is_empty() || definition.owner() == filter.owner;
        has_text && state && tag && owner && key.starts_with(&filter.prefix)
    }
}

fn row(candidate: &Candidate<'_>, now: Timestamp) -> Row {
    let experiment = &candidate.entry.experiment;
    let summary = candidate.summary.as_deref();
    let definition = &experiment.definition;
    let names: Vec<String> = definition.variations().iter().map(|v| v.key.to_string()).collect();
    let arms = (0..names.len()).filter_map(Arm::new);
    Row {
        key: definition.key().to_string(),
        description: definition.description().to_owned(),
        owner: definition.owner().to_owned(),
        tags: definition.tags().to_vec(),
        state: experiment.status.name(),
        killed: experiment.kills.everything,
        buckets: ShownAllocation::newest(experiment).buckets(),
        killed_arms: arms.map(|arm| !arm.is_control() && experiment.kills.served_arm(arm).is_control()).collect(),
        conclusion: conclusion(experiment).map(|how| match how {
            Conclusion::Shipped(arm) => RowConclusion::Shipped {
                variation: names.get(arm.index()).cloned().unwrap_or_default(),
                within_audience: is_within_audience(experiment, arm),
            },
            Conclusion::RolledBack => RowConclusion::RolledBack { control: names.first().cloned().unwrap_or_default() },
        }),
        leader: summary.and_then(|s| s.leader).and_then(|(arm, p)| Some((names.get(arm)?.clone(), p))),
        headroom: matches!(experiment.status, Status::Running | Status::Paused)
            .then(|| experiment.latest_allocation().headroom(definition.policy().floor()).share()),
        exposures_per_minute: candidate.exposures_per_minute,
        units: summary.map(|s| s.units),
        created_at: experiment.created_at,
        age_days: now.since(experiment.created_at).as_secs() / DAY.as_secs(),
        warnings: summary.map(|s| s.warnings.clone()).unwrap_or_default(),
        stale: candidate.stale.clone(),
        names,
    }
}

/// Why a flag is stale; none if it is not.
fn stale_reason(experiment: &Experiment, changed_at: Timestamp, now: Timestamp) -> Option<String> {
    if !experiment.is_temporary() || now.since(changed_at) < STALE_AFTER {
        return None;
    }
    let name = |arm: Arm| experiment.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let days = now.since(changed_at).as_secs() / DAY.as_secs();
    match experiment.status {
        Status::Concluded { shipped } => {
            let units = if is_within_audience(experiment, shipped) { "All units in the audience" } else { "All units" };
            let since = if shipped.is_control() { "it was rolled back" } else { "it was concluded" };
            Some(format!("{units} have had {} for {days} days, since {since}.", name(shipped)))
        }
        Status::Running | Status::Paused if experiment.kills.everything => {
            Some(format!("All units have had {} for {days} days, since it was killed.", name(Arm::CONTROL)))
        }
        Status::Running | Status::Paused => {
            let allocation = experiment.latest_allocation();
            let arms = (0..experiment.definition.variations().len()).filter_map(Arm::new);
            let served: BTreeSet<Arm> = arms
                .filter(|arm| allocation.width_of(*arm).get() > 0)
                .map(|arm| experiment.kills.served_arm(arm))
                .collect();
            let only = served.first().filter(|_| served.len() == 1)?;
            Some(format!("All units have had {} for {days} days.", name(*only)))
        }
        Status::Draft => Some(format!("This draft has not been edited for {days} days.")),
        Status::Archived { .. } => None,
    }
}
