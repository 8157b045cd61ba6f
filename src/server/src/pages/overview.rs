//! The overview page: all experiments that match the filter. A list that is already rendered is sent at once; only rendering
//! takes a turn ([`crate::queries`]).

pub(super) mod rendered_lists;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use inroad_assignment::{Arm, Experiment, ExperimentKey, Status, Timestamp};
use inroad_dashboard::form::Form;
use inroad_dashboard::layout::NavItem;
use inroad_dashboard::overview::{Filter, OverviewPage, Row, RowConclusion};
use inroad_dashboard::pager::Pager;
use inroad_store::Event;

use self::rendered_lists::{ListInputs, RenderedList, time_step};
use super::access::Caller;
use super::allocation::{ShownAllocation, is_within_audience};
use super::summaries::ExperimentSummary;
use super::{PageResponse, Pages, PagesState, error_response};
use crate::catalogue::{CatalogueEntry, CatalogueState};
use crate::ended_run::{Conclusion, conclusion, shipped_now};
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
    let request = ListRequest {
        filter,
        page: query.text("page").to_owned(),
        is_first_load: !headers.contains_key("inroad-part"),
    };
    let list = match request.kept(&pages, &request.inputs(&pages)) {
        Some(list) => Ok(list),
        None => pages.shared.views.run_in_parts(render(Arc::clone(&pages), request)).await.flatten(),
    };
    match list {
        Ok(list) => PageResponse::new("Experiments", NavItem::Overview, list.to_markup())
            .with_live_updates("scope=overview")
            .send(&caller),
        Err(error) => error_response(&caller, error),
    }
}

/// A list that a page asks for.
struct ListRequest {
    filter: Filter,
    /// The number of the page.
    page: String,
    /// Whether a person opens the page, and not the page itself.
    is_first_load: bool,
}

impl ListRequest {
    /// What the list is rendered from now.
    fn inputs(&self, pages: &Pages) -> ListInputs {
        let shared = &pages.shared;
        ListInputs {
            filter: self.filter.clone(),
            page: self.page.clone(),
            version: shared.catalogue.peek().version,
            round: pages.summaries.round(),
            step: time_step(shared.clock.now()),
        }
    }

    /// The list, if another reader has rendered it and this one has nothing to wait for.
    fn kept(&self, pages: &Arc<Pages>, inputs: &ListInputs) -> Option<RenderedList> {
        let kept = pages.rendered_lists.get(inputs).filter(|list| list.is_complete || !self.is_first_load)?;
        if pages.rendered_lists.must_request_summaries(pages.shared.store.folded()) {
            let pages = Arc::clone(pages);
            // With thousands of experiments this takes milliseconds. Pages are told when the summaries are computed.
            tokio::task::spawn_blocking(move || drop(request_summaries(&pages, &pages.shared.catalogue.state())));
        }
        Some(kept)
    }
}

async fn render(pages: Arc<Pages>, request: ListRequest) -> Result<RenderedList, ServerError> {
    if request.is_first_load && !request_summaries(&pages, &pages.shared.catalogue.state()).1 {
        pages.summaries.wait_until_computed(SUMMARY_TIMEOUT).await;
    }
    let inputs = request.inputs(&pages);
    // Another reader may have rendered it while this one waited for its turn.
    if let Some(list) = request.kept(&pages, &inputs) {
        return Ok(list);
    }
    let (page, is_complete) = list_experiments(&pages, request).await?;
    let list = RenderedList::new(&page.render(), is_complete);
    pages.rendered_lists.keep(inputs, list.clone());
    Ok(list)
}

/// The known summaries of all experiments, and whether all are current. Those that are not are computed.
fn request_summaries(pages: &Pages, state: &CatalogueState) -> (Vec<Option<Arc<ExperimentSummary>>>, bool) {
    let folded = pages.shared.store.folded();
    let mut all_current = true;
    let summary = |(key, entry): (&ExperimentKey, &CatalogueEntry)| {
        let summary = pages.summaries.get(key, entry, folded);
        all_current &= summary.as_ref().is_some_and(|summary| summary.is_current(entry, folded));
        summary
    };
    (state.entries.iter().map(summary).collect(), all_current)
}

/// The experiments that match, and whether all summaries are current.
async fn list_experiments(pages: &Pages, request: ListRequest) -> Result<(OverviewPage, bool), ServerError> {
    let (shared, ListRequest { filter, page, .. }) = (&pages.shared, request);
    let (state, now) = (shared.catalogue.state(), shared.clock.now());
    let keys = state.entries.keys().enumerate().map(|(i, key)| (key.as_str(), i));
    let index: HashMap<&str, usize, foldhash::fast::FixedState> = keys.collect();
    let exposed_experiment = |event: &Event| match event {
        Event::Exposure(exposure) => index.get(exposure.experiment.as_str()).copied(),
        Event::Outcome(_) => None,
    };
    let (rates, rate_basis) = shared.recent_events.rates_per_minute(exposed_experiment, index.len()).await?;
    let (summaries, all_current) = request_summaries(pages, &state);
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
    let pager = Pager::new(&page, matching.len());
    let shown = matching.get(pager.range()).unwrap_or_default();
    let rows = shown.iter().map(|candidate| row(candidate, now)).collect();
    let tags = tags.into_iter().cloned().collect();
    let owners = owners.into_iter().map(str::to_owned).collect();
    let total = state.entries.size();
    Ok((OverviewPage { filter, rows, pager, total, tags, owners, rate_basis }, all_current))
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
                is_killed: shipped_now(experiment, how).is_none(),
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
